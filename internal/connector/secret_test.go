package connector_test

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/url"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/connector"
)

// secretSpec has one operation for each type of body. With read the same fields
// are parameters, so that the reader of requests says what an origin would read.
func secretSpec(read bool) *connector.Spec {
	secret := func(name string) connector.Field {
		if read {
			return connector.Field{Param: name}
		}
		return connector.Field{Secret: "api-token"}
	}
	fields := map[string]connector.Field{"user": {Param: "user"}, "token": secret("token"), "again": secret("again"), "_csrf": {Ignored: true, Optional: true}}
	op := func(b connector.BodyType) connector.Operation {
		return connector.Operation{Name: "iam.token." + string(b), Method: "POST", Path: "/" + string(b), Effect: action.Privileged, Body: &connector.Body{Type: b, Fields: fields}}
	}
	return &connector.Spec{Stages: map[action.Stage]connector.Stage{action.Production: {Origins: []connector.Origin{{Name: "main", URL: here}}}},
		Operations: []connector.Operation{op(connector.BodyForm), op(connector.BodyJSON), op(connector.BodyMultipart)}}
}

// bodyWith spells the three fields as a browser does.
func bodyWith(t connector.BodyType, user, token, again string) (typ, body string) {
	switch t {
	case connector.BodyForm:
		return form, "_csrf=a%26b&token=" + url.QueryEscape(token) + "&user=" + url.QueryEscape(user) + "&again=" + url.QueryEscape(again)
	case connector.BodyJSON:
		q := func(s string) string { b, _ := json.Marshal(s); return string(b) }
		return js, `{ "user":` + q(user) + `, "again" : ` + q(again) + `,"token":` + q(token) + "}"
	}
	var b strings.Builder
	for _, f := range [][2]string{{"again", again}, {"user", user}, {"token", token}} {
		fmt.Fprintf(&b, "--XyZ\r\nContent-Disposition: form-data; name=\"%s\"\r\n\r\n%s\r\n", f[0], f[1])
	}
	return "multipart/form-data; boundary=XyZ", b.String() + "--XyZ--\r\n"
}

var bodyTypes = []connector.BodyType{connector.BodyForm, connector.BodyJSON, connector.BodyMultipart}

