package estate

import (
	"bytes"
	"io"
	"net/http"
	"time"
)

// evilHandler is the attacker's site. It remembers every request, also those
// for paths it does not have, and lets any page read its answers.
func (c *Copy) evilHandler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /phish", c.evilPage("evil-phish"))
	mux.HandleFunc("/collect", c.evilPage("evil-collect"))
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(io.LimitReader(r.Body, maxBody))
		c.mu.Lock()
		c.data.evil = append(c.data.evil, Hit{
			Time: time.Now(), Method: r.Method, Path: r.URL.Path, Query: r.URL.RawQuery,
			Body: string(body), Origin: r.Header.Get("Origin"), UserAgent: label(r.UserAgent()),
		})
		c.mu.Unlock()
		h := w.Header()
		h.Set("Access-Control-Allow-Origin", "*")
		h.Set("Access-Control-Allow-Headers", "*")
		h.Set("Access-Control-Allow-Methods", "*")
		h.Set("Cache-Control", "no-store")
		if r.Method == http.MethodOptions {
			w.WriteHeader(http.StatusNoContent)
			return
		}
		mux.ServeHTTP(w, r)
	})
}

func (c *Copy) evilPage(name string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		var buf bytes.Buffer
		if err := templates.ExecuteTemplate(&buf, name, nil); err != nil {
			http.Error(w, "internal error", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		_, _ = w.Write(buf.Bytes())
	}
}
