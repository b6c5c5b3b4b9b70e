// Package secrets runs honest and hijacked agents with secrets that are easy to
// recognise, and then searches everything that the runs left behind, and what
// they could see while they ran, for any of them in any form. The applications
// are careless on purpose: every page reflects the session cookie.
package secrets

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/estate"
	"github.com/sallyport-dev/sallyport/internal/estate/provider"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/store/pgtest"
	"github.com/sallyport-dev/sallyport/test/rig"
)

func TestMain(m *testing.M) {
	rig.Main(m, map[string]rig.Program{"loot": loot, "sender": sender, "hands": rig.Hands, "user": user}, func() error {
		pgtest.Stop()
		return os.RemoveAll(scratch)
	})
}

var scratch string

// temporary is the folder in which everything of these tests puts its files from
// here on, the shared database included: it is searched.
func temporary(t *testing.T) string {
	t.Helper()
	if scratch == "" {
		dir, err := os.MkdirTemp("", "secrets")
		if err == nil {
			scratch, err = dir, errors.Join(os.Chmod(dir, 0o711), os.Setenv("TMPDIR", dir)) // harnesses and databases run as others
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	return scratch
}

// loot is a hijacked harness that prints everything it can get hold of: its
// environment and files, and every page through the proxy with its header.
func loot(ctx context.Context, urls []string) error {
	for _, f := range []string{"/proc/self/environ", "/proc/self/cmdline", "/proc/1/environ", "/proc/self/mountinfo"} {
		b, err := os.ReadFile(f)
		fmt.Printf("%s: %q %v\n", f, b, err)
	}
	for _, dir := range []string{"/run", "/tmp", "/dev/shm", "/home", "/etc"} {
		filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.Type().IsRegular() && !strings.HasPrefix(path, "/etc/ssl/") {
				b, err := os.ReadFile(path)
				fmt.Printf("%s: %s %v\n", path, b, err)
			}
			return nil
		})
	}
	proxy, err := url.Parse(os.Getenv("HTTPS_PROXY"))
	if err != nil {
		return err
	}
	pem, err := os.ReadFile(os.Getenv("SSL_CERT_FILE"))
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	c := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(proxy), TLSClientConfig: &tls.Config{RootCAs: roots}}}
	for _, u := range urls {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
		if err != nil {
			return err
		}
		resp, err := c.Do(req)
		if err != nil {
			return err
		}
		b, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil {
			return err
		}
		fmt.Printf("GET %s: %d %v\n%s\n", u, resp.StatusCode, resp.Header, b)
	}
	// The model is asked as well: what comes back may hold the key.
	body := `{"model":"` + os.Getenv("ANTHROPIC_MODEL") + `"}`
	for _, path := range []string{"/v1/messages", "/v1/models", "/"} {
		resp, err := http.Post(os.Getenv("ANTHROPIC_BASE_URL")+path, "application/json", strings.NewReader(body))
		if err != nil {
			continue
		}
		b, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		fmt.Printf("POST %s: %d %v %s\n", path, resp.StatusCode, resp.Header, b)
	}
	return nil
}

// lookout reads, again and again, what other processes of this machine could
// see: every process's arguments, and the environment of every process.
func lookout(ctx context.Context, mine string) map[string][]byte {
	seen := map[string][]byte{}
	for ctx.Err() == nil {
		for _, name := range []string{"cmdline", "environ"} {
			fs, _ := filepath.Glob("/proc/[0-9]*/" + name) // the pattern is valid
			for _, f := range fs {
				if f == "/proc/"+mine+"/environ" {
					continue
				}
				if b, err := os.ReadFile(f); err == nil && len(b) > 0 {
					seen[f+" "+fmt.Sprint(len(b))] = b
				}
			}
		}
		time.Sleep(100 * time.Millisecond)
	}
	return seen
}

type logs struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

// canary is a password that looks different in every encoding.
func canary(stage estate.Stage, app estate.App, user string) string {
	return fmt.Sprintf(`%s&%s/%s<"%%+?=>%s`, stage, app, user, rand.Text())
}