func recognise(t testing.TB, spec *connector.Spec, kind connector.BodyType, typ, body string) connector.Match {
	t.Helper()
	set, err := connector.NewSet(map[string]*connector.Spec{"iam": spec})
	if err != nil {
		t.Fatal(err)
	}
	r, b := request("POST", "/"+string(kind), typ, body)
	m, err := set.Recognize(action.Production, r, b)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// fill puts the secret into the slots.
func fill(body string, slots []connector.Slot, secret string) (string, error) {
	var out strings.Builder
	at := 0
	for _, s := range slots {
		b, err := s.Encode(secret)
		if err != nil {
			return "", err
		}
		out.WriteString(body[at:s.Start] + string(b))
		at = s.End
	}
	return out.String() + body[at:], nil
}

// TestSecretIsReadBack: whatever characters a secret has, what an origin reads in
// its fields is the secret, and in all others what was there before; or the type
// of body is said not to carry it.
//
// Threats: T45 (form)
func TestSecretIsReadBack(t *testing.T) {
	place := connector.Placeholder("api-token")
	for _, secret := range []string{"plain-Token_123", `quo"te'back\slash`, "a&b=c%41+d;e f#g", "line\nfeed\r\nand return\r", "tab\tand\x01\x7f controls",
		"übergrößé-日本語-🔑🔑", "</script><b>&amp;", "----------", "XyZ--XyZ-XyZ", "  blanks at both ends  ", "nul\x00nul-nul", "\xff\xfe not utf-8 \x80", "tiny", strings.Repeat("long", 4000),
		place, "\u2028\u2029\ufeff-separators", `{"json":"inside"}`, "Content-Disposition: form-data; name=\"user\"\r\n\r\nmallory"} {
		for _, kind := range bodyTypes {
			typ, body := bodyWith(kind, "jo & co", place, place)
			m := recognise(t, secretSpec(false), kind, typ, body)
			if !m.Matched || len(m.Secrets) != 2 || !maps.Equal(m.Params, map[string]string{"user": "jo & co"}) {
				t.Fatalf("%s: %+v", kind, m)
			}
			sent, err := fill(body, m.Secrets, secret)
			if cannot := connector.CheckSecret(kind, secret); (err == nil) != (cannot == nil) {
				t.Errorf("%s %q: filled %v, checked %v", kind, secret, err, cannot)
			}
			if err != nil {
				if strings.Contains(err.Error(), secret) {
					t.Errorf("%s: the error repeats the secret: %v", kind, err)
				}
				continue
			}
			got := recognise(t, secretSpec(true), kind, typ, sent)
			if want := map[string]string{"user": "jo & co", "token": secret, "again": secret}; !maps.Equal(got.Params, want) {
				t.Errorf("%s %q: an origin reads %q (%s)", kind, secret, got.Params, got.Code)
			}
		}
	}
}

// Which types carry what is fixed: a secret that was taken yesterday is taken
// tomorrow.
func TestCheckSecret(t *testing.T) {
	for secret, want := range map[string][3]bool{ // form, json, multipart
		"ordinary": {true, true, true}, "line\r\nend": {true, true, true}, "nul\x00byte": {false, true, false}, "not\xffutf8": {false, false, false},
		"two--dashes": {true, true, false}, "1234567": {false, false, false}, "12345678": {true, true, true},
	} {
		for i, kind := range bodyTypes {
			if err := connector.CheckSecret(kind, secret); (err == nil) != want[i] {
				t.Errorf("%s %q: %v", kind, secret, err)
			}
		}
	}
}

// TestPlaceholderSpelling: in its own field a placeholder has one spelling for
// each type of body. Another one of the same value is refused.
//
// Threats: T45 (form)
func TestPlaceholderSpelling(t *testing.T) {
	jsonBody := func(token string) string {
		return `{"user":"jo","again":"sallyport-secret:api-token","token":` + token + `}`
	}
	formBody := func(token string) string { return "user=jo&again=sallyport-secret:api-token&token=" + token }
	for _, tt := range []struct {
		kind connector.BodyType
		body string
		code string
	}{
		{connector.BodyForm, formBody("sallyport-secret:api-token"), ""}, // curl -d
		{connector.BodyForm, formBody("sallyport-secret%3Aapi-token"), ""},
		{connector.BodyForm, formBody("sallyport-secret%3aapi-token"), "placeholder_spelling"},
		{connector.BodyForm, formBody("%73allyport-secret%3Aapi-token"), "placeholder_spelling"},
		{connector.BodyForm, formBody("sallyport%2Dsecret:api-token"), "placeholder_spelling"},
		{connector.BodyForm, formBody("Sallyport-secret:api-token"), "field_value"},
		{connector.BodyForm, formBody("sallyport-secret:api-token+"), "field_value"},
		{connector.BodyForm, formBody("sallyport-secret:other"), "field_value"},
		{connector.BodyForm, formBody(""), "field_value"},
		{connector.BodyJSON, jsonBody(`"sallyport-secret:api-token"`), ""},
		{connector.BodyJSON, jsonBody(`"sallyport-secret\u003aapi-token"`), "placeholder_spelling"},
		{connector.BodyJSON, jsonBody(`"\u0073allyport-secret:api-token"`), "placeholder_spelling"},
		{connector.BodyJSON, jsonBody(`["sallyport-secret:api-token"]`), "field_type"},
		{connector.BodyJSON, jsonBody(`{"v":"sallyport-secret:api-token"}`), "field_type"},
		{connector.BodyJSON, jsonBody(`"SALLYPORT-SECRET:API-TOKEN"`), "field_value"},
	} {
		typ := map[connector.BodyType]string{connector.BodyForm: form, connector.BodyJSON: js}[tt.kind]
		m := recognise(t, secretSpec(false), tt.kind, typ, tt.body)
		if m.Code != tt.code || (tt.code == "") != (len(m.Secrets) == 2) {
			t.Errorf("%s: code %q, want %q; %d slots", tt.body, m.Code, tt.code, len(m.Secrets))
		}
	}
}

func TestSecretFieldsAreChecked(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*connector.Operation)
		want   string
	}{
		"query": {func(o *connector.Operation) {
			o.Query = &connector.Fields{Fields: map[string]connector.Field{"t": {Secret: "api-token"}}}
		}, "addresses are logged"},
		"name": {func(o *connector.Operation) { o.Body.Fields["token"] = connector.Field{Secret: "Api Token"} }, "credential source"},
		"file": {func(o *connector.Operation) {
			o.Body.Type = connector.BodyMultipart
			o.Body.Fields["token"] = connector.Field{Secret: "api-token", Type: connector.TypeFile}
		}, "a secret is a string"},
		"graphql": {func(o *connector.Operation) {
			o.Body.Type, o.Body.GraphQL = connector.BodyGraphQL, &connector.GraphQL{Type: connector.GraphQLMutation, Root: []string{"set"}}
		}, "more than one spelling"},
	} {
		spec := secretSpec(false)
		spec.Operations = spec.Operations[:1]
		spec.Operations[0].Body = &connector.Body{Type: spec.Operations[0].Body.Type, Fields: maps.Clone(spec.Operations[0].Body.Fields)}
		tt.change(&spec.Operations[0])
		if _, err := connector.NewSet(map[string]*connector.Spec{"iam": spec}); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%s: %v, want %q", name, err, tt.want)
		}
	}
}

// FuzzSecret: for any secret, in any body that is recognised, the origin reads
// the secret and nothing else differently.
func FuzzSecret(f *testing.F) {
	f.Add("jo", "secret\r\n--XyZ\"&%")
	f.Fuzz(func(t *testing.T, user, secret string) {
		place := connector.Placeholder("api-token")
		for _, kind := range bodyTypes {
			typ, body := bodyWith(kind, user, place, place)
			m := recognise(t, secretSpec(false), kind, typ, body)
			if !m.Matched {
				continue
			}
			sent, err := fill(body, m.Secrets, secret)
			if err != nil {
				continue
			}
			got := recognise(t, secretSpec(true), kind, typ, sent)
			if want := map[string]string{"user": m.Params["user"], "token": secret, "again": secret}; !maps.Equal(got.Params, want) {
				t.Errorf("%s: read %q, want %q (%s)", kind, got.Params, want, got.Code)
			}
		}
	})
}
