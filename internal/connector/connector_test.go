package connector_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"maps"
	"net/url"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/connector"
)

const (
	form = "application/x-www-form-urlencoded"
	js   = "application/json"
	here = "https://iam.example"
)

func text(s string) *string { return &s }

func spec() *connector.Spec {
	csrf := map[string]connector.Field{"_csrf": {Ignored: true}}
	return &connector.Spec{
		Stages: map[action.Stage]connector.Stage{
			action.Production: {Origins: []connector.Origin{{Name: "main", URL: here}}},
			action.Sandbox:    {Origins: []connector.Origin{{Name: "main", URL: "https://iam.test:8443", Local: true}}},
		},
		Reads: connector.ReadsAllow, Assets: []string{"/static/"},
		Operations: []connector.Operation{
			{Name: "iam.user.read", Method: "GET", Path: "/users/{user}", Effect: action.Read, Labels: []string{"pii"}},
			{Name: "iam.user.new", Method: "GET", Path: "/users/new", Effect: action.Read},
			{Name: "iam.user.mfa.reset", Method: "POST", Path: "/users/{user}/mfa/reset", Effect: action.Privileged,
				Body:     &connector.Body{Type: connector.BodyForm, Fields: csrf},
				ReadBack: &connector.ReadBack{Path: "/api/users/{user}", Pointer: "/mfaResetAt", Newer: true}},
			{Name: "iam.user.delete", Method: "POST", Path: "/users/{user}", Effect: action.Irreversible,
				Body: &connector.Body{Type: connector.BodyForm, Fields: map[string]connector.Field{"_csrf": {Ignored: true}, "_method": {Const: text("delete")}}}},
			{Name: "iam.user.rename", Method: "POST", Path: "/users/{user}", Effect: action.Write,
				Body: &connector.Body{Type: connector.BodyForm, Fields: map[string]connector.Field{"_csrf": {Ignored: true}, "name": {Param: "name"}}}},
			{Name: "iam.group.add", Method: "POST", Path: "/api/groups/{group}/members", Effect: action.Privileged,
				Body: &connector.Body{Type: connector.BodyJSON, Fields: map[string]connector.Field{
					"user": {Param: "user"}, "days": {Param: "days", Type: connector.TypeInteger, Optional: true}, "notify": {Param: "notify", Type: connector.TypeBoolean, Optional: true}}}},
			{Name: "iam.logout", Method: "GET", Path: "/logout", Effect: action.Write, Query: &connector.Fields{Fields: map[string]connector.Field{"t": {Ignored: true}}}},
			{Name: "iam.totp", Method: "POST", Path: "/totp", Effect: action.Write, Body: &connector.Body{Type: connector.BodyForm, Fields: map[string]connector.Field{"code": {Secret: "totp"}}}},
			{Name: "iam.events", Kind: connector.KindWebSocket, Method: "GET", Path: "/events", Effect: action.Read},
			{Name: "iam.open", Method: "POST", Path: "/open", Effect: action.Write, Body: &connector.Body{Type: connector.BodyJSON, AllowExtra: true,
				Fields: map[string]connector.Field{"user": {Param: "user"}, "ask": {Const: text("a"), Optional: true}}}},
			{Name: "iam.openform", Method: "POST", Path: "/openform", Effect: action.Write, Body: &connector.Body{Type: connector.BodyForm, AllowExtra: true,
				Fields: map[string]connector.Field{"user": {Param: "user", Optional: true}}}},
			{Name: "iam.loose", Method: "POST", Path: "/loose", Effect: action.Write, Body: &connector.Body{Type: connector.BodyForm, AllowExtra: true}},
		},
	}
}

