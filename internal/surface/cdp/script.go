package cdp

import (
	"bytes"
	_ "embed"
	"regexp"
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

// Playwright's helpers all start with this: the fourth argument is a source
// that the page evaluates, what follows it is data that it does not.
const (
	playwrightEvaluate = "(utilityScript, ...args) => utilityScript.evaluate(...args)"
	sourceArgument     = 3
)

// frameSeq is the one thing in Playwright's helpers that is new in each frame.
var frameSeq = regexp.MustCompile(`"frameSeq":[0-9]{1,9},`)

// ScriptDigest is what pinned.txt holds of a script: the digest of its text
// without the line at its end that names its source, which a driver makes of
// where it is installed, and without the number of the frame that it is for.
func ScriptDigest(script string) action.Digest {
	script = frameSeq.ReplaceAllString(script, `"frameSeq":0,`)
	script = strings.TrimRight(script, "\n")
	if i := strings.LastIndexByte(script, '\n'); i >= 0 {
		last := strings.TrimSpace(script[i:])
		if strings.HasPrefix(last, "//# sourceURL=") && !strings.ContainsAny(last, "\r\u2028\u2029") {
			script = strings.TrimSpace(script[:i])
		}
	}
	return canon.Digest([]byte(script))
}

// known reports whether a profile evaluates the script.
func (p Profile) known(script string) bool {
	return p == Open || p == Pinned && pins()[ScriptDigest(script)]
}

// Sources are the texts of one Runtime.evaluate or Runtime.callFunctionOn that
// the page may evaluate: the script, the source that Playwright's wrapper is
// given, and, where one of these makes code of a text, every text in the data
// that could do something as code. The last is strict: a selector with an equals
// sign that waits is refused in Puppeteer.
func Sources(params []byte) (sources []string, ok bool) {
	var p struct {
		Expression string `json:"expression"`
		Function   string `json:"functionDeclaration"`
		Arguments  []struct {
			Value jsontext.Value `json:"value"`
		} `json:"arguments"`
	}
	if json.Unmarshal(params, &p, lax) != nil {
		return nil, false
	}
	sources = []string{p.Expression + p.Function}
	evals := p.Function != playwrightEvaluate && evaluates(p.Function)
	free := 0 // arguments from here on are data, unless the helper evaluates
	if p.Function == playwrightEvaluate && len(p.Arguments) > sourceArgument {
		var source string
		if v := p.Arguments[sourceArgument].Value; v.Kind() == '"' && json.Unmarshal(v, &source, lax) == nil {
			sources, evals = append(sources, source), evaluates(source)
		}
		free = sourceArgument + 1
	}
	if !evals {
		return sources, true
	}
	// It evaluates something of its data, wherever that is.
	for _, a := range p.Arguments[free:] {
		for d := jsontext.NewDecoder(bytes.NewReader(a.Value), lax); ; {
			t, err := d.ReadToken()
			if err != nil {
				break
			}
			if t.Kind() == '"' && code(t.String()) {
				sources = append(sources, t.String())
			}
		}
	}
	return sources, true
}

// evaluates reports whether a helper makes code of a text that it is given.
func evaluates(helper string) bool {
	for _, way := range []string{"eval", "Function", "extend("} {
		if strings.Contains(helper, way) {
			return true
		}
	}
	return false
}

// code reports whether a text could do something when it is evaluated: it calls,
// assigns, or is a function. Puppeteer gives some helpers functions as text.
func code(s string) bool {
	return strings.ContainsAny(s, "(){};=`") || strings.Contains(s, "++") || strings.Contains(s, "--") || strings.Contains(s, "delete")
}

var errScript = func() *problem {
	return refuse("cdp_script", "the profile pinned evaluates only the drivers' own helpers", "use the driver's methods, not scripts of your own")
}

// evaluate passes a script on, without the gesture of a user: a script must not
// get what only a press gives (pop-ups, fullscreen, a file chooser). Nor does it
// get the console's own functions: one of them hands out listeners, the guard's too.
func evaluate(c *client, r request, s *session) {
	sources, ok := Sources(r.params)
	if !ok {
		c.fail(r, plain(codeParams, "Invalid parameters"))
		return
	}
	for _, script := range sources {
		if !c.s.c.Profile.known(script) {
			why := errScript()
			c.record(why, r.method, []byte(r.method))
			c.done(r, thrown(why))
			return
		}
	}
	c.forward(r, s, without(r.params, "userGesture", "includeCommandLineAPI"), nil)
}

// thrown is a refusal in the form of an exception: drivers show its text, where
// they take an error of the protocol here for a document that went away.
func thrown(why *problem) []byte {
	exception := map[string]any{"type": "object", "subtype": "error", "className": "Error", "description": "Error: " + why.text()}
	return toJSON(map[string]any{"result": exception, "exceptionDetails": map[string]any{
		"exceptionId": 1, "text": "Uncaught", "lineNumber": 0, "columnNumber": 0, "exception": exception}})
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
