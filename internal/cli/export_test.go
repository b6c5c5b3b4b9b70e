package cli

// Progress shows how far a run is.
var Progress = progress
