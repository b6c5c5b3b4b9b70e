package egress

import (
	"bytes"
	"encoding/json"
	"io"
	"mime"
	"mime/multipart"
	"net/url"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/action"
)

// methodField reports the fields by which frameworks (Rails, Laravel, Symfony,
// Express, ASP.NET) let a POST be another method. "_method[]" and "_method[x]"
// are the same field for some servers.
func methodField(name string) bool {
	name, _, _ = strings.Cut(strings.ToLower(strings.TrimSpace(name)), "[")
	switch strings.NewReplacer("-", "_", ".", "_", " ", "_").Replace(name) {
	case "_method", "_http_method", "http_method_override", "x_http_method", "x_http_method_override", "x_method_override":
		return true
	}
	return false
}

// Doubt is the code under which a request has no canonical form because of what
// its connector read, or did not read, in it; "" if it has one.
func Doubt(req action.Request, rec Recognized, body []byte) string {
	return checkOverride(req.Query, req.BodyType, body, rec.Override)
}

// checkOverride refuses a field of that kind that the connector did not read.
func checkOverride(query, bodyType string, body []byte, want string) string {
	for _, v := range overrideValues(query, bodyType, body) {
		if want == "" || !strings.EqualFold(v, want) {
			return "method_override"
		}
	}
	return ""
}

// overrideValues finds the values of all such fields. What cannot be read
// counts as a field with no value, which matches nothing.
func overrideValues(query, bodyType string, body []byte) []string {
	found := formValues(query)
	mt, params, err := mime.ParseMediaType(bodyType)
	if err != nil {
		mt = ""
	}
	switch {
	case len(body) == 0:
	case mt == "application/x-www-form-urlencoded":
		found = append(found, formValues(string(body))...)
	case mt == "multipart/form-data":
		found = append(found, multipartValues(body, params["boundary"])...)
	case strings.HasSuffix(mt, "json"):
		var top map[string]json.RawMessage
		if json.Unmarshal(body, &top) == nil {
			for k, v := range top {
				if methodField(k) {
					var s string
					json.Unmarshal(v, &s)
					found = append(found, s)
				}
			}
		}
	}
	return found
}

func formValues(s string) []string {
	var found []string
	// Some servers split at semicolons too.
	for pair := range strings.FieldsFuncSeq(s, func(r rune) bool { return r == '&' || r == ';' }) {
		k, v, _ := strings.Cut(pair, "=")
		name, err := url.QueryUnescape(k)
		if err != nil {
			name = k
		}
		if methodField(name) {
			value, err := url.QueryUnescape(v)
			if err != nil {
				value = ""
			}
			found = append(found, value)
		}
	}
	return found
}

func multipartValues(body []byte, boundary string) []string {
	if !bytes.Contains(bytes.ToLower(body), []byte("method")) {
		return nil
	}
	if boundary == "" {
		return []string{""}
	}
	var found []string
	m := multipart.NewReader(bytes.NewReader(body), boundary)
	for {
		part, err := m.NextRawPart()
		if err == io.EOF {
			return found
		}
		if err != nil {
			return append(found, "")
		}
		if methodField(part.FormName()) {
			v, err := io.ReadAll(io.LimitReader(part, 64))
			if err != nil {
				v = nil
			}
			found = append(found, string(v))
		}
	}
}
