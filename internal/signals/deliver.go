package signals

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/outbox"
)

const atOnce = 50 // events of one reading

// Run pushes until ctx ends.
func (s *Sender) Run(ctx context.Context) {
	outbox.Run(ctx, s.Log, "security events wait", func(ctx context.Context) ([]outbox.Job, error) {
		all, err := s.streams(ctx)
		var jobs []outbox.Job
		for _, st := range all {
			if l := s.of(st.ID); st.Method == push {
				jobs = append(jobs, outbox.Job{Place: &l.Place, Name: st.Receiver, Serve: func(ctx context.Context) error { return s.push(ctx, st.Receiver, st.ID, l) }})
			}
		}
		return jobs, err
	})
}

// push delivers what a stream waits for, in order, each before the next.
//
// Order of writes: the receiver's answer first, then signal.sent with the cursor.
// A crash in between sends the event again, under the same jti.
func (s *Sender) push(ctx context.Context, receiver, id string, l *live) error {
	r, ok := s.Declared(receiver)
	if !ok {
		return nil
	}
	st, err := s.stream(ctx, r, id)
	switch {
	case errors.Is(err, errNoStream), err == nil && (st.Status != enabled || !r.below(st.Endpoint)):
		return nil // gone, waits, or declared elsewhere
	case err != nil:
		return err
	}
	all, err := s.pending(ctx, st, l, atOnce)
	for _, o := range all {
		var refused map[string]string
		code, perr := s.post(ctx, r, st, o)
		if code == "invalid_request" { // the event itself; it will be no better
			refused, perr = map[string]string{o.jti: code}, nil
		}
		if err = perr; err == nil {
			_, err = s.delivered(ctx, st, []outgoing{o}, refused)
		}
		if err != nil {
			return err
		}
	}
	return err
}

// issue signs an event as it is sent now. Its iat is of now, so that a receiver which
// takes nothing old takes what waited for it; when it happened is event_timestamp.
func (s *Sender) issue(ctx context.Context, o outgoing) (string, error) {
	c := maps.Clone(o.claims)
	c["iat"] = time.Now().Unix()
	if c["sub_id"] == nil {
		id, err := s.Subject(ctx, o.agent, o.task)
		if err != nil {
			return "", err
		}
		c["sub_id"] = map[string]any{"format": "uri", "uri": id}
	}
	return s.Sign(ctx, c)
}

// post delivers one event (RFC 8935 section 2). It returns the receiver's error
// code, if it has one.
func (s *Sender) post(ctx context.Context, r Receiving, st Stream, o outgoing) (code string, err error) {
	set, err := s.issue(ctx, o)
	if err != nil {
		return "", err
	}
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, st.Endpoint, strings.NewReader(set))
	if err != nil {
		return "", err
	}
	q.Header.Set("Content-Type", "application/secevent+jwt")
	q.Header.Set("Accept", "application/json")
	if st.Sealed != nil {
		h, err := s.Seal.Open(sealContext(st), st.Sealed)
		if err != nil {
			return "", err
		}
		q.Header.Set("Authorization", string(h))
		clear(h)
	}
	resp, err := outbox.Client(r.Roots, r.Local).Do(q)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusAccepted {
		return "", nil
	}
	b, _ := io.ReadAll(io.LimitReader(resp.Body, 8<<10))
	var no struct {
		Err string `json:"err"`
	}
	if resp.StatusCode == http.StatusBadRequest && canon.UnmarshalOpen(b, 8<<10, &no) == nil {
		code = no.Err
	}
	return code, fmt.Errorf("the receiver answers %d %q", resp.StatusCode, code)
}

func sealContext(st Stream) string { return "signals\x00" + st.ID + "\x00" + st.Endpoint }

// asked is the body of a poll (RFC 8936 section 2.4).
type asked struct {
	Max         *int                   `json:"maxEvents"`
	Immediately bool                   `json:"returnImmediately"`
	Ack         []string               `json:"ack"`
	Errors      map[string]canon.Value `json:"setErrs"`
}

// longest is how long a poll waits for an event.
const longest = 30 * time.Second

// answer takes what the receiver has and gives it what it has not.
func (s *Sender) answer(ctx context.Context, r Receiving, id string, a asked) (map[string]any, error) {
	l := s.of(id)
	deadline := time.Now().Add(longest)
	for first := true; ; first = false {
		out, n, err := s.pollOnce(ctx, r, id, l, a, first)
		if err != nil || n > 0 || a.Immediately || a.Max != nil && *a.Max == 0 || time.Now().After(deadline) {
			return out, err
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(outbox.Every):
		}
	}
}

func (s *Sender) pollOnce(ctx context.Context, r Receiving, id string, l *live, a asked, first bool) (map[string]any, int, error) {
	l.Lock()
	defer l.Unlock()
	st, err := s.stream(ctx, r, id)
	if err != nil {
		return nil, 0, err
	}
	sets := map[string]string{}
	if st.Status != enabled {
		return map[string]any{"sets": sets}, 0, nil
	}
	all, err := s.pending(ctx, st, l, 10*atOnce)
	if err != nil {
		return nil, 0, err
	}
	if first {
		if all, err = s.ack(ctx, st, l, all, a); err != nil {
			return nil, 0, err
		}
	}
	most := atOnce
	if a.Max != nil {
		most = min(most, max(0, *a.Max))
	}
	more := false
	for _, o := range all {
		if l.acked[o.jti] {
			continue
		}
		if len(sets) == most {
			more = true
			break
		}
		if sets[o.jti], err = s.issue(ctx, o); err != nil {
			return nil, 0, err
		}
	}
	out := map[string]any{"sets": sets}
	if more {
		out["moreAvailable"] = true
	}
	return out, len(sets), nil
}

// ack moves the cursor behind the first events that are all said to be there.
// What is acknowledged out of order is remembered in memory.
func (s *Sender) ack(ctx context.Context, st Stream, l *live, all []outgoing, a asked) ([]outgoing, error) {
	waits := map[string]bool{}
	for _, o := range all {
		waits[o.jti] = true
	}
	refused := map[string]string{}
	for jti, v := range a.Errors {
		var no struct {
			Err string `json:"err"`
		}
		if waits[jti] && canon.UnmarshalOpen(v, 8<<10, &no) == nil {
			refused[jti] = no.Err
			l.acked[jti] = true
		}
	}
	for _, jti := range a.Ack {
		if waits[jti] { // of what is not there any more, or never was, nothing is kept
			l.acked[jti] = true
		}
	}
	n := 0
	for n < len(all) && l.acked[all[n].jti] {
		n++
	}
	if n == 0 {
		return all, nil
	}
	if _, err := s.delivered(ctx, st, all[:n], refused); err != nil {
		return nil, err
	}
	for _, o := range all[:n] {
		delete(l.acked, o.jti)
	}
	l.Pass(all[n-1].seq + 1)
	return all[n:], nil
}

func encode(w http.ResponseWriter, status int, v any) {
	h := w.Header()
	h.Set("Cache-Control", "no-store")
	h.Set("X-Content-Type-Options", "nosniff")
	if v != nil {
		h.Set("Content-Type", "application/json")
	}
	w.WriteHeader(status)
	if v != nil {
		json.NewEncoder(w).Encode(v)
	}
}
