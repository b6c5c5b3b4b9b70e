package api

// For the tests of tables and of single sockets.
var (
	MayLaunch  = mayLaunch
	ListenUnix = listenUnix
)
