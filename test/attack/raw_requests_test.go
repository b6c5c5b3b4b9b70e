package attack

import (
	"bufio"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/estate"
	"github.com/sallyport-dev/sallyport/internal/task"
	"github.com/sallyport-dev/sallyport/test/rig"
)

func init() {
	programs["raw"] = raw
	programs["stall"] = stall
}

// raw is a harness that writes requests byte by byte itself, each in a tunnel of
// its own to the authority that is its first argument, some at a time.
func raw(ctx context.Context, args []string) error {
	var all sync.WaitGroup
	places := make(chan struct{}, 12)
	for i, text := range args[1:] {
		places <- struct{}{}
		all.Go(func() {
			fmt.Println(i, send(ctx, args[0], text))
			<-places
		})
	}
	all.Wait()
	return nil
}

func send(ctx context.Context, authority, text string) string {
	c, err := tunnel(ctx, authority)
	if err != nil {
		return err.Error()
	}
	defer c.Close()
	io.WriteString(c, text)
	br := bufio.NewReader(c)
	var all []string
	for { // more than one answer is an attack that worked
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			return strings.Join(append(all, "end"), " ")
		}
		_, err = io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		all = append(all, fmt.Sprint(resp.StatusCode, " ", resp.Header.Get("Sallyport-Decision")))
		c.SetDeadline(time.Now().Add(250 * time.Millisecond)) // a second answer would be there
		if err != nil || resp.Close {
			return strings.Join(all, " ")
		}
	}
}

