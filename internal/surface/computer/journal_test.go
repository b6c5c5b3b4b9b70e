package computer

import (
	"context"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
)

const iam = "https://iam.example:8443"

// the browser's word of a request that came out of the pressed frame.
func vouched(context.Context, action.Request) (Sender, bool) {
	return Sender{Frame: "F", Gesture: true}, true
}

func writes(r action.Request) bool { return r.Method != "GET" && r.Method != "HEAD" }

func explain(j *Journal, r action.Request, at time.Time) string {
	id, _, _ := j.Explain(context.Background(), r, writes(r), at)
	return id
}

func TestJournalRules(t *testing.T) {
	button := action.Element{Tag: "button", InputType: "submit", Frame: "F", FrameOrigin: iam, FormAction: iam + "/users/jo/mfa/reset", FormMethod: "POST"}
	field := action.Element{Tag: "input", InputType: "text", Frame: "F", FrameOrigin: iam, FormAction: iam + "/users/jo/mfa/reset", FormMethod: "POST"}
	area := action.Element{Tag: "textarea", Frame: "F", FrameOrigin: iam, FormAction: iam + "/users/jo/mfa/reset", FormMethod: "POST"}
	link := action.Element{Tag: "a", Frame: "F", FrameOrigin: iam, Link: iam + "/users?page=2"}
	bare := action.Element{Tag: "button", InputType: "button", Frame: "F", FrameOrigin: iam}
	blind := action.Element{Tag: "canvas", Frame: "F", FrameOrigin: iam, Uninspectable: "canvas"}
	const app = iam + "/app?view=users#/jo"
	save := action.Element{Tag: "button", InputType: "submit", Frame: "F", FrameOrigin: iam, URL: app, FormAction: iam + "/app?view=users", FormMethod: "GET"}
	name := action.Element{Tag: "input", InputType: "text", Frame: "F", FrameOrigin: iam, URL: app, FormAction: iam + "/app?view=users", FormMethod: "GET"}
	inside := action.Element{Tag: "button", InputType: "button", Frame: "F", FrameOrigin: iam, URL: app, FormAction: iam + "/elsewhere", FormMethod: "POST"}
	tick := action.Element{Tag: "input", InputType: "checkbox", Frame: "F", FrameOrigin: iam, URL: app, FormAction: iam + "/elsewhere", FormMethod: "POST"}
	hash := action.Element{Tag: "a", Frame: "F", FrameOrigin: iam, URL: app, Link: iam + "/app?view=users#"}
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
		{"script_by_enter_in_a_text_area", enter, action.Element{Tag: "textarea", Frame: "F", FrameOrigin: iam, URL: app}, post(iam, "/api/x"), time.Second, RuleScript},
		{"script_by_click_in_a_text_area", click, action.Element{Tag: "textarea", Frame: "F", FrameOrigin: iam, URL: app}, post(iam, "/api/x"), time.Second, ""},
		{"script_by_click_in_a_name", click, name, post(iam, "/api/x"), time.Second, ""},
		{"script_by_space_in_a_name", space, name, post(iam, "/api/x"), time.Second, ""},
		{"script_by_a_button_in_a_form", click, inside, post(iam, "/api/x"), time.Second, RuleScript},
		{"script_by_a_checkbox_in_a_form", click, tick, post(iam, "/api/x"), time.Second, RuleScript},
		{"script_by_a_link_to_nowhere", click, hash, post(iam, "/api/x"), time.Second, RuleScript},
		{"script_of_a_real_link", click, link, post(iam, "/api/x"), time.Second, ""},
		{"script_by_save_to_other_origin", click, save, post("https://evil.example", "/api/x"), time.Second, ""},
		{"uninspectable", click, blind, post(iam, "/api/x"), time.Second, ""},
		{"nothing_there", click, action.Element{Tag: "div", Frame: "F", FrameOrigin: iam}, post(iam, "/api/x"), time.Second, ""},
		{"moving_explains_nothing", Input{Kind: Move}, bare, post(iam, "/api/x"), time.Second, ""},
		{"typing_explains_nothing", Input{Kind: Type, Text: "x"}, bare, post(iam, "/api/x"), time.Second, ""},
		{"tab_explains_nothing", Input{Kind: Key, Key: "Tab"}, bare, post(iam, "/api/x"), time.Second, ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			j := NewJournal(vouched)
			start := time.Now()
			j.now = func() time.Time { return start }
			j.Note("a1", tc.in, tc.e)
			id, rule := j.Why(t.Context(), tc.r, writes(tc.r), start.Add(tc.age))
			if rule != tc.rule || (id == "a1") != (tc.rule != "") {
				t.Errorf("got %q by %q, want %q", id, rule, tc.rule)
			}
		})
	}
}

// One press must not cover the write that it meant and one that a page slips in.
func TestJournalOneWriteForOnePress(t *testing.T) {
	j := NewJournal(vouched)
	j.Note("a1", Input{Kind: Click}, action.Element{Tag: "button", Frame: "F", FrameOrigin: iam})
	now := time.Now()
	r := action.Request{Method: "POST", Origin: iam, Path: "/x"}
	if explain(j, r, now) != "a1" || explain(j, r, now) != "" {
		t.Error("a second write was explained")
	}
	r.Method = "GET"
	if explain(j, r, now) != "a1" {
		t.Error("a read was not explained")
	}
	// A control that was pressed before does not stand in for it.
	j = NewJournal(vouched)
	j.Note("open", Input{Kind: Click}, action.Element{Tag: "button", Frame: "F", FrameOrigin: iam})
	j.Note("yes", Input{Kind: Click}, action.Element{Tag: "button", Frame: "F", FrameOrigin: iam})
	now, r.Method = time.Now(), "DELETE"
	if explain(j, r, now) != "yes" || explain(j, r, now) != "" {
		t.Error("a second write was explained by an older press")
	}
}

