package certify

// MayFail is how often what passed so many of its trials may fail: the upper end of
// the 95 % interval.
func MayFail(passed, trials int) float64 {
	lower, _ := wilson(passed, trials)
	return 1 - lower
}
