package connector

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"
)

// Audit is the application's own audit log of production, as the boundary reads it to
// see from outside that nothing went around the doors: pages of JSON, got by GET, with
// events in the order in which they happened.
type Audit struct {
	Origin string `json:"origin,omitempty"` // name; may be left out when there is one
	Path   string `json:"path"`
	// Query are parameters that every request has; After is the one that names the
	// event after which the page begins. Without it a page begins with the first event.
	Query      map[string]string `json:"query,omitempty"`
	After      string            `json:"after"`
	Credential AuditCredential   `json:"credential"`

	// JSON pointers (RFC 6901): Events from the page, the others from one event.
	// An id is a whole number or a text; numbers must rise. Times are RFC 3339.
	Events string `json:"events,omitempty"`
	ID     string `json:"id"`
	Time   string `json:"time"`
	Actor  string `json:"actor"`
	Event  string `json:"event"`
	// Consecutive says that no id is left out, so that one that is missing shows.
	Consecutive bool `json:"consecutive,omitempty"`

	// Operations says which events are which operations, and Ignored which are none,
	// such as sign-ins. What an agent's account does and neither names is a finding.
	Operations []AuditOperation `json:"operations"`
	Ignored    []string         `json:"ignored,omitempty"`
	// SignIns are the events of a sign-in, where they say by which User-Agent: the
	// boundary signs in under the label of a lease, and nobody else may by the account.
	SignIns *AuditSignIns `json:"signIns,omitempty"`
	// Accounts says as whom credentials act that name no account themselves: account to
	// CredentialSource.
	Accounts map[string]string `json:"accounts,omitempty"`

	EverySeconds int64 `json:"everySeconds,omitempty"` // between two readings; 0 is 60
	LateSeconds  int64 `json:"lateSeconds,omitempty"`  // how late the log may show an event; 0 is 60
	SkewSeconds  int64 `json:"skewSeconds,omitempty"`  // how far the application's clock may be from ours; 0 is 5
}

// AuditCredential is what the boundary reads the log with. No task is given it.
type AuditCredential struct {
	Source string `json:"source"` // CredentialSource of type static-request
	As     TakeAs `json:"as"`     // bearer, basic or header
	Header string `json:"header,omitempty"`
}

// Take is how the credential is put into a request.
func (c AuditCredential) Take() Take { return Take{Source: c.Source, As: c.As, Header: c.Header} }

// AuditOperation is an event that an operation of the connector leaves in the log.
type AuditOperation struct {
	Event     string `json:"event"`
	Operation string `json:"operation"`
	// Params are pointers from the event, by parameter of the operation. What is not
	// named here is not compared.
	Params map[string]string `json:"params,omitempty"`
}

// AuditSignIns are events that begin a session.
type AuditSignIns struct {
	Events    []string `json:"events"`
	UserAgent string   `json:"userAgent"` // pointer from the event
}

// Every is the time between two readings.
func (a *Audit) Every() time.Duration { return seconds(a.EverySeconds, 60) }

// Late is how late the log may show an event.
func (a *Audit) Late() time.Duration { return seconds(a.LateSeconds, 60) }

// Skew is how far the application's clock may be from ours.
func (a *Audit) Skew() time.Duration { return seconds(a.SkewSeconds, 5) }

// Stale is how long the log may go unread before that is a failure of its own.
func (a *Audit) Stale() time.Duration { return 10 * a.Every() }

func seconds(n, otherwise int64) time.Duration {
	if n == 0 {
		n = otherwise
	}
	return time.Duration(n) * time.Second
}

// URL is where a page of the log begins after an event; after is empty for the first.
func (a *Audit) URL(origin, after string) string {
	q := url.Values{}
	for k, v := range a.Query {
		q.Set(k, v)
	}
	if after != "" {
		q.Set(a.After, after)
	}
	if len(q) == 0 {
		return origin + a.Path
	}
	return origin + a.Path + "?" + q.Encode()
}

