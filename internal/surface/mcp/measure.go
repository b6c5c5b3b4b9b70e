package mcp

import (
	"bytes"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/gate"
)

// sight is one look at a server: who it is and what it lists.
type sight struct {
	facts map[string]string
	tools map[string]*definition // of declared tools that can be used
}

// definition is what a server says of a tool, in canonical JSON of the members that are
// measured. Nothing else of it is passed on.
type definition struct {
	Name         string      `json:"name"`
	Title        string      `json:"title,omitempty"`
	Description  string      `json:"description,omitempty"`
	InputSchema  canon.Value `json:"inputSchema"`
	OutputSchema canon.Value `json:"outputSchema,omitempty"`
	Annotations  canon.Value `json:"annotations,omitempty"`

	text   []byte
	schema *schema
}

// look measures the server, in a session of its own. What is settled of that is in se
// also when the look fails.
func (u *upstream) look(ctx context.Context, se *session, p put) (*sight, error) {
	ctx, cancel := context.WithTimeout(ctx, measureTimeout)
	defer cancel()
	if err := u.greet(ctx, se, p); err != nil {
		return nil, err
	}
	raw, err := u.list(ctx, se, p)
	if err != nil {
		return nil, err
	}
	x, err := u.sight(raw, *se)
	if err == nil {
		u.mu.Lock()
		u.seen = x
		u.mu.Unlock()
	}
	return x, err
}

// list asks for the whole list.
func (u *upstream) list(ctx context.Context, se *session, p put) ([]canon.Value, error) {
	var all []canon.Value
	cursor, left := "", maxAnswer
	for range maxPages {
		params := map[string]any{}
		if cursor != "" {
			params["cursor"] = cursor
		}
		raw, err := u.ask(ctx, se, "tools/list", "", params, p)
		if err != nil {
			return nil, err
		}
		if left -= len(raw); left < 0 {
			return nil, errLarge
		}
		var page struct {
			Tools []canon.Value `json:"tools"`
			Next  string        `json:"nextCursor"`
		}
		if canon.UnmarshalOpen(raw, maxAnswer, &page) != nil {
			return nil, errUnread
		}
		all = append(all, page.Tools...)
		if len(all) > maxTools {
			return nil, errLarge
		}
		if cursor = page.Next; cursor == "" {
			return all, nil
		}
	}
	return nil, errLarge
}

// sight makes facts of a list. A name that is there twice is an error: which of the two
// would be called is the server's secret.
func (u *upstream) sight(list []canon.Value, se session) (*sight, error) {
	s := &sight{facts: map[string]string{}, tools: map[string]*definition{}}
	var names []string
	found := map[string]*definition{}
	for _, raw := range list {
		var d definition
		if canon.UnmarshalOpen(raw, maxAnswer, &d) != nil || d.Name == "" {
			return nil, errUnread
		}
		if slices.Contains(names, d.Name) {
			return nil, errUnread
		}
		names = append(names, d.Name)
		found[d.Name] = &d
	}
	prefix := "mcp." + u.App + "."
	s.facts[prefix+"server"] = se.server
	s.facts[prefix+"tools"] = u.listed(names, 1000)
	if se.peer != "" {
		s.facts[prefix+"peer"] = se.peer
	}
	for _, name := range u.Tools {
		at := prefix + "tool." + name + "."
		d := found[name]
		if d == nil {
			s.facts[at+"says"], s.facts[at+"takes"] = "not listed", "not listed"
			continue
		}
		says, takes, err := u.finish(d)
		if err != nil {
			s.facts[at+"says"], s.facts[at+"takes"] = "cannot be used", "cannot be used: "+err.Error()
			continue
		}
		s.facts[at+"says"], s.facts[at+"takes"] = says, takes
		s.tools[name] = d
	}
	return s, nil
}

// finish makes the canonical text and the two facts of a tool: what it says of itself,
// and what it takes and gives.
func (u *upstream) finish(d *definition) (says, takes string, err error) {
	text, err := canon.Marshal(d)
	if err != nil {
		return "", "", errors.New("its definition has no canonical form")
	}
	if len(text) > maxDefinition {
		return "", "", errors.New("its definition is larger than is read")
	}
	if d.text = u.redact(text); canon.Check(d.text, maxAnswer) != nil {
		return "", "", errors.New("its definition repeats a secret")
	}
	if d.schema, err = newSchema(d.InputSchema); err != nil {
		return "", "", err
	}
	a, err := canon.DigestOf(definition{Name: d.Name, Title: d.Title, Description: d.Description, InputSchema: canon.Value("null"), Annotations: d.Annotations})
	if err != nil {
		return "", "", err
	}
	b, err := canon.DigestOf(definition{InputSchema: d.InputSchema, OutputSchema: d.OutputSchema})
	if err != nil {
		return "", "", err
	}
	return string(a), u.listed(d.schema.arguments, 120) + "; " + string(b), nil
}

