package browser

import (
	"context"
	"slices"
	"sync"
	"time"
)

// Bounds of what a Pool keeps.
const (
	// poolAge is how long a browser waits for its task at most. Nobody watches
	// what it does meanwhile, and its memory is for nothing when none comes.
	poolAge = 10 * time.Minute
	// poolPause is how long after one was taken the next is started, so that it
	// does not take the processor from the session that begins.
	poolPause = 2 * time.Second
)

// Trusted are the keys that one browser trusts: made for it, known to its flags,
// and given away with it.
type Trusted interface{ SPKI() string }

// Pool starts browsers before there is a task for them: contained, attached, with
// the guard in their first page, and with nobody at the other end of their only
// way out. The zero size keeps none, and every browser is started when it is
// asked for.
//
// Invariants:
//   - A browser is given away once, with keys that nobody else has, and whoever
//     got it closes it. None comes back.
//   - What is given away is alive, answered as it did when it was started, has
//     exactly the configuration that is asked for, and waited no longer than
//     poolAge.
//   - It keeps at most size browsers, started with the configuration that was
//     asked for last; none before the first is asked for, and none once nothing
//     was asked for in poolAge.
//   - Close ends those that are kept or being started. With the process they end
//     too, as every contained process.
type Pool[K Trusted] struct {
	size       int
	keys       func() (K, error)
	age, pause time.Duration

	life context.Context // ends with Close
	end  context.CancelFunc
	wg   sync.WaitGroup // whoever fills, and one watcher of each that waits

	mu      sync.Mutex // never held while waiting
	cfg     Config     // asked for last
	idle    []*pooled[K]
	filling bool
}

// pooled is a browser that waits. Whoever removes it from idle owns it.
type pooled[K Trusted] struct {
	b       *Browser
	keys    K
	expires time.Time
	gone    context.CancelFunc // ends its watcher
}

// NewPool makes a pool that keeps size browsers; keys makes those of each.
func NewPool[K Trusted](size int, keys func() (K, error)) *Pool[K] {
	p := &Pool[K]{size: size, keys: keys, age: poolAge, pause: poolPause}
	p.life, p.end = context.WithCancel(context.Background())
	return p
}

// Take gives a browser away, one that waited if there is one and else a new one.
// The keys are the pool's to choose: cfg names none.
func (p *Pool[K]) Take(ctx context.Context, cfg Config) (*Browser, K, error) {
	var none K
	cfg, err := cfg.whole()
	if err != nil {
		return nil, none, err
	}
	p.mu.Lock()
	p.cfg = cfg
	p.mu.Unlock()
	defer p.fill()
	for m := p.pop(cfg); m != nil; m = p.pop(cfg) {
		if err := m.b.fresh(ctx); err == nil {
			return m.b, m.keys, nil
		}
		m.b.Close()
	}
	return p.launch(ctx, cfg)
}

// Idle is how many wait.
func (p *Pool[K]) Idle() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.idle)
}

// Close ends what is kept. Take starts new ones from then on.
func (p *Pool[K]) Close() {
	p.mu.Lock() // nothing begins to be filled after the end
	p.end()
	p.mu.Unlock()
	p.wg.Wait()
}

func (p *Pool[K]) launch(ctx context.Context, cfg Config) (*Browser, K, error) {
	var none K
	k, err := p.keys()
	if err != nil {
		return nil, none, err
	}
	cfg.TrustSPKI = k.SPKI()
	b, err := Launch(ctx, cfg)
	if err != nil {
		return nil, none, err
	}
	return b, k, nil
}

// pop removes the oldest that may be given away, and ends those before it that
// may not.
func (p *Pool[K]) pop(cfg Config) *pooled[K] {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.idle) > 0 {
		m := p.idle[0]
		p.idle = p.idle[1:]
		m.gone()
		own := m.b.cfg
		own.TrustSPKI = ""
		if own == cfg && time.Now().Before(m.expires) {
			return m
		}
		p.wg.Go(func() { m.b.Close() })
	}
	return nil
}

// fill starts what is missing, one after the other, beside everything else. When
// one cannot be started it gives up: the next Take meets the same and says so.
func (p *Pool[K]) fill() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.filling || p.size == 0 || p.life.Err() != nil {
		return
	}
	p.filling = true
	p.wg.Go(func() {
		wait := time.NewTimer(p.pause)
		defer wait.Stop()
		select {
		case <-wait.C:
		case <-p.life.Done():
		}
		for p.missing() {
			p.mu.Lock()
			cfg := p.cfg
			p.mu.Unlock()
			b, k, err := p.launch(p.life, cfg)
			if err != nil {
				p.mu.Lock()
				p.filling = false
				p.mu.Unlock()
				return
			}
			p.keep(b, k)
		}
	})
}

// missing reports whether there is one to start, and otherwise ends the filling.
func (p *Pool[K]) missing() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.filling = len(p.idle) < p.size && p.life.Err() == nil
	return p.filling
}

func (p *Pool[K]) keep(b *Browser, k K) {
	ctx, gone := context.WithCancel(p.life)
	m := &pooled[K]{b: b, keys: k, expires: time.Now().Add(p.age), gone: gone}
	p.mu.Lock()
	p.idle = append(p.idle, m)
	p.mu.Unlock()
	p.wg.Go(func() {
		defer gone()
		wait := time.NewTimer(p.age)
		defer wait.Stop()
		select {
		case <-ctx.Done(): // taken, or the pool is closed
		case <-b.Done():
		case <-wait.C:
		}
		p.mu.Lock()
		i := slices.Index(p.idle, m)
		if i >= 0 {
			p.idle = slices.Delete(p.idle, i, i+1)
		}
		p.mu.Unlock()
		if i >= 0 {
			b.Close()
		}
	})
}

// fresh asks a browser that has waited whether it is still what was started: the
// same product, and the first page with its guard.
func (b *Browser) fresh(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, freshLimit)
	defer cancel()
	version, err := b.product(ctx)
	if err != nil {
		return err
	}
	if version != b.version {
		return errClosed
	}
	_, err = b.current(ctx)
	return err
}

// freshLimit bounds the question: one that does not answer at once is not worth
// the wait.
const freshLimit = 2 * time.Second
