package seal

// AtStep has f run at each step of writing a ring.
func AtStep(f func(string)) { step = f }

// Held are the data keys that a root holds now, as they are in memory.
func Held(r *Root) (out [][]byte) {
	for _, k := range r.keys {
		out = append(out, k.b)
	}
	return out
}
