package cdp

import (
	_ "embed"
	"fmt"
	"slices"
	"strings"
	"sync"
)

//go:embed methods.txt
var methodsText string

// verdict is what becomes of a method.
type verdict string

const (
	passOn  verdict = "allow"
	rewrite verdict = "rewrite"
	input   verdict = "input"
	denied  verdict = "deny"
)

// rule is one line of the table.
type rule struct {
	method  string
	verdict verdict
	least   Profile // narrowest profile that has it
	params  []string
	reason  string
}

// table is methods.txt. A mistake in it is a broken build, so it panics.
var table = sync.OnceValue(func() map[string]rule {
	t, err := parseTable(methodsText)
	if err != nil {
		panic("sallyport: internal error: " + err.Error())
	}
	return t
})

func parseTable(text string) (map[string]rule, error) {
	t := map[string]rule{}
	for i, line := range strings.Split(strings.TrimSuffix(text, "\n"), "\n") {
		if strings.HasPrefix(line, "#") {
			continue
		}
		f := strings.Split(line, "|")
		if len(f) != 5 {
			return nil, fmt.Errorf("methods.txt:%d: want 5 columns", i+1)
		}
		for j := range f {
			f[j] = strings.TrimSpace(f[j])
		}
		r := rule{method: f[0], verdict: verdict(f[1]), least: Profile(f[2]), params: strings.Fields(f[3]), reason: f[4]}
		switch {
		case r.method == "" || r.reason == "" || t[r.method].method != "":
			return nil, fmt.Errorf("methods.txt:%d: a method once, and why", i+1)
		case r.verdict == denied && (r.least != "" || len(r.params) > 0):
			return nil, fmt.Errorf("methods.txt:%d: what is refused has no profile and no parameters", i+1)
		case r.verdict == denied:
		case !slices.Contains([]verdict{passOn, rewrite, input}, r.verdict) || r.least != Pinned && r.least != Open:
			return nil, fmt.Errorf("methods.txt:%d: verdict or profile", i+1)
		}
		t[r.method] = r
	}
	return t, nil
}

// lookup decides on a method by its name alone.
func lookup(method string, p Profile) (rule, *problem) {
	r, ok := table()[method]
	switch {
	case !ok:
		return r, refuse("cdp_unknown_method", "the method is not known", "")
	case r.verdict == denied:
		return r, refuse("cdp_denied_method", method+" is refused: "+r.reason, "")
	case p == Open || p == Pinned && r.least == Pinned:
		return r, nil
	}
	return r, refuse("cdp_profile", fmt.Sprintf("%s needs the profile %s, the task has %s", method, r.least, p), "")
}

// offered is the part of the protocol that a profile has.
func offered(p Profile) any {
	type command struct {
		Name       string   `json:"name"`
		Parameters []string `json:"parameters"`
	}
	type domain struct {
		Domain   string    `json:"domain"`
		Commands []command `json:"commands"`
	}
	var names []string
	for n := range table() {
		if _, why := lookup(n, p); why == nil {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	var out []domain
	for _, n := range names {
		d, m, _ := strings.Cut(n, ".")
		if len(out) == 0 || out[len(out)-1].Domain != d {
			out = append(out, domain{Domain: d})
		}
		last := &out[len(out)-1]
		last.Commands = append(last.Commands, command{m, table()[n].params})
	}
	return map[string]any{"version": map[string]string{"major": "1", "minor": "3"}, "domains": out}
}
