package browser

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// numbered are keys that say which ones they are.
type numbered string

func (n numbered) SPKI() string { return string(n) }

func newTestPool(t *testing.T, size int) *Pool[numbered] {
	if testing.Short() {
		t.Skip("starts browsers")
	}
	n := 0
	p := NewPool(size, func() (numbered, error) {
		n++
		return numbered(fmt.Sprintf("key-%d", n)), nil
	})
	p.pause = 0
	t.Cleanup(p.Close)
	return p
}

func (p *Pool[K]) wait(t testing.TB, n int) {
	t.Helper()
	for limit := time.Now().Add(launchLimit); p.Idle() != n; time.Sleep(5 * time.Millisecond) {
		if time.Now().After(limit) {
			t.Fatalf("%d browsers wait, want %d", p.Idle(), n)
		}
	}
}

// first is the browser that would be given away next.
func (p *Pool[K]) first(t testing.TB) *Browser {
	t.Helper()
	p.wait(t, 1)
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.idle[0].b
}

func (p *Pool[K]) take(t testing.TB, cfg Config) (*Browser, K) {
	t.Helper()
	b, k, err := p.Take(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { b.Close() })
	args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", b.Process().PID()))
	if err != nil || !strings.Contains(string(args), "--ignore-certificate-errors-spki-list="+k.SPKI()+"\x00") {
		t.Errorf("the browser was not started with the keys %s that came with it (%v): %q", k.SPKI(), err, args)
	}
	return b, k
}

// TestPoolGivesEachBrowserOnce: what waited is given to one task, with keys of
// its own, is another process in another namespace than the one before, and knows
// nothing of what happened in that.
func TestPoolGivesEachBrowserOnce(t *testing.T) {
	p := newTestPool(t, 1)
	if p.Idle() != 0 {
		t.Error("a browser was started before anybody asked for one")
	}
	seen := map[any]bool{}
	for i := range 3 {
		var waited *Browser
		if i > 0 {
			waited = p.first(t)
		}
		b, k := p.take(t, Config{})
		if waited != nil && b != waited {
			t.Errorf("round %d: got another browser than the one that waited", i)
		}
		ns, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", b.Process().PID()))
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range []any{b.Process().PID(), ns, k} {
			if seen[v] {
				t.Errorf("round %d: %v was given before", i, v)
			}
			seen[v] = true
		}
		w := serve(t, b)
		w.load("state", `<script>
			fetch("/had?" + [document.cookie, localStorage.length, sessionStorage.length].join())
			document.cookie = "task=1;max-age=999"; localStorage.task = 1; sessionStorage.task = 1</script>`)
		w.waitHit(t, "GET site.test/had?")
		if !w.hit("GET site.test/had?,0,0") {
			t.Errorf("round %d: the page found something of an earlier task: %q", i, w.hits)
		}
		w.load("state2", `<script>fetch("/has?" + [document.cookie, localStorage.length, sessionStorage.length].join())</script>`)
		w.waitHit(t, "GET site.test/has?task=1,1,1") // what the next must not find can be found
	} // All are alive until here: the system gives the numbers of what has ended again.
}

// TestPoolKeepsOnlyWhatCanBeUsed: one that died, that waited too long, or that is
// of another configuration is never given away.
func TestPoolKeepsOnlyWhatCanBeUsed(t *testing.T) {
	p := newTestPool(t, 1)
	p.take(t, Config{})

	dead := p.first(t)
	if err := unix.Kill(dead.Process().PID(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	b, _ := p.take(t, Config{})
	if b == dead {
		t.Error("got a browser that was killed while it waited")
	}
	if _, err := b.Screenshot(t.Context()); err != nil {
		t.Errorf("the one that was got instead: %v", err)
	}

	crashed := p.first(t)
	page, err := crashed.current(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	crashed.conn.send(page.id, "Page.crash", nil).drop() // never answered
	if err := crashed.await(t.Context(), func() bool { return page.crashed }); err != nil {
		t.Fatal(err)
	}
	if b, _ := p.take(t, Config{}); b == crashed {
		t.Error("got a browser whose page crashed while it waited")
	}

	narrow := p.first(t)
	b, _ = p.take(t, Config{Width: 800, Height: 600})
	if b == narrow || b.cfg.Width != 800 {
		t.Errorf("got a screen of %d pixels, want 800", b.cfg.Width)
	}
	<-narrow.Done() // and it does not go on waiting
	if got := p.first(t).cfg.Width; got != 800 {
		t.Errorf("one of %d pixels waits, want 800 as asked for last", got)
	}

	p.mu.Lock()
	p.idle[0].expires = time.Now()
	old := p.idle[0].b
	p.mu.Unlock()
	if b, _ := p.take(t, Config{Width: 800, Height: 600}); b == old {
		t.Error("got a browser that waited too long")
	}
	<-old.Done()
}

// TestPoolEnds: what waits ends by itself after its time, and with the pool.
func TestPoolEnds(t *testing.T) {
	p := newTestPool(t, 1)
	p.age = 100 * time.Millisecond
	p.take(t, Config{})
	tired := p.first(t)
	<-tired.Done()
	p.wait(t, 0)

	p = newTestPool(t, 1)
	p.take(t, Config{})
	last := p.first(t)
	p.Close()
	select {
	case <-last.Process().Done():
	case <-time.After(launchLimit):
		t.Error("a browser outlived its pool")
	}
	if p.Idle() != 0 {
		t.Errorf("%d browsers wait after the end", p.Idle())
	}
	none := newTestPool(t, 0)
	none.take(t, Config{})
	none.wait(t, 0)
}
