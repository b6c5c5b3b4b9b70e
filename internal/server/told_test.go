package server_test

import (
	"encoding/json"
	"encoding/pem"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/identity/spiretest"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/resource"
	"github.com/sallyport-dev/sallyport/internal/server"
	"github.com/sallyport-dev/sallyport/internal/signals"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// toldRig is a server that tells a webhook, with a signature, and what it tells.
func toldRig(t *testing.T) (*rig.Rig, func() []string) {
	t.Helper()
	var mu sync.Mutex
	var types []string
	hook := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, q *http.Request) {
		var e struct{ Type string }
		if err := json.NewDecoder(q.Body).Decode(&e); err != nil || !strings.HasPrefix(q.Header.Get("Webhook-Signature"), "v1,") {
			t.Errorf("%v, signed %q", err, q.Header.Get("Webhook-Signature"))
		}
		mu.Lock()
		defer mu.Unlock()
		types = append(types, strings.TrimPrefix(e.Type, "dev.sallyport."))
	}))
	t.Cleanup(hook.Close)
	r, err := rig.Start(rig.Options{Edit: func(f map[string][]byte) {
		f["hook-ca.pem"] = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: hook.Certificate().Raw})
		rig.Replace("tenant.yaml", "  reviewers: [lin]\n", "  reviewers: [lin]\n  notify:\n    - {name: siem, url: \""+hook.URL+
			"\", local: true, caFile: hook-ca.pem, signature: {sealed: notify/siem}, events: [dev.sallyport.person.*, dev.sallyport.ledger.stopped]}\n")(f)
	}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Close() }) // it says that its store is gone
	if err := r.Server.PutSecret(t.Context(), "", rig.As("sven"), "notify/siem", []byte("whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD")); err != nil {
		t.Fatal(err)
	}
	rig.Await(t, "the cursor of the webhook", func() bool { return len(of(t, r, "notify.started")) == 1 })
	return r, func() []string {
		mu.Lock()
		defer mu.Unlock()
		return slices.Clone(types)
	}
}

func of(t *testing.T, r *rig.Rig, typ string) (all []record.Entry) {
	t.Helper()
	for _, e := range r.Records(t, 0) {
		if e.Type == typ {
			all = append(all, e)
		}
	}
	return all
}

// The only identity administrator is locked by an event. Nobody of the tenant gives
// that back, and neither does a user of the machine; the server's operator does, when
// nobody else is left, for that person alone, on record, and those who are told of
// alarms hear it. Then the store cannot be read any more, which is told too, signed
// with a secret that the store has.
//
// Threats: S3 (approval); T55 (ledger)
func TestGlassIsBrokenAndTold(t *testing.T) {
	r, told := toldRig(t)
	operator, ctx := rig.As(""), t.Context()
	refused := func(c server.Caller, person, code string, breakGlass bool) {
		t.Helper()
		_, err := r.Server.Reinstate(ctx, "", c, person, "the provider's mistake", breakGlass)
		if p, ok := errors.AsType[*server.Problem](err); !ok || p.Code != code {
			t.Errorf("%s by %+v: got %v, want %s", person, c, err, code)
		}
	}
	lock := func(who string) {
		t.Helper()
		if err := r.Server.Receive(ctx, who+"@brightwell.example", signals.AccountDisabled); err != nil {
			t.Fatal(err)
		}
	}
	lock("ines")
	refused(operator, "kofi", "not_locked_out", true)
	refused(operator, "ines", "not_locked_out", true)
	lock("kofi")
	for _, c := range []string{"kofi", "noor"} {
		refused(rig.As(c), "ines", map[string]string{"kofi": "person_locked", "noor": "role_missing"}[c], false)
	}
	refused(rig.As("kofi"), "kofi", "person_locked", false)
	refused(server.Caller{UID: 64123}, "kofi", "operator_only", true)
	refused(operator, "ines", "not_locked_out", true) // he can, when he is back
	if _, err := r.Server.Reinstate(ctx, "", operator, "kofi", "the provider's mistake", true); err != nil {
		t.Fatal(err)
	}
	all := of(t, r, "person.reinstated")
	if len(all) != 1 || !strings.HasPrefix(all[0].Actor, "unix:") && !strings.HasPrefix(all[0].Actor, "uid:") || !strings.Contains(string(all[0].Body), `"breakGlass":true`) {
		t.Errorf("on record: %+v", all)
	}
	refused(operator, "kofi", "not_locked_out", true)
	if _, err := r.Server.Reinstate(ctx, "", rig.As("kofi"), "ines", "spoken to", false); err != nil {
		t.Error(err)
	}
	want := []string{"person.locked", "person.locked", "person.break-glass", "person.reinstated"}
	rig.Await(t, "all that it asks for", func() bool { return len(told()) >= len(want) })
	r.Server.LoseStore()
	want = append(want, "ledger.stopped")
	rig.Await(t, "the alarm", func() bool { return len(told()) >= len(want) })
	if got := told(); !slices.Equal(got, want) {
		t.Errorf("told %v, want %v", got, want)
	}
}

// Where SPIRE names the agents, what others hear is about the ID that it gives, of a
// task the one that it had.
//
// Threats: E14 (authority)
func TestEventsNameWhomSPIRENames(t *testing.T) {
	const desk, other = "spiffe://brightwell.example/desk", "spiffe://brightwell.example/other"
	declare := func(id string) func(map[string][]byte) {
		return func(f map[string][]byte) {
			rig.Replace("tenant.yaml", "  reviewers: [lin]\n", "  reviewers: [lin]\n  identity: spire\n")(f)
			rig.Replace("agent.yaml", "  reviewBy: \"2027-05-31\"\n", "  reviewBy: \"2027-05-31\"\n  spiffeID: "+id+"\n")(f)
		}
	}
	r := rig.New(t, rig.Options{SPIRE: spiretest.Start(t, "brightwell.example").Socket, Edit: declare(desk)})
	r.Ready(t)
	x := r.OpenTask(t, rig.Intent(action.Sandbox, "jo", "4711"))
	all, err := r.Resources(declare(other))
	if err != nil {
		t.Fatal(err)
	}
	all = slices.DeleteFunc(all, func(x resource.Resource) bool { return x.Kind != resource.KindAgent })
	for _, want := range []string{desk, other} {
		for id, want := range map[string]string{x.ID: desk, "": want} {
			if got, err := r.Server.Subject(t.Context(), "helpdesk", id); err != nil || got != want {
				t.Errorf("of task %q: got %q %v, want %q", id, got, err, want)
			}
		}
		if _, err := r.Server.Apply(t.Context(), rig.As("mara"), all); err != nil {
			t.Fatal(err)
		}
	}
}
