package signals

import (
	"context"
	"crypto/subtle"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"maps"
	"mime"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// Transmitter is one whose events are believed.
type Transmitter struct {
	Issuer, Audience string
	Formats          []string // of subject identifiers
	// Authorization is what the header of that name must be; nil asks for none.
	Authorization func(context.Context) ([]byte, error)
}

// Bar is what an event took from a person: object kind "barred", id the person.
type Bar struct {
	Person string    `json:"person"`
	Since  time.Time `json:"since"`  // what they opened or were asked before is not theirs any more
	Locked bool      `json:"locked"` // they are nobody until somebody reinstates them
	Issuer string    `json:"issuer"`
	Event  string    `json:"event"`
	JTI    string    `json:"jti"`
}

// KindBarred is the object kind of Bar.
const KindBarred = "barred"

// kindSeen keeps which events were taken: object kind "signal", id the digest of
// issuer and jti.
const kindSeen = "signal"

type seen struct {
	Until time.Time `json:"until"`
}

// Receiver takes the events of a tenant's transmitters. Its functions are the
// tenant's.
type Receiver struct {
	// Held from the look at whether an event is known to its record, and while
	// somebody gets back what events took: memory and store see both in one order.
	sync.Mutex
	pruned time.Time // when old ones were forgotten last

	Log record.Log
	// Find is a transmitter that is declared now.
	Find func(issuer string) (Transmitter, bool)
	// Open verifies a token's signature by the keys of the transmitter that it
	// names. An error that is a *Rejection is shown.
	Open func(ctx context.Context, token string) (map[string]canon.Value, error)
	// People are those whom a subject names.
	People func(Transmitter, []Subject) []string
	// Fence takes their authority in memory and returns, when nothing that they
	// had is dispatched any more, the tasks that are to end; nil if it cannot say.
	Fence func(context.Context, []Bar) ([]string, error)
	// End ends tasks. It is called after the record, also if that failed.
	End func(tasks []string, why string)
	// Refused counts what was not taken.
	Refused func(code string)
}

// received is the body of signal.received.
type received struct {
	V        int       `json:"v"`
	Issuer   string    `json:"issuer"`
	JTI      string    `json:"jti"`
	Txn      string    `json:"txn,omitempty"`
	Event    string    `json:"event"`
	IssuedAt time.Time `json:"iat"`
	Reason   string    `json:"reason,omitempty"` // as the transmitter says it to administrators
	Effect   effect    `json:"effect"`
	People   []string  `json:"people"` // none: the subject is nobody here
	Tasks    []string  `json:"tasks"`  // that end
}

// ServeHTTP is the recipient of RFC 8935.
func (r *Receiver) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	err := r.take(w, q)
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	var no *Rejection
	switch {
	case err == nil:
		w.WriteHeader(http.StatusAccepted)
	case errors.As(err, &no):
		r.Refused(no.Code)
		h.Set("Content-Type", "application/json")
		h.Set("Content-Language", "en")
		w.WriteHeader(http.StatusBadRequest)
		json.NewEncoder(w).Encode(map[string]string{"err": no.Code, "description": no.Description})
	default:
		// Not a word about the event: a transmitter drops what is refused, and sends
		// again what this answers.
		r.Refused("unavailable")
		slog.ErrorContext(q.Context(), "security event", "tenant", r.Log.Tenant(), "err", err)
		h.Set("Retry-After", "30")
		http.Error(w, "the event cannot be taken now; send it again", http.StatusServiceUnavailable)
	}
}

func (r *Receiver) take(w http.ResponseWriter, q *http.Request) error {
	if q.Method != http.MethodPost {
		return reject("invalid_request", "want POST")
	}
	if m, _, err := mime.ParseMediaType(q.Header.Get("Content-Type")); err != nil || m != "application/secevent+jwt" {
		return reject("invalid_request", "want application/secevent+jwt")
	}
	b, err := io.ReadAll(http.MaxBytesReader(w, q.Body, maxSET))
	if err != nil {
		return reject("invalid_request", "the token is too long, or did not arrive whole")
	}
	ctx := context.WithoutCancel(q.Context()) // what ends authority is finished
	claims, err := r.Open(ctx, string(b))
	if err != nil {
		return err
	}
	s, err := ReadSET(claims)
	if err != nil {
		return err
	}
	t, ok := r.Find(s.Issuer)
	if !ok {
		return reject("invalid_issuer", "the issuer is none of the tenant's transmitters")
	}
	if err := t.admits(ctx, s, q.Header.Values("Authorization")); err != nil {
		return err
	}
	return r.Take(ctx, t, s)
}

