package api_test

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/api/apitest"
	"github.com/sallyport-dev/sallyport/internal/api/client"
	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/resource"
)

// players are the sample tenant's people: each has one role. The approver is the
// last, since a yes or a no closes a question.
var players = []struct{ role, name string }{
	{"owner", "mara"}, {"requester", "dana"}, {"policy-author", "noor"}, {"identity-administrator", "kofi"},
	{"secrets-administrator", "sven"}, {"auditor", "lin"}, {"operator", "ada"}, {"approver", "felix"},
}

// asked is one row of the matrix: a request that fails for another reason than
// the role, or does no harm, so that what is left is what the role decides.
type asked struct {
	row          string
	method, path string
	body         string
	do           func(person string) error // instead of a request
}

// roles holds testdata/roles.txt against the server: which role comes past the
// check of roles at which route. A route that is not in the matrix fails, and so
// does a cell that changed. SALLYPORT_WRITE=1 writes it.
func roles(t *testing.T, r *apitest.Rig) {
	m := &matrix{t: t, r: r}
	pending := m.pending()
	rows := map[string][]asked{}
	for _, route := range api.Routes() {
		rows[route] = m.rows(route, pending)
		if rows[route] == nil {
			t.Errorf("%s: say in this test how the route is asked, so that its roles are in the matrix", route)
		}
	}
	var b strings.Builder
	b.WriteString("# Who comes past the check of roles, by route. Made by TestServer/roles; SALLYPORT_WRITE=1 writes it.\n# x: yes; *: the task decides, as the last column says.\n")
	fmt.Fprintf(&b, "%-42s", "")
	for _, p := range players {
		fmt.Fprintf(&b, " %-8.8s", p.role)
	}
	b.WriteString("\n")
	for _, route := range api.Routes() {
		for _, q := range rows[route] {
			fmt.Fprintf(&b, "%-42s", q.row)
			for _, p := range players {
				cell := "x"
				if besides[route] != "" {
					cell = "*"
				} else if m.refused(q, p.name) {
					cell = "."
				}
				fmt.Fprintf(&b, " %-8s", cell)
			}
			b.WriteString(strings.TrimRight(" "+besides[route], " ") + "\n")
		}
	}
	got := strings.ReplaceAll(b.String(), " \n", "\n")
	for strings.Contains(got, " \n") {
		got = strings.ReplaceAll(got, " \n", "\n")
	}
	const file = "testdata/roles.txt"
	if os.Getenv("SALLYPORT_WRITE") != "" {
		if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s is not what the server does; got:\n%s", file, got)
	}
}

// besides says what else is asked where it depends on the thing named.
var besides = map[string]string{
	"POST /api/v1/tasks/{id}/take":         "of the task's owner, deputy or an operator",
	"POST /api/v1/tasks/{id}/give-back":    "of the task's owner, deputy or an operator",
	"POST /api/v1/tasks/{id}/act":          "of who has taken it over",
	"POST /access/v1/requests":             "of the task's requester",
	"POST /access/v1/requests/{id}/cancel": "of the task's requester",
}

type matrix struct {
	t *testing.T
	r *apitest.Rig
}

// pending makes a question that waits: a capability of another name.
func (m *matrix) pending() string {
	all, err := m.r.As("noor").Resources(m.t.Context(), resource.KindCapability, "reset-mfa")
	if err != nil || len(all) != 1 {
		m.t.Fatal(all, err)
	}
	status, answer := send(m.t, m.r, "POST", "/api/v1/apply", header("noor"), strings.NewReader(m.document(all[0], func(meta, _ map[string]any) { meta["name"] = "waits" })))
	if status != http.StatusOK {
		m.t.Fatal(answer)
	}
	list, err := m.r.As("noor").Approvals(m.t.Context(), "")
	if err != nil {
		m.t.Fatal(err)
	}
	for _, a := range list {
		if a.Statement.Subject == "waits" {
			return a.ID()
		}
	}
	m.t.Fatal("nothing waits")
	return ""
}

func header(person string) http.Header {
	return http.Header{api.AsHeader: {person}, "Content-Type": {"application/json"}}
}

func (m *matrix) document(raw json.RawMessage, change func(meta, spec map[string]any)) string {
	var doc struct {
		APIVersion string         `json:"apiVersion"`
		Kind       string         `json:"kind"`
		Metadata   map[string]any `json:"metadata"`
		Spec       map[string]any `json:"spec"`
	}
	if err := json.Unmarshal(raw, &doc); err != nil {
		m.t.Fatal(err)
	}
	change(doc.Metadata, doc.Spec)
	b, err := json.Marshal(map[string]any{"resources": []any{doc}})
	if err != nil {
		m.t.Fatal(err)
	}
	return string(b)
}

