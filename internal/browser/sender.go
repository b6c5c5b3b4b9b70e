package browser

import (
	"bytes"
	"context"
	"strings"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
)

const (
	// senderLimit is how long the browser's word of a request may come behind the
	// request itself: they take two ways.
	senderLimit = time.Second
	// senderAge is how long a request may stay in the browser after that word.
	senderAge = 10 * time.Second
	maxSent   = 512      // requests that are remembered
	maxTold   = 64 << 10 // bytes of a body that the browser tells; of a longer one it vouches for the address
)

// Sender is what the browser says of a request: not the page, which sets
// neither.
type Sender struct {
	Frame   string // whose document sent it, or is loaded by it
	Gesture bool   // that frame had input a moment ago (HTML, transient activation)
}

// sent is a request that the browser told of.
type sent struct {
	method, url string
	body        action.Digest // "" if there is none
	unknown     bool          // there is one, and the browser did not tell it
	at          time.Time
	who         Sender
}

func (s sent) is(r action.Request, url string) bool {
	return s.method == r.Method && s.url == url && (s.unknown || s.body == r.BodyDigest) && time.Since(s.at) < senderAge
}

// onRequest remembers what the browser says of a request. Documents and frames
// tell; workers are not asked, so that nobody vouches for theirs.
func (b *Browser) onRequest(m message) error {
	var p struct {
		Request struct {
			URL     string `json:"url"`
			Method  string `json:"method"`
			HasBody bool   `json:"hasPostData"`
			Body    []struct {
				Bytes []byte `json:"bytes"`
			} `json:"postDataEntries"`
		} `json:"request"`
		Frame   string `json:"frameId"`
		Gesture bool   `json:"hasUserGesture"`
	}
	if err := json.Unmarshal(m.params, &p, lax); err != nil {
		return err
	}
	x := sent{method: p.Request.Method, url: p.Request.URL, at: time.Now(), who: Sender{p.Frame, p.Gesture}}
	var body []byte
	for _, e := range p.Request.Body {
		body = append(body, e.Bytes...)
	}
	if len(body) > 0 {
		x.body = canon.Digest(body)
	} else {
		x.unknown = p.Request.HasBody
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if s := b.sessions[m.session]; s == nil || !s.guarded() {
		return nil
	}
	if len(b.sent) == maxSent {
		b.sent = append(b.sent[:0], b.sent[1:]...)
	}
	b.sent = append(b.sent, x)
	b.changed()
	return nil
}

// Sender takes the browser's word of a request that has come to the egress
// door, and waits for it. It is joined by method, address and body, so that of
// two requests each has its own; one word is for one request. There is none for
// what workers, service workers and the browser itself send. Where one of them
// sends the very same as the pressed frame, either may take the word: what is sent
// is the same.
func (b *Browser) Sender(ctx context.Context, r action.Request) (Sender, bool) {
	url := r.Origin + r.Path
	if r.Query != "" {
		url += "?" + r.Query
	}
	ctx, cancel := context.WithTimeout(ctx, senderLimit)
	defer cancel()
	var who Sender
	err := b.await(ctx, func() bool {
		for i, s := range b.sent {
			if s.is(r, url) {
				who = s.who
				b.sent = append(b.sent[:i], b.sent[i+1:]...)
				return true
			}
		}
		return false
	})
	return who, err == nil
}

// decisionField is the field by which the egress door marks an answer of its own.
var decisionField = []byte("sallyport-decision")

// onResponse remembers that a page's document is an answer of the egress door,
// which refused to ask for the real one. An application that says so of its own
// document has its pop-up closed, which it can do itself.
func (b *Browser) onResponse(m message) error {
	if !bytes.Contains(bytes.ToLower(m.params), decisionField) {
		return nil
	}
	var p struct {
		Loader   string `json:"loaderId"`
		Frame    string `json:"frameId"`
		Response struct {
			Headers map[string]string `json:"headers"`
		} `json:"response"`
	}
	if err := json.Unmarshal(m.params, &p, lax); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	s := b.sessions[m.session]
	if s == nil || s.kind != "page" || s.target != p.Frame {
		return nil
	}
	for name := range p.Response.Headers {
		if strings.EqualFold(name, string(decisionField)) {
			s.refusal = p.Loader
		}
	}
	return nil
}
