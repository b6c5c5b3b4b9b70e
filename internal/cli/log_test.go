package cli

import (
	"bytes"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	stdlog "log"
)

// An origin sends an answer that nobody asked for, with a secret and a line
// break in it: net/http logs that, and it must be in no log.
//
// Threats: T44, C10 (door)
func TestUnaskedAnswerIsNotLogged(t *testing.T) {
	was, old := stdlog.Writer(), slog.Default()
	defer func() { slog.SetDefault(old); stdlog.SetOutput(was) }()
	var ours, theirs bytes.Buffer
	stdlog.SetOutput(&theirs)
	onlyLog(slog.New(slog.NewTextHandler(&ours, nil)))
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		b := make([]byte, 4096)
		if _, err := c.Read(b); err != nil {
			return
		}
		c.Write([]byte("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 200 OK\r\nX: the-secret\r\n\r\n"))
		c.SetDeadline(time.Now().Add(10 * time.Second))
		c.Read(b) // until the client has closed it
	}()
	resp, err := (&http.Client{Transport: &http.Transport{}}).Get("http://" + l.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	<-gone
	slog.Error("a line of ours")
	if got := ours.String() + theirs.String(); strings.Contains(got, "the-secret") || !strings.Contains(got, "a line of ours") {
		t.Errorf("logged: %s", got)
	}
}
