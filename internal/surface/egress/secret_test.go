package egress

import (
	"bytes"
	"compress/gzip"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"
	"unicode/utf16"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/connector"
	"github.com/sallyport-dev/sallyport/internal/gate/gatetest"
	"github.com/sallyport-dev/sallyport/internal/lease"
	"github.com/sallyport-dev/sallyport/internal/record"
)

const (
	formType    = "application/x-www-form-urlencoded"
	token       = `tok&en/"%+ <ü>=1234567890`
	placeholder = "sallyport-secret:api-token"
)

// unsealed is a Sealer that does not hide; the leases here seal nothing.
type unsealed struct{}

func (unsealed) Seal(_ string, b []byte) ([]byte, error) { return b, nil }
func (unsealed) Open(_ string, b []byte) ([]byte, error) { return b, nil }

// leased is one lease of the real keeper, for one origin.
type leased struct {
	keeper *lease.Keeper
	lease  lease.Lease
	value  string
}

func lend(t testing.TB, log record.Log, origin, value string) *leased {
	t.Helper()
	src := lease.Static{Secret: func(context.Context) ([]byte, error) { return []byte(value), nil }}
	k := lease.New(lease.Config{Log: log, Seal: unsealed{}, IDs: func() string { return "l-1" },
		Find: func(context.Context, lease.Lease) (lease.Source, error) { return src, nil }})
	l, secret, err := k.Issue(t.Context(), lease.Request{Task: gatetest.Task, Agent: gatetest.Agent, Source: "api-token", Audience: origin, Static: true, Until: time.Now().Add(time.Hour)})
	if err != nil {
		t.Fatal(err)
	}
	return &leased{k, l, string(secret)}
}

func (l *leased) Leased(origin, name string) bool {
	return origin == l.lease.Audience && name == l.lease.Source
}

func (l *leased) Use(ctx context.Context, origin, action string, names []string) (map[string]string, error) {
	for _, n := range names {
		if !l.Leased(origin, n) {
			return nil, errors.New("not leased")
		}
	}
	return map[string]string{names[0]: l.value}, l.keeper.Use(ctx, l.lease, action)
}

// application is a connector with the secret in one field of four operations,
// and everything else about it as lax as it can be.
func application(origin string) connector.Spec {
	op := func(name, path string, typ connector.BodyType) connector.Operation {
		return connector.Operation{Name: "app.token." + name, Method: "POST", Path: path, Effect: action.Write,
			Query: &connector.Fields{AllowExtra: true},
			Body: &connector.Body{Type: typ, AllowExtra: true, Fields: map[string]connector.Field{
				"token": {Secret: "api-token"}, "note": {Param: "note", Optional: true}}}}
	}
	file := op("file", "/multipart", connector.BodyMultipart)
	file.Body.Fields["scan"] = connector.Field{Param: "scan", Type: connector.TypeFile, Optional: true}
	lax := op("note", "/note", connector.BodyForm)
	delete(lax.Body.Fields, "token")
	laxJSON := op("notes", "/notes", connector.BodyJSON)
	delete(laxJSON.Body.Fields, "token")
	return connector.Spec{Stages: map[action.Stage]connector.Stage{action.Sandbox: {Origins: []connector.Origin{{Name: "main", URL: origin, Local: true}}}},
		Reads: connector.ReadsAllow, Operations: []connector.Operation{op("form", "/form", connector.BodyForm), op("json", "/json", connector.BodyJSON), file, lax, laxJSON}}
}

// recognizing is the real recognition, as the server wires it.
func recognizing(t testing.TB, specs map[string]*connector.Spec) connectors {
	t.Helper()
	set, err := connector.NewSet(specs)
	if err != nil {
		t.Fatal(err)
	}
	return func(r action.Request, body []byte) (Recognized, error) {
		m, err := set.Recognize(action.Sandbox, r, body)
		out := Recognized{App: m.Connector, Effect: m.Effect, Params: m.Params, Allowed: m.Allowed, AllowLocal: m.Local}
		if m.Matched {
			out.Operation, out.WebSocket = m.Operation, r.Destination == "websocket"
			for _, k := range m.Takes {
				out.Takes = append(out.Takes, Take{Source: k.Source, Fields: k.Fields(), Names: k.Names, Put: k.Put, Certificate: k.As == connector.AsCertificate})
			}
		} else {
			out.Params = map[string]string{"why": m.Code}
		}
		for _, s := range m.Secrets {
			out.Secrets = append(out.Secrets, Slot{Secret: s.Secret, Field: s.Field, Start: s.Start, End: s.End, Encode: s.Encode})
		}
		return out, err
	}
}

