package cdp

import (
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// withoutPasswords takes what is typed into password fields out of an answer of
// DOMSnapshot.captureSnapshot. Its texts are numbers into one table, so that the
// text goes from the table, wherever else it is used. What cannot be read is
// not passed on.
func withoutPasswords(result jsontext.Value) jsontext.Value {
	var whole map[string]jsontext.Value
	var doc struct {
		Documents []struct {
			Nodes struct {
				Name       []int   `json:"nodeName"`
				Attributes [][]int `json:"attributes"`
				Value      struct {
					Index []int `json:"index"`
					Value []int `json:"value"`
				} `json:"inputValue"`
			} `json:"nodes"`
		} `json:"documents"`
		Strings []string `json:"strings"`
	}
	if json.Unmarshal(result, &whole, lax) != nil || json.Unmarshal(result, &doc, lax) != nil {
		return jsontext.Value(`{"documents":[],"strings":[]}`)
	}
	text := func(i int) string {
		if i < 0 || i >= len(doc.Strings) {
			return ""
		}
		return doc.Strings[i]
	}
	gone := false
	for _, d := range doc.Documents {
		for i, node := range d.Nodes.Value.Index {
			if i >= len(d.Nodes.Value.Value) || node < 0 || node >= len(d.Nodes.Attributes) || !passwordField(d.Nodes.Attributes[node], text) {
				continue
			}
			if v := d.Nodes.Value.Value[i]; text(v) != "" {
				doc.Strings[v], gone = "", true
			}
		}
	}
	if gone {
		whole["strings"] = toJSON(doc.Strings)
	}
	return toJSON(whole)
}

// passwordField reads attributes: names and values by turns.
func passwordField(attributes []int, text func(int) string) bool {
	for i := 0; i+1 < len(attributes); i += 2 {
		if strings.EqualFold(text(attributes[i]), "type") && strings.EqualFold(text(attributes[i+1]), "password") {
			return true
		}
	}
	return false
}
