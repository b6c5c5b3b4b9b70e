package connector

import (
	"bytes"
	"encoding/json"
	"mime"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/sallyport-dev/sallyport/internal/canon"
)

// Limits of what is read. Larger requests are unmatched.
const (
	maxBody   = 1 << 20
	maxFields = 256
)

// refusal is why a request is not an operation: a stable code and a sentence
// that repeats nothing of the request.
type refusal struct{ code, why string }

func refuse(code, why string) *refusal { return &refusal{code, why} }

// value is one field as sent.
type value struct {
	text string
	typ  FieldType
}

// overrides are names that some frameworks read as another method.
func overrides(name string) bool {
	switch strings.ToLower(strings.Trim(name, "_")) {
	case "method", "http_method", "httpmethod", "x-http-method", "x-http-method-override", "x-method-override", "method_override":
		return strings.HasPrefix(name, "_") || strings.Contains(strings.ToLower(name), "http") || strings.Contains(strings.ToLower(name), "override")
	}
	return false
}

// readPairs reads application/x-www-form-urlencoded strictly, for a form or a
// query. A browser encodes everything else, so everything else is refused.
func readPairs(s string) (map[string]value, *refusal) {
	out := map[string]value{}
	if s == "" {
		return out, nil
	}
	parts := strings.Split(s, "&")
	if len(parts) > maxFields {
		return nil, refuse("too_many_fields", "the form has too many fields")
	}
	for _, p := range parts {
		k, v, ok := strings.Cut(p, "=")
		if !ok || k == "" {
			return nil, refuse("form_syntax", "a form field has no name or no value")
		}
		name, ok1 := decodeForm(k)
		text, ok2 := decodeForm(v)
		if !ok1 || !ok2 {
			return nil, refuse("form_encoding", "a form field is not encoded as a browser would")
		}
		if _, dup := out[name]; dup {
			return nil, refuse("duplicate_field", "a form field is given twice")
		}
		out[name] = value{text, TypeString}
	}
	return out, nil
}

// decodeForm decodes one name or value (WHATWG URL section 5.1).
func decodeForm(s string) (string, bool) {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		c := s[i]
		switch {
		case c == '+':
			c = ' '
		case c == '%':
			if i+2 >= len(s) || unhex(s[i+1]) > 15 || unhex(s[i+2]) > 15 {
				return "", false
			}
			c = unhex(s[i+1])<<4 | unhex(s[i+2])
			i += 2
			if c == 0 {
				return "", false
			}
		case c <= ' ' || c >= 0x7f || strings.IndexByte(`;"<>#`, c) >= 0:
			return "", false
		}
		b.WriteByte(c)
	}
	return b.String(), utf8.ValidString(b.String())
}

// readBody reads a body of the given type.
func readBody(t BodyType, contentType string, body []byte) (map[string]value, *refusal) {
	if t == BodyNone {
		if len(body) > 0 {
			return nil, refuse("unexpected_body", "the operation has no body")
		}
		return map[string]value{}, nil
	}
	if len(body) > maxBody {
		return nil, refuse("body_too_large", "the body is larger than is read")
	}
	media, params, err := mime.ParseMediaType(contentType)
	if err != nil {
		return nil, refuse("content_type", "the content type cannot be read")
	}
	for k, v := range params {
		if k != "charset" || !strings.EqualFold(v, "utf-8") {
			return nil, refuse("charset", "the content type has a parameter other than charset=utf-8")
		}
	}
	switch {
	case strings.HasPrefix(media, "multipart/"):
		return nil, refuse("multipart", "multipart bodies are not supported")
	case t == BodyForm && media == "application/x-www-form-urlencoded":
		return readPairs(string(body))
	case t == BodyJSON && media == "application/json":
		return readObject(body)
	}
	return nil, refuse("content_type", "the body is of another type than the operation's")
}

// readObject reads one JSON object. Members that are not scalars have no type,
// so that no field can accept them.
func readObject(body []byte) (map[string]value, *refusal) {
	if err := canon.Check(body, maxBody); err != nil {
		return nil, refuse("json", "the body is not one strict JSON document")
	}
	d := json.NewDecoder(bytes.NewReader(body))
	d.UseNumber()
	var members map[string]any
	if err := d.Decode(&members); err != nil || members == nil {
		return nil, refuse("json", "the body is not a JSON object")
	}
	if len(members) > maxFields {
		return nil, refuse("too_many_fields", "the body has too many members")
	}
	out := map[string]value{}
	for k, m := range members {
		switch m := m.(type) {
		case string:
			out[k] = value{m, TypeString}
		case bool:
			out[k] = value{strconv.FormatBool(m), TypeBoolean}
		case json.Number:
			out[k] = number(m)
		default:
			out[k] = value{}
		}
	}
	return out, nil
}

// number accepts integers in their one plain spelling.
func number(n json.Number) value {
	i, err := strconv.ParseInt(n.String(), 10, 64)
	if err != nil || i > 1<<53 || i < -(1<<53) || strconv.FormatInt(i, 10) != n.String() {
		return value{}
	}
	return value{n.String(), TypeInteger}
}

// take matches the fields that are there against those that may be, and adds
// the parameters.
func take(want map[string]Field, extra bool, got map[string]value, params map[string]string, secrets map[string]string) *refusal {
	for name, v := range got {
		f, known := want[name]
		if overrides(name) && (!known || f.Const == nil) {
			return refuse("method_override", "a field would change the method")
		}
		if !known {
			if extra {
				continue
			}
			return refuse("unknown_field", "a field is not part of the operation")
		}
		t := f.Type
		if t == "" {
			t = TypeString
		}
		switch {
		case f.Ignored:
		case v.typ != t:
			return refuse("field_type", "a field has another type than the operation's")
		case f.Const != nil && v.text != *f.Const:
			return refuse("field_value", "a field has another value than the operation's")
		case f.Secret != "" && v.text != Placeholder(f.Secret):
			return refuse("field_value", "a field does not carry the placeholder of its secret")
		case f.Secret != "":
			secrets[name] = f.Secret
		case f.Param != "":
			params[f.Param] = v.text
		}
	}
	for name, f := range want {
		if _, ok := got[name]; !ok && !f.Optional {
			return refuse("missing_field", "a field of the operation is missing")
		}
	}
	return nil
}
