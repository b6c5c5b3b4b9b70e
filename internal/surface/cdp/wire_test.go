package cdp

import (
	"bytes"
	"encoding/base64"
	"net/url"
	"strings"
	"testing"

	"github.com/go-json-experiment/json"
)

func TestParseRequest(t *testing.T) {
	r, why := parseRequest([]byte(`{"id":7,"method":"Page.enable","params":{"a":[1,{"b":1e300}]},"sessionId":"S"}`))
	if why != nil || r.id != 7 || r.method != "Page.enable" || r.session != "S" || string(r.params) != `{"a":[1,{"b":1e300}]}` {
		t.Fatalf("got %+v, %v", r, why)
	}
	if r, why = parseRequest([]byte(`{"method":"A.b","id":0}`)); why != nil || string(r.params) != "{}" {
		t.Errorf("without params: got %+v, %v", r, why)
	}
}

// TestMalformed: what two readers could understand differently has no reading.
//
// Threats: T2, M1 (form)
func TestMalformed(t *testing.T) {
	deep := `{"id":1,"method":"A.b","params":{"a":` + strings.Repeat("[", 80) + strings.Repeat("]", 80) + `}}`
	for name, s := range map[string]string{
		"empty": "", "no_json": "hello", "array": `[{"id":1,"method":"A.b"}]`, "two": `{"id":1,"method":"A.b"}{"id":2,"method":"A.b"}`,
		"trailing": `{"id":1,"method":"A.b"} x`, "number": "1", "null": "null",
		"duplicate_member": `{"id":1,"id":2,"method":"A.b"}`, "duplicate_method": `{"id":1,"method":"Page.enable","method":"Fetch.enable"}`,
		"duplicate_inside":  `{"id":1,"method":"A.b","params":{"url":"http://a","url":"file:///"}}`,
		"duplicate_escaped": `{"id":1,"method":"A.b","\u006dethod":"Fetch.enable"}`,
		"unknown_member":    `{"id":1,"method":"A.b","extra":1}`, "case": `{"id":1,"Method":"A.b"}`, "case_params": `{"id":1,"method":"A.b","Params":{}}`,
		"no_id": `{"method":"A.b"}`, "id_string": `{"id":"1","method":"A.b"}`, "id_float": `{"id":1.0,"method":"A.b"}`, "id_exponent": `{"id":1e3,"method":"A.b"}`,
		"id_negative": `{"id":-1,"method":"A.b"}`, "id_minus_zero": `{"id":-0,"method":"A.b"}`, "id_huge": `{"id":9007199254740993,"method":"A.b"}`,
		"id_longer": `{"id":99999999999999999999,"method":"A.b"}`, "id_null": `{"id":null,"method":"A.b"}`, "id_object": `{"id":{},"method":"A.b"}`,
		"no_method": `{"id":1}`, "method_number": `{"id":1,"method":1}`, "method_plain": `{"id":1,"method":"enable"}`, "method_empty_domain": `{"id":1,"method":".x"}`,
		"method_long":  `{"id":1,"method":"A.` + strings.Repeat("b", 200) + `"}`,
		"params_array": `{"id":1,"method":"A.b","params":[]}`, "params_null": `{"id":1,"method":"A.b","params":null}`, "params_string": `{"id":1,"method":"A.b","params":"{}"}`,
		"session_empty": `{"id":1,"method":"A.b","sessionId":""}`, "session_number": `{"id":1,"method":"A.b","sessionId":1}`,
		"deep": deep, "surrogate": `{"id":1,"method":"A.b","params":{"a":"\ud800"}}`, "utf8": "{\"id\":1,\"method\":\"A.\xff\"}",
		"nul": "{\"id\":1,\"method\":\"A.b\"}\x00", "byte_order": "\ufeff{\"id\":1,\"method\":\"A.b\"}",
	} {
		if r, why := parseRequest([]byte(s)); why == nil {
			t.Errorf("%s: got %+v, want a refusal", name, r)
		} else if why.Code != "cdp_malformed" || !strings.Contains(why.text(), "layer form") {
			t.Errorf("%s: got %q", name, why.text())
		}
	}
}

func TestParameters(t *testing.T) {
	r := table()["Page.navigate"]
	for s, ok := range map[string]bool{
		`{"url":"http://a/"}`: true, `{"url":"http://a/","frameId":"F"}`: true, `{}`: true,
		`{"URL":"file:///"}`: false, `{"url":"http://a/","x":1}`: false, `{"url ":"file:///"}`: false,
	} {
		if why := checkParams(r, []byte(s)); (why == nil) != ok {
			t.Errorf("%s: got %v", s, why)
		}
	}
}