func newSet(t testing.TB) *connector.Set {
	t.Helper()
	s, err := connector.NewSet(map[string]*connector.Spec{"iam": spec()})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func request(method, target, typ, body string) (action.Request, []byte) {
	path, query, _ := strings.Cut(target, "?")
	r := action.Request{Method: method, Origin: here, Path: path, Query: query, BodyType: typ, BodySize: int64(len(body))}
	if body != "" {
		r.BodyDigest = canon.Digest([]byte(body))
	}
	return r, []byte(body)
}

func TestRecognize(t *testing.T) {
	set := newSet(t)
	for _, tt := range []struct {
		name, method, target, typ, body string
		op                              string
		effect                          action.Effect
		params                          map[string]string
	}{
		{"read", "GET", "/users/jo", "", "", "iam.user.read", action.Read, map[string]string{"user": "jo"}},
		{"head_is_get", "HEAD", "/users/jo", "", "", "iam.user.read", action.Read, map[string]string{"user": "jo"}},
		{"literal_first", "GET", "/users/new", "", "", "iam.user.new", action.Read, map[string]string{}},
		{"encoded_space", "GET", "/users/jo%20m", "", "", "iam.user.read", action.Read, map[string]string{"user": "jo m"}},
		{"encoded_utf8", "GET", "/users/j%C3%B6", "", "", "iam.user.read", action.Read, map[string]string{"user": "jö"}},
		{"form", "POST", "/users/jo/mfa/reset", form, "_csrf=a%2Bb", "iam.user.mfa.reset", action.Privileged, map[string]string{"user": "jo"}},
		{"form_charset", "POST", "/users/jo/mfa/reset", form + "; charset=UTF-8", "_csrf=x", "iam.user.mfa.reset", action.Privileged, map[string]string{"user": "jo"}},
		{"declared_override", "POST", "/users/jo", form, "_csrf=x&_method=delete", "iam.user.delete", action.Irreversible, map[string]string{"user": "jo"}},
		{"told_apart_by_body", "POST", "/users/jo", form, "_csrf=x&name=Jo+M", "iam.user.rename", action.Write, map[string]string{"user": "jo", "name": "Jo M"}},
		{"json", "POST", "/api/groups/g/members", js, ` {"user": "j\u006f"} `, "iam.group.add", action.Privileged, map[string]string{"group": "g", "user": "jo"}},
		{"json_types", "POST", "/api/groups/g/members", js, `{"user":"jo","days":3,"notify":true}`, "iam.group.add", action.Privileged, map[string]string{"group": "g", "user": "jo", "days": "3", "notify": "true"}},
		{"get_that_writes", "GET", "/logout?t=1", "", "", "iam.logout", action.Write, map[string]string{}},
		{"secret", "POST", "/totp", form, "code=sallyport-secret%3Atotp", "iam.totp", action.Write, map[string]string{}},
		{"extra_allowed", "POST", "/loose", form, "a=1&b=2", "iam.loose", action.Write, map[string]string{}},
		{"default_read", "GET", "/groups?q=a", "", "", "iam.read", action.Read, nil},
		{"root", "GET", "/", "", "", "iam.read", action.Read, nil},
		{"asset", "GET", "/static/app.css", "", "", "iam.asset", action.Read, nil},
		{"preflight", "OPTIONS", "/api/groups/g/members", "", "", "iam.preflight", action.Read, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, body := request(tt.method, tt.target, tt.typ, tt.body)
			m, err := set.Recognize(action.Production, r, body)
			if err != nil {
				t.Fatal(err)
			}
			if !m.Matched || m.Operation != tt.op || m.Effect != tt.effect || !maps.Equal(m.Params, tt.params) || m.Connector != "iam" {
				t.Errorf("got %+v, want %s %s %v", m, tt.op, tt.effect, tt.params)
			}
		})
	}
}