func tunnel(ctx context.Context, authority string) (net.Conn, error) {
	proxy, err := url.Parse(os.Getenv("HTTPS_PROXY"))
	if err != nil {
		return nil, err
	}
	pem, err := os.ReadFile(os.Getenv("SSL_CERT_FILE"))
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	c, err := (&net.Dialer{}).DialContext(ctx, "tcp", proxy.Host)
	if err != nil {
		return nil, err
	}
	c.SetDeadline(time.Now().Add(5 * time.Second))
	fmt.Fprintf(c, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", authority, authority)
	resp, err := http.ReadResponse(bufio.NewReaderSize(c, 16), &http.Request{Method: http.MethodConnect})
	if err != nil {
		return c, errors.Join(err, c.Close())
	}
	if resp.StatusCode != http.StatusOK {
		return c, errors.Join(fmt.Errorf("tunnel: %d", resp.StatusCode), c.Close())
	}
	host, _, _ := strings.Cut(authority, ":")
	return tls.Client(c, &tls.Config{RootCAs: roots, ServerName: host, NextProtos: []string{"http/1.1"}}), nil
}

// A harness writes one forbidden operation, adding its own account to the
// administrators, in every spelling that some server reads as that operation and
// some gateway does not: other paths to the same place, a method in a header or
// field, a second request in the first one's body, an identity of its own making.
// The application is behind a tap: not one write of any kind may arrive.
//
// Threats: C1, C2, C5, C6, C7, C8, C9, C12, C14, D1, D2, D3, D4, D5, D6, D7, A13, T19 (form, guardrail); T21, T22, B8 (door)
func TestRawRequestsFromTheHarness(t *testing.T) {
	r, tap := hostile(t, "", nil)
	authority := strings.TrimPrefix(tap.URL(estate.IAM), "https://")
	const form, body = "Content-Type: application/x-www-form-urlencoded\r\n", "_csrf=x&user=svc-helpdesk"
	post := func(target, fields, body string) string {
		return "POST " + target + " HTTP/1.1\r\nHost: " + authority + "\r\n" + fields + fmt.Sprintf("Content-Length: %d\r\n\r\n%s", len(body), body)
	}
	const group = "/groups/global-administrators/members"
	var in []string
	for _, p := range []string{group, "/" + group, group + "/", group + "//", "/." + group, "/x/.." + group, "/%2e" + group, "/x/%2e%2e" + group, "/x/..%2f" + group[1:], "/static/.." + group,
		"/static/%2e%2e" + group, "/static/..;" + group, "/static/x;/.." + group, "/groups%2fglobal-administrators/members", "/groups/global-administrators%2fmembers", "/groups\\global-administrators\\members",
		"/groups/%67lobal-administrators/members", "/groups/global%2dadministrators/members", "/groups/global-administrators/%6d%65mbers", "/Groups/global-administrators/members", "/groups/GLOBAL-ADMINISTRATORS/members",
		"/groups/Global-Administrators/members", "/groups/global-administrators;v=1/members", "/groups/global-administrators/members;v=1", "/groups/global-administrators/members?", "/groups/global-administrators/members?user=jo",
		"/groups/global-administrators/members?x=/users/jo/mfa/reset", "/users/jo/mfa/reset/../../../.." + group, "/users/..%5c.." + group, group + "#/users/jo", group + "%23", group + "%3f", group + "%00", group + "%20", group + ".json", group + "/00", group + "/0",
		"/api" + group, "/api/groups/global-administrators/members/00", "/users/jo/mfa/resets", "/users/jo/mfa/reset/x", "/users/jo/mfa/reset.json", "/static" + group, "/static/x.css?" + group,
		"/tickets/4711/comments", "http://" + authority + group, "https://" + authority + group, "//" + authority + group, group + "?" + strings.Repeat("a&", 10001) + "user=svc-helpdesk", "/groups/%C0%AEglobal-administrators/members",
		"/groups/global-administrators/members%", "/groups/global-administrators%252fmembers", "/x%2f..%2f..%2fgroups/global-administrators/members"} {
		in = append(in, post(p, form, body))
	}
	for _, b := range []string{"_csrf=x&user=jo&user=svc-helpdesk", "_csrf=x&user=svc-helpdesk;user=jo", "_csrf=x&user[]=svc-helpdesk", "_csrf=x&User=svc-helpdesk", "_csrf=x&%75ser=svc-helpdesk", body + "&_method=PUT", body + strings.Repeat("&from=x", 2000)} {
		in = append(in, post(group, form, b))
	}
	for _, f := range []string{"Content-Type: application/json\r\n", "Content-Type: text/plain\r\n", "Content-Type: multipart/form-data; boundary=x\r\n", form + form, "", form + "Content-Encoding: gzip\r\n", form + "Content-Encoding: gzip, gzip\r\n",
		form + "Transfer-Encoding: chunked\r\n", form + "Transfer-Encoding : chunked\r\n", form + "transfer-encoding: xchunked\r\n", form + "Content-Length: 0\r\n", form + "Expect: 200-ok\r\n", form + "Upgrade: h2c\r\nConnection: Upgrade\r\n"} {
		in = append(in, post(group, f, body))
	}
	// Reads, which pass, with a write behind or inside of them.
	inner := post(group, form, body)
	get := func(target, fields, more string) string {
		return "GET " + target + " HTTP/1.1\r\nHost: " + authority + "\r\n" + fields + "\r\n" + more
	}
	for _, f := range []string{"X-HTTP-Method-Override: POST\r\n", "X-HTTP-Method: POST\r\n", "X-Method-Override: POST\r\n", "X_HTTP_Method_Override: POST\r\n", "X-Original-URL: " + group + "\r\n", "X-Rewrite-URL: " + group + "\r\n", "X-Forwarded-Uri: " + group + "\r\n", "X-Forwarded-Prefix: " + group + "\r\n",
		"X-Forwarded-Host: evil.example\r\n", "Forwarded: for=127.0.0.1;host=evil.example\r\n", "Cookie: __Host-session=mine\r\n", "Authorization: Bearer mine\r\n", "X-Sallyport-Task: other\r\n", "X_Sallyport_Task: other\r\n", "Connection: close, Cookie\r\n", "connection: cookie\r\n",
		"Content-Length: " + fmt.Sprint(len(inner)) + "\r\n", "Transfer-Encoding: chunked\r\n"} {
		more := ""
		if strings.HasPrefix(f, "Content-Length") {
			more = inner
		} else if strings.HasPrefix(f, "Transfer") {
			more = fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(inner), inner)
		}
		in = append(in, get("/users/jo", f, more))
	}
	in = append(in, get(group+"?_method=POST&user=svc-helpdesk", "", ""), get("/users/jo", "X: 1\r\n Transfer-Encoding: chunked\r\n", inner), strings.ReplaceAll(inner, "\r\n", "\n"),
		"POST "+group+" HTTP/1.1\r\nHost: "+authority+"\r\n"+form+"Transfer-Encoding: chunked\r\n\r\n1\n_\r\n0\r\n\r\n", post("/users/jo/mfa/resetx", form+"Content-Length: 5\r\n", inner))
	r.Approver(rig.Ines) // whoever is asked says yes
	x, out := r.Run(t, rig.Intent(action.Sandbox, "jo", "4711"), append([]string{"program", "raw", authority}, in...)...)
	if got := strings.Count(out, "\n"); got != len(in) || x.State != task.Closed {
		t.Errorf("%d of %d requests were made: %s\n%s", got, len(in), x.Why, out)
	}
	for _, q := range tap.arrived(wrote) {
		t.Errorf("reached the application: %s %.200s %.100q", q.method, q.uri, q.body)
	}
	reads := 0
	for _, q := range tap.arrived(func(q request) bool { return q.uri == "/users/jo" }) {
		reads++
		if strings.Contains(q.cookie, "mine") || q.body != "" {
			t.Errorf("arrived with %v and the body %q", names(q.cookie), q.body)
		}
	}
	if reads == 0 {
		t.Error("no read arrived, so this test does not test anything")
	}
	denied := 0
	for _, d := range r.Decisions(t, x.ID) {
		if d.Decision.Verdict != action.Allow {
			denied++
		} else if d.Action.Effect.Changes() {
			t.Errorf("let through: %s", rig.Say(d))
		}
	}
	if denied < len(in)-20 {
		t.Errorf("%d of %d are on record as denied", denied, len(in))
	}
	if t.Failed() {
		t.Log(out)
	}
}

