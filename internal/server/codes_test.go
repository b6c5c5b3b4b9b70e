package server_test

import (
	"bytes"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/estate"
	"github.com/sallyport-dev/sallyport/internal/totp"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// blocks are the named blocks of docs/operate.md.
func blocks(t *testing.T) map[string]string {
	t.Helper()
	b, err := os.ReadFile("../../docs/operate.md")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, m := range regexp.MustCompile("(?ms)^<!-- block: ([a-z-]+) -->\n```[a-z]+\n(.*?)^```").FindAllStringSubmatch(string(b), -1) {
		out[m[1]] = m[2]
	}
	return out
}

// recent are the codes of this time step and of n before.
func recent(k totp.Key, n int64) (out []string) {
	for i := range n + 1 {
		out = append(out, k.Code(k.Step(time.Now())-i))
	}
	return out
}

// An application asks its account for a one-time code and takes each once. Tasks that start together sign in one after the other, as the
// lines of docs/operate.md declare it; no code is on record. Codes are not
// replaced in answers, where that would tell who sends all of them which is valid.
//
// Threats: K14 (lease)
func TestSignInWithACode(t *testing.T) {
	if testing.Short() {
		t.Skip("waits for time steps")
	}
	const uri = "otpauth://totp/IAM:svc-helpdesk?secret=GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ&period=2&digits=7"
	key, err := totp.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var taken []string
	page := blocks(t)
	r := rig.New(t, rig.Options{
		Edit: func(files map[string][]byte) {
			rig.Replace("credentials.yaml", "  secret: {sealed: iam-helpdesk}\n", "  secret: {sealed: iam-helpdesk}\n"+page["totp-source"])(files)
			files["connectors.yaml"] = bytes.Replace(files["connectors.yaml"],
				[]byte("    login: {path: /login, username: username, password: password, csrf: _csrf, success: 303}\n"), []byte(page["totp-connector"]), 1)
			rig.Replace("capability.yaml", "credentials: [iam-helpdesk, tickets-helpdesk]", "credentials: [iam-helpdesk]")(files)
		},
		Code: func(_ estate.Stage, app estate.App, name, code string) (asked, right bool) {
			if app != estate.IAM || name != "svc-helpdesk" {
				return false, false
			}
			mu.Lock()
			defer mu.Unlock()
			if slices.Contains(taken, code) {
				return true, false
			}
			taken = append(taken, code)
			return true, slices.Contains(recent(key, 10), code)
		}})
	put := func(value string) error {
		return r.Server.PutSecret(t.Context(), "", rig.As("sven"), "iam-totp", []byte(value))
	}
	if err := put("otpauth://hotp/IAM?counter=1&secret=GEZDGNBVGY3TQOJQ"); err == nil || strings.Contains(err.Error(), "GEZDGNBVGY3TQOJQ") {
		t.Errorf("a counted code: got %v", err)
	}
	r.Ready(t)
	start := func() (string, func(*http.Request) error, func(string) bool, error) {
		id := r.OpenTask(t, rig.Intent(action.Sandbox, "jo", "4711")).ID
		inject, replaced, err := r.Server.StartLeases(t.Context(), id)
		return id, inject, replaced, err
	}
	if _, _, _, err := start(); err == nil || !strings.Contains(err.Error(), "secret put iam-totp") {
		t.Errorf("without the key: got %v", err)
	}
	if err := put(strings.Replace(uri, "GEZDGNBVGY3TQOJQGEZDGNBVGY3TQOJQ", "MFRGGZDFMZTWQ2LKNNWG23TPOA", 1)); err != nil { // another account's
		t.Fatal(err)
	}
	if _, _, _, err := start(); err == nil || !strings.Contains(err.Error(), "was refused with 401") {
		t.Errorf("with another key: got %v", err)
	}
	if err := put(uri); err != nil {
		t.Fatal(err)
	}
	mu.Lock()
	taken = nil
	mu.Unlock()
	var wg sync.WaitGroup
	last := make([]func(string) bool, 3)
	for i := range last {
		wg.Go(func() {
			id, inject, replaced, err := start()
			if err != nil {
				t.Error(err)
				return
			}
			last[i] = replaced
			q, err := http.NewRequest(http.MethodGet, r.Estate.URL(estate.Sandbox, estate.IAM)+"/account/sessions", nil)
			if err == nil {
				err = inject(q)
			}
			if err != nil || len(q.Cookies()) == 0 {
				t.Errorf("task %s has no session: %v", id, err)
			}
		})
	}
	wg.Wait()
	mu.Lock()
	defer mu.Unlock()
	if len(taken) != 3 {
		t.Fatalf("the application was shown %d codes, want 3", len(taken))
	}
	if t.Failed() {
		return
	}
	newest := taken[2]
	for _, text := range []string{newest, "order 1" + newest + "2", strings.Join(taken, " ")} {
		if last[0](text) {
			t.Errorf("%q is replaced, and so tells which code is valid", text)
		}
	}
	for _, e := range r.Records(t, 0) {
		for _, c := range taken {
			if bytes.Contains(e.Body, []byte(c)) {
				t.Errorf("a code is in record %s", e.Type)
			}
		}
	}
}
