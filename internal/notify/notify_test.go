package notify_test

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"errors"
	"io"
	"mime/quotedprintable"
	"net"
	"net/http"
	"net/http/httptest"
	netmail "net/mail"
	"net/smtp"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/lease/leasetest"
	"github.com/sallyport-dev/sallyport/internal/ledger"
	"github.com/sallyport-dev/sallyport/internal/ledger/ledgertest"
	"github.com/sallyport-dev/sallyport/internal/notify"
	"github.com/sallyport-dev/sallyport/internal/record"
)

const issuer = "https://sallyport.example/t/acme"

// desk is a notifier over a real ledger.
type desk struct {
	*testing.T
	log       record.Log
	targets   atomic.Pointer[[]notify.Target]
	approvers []string
	stopped   atomic.Bool
	looked    atomic.Int64 // how often the log was looked at
	n         *notify.Notifier
}

func newDesk(t *testing.T) *desk {
	d := &desk{T: t, log: ledgertest.New(t)}
	d.declare()
	d.restart(d.log)
	return d
}

// declare is what the tenant declares from now on.
func (d *desk) declare(all ...notify.Target) { d.targets.Store(&all) }

// restart forgets what a process knows; log may be a broken one.
func (d *desk) restart(log record.Log) {
	d.n = &notify.Notifier{Log: log, Source: issuer,
		Head:      func(ctx context.Context) (int64, error) { h, err := d.log.(*ledger.Log).Head(ctx); return h.Size, err },
		Targets:   func() []notify.Target { d.looked.Add(1); return *d.targets.Load() },
		Owned:     func(p string) []string { return map[string][]string{"dana": {"helpdesk"}}[p] },
		Approvers: func(context.Context, string) ([]string, error) { return d.approvers, nil },
		Stopped: func() error {
			if d.stopped.Load() {
				return errors.New("stopped")
			}
			return nil
		}}
}

// run tells until stop is called, and returns when every target has its cursor.
func (d *desk) run() (stop func()) {
	d.Helper()
	ctx, cancel := context.WithCancel(d.Context())
	done := make(chan struct{})
	go func() { d.n.Run(ctx); close(done) }()
	stop = func() { cancel(); <-done }
	d.Cleanup(stop)
	for _, t := range *d.targets.Load() {
		await(d.T, "the cursor of "+t.Name, func() bool {
			found := false
			err := d.log.View(d.Context(), func(tx record.Tx) error {
				return tx.List("notify", func(id string, _ []byte) error { found = found || id == t.Name; return nil })
			})
			return err == nil && found
		})
	}
	return stop
}

func (d *desk) append(typ, task, agent string, body any) {
	d.Helper()
	if _, err := d.log.Append(d.Context(), record.Draft{Type: typ, Task: task, Agent: agent, Actor: "sallyport", Body: body}); err != nil {
		d.Fatal(err)
	}
}

// records of a type, as text.
func (d *desk) records(typ string) (out []string) {
	d.Helper()
	err := d.log.Entries(d.Context(), 0, func(e record.Entry) error {
		if e.Type == typ {
			out = append(out, string(e.Body))
		}
		return nil
	})
	if err != nil {
		d.Fatal(err)
	}
	return out
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited in vain for " + what)
		}
	}
}

func opened(text string) notify.Secret {
	return func(context.Context) ([]byte, error) { return []byte(text), nil }
}

func rootOf(c *x509.Certificate) string {
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Raw}))
}

// peer is test/identity/told.mjs.
type peer struct {
	*testing.T
	client               *http.Client
	roots                string
	url                  string
	startTLS, tls, clear string // ports
}

const (
	whsec    = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD" // of the published example
	password = "mail-password-7"
)

