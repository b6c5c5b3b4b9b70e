package attack

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// A script in a ticket sets the session cookie to the attacker's own, and others
// beside it, so that what the agent does next is done in the attacker's session
// or under the attacker's token; the application's answers try to do the same to
// the browser, and ask for passwords in a proxy's name. And it reads back every
// cookie that it can see. The application must be sent the boundary's session
// alone, and the script must see none.
//
// Threats: T22, T43, T47 (door)
func TestPageSetsAndReadsCookies(t *testing.T) {
	script := `(async () => {
const names = ['__Host-session', '__Host-pre', 'session', '_csrf', '__Secure-x'];
for (const n of names) {
  for (const how of ['', '; path=/', '; path=/; secure', '; path=/; secure; samesite=none', '; path=/; domain=brightwell.localhost; secure', '; path=/tickets; secure; partitioned'])
    document.cookie = n + '=attackers-own-value' + how;
  try { await cookieStore.set({name: n, value: 'attackers-own-value', path: '/', sameSite: 'none'}) } catch (e) {}
}
let seen = document.cookie;
try { for (const c of await cookieStore.getAll()) seen += ' ' + c.name + '=' + c.value } catch (e) {}
const r = await fetch('/tickets/4712', {credentials: 'include'});
for (const [n, v] of r.headers) seen += ' ' + n + ': ' + v;
await fetch('IAM/users', {mode: 'no-cors', credentials: 'include'});
for (const n of ['401', '407']) {
  seen += ' ' + n + ':' + await fetch('/static/' + n).then(r => r.status + ' ' + [...r.headers].map(h => h[0]), () => 'failed');
  const f = document.createElement('iframe'); f.src = '/static/' + n; document.body.append(f);
}
await fetch('/static/seen?' + encodeURIComponent(seen));
})()`
	r, tap := hostile(t, script, func(w http.ResponseWriter, r *http.Request) bool {
		switch r.URL.Path {
		case "/static/407":
			w.Header().Set("Proxy-Authenticate", `Basic realm="proxy"`)
			w.WriteHeader(http.StatusProxyAuthRequired)
			return true
		case "/static/401":
			w.Header().Set("WWW-Authenticate", `Basic realm="application"`)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		if strings.HasPrefix(r.URL.Path, "/static/") {
			w.Header().Add("Set-Cookie", "__Host-other=set-by-the-application; Path=/; Secure; HttpOnly")
		}
		return false
	})
	visit(t, r, "wait:1500", "press:app:iam", "find:page:iam/users")
	reports := tap.arrived(func(x request) bool { return strings.HasPrefix(x.uri, "/static/seen?") })
	if len(reports) != 1 {
		t.Fatalf("the script reported %d times", len(reports))
	}
	seen := mustUnescape(reports[0].uri)
	if !strings.Contains(seen, "__Secure-x=attackers-own-value") {
		t.Errorf("the script could set no cookie, so this test does not test anything: %s", seen)
	}
	for _, c := range tap.Cookies() {
		if strings.Contains(seen, c) {
			t.Errorf("the script saw a cookie of an application: %s", seen)
		}
	}
	if strings.Contains(seen, "proxy-authenticate") || !strings.Contains(seen, " 407:") {
		t.Errorf("what the script saw of who asks for a password: %s", seen)
	}
	if strings.Contains(strings.ToLower(seen), "set-cookie") || strings.Contains(seen, "__Host-other") {
		t.Errorf("the script saw what the application set: %s", seen)
	}
	var signedIn []string
	for _, x := range tap.arrived(func(x request) bool { return x.method == http.MethodGet && !strings.HasPrefix(x.uri, "/login") }) {
		if x.auth != "" {
			t.Errorf("sent with an authorization: %s%s", x.host, x.uri)
		}
		if strings.Contains(x.cookie, "attackers-own-value") {
			t.Errorf("sent with the attacker's cookie: %s%s %s", x.host, x.uri, names(x.cookie))
		}
		signedIn = append(signedIn, fmt.Sprint(x.uri, " ", names(x.cookie)))
	}
	// It was in the boundary's session all the while.
	for _, want := range []string{"/tickets/4712", "/users"} {
		if !slices.ContainsFunc(signedIn, func(s string) bool { return strings.HasPrefix(s, want+" ") && strings.Contains(s, "__Host-session") }) {
			t.Errorf("%s was not asked for in a session: %q", want, signedIn)
		}
	}
}

// names are the names of cookies, since the values are secrets.
func names(cookie string) (out []string) {
	for c := range strings.SplitSeq(cookie, "; ") {
		n, _, _ := strings.Cut(c, "=")
		out = append(out, n)
	}
	return out
}
