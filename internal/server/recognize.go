package server

import (
	"crypto/x509"
	"encoding/json"
	"fmt"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/connector"
	"github.com/sallyport-dev/sallyport/internal/surface/egress"
)

// recognizer speaks connector to the egress door, for one stage and the
// connectors of one agent.
type recognizer struct {
	set   *connector.Set
	stage action.Stage
	apps  map[string]bool // the agent's own connectors; others do not exist for it
}

func (c recognizer) Recognize(r action.Request, body []byte) (egress.Recognized, error) {
	m, err := c.set.Recognize(c.stage, r, body)
	if err != nil {
		return egress.Recognized{}, err
	}
	if !m.Allowed || !c.apps[m.Connector] {
		return egress.Recognized{Effect: m.Effect}, nil
	}
	out := egress.Recognized{App: m.Connector, Effect: m.Effect, Params: m.Params, Labels: m.Labels, Allowed: true, AllowLocal: m.Local,
		Override: m.Override}
	if m.Matched {
		out.Operation = m.Operation
		out.WebSocket = r.Destination == "websocket"
		for _, s := range m.Secrets {
			out.Secrets = append(out.Secrets, egress.Slot{Secret: s.Secret, Field: s.Field, Start: s.Start, End: s.End, Encode: s.Encode})
		}
		for _, t := range m.Takes {
			out.Takes = append(out.Takes, egress.Take{Source: t.Source, Fields: t.Fields(), Names: t.Names, Put: t.Put, Certificate: t.As == connector.AsCertificate})
		}
	} else {
		out.Params = map[string]string{"why": m.Code}
	}
	if m.ReadBack != nil {
		if out.ReadBack, err = readBack(*m.ReadBack, r.Origin); err != nil {
			return egress.Recognized{}, err
		}
	}
	return out, nil
}

func readBack(p connector.Plan, origin string) (*egress.ReadBack, error) {
	if p.Origin != origin {
		return nil, fmt.Errorf("read-back is on %s, which is another origin than the operation's", p.Origin)
	}
	path, query, _ := strings.Cut(p.Path, "?")
	c := check{plan: p}
	return &egress.ReadBack{Path: path, Query: query, Before: c.before, Verify: c.verify}, nil
}

// check is one read-back: before is asked just before the request is sent, after
// any hold, and verify after it was answered.
type check struct {
	plan  connector.Plan
	since time.Time
	old   string // canonical JSON of the value before, or ""
}

func (c *check) before(status int, body []byte) {
	c.since = time.Now()
	if v, ok := c.value(status, body); ok {
		c.old = v
	}
}

// value is the canonical JSON at the plan's pointer.
func (c *check) value(status int, body []byte) (string, bool) {
	var doc any
	if status != 200 || json.Unmarshal(body, &doc) != nil {
		return "", false
	}
	v, ok := pointer(doc, c.plan.Pointer)
	if !ok {
		return "", false
	}
	b, err := json.Marshal(v)
	return string(b), err == nil
}

// verify holds the answer against the plan. What cannot be read is unknown; what
// can be read and is not as planned is failed.
func (c *check) verify(status int, body []byte) string {
	now, ok := c.value(status, body)
	if !ok {
		return "unknown"
	}
	var text string
	isText := json.Unmarshal([]byte(now), &text) == nil
	done := false
	switch {
	case c.plan.Equals != nil:
		done = isText && text == *c.plan.Equals
	case c.plan.Newer:
		// Applications keep whole seconds; allow for that much rounding.
		t, err := time.Parse(time.RFC3339, text)
		done = err == nil && !t.Before(c.since.Truncate(time.Second))
	case c.plan.Changed:
		if c.old == "" {
			return "unknown"
		}
		done = now != c.old
	}
	if done {
		return "verified"
	}
	return "failed"
}

// pointer resolves an RFC 6901 JSON pointer.
func pointer(doc any, p string) (any, bool) {
	if p == "" {
		return doc, true
	}
	for _, part := range strings.Split(strings.TrimPrefix(p, "/"), "/") {
		part = strings.NewReplacer("~1", "/", "~0", "~").Replace(part)
		switch d := doc.(type) {
		case map[string]any:
			v, ok := d[part]
			if !ok {
				return nil, false
			}
			doc = v
		case []any:
			var i int
			if _, err := fmt.Sscanf(part, "%d", &i); err != nil || i < 0 || i >= len(d) || fmt.Sprint(i) != part {
				return nil, false
			}
			doc = d[i]
		default:
			return nil, false
		}
	}
	return doc, true
}

// roots gives each origin the roots that its connector names, and no others.
func roots(set *connector.Set, stage action.Stage) (func(origin string) *x509.CertPool, error) {
	pools := map[string]*x509.CertPool{}
	for _, name := range set.Names() {
		for _, o := range set.Spec(name).Stages[stage].Origins {
			if o.CA == "" {
				continue
			}
			p := x509.NewCertPool()
			if !p.AppendCertsFromPEM([]byte(o.CA)) {
				return nil, fmt.Errorf("connector %s: ca of %s is not PEM", name, o.URL)
			}
			pools[o.URL] = p
		}
	}
	return func(origin string) *x509.CertPool { return pools[origin] }, nil
}
