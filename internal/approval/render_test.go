package approval_test

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode"

	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/canon"
)

func shown() approval.Statement {
	s := draft().Statement
	s.V, s.Tenant, s.Quorum, s.Nonce, s.Excluded = 1, "acme", 1, strings.Repeat("a", 26), []string{"rob"}
	s.NotBefore = time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	s.Expires = s.NotBefore.Add(time.Hour)
	return s
}

const golden = `You are asked to approve:
  kind               "action"
  subject            "reset second factor of mira"
  operation          "iam.user.mfa.reset"
  agent              "helpdesk"
  task               "t-1"
  tenant             "acme"
Parameters:
  user               "mira"
Details, made by Sallyport:
  application        "console"
Quotation. Written by a page, an agent or a model. Do not rely on it:
  | button             "Approve \u{2014} safe"
Exactly:
  digest             "DIGEST"
  screenshot         none: the agent was given no picture before it
Conditions:
  role               "approver"
  people needed      "1"
  must not sign 1    "rob"
  valid from         "2026-11-23T12:00:00Z"
  expires            "2026-11-23T13:00:00Z"
  nonce              "aaaaaaaaaaaaaaaaaaaaaaaaaa"
  signed bytes       "SIGNED"
`

func TestRender(t *testing.T) {
	s := shown()
	s.Details = map[string]string{"application": "console"}
	s.Quoted = map[string]string{"button": "Approve \u2014 safe"}
	msg, err := s.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	want := strings.NewReplacer("DIGEST", string(s.Digest), "SIGNED", string(canon.Digest(msg)),
		`\u{2014} safe"`, "\u2014 safe\" (not only ASCII: U+2014)").Replace(golden)
	if got := approval.Render(s); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

// Whatever a page or a parameter holds, the text has as many lines as fields,
// nothing that moves a cursor, and no two values that look the same.
//
// Threats: T24, T51, I7 (approval)
func TestDisplayTricks(t *testing.T) {
	lines := strings.Count(approval.Render(shown()), "\n")
	for name, v := range map[string]string{
		"newline":            "mira\n  role               \"nobody\"",
		"carriage_return":    "nora\rmira",
		"escape_sequence":    "\x1b[2K\x1b[1Amira",
		"c1_control":         "mira\u009b2K",
		"backspace":          "nora\b\b\b\bmira",
		"bidi_override":      "\u202earim",
		"bidi_isolate":       "\u2067arim\u2069",
		"right_to_left_mark": "mi\u200fra",
		"zero_width_space":   "mi\u200bra",
		"zero_width_joiner":  "mi\u200dra",
		"soft_hyphen":        "mi\u00adra",
		"byte_order_mark":    "\ufeffmira",
		"tag_characters":     "mira\U000e0041",
		"variation_selector": "mira\ufe0f",
		"line_separator":     "mi\u2028ra",
		"no_break_space":     "mira\u00a0",
		"hangul_filler":      "mira\u3164",
		"braille_blank":      "mira\u2800",
		"combining_marks":    "m" + strings.Repeat("\u0336", 40) + "ira",
		"quote":              `mira" (verified`,
		"looks_escaped":      `mi\u{200b}ra`,
		"homoglyph":          "mirа",
		"nul":                "mira\x00",
		"private_use":        "mira\ue000",
		"tab":                "mira\t",
		"right_to_left_text": "mira\u05d0",
		"fullwidth":          "\uff4dira",
		"mathematical":       "\U0001d426ira",
		"osc_hyperlink":      "\x1b]8;;https://evil.example\x1b\\mira\x1b]8;;\x1b\\",
		"clears_the_screen":  "\x1b[2J\x1b[H" + "You are asked to approve:",
		"sets_the_title":     "\x1b]0;mira\a",
		"annotation":         "mira\ufff9x\ufffb",
		"looks_quoted":       "mira\"\n  | text",
		"a_quotation_mark":   "mira\u201d",
		"replacement_char":   "mir\ufffd",
		"many_newlines":      strings.Repeat("\n", 500),
	} {
		s := shown()
		s.Params["user"] = v
		s.Quoted = map[string]string{"text": v}
		plain := shown()
		plain.Quoted = map[string]string{"text": "mira"}
		out := approval.Render(s)
		if got := strings.Count(out, "\n"); got != lines+2 {
			t.Errorf("%s: got %d lines, want %d", name, got, lines+2)
		}
		for _, r := range out {
			if r != '\n' && (!unicode.IsPrint(r) || unicode.Is(unicode.M, r)) {
				t.Errorf("%s: shows %U as it is", name, r)
			}
		}
		if strings.Contains(out, `user               "mira"`+"\n") {
			t.Errorf("%s: looks like mira", name)
		}
		if !strings.Contains(out, "  | text") {
			t.Errorf("%s: quotation is not marked", name)
		}
	}
}

// A long value cannot push the rest off the screen, and its length and digest
// are shown.
//
// Threats: T51 (approval)
func TestOverlong(t *testing.T) {
	s := shown()
	long := strings.Repeat("A", 50000) + "end"
	s.Params["user"] = long
	out := approval.Render(s)
	if len(out) > 4000 {
		t.Errorf("length: got %d", len(out))
	}
	for _, want := range []string{"50003 characters", string(canon.Digest([]byte(long))), `end"`} {
		if !strings.Contains(out, want) {
			t.Errorf("lacks %q", want)
		}
	}
}

// One statement has one spelling.
func TestParseStatement(t *testing.T) {
	s := shown()
	msg, err := s.Bytes()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := approval.ParseStatement(msg); err != nil {
		t.Fatalf("canonical: got %v", err)
	}
	text := string(msg)
	for name, bad := range map[string]string{
		"white_space":     " " + text,
		"newline_after":   text + "\n",
		"duplicate_name":  strings.Replace(text, `"kind"`, `"kind":"policy","kind"`, 1),
		"unknown_name":    strings.Replace(text, `"kind"`, `"also":"x","kind"`, 1),
		"escaped_letter":  strings.Replace(text, `mira`, `mir\u0061`, 1),
		"order":           `{"v":1,` + strings.Replace(strings.TrimPrefix(text, "{"), `,"v":1`, "", 1),
		"version_2":       strings.Replace(text, `"v":1`, `"v":2`, 1),
		"number_form":     strings.Replace(text, `"v":1`, `"v":1.0`, 1),
		"quorum_zero":     strings.Replace(text, `"quorum":1`, `"quorum":0`, 1),
		"time_with_zone":  strings.Replace(text, "12:00:00Z", "13:00:00+01:00", 1),
		"time_fraction":   strings.Replace(text, "12:00:00Z", "12:00:00.5Z", 1),
		"expired_at_once": strings.Replace(text, "13:00:00Z", "12:00:00Z", 1),
		"other_nonce":     strings.Replace(text, strings.Repeat("a", 26), "../../x", 1),
		"empty":           "",
	} {
		if bad == text {
			t.Fatalf("%s: nothing was changed", name)
		}
		if _, err := approval.ParseStatement([]byte(bad)); err == nil {
			t.Errorf("%s: accepted", name)
		}
	}
}

func FuzzRender(f *testing.F) {
	f.Add("mira", "\u202e\x1b[2K")
	f.Fuzz(func(t *testing.T, a, b string) {
		s := shown()
		s.Params["user"], s.Quoted = a, map[string]string{"text": b}
		other := shown()
		other.Params["user"], other.Quoted = b, map[string]string{"text": a}
		out := approval.Render(s)
		if strings.Count(out, "\n") != strings.Count(approval.Render(other), "\n") {
			t.Error("a value changed the number of lines")
		}
		if a != b && out == approval.Render(other) {
			t.Error("two statements look the same")
		}
	})
}

// Who must not sign is a list that no name can lengthen or shorten.
func TestExcludedAreToldApart(t *testing.T) {
	one, two := shown(), shown()
	one.Excluded, two.Excluded = []string{"rob, sam"}, []string{"rob", "sam"}
	if a, b := approval.Render(one), approval.Render(two); strings.Count(a, "must not sign") != 1 || strings.Count(b, "must not sign") != 2 {
		t.Errorf("got:\n%s\n%s", a, b)
	}
}

// As many fields as a statement may have, each as long as it may be, stay within
// what a person can scroll, and what is signed stands at the end.
//
// Threats: T51 (approval)
func TestManyLongFields(t *testing.T) {
	s := shown()
	s.Quoted = map[string]string{}
	for i := range 128 {
		s.Quoted[fmt.Sprintf("f%d", i)] = strings.Repeat("\u202e", 300)
	}
	out := approval.Render(s)
	if n := strings.Count(out, "\n"); n > 160 {
		t.Errorf("got %d lines", n)
	}
	if !strings.Contains(out[strings.LastIndex(strings.TrimSpace(out), "\n"):], "signed bytes") {
		t.Error("the digest of what is signed is not the last line")
	}
}
