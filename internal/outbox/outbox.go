// Package outbox hands on, to somebody outside, what follows from a tenant's
// records: the log is the queue, and a cursor of each receiver says how much of it
// they have.
//
// Invariants:
//   - One receiver is served by one goroutine at a time, in the order of the log.
//   - Who is served says itself, durably, when the receiver has something. A crash
//     in between hands it on again; nothing is lost, and the log waits for nobody.
//   - A receiver that is away keeps nobody waiting but itself.
//   - What is dialled is the address that was checked, and no redirect is followed.
//
// Not trusted: the receivers. Their answers are bounded in size and time.
package outbox

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/record"
)

const (
	// Every is how often the log is looked at for a receiver.
	Every   = 500 * time.Millisecond
	maxWait = 5 * time.Minute // between two tries that fail
)

// Place is where one receiver stands, as this process knows it; all of it can be
// lost. The zero value knows nothing.
type Place struct {
	sync.Mutex       // held while the receiver is served
	scanned    int64 // nothing for the receiver is in the records before it

	mu    sync.Mutex // guards what follows
	trial Trial
}

// Trial is how serving a receiver goes.
type Trial struct {
	Waits time.Time // of the oldest record that the receiver has not; zero if it has all
	Fails int       // tries in a row
	Retry time.Time // when it is tried again
	Why   string    // of the last failure
}

// Trial returns how it goes.
func (p *Place) Trial() Trial {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.trial
}

// Pass says that nothing for the receiver is in the records before seq. The caller
// has the Place locked.
func (p *Place) Pass(seq int64) { p.scanned = max(p.scanned, seq) }

// Passed is before which record nothing is for the receiver, as far as is known. The
// caller has the Place locked.
func (p *Place) Passed() int64 { return p.scanned }

// Again forgets what is known: the receiver is read for from its cursor, now. The
// caller has the Place locked.
func (p *Place) Again() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.scanned, p.trial = 0, Trial{}
}

// result keeps what came of a try.
func (p *Place) result(err error) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil {
		p.trial = Trial{Waits: p.trial.Waits}
		return 0
	}
	n := p.trial.Fails + 1
	p.trial.Fails, p.trial.Why, p.trial.Retry = n, err.Error(), time.Now().Add(min(maxWait, time.Second<<min(n-1, 9)))
	return n
}

func (p *Place) waits(since time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.trial.Waits = since
}

// Job serves one receiver once. It is called with its Place locked, reads its
// cursor itself, and returns nil when the receiver has what there was.
type Job struct {
	Place *Place
	Name  string
	Serve func(context.Context) error
}

// Run serves until ctx ends. jobs says who is to be served now; those that it names
// beside an error are served too.
func Run(ctx context.Context, log record.Log, what string, jobs func(context.Context) ([]Job, error)) {
	var wg sync.WaitGroup
	defer wg.Wait()
	tick := time.NewTicker(Every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		all, _ := jobs(ctx) // the ledger says itself that it cannot be read
		for _, j := range all {
			if time.Now().Before(j.Place.Trial().Retry) || !j.Place.TryLock() {
				continue
			}
			wg.Go(func() {
				defer j.Place.Unlock()
				err := j.Serve(ctx)
				if n := j.Place.result(err); err != nil && ctx.Err() == nil {
					slog.WarnContext(ctx, what, "tenant", log.Tenant(), "receiver", j.Name, "tries", n, "err", err)
				}
			})
		}
	}
}

var errEnough = errors.New("enough")

// Pending reads what a receiver has not, at most so many: what derive makes of the
// records from next on. The caller has the Place locked.
func Pending[T any](ctx context.Context, log record.Log, p *Place, next int64, most int, derive func(record.Entry) (T, bool)) ([]T, error) {
	var out []T
	var since time.Time
	err := log.Entries(ctx, max(next, p.scanned), func(e record.Entry) error {
		o, ok := derive(e)
		switch {
		case ok:
			if out = append(out, o); len(out) == 1 {
				since = e.Time
			}
		case len(out) == 0:
			p.scanned = e.Seq + 1
		}
		if len(out) == most {
			return errEnough
		}
		return nil
	})
	if err != nil && !errors.Is(err, errEnough) {
		return nil, err
	}
	p.waits(since)
	return out, nil
}
