package signals_test

import (
	"context"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/ledger"
	"github.com/sallyport-dev/sallyport/internal/ledger/ledgertest"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/signals"
)

const issuer = "https://sallyport.example/t/acme"

// desk is a transmitter over a real ledger, its management API, and what it signs
// in the clear: signatures are tried where the keys are.
type desk struct {
	*testing.T
	log       record.Log
	sender    *signals.Sender
	seal      record.Sealer
	receivers map[string]signals.Receiving // by token
	spire     string                       // the agent's ID, where SPIRE gave it one
	api       *httptest.Server
}

func newDesk(t *testing.T) *desk {
	d := &desk{T: t, log: ledgertest.New(t), receivers: map[string]signals.Receiving{"a": {Name: "siem"}, "b": {Name: "other"}}}
	var err error
	if d.seal, err = ledgertest.Root(t).Sealer(ledgertest.Tenant); err != nil {
		t.Fatal(err)
	}
	d.restart()
	mux := http.NewServeMux()
	mux.HandleFunc("/ssf/{name...}", func(w http.ResponseWriter, r *http.Request) { d.sender.Manage().ServeHTTP(w, r) })
	d.api = httptest.NewServer(mux)
	t.Cleanup(d.api.Close)
	return d
}

type headed interface {
	Head(context.Context) (ledger.Head, error)
}

// restart forgets what a process knows.
func (d *desk) restart() {
	d.sender = &signals.Sender{Log: d.log, Seal: d.seal, URL: issuer,
		Subject: func(_ context.Context, agent, task string) (string, error) {
			if id := "spiffe://acme.example/agent/" + agent; d.spire != "" {
				return d.spire, nil
			} else if task != "" {
				return id + "/task/" + task, nil
			} else {
				return id, nil
			}
		},
		Head: func(ctx context.Context) (int64, error) { h, err := d.log.(headed).Head(ctx); return h.Size, err },
		Sign: func(_ context.Context, c any) (string, error) { b, err := json.Marshal(c); return string(b), err },
		Authenticate: func(_ context.Context, token string) (signals.Receiving, error) {
			if r, ok := d.receivers[token]; ok {
				return r, nil
			}
			return signals.Receiving{}, errors.New("nobody")
		},
		Declared: func(name string) (signals.Receiving, bool) {
			for _, r := range d.receivers {
				if r.Name == name {
					return r, true
				}
			}
			return signals.Receiving{}, false
		}}
}

