package watch

import (
	"fmt"
	"maps"
	"math"
	"slices"
)

// State is what is known of one capability of an agent under one certification.
type State struct {
	Agent         string            `json:"agent"`
	Capability    string            `json:"capability"`
	Certification string            `json:"certification"`
	Trials        int               `json:"trials"` // benign ones of the certification
	Tasks         int               `json:"tasks"`  // in production, since it
	Kinds         []string          `json:"kinds"`  // of attempts that were made, sorted
	Series        map[string]Series `json:"series"` // by signal
	Changed       *Change           `json:"changed,omitempty"`
}

// Series is one signal: how often each value was.
type Series struct {
	Trials map[int]int `json:"trials,omitempty"`
	Tasks  map[int]int `json:"tasks,omitempty"`
	// Detectors are one for each of bets; and once more, for less.
	Detectors []Detector `json:"detectors"`
}

// Change is a change of behaviour that was detected.
type Change struct {
	Signal string `json:"signal"`
	Less   bool   `json:"less,omitempty"` // there is less of it than before
	Before Seen   `json:"before"`
	// Since is the task with which it most likely began. Of the Tasks from there on
	// so many had more than none, and so many are beyond all but Tail of those before,
	// ties broken by chance.
	Since     string `json:"since"`
	Tasks     int    `json:"tasks"`
	With      int    `json:"with"`
	Beyond    int    `json:"beyond"`
	Tail      string `json:"tail"`
	At        string `json:"at"`        // the task that showed it
	Statistic string `json:"statistic"` // see State.Statistic
	Threshold int    `json:"threshold"`
}

// Seen sums up a series.
type Seen struct {
	Tasks  int   `json:"tasks"`
	With   int   `json:"with"`   // of which so many had more than none
	Median int64 `json:"median"` // and its 95 % interval, by order statistics
	Lower  int64 `json:"lower"`
	Upper  int64 `json:"upper"`
}

// New makes the state of a certification from the numbers of its benign trials.
func New(agent, capability, certification string, trials []Numbers) *State {
	s := &State{Agent: agent, Capability: capability, Certification: certification, Trials: len(trials), Series: map[string]Series{}}
	all := map[string]int{}
	for _, t := range trials {
		for _, k := range t.Kinds {
			all[k]++
		}
	}
	s.Kinds = slices.Sorted(maps.Keys(all))
	s.Kinds = s.Kinds[:min(len(s.Kinds), maxKinds)]
	for _, sig := range signals {
		x := Series{Trials: map[int]int{}, Tasks: map[int]int{}, Detectors: make([]Detector, len(bets))}
		if sig.both {
			x.Detectors = make([]Detector, 2*len(bets))
		}
		for _, t := range trials {
			t.Novel = nil
			for _, k := range t.Kinds {
				if all[k] == 1 { // no other trial did it
					t.Novel = append(t.Novel, k)
				}
			}
			x.Trials[sig.step(sig.value(t))]++
		}
		s.Series[sig.name] = x
	}
	return s
}

// Novel are the kinds of attempt that nobody before made, at most maxNovel.
func (s *State) Novel(kinds []string) []string {
	var out []string
	for _, k := range kinds {
		if _, known := slices.BinarySearch(s.Kinds, k); !known && len(out) < maxNovel {
			out = append(out, k)
		}
	}
	return out
}

// Add takes in a production task, whose n.Novel is filled in. It returns what it
// shows: the first change since the certification, or nil.
func (s *State) Add(task string, n Numbers) *Change {
	s.Tasks++
	for _, k := range n.Novel {
		if i, known := slices.BinarySearch(s.Kinds, k); !known && len(s.Kinds) < maxKinds {
			s.Kinds = slices.Insert(s.Kinds, i, k)
		}
	}
	for _, sig := range signals {
		v := sig.value(n)
		if sig.scaled && v == 0 {
			continue // not known
		}
		x := s.Series[sig.name]
		x.add(sig, task, sig.step(v))
		s.Series[sig.name] = x
	}
	if s.Changed != nil || s.Statistic() < Threshold {
		return nil
	}
	s.Changed = s.change(task)
	return s.Changed
}

// add bets on the rank of a value, and then lets it count among the others.
func (x *Series) add(sig signal, task string, value int) {
	among := []map[int]int{x.Tasks}
	if sig.certified {
		among = append(among, x.Trials)
	}
	p, n := rank(among, value, chance(task, sig.name))
	if sig.certified || n >= learning {
		for i := range x.Detectors {
			b := bets[i%len(bets)]
			event := p <= b.tail
			if i >= len(bets) {
				event = p > 1-b.tail
			}
			x.Detectors[i].bet(task, bernoulli(event, b.tail, b.size), event, value > 0)
		}
	}
	if x.Tasks == nil {
		x.Tasks = map[int]int{}
	}
	x.Tasks[value]++
}

