package connector

import "strings"

// mediaType reads a Content-Type in the one spelling that all servers read
// alike: type/subtype, then parameters as ";name=value" with a token or a plain
// quoted string. Comments, extended parameters (RFC 2231 "charset*="), escapes in
// quoted strings, a parameter given twice and a list of types are refused.
func mediaType(s string) (media string, params map[string]string, ok bool) {
	media, rest, more := strings.Cut(s, ";")
	media = strings.ToLower(strings.TrimRight(media, " "))
	kind, sub, slash := strings.Cut(media, "/")
	if !slash || !isToken(kind) || !isToken(sub) {
		return "", nil, false
	}
	params = map[string]string{}
	for more {
		var p string
		p, rest, more = strings.Cut(rest, ";") // a quoted ";" is refused below: the quote is not closed
		name, value, eq := strings.Cut(strings.Trim(p, " "), "=")
		name = strings.ToLower(name)
		if quoted, is := strings.CutPrefix(value, `"`); is {
			value, is = strings.CutSuffix(quoted, `"`)
			if !is || value == "" || strings.Trim(value, tokenBytes) != "" {
				return "", nil, false // what needs quotes is not needed here
			}
		}
		if _, twice := params[name]; !eq || twice || !isToken(name) || !isToken(value) || strings.Contains(name, "*") {
			return "", nil, false
		}
		params[name] = value
	}
	return media, params, true
}

// tokenBytes are those of RFC 9110 section 5.6.2 without the ones that some
// readers treat specially in a media type.
const tokenBytes = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789!#$&*+-.^_"

func isToken(s string) bool { return s != "" && strings.Trim(s, tokenBytes) == "" }

// inUTF8 reports whether the parameters are none, or charset=utf-8.
func inUTF8(params map[string]string) bool {
	c, ok := params["charset"]
	return len(params) == 0 || len(params) == 1 && ok && strings.EqualFold(c, "utf-8")
}
