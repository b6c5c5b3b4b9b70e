package api

// For the tests of tables and of single sockets.
var (
	MayLaunch  = mayLaunch
	ListenUnix = listenUnix
)

// Routes are the patterns of everything on the socket.
func Routes() []string {
	a := &api{}
	a.handler()
	return a.routes
}