func newPeer(t *testing.T) *peer {
	t.Helper()
	srv := httptest.NewUnstartedServer(http.NotFoundHandler())
	srv.StartTLS()
	srv.Close() // for its certificate of 127.0.0.1 and example.com
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	der, err := x509.MarshalPKCS8PrivateKey(srv.TLS.Certificates[0].PrivateKey)
	roots := rootOf(srv.Certificate())
	if err := errors.Join(err, os.WriteFile(cert, []byte(roots), 0o600),
		os.WriteFile(key, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), 0o600)); err != nil {
		t.Fatal(err)
	}
	line := strings.Fields(leasetest.StartNode(t, []byte(roots), "told.mjs", cert, key, whsec, "sallyport", password))
	if len(line) != 4 {
		t.Fatalf("the peer says %q", line)
	}
	return &peer{t, srv.Client(), roots, line[0], line[1], line[2], line[3]}
}

type mailed struct {
	Raw, From string
	To        []string
	Secure    bool
}

type heard struct {
	Events []struct {
		Event                   map[string]any
		ID, Authorization, Type string
	}
	Mails  []mailed
	Errors []string
}

func (p *peer) got() (h heard) {
	p.Helper()
	resp, err := p.client.Get(p.url + "/got")
	if err != nil {
		p.Fatal(err)
	}
	defer resp.Body.Close()
	if err := json.NewDecoder(resp.Body).Decode(&h); err != nil {
		p.Fatal(err)
	}
	return h
}

// parse reads a mail as its reader would.
func (m mailed) parse(t *testing.T) (netmail.Header, string) {
	t.Helper()
	x, err := netmail.ReadMessage(strings.NewReader(m.Raw))
	if err != nil {
		t.Fatalf("%v in %s", err, m.Raw)
	}
	b, err := io.ReadAll(quotedprintable.NewReader(x.Body))
	if err != nil {
		t.Fatal(err)
	}
	return x.Header, string(b)
}

func (p *peer) hook() notify.Target {
	return notify.Target{Name: "siem", URL: p.url + "/hook", Local: true, Roots: p.roots, Signature: opened(whsec + "\n"), Authorization: opened("Bearer agreed\n")}
}

func (p *peer) mail(scheme, port string) notify.Target {
	return notify.Target{Name: "mail", URL: scheme + "://127.0.0.1:" + port, Local: true, Roots: p.roots, From: "sallyport@acme.example", To: []string{"security@acme.example"},
		Username: "sallyport", Password: opened(password + "\n")}
}

