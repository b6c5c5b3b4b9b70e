package egress

import (
	"strconv"
	"strings"
)

func (w *wire) requestLine(l string) (method, code string) {
	method, rest, ok1 := strings.Cut(l, " ")
	uri, version, ok2 := strings.Cut(rest, " ")
	if !ok1 || !ok2 || uri == "" {
		return "", "request_line"
	}
	if version != "HTTP/1.1" && (version != "HTTP/1.0" || method != "CONNECT") {
		return "", "version"
	}
	if code := checkMethod(method); code != "" {
		return "", code
	}
	for i := range len(uri) {
		if uri[i] <= ' ' || uri[i] >= 0x7f {
			return "", "target_bytes"
		}
	}
	// net/http would answer this by itself, and nothing would be recorded.
	path, _, _ := strings.Cut(uri, "?")
	if _, _, broken := unescape(path); broken && method != "CONNECT" {
		return "", "target_escape"
	}
	return method, ""
}

// sameHost compares the request target with the Host field and, in a tunnel,
// with the host the tunnel was opened for.
func (w *wire) sameHost(line, host string) string {
	method, uri, _ := strings.Cut(line, " ")
	uri, _, _ = strings.Cut(uri, " ")
	want, scheme := w.tunnel, w.tunnel.scheme
	switch {
	case !w.forward:
		if method == "CONNECT" || uri[0] != '/' {
			return "target_form"
		}
	case method == "CONNECT":
		var code string
		scheme = "https"
		if want, code = parseTarget(scheme, uri); code != "" {
			return code
		}
		if !strings.Contains(uri[strings.LastIndexByte(uri, ']')+1:], ":") {
			return "port" // RFC 9110 section 9.3.6: CONNECT always names a port
		}
	default:
		var code string
		scheme = "http"
		if want, _, code = splitAbsolute(uri); code != "" {
			return code
		}
	}
	got, code := parseTarget(scheme, host)
	if code != "" {
		return code
	}
	// Some clients leave the port out of the Host of a CONNECT.
	if method == "CONNECT" && !strings.Contains(host, ":") {
		got.port = want.port
	}
	if got != want {
		return "host_mismatch"
	}
	return ""
}

// splitAbsolute reads the absolute-form target of a proxied http request.
func splitAbsolute(uri string) (target, string, string) {
	rest, ok := strings.CutPrefix(uri, "http://")
	if !ok {
		if strings.HasPrefix(uri, "/") {
			return target{}, "", "target_form"
		}
		return target{}, "", "scheme"
	}
	cut := strings.IndexAny(rest, "/?#")
	if cut < 0 {
		cut = len(rest)
	}
	t, code := parseTarget("http", rest[:cut])
	path := rest[cut:]
	if !strings.HasPrefix(path, "/") {
		path = "/" + path
	}
	return t, path, code
}

func checkMethod(m string) string {
	if m == "" || len(m) > 24 {
		return "method"
	}
	for i := range len(m) {
		if (m[i] < 'A' || m[i] > 'Z') && m[i] != '-' {
			return "method"
		}
	}
	if m == "TRACE" || m == "TRACK" {
		return "method" // they exist to reflect the request, credentials included
	}
	return ""
}

// framing is what decides where a message ends and whom it is for.
type framing struct {
	host    string
	hosts   int
	length  int64
	chunked bool
	upgrade bool
}

func readFraming(lines []string) (framing, string) {
	f := framing{length: -1}
	if len(lines) > maxFields {
		return f, "too_many_fields"
	}
	for _, l := range lines {
		if code := checkField(l); code != "" {
			return f, code
		}
		name, value, _ := strings.Cut(l, ":")
		value = strings.Trim(value, " \t")
		switch strings.ToLower(name) {
		case "host":
			f.host = value
			f.hosts++
		case "content-length":
			if f.length >= 0 {
				return f, "content_length_twice"
			}
			n, err := strconv.ParseUint(value, 10, 62)
			if err != nil || strings.Trim(value, "0123456789") != "" {
				return f, "content_length"
			}
			f.length = int64(n)
		case "transfer-encoding":
			if f.chunked || !strings.EqualFold(value, "chunked") {
				return f, "transfer_encoding"
			}
			f.chunked = true
		case "upgrade":
			f.upgrade = true
		case "expect": // RFC 9110 section 10.1.1; net/http would answer others by itself
			if !strings.EqualFold(value, "100-continue") {
				return f, "expect"
			}
		}
	}
	if f.chunked && f.length >= 0 {
		return f, "length_and_chunked"
	}
	return f, ""
}

// checkField accepts "token:value" on one line.
func checkField(l string) string {
	if l == "" || l[0] == ' ' || l[0] == '\t' {
		return "folded_field"
	}
	name, value, ok := strings.Cut(l, ":")
	if !ok || !isToken(name) {
		return "field_name"
	}
	if !isFieldValue(value) {
		return "field_value"
	}
	return ""
}

func isToken(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c <= ' ' || c >= 0x7f || strings.IndexByte("\"(),/:;<=>?@[\\]{}", c) >= 0 {
			return false
		}
	}
	return s != ""
}

// isFieldValue accepts visible ASCII, spaces and tabs. Other bytes are legal in
// HTTP and have no agreed reading.
func isFieldValue(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < ' ' && c != '\t') || c >= 0x7f {
			return false
		}
	}
	return true
}
