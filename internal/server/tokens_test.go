package server_test

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/lease"
	"github.com/sallyport-dev/sallyport/internal/server"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// login is an authorization server that ends tokens and tells nothing of them.
type login struct {
	*httptest.Server
	given, ended atomic.Int32
}

func newLogin(t testing.TB) *login {
	l := &login{}
	l.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		switch r.URL.Path {
		case "/.well-known/oauth-authorization-server":
			json.NewEncoder(w).Encode(map[string]string{"issuer": l.URL, "token_endpoint": l.URL + "/token", "revocation_endpoint": l.URL + "/revoke"})
		case "/token":
			fmt.Fprintf(w, `{"access_token": "token-0123456789-%d", "token_type": "Bearer", "expires_in": 300}`, l.given.Add(1))
		case "/revoke":
			l.ended.Add(1)
		default:
			w.WriteHeader(http.StatusNotFound)
		}
	}))
	t.Cleanup(l.Close)
	return l
}

// A trial of a certification has a copy of the application. Whether its token is dead
// is asked there, and the application itself never sees it. What a renewal brings and
// the door does not take, as when the source is declared as another meanwhile, ends at
// once: nobody would know of it until the end of the task.
//
// Threats: K1, K2 (lease)
func TestTokenIsEndedWhereItWasLent(t *testing.T) {
	if testing.Short() {
		t.Skip("starts the sample estate")
	}
	as := newLogin(t)
	declared, fixture := newAPI(t, func(string) bool { return true }), newAPI(t, func(string) bool { return false })
	source := fmt.Sprintf(authorizationServer, "client_credentials", "private_key_jwt", as.URL) + "    probe: {path: /me, status: 401}\n"
	r := rig.New(t, rig.Options{Edit: declared.with(source)})
	r.Ready(t)
	addr := func(a *api) string { return a.Listener.Addr().String() }
	x := r.OpenTask(t, server.Routed(rig.Intent(action.Sandbox, "jo", "4711"), map[string]string{addr(declared): addr(fixture)}))
	if _, _, err := r.Server.StartLeases(t.Context(), x.ID); err != nil {
		t.Fatal(err)
	}
	if _, err := r.Server.Revoke(t.Context(), "", rig.As("mara"), "task/"+x.ID, "the test is over"); err != nil {
		t.Fatal(err)
	}
	leases := func(want int) {
		t.Helper()
		all, err := r.Server.Leases(t.Context(), "")
		if err != nil || len(all) != want {
			t.Fatalf("got %+v %v", all, err)
		}
		for _, l := range all {
			if l.State != lease.Revoked {
				t.Errorf("lease %s is %s: %s", l.ID, l.State, l.Why)
			}
		}
	}
	leases(1)
	if got := fixture.all(); len(got) != 1 || !strings.HasPrefix(got[0], "Bearer token-") || len(declared.all()) > 0 || as.ended.Load() != 1 {
		t.Errorf("the copy was asked %q, the application %q, and %d tokens are revoked", got, declared.all(), as.ended.Load())
	}

	asker, err := r.Server.StartAsker(t.Context(), r.OpenTask(t, rig.Intent(action.Sandbox, "jo", "4711")).ID)
	if err != nil {
		t.Fatal(err)
	}
	all, err := r.Resources(declared.with("  type: static-request\n  connector: api\n  secret: {sealed: api-token}\n"))
	if err == nil {
		_, err = r.Server.Apply(t.Context(), rig.As("sven"), all)
	}
	if err == nil {
		err = r.Server.PutSecret(t.Context(), "", rig.As("sven"), "api-token", []byte("a secret that is no token"))
	}
	if err != nil {
		t.Fatal(err)
	}
	if err := asker.Token(t.Context(), "api-token"); err == nil || !strings.Contains(err.Error(), "not a token") {
		t.Errorf("got %v", err)
	}
	leases(2)
}

// A server that gives no token, or only what must be ended again, is not asked for one
// every second.
func TestRenewalsBackOff(t *testing.T) {
	for _, tt := range []struct {
		left   time.Duration
		failed int
		want   time.Duration
	}{
		{time.Hour, 0, 40 * time.Minute}, {time.Second, 0, time.Second}, {-time.Hour, 0, time.Second},
		{20 * time.Minute, 1, time.Second}, {20 * time.Minute, 2, 2 * time.Second}, {time.Second, 5, 16 * time.Second},
		{-time.Hour, 7, time.Minute}, {-time.Hour, 1000, time.Minute},
	} {
		if got := server.RenewIn(tt.left, tt.failed); got != tt.want {
			t.Errorf("%s left, and failed %d times: in %s, want %s", tt.left, tt.failed, got, tt.want)
		}
	}
}