// Another's libraries read what we send: the CloudEvents SDK each event, Standard
// Webhooks its signature, smtp-server the mails. Each event is there once, in order,
// with the fields of the table and no other; questions go to the approvers.
//
// Threats: S6, S7 (door)
func TestTold(t *testing.T) {
	t.Parallel()
	d, p := newDesk(t), newPeer(t)
	hook, mails, over := p.hook(), p.mail("smtp", p.startTLS), p.mail("smtps", p.tls)
	mails.Events, over.Name = []string{"dev.sallyport.*"}, "over"
	over.Events = []string{"dev.sallyport.keys.rewrapped"}
	d.declare(hook, mails, over)
	for _, x := range *d.targets.Load() {
		if field, problem := x.Check(); field != "" {
			t.Fatalf("%s: %s", field, problem)
		}
	}
	d.approvers = []string{"carol@acme.example", "gone@acme.example", "eve@acme.example\r\nBcc: all@evil.example"}
	d.append("task.failed", "t-before", "helpdesk", map[string]any{"code": "x"})
	d.run()

	const hostile = "x\r\nBcc: all@evil.example\r\n\r\nClick <here>\u202e"
	d.append("certification.lapsed", "", "helpdesk", map[string]any{"id": "c1", "stage": "production",
		"lapse": map[string]any{"code": "drift", "why": "SECRET-WHY", "changes": []any{map[string]any{"name": "model.id", "old": "m-1", "new": hostile}}}})
	d.append("boundary.drift", "", "helpdesk", map[string]any{"changes": []any{}}) // of production: in the lapse
	d.append("boundary.drift", hostile, hostile, map[string]any{"changes": []any{map[string]any{"name": "tools", "old": "a", "new": "b"}}})
	d.append("boundary.drift", "", "helpdesk", map[string]any{"graded": "hold", "certification": "c1", "changes": []any{map[string]any{"name": "tools", "old": "a", "new": "b"}}})
	d.append("hold.opened", "t-1", "helpdesk", map[string]any{"id": "abcd", "statement": map[string]any{"kind": "action", "operation": "iam.user.mfa.reset", "role": "approver", "quorum": 1,
		"expires": "2027-01-01T00:00:00Z", "params": map[string]any{"user": "SECRET-PARAM"}, "quoted": map[string]any{"element-text": "SECRET-QUOTE"}, "details": map[string]any{"task.token": "SECRET-DETAIL"}}})
	d.append("hold.approved", "t-1", "helpdesk", map[string]any{"id": "abcd", "complete": false, "person": "carol"})
	d.append("hold.approved", "t-1", "helpdesk", map[string]any{"id": "abcd", "complete": true, "person": "carol"})
	for n := range 3 {
		d.append("lease.unconfirmed", "t-1", "helpdesk", map[string]any{"id": "l1", "source": "iam", "attempts": n + 1, "why": "SECRET-WHY", "sealed": "U0VDUkVU"})
	}
	d.append("lease.revoked", "t-1", "helpdesk", map[string]any{"id": "l1", "source": "iam", "attempts": 4})
	d.append("lease.revoked", "t-1", "helpdesk", map[string]any{"id": "l2", "source": "iam", "attempts": 1})
	d.append("task.revoked", "t-1", "helpdesk", map[string]any{"id": "t-1", "code": "killed", "why": "SECRET-WHY", "params": map[string]any{"user": "SECRET-PARAM"}, "requester": "dana"})
	d.append("signal.received", "", "", map[string]any{"issuer": "https://idp.example", "event": "x", "effect": "noted", "people": []string{}, "reason": "SECRET-WHY"})
	d.append("signal.received", "", "", map[string]any{"issuer": "https://idp.example", "event": "y", "effect": "locks", "people": []string{"dana"}, "tasks": []string{"t-1"}})
	d.append("keys.rewrapped", "", "", map[string]any{"kind": "kms", "keyID": "k2"})

	want := []string{"certification.lapsed", "boundary.drift", "boundary.graded", "approval.requested", "approval.approved", "lease.unconfirmed", "lease.confirmed", "task.revoked",
		"signal.received", "person.locked", "keys.rewrapped"}
	unasked := slices.DeleteFunc(slices.Clone(want), func(s string) bool { return strings.HasPrefix(s, "approval.") })
	var h heard
	await(t, "everything to arrive", func() bool {
		h = p.got()
		return len(h.Events) >= len(unasked) && len(h.Mails) >= len(want)+1
	})
	if len(h.Errors) > 0 || len(h.Events) != len(unasked) || len(h.Mails) != len(want)+1 {
		t.Fatalf("got %d events, %d mails, errors %q", len(h.Events), len(h.Mails), h.Errors)
	}
	ids := map[string]bool{}
	for i, e := range h.Events {
		v := e.Event
		if v["type"] != "dev.sallyport."+unasked[i] || v["source"] != issuer || v["id"] != e.ID || v["specversion"] != "1.0" || e.Authorization != "Bearer agreed" ||
			e.Type != "application/cloudevents+json; charset=utf-8" {
			t.Errorf("event %d: got %+v, want %s", i, e, unasked[i])
		}
		ids[e.ID] = true
	}
	if len(ids) != len(unasked) {
		t.Errorf("%d ids of %d events", len(ids), len(unasked))
	}
	first, locked := h.Events[0].Event, h.Events[7].Event["data"].(map[string]any)
	if data := first["data"].(map[string]any); first["subject"] != "agent/helpdesk" || data["code"] != "drift" || data["changes"].([]any)[0].(map[string]any)["old"] != "m-1" {
		t.Errorf("got %v", first)
	}
	if owned, _ := locked["agents"].([]any); len(owned) != 1 || owned[0] != "helpdesk" {
		t.Errorf("whose owner is locked: got %v", locked)
	}
	all, err := json.Marshal(h)
	if err != nil || bytes.Contains(all, []byte("SECRET")) || bytes.Contains(all, []byte("U0VDUkVU")) || bytes.Contains(all, []byte("t-before")) {
		t.Errorf("something is told that is not in the table: %s", all)
	}
	n := 0
	for _, m := range h.Mails {
		head, text := m.parse(t)
		if !m.Secure || m.From != "sallyport@acme.example" || head.Get("Bcc") != "" || head.Get("Auto-Submitted") != "auto-generated" || len(head) != 9 ||
			strings.Contains(m.Raw, "\r\nBcc:") || strings.ContainsRune(text, '\u202e') || strings.Contains(text, "\nClick") {
			t.Errorf("a mail of more than we say: %s", m.Raw)
		}
		if to, err := head.AddressList("To"); err != nil || len(to) != 1 || !slices.Equal(m.To, []string{to[0].Address}) {
			t.Errorf("to %v: %v of %s", m.To, err, m.Raw)
		}
		if !strings.Contains(text, "dev.sallyport.approval.requested") {
			continue
		}
		n++
		if m.To[0] != "carol@acme.example" || !strings.Contains(text, "sallyport approve abcd") || !strings.Contains(text, "iam.user.mfa.reset") ||
			head.Get("Subject") != "[sallyport acme] Your approval is asked for (task/t-1)" {
			t.Errorf("the question: got %q to %v: %s", head.Get("Subject"), m.To, text)
		}
	}
	if n != 1 {
		t.Errorf("%d mails ask for the approval, want 1", n)
	}
	await(t, "the records of it", func() bool { return len(d.records("notify.sent")) == len(unasked)+len(want)+1 })
	if all := strings.Join(d.records("notify.sent"), "\n"); !strings.Contains(all, `"refused":["eve@acme.example\r\nBcc: all@evil.example","gone@acme.example"]`) {
		t.Errorf("who was not told is not on record: %s", all)
	}
}