// TestTricks: each is a request that some server reads as an operation and some
// reader does not (JSON keys by case: CVE-2026-27896). None may be recognised, and none may count as a read when it
// could be a write.
//
// Threats: T19, A13, D1, D2, D3, D5, M1 (guardrail)
func TestTricks(t *testing.T) {
	set := newSet(t)
	reset := func(path string) [4]string { return [4]string{"POST", path, form, "_csrf=x"} }
	add := func(typ, body string) [4]string { return [4]string{"POST", "/api/groups/g/members", typ, body} }
	for name, tt := range map[string]struct {
		req  [4]string
		code string
	}{
		"dot_dot":                        {reset("/users/ana/../jo/mfa/reset"), "ambiguous_path"},
		"dot":                            {reset("/users/./jo/mfa/reset"), "ambiguous_path"},
		"encoded_dot_dot":                {reset("/users/ana/%2e%2e/jo/mfa/reset"), "ambiguous_path"},
		"encoded_dot_param":              {reset("/users/%2E%2E/mfa/reset"), "ambiguous_path"},
		"encoded_slash":                  {reset("/users/jo%2fmfa%2freset"), "ambiguous_path"},
		"encoded_slash_in_param":         {reset("/users/jo%2Fana/mfa/reset"), "ambiguous_path"},
		"encoded_backslash":              {reset("/users/jo%5cana/mfa/reset"), "ambiguous_path"},
		"backslash":                      {reset(`/users\jo\mfa\reset`), "ambiguous_path"},
		"double_encoding":                {reset("/users/%252e%252e/mfa/reset"), "ambiguous_path"},
		"needless_encoding":              {reset("/users/%6ao/mfa/reset"), "ambiguous_path"},
		"encoded_nul":                    {reset("/users/jo%00/mfa/reset"), "ambiguous_path"},
		"encoded_newline":                {reset("/users/jo%0a/mfa/reset"), "ambiguous_path"},
		"half_encoding":                  {reset("/users/jo%2/mfa/reset"), "ambiguous_path"},
		"half_encoding_at_end":           {reset("/users/jo/mfa/reset%"), "ambiguous_path"},
		"invalid_utf8":                   {reset("/users/%ff/mfa/reset"), "ambiguous_path"},
		"overlong_slash":                 {reset("/users/jo%c0%af/mfa/reset"), "ambiguous_path"},
		"raw_utf8":                       {reset("/users/jö/mfa/reset"), "ambiguous_path"},
		"matrix_parameter":               {reset("/users/jo;x=1/mfa/reset"), "ambiguous_path"},
		"encoded_matrix":                 {reset("/users/jo%3bx/mfa/reset"), "ambiguous_path"},
		"double_slash":                   {reset("/users//jo/mfa/reset"), "ambiguous_path"},
		"leading_double_slash":           {reset("//users/jo/mfa/reset"), "ambiguous_path"},
		"trailing_slash":                 {reset("/users/jo/mfa/reset/"), "similar_path"},
		"two_trailing_slashes":           {reset("/users/jo/mfa/reset//"), "ambiguous_path"},
		"dot_at_the_end":                 {reset("/users/jo/mfa/reset/."), "ambiguous_path"},
		"encoded_slash_at_end":           {reset("/users/jo/mfa/reset%2f"), "ambiguous_path"},
		"parameter_at_the_end":           {reset("/users/jo/mfa/reset/;x"), "ambiguous_path"},
		"only_slashes":                   {reset("//"), "ambiguous_path"},
		"get_write_slash":                {[4]string{"GET", "/logout/?t=1", "", ""}, "similar_path"},
		"get_write_case":                 {[4]string{"GET", "/LogOut?t=1", "", ""}, "similar_path"},
		"empty_param":                    {reset("/users//mfa/reset"), "ambiguous_path"},
		"tab":                            {reset("/users/jo\t/mfa/reset"), "ambiguous_path"},
		"no_slash":                       {reset("users/jo/mfa/reset"), "ambiguous_path"},
		"absolute_form":                  {reset("https://iam.example/users/jo/mfa/reset"), "ambiguous_path"},
		"empty_path":                     {reset(""), "ambiguous_path"},
		"case":                           {reset("/Users/jo/mfa/reset"), "similar_path"},
		"other_method":                   {[4]string{"PUT", "/users/jo/mfa/reset", form, "_csrf=x"}, "no_operation"},
		"lower_case_method":              {[4]string{"post", "/users/jo/mfa/reset", form, "_csrf=x"}, "no_operation"},
		"trace":                          {[4]string{"TRACE", "/users/jo", "", ""}, "no_operation"},
		"head_of_a_write":                {[4]string{"HEAD", "/logout?t=1", "", ""}, "no_operation"},
		"get_write_extra_query":          {[4]string{"GET", "/logout?t=1&x=2", "", ""}, "unknown_field"},
		"get_write_query_twice":          {[4]string{"GET", "/logout?t=1&t=2", "", ""}, "duplicate_field"},
		"get_with_body":                  {[4]string{"GET", "/users/jo", form, "a=b"}, "unexpected_body"},
		"options_with_body":              {[4]string{"OPTIONS", "/users/jo", form, "a=b"}, "no_operation"},
		"query_on_a_write":               {reset("/users/jo/mfa/reset?user=ana"), "unknown_field"},
		"query_without_value":            {reset("/users/jo/mfa/reset?debug"), "form_syntax"},
		"field_twice":                    {[4]string{"POST", "/users/jo", form, "_csrf=x&name=a&name=b"}, "duplicate_field"},
		"field_twice_by_encoding":        {[4]string{"POST", "/users/jo", form, "_csrf=x&name=a&n%61me=b"}, "duplicate_field"},
		"field_array":                    {[4]string{"POST", "/users/jo", form, "_csrf=x&name[]=a"}, ""},
		"field_case":                     {[4]string{"POST", "/users/jo", form, "_csrf=x&Name=a"}, ""},
		"field_semicolon":                {[4]string{"POST", "/users/jo", form, "_csrf=x;name=a"}, "form_encoding"},
		"field_raw_space":                {[4]string{"POST", "/users/jo", form, "_csrf=x&name=a b"}, "form_encoding"},
		"field_raw_newline":              {[4]string{"POST", "/users/jo", form, "_csrf=x&name=a\r\nb"}, "form_encoding"},
		"field_nul":                      {[4]string{"POST", "/users/jo", form, "_csrf=x&name=%00"}, "form_encoding"},
		"field_half_encoding":            {[4]string{"POST", "/users/jo", form, "_csrf=x&name=%4"}, "form_encoding"},
		"field_invalid_utf8":             {[4]string{"POST", "/users/jo", form, "_csrf=x&name=%ff"}, "form_encoding"},
		"field_missing":                  {[4]string{"POST", "/users/jo/mfa/reset", form, "a=b"}, "unknown_field"},
		"body_missing":                   {[4]string{"POST", "/users/jo/mfa/reset", form, ""}, "missing_field"},
		"no_name":                        {[4]string{"POST", "/loose", form, "=x"}, "form_syntax"},
		"empty_pair":                     {[4]string{"POST", "/loose", form, "a=1&&b=2"}, "form_syntax"},
		"override_field":                 {[4]string{"POST", "/loose", form, "_method=DELETE"}, "method_override"},
		"override_field_case":            {[4]string{"POST", "/loose", form, "_METHOD=DELETE"}, "method_override"},
		"override_header_field":          {[4]string{"POST", "/loose", form, "X-HTTP-Method-Override=DELETE"}, "method_override"},
		"override_in_query":              {reset("/users/jo/mfa/reset?_method=DELETE"), "method_override"},
		"override_other_value":           {[4]string{"POST", "/users/jo", form, "_csrf=x&_method=put"}, ""},
		"override_field_array":           {[4]string{"POST", "/loose", form, "_method[]=DELETE"}, "method_override"},
		"override_field_spelling":        {[4]string{"POST", "/loose", form, "x.http.method.override=DELETE"}, "method_override"},
		"charset_field":                  {[4]string{"POST", "/loose", form, "_charset_=utf-7"}, "charset"},
		"charset_continued":              {[4]string{"POST", "/users/jo/mfa/reset", form + "; charset*0=utf-8", "_csrf=x"}, "content_type"},
		"charset_twice":                  {[4]string{"POST", "/users/jo/mfa/reset", form + "; charset=utf-8; Charset=utf-16", "_csrf=x"}, "content_type"},
		"type_parameter_empty":           {[4]string{"POST", "/users/jo/mfa/reset", form + ";", "_csrf=x"}, "content_type"},
		"other_secret":                   {[4]string{"POST", "/totp", form, "code=123456"}, "field_value"},
		"multipart":                      {[4]string{"POST", "/users/jo/mfa/reset", "multipart/form-data; boundary=x", "--x--"}, "content_type"},
		"multipart_plain":                {[4]string{"POST", "/users/jo/mfa/reset", "multipart/form-data", "--x--"}, "content_type"},
		"text_plain":                     {[4]string{"POST", "/users/jo/mfa/reset", "text/plain", "_csrf=x"}, "content_type"},
		"no_type":                        {[4]string{"POST", "/users/jo/mfa/reset", "", "_csrf=x"}, "content_type"},
		"two_types":                      {[4]string{"POST", "/users/jo/mfa/reset", form + ", " + js, "_csrf=x"}, "content_type"},
		"form_utf16":                     {[4]string{"POST", "/users/jo/mfa/reset", form + "; charset=utf-16", "_csrf=x"}, "charset"},
		"form_as_json":                   {add(form, "user=jo"), "content_type"},
		"json_duplicate":                 {add(js, `{"user":"ana","user":"jo"}`), "json"},
		"json_duplicate_escaped":         {add(js, `{"user":"ana","us\u0065r":"jo"}`), "json"},
		"json_case":                      {add(js, `{"User":"jo"}`), "unknown_field"},
		"json_extra":                     {add(js, `{"user":"jo","role":"admin"}`), "unknown_field"},
		"json_nested":                    {add(js, `{"user":{"id":"jo"}}`), "field_type"},
		"json_array_of_users":            {add(js, `{"user":["jo","ana"]}`), "field_type"},
		"json_null":                      {add(js, `{"user":null}`), "field_type"},
		"json_number_for_text":           {add(js, `{"user":1}`), "field_type"},
		"json_batch":                     {add(js, `[{"user":"jo"},{"user":"ana"}]`), "json"},
		"json_utf16":                     {add(js, "\xff\xfe{\x00}\x00"), "json"},
		"json_bom":                       {add(js, "\ufeff"+`{"user":"jo"}`), "json"},
		"json_comment":                   {add(js, `{"user":"jo"/*x*/}`), "json"},
		"json_nan":                       {add(js, `{"user":"jo","days":NaN}`), "json"},
		"json_float":                     {add(js, `{"user":"jo","days":3.0}`), "field_type"},
		"json_exponent":                  {add(js, `{"user":"jo","days":1e2}`), "field_type"},
		"json_huge":                      {add(js, `{"user":"jo","days":9007199254740993}`), "field_type"},
		"json_deep":                      {add(js, strings.Repeat("[", 100)+strings.Repeat("]", 100)), "json"},
		"json_trailing":                  {add(js, `{"user":"jo"}{"user":"ana"}`), "json"},
		"json_utf7":                      {add(js+"; charset=utf-7", `{"user":"jo"}`), "charset"},
		"json_invalid_utf8":              {add(js, "{\"user\":\"\xff\"}"), "json"},
		"json_too_large":                 {add(js, `{"user":"`+strings.Repeat("x", 1<<20)+`"}`), "body_too_large"},
		"json_problem_type":              {add("application/vnd.api+json", `{"user":"jo"}`), "content_type"},
		"extra_of_the_same_name_by_case": {[4]string{"POST", "/open", js, `{"user":"jo","User":"ana"}`}, "similar_field"},
		"extra_by_unicode_case":          {[4]string{"POST", "/open", js, `{"user":"jo","u\u017fer":"ana"}`}, "similar_field"},
		"extra_by_kelvin":                {[4]string{"POST", "/open", js, `{"user":"jo","as\u212a":"b"}`}, "similar_field"},
		"extra_that_does_not_show":       {[4]string{"POST", "/open", js, `{"user":"jo","user\u200b":"ana"}`}, "similar_field"},
		"extra_with_nul":                 {[4]string{"POST", "/open", js, `{"user":"jo","user\u0000x":"ana"}`}, "similar_field"},
		"extra_default":                  {[4]string{"POST", "/openform", form, "%21user=ana"}, "similar_field"},
		"extra_dash":                     {[4]string{"POST", "/openform", form, "user=jo&+user=ana"}, "similar_field"},
		"extra_array":                    {[4]string{"POST", "/openform", form, "user=jo&user%5B0%5D=ana"}, "similar_field"},
	} {
		t.Run(name, func(t *testing.T) {
			r, body := request(tt.req[0], tt.req[1], tt.req[2], tt.req[3])
			m, err := set.Recognize(action.Production, r, body)
			if err != nil {
				t.Fatal(err)
			}
			if m.Matched || m.Operation != connector.Unmatched || m.Effect != action.Write {
				t.Errorf("got %+v, want an unmatched write", m)
			}
			if m.Why == "" || tt.code != "" && m.Code != tt.code {
				t.Errorf("got code %q (%s), want %q", m.Code, m.Why, tt.code)
			}
			if m.Params != nil || m.ReadBack != nil || m.Labels != nil {
				t.Errorf("got %+v: something of a refused match is left", m)
			}
		})
	}
}

