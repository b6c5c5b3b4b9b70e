package seal

// AtStep has f run at each step of writing a ring.
func AtStep(f func(string)) { step = f }
