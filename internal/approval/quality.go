package approval

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"time"

	"github.com/sallyport-dev/sallyport/internal/record"
)

// HastyMillis is how soon after it was asked a signature is taken to have been
// given without reading, in milliseconds.
const HastyMillis = 3000

// Quality is how the people of a tenant decide, over all that is kept.
type Quality struct {
	Open         int            `json:"open"`                 // pending now
	OldestMillis int64          `json:"oldestMillis"`         // how long the oldest of them waits
	OpenByTask   map[string]int `json:"openByTask,omitempty"` // of held actions
	People       []Decider      `json:"people"`               // by name
}

// Decider is how one person decides. Times are from question to signature.
type Decider struct {
	Person        string `json:"person"`
	Signed        int    `json:"signed"`
	Rejected      int    `json:"rejected"`
	MedianMillis  int64  `json:"medianMillis"`
	FastestMillis int64  `json:"fastestMillis"`
	Hasty         int    `json:"hasty"` // signatures within HastyMillis
}

// Quality reads every approval that is kept.
func (e *Engine) Quality(ctx context.Context) (Quality, error) {
	q := Quality{People: []Decider{}}
	now := e.now()
	people := map[string]*Decider{}
	times := map[string][]int64{}
	of := func(name string) *Decider {
		if people[name] == nil {
			people[name] = &Decider{Person: name}
		}
		return people[name]
	}
	err := e.log.View(ctx, func(tx record.Tx) error {
		q.Open, q.OldestMillis, q.OpenByTask = 0, 0, map[string]int{}
		clear(people)
		clear(times)
		for _, state := range []State{Pending, Granted, Used, Rejected, Expired} {
			all, err := list(tx, state)
			if err != nil {
				return err
			}
			for _, a := range all {
				if state == Pending {
					q.Open++
					q.OldestMillis = max(q.OldestMillis, took(a, now))
					if a.Hold {
						q.OpenByTask[a.Statement.Task]++
					}
				}
				if state == Rejected && a.By != "" {
					of(a.By).Rejected++
				}
				for _, s := range a.Signatures {
					times[s.Person] = append(times[s.Person], took(a, s.At))
				}
			}
		}
		return nil
	})
	for name, t := range times {
		slices.Sort(t)
		d := of(name)
		d.Signed, d.FastestMillis, d.MedianMillis = len(t), t[0], t[len(t)/2]
		d.Hasty, _ = slices.BinarySearch(t, HastyMillis)
	}
	for _, d := range people {
		q.People = append(q.People, *d)
	}
	slices.SortFunc(q.People, func(a, b Decider) int { return cmp.Compare(a.Person, b.Person) })
	maps.DeleteFunc(q.OpenByTask, func(task string, _ int) bool { return task == "" })
	return q, err
}

// took is how long people had the question.
func took(a Approval, now time.Time) int64 { return max(0, now.Sub(a.Requested).Milliseconds()) }
