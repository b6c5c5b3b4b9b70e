package browser

import (
	"errors"
	"strings"
	"testing"
	"time"
)

const place20 = `position:absolute;left:20px;top:20px;width:200px;height:60px`

// What is pressed acts for something else: what it is put into, what it is a
// label of, what it names. Either that is what grounding says, or nothing can be
// pressed; what is sent must be what was said before.
//
// Threats: T25 (browser)
func TestControlActsForAnother(t *testing.T) {
	w := open(t, Config{})
	shadow := func(mode, inside, light string) string {
		return `<div id=h style="` + place20 + `">` + light + `</div><script>const r=h.attachShadow({mode:'` + mode + `'});r.innerHTML=` + quote(inside) + `</script>`
	}
	const form = `<form action="/evil" method=post><button style="width:200px;height:60px"><slot></slot></button></form>`
	for name, c := range map[string]struct {
		html          string
		tag, action   string
		uninspectable string
	}{
		"slot_in_open_root":           {shadow("open", form, `<span>Harmless</span>`), "button", "/evil", ""},
		"text_in_open_root":           {shadow("open", form, `Harmless`), "button", "/evil", ""},
		"slot_in_slot":                {shadow("open", `<div id=i><slot></slot></div>`, `<span>Harmless</span>`) + `<script>{const s=r.querySelector('#i').attachShadow({mode:'open'});s.innerHTML=` + quote(form) + `}</script>`, "button", "/evil", ""},
		"slot_in_closed_root":         {shadow("closed", form, `<span>Harmless</span>`), "", "", "closed_shadow_slot"},
		"text_in_closed_root":         {shadow("closed", form, `Harmless`), "", "", "closed_shadow_slot"},
		"deep_in_closed_root":         {shadow("closed", form, `<div><p><b>Harm<i>less</i></b></p></div>`), "", "", "closed_shadow_slot"},
		"link_in_closed_root":         {shadow("closed", `<a href="/evil" style="display:block;height:60px"><slot></slot></a>`, `<span style="font-size:50px">Harmless</span>`), "", "", "closed_shadow_slot"},
		"inside_of_closed_root":       {shadow("closed", `<div style="height:60px" onclick="1">Inside</div>`, ``), "div", "", ""},
		"contents":                    {`<div style="` + place20 + `"><form action="/evil" method=post><button style="display:contents"><span style="font-size:50px">Harmless</span></button></form></div>`, "button", "/evil", ""},
		"contents_link":               {`<div style="` + place20 + `"><a href="/evil" style="display:contents"><span style="font-size:50px">Harmless</span></a></div>`, "a", "", ""},
		"label_in_closed_root":        {shadow("closed", `<form action="/evil" method=post><label for=b style="display:block;height:60px">Harmless</label><button id=b>x</button></form>`, ``), "label", "/evil", ""},
		"label_of_submit_far_away":    {`<label for=b style="` + place20 + `">Harmless</label><form action="/evil" method=post><button id=b style="position:absolute;top:400px">x</button></form>`, "label", "/evil", ""},
		"label_around_a_button":       {`<form action="/evil" method=post><label style="` + place20 + `">Harmless <button style="position:absolute;left:-999px">x</button></label></form>`, "label", "/evil", ""},
		"button_in_a_button":          {`<form action="/evil" method=post><button id=o style="` + place20 + `"></button></form><script>const i=document.createElement('button');i.type='button';i.textContent='Inner';i.style='width:150px;height:40px';o.append(i)</script>`, "button", "/evil", ""},
		"button_of_a_form_by_name":    {`<form id=f action="/evil" method=post></form><button form=f style="` + place20 + `">Harmless</button>`, "button", "/evil", ""},
		"summary":                     {`<form action="/evil" method=post><details style="` + place20 + `"><summary style="height:60px"><button style="width:200px;height:50px">x</button></summary></details></form>`, "button", "/evil", ""},
		"image_button":                {`<form action="/evil" method=post><input type=image alt=x style="` + place20 + `"></form>`, "input", "/evil", ""},
		"output_for":                  {`<form action="/evil" method=post><output style="` + place20 + `">Only text</output></form>`, "output", "/evil", ""},
		"command_for_another":         {`<button popovertarget=p popovertargetaction=show style="` + place20 + `">Show</button><div popover id=p>p</div>`, "button", "", ""},
		"customised_by_role":          {`<div role=button onclick="location='/evil'" style="` + place20 + `">Harmless</div>`, "div", "", ""},
		"custom_element_closed_plain": {`<x-y style="` + place20 + `">Harmless</x-y><script>document.querySelector('x-y').attachShadow({mode:'closed'}).innerHTML=` + quote(form) + `</script>`, "", "", "closed_shadow_slot"},
	} {
		t.Run(name, func(t *testing.T) {
			w.t = t
			w.load("borrowed", `<body style="margin:0">`+c.html)
			w.mu().Lock()
			w.hits = nil
			w.mu().Unlock()
			g := w.ground(120, 50)
			e := g.Element
			if e.Uninspectable != c.uninspectable || c.uninspectable == "" && (e.Tag != c.tag || strings.TrimPrefix(e.FormAction, "http://site.test") != c.action) {
				t.Fatalf("got %+v, want %+v", e, c)
			}
			err := w.do(g, Click{})
			sent := ""
			for range 50 { // a new document that is opened over it would undo it
				if w.hit("POST site.test/evil") {
					sent = "/evil"
				}
				if sent != "" || c.action == "" || err != nil {
					break
				}
				w.quiet(10 * time.Millisecond)
			}
			if c.uninspectable != "" {
				if !errors.Is(err, ErrUninspectable) || sent != "" {
					t.Errorf("pressed all the same: %v, sent to %q", err, sent)
				}
				return
			}
			if err != nil && !errors.Is(err, ErrBlocked) {
				t.Error(err)
			}
			if sent != "" && sent != c.action {
				t.Errorf("sent to %q, said %q", sent, c.action)
			}
			if strings.HasSuffix(name, "in_open_root") && sent == "" {
				t.Errorf("the press did nothing: %v", err)
			}
		})
	}
}