// TestTrailingSlash: "/teams" and "/teams/" are two paths, whichever of them is
// declared; the other one is neither the operation nor a mere read. Of a path of
// no operation either spelling is a read.
//
// Threats: D6, T19 (guardrail)
func TestTrailingSlash(t *testing.T) {
	sp := spec()
	sp.Operations = append(sp.Operations,
		connector.Operation{Name: "iam.team.read", Method: "GET", Path: "/teams/{team}/", Effect: action.Read, Labels: []string{"pii"}},
		connector.Operation{Name: "iam.team.purge", Method: "GET", Path: "/teams/purge/", Effect: action.Irreversible},
		connector.Operation{Name: "iam.team.join", Method: "POST", Path: "/teams/{team}/join/", Effect: action.Write,
			ReadBack: &connector.ReadBack{Path: "/api/teams/{team}/", Pointer: "/joined", Changed: true}},
		connector.Operation{Name: "iam.both", Method: "POST", Path: "/both", Effect: action.Write},
		connector.Operation{Name: "iam.both", Method: "POST", Path: "/both/", Effect: action.Write},
		connector.Operation{Name: "iam.plain", Method: "POST", Path: "/plain", Effect: action.Write},
		connector.Operation{Name: "iam.slash", Method: "POST", Path: "/plain/", Effect: action.Privileged})
	set, err := connector.NewSet(map[string]*connector.Spec{"iam": sp})
	if err != nil {
		t.Fatal(err)
	}
	for target, want := range map[string]string{
		"GET /teams/red/": "iam.team.read", "GET /teams/red": "similar_path read", "GET /teams/": "iam.read", "GET /teams": "iam.read", "GET /teams//": "ambiguous_path write",
		"GET /teams/red//": "ambiguous_path write", "GET /teams/red/.": "ambiguous_path write", "GET /teams/red/..": "ambiguous_path write", "GET /teams/red%2f": "ambiguous_path write",
		"GET /teams/red/%2e/": "ambiguous_path write", "GET /teams/red;x=1/": "ambiguous_path write", "GET /teams/red/;x": "ambiguous_path write", "GET /teams/./red/": "ambiguous_path write",
		"GET /teams/purge/": "iam.team.purge", "GET /teams/purge": "similar_path write", "GET /teams/PURGE/": "similar_path write", "GET /teams/Purge": "similar_path write", "HEAD /teams/purge/": "no_operation write",
		"POST /teams/red/join/": "iam.team.join", "POST /teams/red/join": "similar_path write", "POST /Teams/red/join/": "similar_path write", "POST /teams//join/": "ambiguous_path write",
		"POST /both": "iam.both", "POST /both/": "iam.both", "POST /plain": "iam.plain", "POST /plain/": "iam.slash",
		"GET /users/jo/": "similar_path read", "GET /users/new/": "similar_path read", "GET /users/New": "similar_path read", "GET /static/": "iam.read", "GET /static/css/": "iam.asset",
	} {
		method, path, _ := strings.Cut(target, " ")
		r, _ := request(method, path, "", "")
		m, err := set.Recognize(action.Production, r, nil)
		got := m.Operation
		if !m.Matched {
			got = m.Code + " " + string(m.Effect)
		}
		if err != nil || got != want {
			t.Errorf("%s: got %s, want %s (%v)", target, got, want, err)
		}
		if m.Operation == "iam.team.join" && (m.ReadBack == nil || m.ReadBack.Path != "/api/teams/red/") {
			t.Errorf("%s: got the read-back %+v", target, m.ReadBack)
		}
	}
	for path, want := range map[string]string{"//": "two readers", "/x//": "two readers", "/x/{a}//": "two readers", "/x/./": "two readers"} {
		bad := spec()
		operation(func(o *connector.Operation) { o.Path = path })(bad)
		if _, err := connector.NewSet(map[string]*connector.Spec{"iam": bad}); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: got %v, want an error with %q", path, err, want)
		}
	}
}

