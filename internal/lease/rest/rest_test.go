package rest_test

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/lease/rest"
)

// An upstream whose error repeats what it was sent: what is on record of it has
// nothing of that, and still says what else it said.
//
// Threats: K22 (lease)
func TestRefusalRepeatsNoSecret(t *testing.T) {
	const token = "eyJhbGciOi.token/0123456789+abcdef=="
	for name, echo := range map[string]string{
		"whole": token, "escaped": url.QueryEscape(token), "base64": base64.StdEncoding.EncodeToString([]byte(token)),
		"base64url": base64.URLEncoding.EncodeToString([]byte(token)), "a_piece": token[5:29],
	} {
		srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			w.WriteHeader(http.StatusForbidden)
			json.NewEncoder(w).Encode([]string{"permission denied", "you sent " + echo})
		}))
		c := rest.Client{Origin: srv.URL, HTTP: srv.Client()}
		err := c.Do(t.Context(), "POST", "/", http.Header{"Authorization": {"Bearer " + token}}, nil, nil, func(b []byte) (out []string) { json.Unmarshal(b, &out); return out }, token)
		srv.Close()
		if err == nil || !strings.Contains(err.Error(), "403: permission denied") || strings.Contains(err.Error(), "you sent") {
			t.Errorf("%s: got %v", name, err)
		}
	}
}
