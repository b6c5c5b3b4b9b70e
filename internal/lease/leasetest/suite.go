// Package leasetest is what every credential source must pass, against its real
// upstream: issuing, working, ending, and what is left when anything in between
// breaks.
package leasetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/gate/gatetest"
	"github.com/sallyport-dev/sallyport/internal/lease"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// Prefix begins the labels of the suite.
const Prefix = "sallyport-00112233-"

// Peer is a real upstream with a source in front of it.
type Peer struct {
	Source lease.Source
	Wire   *Wire // between the two
	// Works tries a credential as its holder would. nil means that it worked.
	Works func(secret []byte) error
	// Exclusive says that one lease at a time is given; the cases of several are left
	// out.
	Exclusive bool
	// Labels are those that exist upstream, asked apart from the source.
	Labels func() []string
	// Pass lets as much time pass, for the source and at its upstream, as a credential
	// lives that was asked for and never seen; nil for a source that finds those by
	// their label.
	Pass func()
	// Lasts: the upstream ends credentials by time alone (lease.Lasting), and Pass lets
	// the time of all pass.
	Lasts bool
}

// Plain is a Sealer that marks and does not hide: hiding is seal's own test.
type Plain struct{}

// Seal marks.
func (Plain) Seal(c string, b []byte) ([]byte, error) {
	return append([]byte(c+"\x00"), b...), nil
}

// Open checks the mark.
func (Plain) Open(c string, b []byte) ([]byte, error) {
	rest, ok := strings.CutPrefix(string(b), c+"\x00")
	if !ok {
		return nil, errors.New("sealed for another context")
	}
	return []byte(rest), nil
}

// rig is a peer with a ledger. Each keeper is a new process on it.
type rig struct {
	*Peer
	t   *testing.T
	log *gatetest.Log
	ids *atomic.Int64
}

// All cases share one sequence of ids, since they share the peer.
func newRig(t *testing.T, p *Peer, ids *atomic.Int64) *rig {
	return &rig{Peer: p, t: t, log: gatetest.NewLog("acme"), ids: ids}
}

func (r *rig) keeper(wrap ...func(lease.Source) lease.Source) *lease.Keeper {
	src := r.Source
	for _, w := range wrap {
		src = w(src)
	}
	return lease.New(lease.Config{Log: r.log, Seal: Plain{}, Prefix: Prefix, IDs: func() string { return fmt.Sprintf("l-%d", r.ids.Add(1)) },
		Find:      func(context.Context, lease.Lease) (lease.Source, error) { return src, nil },
		Upstreams: func() []lease.Upstream { return []lease.Upstream{{Source: "s", Audience: "a"}} }})
}

func (r *rig) issue(k *lease.Keeper, task string) (lease.Lease, []byte, error) {
	return k.Issue(r.t.Context(), lease.Request{Task: task, Agent: "helper", Source: "s", Audience: "a", Account: "svc", Purpose: "it's \"quoted\" \\ 日本",
		Until: time.Now().Add(time.Hour)})
}

// none: nothing of ours is left upstream, and no lease is open.
func (r *rig) none() {
	r.t.Helper()
	if got := r.Labels(); len(got) != 0 {
		r.t.Errorf("upstream holds %q; records: %s", got, r.types())
	}
	if open, err := r.keeper().Open(r.t.Context()); err != nil || len(open) != 0 {
		r.t.Errorf("open leases: %+v %v; records: %s", open, err, r.types())
	}
}

func (r *rig) types() string {
	var out []string
	for _, e := range r.log.All() {
		out = append(out, strings.TrimPrefix(e.Type, "lease."))
	}
	return strings.Join(out, " ")
}

