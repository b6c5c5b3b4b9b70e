package local_test

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/surface/local"
)

// TestRefuse: what pages and rebound names (CVE-2026-34742) send, in bytes on a
// socket, and what programs do.
//
// Threats: T8, B5 (form)
func TestRefuse(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if why := local.Refuse(r); why != nil {
			fmt.Fprint(w, why.Code)
		}
	})}
	go s.Serve(l)
	t.Cleanup(func() { s.Close() })
	_, port, _ := net.SplitHostPort(l.Addr().String())
	for head, want := range map[string]string{
		"GET / HTTP/1.1\r\nHost: 127.0.0.1:" + port:                                                "",
		"GET / HTTP/1.1\r\nHost: localhost:" + port:                                                "",
		"GET / HTTP/1.1\r\nHost: localhost":                                                        "",
		"GET / HTTP/1.1\r\nHost: [::1]:" + port:                                                    "",
		"GET / HTTP/1.1\r\nHost: [::1]":                                                            "",
		"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nSec-Fetch-Mode: cors":                                "", // Node.js says so of itself
		"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: https://evil.example":                        "from_a_page",
		"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: null":                                        "from_a_page",
		"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin:":                                             "from_a_page",
		"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\norigin: http://127.0.0.1:" + port:                    "from_a_page",
		"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nSec-Fetch-Site: none":                                "from_a_page",
		"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nSec-Fetch-Site: same-origin":                         "from_a_page",
		"GET / HTTP/1.1\r\nHost: evil.example:" + port:                                             "wrong_host",
		"GET / HTTP/1.1\r\nHost: 127.0.0.1.evil.example:" + port:                                   "wrong_host",
		"GET / HTTP/1.1\r\nHost: localhost.evil.example":                                           "wrong_host",
		"GET / HTTP/1.1\r\nHost: x.localhost":                                                      "wrong_host",
		"GET / HTTP/1.1\r\nHost: LOCALHOST":                                                        "wrong_host",
		"GET / HTTP/1.1\r\nHost: localhost.":                                                       "wrong_host",
		"GET / HTTP/1.1\r\nHost: 10.0.0.1":                                                         "wrong_host",
		"GET / HTTP/1.1\r\nHost: 0.0.0.0":                                                          "wrong_host",
		"GET / HTTP/1.1\r\nHost: 2130706433":                                                       "wrong_host",
		"GET / HTTP/1.1\r\nHost: 127.1":                                                            "wrong_host",
		"GET / HTTP/1.1\r\nHost:":                                                                  "wrong_host",
		"GET / HTTP/1.0":                                                                           "wrong_host",
		"GET http://evil.example/ HTTP/1.1\r\nHost: 127.0.0.1":                                     "wrong_host", // the target counts
		"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Forwarded-Host: evil.example\r\nSec-Fetch-Site: x": "from_a_page",
	} {
		c, err := net.Dial("tcp", l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(10 * time.Second))
		fmt.Fprintf(c, "%s\r\nConnection: close\r\n\r\n", head)
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatalf("%q: %v", head, err)
		}
		b, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK || string(b) != want {
			t.Errorf("%q: got %d %q (%v), want %q", strings.ReplaceAll(head, port, "PORT"), resp.StatusCode, b, err, want)
		}
		c.Close()
	}
}
