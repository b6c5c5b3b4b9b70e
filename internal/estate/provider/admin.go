package provider

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
)

// Admin is how a demonstration or a suite changes the script while it runs:
//
//	POST /behaviour?set=NAME[&world=N]  of Behaviours
//	POST /worlds?n=N
//	POST /model?set=NAME
//
// It is for a loopback listener of its own, unauthenticated: whoever reaches it
// commands a script, nothing else. Requests of web pages are refused.
func (p *Provider) Admin() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /behaviour", func(w http.ResponseWriter, r *http.Request) {
		b := Behaviour(r.URL.Query().Get("set"))
		if !slices.Contains(Behaviours(), b) {
			http.Error(w, fmt.Sprintf("set: want one of %v", Behaviours()), http.StatusBadRequest)
			return
		}
		n, err := strconv.Atoi(cmp.Or(r.URL.Query().Get("world"), "0"))
		x := p.world(n)
		if err != nil || x == nil {
			http.Error(w, "world: there is none of that number", http.StatusNotFound)
			return
		}
		x.SetBehaviour(b)
	})
	mux.HandleFunc("POST /worlds", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.URL.Query().Get("n")) // 0 is refused
		all, err := p.Worlds(n)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		out := []map[string]string{}
		for _, x := range all {
			out = append(out, map[string]string{"for": strings.TrimPrefix(p.url, "https://"), "address": strings.TrimPrefix(x.url, "https://")})
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(out)
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