// applies has one row a kind: a change that the world does not take, so that
// who comes past the roles changes nothing. A policy set and a retention are made.
func (m *matrix) applies() (out []asked) {
	for _, kind := range resource.Kinds() {
		raw := json.RawMessage(`{"apiVersion":"sallyport/v1","kind":"` + kind + `","metadata":{"name":"matrix","tenant":"brightwell"},"spec":{}}`)
		if all, err := m.r.As("noor").Resources(m.t.Context(), kind, ""); err != nil {
			m.t.Fatal(err)
		} else if len(all) > 0 {
			raw = all[0]
		}
		body := m.document(raw, func(meta, spec map[string]any) {
			name := meta["name"]
			if kind != resource.KindTenant {
				meta["name"] = "NAME" // of who asks
			}
			switch kind {
			case resource.KindTenant:
				spec["trustDomain"] = "other.example"
			case resource.KindConnector:
				meta["name"] = name
				spec["declaredRoles"] = []any{map[string]any{"person": "nobody", "role": "x", "can": []string{"rules"}}}
			case resource.KindPerson:
				spec["subjects"] = []any{map[string]any{"issuer": "https://nobody.example", "subject": "x"}}
			case resource.KindAgent:
				spec["owner"] = "nobody"
			case resource.KindCapability:
				spec["credentials"] = []string{"nobody"}
			case resource.KindSuite:
				spec["scenarios"].([]any)[0].(map[string]any)["capability"] = "nobody"
			case resource.KindCredentialSource:
				spec["connector"] = "nobody"
			case resource.KindRetention:
				spec["days"] = 90
			case resource.KindWitness:
				_, key, err := note.GenerateKey(rand.Reader, "w.example")
				if err != nil {
					m.t.Fatal(err)
				}
				spec["url"], spec["key"] = "https://w.example", key
			}
		})
		out = append(out, asked{row: "POST apply " + kind, method: "POST", path: "/api/v1/apply", body: body})
	}
	return out
}

func (m *matrix) rows(route, pending string) []asked {
	method, path, _ := strings.Cut(route, " ")
	one := func(body string, replace ...string) []asked {
		return []asked{{row: method + " " + strings.TrimPrefix(path, "/api/v1/"), method: method, path: strings.NewReplacer(replace...).Replace(path), body: body}}
	}
	switch strings.TrimPrefix(path, "/api/v1/") {
	case "apply":
		return m.applies()
	case "resources", "approvals", "approvals/quality", "secrets", "leases", "identity", "identity/rotate", "identity/refresh", "keys", "ledger", "ledger/verify", "separation", "notify":
		return one("")
	case "doctor": // the answer takes a while, and names nobody
		return []asked{{row: "GET doctor", do: func(string) error { return nil }}}
	case "resources/{kind}", "resources/{kind}/{name}", "changes/{kind}/{name}", "changes/{kind}/{name}/{version}":
		return one("", "{kind}", "Person", "{name}", "dana")
	case "tasks":
		return one(`{"capability":"nothing"}`)
	case "policy/replay":
		return one(`{"limit":1}`)
	case "tasks/{id}", "tasks/{id}/close", "tasks/{id}/take", "tasks/{id}/give-back", "tasks/{id}/act":
		return one(`{}`, "{id}", "none")
	case "approvals/{id}", accessAt + "/{id}":
		return one("", "{id}", pending)
	case "approvals/{id}/approve":
		rows := one("")
		rows[0].do = func(person string) error {
			a, err := m.r.As(person).Approval(m.t.Context(), pending)
			if err != nil {
				return err
			}
			_, err = m.r.As(person).Approve(m.t.Context(), a, m.r.Keys[person])
			return err
		}
		return rows
	case "approvals/{id}/reject":
		return one(`{"reason":"matrix"}`, "{id}", m.pending2())
	case accessAt:
		return one(`{}`)
	case accessAt + "/{id}/cancel":
		return one("", "{id}", pending)
	case "revoke":
		return one(`{"scope":"task/none","reason":"matrix"}`)
	case "identity/reinstate":
		return one(`{"person":"nobody","reason":"matrix"}`)
	case "certifications":
		return one(`{"agent":"nobody"}`)
	case "secrets/{name...}":
		return one("value", "{name...}", "matrix")
	case "reconciliation":
		return one("")
	case "readiness/{agent}", "boundary/{agent}", "behaviour/{agent}", "behaviour/{agent}/canaries/{scenario}":
		return one("", "{agent}", "nobody")
	case "ledger/{seq}", "ledger/proof/{seq}":
		return one("", "{seq}", "0")
	case "ledger/{seq}/payload/{n}":
		return one("", "{seq}", "0", "{n}", "0")
	case "ledger/export":
		return one("")
	}
	return nil
}

const accessAt = "/access/v1/requests"

// pending2 makes another question.
func (m *matrix) pending2() string {
	list, err := m.r.As("noor").Approvals(m.t.Context(), "")
	if err != nil {
		m.t.Fatal(err)
	}
	all, err := m.r.As("noor").Resources(m.t.Context(), resource.KindCapability, "waits")
	if err != nil {
		m.t.Fatal(err)
	}
	send(m.t, m.r, "POST", "/api/v1/apply", header("noor"), strings.NewReader(m.document(all[0], func(meta, _ map[string]any) { meta["name"] = "waits-too" })))
	after, err := m.r.As("noor").Approvals(m.t.Context(), "")
	if err != nil {
		m.t.Fatal(err)
	}
	for _, a := range after {
		if !slices.ContainsFunc(list, func(b approval.Approval) bool { return b.ID() == a.ID() }) {
			return a.ID()
		}
	}
	m.t.Fatal("no other question")
	return ""
}

// refused reports whether the role kept the person out.
func (m *matrix) refused(q asked, person string) bool {
	if q.do != nil {
		var no *client.Refusal
		err := q.do(person)
		if err != nil && !errors.As(err, &no) {
			m.t.Fatal(q.row, person, err)
		}
		return no != nil && (no.Code == "role_missing" || no.Code == "excluded") // the author of what waits
	}
	status, answer := send(m.t, m.r, q.method, q.path, header(person), strings.NewReader(strings.ReplaceAll(q.body, "NAME", "matrix-"+person)))
	if status >= http.StatusInternalServerError {
		m.t.Errorf("%s as %s: %d %s", q.row, person, status, answer)
	}
	return strings.HasPrefix(answer, `{"code":"role_missing"`)
}