// TestFold: the spellings that an application takes for one are one parameter,
// wherever it is read from, and what may be folded otherwise has none.
//
// Threats: D5, T19 (guardrail)
func TestFold(t *testing.T) {
	sp := spec()
	sp.Fold = []string{"user"}
	set, err := connector.NewSet(map[string]*connector.Spec{"iam": sp})
	if err != nil {
		t.Fatal(err)
	}
	for _, from := range []func(user string) (action.Request, []byte){
		func(u string) (action.Request, []byte) {
			return request("POST", "/users/"+strings.ReplaceAll(url.PathEscape(u), "%40", "@")+"/mfa/reset", form, "_csrf=x")
		},
		func(u string) (action.Request, []byte) {
			b, err := json.Marshal(map[string]string{"user": u})
			if err != nil {
				t.Fatal(err)
			}
			return request("POST", "/api/groups/G/members", js, string(b))
		},
	} {
		for user, want := range map[string]string{"jo": "jo", "Jo": "jo", "JO": "jo", "Jo@Example.COM": "jo@example.com", "Jo M": "jo m",
			"JÖ": "", "\u212ao": "", "\u0131o": "", "ｊｏ": "", "jo\u0301": "", "jo\u200b": "", " jo": "", "jo ": "", "j  o": ""} {
			r, body := from(user)
			m, err := set.Recognize(action.Production, r, body)
			if err != nil {
				t.Fatal(err)
			}
			if want != "" && (!m.Matched || m.Params["user"] != want) || want == "" && (m.Matched || m.Effect != action.Write || m.Code != "value_form") {
				t.Errorf("%q in %s: got %+v, want %q", user, r.Path, m, want)
			}
			if g, ok := m.Params["group"]; ok && g != "G" {
				t.Errorf("%q: a parameter that is not folded became %q", user, g)
			}
		}
	}
	for name, fold := range map[string][]string{"no operation has": {"usr"}, "named twice": {"user", "user"}} {
		bad := spec()
		bad.Fold = fold
		if _, err := connector.NewSet(map[string]*connector.Spec{"iam": bad}); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("got %v, want an error with %q", err, name)
		}
	}
}