// A password goes to no mail server in the clear, nor to one with another name. A
// mail server on loopback that has no TLS is told without one, and no other is.
//
// Threats: S8 (door)
func TestMailInTheClear(t *testing.T) {
	t.Parallel()
	d, p := newDesk(t), newPeer(t)
	naked, other, open := p.mail("smtp", p.clear), p.mail("smtps", p.tls), p.mail("smtp", p.clear)
	naked.Name, other.Name, open.Name = "clear", "other", "open"
	other.URL = "smtps://localhost:" + p.tls
	open.Username, open.Password = "", nil
	d.declare(naked, other, open)
	d.run()
	d.append("keys.rewrapped", "", "", map[string]any{"kind": "kms", "keyID": "k2"})
	why := map[string]string{}
	await(t, "three tries", func() bool {
		for _, s := range d.n.Standings() {
			why[s.Target] = s.Why
		}
		return why["clear"] != "" && why["other"] != "" && len(p.got().Mails) == 1
	})
	if !strings.Contains(why["clear"], "STARTTLS") || !strings.Contains(why["other"], "localhost") || why["open"] != "" {
		t.Errorf("got %q", why)
	}
	if h := p.got(); h.Mails[0].Secure || len(h.Errors) > 0 {
		t.Errorf("got %+v", h)
	}
	conn, err := net.Dial("tcp", "127.0.0.1:"+p.clear)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c, err := smtp.NewClient(conn, "127.0.0.1")
	if err != nil {
		t.Fatal(err)
	}
	elsewhere := &net.TCPAddr{IP: net.IPv4(192, 0, 2, 1), Port: 25}
	if err := notify.Hello(t.Context(), c, open, &tls.Config{}, false, elsewhere); err == nil || !strings.Contains(err.Error(), "STARTTLS") {
		t.Errorf("a server elsewhere without TLS: got %v", err)
	}
}
