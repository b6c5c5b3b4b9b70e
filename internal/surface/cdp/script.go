package cdp

import (
	_ "embed"
	"strings"
	"sync"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
)

// pinned.txt lists the scripts of the drivers that the profile pinned
// evaluates: digest, then where it was seen.
//
//go:embed pinned.txt
var pinnedText string

var pins = sync.OnceValue(func() map[action.Digest]bool {
	m := map[action.Digest]bool{}
	for line := range strings.Lines(pinnedText) {
		if d, _, _ := strings.Cut(strings.TrimSpace(line), " "); strings.HasPrefix(d, "sha256:") {
			m[action.Digest(d)] = true
		}
	}
	return m
})

// known reports whether a profile evaluates the script.
func (p Profile) known(script string) bool {
	return p == Open || p == Pinned && pins()[canon.Digest([]byte(script))]
}

var errScript = func() *problem {
	return refuse("cdp_script", "the profile pinned evaluates only the drivers' own helpers", "use the driver's methods, not scripts of your own")
}

// evaluate passes a script on, without the gesture of a user: a script must not
// get what only a press gives (pop-ups, fullscreen, a file chooser).
func evaluate(c *client, r request, s *session) {
	var p struct {
		Expression string `json:"expression"`
		Function   string `json:"functionDeclaration"`
		Arguments  []struct {
			Value jsontext.Value `json:"value"`
		} `json:"arguments"`
	}
	if !into(r.params, &p) {
		c.fail(r, plain(codeParams, "Invalid parameters"))
		return
	}
	if profile := c.s.c.Profile; profile != Open {
		ok := profile.known(p.Expression + p.Function)
		for _, a := range p.Arguments {
			ok = ok && profile.argument(a.Value)
		}
		if !ok {
			why := errScript()
			c.record(why, r.method, []byte(r.method))
			c.fail(r, why)
			return
		}
	}
	c.forward(r, s, without(r.params, "userGesture"), nil)
}

// argument inspects an argument of a helper: Playwright's helpers evaluate a
// string that they are given. What looks like a function or like code must be
// known too; data is free.
func (p Profile) argument(v jsontext.Value) bool {
	var s string
	if v == nil || v.Kind() != '"' || json.Unmarshal(v, &s, lax) != nil {
		return true
	}
	return !code(s) || p.known(s)
}

// code reports whether a text could be the source of a function or more than
// one word of an expression.
func code(s string) bool {
	return strings.ContainsAny(s, "(){};=`") || strings.Contains(s, "=>")
}

func addScript(c *client, r request, s *session) {
	var p struct {
		Source string `json:"source"`
	}
	if !into(r.params, &p) {
		c.fail(r, plain(codeParams, "Invalid parameters"))
		return
	}
	// Playwright adds an empty script to have a world made in every document.
	if p.Source != "" && !c.s.c.Profile.known(p.Source) {
		why := errScript()
		c.record(why, r.method, []byte(r.method))
		c.fail(r, why)
		return
	}
	c.forward(r, s, r.params, nil)
}

// without returns an object without some of its members.
func without(params jsontext.Value, names ...string) jsontext.Value {
	var m map[string]jsontext.Value
	if json.Unmarshal(params, &m) != nil {
		return jsontext.Value("{}")
	}
	for _, n := range names {
		delete(m, n)
	}
	return toJSON(m)
}
