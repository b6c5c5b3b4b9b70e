package readiness

import (
	_ "embed"
	"slices"
	"sync"

	"github.com/goccy/go-yaml"
)

//go:embed catalogue.yaml
var catalogueYAML []byte

// Framework is one set of outside controls that ours give evidence towards.
type Framework struct {
	Key     string `json:"key" yaml:"-"`
	Name    string `json:"name"`
	Version string `json:"version"`
	// Check says how the ids were checked: some only second-hand.
	Check string `json:"check"`
}

type catalogueControl struct {
	ID        string              `yaml:"id"`
	Title     string              `yaml:"title"`
	Statement string              `yaml:"statement"`
	Map       map[string][]string `yaml:"map"`
}

type catalogue struct {
	Frameworks map[string]Framework `yaml:"frameworks"`
	Controls   []catalogueControl   `yaml:"controls"`
}

var controls = sync.OnceValue(func() catalogue {
	var c catalogue
	if err := yaml.Unmarshal(catalogueYAML, &c); err != nil {
		panic("sallyport: internal error: control catalogue: " + err.Error())
	}
	return c
})

func control(id string) (catalogueControl, bool) {
	for _, c := range controls().Controls {
		if c.ID == id {
			return c, true
		}
	}
	return catalogueControl{}, false
}

// mappings is made once: for each condition, the frameworks' ids of its controls.
var mappings = sync.OnceValue(func() map[string]map[string][]string {
	out := map[string]map[string][]string{}
	for _, c := range conditions {
		out[c.id] = mapping(c.controls)
	}
	return out
})

// mapped is the mapping of one condition, for the caller to keep.
func mapped(condition string) map[string][]string {
	out := map[string][]string{}
	for f, ids := range mappings()[condition] {
		out[f] = slices.Clone(ids)
	}
	return out
}

// mapping joins the frameworks' ids of several controls.
func mapping(ids []string) map[string][]string {
	out := map[string][]string{}
	for _, id := range ids {
		c, ok := control(id)
		if !ok {
			panic("sallyport: internal error: control " + id + " is not in the catalogue")
		}
		for f, list := range c.Map {
			out[f] = append(out[f], list...)
		}
	}
	for f := range out {
		slices.SortFunc(out[f], natural)
		out[f] = slices.Compact(out[f])
	}
	return out
}

// shownFrameworks are those in the table of the text outputs; JSON has all.
var shownFrameworks = []string{"owasp_asi", "owasp_nhi", "csa_maestro", "ai_rmf", "csf", "sp800_53"}
