package mcp

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
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

// look measures the server, and returns the session in which it was seen. One look at a
// time: who waits sees what is there then.
func (u *upstream) look(ctx context.Context, p put) (*sight, session, error) {
	ctx, cancel := context.WithTimeout(ctx, measureTimeout)
	defer cancel()
	u.looking.Lock()
	defer u.looking.Unlock()
	se := u.session
	raw, err := u.list(ctx, &se, p)
	if errors.Is(err, errSession) { // a list may be asked for twice
		se = session{}
		raw, err = u.list(ctx, &se, p)
	}
	if err != nil {
		u.session = session{}
		return nil, se, err
	}
	u.session = se
	x, err := u.sight(raw, se)
	if err == nil {
		u.mu.Lock()
		u.seen = x
		u.mu.Unlock()
	}
	return x, se, err
}

// list asks for the whole list, after a handshake where there is no session.
func (u *upstream) list(ctx context.Context, se *session, p put) ([]canon.Value, error) {
	if se.id == "" {
		if err := u.greet(ctx, se, p); err != nil {
			return nil, err
		}
	}
	var all []canon.Value
	cursor := ""
	for range maxPages {
		params := map[string]any{}
		if cursor != "" {
			params["cursor"] = cursor
		}
		raw, err := u.ask(ctx, se, "tools/list", "", params, p)
		if err != nil {
			return nil, err
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
	s.facts[prefix+"tools"] = listed(names, 1000)
	for _, name := range u.Tools {
		at := prefix + "tool." + name + "."
		d := found[name]
		if d == nil {
			s.facts[at+"says"], s.facts[at+"takes"] = "not listed", "not listed"
			continue
		}
		says, takes, err := d.finish()
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
func (d *definition) finish() (says, takes string, err error) {
	if d.text, err = canon.Marshal(d); err != nil {
		return "", "", errors.New("its definition has no canonical form")
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
	return string(a), listed(d.schema.arguments, 120) + "; " + string(b), nil
}

// listed is a list of names that somebody else chose, for people: sorted, and as a digest
// where it has more bytes than most.
func listed(names []string, most int) string {
	var out []string
	for _, n := range slices.Sorted(slices.Values(names)) {
		out = append(out, plain(n))
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

// observe has a sight compared with what is certified.
func (s *Door) observe(ctx context.Context, u *upstream, x *sight, e action.Effect) error {
	list := []canon.Value{}
	for _, name := range slices.Sorted(maps.Keys(x.tools)) {
		list = append(list, x.tools[name].text)
	}
	text, err := canon.Marshal(list)
	if err != nil {
		return err
	}
	return s.c.Observer.Observe(ctx, Measurement{App: u.App, Effect: e, Facts: maps.Clone(x.facts), Definitions: text})
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
