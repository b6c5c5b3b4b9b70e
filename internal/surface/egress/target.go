package egress

import (
	"net/netip"
	"strconv"
	"strings"
)

// target is one normalised scheme, host and port.
type target struct {
	scheme string // "http" or "https"
	host   string // lower case, no trailing dot; IPv6 without brackets
	port   uint16
	ip     netip.Addr // valid if host is an address
}

// origin is scheme://host[:port] with the default port left out.
func (t target) origin() string { return t.scheme + "://" + t.authority() }

// authority is host[:port] with the default port left out.
func (t target) authority() string {
	h := t.host
	if t.ip.Is6() {
		h = "[" + h + "]"
	}
	if t.port == defaultPort(t.scheme) {
		return h
	}
	return h + ":" + strconv.Itoa(int(t.port))
}

func defaultPort(scheme string) uint16 {
	if scheme == "https" {
		return 443
	}
	return 80
}

// parseTarget reads host[:port] as one spelling of one host, or returns a code.
// Refused are all spellings that another reader could take for another host:
// user information, percent signs, anything but ASCII letters, digits, dots,
// hyphens and underscores, and numbers that WHATWG URL 3.5 would read as IPv4.
func parseTarget(scheme, s string) (target, string) {
	t := target{scheme: scheme, port: defaultPort(scheme)}
	if scheme != "http" && scheme != "https" {
		return t, "scheme"
	}
	host, port, ok := splitAuthority(s)
	if !ok || strings.ContainsAny(s, "@\\/?#%") {
		return t, "host"
	}
	if port != "" {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 || port[0] == '0' || port[0] == '+' {
			return t, "port"
		}
		t.port = uint16(n)
	}
	if strings.HasPrefix(host, "[") {
		ip, err := netip.ParseAddr(host[1 : len(host)-1])
		// A zone names an interface of ours; an IPv4-mapped address is a
		// second spelling of an IPv4 one.
		if err != nil || !ip.Is6() || ip.Zone() != "" || ip.Is4In6() {
			return t, "host_address"
		}
		t.host, t.ip = ip.String(), ip
		return t, ""
	}
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	if !validName(host) {
		return t, "host"
	}
	if looksNumeric(host) {
		ip, err := netip.ParseAddr(host)
		if err != nil || !ip.Is4() || ip.String() != host {
			return t, "host_address"
		}
		t.ip = ip
	}
	t.host = host
	return t, ""
}

// splitAuthority splits host[:port] without deciding anything about the host
// except its brackets.
func splitAuthority(s string) (host, port string, ok bool) {
	if strings.HasPrefix(s, "[") {
		end := strings.IndexByte(s, ']')
		if end < 0 {
			return "", "", false
		}
		host, s = s[:end+1], s[end+1:]
		if s == "" {
			return host, "", true
		}
		return host, s[1:], s[0] == ':' && len(s) > 1
	}
	host, port, found := strings.Cut(s, ":")
	return host, port, !found || port != ""
}

func validName(h string) bool {
	if h == "" || len(h) > 253 {
		return false
	}
	for label := range strings.SplitSeq(h, ".") {
		if label == "" || len(label) > 63 || label[0] == '-' || label[len(label)-1] == '-' {
			return false
		}
		for i := range len(label) {
			c := label[i]
			if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' && c != '_' {
				return false
			}
		}
	}
	return true
}

// looksNumeric reports whether the last label is a number, decimal, octal or
// hexadecimal: URL parsers then take the whole host for an IPv4 address.
func looksNumeric(h string) bool {
	last := h[strings.LastIndexByte(h, '.')+1:]
	if rest, ok := strings.CutPrefix(last, "0x"); ok {
		return strings.Trim(rest, "0123456789abcdef") == ""
	}
	return strings.Trim(last, "0123456789") == ""
}

// splitPath splits an origin-form request target at its first question mark, or
// returns a code. Bytes are kept as sent; only visible ASCII is accepted.
func splitPath(s string) (path, query, code string) {
	if !strings.HasPrefix(s, "/") {
		return "", "", "target_form"
	}
	for i := range len(s) {
		if s[i] <= ' ' || s[i] >= 0x7f || s[i] == '#' || s[i] == '\\' {
			return "", "", "target_bytes"
		}
	}
	path, query, _ = strings.Cut(s, "?")
	// "//host" in this place is an authority for some readers.
	if strings.HasPrefix(path, "//") {
		return "", "", "path_ambiguous"
	}
	return path, query, ""
}

// ambiguous reports whether an origin server may route path to another resource
// than its bytes say: dot segments in any spelling, empty segments, encoded
// separators or NUL, double encoding of those, and broken escapes.
func ambiguous(path string) bool {
	for depth := range 4 {
		if suspicious(path) {
			return true
		}
		decoded, escapes, broken := unescape(path)
		if depth == 0 && broken || strings.Count(decoded, "/") != strings.Count(path, "/") {
			return true
		}
		if escapes == 0 {
			return false
		}
		path = decoded
	}
	return true // still encoded after four layers
}

func suspicious(p string) bool {
	if strings.ContainsAny(p, "\\\x00") || strings.Contains(p, "//") {
		return true
	}
	for seg := range strings.SplitSeq(p, "/") {
		// "..;x" is a dot segment for servers that cut path parameters.
		name, _, _ := strings.Cut(seg, ";")
		if name == "." || name == ".." {
			return true
		}
	}
	return false
}

// unescape decodes one layer of percent escapes and leaves broken ones alone.
func unescape(s string) (out string, escapes int, broken bool) {
	if !strings.Contains(s, "%") {
		return s, 0, false
	}
	b := make([]byte, 0, len(s))
	for i := 0; i < len(s); i++ {
		if s[i] == '%' {
			if i+2 < len(s) && isHex(s[i+1]) && isHex(s[i+2]) {
				b = append(b, unhex(s[i+1])<<4|unhex(s[i+2]))
				escapes++
				i += 2
				continue
			}
			broken = true
		}
		b = append(b, s[i])
	}
	return string(b), escapes, broken
}

func isHex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

func unhex(c byte) byte {
	switch {
	case c >= 'a':
		return c - 'a' + 10
	case c >= 'A':
		return c - 'A' + 10
	}
	return c - '0'
}
