package contain

func namespaceObstacle() string { return "" }