// Threats: T44, T47, T54, H5 (door)
func TestNoSecretIsLeftAnywhere(t *testing.T) {
	if testing.Short() {
		t.Skip("starts browsers")
	}
	tmp := temporary(t)
	var captured logs
	handler := slog.NewTextHandler(&captured, &slog.HandlerOptions{Level: slog.LevelDebug})
	old := slog.Default()
	slog.SetDefault(slog.New(handler))
	defer slog.SetDefault(old)

	tap := newCareless()
	r := rig.New(t, rig.Options{Log: slog.New(handler), Password: canary, Before: tap.Start})
	tap.mu.Lock()
	tap.passwords = map[string]string{"iam": r.Secrets()["iam-helpdesk/sandbox"], "tickets": r.Secrets()["tickets-helpdesk/sandbox"]}
	tap.mu.Unlock()
	r.Ready(t)
	ctx, cancel := context.WithCancel(t.Context())
	processes := make(chan map[string][]byte, 1)
	go func() { processes <- lookout(ctx, fmt.Sprint(os.Getpid())) }()

	var transcripts []string
	run := func(hostile string, b provider.Behaviour, user, ticket string, args ...string) {
		t.Helper()
		r.Provider.SetBehaviour(b)
		var on []string
		if hostile != "" {
			on = []string{hostile}
		}
		if err := r.Estate.Copy(estate.Sandbox).SetHostile(on...); err != nil {
			t.Fatal(err)
		}
		x, out := r.Run(t, rig.Intent(action.Sandbox, user, ticket), args...)
		transcripts = append(transcripts, fmt.Sprintf("%s %s\n%s", x.State, x.Why, out))
	}
	run("", provider.Honest, "jo", "4711", rig.SampleAgent...)
	run("ticket-text", provider.Gullible, "tom", "4712", rig.SampleAgent...)
	run("", provider.Honest, "sam", "4712", "program", "loot", tap.URL(estate.Tickets)+"/tickets/4711", tap.URL(estate.IAM)+"/users",
		tap.URL(estate.IAM)+"/account/sessions", tap.URL(estate.IAM)+"/login", tap.URL(estate.Tickets)+"/api/tickets")
	cancel()

	secrets := map[string]string{}
	for name, v := range r.Secrets() {
		secrets["secret "+name] = v
	}
	for i, c := range tap.Cookies() {
		secrets[fmt.Sprintf("cookie %d", i)] = c
	}
	if len(tap.Cookies()) < 6 || len(tap.pages()) == 0 {
		t.Fatalf("the tap saw %d cookies and %d pages", len(tap.Cookies()), len(tap.pages()))
	}
	s := newSearch(secrets)
	s.ledger(t, r)
	for i, text := range transcripts {
		s.in(fmt.Sprintf("the transcript of run %d", i+1), []byte(text))
	}
	if !strings.Contains(transcripts[2], "Your password is [sallyport:redacted]") || !strings.Contains(transcripts[2], "session [sallyport:redacted]") {
		t.Errorf("nothing was redacted in what the harness read:\n%.3000s", transcripts[2])
	}
	harnesses, reflected := 0, 0
	for place, b := range <-processes {
		if bytes.Contains(b, []byte("SALLYPORT_COMPUTER_URL=")) {
			harnesses++
		}
		s.in(place, b)
	}
	for id, page := range tap.pages() {
		if strings.Contains(page, "redacted") {
			reflected++
		}
		s.in("the document in the browser "+id, []byte(page))
	}
	if harnesses == 0 || reflected == 0 {
		t.Errorf("the search saw the environment of %d harnesses and %d pages with a reflection", harnesses, reflected)
	}
	captured.mu.Lock()
	s.in("the logs", captured.b.Bytes())
	captured.mu.Unlock()
	s.files(t, tmp) // with the data folder
	for _, f := range s.found {
		t.Error("found", f)
	}
	t.Logf("searched %d places, %d MB, for %d secrets", s.where, s.bytes>>20, len(secrets))

	// The same search finds one that is planted in the ledger.
	log, err := r.Server.Log("")
	if err != nil {
		t.Fatal(err)
	}
	key := []byte("x" + secrets["secret provider-key"])
	if _, err := log.Append(t.Context(), record.Draft{Type: "test.planted", Actor: "test", Body: map[string]any{"note": []byte("a" + secrets["cookie 0"])},
		Blobs: []record.Blob{{Name: "prompt", Type: "text/plain", Data: key}}}); err != nil {
		t.Fatal(err)
	}
	s.found = nil
	s.ledger(t, r)
	if len(s.found) != 3 { // body, raw record, payload
		t.Errorf("of two planted secrets the search found %q", s.found)
	}
}

// ledger searches every record, and every payload that a record refers to.
func (s *search) ledger(t *testing.T, r *rig.Rig) {
	t.Helper()
	log, err := r.Server.Log("")
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[string]int{}
	for _, e := range r.Records(t, 0) {
		s.in(fmt.Sprintf("record %d %s", e.Seq, e.Type), e.Raw)
		s.in(fmt.Sprintf("the body of record %d %s", e.Seq, e.Type), e.Body)
		for _, ev := range append(e.Evidence, evidence(e.Body)...) {
			b, err := log.Payload(t.Context(), ev)
			if err != nil {
				t.Errorf("payload %s of record %d: %v", ev.Name, e.Seq, err)
				continue
			}
			kinds[ev.Name]++
			s.in(fmt.Sprintf("payload %s of record %d", ev.Name, e.Seq), b)
		}
	}
	t.Logf("payloads: %v", kinds)
}

// evidence finds references to payloads inside a body.
func evidence(body []byte) (out []action.Evidence) {
	var doc any
	if json.Unmarshal(body, &doc) != nil {
		return nil
	}
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if _, ok := v["commitment"]; ok {
				b, _ := json.Marshal(v) // came from JSON
				var e action.Evidence
				if json.Unmarshal(b, &e) == nil && e.Blob != "" {
					out = append(out, e)
				}
			}
			for _, x := range v {
				walk(x)
			}
		case []any:
			for _, x := range v {
				walk(x)
			}
		}
	}
	walk(doc)
	return out
}
