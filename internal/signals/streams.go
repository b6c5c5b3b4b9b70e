package signals

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"net/url"
	"path"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/outbox"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// Delivery methods, and statuses of a stream (SSF 1.0 sections 6 and 8.1.2).
const (
	push = "urn:ietf:rfc:8935"
	poll = "urn:ietf:rfc:8936"

	enabled  = "enabled"
	paused   = "paused"
	disabled = "disabled"
)

// Receiving is a receiver that the tenant declares.
type Receiving struct {
	Name  string // also the audience of its events
	Push  string // its stream may be pushed to addresses that begin with it; "" for none
	Local bool   // which may be loopback or private ones
	Roots string // PEM; "" means the machine's
}

// kindStream is the object kind of a Stream; the id is its own.
const kindStream = "stream"

// Stream is how one receiver gets events. There is one a receiver.
type Stream struct {
	ID          string   `json:"id"`
	Receiver    string   `json:"receiver"`
	Method      string   `json:"method"`
	Endpoint    string   `json:"endpoint,omitempty"`
	Sealed      []byte   `json:"sealed,omitempty"` // the Authorization header of deliveries
	Requested   []string `json:"requested,omitempty"`
	Description string   `json:"description,omitempty"`
	Status      string   `json:"status"`
	Reason      string   `json:"reason,omitempty"`
	// Next is the first record that is not delivered yet.
	Next     int64     `json:"next"`
	Verified time.Time `json:"verified,omitzero"` // when a verification was asked for last
}

func (st Stream) wants(event string) bool {
	return st.Requested == nil || slices.Contains(st.Requested, event)
}

// Sender is the transmitter of one tenant. Its functions are the tenant's.
type Sender struct {
	Log  record.Log
	Head func(context.Context) (int64, error) // records in the log
	Seal record.Sealer
	URL  string // the issuer's
	// Subject is the SPIFFE ID that a task has or had, or without a task the agent.
	Subject func(ctx context.Context, agent, task string) (string, error)
	Sign    func(ctx context.Context, claims any) (string, error)
	// Authenticate says which receiver shows a token. Any error is a 401.
	Authenticate func(ctx context.Context, token string) (Receiving, error)
	// Declared is a receiver as it is declared now.
	Declared func(name string) (Receiving, bool)

	mu   sync.Mutex
	live map[string]*live
}

// live is what is known of a stream in this process; all of it can be lost.
type live struct {
	outbox.Place                 // locked while events of the stream are read and answered
	acked        map[string]bool // said to be there, out of order
}

func (s *Sender) of(id string) *live {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.live == nil {
		s.live = map[string]*live{}
	}
	if s.live[id] == nil {
		s.live[id] = &live{acked: map[string]bool{}}
	}
	return s.live[id]
}

// errNoStream: there is none of this name for this receiver.
var errNoStream = errors.New("no such stream")

func (s *Sender) streams(ctx context.Context) ([]Stream, error) {
	var out []Stream
	err := s.Log.View(ctx, func(tx record.Tx) error {
		out = nil
		return tx.List(kindStream, func(_ string, raw []byte) error {
			var st Stream
			err := json.Unmarshal(raw, &st)
			out = append(out, st)
			return err
		})
	})
	return out, err
}

// stream is a stream of this receiver; another's is none.
func (s *Sender) stream(ctx context.Context, r Receiving, id string) (Stream, error) {
	all, err := s.streams(ctx)
	if err != nil {
		return Stream{}, err
	}
	for _, st := range all {
		if st.ID == id && st.Receiver == r.Name {
			return st, nil
		}
	}
	return Stream{}, errNoStream
}

// errExists: a receiver has one stream.
var errExists = errors.New("the receiver has a stream")

// newStreamID is before anything is sealed for the stream.
func newStreamID() string { return strings.ToLower(rand.Text()) }

