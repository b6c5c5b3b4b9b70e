package clients

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"flag"
	"fmt"
	"net"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/surface/cdp"
)

var update = flag.Bool("update", false, "write the list of pinned scripts")

const pinnedFile = "../../internal/surface/cdp/pinned.txt"

// scriptless are the scenarios of each client in which nobody evaluates a
// script of their own: every script in them is the driver's. Left out on
// purpose, so that their helpers are not pinned: what writes a document or a
// script into the page (set_content), what makes events or sets a field
// without an input (dispatch_event, locator_fill of Puppeteer).
var scriptless = []struct{ driver, file, scenarios string }{
	{"playwright-core", "playwright.mjs", `version default_context new_page goto title text_content inner_text click click_thrice click_by_role dblclick right_click
		hover fill fill_again clear fill_by_label fill_textarea_lines fill_contenteditable type type_symbols press_enter_submits press_select_all press_shift
		keyboard_insert_text keyboard_arrow check uncheck check_by_label radio select_option submit_form link go_back go_forward reload redirect not_found
		tap drag_to drag_by_hand drag_and_click_after dialog_dismissed dialog_confirm_accepted dialog_prompt_accepted download_canceled download_in_new_context
		wait_for_selector wait_for_load_state locator_count locator_nth attribute states bounding_box content screenshot screenshot_full
		screenshot_element aria_snapshot scroll_into_view_click mouse_click mouse_drag frame_same frame_cross frame_cross_fill frames_list shadow popup
		popup_opener_goes_on two_pages new_context bring_to_front no_cookie_in_headers dialog_alert close_page refused_file refused_cookies
		refused_route refused_headers refused_body refused_pdf refused_permissions refused_proxy refused_methods`},
	{"puppeteer-core", "puppeteer.mjs", `version user_agent pages targets browser_target new_page goto title content property click click_handle click_count
		right_click locator_click locator_text locator_aria locator_hover locator_wait hover type type_symbols type_textarea type_contenteditable
		press_enter_submits press_backspace keyboard_modifier select_all send_character checkbox radio select submit link back forward reload redirect
		tap touchscreen_tap refused_swipe drag drag_by_hand drag_intercepted dialog_confirm_accepted dialog_prompt_accepted dialog_nobody_answers
		upload_from_the_store file_chooser refused_upload
		not_found idle wait_for_selector screenshot screenshot_full screenshot_element accessibility bounding_box scroll_click mouse_drag frame_same frame_cross
		frames shadow target_created two_pages context bring_to_front dialog_alert metrics cdp_session close refused_file refused_cookies refused_set_cookie
		refused_intercept refused_headers refused_user_agent refused_body refused_csp refused_heap refused_trace refused_proxy`},
	{"@playwright/mcp", "mcp.mjs", `navigate snapshot type_submit hover screenshot back tabs new_tab wait_for console requests refused_file`},
}

func (s *tap) Accept() (net.Conn, error) {
	c, err := s.Listener.Accept()
	if err != nil {
		return nil, err
	}
	t := &tapped{Conn: c, tap: s}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conns = append(s.conns, t)
	return t, nil
}

// tap keeps what clients send.
type tap struct {
	net.Listener
	mu    sync.Mutex
	conns []*tapped
	told  func(code string)
}

type tapped struct {
	net.Conn
	tap  *tap
	mu   sync.Mutex
	got  bytes.Buffer
	said []string
}

// refusal is the code in the text of one, as a driver sees it.
var refusal = regexp.MustCompile(`denied by layer \w+ \((\w+)\)`)

// Write keeps the codes of refusals that go to the client.
func (t *tapped) Write(b []byte) (int, error) {
	for _, m := range refusal.FindAllSubmatch(b, -1) {
		t.mu.Lock()
		t.said = append(t.said, string(m[1]))
		t.mu.Unlock()
		t.tap.mu.Lock()
		told := t.tap.told
		t.tap.mu.Unlock()
		if told != nil {
			told(string(m[1]))
		}
	}
	return t.Conn.Write(b)
}

// heard has f called with the code of each refusal; nil ends that.
func (s *tap) heard(f func(code string)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.told = f
}

