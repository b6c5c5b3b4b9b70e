package computer

import (
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
)

const iam = "https://iam.example:8443"

func TestJournalRules(t *testing.T) {
	button := action.Element{Tag: "button", InputType: "submit", FrameOrigin: iam, FormAction: iam + "/users/jo/mfa/reset", FormMethod: "POST"}
	field := action.Element{Tag: "input", InputType: "text", FrameOrigin: iam, FormAction: iam + "/users/jo/mfa/reset", FormMethod: "POST"}
	area := action.Element{Tag: "textarea", FrameOrigin: iam, FormAction: iam + "/users/jo/mfa/reset", FormMethod: "POST"}
	link := action.Element{Tag: "a", FrameOrigin: iam, Link: iam + "/users?page=2"}
	bare := action.Element{Tag: "button", InputType: "button", FrameOrigin: iam}
	blind := action.Element{Tag: "canvas", FrameOrigin: iam, Uninspectable: "canvas"}
	const app = iam + "/app?view=users#/jo"
	save := action.Element{Tag: "button", InputType: "submit", FrameOrigin: iam, URL: app, FormAction: iam + "/app?view=users", FormMethod: "GET"}
	name := action.Element{Tag: "input", InputType: "text", FrameOrigin: iam, URL: app, FormAction: iam + "/app?view=users", FormMethod: "GET"}
	inside := action.Element{Tag: "button", InputType: "button", FrameOrigin: iam, URL: app, FormAction: iam + "/elsewhere", FormMethod: "POST"}
	tick := action.Element{Tag: "input", InputType: "checkbox", FrameOrigin: iam, URL: app, FormAction: iam + "/elsewhere", FormMethod: "POST"}
	hash := action.Element{Tag: "a", FrameOrigin: iam, URL: app, Link: iam + "/app?view=users#"}
	click, enter, space := Input{Kind: Click}, Input{Kind: Key, Key: "Enter"}, Input{Kind: Key, Key: " "}
	post := func(origin, path string) action.Request {
		return action.Request{Method: "POST", Origin: origin, Path: path}
	}
	get := func(path string) action.Request { return action.Request{Method: "GET", Origin: iam, Path: path} }
	reset := post(iam, "/users/jo/mfa/reset")
	for _, tc := range []struct {
		name string
		in   Input
		e    action.Element
		r    action.Request
		age  time.Duration
		rule string
	}{
		{"submit_button", click, button, reset, time.Second, RuleForm},
		{"space_on_button", space, button, reset, time.Second, RuleForm},
		{"enter_in_field", enter, field, reset, time.Second, RuleForm},
		{"click_in_field", click, field, reset, time.Second, ""},
		{"space_in_field", space, field, reset, time.Second, ""},
		{"enter_in_text_area", enter, area, reset, time.Second, ""},
		{"too_late", click, button, reset, 11 * time.Second, ""},
		{"before_the_input", click, button, reset, -time.Second, ""},
		{"other_path", click, button, post(iam, "/users/jo/disable"), time.Second, ""},
		{"other_method", click, button, get("/users/jo/mfa/reset"), time.Second, ""},
		{"other_origin", click, button, post("https://evil.example", "/users/jo/mfa/reset"), time.Second, ""},
		{"other_port", click, button, post("https://iam.example", "/users/jo/mfa/reset"), time.Second, ""},
		{"other_scheme", click, button, post("http://iam.example:8443", "/users/jo/mfa/reset"), time.Second, ""},
		{"longer_path", click, button, post(iam, "/users/jo/mfa/reset/"), time.Second, ""},
		{"link", click, link, get("/users"), time.Second, RuleLink},
		{"link_by_enter", enter, link, get("/users"), time.Second, RuleLink},
		{"link_by_space", space, link, get("/users"), time.Second, ""},
		{"post_to_link", click, link, post(iam, "/users"), time.Second, ""},
		{"script", click, bare, post(iam, "/api/x"), time.Second, RuleScript},
		{"script_too_late", click, bare, post(iam, "/api/x"), 4 * time.Second, ""},
		{"script_to_other_origin", click, bare, post("https://evil.example", "/collect"), time.Second, ""},
		{"script_of_a_form_button", click, button, post(iam, "/api/x"), time.Second, ""},
		{"script_by_save", click, save, post(iam, "/api/x"), time.Second, RuleScript},
		{"script_by_enter_in_a_name", enter, name, post(iam, "/api/x"), time.Second, RuleScript},
		{"script_by_enter_in_a_text_area", enter, action.Element{Tag: "textarea", FrameOrigin: iam, URL: app}, post(iam, "/api/x"), time.Second, RuleScript},
		{"script_by_click_in_a_text_area", click, action.Element{Tag: "textarea", FrameOrigin: iam, URL: app}, post(iam, "/api/x"), time.Second, ""},
		{"script_by_click_in_a_name", click, name, post(iam, "/api/x"), time.Second, ""},
		{"script_by_space_in_a_name", space, name, post(iam, "/api/x"), time.Second, ""},
		{"script_by_a_button_in_a_form", click, inside, post(iam, "/api/x"), time.Second, RuleScript},
		{"script_by_a_checkbox_in_a_form", click, tick, post(iam, "/api/x"), time.Second, RuleScript},
		{"script_by_a_link_to_nowhere", click, hash, post(iam, "/api/x"), time.Second, RuleScript},
		{"script_of_a_real_link", click, link, post(iam, "/api/x"), time.Second, ""},
		{"script_by_save_to_other_origin", click, save, post("https://evil.example", "/api/x"), time.Second, ""},
		{"uninspectable", click, blind, post(iam, "/api/x"), time.Second, ""},
		{"nothing_there", click, action.Element{Tag: "div", FrameOrigin: iam}, post(iam, "/api/x"), time.Second, ""},
		{"moving_explains_nothing", Input{Kind: Move}, bare, post(iam, "/api/x"), time.Second, ""},
		{"typing_explains_nothing", Input{Kind: Type, Text: "x"}, bare, post(iam, "/api/x"), time.Second, ""},
		{"tab_explains_nothing", Input{Kind: Key, Key: "Tab"}, bare, post(iam, "/api/x"), time.Second, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			j := NewJournal()
			start := time.Now()
			j.now = func() time.Time { return start }
			j.Note("a1", tc.in, tc.e)
			id, rule := j.Why(tc.r, start.Add(tc.age))
			if rule != tc.rule || (id == "a1") != (tc.rule != "") {
				t.Errorf("got %q by %q, want %q", id, rule, tc.rule)
			}
		})
	}
}

