package connector

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"
	"unicode"
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
	text       string
	typ        FieldType // "" for what no field can accept
	file       *part     // of TypeFile; text is the digest of its bytes
	start, end int       // of the spelling of a string in the body; 0, 0 where nobody asks
}

// similar is the name under which servers that forgive could find a field: PHP
// and Rails read "user[]" as user and turn blanks and dots into underscores;
// Spring takes "!user" for the default of user; others do not mind case, and Go's
// encoding/json folds as Unicode does, so that "u\u017fer" is user.
func similar(name string) string {
	name, _, _ = strings.Cut(strings.TrimLeft(strings.Map(foldRune, strings.TrimSpace(name)), "!"), "[")
	return strings.NewReplacer(" ", "_", ".", "_", "-", "_").Replace(name)
}

// foldRune is one of the runes that are the same without case (Unicode simple
// folding), the same one for all of them.
func foldRune(r rune) rune {
	least := r
	for next := unicode.SimpleFold(r); next != r; next = unicode.SimpleFold(next) {
		least = min(least, next)
	}
	return unicode.ToLower(least)
}

// overrides are names that some frameworks read as another method.
func overrides(name string) bool {
	switch strings.Trim(similar(name), "_") {
	case "http_method", "httpmethod", "x_http_method", "x_http_method_override", "x_method_override", "method_override":
		return true
	case "method":
		return strings.HasPrefix(similar(name), "_")
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
	end := -1
	for _, p := range parts {
		end += 1 + len(p)
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
		out[name] = value{text: text, typ: TypeString, start: end - len(v), end: end}
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
func readBody(b Body, contentType string, body []byte) (map[string]value, *refusal) {
	if b.Type == BodyNone {
		if len(body) > 0 {
			return nil, refuse("unexpected_body", "the operation has no body")
		}
		return map[string]value{}, nil
	}
	media, params, ok := mediaType(contentType)
	if !ok {
		return nil, refuse("content_type", "the content type cannot be read")
	}
	wantJSON := b.Media
	if wantJSON == "" {
		wantJSON = "application/json"
	}
	switch {
	case b.Type == BodyForm && media == "application/x-www-form-urlencoded":
	case b.Type == BodyJSON && media == wantJSON:
	case b.Type == BodyMultipart && media == "multipart/form-data" && len(params) == 1 && params["boundary"] != "":
		return readMultipart(params["boundary"], body)
	default:
		return nil, refuse("content_type", "the body is of another type than the operation's")
	}
	if !inUTF8(params) {
		return nil, refuse("charset", "the content type has a parameter other than charset=utf-8")
	}
	if len(body) > maxBody {
		return nil, refuse("body_too_large", "the body is larger than is read")
	}
	if b.Type == BodyForm {
		return readPairs(string(body))
	}
	members, ref := decodeObject(body)
	if ref != nil {
		return nil, ref
	}
	out := map[string]value{}
	for k, m := range members {
		out[k] = scalar(m)
	}
	if b.takesSecret() {
		placeMembers(out, body)
	}
	return out, nil
}

// placeMembers says where in the body each member is that is a string. The body
// is one strict object with no name twice.
func placeMembers(out map[string]value, body []byte) {
	d := json.NewDecoder(bytes.NewReader(body))
	d.Token() // {
	for d.More() {
		name, _ := d.Token()
		var raw json.RawMessage
		if d.Decode(&raw) != nil {
			return
		}
		if v := out[name.(string)]; v.typ == TypeString {
			v.end = int(d.InputOffset())
			v.start = v.end - len(raw)
			out[name.(string)] = v
		}
	}
}

func readMultipart(boundary string, body []byte) (map[string]value, *refusal) {
	parts, ref := readParts(boundary, body)
	if ref != nil {
		return nil, ref
	}
	out := map[string]value{}
	for i, p := range parts {
		if _, dup := out[p.name]; dup {
			return nil, refuse("duplicate_field", "a form field is given twice")
		}
		out[p.name] = value{text: string(p.data), typ: TypeString, start: p.at, end: p.at + len(p.data)}
		if p.file {
			out[p.name] = value{text: string(canon.Digest(p.data)), typ: TypeFile, file: &parts[i]}
		}
	}
	return out, nil
}

// decodeObject reads one strict JSON object.
func decodeObject(body []byte) (map[string]any, *refusal) {
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
	return members, nil
}

// scalar gives a JSON value its type. What is not a scalar has none, and
// neither has an integer in other than its one plain spelling.
func scalar(m any) value {
	switch m := m.(type) {
	case string:
		return value{text: m, typ: TypeString}
	case bool:
		return value{text: strconv.FormatBool(m), typ: TypeBoolean}
	case json.Number:
		i, err := strconv.ParseInt(m.String(), 10, 64)
		if err == nil && i <= 1<<53 && i >= -(1<<53) && strconv.FormatInt(i, 10) == m.String() {
			return value{text: m.String(), typ: TypeInteger}
		}
	}
	return value{}
}

// taken is what the fields of a request say.
type taken struct {
	params   map[string]string
	secrets  []Slot
	override string // the method that a declared field asks for
}

// take matches the fields that are there against those that may be.
func (t *taken) take(want Fields, got map[string]value) *refusal {
	for name, v := range got {
		f, known := want.Fields[name]
		switch {
		case overrides(name) && (!known || f.Const == nil):
			return refuse("method_override", "a field would change the method")
		case similar(name) == "_charset_" && !strings.EqualFold(v.text, "utf-8"):
			return refuse("charset", "a field would change the encoding of the others")
		case known:
		case !want.AllowExtra:
			return refuse("unknown_field", "a field is not part of the operation")
		case looksDeclared(name, want.Fields):
			return refuse("similar_field", "a field has nearly the name of one of the operation")
		default:
			continue
		}
		if ref := t.one(name, f, v); ref != nil {
			return ref
		}
	}
	for name, f := range want.Fields {
		if _, ok := got[name]; !ok && !f.Optional {
			return refuse("missing_field", "a field of the operation is missing")
		}
	}
	return nil
}

// looksDeclared reports an extra field that a server could take for a declared one.
func looksDeclared(name string, fields map[string]Field) bool {
	if strings.IndexFunc(name, func(r rune) bool { return unicode.In(r, unicode.Cc, unicode.Cf) }) >= 0 {
		return true // some readers end a name at NUL, or drop what does not show
	}
	for declared := range fields {
		if similar(declared) == similar(name) {
			return true
		}
	}
	return false
}

func (t *taken) one(name string, f Field, v value) *refusal {
	typ := f.Type
	if typ == "" {
		typ = TypeString
	}
	switch {
	case (typ == TypeFile) != (v.typ == TypeFile), v.typ != typ && !f.Ignored:
		return refuse("field_type", "a field has another type than the operation's")
	case f.Ignored:
	case f.Const != nil && v.text != *f.Const:
		return refuse("field_value", "a field has another value than the operation's")
	case f.Secret != "" && v.text != Placeholder(f.Secret):
		return refuse("field_value", "a field does not carry the placeholder of its secret")
	case f.Secret != "":
		t.secrets = append(t.secrets, Slot{Secret: f.Secret, Field: name, Start: v.start, End: v.end})
	case f.Param != "":
		t.params[f.Param] = v.text
		if v.file != nil {
			t.params[f.Param+"Name"] = v.file.filename
			t.params[f.Param+"Size"] = strconv.Itoa(len(v.file.data))
			t.params[f.Param+"Type"] = v.file.media
		}
	case overrides(name):
		t.override = v.text
	}
	return nil
}