// Run runs the suite. The peer is shared by all cases, which leave nothing in it.
func Run(t *testing.T, p *Peer) {
	var ids atomic.Int64
	cases := map[string]func(*rig){
		"lives_and_ends": livesAndEnds, "down_at_issue": downAtIssue, "down_at_revoke": downAtRevoke, "kill_while_issuing": killWhileIssuing,
		"says_revoked_and_is_not": liar, "crash_at_every_step": crashes, "many_at_once": many, "no_record_no_lease": noRecord,
	}
	if p.Exclusive {
		cases["lives_and_ends"] = oneAtATime
		delete(cases, "many_at_once")
	}
	if _, ok := p.Source.(lease.Lister); ok {
		cases["not_on_record"] = orphans
	}
	if p.Lasts { // what the others are about is in lasts
		delete(cases, "says_revoked_and_is_not")
		delete(cases, "down_at_revoke")
		cases["lives_and_ends"] = lasts
	}
	for name, f := range cases {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, p, &ids)
			f(r)
			p.Wire.Restore()
			if p.Lasts {
				r.recovered("the end")
			}
			r.none()
		})
	}
}

func livesAndEnds(r *rig) {
	k := r.keeper()
	l, secret, err := r.issue(k, "t-1")
	if err != nil {
		r.t.Fatal(err)
	}
	other, otherSecret, err := r.issue(k, "t-2")
	if err != nil {
		r.t.Fatal(err)
	}
	if err := r.Works(secret); err != nil {
		r.t.Errorf("the credential does not work: %v", err)
	}
	if got, want := r.Labels(), []string{l.Label, other.Label}; !slices.Equal(got, want) {
		r.t.Errorf("upstream holds %q, want %q", got, want)
	}
	if err := k.End(r.t.Context(), "t-1"); err != nil {
		r.t.Fatal(err)
	}
	if r.Works(secret) == nil {
		r.t.Error("the credential works after its end")
	}
	if err := r.Works(otherSecret); err != nil {
		r.t.Errorf("the other task's credential went with it: %v", err)
	}
	if err := k.End(r.t.Context(), "t-2"); err != nil {
		r.t.Fatal(err)
	}
	// Ending what is not there is done, not an error: a crash repeats it.
	if err := r.Source.Revoke(r.t.Context(), lease.Credential{Label: l.Label, Secret: secret}); err != nil {
		r.t.Errorf("second revocation: %v", err)
	}
	if err := r.Source.Confirm(r.t.Context(), lease.Credential{Label: l.Label}); err != nil {
		r.t.Errorf("confirmation by the label: %v", err)
	}
	for _, e := range r.log.All() {
		if strings.Contains(string(e.Body), string(secret)) {
			r.t.Errorf("the credential is in record %s", e.Type)
		}
	}
}

func oneAtATime(r *rig) {
	k := r.keeper()
	l, secret, err := r.issue(k, "t-1")
	if err != nil {
		r.t.Fatal(err)
	}
	if err := r.Works(secret); err != nil {
		r.t.Errorf("the credential does not work: %v", err)
	}
	if _, _, err := r.issue(k, "t-2"); !errors.Is(err, lease.ErrNotIssued) {
		r.t.Errorf("a second lease: got %v", err)
	}
	if err := k.End(r.t.Context(), "t-1"); err != nil {
		r.t.Fatal(err)
	}
	_, other, err := r.issue(k, "t-3")
	if err != nil {
		r.t.Fatal(err)
	}
	// Ending again what ended does not touch who has it now.
	old := lease.Credential{Label: l.Label, Secret: secret}
	if err := errors.Join(r.Source.Revoke(r.t.Context(), old), r.Source.Confirm(r.t.Context(), old)); err != nil {
		r.t.Errorf("second revocation: %v", err)
	}
	if r.Works(secret) == nil || r.Works(other) != nil {
		r.t.Errorf("the ended credential: %v; the one that is held: %v", r.Works(secret), r.Works(other))
	}
	if err := k.End(r.t.Context(), "t-3"); err != nil {
		r.t.Fatal(err)
	}
	for _, e := range r.log.All() {
		if strings.Contains(string(e.Body), string(secret)) {
			r.t.Errorf("the credential is in record %s", e.Type)
		}
	}
}

