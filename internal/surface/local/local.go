// Package local is what doors that listen beside the agent share: who their clients
// are, and how all of them are cut (Clients).
//
// It tells a program beside a door from a page that a browser there has open. The
// doors for input, for the model and for the browser's protocol
// listen on loopback addresses without a password: their network namespace is the
// agent's. What a page could send them, it could send without being asked first
// (a "simple request"), and after DNS rebinding also read.
//
// Invariants:
//   - A request with Origin or Sec-Fetch-Site is of a page: a program has no
//     reason to send either.
//   - A request names a loopback address or localhost, and nothing that a
//     resolver has answered.
//
// Not trusted: the request. Headers can be left out by a program, which is who
// may call; a page cannot leave Host out nor choose it.
package local

import (
	"net"
	"net/http"
	"net/netip"
	"strings"
)

// Refusal is why a request is not answered: a stable code, a sentence, and what
// to do.
type Refusal struct{ Code, Message, Next string }

// Refuse reads who a request comes from. It returns nil for a program.
func Refuse(r *http.Request) *Refusal {
	if len(r.Header["Origin"]) > 0 || len(r.Header["Sec-Fetch-Site"]) > 0 {
		return &Refusal{"from_a_page", "requests of web pages are refused", "call from the harness"}
	}
	host := r.Host
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	if a, err := netip.ParseAddr(strings.Trim(host, "[]")); host != "localhost" && (err != nil || !a.IsLoopback()) {
		return &Refusal{"wrong_host", "the request names another host", "use the address that the harness's environment names"}
	}
	return nil
}