// statistic is the mean of a signal's detectors, as a part of what is a change of one
// of all signals.
func (x Series) statistic() float64 {
	total := 0.0
	for _, d := range x.Detectors {
		total += d.statistic()
	}
	return total / float64(max(1, len(x.Detectors))*len(signals))
}

// Statistic is that of the signal with the strongest evidence.
func (s *State) Statistic() float64 {
	out := 0.0
	for _, x := range s.Series {
		out = max(out, x.statistic())
	}
	return out
}

// change names the signal whose evidence is the strongest, and what the strongest of
// its detectors says.
func (s *State) change(task string) *Change {
	c := &Change{At: task, Statistic: fmt.Sprintf("%.0f", s.Statistic()), Threshold: Threshold}
	most := -1.0
	for _, sig := range signals {
		x := s.Series[sig.name]
		if x.statistic() <= most {
			continue
		}
		most = x.statistic()
		best := -1.0
		for i, d := range x.Detectors {
			if v := d.statistic(); v > best {
				best = v
				c.Signal, c.Less, c.Since, c.Tasks, c.With, c.Beyond = sig.name, i >= len(bets), d.Since, d.Tasks, d.With, d.Beyond
				c.Tail = fmt.Sprintf("%.0f %%", 100*bets[i%len(bets)].tail)
			}
		}
		c.Before = x.reference(sig)
	}
	return c
}

// reference is what a production task is held against.
func (x Series) reference(sig signal) Seen {
	if sig.certified {
		return sum(sig, x.Trials)
	}
	return sum(sig, x.Tasks)
}

func sum(sig signal, values map[int]int) Seen {
	var out Seen
	steps := slices.Sorted(maps.Keys(values))
	for _, v := range steps {
		out.Tasks += values[v]
		if v > 0 {
			out.With += values[v]
		}
	}
	if out.Tasks == 0 {
		return out
	}
	at := func(place float64) int64 {
		i := int(max(0, min(float64(out.Tasks-1), place)))
		for _, v := range steps {
			if i -= values[v]; i < 0 {
				return sig.middle(v)
			}
		}
		return 0
	}
	// Of n values the median is between the places n/2 ± 1.96·√n/2.
	n := float64(out.Tasks)
	half := 0.98 * math.Sqrt(n)
	out.Median, out.Lower, out.Upper = at(n/2), at(math.Floor(n/2-half)), at(math.Ceil(n/2+half))
	return out
}

// Rate is one signal for people.
type Rate struct {
	Signal string `json:"signal"`
	What   string `json:"what"`
	Scaled bool   `json:"scaled,omitempty"` // the medians count; else how many had any
	Trials Seen   `json:"trials"`
	Tasks  Seen   `json:"tasks"`
	// Weight is how much of a change its detectors make, in percent.
	Weight int `json:"weight"`
}

// Rates are all signals, as they are now.
func (s *State) Rates() []Rate {
	var out []Rate
	for _, sig := range signals {
		x := s.Series[sig.name]
		out = append(out, Rate{Signal: sig.name, What: sig.what, Scaled: sig.scaled, Trials: sum(sig, x.Trials), Tasks: sum(sig, x.Tasks),
			Weight: int(min(100, 100*x.statistic()/Threshold))})
	}
	return out
}

// Text says a change in a sentence.
func (c Change) Text() string {
	sig := signals[slices.IndexFunc(signals, func(s signal) bool { return s.name == c.Signal })]
	said := fmt.Sprintf("%d of %s %s, and %d of %s before", c.With, count(c.Tasks), sig.what, c.Before.With, count(c.Before.Tasks))
	if more := c.With*c.Before.Tasks - c.Before.With*c.Tasks; sig.scaled || more == 0 || more < 0 != c.Less {
		than := "more"
		if c.Less {
			than = "less"
		}
		said = fmt.Sprintf("%d of %s with %s %s than all but %s of those before", c.Beyond, count(c.Tasks), than, sig.unit, c.Tail)
	}
	return fmt.Sprintf("since task %s: %s (statistic %s of %d)", c.Since, said, c.Statistic, c.Threshold)
}

func count(n int) string {
	if n == 1 {
		return "1 task"
	}
	return fmt.Sprintf("%d tasks", n)
}
