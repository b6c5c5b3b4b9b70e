package connector_test

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/connector"
)

func audited() *connector.Spec {
	params := map[string]string{"user": "/target/user"}
	return &connector.Spec{
		Stages: map[action.Stage]connector.Stage{action.Production: {Origins: []connector.Origin{{Name: "main", URL: "https://iam.example"}}}},
		Fold:   []string{"user"},
		Operations: []connector.Operation{
			{Name: "iam.user.reset", Method: "POST", Path: "/users/{user}/reset", Effect: action.Privileged},
			{Name: "iam.user.note", Method: "POST", Path: "/users/{user}/note", Effect: action.Write,
				Body: &connector.Body{Type: connector.BodyForm, Fields: map[string]connector.Field{"text": {Param: "text", Optional: true}}}}},
		Audit: &connector.Audit{Path: "/log", After: "after", Query: map[string]string{"limit": "100"}, Credential: connector.AuditCredential{Source: "auditor", As: connector.AsBearer},
			Events: "/data/events", ID: "/id", Time: "/time", Actor: "/who/name", Event: "/what",
			Operations: []connector.AuditOperation{{Event: "reset", Operation: "iam.user.reset", Params: params}, {Event: "reset-by-api", Operation: "iam.user.reset", Params: maps.Clone(params)}},
			Ignored:    []string{"sign-in"}},
	}
}

