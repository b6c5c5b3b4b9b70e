package urls

import (
	"net/url"
	"strings"
	"testing"
)

// reading is one reader's understanding of an address.
type reading struct {
	Scheme, Host, Port, Path, Query string // Port is "" for the default one; Query has no question mark
}

// readDecided is the reading of the door: an origin as it is recorded, and a
// path and query as they are sent.
func readDecided(origin, path, query string) reading {
	r := reading{Path: path, Query: query}
	scheme, host, _ := strings.Cut(origin, "://")
	r.Scheme, r.Host = scheme, host
	if i := strings.LastIndexByte(host, ':'); i > strings.LastIndexByte(host, ']') {
		r.Host, r.Port = host[:i], host[i+1:]
	}
	return r
}

// differ names the first thing on which browser and door disagree, or "". A
// host's one trailing dot is the same host (RFC 1034 section 3.1), and an empty
// query is none; both are said in the door's package comment. When the browser
// itself has sent the request, the query's spelling counts, and http may have
// become https: names on its preload list (RFC 6797 section 12.3), like all
// under "app", are asked for that way.
func differ(browser, door reading, sent bool) string {
	upgraded := sent && browser.Scheme == "http" && door.Scheme == "https" && browser.Port == "" && door.Port == ""
	switch {
	case browser.Scheme != door.Scheme && !upgraded:
		return "scheme"
	case strings.TrimSuffix(browser.Host, ".") != door.Host:
		return "host"
	case browser.Port != door.Port:
		return "port"
	case browser.Path != door.Path:
		return "path"
	case browser.Query != door.Query && (sent || unescaped(browser.Query) != unescaped(door.Query)):
		return "query"
	}
	return ""
}

func unescaped(q string) string {
	u, err := url.PathUnescape(q)
	if err != nil {
		return q
	}
	return u
}

// TestComparer plants disagreements: a comparer that misses one proves nothing.
func TestComparer(t *testing.T) {
	same := reading{"https", "a.test", "8443", "/a/b", "c=d"}
	for name, tc := range map[string]struct {
		origin, path, query string
		want                string
	}{
		"same":              {"https://a.test:8443", "/a/b", "c=d", ""},
		"scheme":            {"http://a.test:8443", "/a/b", "c=d", "scheme"},
		"host":              {"https://evil.test:8443", "/a/b", "c=d", "host"},
		"host_case":         {"https://A.test:8443", "/a/b", "c=d", "host"},
		"host_suffix":       {"https://a.test.evil:8443", "/a/b", "c=d", "host"},
		"two_trailing_dots": {"https://a.test.:8443", "/a/b", "c=d", "host"},
		"address_spelling":  {"https://2130706433:8443", "/a/b", "c=d", "host"},
		"port":              {"https://a.test", "/a/b", "c=d", "port"},
		"path":              {"https://a.test:8443", "/a/../b", "c=d", "path"},
		"path_encoded":      {"https://a.test:8443", "/a/%62", "c=d", "path"},
		"path_slash":        {"https://a.test:8443", "/a/b/", "c=d", "path"},
		"query":             {"https://a.test:8443", "/a/b", "c=e", "query"},
		"query_missing":     {"https://a.test:8443", "/a/b", "", "query"},
	} {
		if got := differ(same, readDecided(tc.origin, tc.path, tc.query), true); got != tc.want {
			t.Errorf("%s: got %q, want %q", name, got, tc.want)
		}
	}
	six := reading{"http", "[::1]", "", "/", ""}
	if got := differ(six, readDecided("http://[::1]", "/", ""), true); got != "" {
		t.Errorf("got %q", got)
	}
	if got := differ(six, readDecided("http://[::1]:81", "/", ""), true); got != "port" {
		t.Errorf("got %q", got)
	}
	quoted, raw := reading{"http", "a.test", "", "/", "%22"}, readDecided("http://a.test", "/", `"`)
	if got := differ(quoted, raw, true); got != "query" {
		t.Errorf("got %q", got)
	}
	if got := differ(quoted, raw, false); got != "" {
		t.Errorf("got %q", got)
	}
	plain, secure := reading{"http", "app", "", "/", ""}, readDecided("https://app", "/", "")
	if got := differ(plain, secure, true); got != "" {
		t.Errorf("got %q", got)
	}
	for _, got := range []string{differ(plain, secure, false), differ(reading{"https", "app", "", "/", ""}, readDecided("http://app", "/", ""), true),
		differ(reading{"http", "app", "81", "/", ""}, readDecided("https://app:81", "/", ""), true)} {
		if got != "scheme" {
			t.Errorf("got %q, want scheme", got)
		}
	}
	dot := reading{"http", "a.test.", "", "/", ""}
	if got := differ(dot, readDecided("http://a.test", "/", ""), true); got != "" {
		t.Errorf("got %q", got)
	}
}