// lasts: what ends by time alone is in sight until then, no alarm before, and one
// afterwards.
func lasts(r *rig) {
	k := r.keeper()
	l, secret, err := r.issue(k, "t-1")
	if err != nil {
		r.t.Fatal(err)
	}
	if err := r.Works(secret); err != nil || l.Lasts.IsZero() {
		r.t.Errorf("the credential does not work, or nobody says until when: %v", err)
	}
	if err := k.End(r.t.Context(), "t-1"); err != nil {
		r.t.Fatal(err)
	}
	if err := r.Works(secret); err != nil {
		r.t.Errorf("the case tests nothing: %v", err)
	}
	open, err := k.Open(r.t.Context())
	if err != nil || len(open) != 1 || open[0].State != lease.Revoking || !open[0].Lasts.Equal(l.Lasts) || open[0].Why == "" {
		r.t.Errorf("got %+v %v", open, err)
	}
	if left, err := k.Unconfirmed(r.t.Context()); err != nil || len(left) > 0 {
		r.t.Errorf("it is an alarm before its time: %+v %v", left, err)
	}
	if err := errors.Join(k.End(r.t.Context(), "t-1"), r.keeper().Recover(r.t.Context())); err != nil {
		r.t.Error(err)
	}
	r.recovered("its time")
	if r.Works(secret) == nil {
		r.t.Error("the credential works after its end")
	}
	if got := r.types(); got != "requested issued revoking lasting revoked" {
		r.t.Errorf("got records %q", got)
	}
}

func downAtIssue(r *rig) {
	r.Wire.Down()
	if _, _, err := r.issue(r.keeper(), "t-1"); err == nil {
		r.t.Fatal("an upstream that is down issued a credential")
	}
	if strings.Contains(r.types(), "issued") {
		r.t.Errorf("got records %q", r.types())
	}
	r.Wire.Restore()
	r.recovered("down at issue")
}

func downAtRevoke(r *rig) {
	k := r.keeper()
	_, secret, err := r.issue(k, "t-1")
	if err != nil {
		r.t.Fatal(err)
	}
	r.Wire.Down()
	if err := k.End(r.t.Context(), "t-1"); err == nil {
		r.t.Fatal("an upstream that is down confirmed a revocation")
	}
	left, err := k.Unconfirmed(r.t.Context())
	if err != nil || len(left) != 1 || left[0].State != lease.Revoking || left[0].Why == "" {
		r.t.Fatalf("got %+v %v", left, err)
	}
	// Another process finds it as it was.
	if left, err := r.keeper().Unconfirmed(r.t.Context()); err != nil || len(left) != 1 {
		r.t.Fatalf("after a restart: got %+v %v", left, err)
	}
	r.Wire.Restore()
	ctx, cancel := context.WithTimeout(r.t.Context(), time.Minute)
	defer cancel()
	var wg sync.WaitGroup
	wg.Go(func() { k.Run(ctx) })
	for len(left) > 0 && ctx.Err() == nil {
		time.Sleep(10 * time.Millisecond)
		left, _ = k.Unconfirmed(ctx)
	}
	cancel()
	wg.Wait()
	if r.Works(secret) == nil {
		r.t.Error("the credential works after its end")
	}
}

func killWhileIssuing(r *rig) {
	k := r.keeper()
	var wg sync.WaitGroup
	for i := range 8 {
		task := fmt.Sprintf("t-%d", i)
		wg.Go(func() { r.issue(k, task) })
		wg.Go(func() { k.End(r.t.Context(), task) })
	}
	wg.Wait()
	for i := range 8 {
		if err := k.End(r.t.Context(), fmt.Sprintf("t-%d", i)); err != nil {
			r.t.Error(err)
		}
	}
}

// lying does nothing and says that it did.
type lying struct{ lease.Source }

func (lying) Revoke(context.Context, lease.Credential) error { return nil }

// plain hides what else a source can do.
type plain struct{ lease.Source }

func liar(r *rig) {
	k := r.keeper(func(s lease.Source) lease.Source { return lying{s} })
	_, secret, err := r.issue(k, "t-1")
	if err != nil {
		r.t.Fatal(err)
	}
	if err := k.End(r.t.Context(), "t-1"); err == nil {
		r.t.Error("a revocation that did nothing was confirmed")
	}
	if err := r.Works(secret); err != nil {
		r.t.Errorf("the case tests nothing: %v", err)
	}
	if left, err := k.Unconfirmed(r.t.Context()); err != nil || len(left) != 1 {
		r.t.Errorf("got %+v %v, want it in sight", left, err)
	}
	if err := r.keeper().Recover(r.t.Context()); err != nil {
		r.t.Error(err)
	}
}