// listed is a list of names that somebody else chose, for people: sorted, and as a digest
// where it has more bytes than most.
func (u *upstream) listed(names []string, most int) string {
	var out []string
	for _, n := range slices.Sorted(slices.Values(names)) {
		out = append(out, u.plain(n))
	}
	text := strings.Join(out, ", ")
	switch {
	case len(out) == 0:
		return "none"
	case len(text) > most:
		return fmt.Sprintf("%d, %s", len(out), canon.Digest([]byte(text)))
	}
	return text
}

var plainName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._/+-]{0,63}$`)

// plain is a name that somebody else chose, or its digest where it could be read as
// something else: a sentence, or another name.
func plain(s string) string {
	if s == "" {
		return "unsaid"
	}
	if !plainName.MatchString(s) {
		return string(canon.Digest([]byte(s)))
	}
	return s
}

// plain is the same of what a server chose: a secret that it repeats is no name.
func (u *upstream) plain(s string) string {
	if !bytes.Equal(u.redact([]byte(s)), []byte(s)) {
		return string(canon.Digest([]byte(s)))
	}
	return plain(s)
}

// visit is a look at a server of which nothing is otherwise than it was certified.
type visit struct {
	*sight
	session session
	put     put
}

// visit looks at a server for an action and has what is seen compared. code and why say
// why nothing more may be asked of it. Who has a visit leaves.
func (s *Door) visit(ctx context.Context, u *upstream, permit gate.Permit) (v *visit, code, why string) {
	p, err := s.credentials(ctx, u, permit.Action().ID)
	if err != nil {
		return nil, "credentials_refused", "no credential could be had for the server"
	}
	v = &visit{put: p}
	defer func() {
		if code != "" {
			u.leave(ctx, &v.session, p)
		}
	}()
	v.sight, err = u.look(ctx, &v.session, p)
	if err != nil && !errors.Is(err, errDrift) {
		return v, "not_measured", "the server was not asked: " + err.Error()
	}
	if err != nil || s.observe(ctx, u, v.sight, permit) != nil {
		return v, codeDrift, "the server or its tools are not those that were certified"
	}
	if u.Name != "" && u.Name != v.session.name { // measured before: so where it was another one, that is drift
		return v, "not_measured", "the server was not asked: it calls itself otherwise than the connector says"
	}
	return v, "", ""
}

// observe has a sight compared with what is certified.
func (s *Door) observe(ctx context.Context, u *upstream, x *sight, permit gate.Permit) error {
	var texts [][]byte
	for _, name := range slices.Sorted(maps.Keys(x.tools)) {
		texts = append(texts, x.tools[name].text)
	}
	all := slices.Concat([]byte("["), bytes.Join(texts, []byte(",")), []byte("]"))
	return s.c.Observer.Observe(ctx, Measurement{App: u.App, Effect: permit.Action().Effect, Drift: permit.Drift(), Facts: maps.Clone(x.facts), Definitions: all})
}

// verify measures who answers, when the certificate is verified and before the
// handshake ends: another peer than the certified one gets neither call nor credential.
func (s *Door) verify(app string) func(tls.ConnectionState) error {
	return func(c tls.ConnectionState) error {
		peer := peerOf(&c)
		if peer == "" {
			return errors.New("the certificate was not verified")
		}
		m := Measurement{App: app, Effect: action.Read, Facts: map[string]string{"mcp." + app + ".peer": peer}}
		if s.c.Observer.Observe(context.Background(), m) != nil {
			return errDrift
		}
		return nil
	}
}

// form is what is decided and then asked of a server.
type form struct {
	URL       string        `json:"url"`
	Method    string        `json:"method"`
	Tool      string        `json:"tool,omitempty"`
	Arguments action.Digest `json:"arguments,omitempty"`
}

func (f form) digest() action.Digest {
	d, err := canon.DigestOf(f)
	if err != nil {
		return "" // matches nothing
	}
	return d
}

// shown is the definition of a tool as it was seen last, or nil.
func (u *upstream) shown(tool string) *definition {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.seen == nil {
		return nil
	}
	return u.seen.tools[tool]
}