func (d *desk) call(token, method, path string, body any, want int) map[string]any {
	d.Helper()
	b, err := json.Marshal(body)
	if err != nil {
		d.Fatal(err)
	}
	r, err := http.NewRequestWithContext(d.Context(), method, d.api.URL+"/ssf/"+path, strings.NewReader(string(b)))
	if err != nil {
		d.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer "+token)
	resp, err := http.DefaultClient.Do(r)
	if err != nil {
		d.Fatal(err)
	}
	defer resp.Body.Close()
	out, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != want {
		d.Fatalf("%s %s: got %d %s, %v, want %d", method, path, resp.StatusCode, out, err, want)
	}
	m := map[string]any{}
	if len(out) > 0 && out[0] == '{' {
		if err := json.Unmarshal(out, &m); err != nil {
			d.Fatal(err)
		}
	}
	return m
}

func (d *desk) append(typ, task string, body map[string]any) {
	d.Helper()
	if _, err := d.log.Append(d.Context(), record.Draft{Type: typ, Task: task, Agent: "helpdesk", Actor: "sallyport", Body: body}); err != nil {
		d.Fatal(err)
	}
}

// ended is a task that ran and ends.
func (d *desk) ended(task string) {
	d.Helper()
	d.append("task.closing", task, map[string]any{"started": time.Now().UTC(), "code": "killed", "why": "Dana's mother called"})
}

type set struct {
	JTI, Txn string
	Aud      string
	IAT      int64                            `json:"iat"`
	Sub      struct{ Format, URI, ID string } `json:"sub_id"`
	Events   map[string]map[string]any
}

// poll returns what is there, by what it is about.
func (d *desk) poll(token, id string, body map[string]any) (all []set) {
	d.Helper()
	body["returnImmediately"] = true
	for jti, s := range d.call(token, "POST", "poll/"+id, body, 200)["sets"].(map[string]any) {
		var x set
		if err := json.Unmarshal([]byte(s.(string)), &x); err != nil || x.JTI != jti || x.Aud != "siem" {
			d.Fatalf("%s: %v", s, err)
		}
		all = append(all, x)
	}
	slices.SortFunc(all, func(a, b set) int { return strings.Compare(a.Sub.URI+" "+a.JTI, b.Sub.URI+" "+b.JTI) })
	return all
}

func jtis(all []set) []string {
	out := []string{}
	for _, s := range all {
		out = append(out, s.JTI)
	}
	return out
}

// What a receiver polls for: events of what ended, until it says that it has them,
// also over a restart, and nothing else.
//
// Threats: S5 (door)
func TestPoll(t *testing.T) {
	d := newDesk(t)
	d.ended("before")
	id := d.call("a", "POST", "stream", map[string]any{}, 201)["stream_id"].(string)
	d.call("a", "POST", "stream", map[string]any{}, 409)
	d.call("nobody", "GET", "stream?stream_id="+id, nil, 401)
	for _, c := range []struct{ method, path string }{{"GET", "stream?stream_id=" + id}, {"DELETE", "stream?stream_id=" + id}, {"GET", "status?stream_id=" + id}, {"POST", "poll/" + id}} {
		d.call("b", c.method, c.path, map[string]any{}, 404) // another's
	}
	d.call("b", "POST", "verify", map[string]any{"stream_id": id}, 404)
	d.call("b", "POST", "status", map[string]any{"stream_id": id, "status": "disabled"}, 404)

	d.append("task.closing", "never-started", map[string]any{"code": "closed"})
	d.ended("t1")
	d.append("lease.revoked", "t1", map[string]any{"source": "iam", "id": "l1"})
	d.append("certification.lapsed", "", map[string]any{"id": "c1", "lapse": map[string]any{"code": "drift", "why": "the model said so"}})
	got := d.poll("a", id, map[string]any{})
	want := []string{"spiffe://acme.example/agent/helpdesk", "spiffe://acme.example/agent/helpdesk/task/t1", "spiffe://acme.example/agent/helpdesk/task/t1"}
	if len(got) != 3 || got[0].Sub.URI != want[0] || got[1].Sub.URI != want[1] || got[2].Sub.URI != want[2] {
		t.Fatalf("got %+v", got)
	}
	if e := got[0].Events[signals.RiskLevelChange]; e["current_level"] != "HIGH" || e["principal"] != "USER" {
		t.Errorf("got %v", got[0].Events)
	}
	if b, _ := json.Marshal(got); strings.Contains(string(b), "mother") || strings.Contains(string(b), "the model said") {
		t.Errorf("what somebody wrote is in an event: %s", b)
	}
	// Acknowledged out of order: the rest comes again, also after a restart.
	again := d.poll("a", id, map[string]any{"ack": []string{got[0].JTI, "unknown"}})
	if len(again) != 2 {
		t.Errorf("got %d events after one was acknowledged", len(again))
	}
	d.restart()
	if again = d.poll("a", id, map[string]any{}); !slices.Equal(jtis(again), jtis(got)) {
		t.Errorf("after a restart: got %v, want %v", jtis(again), jtis(got))
	}
	last := again[0].JTI
	errs := map[string]any{last: map[string]string{"err": "invalid_request", "description": "x"}}
	if again = d.poll("a", id, map[string]any{"ack": jtis(got[1:]), "setErrs": errs}); len(again) != 0 {
		t.Errorf("got %v after all was acknowledged", again)
	}
	d.restart()
	if again = d.poll("a", id, map[string]any{}); len(again) != 0 {
		t.Errorf("got %v again", again)
	}
	// Paused waits, disabled does not.
	d.call("a", "POST", "status", map[string]any{"stream_id": id, "status": "paused"}, 200)
	d.ended("t2")
	if again = d.poll("a", id, map[string]any{}); len(again) != 0 {
		t.Errorf("paused, and got %v", again)
	}
	d.call("a", "POST", "status", map[string]any{"stream_id": id, "status": "enabled"}, 200)
	if again = d.poll("a", id, map[string]any{}); len(again) != 1 {
		t.Errorf("not paused any more, and got %v", again)
	}
	d.poll("a", id, map[string]any{"ack": jtis(again)})
	d.call("a", "POST", "status", map[string]any{"stream_id": id, "status": "disabled"}, 200)
	d.ended("t3")
	d.call("a", "POST", "status", map[string]any{"stream_id": id, "status": "enabled"}, 200)
	d.ended("t4")
	if again = d.poll("a", id, map[string]any{}); len(again) != 1 || !strings.HasSuffix(again[0].Sub.URI, "/t4") {
		t.Errorf("enabled again, and got %+v", again)
	}
	// What is asked for, and a verification beside it.
	d.call("a", "PATCH", "stream", map[string]any{"stream_id": id, "events_requested": []string{signals.RiskLevelChange, "https://unknown.example"}}, 200)
	d.call("a", "PATCH", "stream", map[string]any{"stream_id": id, "aud": "somebody else"}, 400)
	d.call("a", "POST", "verify", map[string]any{"stream_id": id, "state": "s7"}, 204)
	d.call("a", "POST", "verify", map[string]any{"stream_id": id}, 429)
	if again = d.poll("a", id, map[string]any{}); len(again) != 1 || again[0].Events[signals.Verification]["state"] != "s7" || again[0].Sub.ID != id {
		t.Errorf("got %+v", again)
	}
	d.call("a", "DELETE", "stream?stream_id="+id, nil, 204)
	d.call("a", "POST", "poll/"+id, map[string]any{}, 404)
}

// An event that waited longer than a receiver takes events is issued when it is sent,
// under the same jti; and it names who SPIRE says the agent is.
//
// Threats: S4 (door)
func TestEventThatWaited(t *testing.T) {
	d := newDesk(t)
	d.spire = "spiffe://acme.example/desk/7"
	id := d.call("a", "POST", "stream", map[string]any{}, 201)["stream_id"].(string)
	d.ended("t1")
	d.append("certification.lapsed", "", map[string]any{"lapse": map[string]any{"code": "drift"}})
	fresh := d.poll("a", id, map[string]any{})
	at := time.Now().Unix()
	d.log = &old{d.log.(*ledger.Log)}
	d.restart()
	waited := d.poll("a", id, map[string]any{})
	if len(waited) != 2 {
		t.Fatalf("got %+v", waited)
	}
	for _, x := range waited {
		if x.IAT < at || x.Sub.URI != d.spire {
			t.Errorf("issued at %d, about %q", x.IAT, x.Sub.URI)
		}
	}
	if e := waited[0].Events[signals.SessionRevoked]; e == nil || int64(e["event_timestamp"].(float64)) > at-47*3600 {
		e = waited[1].Events[signals.SessionRevoked]
		if e == nil || int64(e["event_timestamp"].(float64)) > at-47*3600 {
			t.Errorf("when it happened is lost: %+v", waited)
		}
	}
	if len(fresh) != 2 {
		t.Errorf("got %+v", fresh)
	}
}

// old is a log whose records are two days old.
type old struct{ *ledger.Log }

func (l *old) Entries(ctx context.Context, from int64, f func(record.Entry) error) error {
	return l.Log.Entries(ctx, from, func(e record.Entry) error {
		e.Time = e.Time.Add(-48 * time.Hour)
		return f(e)
	})
}

// sink is a receiver of RFC 8935 that answers as it is told.
type sink struct {
	mu     sync.Mutex
	got    []set
	auth   string
	answer func(set) (int, string)
}

func (k *sink) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	var s set
	json.Unmarshal(b, &s)
	k.mu.Lock()
	k.got, k.auth = append(k.got, s), r.Header.Get("Authorization")
	status, err := http.StatusAccepted, ""
	if k.answer != nil {
		status, err = k.answer(s)
	}
	k.mu.Unlock()
	w.WriteHeader(status)
	if err != "" {
		fmt.Fprintf(w, `{"err":%q,"description":"x"}`, err)
	}
}

