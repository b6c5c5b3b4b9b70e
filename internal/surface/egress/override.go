package egress

import (
	"bytes"
	"encoding/json"
	"io"
	"mime"
	"mime/multipart"
	"net/url"
	"strings"
)

// methodField is the field by which frameworks (Rails, Laravel, Symfony) let a
// POST be another method.
const methodField = "_method"

// checkOverride refuses a "_method" field that the connector did not read.
func checkOverride(query, bodyType string, body []byte, want string) string {
	for _, v := range overrideValues(query, bodyType, body) {
		if want == "" || !strings.EqualFold(v, want) {
			return "method_override"
		}
	}
	return ""
}

// overrideValues finds the values of all "_method" fields. What cannot be read
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
				if strings.EqualFold(k, methodField) {
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
		// "_method[]" and "_method[x]" are the same field for some servers.
		name, _, _ = strings.Cut(name, "[")
		if strings.EqualFold(strings.TrimSpace(name), methodField) {
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
	if boundary == "" || !bytes.Contains(bytes.ToLower(body), []byte(methodField)) {
		return nil
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
		name, _, _ := strings.Cut(part.FormName(), "[")
		if strings.EqualFold(strings.TrimSpace(name), methodField) {
			v, err := io.ReadAll(io.LimitReader(part, 64))
			if err != nil {
				v = nil
			}
			found = append(found, string(v))
		}
	}
}