// A redirect may be followed by reads; a 307 that repeats the body elsewhere is
// not covered.
func TestJournalRedirects(t *testing.T) {
	j := NewJournal(vouched)
	j.Note("a1", Input{Kind: Click}, action.Element{Tag: "button", InputType: "submit", Frame: "F", FrameOrigin: iam, FormAction: iam + "/r", FormMethod: "POST"})
	now := time.Now()
	if explain(j, action.Request{Method: "GET", Origin: iam, Path: "/users", RedirectOf: "e0"}, now) != "" {
		t.Error("a redirect of nothing was explained")
	}
	if explain(j, action.Request{Method: "POST", Origin: iam, Path: "/r"}, now) != "a1" {
		t.Fatal("the submit was not explained")
	}
	if _, rule := j.Why(t.Context(), action.Request{Method: "GET", Origin: iam, Path: "/users", RedirectOf: "e1"}, false, now); rule != RuleRedirect {
		t.Errorf("got %q", rule)
	}
	if explain(j, action.Request{Method: "POST", Origin: "https://evil.example", Path: "/collect", RedirectOf: "e1"}, now) != "" {
		t.Error("a repeated body was explained")
	}
	if explain(j, action.Request{Method: "GET", Origin: iam, Path: "/users"}, now) != "" {
		t.Error("a request without a redirect was explained")
	}
}

func TestJournalIsBounded(t *testing.T) {
	j := NewJournal(vouched)
	for range 3 * journalSize {
		j.Note("a", Input{Kind: Click}, action.Element{Tag: "button", Frame: "F", FrameOrigin: iam})
	}
	if len(j.inputs) != journalSize {
		t.Errorf("got %d", len(j.inputs))
	}
}

// What changes something is explained only if the browser says that the pressed
// frame sent it, in its own time; what reads is not asked about.
//
// Threats: T13, T14, T15 (guardrail)
func TestJournalAsksTheBrowser(t *testing.T) {
	button := action.Element{Tag: "button", Frame: "F", FrameOrigin: iam}
	submit := action.Element{Tag: "button", InputType: "submit", Frame: "F", FrameOrigin: iam, FormAction: iam + "/x", FormMethod: "POST"}
	other := submit
	other.Window = "_blank"
	nameless := action.Element{Tag: "button", FrameOrigin: iam}
	post, get := action.Request{Method: "POST", Origin: iam, Path: "/x"}, action.Request{Method: "GET", Origin: iam, Path: "/x"}
	yes := func(s Sender) Senders {
		return func(context.Context, action.Request) (Sender, bool) { return s, true }
	}
	for name, tc := range map[string]struct {
		e       action.Element
		r       action.Request
		changes bool
		ask     Senders
		want    string
	}{
		"own_frame":            {button, post, true, yes(Sender{"F", true}), RuleScript},
		"own_frame_form":       {submit, post, true, yes(Sender{"F", true}), RuleForm},
		"no_activation":        {button, post, true, yes(Sender{"F", false}), ""},
		"no_activation_form":   {submit, post, true, yes(Sender{"F", false}), ""},
		"other_frame":          {button, post, true, yes(Sender{"G", true}), ""},
		"other_frame_form":     {submit, post, true, yes(Sender{"G", true}), ""},
		"new_window":           {other, post, true, yes(Sender{"G", true}), RuleForm},
		"new_window_no_user":   {other, post, true, yes(Sender{"G", false}), ""},
		"worker":               {button, post, true, func(context.Context, action.Request) (Sender, bool) { return Sender{}, false }, ""},
		"nobody_to_ask":        {button, post, true, nil, ""},
		"frame_without_a_name": {nameless, post, true, yes(Sender{"", true}), ""},
		"read":                 {button, get, false, nil, RuleScript},
		"post_that_reads":      {button, post, false, nil, RuleScript},
		"get_that_changes":     {button, get, true, yes(Sender{"G", true}), ""},
	} {
		t.Run(name, func(t *testing.T) {
			j := NewJournal(tc.ask)
			j.Note("a1", Input{Kind: Click}, tc.e)
			if id, rule := j.Why(t.Context(), tc.r, tc.changes, time.Now()); rule != tc.want || (id != "") != (tc.want != "") {
				t.Errorf("got %q by %q, want %q", id, rule, tc.want)
			}
		})
	}
	// What reads does not use a press up, however it is sent.
	j := NewJournal(yes(Sender{"F", true}))
	j.Note("a1", Input{Kind: Click}, button)
	for i, want := range []string{"a1", "a1", "a1", "a1", ""} {
		changes := i == 2 || i == 4
		if id, _, _ := j.Explain(t.Context(), post, changes, time.Now()); id != want {
			t.Errorf("request %d: got %q, want %q", i, id, want)
		}
	}
}
