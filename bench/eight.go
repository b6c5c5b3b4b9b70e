package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/browser"
	"github.com/sallyport-dev/sallyport/internal/surface/computer"
)

// eight browsers are more than the processor has cores.
const eightBrowsers = 8

// seat is one session with its doors, and the bare browser that it is held
// against.
type seat struct {
	bare  *plain
	c     *driver
	click string // of the computer door
	close []func()
}

// eight: whether the doors hold when sessions crowd.
func (b *bench) eight(ctx context.Context) (err error) {
	r, err := newRig(ctx, filepath.Join(b.dir, "eight"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	var seats []*seat
	defer func() {
		for _, s := range seats {
			for i := len(s.close) - 1; i >= 0; i-- {
				s.close[i]()
			}
		}
	}()
	guardrails, err := r.sample.guardrails(policies, scoped)
	if err != nil {
		return err
	}
	for i := range eightBrowsers {
		if err := r.sample.admit(r.gate, r.disk, guardrails, callerTask(i)); err != nil {
			return err
		}
		s := &seat{}
		seats = append(seats, s)
		if err := s.open(ctx, r, callerTask(i)); err != nil {
			return err
		}
	}
	if err := b.crowded(seats, 40, "protocol message", func(s *seat) error {
		_, err := s.c.call(ctx, "Runtime.evaluate", `{"expression":"document.title"}`)
		return err
	}, func(s *seat) error {
		return s.bare.call("Runtime.evaluate", map[string]any{"expression": "document.title"}, nil)
	}); err != nil {
		return err
	}
	if err := b.crowded(seats, 12, "click through door 1", func(s *seat) error {
		return post(ctx, s.click, `{"actions":[{"type":"left_click","x":200,"y":130}]}`)
	}, func(s *seat) error { return s.bare.click(200, 130) }); err != nil {
		return err
	}
	b.note("**%[1]d sessions at once.** %[1]d contained browsers, each with its own task, guard and doors, and %[1]d bare ones, all alive for the whole of it. In turn, either all of "+
		"ours or all bare ones do the same, each again as soon as it was answered, and then one of them alone. Bare is the same call (for a click, the same three events) over the "+
		"pipe. What is held to the target is how much longer ours takes with all than alone, against how much longer the bare one does: "+
		"(ours of %[1]d / ours alone) / (bare of %[1]d / bare alone). What a click costs alone is in its own row.", eightBrowsers)
	return nil
}

func (s *seat) open(ctx context.Context, r *rig, task string) error {
	journal := computer.NewJournal(nil)
	door, err := r.newDoor(task, journal)
	if err != nil {
		return err
	}
	s.close = append(s.close, func() { door.Close() })
	managed, err := browser.Launch(ctx, browser.Config{TrustSPKI: door.SPKI()})
	if err != nil {
		return err
	}
	s.close = append(s.close, func() { managed.Close() })
	go door.Serve(managed.ProxyListener())
	if s.bare, err = newPlain(ctx, managed, r.origin); err != nil {
		return err
	}
	s.close = append(s.close, s.bare.Close)
	if err := errors.Join(managed.Navigate(ctx, r.origin.url(buttonPath)), s.bare.navigate(r.origin.url(buttonPath))); err != nil {
		return err
	}
	if s.c, err = r.driver(ctx, managed, task, journal); err != nil {
		return err
	}
	s.close = append(s.close, func() { s.c.Close() })
	input, err := computer.New(computer.Config{Tenant: tenantName, Task: task, Agent: agentName, Gate: r.gate, Screen: screen{managed},
		Journal: journal, Width: 1280, Height: 800, AppOf: func(string) string { return "iam" }})
	if err != nil {
		return err
	}
	s.close = append(s.close, func() { input.Close() })
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go input.Serve(l)
	s.click = "http://" + l.Addr().String() + "/v1/actions"
	return nil
}

// crowded measures one thing of all seats at once and of one alone, ours and bare.
func (b *bench) crowded(seats []*seat, n int, name string, own, base func(*seat) error) error {
	n = b.n(n)
	var held, mine, bare []float64
	for i := range b.rounds + 1 {
		var p50 [4]time.Duration // ours of all, bare of all, ours alone, bare alone
		for k, what := range []struct {
			seats []*seat
			do    func(*seat) error
		}{{seats, own}, {seats, base}, {seats[:1], own}, {seats[:1], base}} {
			s, err := together(what.seats, n, what.do)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			p50[k] = s.p50()
		}
		if i == 0 {
			continue // it warms up
		}
		held = append(held, float64(p50[0])/float64(p50[2])/(float64(p50[1])/float64(p50[3])))
		mine, bare = append(mine, float64(p50[0])), append(bare, float64(p50[1]))
	}
	m, o := time.Duration(median(mine)), time.Duration(median(bare))
	b.add(row{fmt.Sprintf("%s, %d sessions at once, p50", name, len(seats)), short(m), short(o) + " bare", times(float64(m) / float64(o)), "", false},
		row{fmt.Sprintf("%s, growth from 1 to %d sessions", name, len(seats)), times(median(held)) + " of the bare one's", "", times(median(held)), "within 2x", median(held) <= 2})
	return nil
}

// together has every seat do it n times.
func together(seats []*seat, n int, do func(*seat) error) (samples, error) {
	var mu sync.Mutex
	var all samples
	var errs []error
	var wg sync.WaitGroup
	for _, s := range seats {
		wg.Go(func() {
			for range n {
				d, err := timed(func() error { return do(s) })
				mu.Lock()
				all, errs = append(all, d), append(errs, err)
				mu.Unlock()
				if err != nil {
					return
				}
			}
		})
	}
	wg.Wait()
	return all, errors.Join(errs...)
}
