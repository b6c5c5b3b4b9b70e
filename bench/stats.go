package main

import (
	"math"
	"slices"
	"time"
)

// samples are the times of single operations.
type samples []time.Duration

// at is the q-quantile by nearest rank; 0 of nothing.
func (s samples) at(q float64) time.Duration {
	if len(s) == 0 {
		return 0
	}
	t := slices.Sorted(slices.Values(s))
	return t[min(len(t)-1, max(0, int(math.Ceil(q*float64(len(t))))-1))]
}

func (s samples) p50() time.Duration { return s.at(0.50) }
func (s samples) p99() time.Duration { return s.at(0.99) }

// rate is operations per second of one caller that did them one after another.
func (s samples) rate() float64 {
	var sum time.Duration
	for _, d := range s {
		sum += d
	}
	return float64(len(s)) / sum.Seconds()
}

// pair is one thing and its baseline, round by round.
type pair struct{ own, base []samples }

// each does n of own and n of base in turn, in blocks short enough that what
// else the machine does meets both, and keeps them as one round. A block begins
// with the one that the block before did not begin with.
func (p *pair) each(n int, own, base func() (time.Duration, error)) error {
	const block = 25
	var o, s samples
	turn := func(into *samples, f func() (time.Duration, error), n int) error {
		for range n {
			d, err := f()
			if err != nil {
				return err
			}
			*into = append(*into, d)
		}
		return nil
	}
	for i := 0; n > 0; i++ {
		k := min(block, n)
		n -= k
		first, second := func() error { return turn(&s, base, k) }, func() error { return turn(&o, own, k) }
		if i%2 == 1 {
			first, second = second, first
		}
		if err := first(); err != nil {
			return err
		}
		if err := second(); err != nil {
			return err
		}
	}
	p.own, p.base = append(p.own, o), append(p.base, s)
	return nil
}

// ratio is the median over the rounds of own p50 to base p50.
func (p *pair) ratio() float64 {
	var r []float64
	for i := range p.own {
		r = append(r, float64(p.own[i].p50())/float64(p.base[i].p50()))
	}
	return median(r)
}

// p50 of both, as the median over the rounds.
func (p *pair) p50() (own, base time.Duration) {
	return medianOf(p.own, samples.p50), medianOf(p.base, samples.p50)
}

// added is the median over the rounds of the difference of the p50s.
func (p *pair) added() time.Duration {
	var d []time.Duration
	for i := range p.own {
		d = append(d, p.own[i].p50()-p.base[i].p50())
	}
	return median(d)
}

func medianOf(rounds []samples, f func(samples) time.Duration) time.Duration {
	var d []time.Duration
	for _, r := range rounds {
		d = append(d, f(r))
	}
	return median(d)
}

func median[T int64 | float64 | time.Duration](v []T) T {
	if len(v) == 0 {
		return 0
	}
	v = slices.Sorted(slices.Values(v))
	return (v[(len(v)-1)/2] + v[len(v)/2]) / 2
}

// timed is how long f takes.
func timed(f func() error) (time.Duration, error) {
	start := time.Now()
	err := f()
	return time.Since(start), err
}
