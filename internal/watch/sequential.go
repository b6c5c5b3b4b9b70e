package watch

import (
	"crypto/sha256"
	"encoding/binary"
	"math"
)

// The test is sequential: it is asked after every task, for as long as there are
// tasks. Each signal has a few detectors, one for each tail that it looks at and each
// size of a change. After each task a detector bets against "nothing changed", with an
// e-value: a number that is 1 on average while nothing changed, whatever the bets of
// the signal before came to. The Shiryaev-Roberts statistic M' = (1+M)·e adds up the
// bets that were begun at each task, so M - n is a martingale, and so is the mean M of
// a signal's detectors. By optional stopping it reaches Threshold times the number of
// signals within n tasks with probability n/Threshold by signals at most; so one of
// them does with probability n/Threshold at most, however the numbers are distributed
// and however signals depend on each other.
//
// The e-values come from conformal p-values. While nothing changed, the rank of a
// task among all before it is uniform, ties broken by chance, and independent of
// the signal's earlier ranks. No distribution is assumed, and no rate is estimated and
// then taken for true: of few trials little follows. So what is bet on is fixed: a tail
// that followed from the values before would be a bet on more than ranks, of which
// nothing is known. The chance is the hash of the task's id, which has 72 random bits
// and which neither agent nor requester chooses, so that everybody computes the same.
// What is novel is no more so the more is known, which makes its ranks greater, and
// alarms rarer.
//
//   - Shin, Ramdas, Rinaldo: E-detectors: a nonparametric framework for sequential
//     change detection (2023), definition 2.2 and theorem 2.4.
//   - Vovk, Petej, Nouretdinov, Ahlberg, Carlsson, Gammerman: Retrain or not
//     retrain: conformal test martingales for change-point detection (2021).
//   - Ramdas, Ruf, Larsson, Koolen: Testing exchangeability: fork-convexity,
//     supermartingales and e-processes (2022), for why only ranks can be bet on.
//   - Pollak: Optimal detection of a change in distribution (1985), for the
//     Shiryaev-Roberts statistic.

const (
	// Threshold: in n tasks in which nothing changes there is an alarm with probability
	// n/Threshold at most.
	Threshold = 5000
	// learning is how many production tasks are only looked at where there is nothing
	// else to hold one against.
	learning = 20
	// maxLog bounds ln(1+M): far above what is a change, and far below what a float or a
	// canonical document holds.
	maxLog = 100
)

// bets are what detectors bet on: that a rank is in a tail, and how much of what was
// none of it becomes so.
var bets = []struct{ tail, size float64 }{{0.03, 0.2}, {0.03, 0.6}, {0.1, 0.2}, {0.1, 0.6}, {0.3, 0.2}, {0.3, 0.6}}

// nano is the scale of the logarithms that are kept: a canonical document has no
// fractions.
const nano = 1e9

// Detector is one Shiryaev-Roberts statistic, and since when the evidence is for a
// change (the last time that the CUSUM of the same bets was at zero).
type Detector struct {
	Sum    int64  `json:"sum"`              // ln(1+M)
	Cusum  int64  `json:"cusum,omitempty"`  // ln
	Since  string `json:"since,omitempty"`  // the first task of the change, if it is one
	Tasks  int    `json:"tasks,omitempty"`  // from there on
	Beyond int    `json:"beyond,omitempty"` // of which so many were events
	With   int    `json:"with,omitempty"`   // and so many had more than none
}

// bet adds one e-value. with says that the task had more than none.
func (d *Detector) bet(task string, e float64, event, with bool) {
	log := math.Log(e)
	d.Sum = int64(nano * min(maxLog, math.Log1p(math.Exp(float64(d.Sum)/nano+log))))
	if d.Cusum <= 0 {
		d.Cusum, d.Since, d.Tasks, d.Beyond, d.With = 0, task, 0, 0, 0
	}
	d.Cusum = min(d.Cusum+int64(nano*log), maxLog*nano)
	d.Tasks++
	if event {
		d.Beyond++
	}
	if with {
		d.With++
	}
}

// statistic is M.
func (d Detector) statistic() float64 { return math.Expm1(float64(d.Sum) / nano) }

// bernoulli is the e-value of an event whose probability is p at most: the ratio of
// its likelihoods, if so much of what was no event becomes one, and if it does not.
func bernoulli(event bool, p, size float64) float64 {
	if event {
		return (p + (1-p)*size) / p
	}
	return 1 - size
}

// rank is the conformal p-value of a value among those of histograms, n in all: small
// for a great value.
func rank(among []map[int]int, value int, chance float64) (p float64, n int) {
	greater, equal := 0, 1
	for _, values := range among {
		for v, times := range values {
			n += times
			switch {
			case v > value:
				greater += times
			case v == value:
				equal += times
			}
		}
	}
	return (float64(greater) + chance*float64(equal)) / float64(n+1), n
}

// chance of a task, in (0, 1).
func chance(task, what string) float64 {
	sum := sha256.Sum256([]byte(task + "\x00" + what))
	return (float64(binary.BigEndian.Uint64(sum[:8])>>11) + 0.5) / (1 << 53)
}
