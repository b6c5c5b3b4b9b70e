package contain

func runProbe() {}
