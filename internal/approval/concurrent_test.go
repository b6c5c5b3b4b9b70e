package approval_test

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// Many approve at once, on two nodes, where one is enough: exactly one wins,
// and the effect happens once.
func TestConcurrentGrants(t *testing.T) {
	f := newFixture(t)
	const n = 8
	keys := make([]ssh.Signer, n)
	names := []string{"a", "b", "c", "d", "e", "f", "g", "h"}
	for i := range keys {
		keys[i] = newKey(t)
		f.person(names[i], keys[i])
	}
	s := f.request(draft())
	nodes := []*approval.Engine{f.eng, f.engine()}
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		sig := f.sign(s, keys[i])
		wg.Go(func() {
			_, errs[i] = nodes[i%2].Grant(t.Context(), s.Nonce, names[i], sig, func(tx record.Tx, s approval.Statement) error {
				return tx.Put("released", names[i], s.Digest)
			})
		})
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
			continue
		}
		f.want(err, "not_pending")
	}
	released := 0
	if err := f.log.View(t.Context(), func(tx record.Tx) error {
		return tx.List("released", func(string, []byte) error { released++; return nil })
	}); err != nil {
		t.Fatal(err)
	}
	if won != 1 || released != 1 || len(f.entries("hold.approved")) != 1 {
		t.Errorf("got %d winners, %d releases, %d records, want one of each", won, released, len(f.entries("hold.approved")))
	}
}

// Two of three sign at once: both count, and the quorum is reached once.
func TestConcurrentQuorum(t *testing.T) {
	f := newFixture(t)
	d := draft()
	d.Statement.Quorum = 3
	s := f.request(d)
	var wg sync.WaitGroup
	for _, name := range []string{"a", "b", "c"} {
		k := newKey(t)
		f.person(name, k)
		sig := f.sign(s, k)
		wg.Go(func() {
			if _, err := f.eng.Grant(t.Context(), s.Nonce, name, sig, nil); err != nil {
				t.Errorf("%s: got %v", name, err)
			}
		})
	}
	wg.Wait()
	f.wantState(s.Nonce, approval.Granted)
	complete := 0
	for _, g := range f.entries("hold.approved") {
		if g["complete"] == true {
			complete++
		}
	}
	if complete != 1 {
		t.Errorf("records that complete the quorum: got %d, want 1", complete)
	}
}

// Threats: I3 (approval)
func TestConcurrentUse(t *testing.T) {
	f := newFixture(t)
	k := newKey(t)
	f.person("jo", k)
	s := f.request(draft())
	if _, err := f.grant(s, "jo", k); err != nil {
		t.Fatal(err)
	}
	errs := make([]error, 8)
	var wg sync.WaitGroup
	for i := range errs {
		wg.Go(func() { errs[i] = f.use(s.Nonce, s.Digest) })
	}
	wg.Wait()
	won := 0
	for _, err := range errs {
		if err == nil {
			won++
		} else {
			f.want(err, "used")
		}
	}
	if won != 1 || len(f.entries("action.decided")) != 1 {
		t.Errorf("got %d uses and %d releases, want one", won, len(f.entries("action.decided")))
	}
}

// Whoever waits for a person is woken by the decision, here or on another
// node, and by the clock.
func TestWait(t *testing.T) {
	f := newFixture(t)
	k := newKey(t)
	f.person("jo", k)
	wait := func(s approval.Statement) <-chan approval.State {
		c := make(chan approval.State, 1)
		go func() {
			a, err := f.eng.Wait(t.Context(), s.Nonce)
			if err != nil {
				t.Errorf("wait: %v", err)
			}
			c <- a.State
		}()
		return c
	}
	got := func(c <-chan approval.State, want approval.State) {
		t.Helper()
		select {
		case s := <-c:
			if s != want {
				t.Errorf("woken: got %s, want %s", s, want)
			}
		case <-time.After(20 * time.Second):
			t.Fatal("not woken in 20 s")
		}
	}
	s := f.request(draft())
	c := wait(s)
	if _, err := f.engine().Grant(t.Context(), s.Nonce, "jo", f.sign(s, k), nil); err != nil {
		t.Fatal(err)
	}
	got(c, approval.Granted)
	s = f.request(draft())
	c = wait(s)
	f.pass(time.Hour)
	got(c, approval.Expired)

	s = f.request(draft())
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := f.eng.Wait(ctx, s.Nonce); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: got %v", err)
	}
}