// TestNumbers: an id has one spelling.
//
// Threats: D7, T19 (guardrail)
func TestNumbers(t *testing.T) {
	sp := spec()
	sp.Numbers = []string{"user"}
	set, err := connector.NewSet(map[string]*connector.Spec{"iam": sp})
	if err != nil {
		t.Fatal(err)
	}
	for user, ok := range map[string]bool{"7": true, "0": true, "-7": true, "70": true, "07": false, "+7": false, "7.json": false, "7.0": false, "7e0": false, "0x7": false, "7%20": false,
		"%207": false, "7,8": false, "-0": false, "%D9%A7": false, "jo": false, "9223372036854775808": false} {
		for _, req := range [][2]string{{"POST", "/users/" + user + "/mfa/reset"}, {"GET", "/users/" + user}} {
			r, body := request(req[0], req[1], form, map[string]string{"POST": "_csrf=x"}[req[0]])
			m, err := set.Recognize(action.Production, r, body)
			if err != nil || m.Matched != ok || ok && m.Params["user"] != user || !ok && m.Code != "value_form" {
				t.Errorf("%s %s: got %+v %v, want matched %v", req[0], req[1], m, err, ok)
			}
		}
	}
}

func TestReadsDenied(t *testing.T) {
	sp := spec()
	sp.Reads = ""
	set, err := connector.NewSet(map[string]*connector.Spec{"iam": sp})
	if err != nil {
		t.Fatal(err)
	}
	r, body := request("GET", "/groups", "", "")
	m, err := set.Recognize(action.Production, r, body)
	if err != nil || m.Matched || m.Operation != connector.Unmatched || m.Effect != action.Read {
		t.Errorf("got %+v, %v, want an unmatched read", m, err)
	}
}

// Threats: T20 (form)
func TestBodyMustBeTheOneDecidedOn(t *testing.T) {
	set := newSet(t)
	r, _ := request("POST", "/users/jo/mfa/reset", form, "_csrf=x")
	for name, body := range map[string]string{"swapped": "_csrf=y", "longer": "_csrf=xx", "empty": ""} {
		if _, err := set.Recognize(action.Production, r, []byte(body)); !errors.Is(err, connector.ErrBody) {
			t.Errorf("%s: got %v, want ErrBody", name, err)
		}
	}
	r.BodyDigest = ""
	if _, err := set.Recognize(action.Production, r, []byte("_csrf=x")); !errors.Is(err, connector.ErrBody) {
		t.Errorf("no digest: got %v, want ErrBody", err)
	}
}

// Threats: T40, A11 (guardrail)
func TestStagesAndOrigins(t *testing.T) {
	set := newSet(t)
	for name, origin := range map[string]string{
		"other_stage": "https://iam.test:8443", "other_scheme": "http://iam.example", "other_port": "https://iam.example:444",
		"default_port": "https://iam.example:443", "case": "https://IAM.example", "trailing_dot": "https://iam.example.",
		"sub": "https://x.iam.example", "suffix": "https://iam.example.evil.example", "user": "https://iam.example@evil.example", "empty": "", "null": "null",
	} {
		r, body := request("GET", "/users/jo", "", "")
		r.Origin = origin
		m, err := set.Recognize(action.Production, r, body)
		if err != nil || m.Allowed || m.Matched || m.Connector != "" || m.Operation != connector.Unmatched {
			t.Errorf("%s: got %+v, %v, want not allowed", name, m, err)
		}
	}
	if n, ok := set.Owner(action.Sandbox, "https://iam.test:8443"); !ok || n != "iam" {
		t.Errorf("owner: got %q %v, want iam", n, ok)
	}
	if _, ok := set.Owner("staging", here); ok {
		t.Error("an unknown stage owns an origin")
	}
}

func TestWebSocket(t *testing.T) {
	set := newSet(t)
	r, _ := request("GET", "/events", "", "")
	if m, _ := set.Recognize(action.Production, r, nil); m.Operation == "iam.events" {
		t.Error("a plain GET is taken for a handshake")
	}
	r.Destination = "websocket"
	if m, _ := set.Recognize(action.Production, r, nil); m.Operation != "iam.events" {
		t.Errorf("handshake: got %+v, want iam.events", m)
	}
	r.Path = "/users/jo"
	if m, _ := set.Recognize(action.Production, r, nil); m.Matched || m.Effect != action.Write {
		t.Errorf("handshake elsewhere: got %+v, want an unmatched write", m)
	}
}

func TestReadBackPlan(t *testing.T) {
	set := newSet(t)
	r, body := request("POST", "/users/j%C3%B6%20m/mfa/reset", form, "_csrf=x")
	m, err := set.Recognize(action.Production, r, body)
	if err != nil || m.ReadBack == nil {
		t.Fatalf("got %+v, %v, want a plan", m, err)
	}
	if got, want := m.ReadBack.Origin+m.ReadBack.Path, here+"/api/users/j%C3%B6%20m"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if !m.ReadBack.Newer || m.ReadBack.Pointer != "/mfaResetAt" {
		t.Errorf("got %+v, want the condition", m.ReadBack)
	}
}

