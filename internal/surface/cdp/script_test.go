package cdp

import "testing"

// A driver names the place where it is installed at the end of its scripts. That
// is left out, and nothing that could run is.
func TestScriptDigest(t *testing.T) {
	const script = "() => document.title"
	want := ScriptDigest(script)
	for name, same := range map[string]string{
		"here":    script + "\n//# sourceURL=pptr:evaluate;title%20(file:///a/b.js:1)",
		"there":   script + "\n//# sourceURL=pptr:evaluate;title%20(file:///c/d/e.js:1)\n",
		"newline": script + "\n",
	} {
		if got := ScriptDigest(same); got != want {
			t.Errorf("%s: got another digest", name)
		}
	}
	for name, other := range map[string]string{
		"line_separator":      script + "\n//# sourceURL=x\u2028fetch('/evil')",
		"paragraph_separator": script + "\n//# sourceURL=x\u2029fetch('/evil')",
		"carriage_return":     script + "\n//# sourceURL=x\rfetch('/evil')",
		"not_the_last_line":   script + "\n//# sourceURL=x\nfetch('/evil')",
		"no_line_of_its_own":  script + " + //# sourceURL=x",
		"another_comment":     script + "\n// sourceURL=x",
	} {
		if got := ScriptDigest(other); got == want {
			t.Errorf("%s: got the same digest", name)
		}
	}
}