// crashes kills the process at every step of issuing and revoking: after each
// record, before and after each message to the upstream. What is left is found
// and ended by the next process.
func crashes(r *rig) {
	for step := int64(1); ; step++ {
		hit := false
		for _, after := range []bool{false, true} {
			r.Wire.CutAt(step, after)
			k := r.keeper(func(s lease.Source) lease.Source {
				if r.Lasts {
					return s
				}
				return plain{s}
			})
			if l, _, err := r.issue(k, "t-1"); err == nil {
				_ = k.End(r.t.Context(), l.Task)
			}
			hit = r.Wire.Restore() || hit
			r.recovered(fmt.Sprintf("message %d, after: %v", step, after))
		}
		if !hit {
			if step < 3 {
				r.t.Errorf("only %d messages were cut: the case tests nothing", step-1)
			}
			break
		}
	}
	for crash := 0; crash <= 4; crash++ {
		n := 0
		r.log.Fail = func(record.Draft) error {
			if n++; n > crash {
				return errors.New("killed")
			}
			return nil
		}
		k := r.keeper()
		if l, _, err := r.issue(k, "t-1"); err == nil {
			_ = k.End(r.t.Context(), l.Task)
		}
		r.log.Fail = nil
		r.recovered(fmt.Sprintf("record %d", crash))
	}
}

func (r *rig) recovered(at string) {
	r.t.Helper()
	err := r.keeper().Recover(r.t.Context())
	switch {
	case r.Lasts:
		if err != nil {
			r.t.Errorf("%s: before the time: %v", at, err)
		}
		r.Pass()
		err = r.keeper().Recover(r.t.Context())
	case err != nil && r.Pass != nil:
		if left, lerr := r.keeper().Unconfirmed(r.t.Context()); lerr != nil || len(left) != 1 || left[0].Why == "" {
			r.t.Errorf("%s: %v, and in sight is %+v %v", at, err, left, lerr)
		}
		r.Pass()
		err = r.keeper().Recover(r.t.Context())
	}
	if err != nil {
		r.t.Errorf("%s: %v", at, err)
	}
	if got := r.Labels(); len(got) != 0 {
		r.t.Fatalf("%s: upstream holds %q; records: %s", at, got, r.types())
	}
}

func many(r *rig) {
	k := r.keeper()
	const n = 40
	for range n {
		if _, _, err := r.issue(k, "t-1"); err != nil {
			r.t.Fatal(err)
		}
	}
	if got := len(r.Labels()); got != n {
		r.t.Errorf("upstream holds %d, want %d", got, n)
	}
	if err := k.End(r.t.Context(), "t-1"); err != nil {
		r.t.Error(err)
	}
}

// orphans: the ledger is older than the upstream, as a restored one is.
func orphans(r *rig) {
	_, secret, err := r.issue(r.keeper(), "t-1")
	if err != nil {
		r.t.Fatal(err)
	}
	live := r.keeper()
	if err := live.Sweep(r.t.Context()); err != nil || r.Works(secret) != nil {
		r.t.Errorf("a sweep ended a lease that is in use: %v", err)
	}
	r.log = gatetest.NewLog("acme")
	k := r.keeper()
	if err := k.Recover(r.t.Context()); err != nil {
		r.t.Error(err)
	}
	if r.Works(secret) == nil {
		r.t.Error("what is not on record works")
	}
	if got := r.types(); got != "orphan revoked" {
		r.t.Errorf("got records %q", got)
	}
}

func noRecord(r *rig) {
	r.log.Fail = func(record.Draft) error { return errors.New("disk full") }
	if _, _, err := r.issue(r.keeper(), "t-1"); err == nil {
		r.t.Error("a credential was issued without a record")
	}
	r.log.Fail = nil
}