// One press must not cover the write that it meant and one that a page slips in.
func TestJournalOneWriteForOnePress(t *testing.T) {
	j := NewJournal()
	j.Note("a1", Input{Kind: Click}, action.Element{Tag: "button", FrameOrigin: iam})
	now := time.Now()
	r := action.Request{Method: "POST", Origin: iam, Path: "/x"}
	if j.Explain(r, now) != "a1" || j.Explain(r, now) != "" {
		t.Error("a second write was explained")
	}
	r.Method = "GET"
	if j.Explain(r, now) != "a1" {
		t.Error("a read was not explained")
	}
	// A control that was pressed before does not stand in for it.
	j = NewJournal()
	j.Note("open", Input{Kind: Click}, action.Element{Tag: "button", FrameOrigin: iam})
	j.Note("yes", Input{Kind: Click}, action.Element{Tag: "button", FrameOrigin: iam})
	now, r.Method = time.Now(), "DELETE"
	if j.Explain(r, now) != "yes" || j.Explain(r, now) != "" {
		t.Error("a second write was explained by an older press")
	}
}

// A redirect may be followed by reads; a 307 that repeats the body elsewhere is
// not covered.
func TestJournalRedirects(t *testing.T) {
	j := NewJournal()
	j.Note("a1", Input{Kind: Click}, action.Element{Tag: "button", InputType: "submit", FrameOrigin: iam, FormAction: iam + "/r", FormMethod: "POST"})
	now := time.Now()
	if j.Explain(action.Request{Method: "GET", Origin: iam, Path: "/users", RedirectOf: "e0"}, now) != "" {
		t.Error("a redirect of nothing was explained")
	}
	if j.Explain(action.Request{Method: "POST", Origin: iam, Path: "/r"}, now) != "a1" {
		t.Fatal("the submit was not explained")
	}
	if _, rule := j.Why(action.Request{Method: "GET", Origin: iam, Path: "/users", RedirectOf: "e1"}, now); rule != RuleRedirect {
		t.Errorf("got %q", rule)
	}
	if j.Explain(action.Request{Method: "POST", Origin: "https://evil.example", Path: "/collect", RedirectOf: "e1"}, now) != "" {
		t.Error("a repeated body was explained")
	}
	if j.Explain(action.Request{Method: "GET", Origin: iam, Path: "/users"}, now) != "" {
		t.Error("a request without a redirect was explained")
	}
}

func TestJournalIsBounded(t *testing.T) {
	j := NewJournal()
	for range 3 * journalSize {
		j.Note("a", Input{Kind: Click}, action.Element{Tag: "button", FrameOrigin: iam})
	}
	if len(j.inputs) != journalSize {
		t.Errorf("got %d", len(j.inputs))
	}
}