// admits: the delivery is authorized, and the event is for this audience, and of now.
func (t Transmitter) admits(ctx context.Context, s SET, authorization []string) error {
	if t.Authorization != nil {
		want, err := t.Authorization(ctx)
		if err != nil {
			return err
		}
		defer clear(want)
		if len(authorization) != 1 || subtle.ConstantTimeCompare([]byte(authorization[0]), []byte(strings.TrimSpace(string(want)))) != 1 {
			return reject("authentication_failed", "the Authorization header is not the one that was agreed")
		}
	}
	switch age := time.Since(s.IssuedAt); {
	case !slices.Contains(s.Audience, t.Audience):
		return reject("invalid_audience", "the event is for another audience")
	case age > MaxAge:
		return reject("invalid_request", "the event is older than a day")
	case age < -skew:
		return reject("invalid_request", "the event is of the future")
	}
	return nil
}

// Take does what an event that was verified asks for, once. Of one that takes
// nothing there may be several records.
//
// Order of writes: the fence, in memory; then record, bars and jti in one
// transaction, so that a crash leaves all of them or none; then the end of the tasks,
// which no restart lets run on. A jti therefore never stands for an event that took
// nothing, and where there is none the event is sent again and only takes the same.
func (r *Receiver) Take(ctx context.Context, t Transmitter, s SET) error {
	r.Lock()
	defer r.Unlock()
	id := strings.TrimPrefix(string(canon.Digest([]byte(s.Issuer+"\x00"+s.ID))), "sha256:")
	if known, err := r.known(ctx, id); known || err != nil {
		return err
	}
	b := received{V: 1, Issuer: s.Issuer, JTI: s.ID, Txn: s.Txn, Event: s.Type, IssuedAt: s.IssuedAt, Reason: s.reason(), Effect: s.effect(),
		People: r.People(t, s.Subjects), Tasks: []string{}}
	var bars []Bar
	if b.Effect != noted {
		for _, p := range b.People {
			bars = append(bars, Bar{p, time.Now().UTC(), b.Effect == locks, s.Issuer, s.Type, s.ID})
		}
	}
	var fence error
	if len(bars) > 0 {
		if b.Tasks, fence = r.Fence(ctx, bars); b.Tasks == nil {
			return fence // not taken: it is sent again
		}
	}
	_, err := r.Log.Append(ctx, record.Draft{Type: "signal.received", Actor: "transmitter:" + s.Issuer, Body: b,
		Change: func(tx record.Tx) error {
			if len(bars) == 0 {
				return nil
			}
			if err := r.prune(tx); err != nil {
				return err
			}
			for _, x := range bars {
				if err := putBar(tx, x); err != nil {
					return err
				}
			}
			return tx.Put(kindSeen, id, seen{s.IssuedAt.Add(MaxAge + skew)})
		}})
	if len(b.Tasks) > 0 {
		r.End(b.Tasks, "a security event of "+s.Issuer+": "+s.Type)
	}
	return errors.Join(err, fence)
}

func (r *Receiver) known(ctx context.Context, id string) (bool, error) {
	err := r.Log.View(ctx, func(tx record.Tx) error { return tx.Get(kindSeen, id, new(seen)) })
	if errors.Is(err, record.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// pruneEvery bounds the reading of all that is kept, which other writes wait for.
const pruneEvery = time.Minute

// prune forgets events that would be too old to be sent again.
func (r *Receiver) prune(tx record.Tx) error {
	now := time.Now()
	if now.Sub(r.pruned) < pruneEvery {
		return nil
	}
	r.pruned = now
	var over []string
	err := tx.List(kindSeen, func(id string, raw []byte) error {
		var x seen
		err := json.Unmarshal(raw, &x)
		if err == nil && now.After(x.Until) {
			over = append(over, id)
		}
		return err
	})
	for _, id := range over {
		err = errors.Join(err, tx.Delete(kindSeen, id))
	}
	return err
}

// putBar keeps the harder of two bars: an event never gives back what another took.
func putBar(tx record.Tx, b Bar) error {
	var old Bar
	err := tx.Get(KindBarred, b.Person, &old)
	if err != nil && !errors.Is(err, record.ErrNotFound) {
		return err
	}
	return tx.Put(KindBarred, b.Person, old.With(b))
}

// With is this bar after another: later, and as hard as the harder of both.
func (b Bar) With(next Bar) Bar {
	if next.Since.Before(b.Since) {
		next.Since = b.Since
	}
	next.Locked = next.Locked || b.Locked
	return next
}

// Bars reads who is barred.
func Bars(tx record.Tx) (map[string]Bar, error) {
	out := map[string]Bar{}
	err := tx.List(KindBarred, func(id string, raw []byte) error {
		var b Bar
		err := json.Unmarshal(raw, &b)
		out[id] = b
		return err
	})
	return out, err
}

// reason is what the transmitter says to administrators, shortened: reason_admin
// by language (CAEP 1.0 section 2), or as RISC has it.
func (s SET) reason() string {
	var by map[string]string
	why := s.member("reason")
	if v := s.Event["reason_admin"]; v != nil && canon.Unmarshal(v, maxSET, &by) == nil {
		for _, lang := range slices.Sorted(maps.Keys(by)) {
			if why == "" || lang == "en" {
				why = by[lang]
			}
		}
	}
	if len(why) > 500 {
		why = strings.ToValidUTF8(why[:500], "") + "…"
	}
	return why
}
