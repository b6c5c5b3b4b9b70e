package browser

import (
	"context"
	"fmt"
	"log/slog"
	"net/url"
	"time"

	"github.com/go-json-experiment/json"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/gate"
)

// dialogLimit is how long a question waits for a client of the protocol to say
// what becomes of it. The page stands still meanwhile.
const dialogLimit = 3 * time.Second

// Dialog is an alert, confirm, prompt or beforeunload question of a page.
// Message is written by the page.
type Dialog struct {
	Kind    string // alert, confirm, prompt, beforeunload
	Message string // at most 500 bytes
	URL     string // of the frame that asked
	Count   int    // how many there were in this browser so far, this one included
}

// question is a dialog that is open because a client may answer it.
type question struct {
	Dialog
	s     *session
	page  string        // target
	taken bool          // somebody answers; guarded by Browser.mu
	taker chan struct{} // closed when taken
}

// Dialog returns the last dialog, if there was one. Every dialog is dismissed:
// confirm answers no, a page that asks to stay stays. Only AcceptDialog, with a
// permit of the gate, answers otherwise.
func (b *Browser) Dialog() (Dialog, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.dialog, b.dialog.Count > 0
}

// onDialog dismisses a dialog: at once, or where a client of the protocol hears
// of it and may ask for more, when that client did not in time.
func (b *Browser) onDialog(m message) error {
	var p struct {
		URL     string `json:"url"`
		Message string `json:"message"`
		Type    string `json:"type"`
	}
	if err := json.Unmarshal(m.params, &p, lax); err != nil {
		return err
	}
	c := b.client.Load()
	b.mu.Lock()
	b.dialog = Dialog{Kind: p.Type, Message: clip(p.Message, 500), URL: clip(p.URL, 2000), Count: b.dialog.Count + 1}
	q := &question{Dialog: b.dialog, s: b.sessions[m.session], taker: make(chan struct{})}
	waits := c != nil && q.s != nil && p.Type != "alert" && c.hears(q.s.page().target)
	if waits {
		q.page = q.s.page().target
		b.questions[q.page] = q
	}
	b.changed()
	b.mu.Unlock()
	go func() {
		if waits {
			limit := time.NewTimer(dialogLimit)
			defer limit.Stop()
			select {
			case <-limit.C:
			case <-c.done:
			case <-q.taker:
			case <-b.life.Done():
			}
			if b.take(q) == nil { // who took it answers it
				return
			}
		}
		b.answer(b.life, m.session, false, "")
	}()
	return nil
}

// take makes the caller the one who answers q, or returns nil. A q of nil is
// refused.
func (b *Browser) take(q *question) *question {
	b.mu.Lock()
	defer b.mu.Unlock()
	if q == nil || q.taken {
		return nil
	}
	q.taken = true
	close(q.taker)
	if b.questions[q.page] == q {
		delete(b.questions, q.page)
	}
	return q
}

func (b *Browser) answer(ctx context.Context, session string, yes bool, text string) error {
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	params := obj{"accept": yes}
	if yes && text != "" {
		params["promptText"] = text
	}
	err := b.conn.call(ctx, session, "Page.handleJavaScriptDialog", params, nil)
	if err != nil {
		slog.Debug("answer a dialog", "error", err)
	}
	return err
}

// hears reports whether the client has a session on a page.
func (c *Client) hears(target string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, cs := range c.byID {
		if cs.target == target {
			return true
		}
	}
	return false
}

// TakeDialog gives the question that is open on a page to the caller, who must
// give it to AcceptDialog or DismissDialog. Until then the page stands still.
func (c *Client) TakeDialog(target string) (e action.Element, kind, message string, ref any, ok bool) {
	c.b.mu.Lock()
	q := c.b.questions[target]
	c.b.mu.Unlock()
	if q = c.b.take(q); q == nil {
		return e, "", "", nil, false
	}
	origin := "null"
	if u, err := url.Parse(q.URL); err == nil && u.Host != "" {
		origin = u.Scheme + "://" + u.Host
	}
	e = action.Element{FrameOrigin: origin, TopOrigin: origin, URL: q.URL, Tag: "dialog", Role: "dialog"}
	return e, q.Kind, q.Message, q, true
}

// DismissDialog answers no.
func (c *Client) DismissDialog(ref any) {
	if q, ok := ref.(*question); ok {
		c.b.answer(c.b.life, q.s.id, false, "")
	}
}

// AcceptDialog answers yes, with text where a prompt asks for it. It consumes p
// with digest first. What fails before that leaves the question to DismissDialog.
func (c *Client) AcceptDialog(ctx context.Context, ref any, p gate.Permit, digest action.Digest, text string) (state string, err error) {
	q, ok := ref.(*question)
	if !ok {
		return action.Failed, ErrInput
	}
	if err := p.Consume(digest); err != nil {
		return action.Failed, err
	}
	if err := ctx.Err(); err != nil {
		return action.Failed, err
	}
	if err := c.b.answer(ctx, q.s.id, true, text); err != nil {
		return action.Unknown, fmt.Errorf("%w: %w", ErrNotSeen, err)
	}
	return action.Done, nil
}