// TestArgumentsStayInTheirPlace: whatever a parameter is, the read-back that it is
// put into asks for one segment in its place, or there is none (CVE-2026-29791).
//
// Threats: B8, D2, T19 (form)
func TestArgumentsStayInTheirPlace(t *testing.T) {
	sp := spec()
	sp.Operations = []connector.Operation{{Name: "iam.user.note", Method: "POST", Path: "/note", Effect: action.Write,
		Body:     &connector.Body{Type: connector.BodyJSON, Fields: map[string]connector.Field{"user": {Param: "user"}}},
		ReadBack: &connector.ReadBack{Path: "/api/users/{user}/notes/", Pointer: "/n", Changed: true}}}
	set, err := connector.NewSet(map[string]*connector.Spec{"iam": sp})
	if err != nil {
		t.Fatal(err)
	}
	check := func(t interface{ Errorf(string, ...any) }, user string) (planned bool) {
		b, err := json.Marshal(map[string]string{"user": user})
		r, body := request("POST", "/note", js, string(b))
		m, err2 := set.Recognize(action.Production, r, body)
		if err != nil || err2 != nil || !m.Matched || m.Params["user"] != user || m.ReadBack == nil {
			return false
		}
		u, err := url.Parse(here + m.ReadBack.Path)
		if err != nil || u.Host != "iam.example" || u.RawQuery != "" || u.Fragment != "" || u.Path != "/api/users/"+user+"/notes/" || strings.Count(u.Path, "/") != 5 || strings.Contains(m.ReadBack.Path, "..") && !strings.Contains(user, "..") {
			t.Errorf("%q is asked for as %s", user, m.ReadBack.Path)
		}
		return true
	}
	for _, user := range []string{"..", ".", "", "a/../../admin", "a/b", "a\\b", "a?b=c", "a#b", "a%2fb", "a;b=c", "a\r\nHost: evil", "a\x00", "@evil.example/", "//evil.example"} {
		if check(t, user) {
			t.Errorf("%q has a read-back", user)
		}
	}
	for _, user := range []string{"jo", "jo m", "jö", "a:b", "a@b", "a&b=c", "a+b"} {
		if !check(t, user) {
			t.Errorf("%q has no read-back", user)
		}
	}
	rapid.Check(t, func(t *rapid.T) { check(t, rapid.String().Draw(t, "user")) })
}

// TestFormsRoundTrip: what a browser would send for any values is recognised
// with exactly these values.
func TestFormsRoundTrip(t *testing.T) {
	set := newSet(t)
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.StringMatching(`[^\x00]{0,40}`).Draw(t, "name")
		body := url.Values{"_csrf": {"x"}, "name": {name}}.Encode()
		r, b := request("POST", "/users/jo", form, body)
		m, err := set.Recognize(action.Production, r, b)
		if err != nil || m.Operation != "iam.user.rename" || m.Params["name"] != name {
			t.Fatalf("%q: got %+v, %v", body, m, err)
		}
	})
}