func secretRig(t testing.TB, o *origin) (*rig, *leased) {
	var l *leased
	r := newRig(t, o, nil, func(c *Config) {
		spec := application(o.name())
		c.Connectors = recognizing(t, map[string]*connector.Spec{"app": &spec})
		l = lend(t, c.Gate.(*gatetest.Kit).Log, o.name(), token)
		c.Secrets, c.Redactor = l, secrets{token}
	})
	return r, l
}

func post(t testing.TB, c *http.Client, target, typ, body string) (*http.Response, string) {
	t.Helper()
	resp, err := c.Post(target, typ, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	return resp, read(t, resp)
}

const multipartBody = "--B\r\nContent-Disposition: form-data; name=\"note\"\r\n\r\nhi\r\n--B\r\nContent-Disposition: form-data; name=\"token\"\r\n\r\n" +
	placeholder + "\r\n--B--\r\n"

// TestSecretIsPutIn: what the origin receives is the decided request with the
// secret in the declared field, and no byte of it differs elsewhere. The record
// is of the placeholder, and the use is on record before the request is sent.
//
// Threats: T44, T54 (door)
func TestSecretIsPutIn(t *testing.T) {
	quoted, _ := json.Marshal(token)
	for name, tt := range map[string][4]string{ // path, type, body, what the origin gets
		"form":      {"/form?x=1", formType, "note=a%20b&token=sallyport-secret%3Aapi-token&_csrf=", "note=a%20b&token=" + url.QueryEscape(token) + "&_csrf="},
		"json":      {"/json", "application/json", `{"note": "a",` + "\n" + `"token" :"` + placeholder + `" ,"x":[1]}`, `{"note": "a",` + "\n" + `"token" :` + plainJSON(quoted) + ` ,"x":[1]}`},
		"multipart": {"/multipart", "multipart/form-data; boundary=B", multipartBody, strings.Replace(multipartBody, placeholder, token, 1)},
	} {
		t.Run(name, func(t *testing.T) {
			for _, secure := range []bool{false, true} {
				sentAfter := ""
				var r *rig
				o := newOrigin(t, secure, func(http.ResponseWriter, *http.Request) {
					all := r.Log.All()
					sentAfter = all[len(all)-1].Type
				})
				r, _ = secretRig(t, o)
				resp, _ := post(t, r.client(secure), o.name()+tt[0], tt[1], tt[2])
				if got := o.one(t); resp.StatusCode != 200 || string(got.Body) != tt[3] || got.URI != tt[0] || got.Header.Get("Content-Length") != fmt.Sprint(len(tt[3])) {
					t.Errorf("status %d, origin got %s %q, want %q", resp.StatusCode, got.URI, got.Body, tt[3])
				}
				if sentAfter != "lease.used" {
					t.Errorf("sent after the record %q, want lease.used", sentAfter)
				}
				for _, e := range r.Log.All() {
					for _, f := range append(encodedList(token), token) {
						if bytes.Contains(e.Body, []byte(f)) {
							t.Errorf("the secret is in a record %s", e.Type)
						}
					}
				}
				d := r.last(t)
				if d.Action.Request.BodySize != int64(len(tt[2])) {
					t.Errorf("decided on %d bytes, want the %d with the placeholder", d.Action.Request.BodySize, len(tt[2]))
				}
			}
		})
	}
}

func plainJSON(b []byte) string {
	return strings.NewReplacer(`\u0026`, "&", `\u003c`, "<", `\u003e`, ">").Replace(string(b))
}

func encodedList(s string) (out []string) {
	for _, f := range encodings(s) {
		out = append(out, f)
	}
	return out
}

// spelled are ways to write a placeholder so that some reader undoes it.
func spelled(s string) map[string]string {
	each := func(format string) string {
		var b strings.Builder
		for _, r := range s {
			fmt.Fprintf(&b, format, r)
		}
		return b.String()
	}
	units := utf16.Encode([]rune(s))
	var le, be []byte
	for _, u := range units {
		le, be = append(le, byte(u), byte(u>>8)), append(be, byte(u>>8), byte(u))
	}
	percent := each("%%%02X")
	return map[string]string{
		"plain": s, "upper": strings.ToUpper(s), "title": "Sallyport-Secret:" + s[17:], "longer": "x" + s + "y",
		"percent_colon": url.QueryEscape(s), "percent_all": percent, "percent_lower": strings.ToLower(percent), "percent_twice": url.QueryEscape(url.QueryEscape(s)),
		"percent_thrice": url.QueryEscape(url.QueryEscape(url.QueryEscape(s))), "percent_some": "sall%79port%2dsecret:" + s[17:], "percent_u": each("%%u%04X"),
		"json_colon": strings.ReplaceAll(s, ":", `\u003a`), "json_all": each(`\u%04x`), "json_twice": strings.ReplaceAll(each(`\u%04x`), `\`, `\\`),
		"js_hex": each(`\x%02x`), "js_braces": each(`\u{%x}`), "octal": each(`\%03o`),
		"html_decimal": each("&#%d;"), "html_hex": each("&#x%X;"), "html_named": strings.NewReplacer(":", "&colon;", "-", "&hyphen;").Replace(s), "html_bare": each("&#%04d"),
		"base64": base64.StdEncoding.EncodeToString([]byte(s)), "base64_off_1": base64.StdEncoding.EncodeToString([]byte("x" + s)),
		"base64_off_2": base64.RawURLEncoding.EncodeToString([]byte("xy" + s)), "base64_twice": base64.StdEncoding.EncodeToString([]byte(base64.StdEncoding.EncodeToString([]byte(s)))),
		"base64_upper": base64.StdEncoding.EncodeToString([]byte(strings.ToUpper(s))), "base64_percent": base64.StdEncoding.EncodeToString([]byte(url.QueryEscape(s))),
		"base64_utf16": base64.StdEncoding.EncodeToString(le), "base64_inside": "AAAA" + base64.RawStdEncoding.EncodeToString([]byte("abc"+s+"defgh")),
		"hex": hex.EncodeToString([]byte(s)), "hex_upper": strings.ToUpper(hex.EncodeToString([]byte(s))), "hex_base64": hex.EncodeToString([]byte(base64.StdEncoding.EncodeToString([]byte(s)))),
		"quoted_printable": strings.NewReplacer(":", "=3A", "-", "=2D").Replace(s), "quoted_break": s[:9] + "=\r\n" + s[9:],
		"zero_width": s[:4] + "\u200b" + s[4:], "soft_hyphen": s[:9] + "\u00ad" + s[9:], "joiner": s[:12] + "\u200d" + s[12:], "bom": s[:1] + "\ufeff" + s[1:],
		"wide": strings.Map(func(r rune) rune { return r - '!' + 0xff01 }, s), "dash": strings.ReplaceAll(s, "-", "\u2010"), "long_s": "\u017f" + s[1:],
		"line": s[:10] + "\n" + s[10:], "blank": s[:16] + " " + s[16:], "nul": s[:10] + "\x00" + s[10:], "utf16_le": string(le), "utf16_be": string(be),
	}
}

// inPlaces are requests that carry a text in one place where no secret is
// declared. ok says whether the place can hold it at all.
var inPlaces = map[string]func(o, text string) (r *http.Request, ok bool){
	"path": func(o, s string) (*http.Request, bool) { return with("GET", o+"/reports/"+url.PathEscape(s), "", "") },
	"query": func(o, s string) (*http.Request, bool) {
		return with("GET", o+"/reports?q="+url.QueryEscape(s), "", "")
	},
	"header": func(o, s string) (*http.Request, bool) { return headed(o, "X-Note", s) },
	"form": func(o, s string) (*http.Request, bool) {
		return with("POST", o+"/note", formType, "note="+url.QueryEscape(s))
	},
	"json": func(o, s string) (*http.Request, bool) {
		b, _ := json.Marshal(map[string]string{"note": s})
		return with("POST", o+"/notes", "application/json", string(b))
	},
	"text": func(o, s string) (*http.Request, bool) {
		return with("POST", o+"/note", "text/plain", "before "+s+" after")
	},
	"upload": func(o, s string) (*http.Request, bool) {
		return with("POST", o+"/multipart", "multipart/form-data; boundary=B", part("token", placeholder)+file("a.bin", "\x7fELF"+s)+"--B--\r\n")
	},
	"elsewhere": func(o, s string) (*http.Request, bool) {
		return with("POST", strings.Replace(o, "app.", "other.", 1)+"/form", formType, "token="+url.QueryEscape(s))
	},
}

func with(method, target, typ, body string) (*http.Request, bool) {
	r, err := http.NewRequest(method, target, strings.NewReader(body))
	if err != nil {
		return nil, false
	}
	if body == "" {
		r.Body, r.ContentLength = nil, 0
	}
	if typ != "" {
		r.Header.Set("Content-Type", typ)
	}
	return r, true
}

func headed(o, name, value string) (*http.Request, bool) {
	r, ok := with("GET", o+"/reports", "", "")
	r.Header[name] = []string{value}
	return r, ok && !strings.ContainsAny(value, "\r\n\x00")
}

func part(name, text string) string {
	return "--B\r\nContent-Disposition: form-data; name=\"" + name + "\"\r\n\r\n" + text + "\r\n"
}

func file(name, data string) string {
	return "--B\r\nContent-Disposition: form-data; name=\"scan\"; filename=\"" + name + "\"\r\nContent-Type: application/octet-stream\r\n\r\n" + data + "\r\n"
}

// misplaced are single requests with a placeholder where it must not be swapped.
var misplaced = map[string]struct {
	method, path, typ, body string
	header                  [2]string
	code                    string // placeholder_misplaced where empty
}{
	"other_field":          {method: "POST", path: "/form", typ: formType, body: "tokens=" + placeholder},
	"field_twice":          {method: "POST", path: "/form", typ: formType, body: "token=" + placeholder + "&token=" + placeholder},
	"field_and_other":      {method: "POST", path: "/form", typ: formType, body: "token=" + placeholder + "&extra=" + placeholder},
	"field_and_param":      {method: "POST", path: "/form", typ: formType, body: "token=" + placeholder + "&note=" + placeholder},
	"field_and_query":      {method: "POST", path: "/form?q=" + placeholder, typ: formType, body: "token=" + placeholder},
	"field_and_header":     {method: "POST", path: "/form", typ: formType, body: "token=" + placeholder, header: [2]string{"X-Token", placeholder}},
	"field_name":           {method: "POST", path: "/form", typ: formType, body: "token=" + placeholder + "&" + url.QueryEscape(placeholder) + "=1"},
	"field_case":           {method: "POST", path: "/form", typ: formType, body: "Token=" + placeholder},
	"field_array":          {method: "POST", path: "/form", typ: formType, body: "token[]=" + placeholder},
	"field_blank":          {method: "POST", path: "/form", typ: formType, body: "token+=" + placeholder},
	"value_longer":         {method: "POST", path: "/form", typ: formType, body: "token=" + placeholder + "x"},
	"value_before":         {method: "POST", path: "/form", typ: formType, body: "token=Bearer+" + placeholder},
	"value_twice":          {method: "POST", path: "/form", typ: formType, body: "token=" + placeholder + placeholder},
	"value_upper":          {method: "POST", path: "/form", typ: formType, body: "token=" + strings.ToUpper(placeholder)},
	"value_spelled":        {method: "POST", path: "/form", typ: formType, body: "token=%73allyport-secret%3Aapi-token"},
	"value_other_secret":   {method: "POST", path: "/form", typ: formType, body: "token=sallyport-secret:other"},
	"value_no_name":        {method: "POST", path: "/form", typ: formType, body: "token=sallyport-secret:"},
	"value_password":       {method: "POST", path: "/form", typ: formType, body: "token=sallyport-secret:iam-helpdesk"},
	"other_path":           {method: "POST", path: "/note", typ: formType, body: "token=" + placeholder},
	"other_path_case":      {method: "POST", path: "/Form", typ: formType, body: "token=" + placeholder},
	"other_path_slash":     {method: "POST", path: "/form/", typ: formType, body: "token=" + placeholder},
	"unknown_path":         {method: "POST", path: "/echo", typ: formType, body: "token=" + placeholder},
	"other_method":         {method: "PUT", path: "/form", typ: formType, body: "token=" + placeholder},
	"as_get":               {method: "GET", path: "/form?token=" + placeholder},
	"other_type":           {method: "POST", path: "/form", typ: "text/plain", body: "token=" + placeholder},
	"no_type":              {method: "POST", path: "/form", body: "token=" + placeholder},
	"charset":              {method: "POST", path: "/form", typ: formType + "; charset=utf-7", body: "token=" + placeholder},
	"split_fields":         {method: "POST", path: "/note", typ: formType, body: "a=sallyport-sec&b=ret%3Aapi-token"},
	"split_three":          {method: "POST", path: "/note", typ: formType, body: "note=sally&x=port-&y=secret%3Aapi"},
	"json_other":           {method: "POST", path: "/json", typ: "application/json", body: `{"tokens":"` + placeholder + `"}`},
	"json_nested":          {method: "POST", path: "/json", typ: "application/json", body: `{"token":{"token":"` + placeholder + `"}}`},
	"json_list":            {method: "POST", path: "/json", typ: "application/json", body: `{"token":["` + placeholder + `"]}`},
	"json_deep":            {method: "POST", path: "/notes", typ: "application/json", body: `{"a":[{"b":[[{"token":"` + placeholder + `"}]]}]}`},
	"json_name":            {method: "POST", path: "/json", typ: "application/json", body: `{"token":"` + placeholder + `","` + placeholder + `":1}`},
	"json_twice":           {method: "POST", path: "/json", typ: "application/json", body: `{"token":"` + placeholder + `","token":"` + placeholder + `"}`},
	"json_in_json":         {method: "POST", path: "/notes", typ: "application/json", body: `{"note":"{\"token\":\"` + placeholder + `\"}"}`},
	"json_escaped":         {method: "POST", path: "/json", typ: "application/json", body: `{"token":"sallyport\u002dsecret:api-token"}`},
	"json_split":           {method: "POST", path: "/notes", typ: "application/json", body: `{"a":"sallyport-sec","b":"ret:api-token"}`},
	"json_list_split":      {method: "POST", path: "/notes", typ: "application/json", body: `{"a":["sallyport-","secret",":api-token"]}`},
	"json_array":           {method: "POST", path: "/json", typ: "application/json", body: `[{"token":"` + placeholder + `"}]`},
	"json_as_form":         {method: "POST", path: "/json", typ: formType, body: "token=" + placeholder},
	"json_other_media":     {method: "POST", path: "/json", typ: "application/vnd.api+json", body: `{"token":"` + placeholder + `"}`},
	"graphql":              {method: "POST", path: "/graphql", typ: "application/json", body: `{"query":"mutation($t:String!){set(token:$t)}","variables":{"t":"` + placeholder + `"}}`},
	"graphql_literal":      {method: "POST", path: "/graphql", typ: "application/json", body: `{"query":"mutation{set(token:\"` + placeholder + `\")}"}`},
	"xml":                  {method: "POST", path: "/soap", typ: "text/xml", body: "<t>" + placeholder + "</t>"},
	"xml_entities":         {method: "POST", path: "/soap", typ: "text/xml", body: "<t>sallyport&#45;secret&#x3A;api-token</t>"},
	"binary":               {method: "POST", path: "/blob", typ: "application/octet-stream", body: "\x00\x01" + placeholder + "\xff"},
	"multipart_other":      {method: "POST", path: "/multipart", typ: "multipart/form-data; boundary=B", body: part("token", placeholder) + part("x", placeholder) + "--B--\r\n"},
	"multipart_twice":      {method: "POST", path: "/multipart", typ: "multipart/form-data; boundary=B", body: part("token", placeholder) + part("token", placeholder) + "--B--\r\n"},
	"multipart_split":      {method: "POST", path: "/multipart", typ: "multipart/form-data; boundary=B", body: part("a", "sallyport-sec") + part("b", "ret:api-token") + "--B--\r\n"},
	"multipart_name":       {method: "POST", path: "/multipart", typ: "multipart/form-data; boundary=B", body: part("token", placeholder) + part(placeholder, "x") + "--B--\r\n"},
	"multipart_filename":   {method: "POST", path: "/multipart", typ: "multipart/form-data; boundary=B", body: part("token", placeholder) + file(placeholder, "x") + "--B--\r\n"},
	"multipart_file_field": {method: "POST", path: "/multipart", typ: "multipart/form-data; boundary=B", body: strings.Replace(file("t.txt", placeholder), "scan", "token", 1) + "--B--\r\n"},
	"multipart_boundary":   {method: "POST", path: "/multipart", typ: "multipart/form-data; boundary=\"" + placeholder + "\"", body: "--" + placeholder + "--\r\n"},
	"multipart_preamble":   {method: "POST", path: "/multipart", typ: "multipart/form-data; boundary=B", body: placeholder + "\r\n" + part("token", placeholder) + "--B--\r\n"},
	"multipart_epilogue":   {method: "POST", path: "/multipart", typ: "multipart/form-data; boundary=B", body: part("token", placeholder) + "--B--\r\n" + placeholder},
	"multipart_type":       {method: "POST", path: "/multipart", typ: "multipart/form-data; boundary=B", body: "--B\r\nContent-Disposition: form-data; name=\"token\"\r\nContent-Type: text/plain; x=" + placeholder + "\r\n\r\n" + placeholder + "\r\n--B--\r\n"},
	"multipart_base64":     {method: "POST", path: "/multipart", typ: "multipart/form-data; boundary=B", body: "--B\r\nContent-Disposition: form-data; name=\"token\"\r\nContent-Transfer-Encoding: base64\r\n\r\n" + base64.StdEncoding.EncodeToString([]byte(placeholder)) + "\r\n--B--\r\n"},
	"header_bearer":        {method: "GET", path: "/", header: [2]string{"Authorization", "Bearer " + placeholder}},
	"header_basic":         {method: "GET", path: "/", header: [2]string{"Authorization", "Basic " + base64.StdEncoding.EncodeToString([]byte("svc:"+placeholder))}},
	"header_cookie":        {method: "GET", path: "/", header: [2]string{"Cookie", "t=" + placeholder}},
	"header_referer":       {method: "GET", path: "/", header: [2]string{"Referer", "https://app.localhost/?t=" + url.QueryEscape(placeholder)}},
	"header_agent":         {method: "GET", path: "/", header: [2]string{"User-Agent", placeholder}},
	"header_override":      {method: "POST", path: "/note", typ: formType, body: "note=x", header: [2]string{"X-Original-Url", "/" + placeholder}},
	"header_forwarded":     {method: "GET", path: "/", header: [2]string{"X-Forwarded-For", placeholder}},
	"header_underscore":    {method: "GET", path: "/", header: [2]string{"X_Token", placeholder}},
	"path_segment":         {method: "GET", path: "/" + placeholder},
	"path_parameter":       {method: "GET", path: "/users;t=" + placeholder},
	"query_name":           {method: "GET", path: "/?" + placeholder + "=1"},
	"query_bare":           {method: "GET", path: "/?" + placeholder},
	"preflight":            {method: "OPTIONS", path: "/form", header: [2]string{"Access-Control-Request-Headers", "x, " + placeholder}},
	"asset":                {method: "GET", path: "/static/" + placeholder + ".css"},
}

// TestPlaceholderAnywhereElse sends a placeholder in more than a hundred ways and
// places in which nothing declares a secret: each is refused with a stable code,
// on record as malformed, and nothing of it is sent, to anybody.
//
// Threats: T45 (form)
func TestPlaceholderAnywhereElse(t *testing.T) {
	o := newOrigin(t, false, nil)
	other := newOrigin(t, false, nil)
	other.host = "other.localhost"
	r := newRig(t, o, nil, func(c *Config) {
		spec, more := application(o.name()), application(other.name())
		for i := range more.Operations {
			more.Operations[i].Name = strings.Replace(more.Operations[i].Name, "app.", "other.", 1)
		}
		c.Connectors = recognizing(t, map[string]*connector.Spec{"app": &spec, "other": &more})
		c.Secrets = lend(t, c.Gate.(*gatetest.Kit).Log, o.name(), token)
	})
	client, n := r.client(false), 0
	try := func(t *testing.T, req *http.Request, code string) {
		t.Helper()
		n++
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		read(t, resp)
		if code == "" {
			code = "placeholder_misplaced"
		}
		wantDenied(t, resp.StatusCode, resp.Header, code)
		if d := r.last(t); d.Action.Operation != "egress.malformed" || d.Action.Params["why"] != code {
			t.Errorf("recorded as %s %v", d.Action.Operation, d.Action.Params)
		}
	}
	for name, tt := range misplaced {
		t.Run(name, func(t *testing.T) {
			req, ok := with(tt.method, o.name()+tt.path, tt.typ, tt.body)
			if !ok {
				t.Fatal("no request")
			}
			if tt.header[0] != "" {
				req.Header[tt.header[0]] = []string{tt.header[1]}
			}
			try(t, req, tt.code)
		})
	}
	for place, build := range inPlaces {
		for name, text := range spelled(placeholder) {
			req, ok := build(o.name(), text)
			if !ok {
				continue
			}
			if place == "elsewhere" {
				req, _ = build(strings.Replace(o.name(), o.port(), other.port(), 1), text)
			}
			t.Run(place+"_"+name, func(t *testing.T) {
				code := ""
				switch {
				case place == "elsewhere" && name == "plain":
					code = "secret_not_leased" // well formed there, and not leased for it
				case place == "header" && strings.ContainsFunc(text, func(r rune) bool { return r > 0x7f }):
					code = "field_value"
				}
				try(t, req, code)
			})
		}
	}
	for _, x := range []*origin{o, other} {
		if got := x.all(); len(got) > 0 {
			t.Errorf("%s received %d requests, the first %s %s %q", x.host, len(got), got[0].Method, got[0].URI, got[0].Body)
		}
	}
	if n < 100 {
		t.Errorf("tried %d ways, want 100", n)
	}
	for _, e := range r.Log.All() {
		if e.Type == "lease.used" {
			t.Error("the lease was used")
		}
	}
}

// TestPlaceholderSentRawly: the same in forms that net/http does not write.
//
// Threats: T45 (door)
func TestPlaceholderSentRawly(t *testing.T) {
	o := newOrigin(t, false, nil)
	r, _ := secretRig(t, o)
	var z bytes.Buffer
	w := gzip.NewWriter(&z)
	io.WriteString(w, "token="+placeholder+"&x="+placeholder)
	w.Close()
	head := func(path, fields string) string {
		return "POST " + path + " HTTP/1.1\r\nHost: " + o.authority() + "\r\nContent-Type: " + formType + "\r\n" + fields + "\r\n"
	}
	for name, in := range map[string]string{
		"chunks":   head("/note", "Transfer-Encoding: chunked\r\n") + "10\r\nnote=sallyport-s\r\n10\r\necret:api-token!\r\n0\r\n\r\n",
		"gzip":     head("/form", fmt.Sprintf("Content-Encoding: gzip\r\nContent-Length: %d\r\n", z.Len())) + z.String(),
		"headers":  head("/note", "X-A: sallyport-sec\r\nX-A: ret:api-token\r\nContent-Length: 6\r\n") + "note=x",
		"fragment": "GET /#" + placeholder + " HTTP/1.1\r\nHost: " + o.authority() + "\r\n\r\n",
	} {
		c := r.tunnel(t, o.authority())
		status, h, _ := raw(t, c, in)
		code := "placeholder_misplaced"
		if name == "fragment" {
			code = "target_fragment"
			if got := h.Get("Sallyport-Decision"); strings.Contains(got, "code=") {
				code, _, _ = strings.Cut(got[strings.Index(got, "code=")+5:], ";") // any code of the reader's
			}
		}
		wantDenied(t, status, h, code)
	}
	if got := o.all(); len(got) > 0 {
		t.Fatalf("the origin received %q", got[0].Body)
	}
	// In the declared field chunks are one body, and it is swapped once.
	c := r.tunnel(t, o.authority())
	if status, h, _ := raw(t, c, head("/form", "Transfer-Encoding: chunked\r\n")+"10\r\ntoken=sallyport-\r\n10\r\nsecret:api-token\r\n0\r\n\r\n"); status != 200 {
		t.Fatalf("status %d %v", status, h)
	}
	if got := o.one(t); string(got.Body) != "token="+url.QueryEscape(token) {
		t.Errorf("the origin received %q", got.Body)
	}
}

// TestSecretAfterItsEnd: a lease whose end is on record, or whose use cannot be
// recorded, is not used, and nothing is sent.
//
// Threats: T45 (door)
func TestSecretAfterItsEnd(t *testing.T) {
	o := newOrigin(t, false, nil)
	r, l := secretRig(t, o)
	send := func() (*http.Response, string) {
		return post(t, r.client(false), o.name()+"/form", formType, "token="+placeholder)
	}
	r.Log.Fail = func(d record.Draft) error {
		if d.Type == "lease.used" {
			return errors.New("full disk")
		}
		return nil
	}
	if resp, _ := send(); resp.StatusCode != http.StatusBadGateway || !strings.Contains(resp.Header.Get("Sallyport-Decision"), "code=secret_refused;") {
		t.Errorf("not recorded: %d %v", resp.StatusCode, resp.Header)
	}
	r.Log.Fail = nil
	if err := l.keeper.End(t.Context(), gatetest.Task); err != nil {
		t.Fatal(err)
	}
	if resp, _ := send(); resp.StatusCode != http.StatusBadGateway || !strings.Contains(resp.Header.Get("Sallyport-Decision"), "code=secret_refused;") {
		t.Errorf("ended: %d %v", resp.StatusCode, resp.Header)
	}
	if got := o.all(); len(got) > 0 {
		t.Errorf("the origin received %q", got[0].Body)
	}
	if out := lastOutcome(t, r); out.State != action.Failed || out.Detail != "secret_refused" {
		t.Errorf("outcome %+v", out)
	}
}

// TestReflectedPlaceholder: the origin gets the secret and gives it back in every
// way it can think of; the page sees none of it, and the length of what it sees
// does not depend on the secret's.
//
// Threats: T44 (door)
func TestReflectedPlaceholder(t *testing.T) {
	sizes := map[string]int{}
	for _, value := range []string{token, token + strings.Repeat("longer", 20)} {
		o := newOrigin(t, false, func(w http.ResponseWriter, r *http.Request) {
			body, _ := io.ReadAll(r.Body)
			got, _ := url.ParseQuery(string(body))
			v := got.Get("token")
			w.Header().Set("X-Echo", v[:0]+url.QueryEscape(v))
			w.Header().Set("Location", "/?t="+url.QueryEscape(v))
			switch r.URL.Query().Get("as") {
			case "error":
				w.WriteHeader(http.StatusInternalServerError)
			case "download":
				w.Header().Set("Content-Disposition", "attachment; filename=t.bin")
				w.Header().Set("Content-Type", "application/octet-stream")
			case "found":
				w.WriteHeader(http.StatusFound)
			case "html":
				w.Header().Set("Content-Type", "text/html")
			}
			fmt.Fprintf(w, "you sent %s or %q or %s", v, v, body)
		})
		r := newRig(t, o, nil, func(c *Config) {
			spec := application(o.name())
			c.Connectors = recognizing(t, map[string]*connector.Spec{"app": &spec})
			c.Secrets, c.Redactor = lend(t, c.Gate.(*gatetest.Kit).Log, o.name(), value), secrets{Secret(value)}
		})
		for _, kind := range []string{"plain", "error", "download", "found", "html"} {
			resp, body := post(t, r.client(false), o.name()+"/form?as="+kind, formType, "token="+placeholder)
			var head bytes.Buffer
			resp.Header.Write(&head)
			for name, form := range encodings(value) {
				if strings.Contains(body, form) || strings.Contains(head.String(), form) {
					t.Errorf("%s: the secret came back as %s: %s %s", kind, name, head.String(), body)
				}
			}
			if !strings.HasPrefix(body, "you sent "+redacted+" or ") {
				t.Errorf("%s: %q", kind, body)
			}
			if n, seen := sizes[kind]; seen && n != len(body) || resp.Header.Get("Content-Length") != fmt.Sprint(len(body)) {
				t.Errorf("%s: the length %d (said %s) tells of the secret's", kind, len(body), resp.Header.Get("Content-Length"))
			}
			sizes[kind] = len(body)
		}
	}
}