func (c *checker) audit() {
	a := c.spec.Audit
	if a == nil {
		return
	}
	bad := func(at, format string, args ...any) { c.bad("audit."+at, format, args...) }
	if _, ok := c.spec.Stages["production"]; !ok {
		c.bad("audit", "is of production, which the connector has not")
	}
	c.originName(a.Origin, "audit.origin")
	if _, err := splitPath(a.Path); err != nil || strings.ContainsAny(a.Path, "?#") {
		bad("path", "want a plain path")
	}
	if _, twice := a.Query[a.After]; a.After == "" || twice {
		bad("after", "want the name of a query parameter that query does not give")
	}
	switch t := a.Credential; {
	case !nameForm.MatchString(t.Source):
		bad("credential.source", "want the name of a CredentialSource")
	case t.As != AsBearer && t.As != AsBasic && t.As != AsHeader:
		bad("credential.as", "want bearer, basic or header")
	case (t.As == AsHeader) != (t.Header != ""), t.As == AsHeader && (!fieldForm.MatchString(t.Header) || fieldsKept.MatchString(http.CanonicalHeaderKey(t.Header))):
		bad("credential.header", "want the name of a header field with as: header, and none otherwise")
	}
	for at, p := range map[string]string{"events": a.Events, "id": a.ID, "time": a.Time, "actor": a.Actor, "event": a.Event} {
		if !pointerForm(p) || p == "" && at != "events" {
			bad(at, "want a JSON pointer (RFC 6901), as in /id")
		}
	}
	for at, n := range map[string]int64{"everySeconds": a.EverySeconds, "lateSeconds": a.LateSeconds} {
		if n != 0 && (n < 1 || n > 3600) {
			bad(at, "want 1 to 3600")
		}
	}
	if a.SkewSeconds < 0 || a.SkewSeconds > 60 {
		bad("skewSeconds", "want 1 to 60")
	}
	for account, source := range a.Accounts {
		if account == "" || !nameForm.MatchString(source) {
			bad("accounts", "want account: name of a CredentialSource")
		}
	}
	c.auditEvents(a)
}

// auditEvents: each event is one thing, and all of one operation say the same of it, so
// that which of them is matched with which effect makes no difference.
func (c *checker) auditEvents(a *Audit) {
	if len(a.Operations) == 0 {
		c.bad("audit.operations", "want at least one event that is an operation")
	}
	known := map[string]bool{}
	name := func(at, event string) {
		if event == "" || known[event] {
			c.bad(at, "want the name of an event, each once")
		}
		known[event] = true
	}
	said := map[string][]string{}
	for i, o := range a.Operations {
		at := fmt.Sprintf("audit.operations[%d]", i)
		name(at+".event", o.Event)
		if !slices.ContainsFunc(c.spec.Operations, func(op Operation) bool { return op.Name == o.Operation }) {
			c.bad(at+".operation", "the connector has no operation %s", o.Operation)
			continue
		}
		params := slices.Sorted(maps.Keys(o.Params))
		for _, p := range params {
			for _, op := range c.spec.Operations { // several requests can be one operation
				if _, always := op.Params(); op.Name == o.Operation && !slices.Contains(always, p) {
					c.bad(at+".params."+p, "%s has not always a parameter %q", o.Operation, p)
					break
				}
			}
			if !pointerForm(o.Params[p]) || o.Params[p] == "" {
				c.bad(at+".params."+p, "want a JSON pointer (RFC 6901), as in /target/id")
			}
		}
		if before, ok := said[o.Operation]; ok && !slices.Equal(before, params) {
			c.bad(at+".params", "an event before says other parameters of %s", o.Operation)
		}
		said[o.Operation] = params
	}
	for i, event := range a.Ignored {
		name(fmt.Sprintf("audit.ignored[%d]", i), event)
	}
	if x := a.SignIns; x != nil {
		if len(x.Events) == 0 {
			c.bad("audit.signIns.events", "want at least one event")
		}
		for i, event := range x.Events {
			name(fmt.Sprintf("audit.signIns.events[%d]", i), event)
		}
		if !pointerForm(x.UserAgent) || x.UserAgent == "" {
			c.bad("audit.signIns.userAgent", "want a JSON pointer (RFC 6901), as in /userAgent")
		}
		if c.spec.SignIn == nil {
			c.bad("audit.signIns", "the connector says nothing about signing in")
		}
	}
}

func pointerForm(p string) bool { return p == "" || strings.HasPrefix(p, "/") && len(p) <= 200 }