func (k *sink) seen() []set {
	k.mu.Lock()
	defer k.mu.Unlock()
	return slices.Clone(k.got)
}

// Pushed events come in order, again until they are taken, with the header that
// was agreed, and no further than the tenant declares.
//
// Threats: S4, S5 (door)
func TestPush(t *testing.T) {
	d, k := newDesk(t), &sink{}
	at := httptest.NewTLSServer(k)
	defer at.Close()
	d.receivers["a"] = signals.Receiving{Name: "siem", Push: at.URL + "/in", Local: true, Roots: string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: at.Certificate().Raw}))}
	stream := func(to string) map[string]any {
		return map[string]any{"delivery": map[string]any{"method": "urn:ietf:rfc:8935", "endpoint_url": to, "authorization_header": "Bearer agreed"}}
	}
	for _, to := range []string{"", "https://evil.example/in", strings.Replace(at.URL, "https", "http", 1) + "/in", at.URL + "/elsewhere", at.URL + "/in/../elsewhere", at.URL + "/in/%2e%2e/elsewhere",
		at.URL + "/inside", strings.Replace(at.URL, "https://", "https://user@", 1) + "/in", at.URL + "@evil.example/in"} {
		d.call("a", "POST", "stream", stream(to), 400)
	}
	c := d.call("a", "POST", "stream", stream(at.URL+"/in/7"), 201)
	if c["delivery"].(map[string]any)["authorization_header"] != nil {
		t.Error("the header is told again")
	}
	run := func() (stop func()) {
		ctx, cancel := context.WithCancel(d.Context())
		done := make(chan struct{})
		go func() { d.sender.Run(ctx); close(done) }()
		return func() { cancel(); <-done }
	}
	away := true
	k.answer = func(s set) (int, string) {
		switch {
		case away:
			return 503, ""
		case strings.HasSuffix(s.Sub.URI, "/t2"):
			return 400, "invalid_request"
		}
		return 202, ""
	}
	for _, n := range []string{"t1", "t2", "t3"} {
		d.ended(n)
	}
	stop := run()
	await(t, "a try", func() bool { return len(k.seen()) > 0 })
	stop()
	first := k.seen()[0].JTI
	// It was away; the process ends meanwhile, and starts again.
	k.mu.Lock()
	away, k.got = false, nil
	k.mu.Unlock()
	d.restart()
	stop = run()
	defer func() { stop() }()
	await(t, "all three", func() bool { return len(k.seen()) == 3 })
	got := k.seen()
	if got[0].JTI != first || !strings.HasSuffix(got[1].Sub.URI, "/t2") || !strings.HasSuffix(got[2].Sub.URI, "/t3") || k.auth != "Bearer agreed" {
		t.Errorf("got %+v with %q", got, k.auth)
	}
	var refused string
	await(t, "the records of it", func() bool {
		n := 0
		d.log.Entries(d.Context(), 0, func(e record.Entry) error {
			if e.Type == "signal.sent" {
				n++
				if strings.Contains(string(e.Body), "refused") {
					refused = string(e.Body)
				}
			}
			return nil
		})
		return n == 3
	})
	if !strings.Contains(refused, got[1].JTI) {
		t.Errorf("the refused event is not on record: %s", refused)
	}
	// Declared without local, and then elsewhere, nothing goes there any more.
	stop()
	roots := d.receivers["a"].Roots
	d.receivers["a"] = signals.Receiving{Name: "siem", Push: at.URL + "/in", Roots: roots}
	d.receivers["b"] = signals.Receiving{Name: "other", Push: at.URL + "/b", Local: true, Roots: roots}
	d.call("b", "POST", "stream", stream(at.URL+"/b"), 201)
	for n, task := range []string{"t4", "t5"} {
		d.ended(task)
		d.restart()
		stop = run()
		await(t, "the other's event", func() bool {
			all := k.seen()
			return len(all) > 3+n && strings.HasSuffix(all[len(all)-1].Sub.URI, task) && all[len(all)-1].Aud == "other"
		})
		stop()
		d.receivers["a"] = signals.Receiving{Name: "siem", Push: "https://new.example/in"}
	}
	for _, s := range k.seen()[3:] {
		if s.Aud != "other" {
			t.Errorf("an event went to an address that is not declared any more: %+v", s)
		}
	}
}

func await(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited in vain for " + what)
		}
	}
}