func (s *Sender) create(ctx context.Context, st Stream) (Stream, error) {
	head, err := s.Head(ctx)
	if err != nil {
		return st, err
	}
	st.Status, st.Next = enabled, head
	_, err = s.Log.Append(ctx, record.Draft{Type: "stream.created", Actor: "receiver:" + st.Receiver, Body: st.public(), Change: func(tx record.Tx) error {
		err := tx.List(kindStream, func(_ string, raw []byte) error {
			var other Stream
			if err := json.Unmarshal(raw, &other); err != nil {
				return err
			}
			if other.Receiver == st.Receiver {
				return errExists
			}
			return nil
		})
		if err != nil {
			return err
		}
		return tx.Put(kindStream, st.ID, st)
	}})
	return st, err
}

// public is the stream without what is sealed.
func (st Stream) public() Stream {
	st.Sealed = nil
	return st
}

// change alters a stream with the record of it.
func (s *Sender) change(ctx context.Context, typ, actor, id string, body any, f func(*Stream) error) (Stream, error) {
	var st Stream
	_, err := s.Log.Append(ctx, record.Draft{Type: typ, Actor: actor, Body: body, Change: func(tx record.Tx) error {
		st = Stream{}
		if err := tx.Get(kindStream, id, &st); err != nil {
			return errors.Join(errNoStream, err)
		}
		if err := f(&st); err != nil {
			return err
		}
		return tx.Put(kindStream, id, st)
	}})
	return st, err
}

func (s *Sender) remove(ctx context.Context, st Stream) error {
	_, err := s.Log.Append(ctx, record.Draft{Type: "stream.deleted", Actor: "receiver:" + st.Receiver, Body: map[string]any{"stream": st.ID},
		Change: func(tx record.Tx) error { return tx.Delete(kindStream, st.ID) }})
	s.mu.Lock()
	delete(s.live, st.ID)
	s.mu.Unlock()
	return err
}

// pending reads the events of a stream that are not delivered, at most so many of
// them. The caller holds the stream's live.
func (s *Sender) pending(ctx context.Context, st Stream, l *live, most int) ([]outgoing, error) {
	return outbox.Pending(ctx, s.Log, &l.Place, st.Next, most, func(e record.Entry) (outgoing, bool) { return s.derive(st, e) })
}

// sent is the body of signal.sent: the receiver has these, or refused them for
// what they are.
type sent struct {
	V        int               `json:"v"`
	Stream   string            `json:"stream"`
	Receiver string            `json:"receiver"`
	JTIs     []string          `json:"jtis"`
	Refused  map[string]string `json:"refused,omitempty"` // jti to the receiver's error code
	From     int64             `json:"from"`              // record of the first
	To       int64             `json:"to"`                // record of the last
}

// delivered moves the cursor behind what the receiver has.
func (s *Sender) delivered(ctx context.Context, st Stream, done []outgoing, refused map[string]string) (Stream, error) {
	b := sent{V: 1, Stream: st.ID, Receiver: st.Receiver, Refused: refused, From: done[0].seq, To: done[len(done)-1].seq}
	for _, o := range done {
		b.JTIs = append(b.JTIs, o.jti)
	}
	return s.change(ctx, "signal.sent", "sallyport", st.ID, b, func(now *Stream) error {
		now.Next = max(now.Next, b.To+1)
		return nil
	})
}

// below reports whether a stream's address is one that the tenant declares.
func (r Receiving) below(endpoint string) bool {
	u, err := url.Parse(endpoint)
	base, berr := url.Parse(r.Push)
	if err != nil || berr != nil || r.Push == "" || u.Scheme != "https" || u.Host != base.Host || u.User != nil || u.Fragment != "" || u.Opaque != "" ||
		u.RawPath != "" || u.Path != "" && path.Clean(u.Path) != strings.TrimSuffix(u.Path, "/") {
		return false
	}
	p := strings.TrimSuffix(base.Path, "/")
	return u.Path == base.Path || strings.HasPrefix(u.Path, p+"/")
}
