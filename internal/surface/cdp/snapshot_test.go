package cdp

import (
	"strings"
	"testing"
)

// TestWithoutPasswords: the text goes from the table of texts, and what cannot be
// read goes whole.
//
// Threats: H4 (door)
func TestWithoutPasswords(t *testing.T) {
	doc := func(kind, value string) string {
		return `{"documents":[{"nodes":{"nodeName":[0,0],"attributes":[[1,2],[1,3]],"inputValue":{"index":[0,1],"value":[4,5]}},"layout":{"text":[4]}}],` +
			`"strings":["INPUT","TyPe","` + kind + `","text","` + value + `","kept"]}`
	}
	for kind, gone := range map[string]bool{"password": true, "PassWord": true, "text": false, "": false} {
		got := string(withoutPasswords([]byte(doc(kind, "typed secret"))))
		if strings.Contains(got, "typed secret") == gone || !strings.Contains(got, `"kept"`) || !strings.Contains(got, `"layout"`) {
			t.Errorf("type %q: got %s", kind, got)
		}
	}
	for name, s := range map[string]string{"text": `"x"`, "no_table": `{"documents":1}`, "numbers": strings.Replace(doc("password", "typed secret"), "[4,5]", `["4",5]`, 1)} {
		if got := string(withoutPasswords([]byte(s))); strings.Contains(got, "typed secret") || strings.Contains(got, "x") {
			t.Errorf("%s: got %s", name, got)
		}
	}
	for _, s := range []string{`{"documents":[{"nodes":{"attributes":[[9,-1]],"inputValue":{"index":[0,7,-1],"value":[99]}}}],"strings":[]}`, `{}`, `null`} {
		withoutPasswords([]byte(s)) // numbers that lead nowhere
	}
}
