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

// Playwright's injected script ends with options, and the number of the frame is
// in them: without this, profile pinned would work for the first frames only.
func TestScriptDigestOfEveryFrame(t *testing.T) {
	script := func(seq string) string {
		return `(() => new Injected(globalThis, {"isUnderTest":false,"frameSeq":` + seq + `,"customEngines":[]}))()`
	}
	want := ScriptDigest(script("1"))
	for _, same := range []string{"0", "2", "10", "99999"} {
		if ScriptDigest(script(same)) != want {
			t.Errorf("frame %s: got another digest", same)
		}
	}
	for _, other := range []string{"", "-1", "1.5", "1e3", "fetch('/evil')", "1,\"a\":fetch('/evil')", "\"1\"", "0x1"} {
		if ScriptDigest(script(other)) == want {
			t.Errorf("frame %q: got the same digest", other)
		}
	}
}
