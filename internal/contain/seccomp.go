package contain

func filter(nested bool) error { return nil }
