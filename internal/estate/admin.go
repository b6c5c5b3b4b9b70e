package estate

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
)

// adminHandler answers on the admin listener: the state of a copy, its reset
// and its hostile items. It has no authentication, and knows nothing that a
// process of this machine's user could not find out. It refuses what a page in
// a browser could send: any Origin, and any Host that is not a loopback address
// (DNS rebinding).
func (e *Estate) adminHandler() http.Handler {
	mux := http.NewServeMux()
	handle := func(pattern string, fn func(*Copy, *http.Request) (any, error)) {
		mux.HandleFunc(pattern, func(w http.ResponseWriter, r *http.Request) {
			stage := r.URL.Query().Get("stage")
			if stage == "" {
				stage = string(Production)
			}
			c := e.copies[Stage(stage)]
			if n := r.URL.Query().Get("world"); n != "" && c != nil {
				i, _ := strconv.Atoi(n) // no number is no world
				c = e.World(Stage(stage), i)
			}
			if c == nil {
				adminJSON(w, http.StatusNotFound, map[string]string{"error": "no such stage or world"})
				return
			}
			v, err := fn(c, r)
			if err != nil {
				adminJSON(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
				return
			}
			adminJSON(w, http.StatusOK, v)
		})
	}
	mux.HandleFunc("POST /worlds", func(w http.ResponseWriter, r *http.Request) {
		n, _ := strconv.Atoi(r.URL.Query().Get("n")) // 0 is refused
		stage := Stage(cmp.Or(r.URL.Query().Get("stage"), string(Sandbox)))
		if e.copies[stage] == nil {
			adminJSON(w, http.StatusNotFound, map[string]string{"error": "no such stage or world"})
			return
		}
		all, err := e.Worlds(stage, n)
		if err != nil {
			adminJSON(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
			return
		}
		adminJSON(w, http.StatusOK, all)
	})
	handle("GET /state", func(c *Copy, _ *http.Request) (any, error) { return c.State(), nil })
	handle("POST /reset", func(c *Copy, _ *http.Request) (any, error) {
		c.Reset()
		return c.State(), nil
	})
	handle("GET /hostile", func(c *Copy, _ *http.Request) (any, error) { return hostileView(c), nil })
	handle("POST /hostile", func(c *Copy, r *http.Request) (any, error) {
		names := strings.FieldsFunc(r.URL.Query().Get("set"), func(r rune) bool { return r == ',' })
		seed, err := strconv.ParseUint(cmp.Or(r.URL.Query().Get("seed"), "0"), 10, 64)
		if err != nil {
			return nil, fmt.Errorf("seed %q is no number from 0 to 2^64-1", r.URL.Query().Get("seed"))
		}
		if err := c.SetHostile(names...); err != nil {
			return nil, err
		}
		c.Seed(seed)
		return hostileView(c), nil
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host, _, err := net.SplitHostPort(r.Host)
		if err != nil {
			host = r.Host
		}
		ip, err := netip.ParseAddr(host)
		if err != nil || !ip.IsLoopback() || r.Header.Get("Origin") != "" {
			adminJSON(w, http.StatusForbidden, map[string]string{"error": "not for browsers"})
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func hostileView(c *Copy) any {
	return map[string]any{"on": c.Hostile(), "items": Hostiles(), "descriptions": c.Sayings()}
}

func adminJSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(v)
}