func TestSpecErrors(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*connector.Spec)
		want   string
	}{
		{"no_stage", func(s *connector.Spec) { s.Stages = nil }, "stages: want at least one"},
		{"unknown_stage", func(s *connector.Spec) { s.Stages["staging"] = s.Stages[action.Sandbox] }, "stages.staging"},
		{"one_origin_in_two_stages", func(s *connector.Spec) { s.Stages[action.Sandbox] = s.Stages[action.Production] }, "also claimed"},
		{"origin_with_path", origin("https://iam.example/x"), "origins[0].url"},
		{"origin_with_user", origin("https://u@iam.example"), "origins[0].url"},
		{"origin_default_port", origin("https://iam.example:443"), "origins[0].url"},
		{"origin_case", origin("https://IAM.example"), "origins[0].url"},
		{"origin_plain_http", origin("http://iam.example"), "plain http"},
		{"origin_wildcard", origin("https://*.example"), "origins[0].url"},
		{"other_application", operation(func(o *connector.Operation) { o.Name = "pay.x" }), "want iam.thing.verb"},
		{"reserved", operation(func(o *connector.Operation) { o.Name = "iam.read" }), "made by the boundary"},
		{"unknown_method", operation(func(o *connector.Operation) { o.Method = "POTS" }), "method"},
		{"unknown_effect", operation(func(o *connector.Operation) { o.Effect = "harmless" }), "effect"},
		{"unknown_origin", operation(func(o *connector.Operation) { o.Origin = "api" }), `no origin "api"`},
		{"half_parameter", operation(func(o *connector.Operation) { o.Path = "/x/a{b}" }), "whole segment"},
		{"parameter_twice", operation(func(o *connector.Operation) { o.Path = "/x/{a}/{a}" }), "used twice"},
		{"path_dots", operation(func(o *connector.Operation) { o.Path = "/x/../y" }), "two readers"},
		{"reversible_irreversible", operation(func(o *connector.Operation) { o.Effect, o.Reversible = action.Irreversible, true }), "reversible"},
		{"get_with_body", operation(func(o *connector.Operation) {
			o.Method, o.Body = "GET", &connector.Body{Type: connector.BodyForm}
		}), "GET has no body"},
		{"field_says_two_things", operation(func(o *connector.Operation) {
			o.Body = &connector.Body{Type: connector.BodyForm, Fields: map[string]connector.Field{"a": {Param: "a", Ignored: true}}}
		}), "exactly one of"},
		{"parameter_from_two_places", operation(func(o *connector.Operation) {
			o.Path, o.Body = "/x/{a}", &connector.Body{Type: connector.BodyForm, Fields: map[string]connector.Field{"a": {Param: "a"}}}
		}), "two places"},
		{"read_back_unknown_parameter", operation(func(o *connector.Operation) {
			o.ReadBack = &connector.ReadBack{Path: "/x/{b}", Pointer: "/a", Changed: true}
		}), "no parameter {b}"},
		{"read_back_no_condition", operation(func(o *connector.Operation) { o.ReadBack = &connector.ReadBack{Path: "/x", Pointer: "/a"} }), "exactly one of"},
		{"overlap_same", operation(func(o *connector.Operation) {
			o.Path, o.Body = "/users/{who}/mfa/reset", &connector.Body{Type: connector.BodyForm, Fields: map[string]connector.Field{"_csrf": {Ignored: true}}}
		}), "could be both"},
		{"overlap_crossing", func(s *connector.Spec) {
			s.Operations = append(s.Operations,
				connector.Operation{Name: "iam.one", Method: "DELETE", Path: "/x/{a}/b", Effect: action.Write},
				connector.Operation{Name: "iam.two", Method: "DELETE", Path: "/x/y/{b}", Effect: action.Write})
		}, "could be both"},
		{"name_with_two_effects", operation(func(o *connector.Operation) { o.Name, o.Path = "iam.user.delete", "/x/{user}" }), "another effect"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := spec()
			tt.change(s)
			_, err := connector.NewSet(map[string]*connector.Spec{"iam": s})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want an error with %q", err, tt.want)
			}
		})
	}
	two := spec()
	for i := range two.Operations {
		two.Operations[i].Name = strings.Replace(two.Operations[i].Name, "iam.", "iam2.", 1)
	}
	if _, err := connector.NewSet(map[string]*connector.Spec{"iam": spec(), "iam2": two}); err == nil || !strings.Contains(err.Error(), "also claimed by iam") {
		t.Errorf("two connectors for one origin: got %v", err)
	}
}

func origin(u string) func(*connector.Spec) {
	return func(s *connector.Spec) { s.Stages[action.Production].Origins[0].URL = u }
}

func operation(change func(*connector.Operation)) func(*connector.Spec) {
	return func(s *connector.Spec) {
		o := connector.Operation{Name: "iam.extra", Method: "POST", Path: "/extra", Effect: action.Write}
		change(&o)
		s.Operations = append(s.Operations, o)
	}
}

// FuzzRecognize: nothing panics, an answer is either one declared operation or
// unmatched, and a recognised form says again what was sent.
func FuzzRecognize(f *testing.F) {
	f.Add("POST", "/users/jo", "", form, []byte("_csrf=x&name=a"))
	f.Add("GET", "/users/%6a", "a=b", "", []byte(nil))
	f.Add("POST", "/api/groups/g/members", "", js, []byte(`{"user":"jo"}`))
	f.Add("POST", "/api/groups/g/members", "", js, []byte(`{"user":"jo","days":3,"notify":true}`))
	f.Add("POST", "/open", "", js, []byte(`{"user":"jo","u\u017fer":"ana"}`))
	f.Add("GET", "/users/jo/", "", "", []byte(nil))
	set := newSet(f)
	var names []string
	for _, o := range spec().Operations {
		names = append(names, o.Name)
	}
	names = append(names, "iam.read", "iam.asset", "iam.preflight")
	f.Fuzz(func(t *testing.T, method, path, query, typ string, body []byte) {
		r := action.Request{Method: method, Origin: here, Path: path, Query: query, BodyType: typ, BodySize: int64(len(body)), BodyDigest: canon.Digest(body)}
		m, err := set.Recognize(action.Production, r, body)
		if err != nil {
			t.Fatal(err)
		}
		if m.Matched != slices.Contains(names, m.Operation) || !m.Matched && m.Operation != connector.Unmatched {
			t.Fatalf("got %+v", m)
		}
		if !m.Matched && m.Effect == action.Read && method != "GET" && method != "HEAD" {
			t.Fatalf("%s counts as a read: %+v", method, m)
		}
		if m.Operation == "iam.user.rename" {
			vs, err := url.ParseQuery(string(body))
			if err != nil || !slices.Equal(vs["name"], []string{m.Params["name"]}) || bytes.ContainsRune(body, ';') {
				t.Fatalf("net/url reads %v (%v), connector %q", vs, err, m.Params["name"])
			}
		}
		if m.Operation == "iam.open" {
			var v struct{ User any }
			if err := json.Unmarshal(body, &v); err != nil || v.User != m.Params["user"] {
				t.Fatalf("encoding/json reads %v (%v), connector %v", v, err, m.Params)
			}
		}
		if m.Operation == "iam.group.add" {
			var v struct{ User, Days any } // found by any case, and the last one of a name
			if err := json.Unmarshal(body, &v); err != nil || v.User != m.Params["user"] || (v.Days != nil) != (m.Params["days"] != "") {
				t.Fatalf("encoding/json reads %v (%v), connector %v", v, err, m.Params)
			}
		}
	})
}