// refusals are the codes that were said since it was asked last.
func (s *tap) refusals() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var out []string
	for _, c := range s.conns {
		c.mu.Lock()
		out = append(out, c.said...)
		c.said = nil
		c.mu.Unlock()
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func (t *tapped) Read(b []byte) (int, error) {
	n, err := t.Conn.Read(b)
	t.mu.Lock()
	defer t.mu.Unlock()
	t.got.Write(b[:n])
	return n, err
}

// scripts are the sources in what was sent on all connections.
func (s *tap) scripts(t *testing.T) []string {
	t.Helper()
	var out []string
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range s.conns {
		c.mu.Lock()
		_, b, _ := bytes.Cut(c.got.Bytes(), []byte("\r\n\r\n"))
		for _, msg := range messages(b) {
			var m struct {
				Method string
				Params json.RawMessage
			}
			if json.Unmarshal(msg, &m) != nil {
				continue
			}
			switch m.Method {
			case "Runtime.evaluate", "Runtime.callFunctionOn":
				more, _ := cdp.Sources(m.Params)
				out = append(out, more...)
			case "Page.addScriptToEvaluateOnNewDocument":
				var p struct{ Source string }
				if json.Unmarshal(m.Params, &p) == nil && p.Source != "" {
					out = append(out, p.Source)
				}
			}
		}
		c.mu.Unlock()
	}
	return out
}

// messages takes the text messages of a client out of its frames.
func messages(b []byte) [][]byte {
	var out [][]byte
	var msg []byte
	for len(b) >= 6 {
		n, head := uint64(b[1]&127), 2
		switch n {
		case 126:
			n, head = uint64(binary.BigEndian.Uint16(b[2:])), 4
		case 127:
			n, head = binary.BigEndian.Uint64(b[2:]), 10
		}
		if uint64(len(b)) < uint64(head)+4+n {
			break
		}
		mask, payload := b[head:head+4], bytes.Clone(b[head+4:uint64(head)+4+n])
		for i := range payload {
			payload[i] ^= mask[i&3]
		}
		if op := b[0] & 15; op < 8 {
			if msg = append(msg, payload...); b[0]&128 != 0 {
				out, msg = append(out, msg), nil
			}
		}
		b = b[uint64(head)+4+n:]
	}
	return out
}

// TestPinned: with scripts of their own left out, the drivers do their work in
// the profile pinned; their scripts are those of the list, and no others pass.
// With -update the list is made anew, from a run in the profile open.
func TestPinned(t *testing.T) {
	if *update {
		pin(t)
		return
	}
	var list []string
	for _, d := range scriptless {
		r := ran(t, d.file, cdp.Pinned)
		for _, s := range r.all {
			if slices.Contains(strings.Fields(d.scenarios), s.Name) && s.Error != "" {
				t.Errorf("%s: %s: %s", d.file, s.Name, s.Error)
			}
		}
		list = append(list, pins(t, d.driver, r.scripts)...)
	}
	have, err := os.ReadFile(pinnedFile)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range strings.Split(strings.TrimSpace(string(have)), "\n")[1:] {
		if !slices.Contains(list, line) {
			t.Errorf("%s is pinned and no driver sends it: run with -update", line)
		}
	}
}

func pin(t *testing.T) {
	have, err := os.ReadFile(pinnedFile)
	if err != nil {
		t.Fatal(err)
	}
	var list []string
	for _, d := range scriptless {
		w := open(t, cdp.Open, nil)
		w.script(t, d.file, strings.Join(strings.Fields(d.scenarios), ","))
		list = append(list, pins(t, d.driver, w.tap.scripts(t))...)
	}
	slices.Sort(list)
	head, _, _ := strings.Cut(string(have), "\n")
	if err := os.WriteFile(pinnedFile, []byte(head+"\n"+strings.Join(slices.Compact(list), "\n")+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
}

// pins are the lines of pinned.txt for scripts of a driver.
func pins(t *testing.T, driver string, scripts []string) []string {
	t.Helper()
	v := version(t, driver)
	var out []string
	for _, s := range scripts {
		out = append(out, fmt.Sprintf("%s %s %s", cdp.ScriptDigest(s), driver, v))
	}
	return out
}

// version is what the lock file says.
func version(t *testing.T, module string) string {
	t.Helper()
	b, err := os.ReadFile("package-lock.json")
	if err != nil {
		t.Fatal(err)
	}
	var lock struct {
		Packages map[string]struct{ Version string }
	}
	decode(t, b, &lock)
	return lock.Packages["node_modules/"+module].Version
}

// TestPinnedRefusesScripts: own scripts, helpers with another text, and helpers
// that are given a script are refused, and leave a record.
func TestPinnedRefusesScripts(t *testing.T) {
	w := open(t, cdp.Pinned, nil)
	w.script(t, "pinned.mjs")
	c := w.dial()
	var p struct{ TargetID, SessionID string }
	c.must("", "Target.createTarget", dict{"url": "about:blank"}, &p)
	c.must("", "Target.attachToTarget", dict{"targetId": p.TargetID, "flatten": true}, &p)
	s := p.SessionID
	c.must(s, "Runtime.enable", nil, nil)
	wrapper := "(utilityScript, ...args) => utilityScript.evaluate(...args)"
	for _, e := range []string{"1", "", "document.title", wrapper + " ", wrapper + "\n//# sourceURL=x\u2028alert(1)", "alert(1)\n" + wrapper} {
		c.denied("cdp_script", s, "Runtime.evaluate", dict{"expression": e})
		c.denied("cdp_script", s, "Runtime.callFunctionOn", dict{"functionDeclaration": e, "executionContextId": 1})
	}
	c.denied("cdp_script", s, "Runtime.callFunctionOn", dict{"functionDeclaration": wrapper, "executionContextId": 1,
		"arguments": []dict{{"value": nil}, {"value": true}, {"value": true}, {"value": "() => document.forms[0].submit()"}}})
	c.denied("cdp_script", s, "Page.addScriptToEvaluateOnNewDocument", dict{"source": "alert(1)"})
	n := 0
	for _, d := range w.kit.Log.Decisions(t) {
		if d.Action.Params["why"] == "cdp_script" {
			n++
		}
	}
	if n == 0 {
		t.Error("no record of a refused script")
	}
}