// What a control says, and what speaks against it. Nobody is to read the name of
// a control as a promise: the words beside it are ours.
//
// Threats: T24 (browser)
func TestNamesAreDoubted(t *testing.T) {
	w := open(t, Config{})
	for name, c := range map[string]struct{ html, doubts string }{
		"plain":               {`<button style="%s">Reset MFA</button>`, ""},
		"accents":             {`<button style="%s">Zurücksetzen: naïve façade</button>`, ""},
		"japanese":            {`<button style="%s">リセット 多要素 MFA</button>`, ""},
		"cyrillic":            {`<button style="%s">Удалить</button>`, ""},
		"cyrillic_a_in_latin": {`<button style="%s">Cаncel</button>`, "mixed_alphabets"},
		"greek_in_latin":      {`<button style="%s">Cαncel</button>`, "mixed_alphabets"},
		"right_to_left":       {`<button style="%s">Cancel &#x202e;eteled</button>`, "hidden_characters"},
		"isolate":             {`<button style="%s">Can&#x2066;cel&#x2069;</button>`, "hidden_characters"},
		"zero_width":          {`<button style="%s">Can&#x200b;cel</button>`, "hidden_characters"},
		"joiner_in_label":     {`<button aria-label="Can&#x2060;cel" style="%s">x</button>`, "hidden_characters name_not_shown"},
		"soft_hyphen":         {`<button style="%s">Can&shy;cel</button>`, "hidden_characters"},
		"filler":              {`<button style="%s">Cancel&#x3164;</button>`, "hidden_characters"},
		"full_width":          {`<button style="%s">Ｃancel</button>`, "no_plain_letters"},
		"mathematical":        {`<button style="%s">𝐂ancel</button>`, "no_plain_letters"},
		"label_lies":          {`<button aria-label="Cancel" style="%s">Delete</button>`, "name_not_shown"},
		"labelled_by_lies":    {`<b id=l hidden>Cancel</b><button aria-labelledby=l style="%s">Delete</button>`, "name_not_shown"},
		"generated":           {`<style>button::before{content:"Do not "}</style><button style="%s">Delete</button>`, "generated_text"},
		"generated_all":       {`<style>button::after{content:"Cancel"}</style><button style="%s"></button>`, "generated_text"},
		"picture":             {`<button style="%s"><img alt=Cancel src="data:image/gif;base64,R0lGODlhAQABAAAAACw="></button>`, "picture"},
		"background":          {`<button style="%s;background-image:linear-gradient(red,blue)">Cancel</button>`, "picture"},
		"drawn":               {`<button style="%s"><canvas></canvas>Cancel</button>`, "picture"},
		"hidden_text":         {`<button style="%s"><span style="display:none">Cancel</span>Delete</button>`, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w.t = t
			w.load("names", `<meta charset=utf-8><body style="margin:0">`+strings.Replace(c.html, "%s", place20, 1))
			e := w.ground(30, 70).Element
			if e.Doubts != c.doubts {
				t.Errorf("got %q, want %q: %+v", e.Doubts, c.doubts, e)
			}
			if name == "label_lies" && (e.Name != "Cancel" || e.Text != "Delete") || name == "hidden_text" && e.Text != "Delete" {
				t.Errorf("got name %q, text %q", e.Name, e.Text)
			}
		})
	}
	w.t = t
	// What was typed is in no fact.
	w.load("typed", `<body style="margin:0"><input value="hunter2" style="`+place20+`"><textarea style="position:absolute;top:120px;left:20px">hunter2</textarea><div contenteditable style="position:absolute;top:220px;left:20px;width:200px;height:60px">hunter2</div>`)
	for _, y := range []float64{40, 130, 240} {
		if e := w.ground(60, y).Element; strings.Contains(e.Text, "hunter2") {
			t.Errorf("typed text is in the facts: %+v", e)
		}
	}
}
