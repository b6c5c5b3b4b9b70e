package provider

import (
	"net"
	"net/http"
)

// Admin is how a demonstration or a suite changes the script while it runs:
//
//	POST /behaviour?set=honest|gullible
//	POST /model?set=NAME
//
// It is for a loopback listener of its own, unauthenticated: whoever reaches it
// commands a script, nothing else. Requests of web pages are refused.
func (p *Provider) Admin() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /behaviour", func(w http.ResponseWriter, r *http.Request) {
		b := Behaviour(r.URL.Query().Get("set"))
		if b != Honest && b != Gullible {
			http.Error(w, "set: want honest or gullible", http.StatusBadRequest)
			return
		}
		p.SetBehaviour(b)
	})
	mux.HandleFunc("POST /model", func(w http.ResponseWriter, r *http.Request) {
		name := r.URL.Query().Get("set")
		if name == "" {
			http.Error(w, "set: want a model name", http.StatusBadRequest)
			return
		}
		p.SetModel(name)
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		ip := net.ParseIP(host)
		if r.Header.Get("Origin") != "" || err != nil || ip == nil || !ip.IsLoopback() {
			http.Error(w, "only local programs", http.StatusForbidden)
			return
		}
		mux.ServeHTTP(w, r)
	})
}