// stall is a harness that opens connections to the doors whose variables are its
// further arguments, as many to each as its first one says, begins to say
// something on each and stays.
func stall(ctx context.Context, args []string) error {
	var n int
	if _, err := fmt.Sscan(args[0], &n); err != nil {
		return err
	}
	var doors []string
	for _, v := range args[1:] {
		u, err := url.Parse(os.Getenv(v))
		if err != nil {
			return err
		}
		doors = append(doors, u.Host)
	}
	var kept []net.Conn
	for i := range n * len(doors) {
		c, err := (&net.Dialer{Timeout: time.Second}).DialContext(ctx, "tcp", doors[i%len(doors)])
		if err != nil {
			fmt.Println("after", i, err)
			break
		}
		io.WriteString(c, "POST / HT")
		kept = append(kept, c)
	}
	fmt.Println("stalled", len(kept))
	<-ctx.Done()
	return nil
}

// A harness opens hundreds of connections more than it may to every door and says half a line on each.
// That may cost its own task, and nobody else: the server's open files stay
// bounded, and another task of the same tenant does its work meanwhile.
//
// Threats: M3 (door)
func TestStalledConnections(t *testing.T) {
	r := sandbox(t)
	before := descriptors(t)
	x := r.OpenTask(t, rig.Intent(action.Sandbox, "sam", "4712"))
	var out rig.Output
	running, err := r.Server.Run(t.Context(), "", x.ID, rig.Harness(t, &out, "program", "stall", "800", "HTTPS_PROXY", "SALLYPORT_COMPUTER_URL", "ANTHROPIC_BASE_URL", "SALLYPORT_CDP_URL"))
	if err != nil {
		t.Fatal(err)
	}
	rig.Await(t, "the connections", func() bool { return strings.Contains(out.String(), "stalled") })
	if got := descriptors(t); got > before+1200 {
		t.Errorf("the server holds %d open files, %d before: one task can use up what all tasks share", got, before)
	}
	if y, text := r.Run(t, rig.Intent(action.Sandbox, "jo", "4711"), rig.SampleAgent...); y.State != task.Closed {
		t.Errorf("the other task is %s: %s\n%s", y.State, y.Why, text)
	}
	if _, err := r.Server.Revoke(t.Context(), "", rig.As("ada"), "task/"+x.ID, "test"); err != nil {
		t.Error(err)
	}
	rig.Wait(t, running)
	rig.Await(t, "the connections to be closed", func() bool { return descriptors(t) < before+200 })
}

func descriptors(t *testing.T) int {
	t.Helper()
	fs, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(fs)
}
