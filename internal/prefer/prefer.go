// Package prefer reads the header Prefer (RFC 7240) as far as a caller says with
// it how long it can wait for people: wait=N, in seconds (section 4.3). What else
// stands in it is not ours and stays as it is. What cannot be read is no
// preference, as the RFC has it; Preference-Applied says what was understood.
package prefer

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// Longest is the longest wait that is told apart from a longer one.
const Longest = 24 * time.Hour

// RetryAfter is what a caller is told in Retry-After when it did not wait: to
// ask again costs nobody anything, and people take longer.
const RetryAfter = "5"

// Wait returns how long a caller can wait, and whether it said so. The first
// preference counts (section 2).
func Wait(h http.Header) (time.Duration, bool) {
	for _, p := range split(h.Values("Prefer")) {
		if name, value := parse(p); name == "wait" {
			return seconds(value)
		}
	}
	return 0, false
}

// Applied is the value of Preference-Applied for a wait.
func Applied(d time.Duration) string { return "wait=" + strconv.Itoa(int(d/time.Second)) }

// Without takes the wait out of a header and leaves the rest.
func Without(h http.Header) {
	all := split(h.Values("Prefer"))
	var rest []string
	for _, p := range all {
		if name, _ := parse(p); name != "wait" {
			rest = append(rest, p)
		}
	}
	switch len(rest) {
	case len(all):
	case 0:
		h.Del("Prefer")
	default:
		h.Set("Prefer", strings.Join(rest, ", "))
	}
}

func seconds(value string) (time.Duration, bool) {
	if value == "" || strings.Trim(value, "0123456789") != "" {
		return 0, false
	}
	n, err := strconv.ParseInt(value, 10, 64)
	if err != nil || n > int64(Longest/time.Second) {
		return Longest, true
	}
	return time.Duration(n) * time.Second, true
}

// split cuts the lists at commas outside of quoted strings.
func split(values []string) (out []string) {
	add := func(p string) {
		if p = strings.Trim(p, " \t"); p != "" {
			out = append(out, p)
		}
	}
	for _, v := range values {
		start, quoted := 0, false
		for i := 0; i < len(v); i++ {
			switch {
			case v[i] == '"':
				quoted = !quoted
			case v[i] == '\\' && quoted:
				i++
			case v[i] == ',' && !quoted:
				add(v[start:i])
				start = i + 1
			}
		}
		add(v[start:])
	}
	return out
}

// parse is one preference without its parameters.
func parse(p string) (name, value string) {
	p, _, _ = strings.Cut(p, ";")
	name, value, _ = strings.Cut(p, "=")
	return strings.ToLower(strings.Trim(name, " \t")), strings.Trim(strings.Trim(value, " \t"), `"`)
}