// Threats: T9, A14 (form)
func TestAddress(t *testing.T) {
	for s, want := range map[string]bool{
		"http://a.test/": true, "HTTPS://a.test/x?y#z": true, "about:blank": true,
		"file:///etc/passwd": false, "FILE:///x": false, " http://a": false, "ht\ttp://a": false, "java\nscript:alert(1)": false, "javascript:alert(1)": false,
		"data:text/html,x": false, "blob:http://a/x": false, "chrome://version": false, "devtools://x": false, "view-source:http://a": false, "about:about": false,
		"filesystem:http://a/": false, "http:\\\\a": false, "http:/a": false, "//a": false, "ftp://a": false, "ws://a": false, "chrome-extension://x": false, "about:blank#x": false,
	} {
		if got := address(s); got != want {
			t.Errorf("%q: got %v, want %v", s, got, want)
		}
	}
}

// FuzzParseRequest: whatever is read is read the same when it is written out
// again, and nothing else is in the message.
func FuzzParseRequest(f *testing.F) {
	f.Add([]byte(`{"id":1,"method":"Page.navigate","params":{"url":"http://a/"},"sessionId":"S"}`))
	f.Add([]byte(`{"id":1,"id":2,"method":"A.b"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		r, why := parseRequest(b)
		if why != nil {
			return
		}
		out := map[string]any{"id": r.id, "method": r.method, "params": r.params}
		if r.session != "" {
			out["sessionId"] = r.session
		}
		again, err := json.Marshal(out)
		if err != nil {
			t.Fatal(err)
		}
		x, why := parseRequest(again)
		if why != nil || x.id != r.id || x.method != r.method || x.session != r.session {
			t.Fatalf("got %+v, %v from %s", x, why, again)
		}
	})
}

// TestNetworkEventsAreClean: no cookie, credential or body is left anywhere in
// an event, in whatever case headers are written.
//
// Threats: T44, T47 (door)
func TestNetworkEventsAreClean(t *testing.T) {
	in := `{"requestId":"1","hasExtraInfo":true,"redirectHasExtraInfo":true,"data":"bXkgU0VDUkVU","request":{"url":"http://a/","postData":"SECRET","hasPostData":true,
		"postDataEntries":[{"bytes":"SECRET"}],"headers":{"Cookie":"SECRET","AUTHORIZATION":"SECRET","accept":"*/*","Proxy-Authorization":"SECRET"}},
		"redirectResponse":{"headers":{"Set-Cookie":"SECRET","content-type":"text/html"},"headersText":"SECRET","requestHeadersText":"SECRET","requestHeaders":{"cookie":"SECRET"}},
		"associatedCookies":[{"cookie":{"value":"SECRET"}}]}`
	out, ok := cleanNetwork([]byte(in))
	if !ok || bytes.Contains(out, []byte("SECRET")) || bytes.Contains(out, []byte("bXkg")) {
		t.Errorf("got %s", out)
	}
	for _, want := range []string{`"accept":"*/*"`, `"content-type":"text/html"`, `"hasExtraInfo":false`, `"url":"http://a/"`} {
		if !bytes.Contains(out, []byte(want)) {
			t.Errorf("got %s, want it to have %s", out, want)
		}
	}
	for e := range events {
		if strings.Contains(e, "ExtraInfo") || strings.Contains(e, "Frame") && strings.HasPrefix(e, "Network.webSocketFrame") && e != "Network.webSocketFrameError" {
			t.Errorf("%s is passed on", e)
		}
	}
}

// TestRedact: a secret that a page got hold of stays here in every usual form,
// and the message stays JSON.
//
// Threats: T44 (door)
func TestRedact(t *testing.T) {
	secret := `p"w\\ö&+ x/7`
	for name, v := range map[string]any{"plain": secret, "url": url.QueryEscape(secret), "path": url.PathEscape(secret),
		"base64": base64.StdEncoding.EncodeToString([]byte(secret)), "inside": "a" + secret + "b", "nested": map[string]any{"a": []any{secret}}} {
		got := redact(toJSON(map[string]any{"id": 1, "result": v}), []string{"", "abc", secret})
		if !bytes.Contains(got, []byte(redacted)) {
			t.Errorf("%s: got %s", name, got)
		}
		var back any
		if err := json.Unmarshal(got, &back); err != nil {
			t.Errorf("%s: %v in %s", name, err, got)
		}
	}
	if got := redact([]byte(`{"id":1}`), []string{`"id":1`}); string(got) != `{"id":1}` {
		t.Errorf("the message itself: got %s", got)
	}
}
