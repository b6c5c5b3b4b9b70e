package api

import (
	"context"
	"net/http"
	"net/http/httptest"
	"os"

	"github.com/sallyport-dev/sallyport/internal/server"
)

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

// HungUp answers a request of the server's own user, who has gone away.
func HungUp(s *server.Server, r *http.Request) *httptest.ResponseRecorder {
	ctx, cancel := context.WithCancel(context.WithValue(r.Context(), peerKey{}, os.Getuid()))
	cancel()
	w := httptest.NewRecorder()
	(&api{s: s}).handler().ServeHTTP(w, r.WithContext(ctx))
	return w
}