func TestAuditIsChecked(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(*connector.Spec, *connector.Audit)
		want string // of the error; "" is none
	}{
		{"as it is", func(*connector.Spec, *connector.Audit) {}, ""},
		{"no production", func(s *connector.Spec, a *connector.Audit) {
			s.Stages = map[action.Stage]connector.Stage{action.Sandbox: s.Stages[action.Production]}
		}, "audit: is of production"},
		{"origin", func(s *connector.Spec, a *connector.Audit) { a.Origin = "other" }, "audit.origin"},
		{"elsewhere", func(s *connector.Spec, a *connector.Audit) { a.Path = "//evil.example/log" }, "audit.path"},
		{"a query in the path", func(s *connector.Spec, a *connector.Audit) { a.Path = "/log?after=0" }, "audit.path"},
		{"no cursor", func(s *connector.Spec, a *connector.Audit) { a.After = "" }, "audit.after"},
		{"cursor twice", func(s *connector.Spec, a *connector.Audit) { a.After = "limit" }, "audit.after"},
		{"no source", func(s *connector.Spec, a *connector.Audit) { a.Credential.Source = "" }, "audit.credential.source"},
		{"certificate", func(s *connector.Spec, a *connector.Audit) { a.Credential.As = connector.AsCertificate }, "audit.credential.as"},
		{"header", func(s *connector.Spec, a *connector.Audit) { a.Credential.Header = "X-Key" }, "audit.credential.header"},
		{"host as header", func(s *connector.Spec, a *connector.Audit) {
			a.Credential.As, a.Credential.Header = connector.AsHeader, "host"
		}, "audit.credential.header"},
		{"no id", func(s *connector.Spec, a *connector.Audit) { a.ID = "" }, "audit.id"},
		{"no pointer", func(s *connector.Spec, a *connector.Audit) { a.Time = "time" }, "audit.time"},
		{"the page is the list", func(s *connector.Spec, a *connector.Audit) { a.Events = "" }, ""},
		{"too often", func(s *connector.Spec, a *connector.Audit) { a.EverySeconds = -1 }, "audit.everySeconds"},
		{"too late", func(s *connector.Spec, a *connector.Audit) { a.LateSeconds = 3601 }, "audit.lateSeconds"},
		{"clocks too far apart", func(s *connector.Spec, a *connector.Audit) { a.SkewSeconds = 61 }, "audit.skewSeconds"},
		{"no operations", func(s *connector.Spec, a *connector.Audit) { a.Operations = nil }, "audit.operations: want at least one"},
		{"another's operation", func(s *connector.Spec, a *connector.Audit) { a.Operations[0].Operation = "mail.send" }, "audit.operations[0].operation"},
		{"no such parameter", func(s *connector.Spec, a *connector.Audit) { a.Operations[0].Params["group"] = "/g" }, "audit.operations[0].params.group"},
		{"a parameter that may be absent", func(s *connector.Spec, a *connector.Audit) {
			a.Operations = append(a.Operations, connector.AuditOperation{Event: "note", Operation: "iam.user.note", Params: map[string]string{"text": "/t"}})
		}, "audit.operations[2].params.text"},
		{"a parameter that another request of the operation has not", func(s *connector.Spec, a *connector.Audit) {
			s.Operations = append(s.Operations, connector.Operation{Name: "iam.user.reset", Method: "POST", Path: "/reset-all", Effect: action.Privileged})
		}, "audit.operations[0].params.user"},
		{"other parameters of the same", func(s *connector.Spec, a *connector.Audit) { a.Operations[1].Params = nil }, "audit.operations[1].params: an event before"},
		{"event twice", func(s *connector.Spec, a *connector.Audit) { a.Operations[1].Event = "reset" }, "audit.operations[1].event"},
		{"ignored and not", func(s *connector.Spec, a *connector.Audit) { a.Ignored = []string{"reset"} }, "audit.ignored[0]"},
		{"sign-ins without a form", func(s *connector.Spec, a *connector.Audit) {
			a.SignIns = &connector.AuditSignIns{Events: []string{"log-in"}, UserAgent: "/agent"}
		}, "audit.signIns: the connector says nothing"},
		{"no sign-ins", func(s *connector.Spec, a *connector.Audit) { a.SignIns = &connector.AuditSignIns{UserAgent: "/agent"} }, "audit.signIns.events"},
		{"sign-ins of nobody", func(s *connector.Spec, a *connector.Audit) {
			a.SignIns = &connector.AuditSignIns{Events: []string{"log-in"}}
		}, "audit.signIns.userAgent"},
		{"sign-ins that are ignored", func(s *connector.Spec, a *connector.Audit) {
			a.SignIns = &connector.AuditSignIns{Events: []string{"sign-in"}, UserAgent: "/agent"}
		}, "audit.signIns.events[0]"},
		{"nobody", func(s *connector.Spec, a *connector.Audit) { a.Accounts = map[string]string{"": "token"} }, "audit.accounts"},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			s := audited()
			c.edit(s, s.Audit)
			_, err := connector.NewSet(map[string]*connector.Spec{"iam": s})
			if (err != nil) != (c.want != "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// TestAuditPage: what a page is, and what makes all of it unreadable.
//
// Threats: W13 (watch)
func TestAuditPage(t *testing.T) {
	const event = `{"id":7,"time":"2026-01-02T03:04:05.678+01:00","who":{"name":"svc"},"what":"reset","target":{"user":"Jo"}}`
	page := func(events ...string) string { return `{"data":{"events":[` + strings.Join(events, ",") + `]}}` }
	for _, c := range []struct{ name, page, want string }{
		{"an event", page(event), ""},
		{"none", page(), ""},
		{"no list", `{"data":{}}`, "no list of events"},
		{"an object", `{"data":{"events":{}}}`, "no list of events"},
		{"a page of HTML", `<html>`, "json"},
		{"cut", page(event)[:40], "json"},
		{"two documents", page(event) + page(event), "after the document"},
		{"a member twice", page(strings.Replace(event, `"id":7`, `"id":7,"id":8`, 1)), "json"},
		{"too deep", page(strings.Repeat("[", 1000) + strings.Repeat("]", 1000)), "json"},
		{"too large", page(event + strings.Repeat(" ", connector.MaxAuditPage)), "limit"},
		{"too many", page(strings.TrimSuffix(strings.Repeat(event+",", 1001), ",")), "at most 1000"},
		{"no id", page(`{"time":"2026-01-02T03:04:05Z"}`), "no id"},
		{"id is no whole number", page(strings.Replace(event, `"id":7`, `"id":7.5`, 1)), "no whole number"},
		{"id is too great", page(strings.Replace(event, `"id":7`, `"id":90071992547409921`, 1)), "no whole number"},
		{"id is a line", page(strings.Replace(event, `"id":7`, `"id":"a\nb"`, 1)), "no text"},
		{"id is long", page(strings.Replace(event, `"id":7`, `"id":"`+strings.Repeat("a", 257)+`"`, 1)), "no text"},
		{"no time", page(strings.Replace(event, "2026-01-02", "yesterday", 1)), "no time"},
		{"a text that was cut in a character", page(strings.Replace(event, `"Jo"`, `"\ud83d"`, 1), strings.Replace(event, `"Jo"`, "\"\xf0\x9f\"", 1)), ""},
		{"an id that was", page(strings.Replace(event, `"id":7`, `"id":"\ud83d"`, 1)), "no text"},
		{"a member twice, as it is read", page(strings.Replace(event, `"id":7`, `"\ud83d":7,"\ud83e":8`, 1)), "json"},
		{"another's weird texts", page(`{"id":7,"time":"2026-01-02T03:04:05Z","who":{"name":["x"]},"what":{"\u0000":1}}`), ""},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			_, err := audited().Audit.ReadAudit([]byte(c.page))
			if (err != nil) != (c.want != "") || err != nil && !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
	es, err := audited().Audit.ReadAudit([]byte(page(event)))
	if err != nil || len(es) != 1 || es[0].ID != "7" || !es[0].Number || es[0].Actor != "svc" || es[0].Time.Format("15:04:05.000") != "02:04:05.678" {
		t.Errorf("got %+v, %v", es, err)
	}
	again, err := audited().Audit.ReadAudit([]byte(page(strings.ReplaceAll(event, ",", " ,\n"))))
	if err != nil || again[0].Digest != es[0].Digest {
		t.Errorf("the same event, spelled otherwise, is another one: %v", err)
	}
	if es, err := audited().Audit.ReadAudit([]byte(page(strings.Replace(event, `"svc"`, `1234`, 1)))); err != nil || es[0].Actor != "1234" {
		t.Errorf("an account that is a number: %+v, %v", es, err)
	}
	if got := audited().Audit.URL("https://iam.example", "a&b"); got != "https://iam.example/log?after=a%26b&limit=100" {
		t.Error(got)
	}
}

// TestAuditMeaning: what an event of an agent's account says. Whoever chose its texts
// cannot make it mean something that it is not, nor nothing at all.
//
// Threats: W11 (watch)
func TestAuditMeaning(t *testing.T) {
	for _, c := range []struct{ name, event, want string }{
		{"an operation", `"what":"reset","target":{"user":"jo"}`, "iam.user.reset map[user:jo]"},
		{"in another case", `"what":"reset","target":{"user":"Jo"}`, "iam.user.reset map[user:jo]"},
		{"a number", `"what":"reset","target":{"user":12}`, "iam.user.reset map[user:12]"},
		{"ignored", `"what":"sign-in"`, "ignored"},
		{"unknown", `"what":"delete everything"`, "unknown delete everything"},
		{"another case of the name", `"what":"Reset","target":{"user":"jo"}`, "unknown Reset"},
		{"no name", `"what":7`, "unknown "},
		{"escapes", `"what":"\u001b[2J\u202e\nx"`, `unknown \x1b[2J\u202e\nx`},
		{"long", `"what":"` + strings.Repeat("a", 5000) + `"`, "unknown " + strings.Repeat("a", 256)},
		{"nobody", `"what":"reset","target":{}`, "iam.user.reset: it does not say user"},
		{"several", `"what":"reset","target":{"user":["jo"]}`, "iam.user.reset: it does not say user"},
		{"a control character", `"what":"reset","target":{"user":"jo\u0000"}`, "iam.user.reset: its parameters are none that this connector decides"},
		{"longer than is shown", `"what":"reset","target":{"user":"` + strings.Repeat("jo", 1000) + `"}`, "iam.user.reset map[user:" + strings.Repeat("jo", 1000) + "]"},
		{"escapes without end", `"what":"` + strings.Repeat(`\u0000`, 5000) + `"`, "unknown " + strings.Repeat(`\x00`, 64)},
		{"letters without a certain case", `"what":"reset","target":{"user":"jö"}`, "iam.user.reset: its parameters are none that this connector decides"},
	} {
		t.Run(strings.ReplaceAll(c.name, " ", "_"), func(t *testing.T) {
			s := audited()
			es, err := s.Audit.ReadAudit([]byte(`{"data":{"events":[{"id":1,"time":"2026-01-02T03:04:05Z",` + c.event + `}]}}`))
			if err != nil {
				t.Fatal(err)
			}
			m := s.Means(es[0])
			got := fmt.Sprintf("%s %v", m.Operation, m.Params)
			switch {
			case m.Ignored:
				got = "ignored"
			case m.Operation == "":
				got = "unknown " + m.Event
			case m.Why != "":
				got = m.Operation + ": " + m.Why
			}
			if got != c.want {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}
