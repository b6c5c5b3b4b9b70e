package identity

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/record"
)

// refusedEvery is the least time between two identity.refused records about
// one caller's uid: a caller cannot fill the ledger by asking.
const refusedEvery = time.Second

// refusedBody is the body of identity.refused. It is about the caller as the
// kernel names it, in ids of this host.
type refusedBody struct {
	V     int    `json:"v"`
	Door  string `json:"door,omitempty"` // "token": at the token endpoint, where callers have no uid; else the Workload API
	Code  string `json:"code"`           // of the last refusal
	UID   uint32 `json:"uid"`
	PID   int32  `json:"pid"`   // of the last refusal
	Count int64  `json:"count"` // refusals since the last record about this uid or door, this one included
}

// caller is about whom refusals are counted: a uid at the Workload API, or all
// who come to a door of the network.
type caller struct {
	door string
	uid  uint32
}

// refusals writes identity.refused, at most one record a second per caller.
type refusals struct {
	log record.Log

	mu     sync.Mutex
	who    map[caller]*refusedUID
	closed bool
	wg     sync.WaitGroup
}

type refusedUID struct {
	timer   *time.Timer // running: a record was written less than refusedEvery ago
	pending refusedBody // Count 0: nothing to write
}

func newRefusals(log record.Log) *refusals {
	return &refusals{log: log, who: map[caller]*refusedUID{}}
}

// note counts a refusal, and writes it unless one was just written; then it is
// written with the others when the second is over.
func (r *refusals) note(p Peer, code string) { r.count(caller{uid: p.UID}, p.PID, code) }

// noteAt is note for a door of the network.
func (r *refusals) noteAt(door, code string) { r.count(caller{door: door}, 0, code) }

func (r *refusals) count(c caller, pid int32, code string) {
	r.mu.Lock()
	if r.closed {
		r.mu.Unlock()
		return
	}
	if u := r.who[c]; u != nil {
		u.pending = refusedBody{V: 1, Door: c.door, Code: code, UID: c.uid, PID: pid, Count: u.pending.Count + 1}
		r.mu.Unlock()
		return
	}
	u := &refusedUID{}
	r.who[c] = u
	u.timer = time.AfterFunc(refusedEvery, func() { r.flush(c) })
	r.wg.Add(1)
	r.mu.Unlock()
	defer r.wg.Done()
	r.write(refusedBody{V: 1, Door: c.door, Code: code, UID: c.uid, PID: pid, Count: 1})
}

func (r *refusals) flush(c caller) {
	r.mu.Lock()
	u := r.who[c]
	if u == nil || r.closed {
		r.mu.Unlock()
		return
	}
	b := u.pending
	if b.Count == 0 {
		delete(r.who, c)
		r.mu.Unlock()
		return
	}
	u.pending = refusedBody{}
	u.timer.Reset(refusedEvery)
	r.wg.Add(1)
	r.mu.Unlock()
	defer r.wg.Done()
	r.write(b)
}

// write records a refusal. If it cannot, the caller is refused all the same.
func (r *refusals) write(b refusedBody) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	_, err := r.log.Append(ctx, record.Draft{Type: "identity.refused", Actor: "sallyport", Body: b})
	if err != nil {
		slog.Error("refusal of an identity could not be recorded", "tenant", r.log.Tenant(), "code", b.Code, "err", err)
	}
}

// close writes what is pending and waits for writes under way.
func (r *refusals) close() {
	r.mu.Lock()
	r.closed = true
	var rest []refusedBody
	for _, u := range r.who {
		u.timer.Stop()
		if u.pending.Count > 0 {
			rest = append(rest, u.pending)
		}
	}
	r.who = map[caller]*refusedUID{}
	r.mu.Unlock()
	r.wg.Wait()
	for _, b := range rest {
		r.write(b)
	}
}
