package egress

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
)

// bytesConn is a connection on which the peer has sent bytes and gone.
type bytesConn struct {
	net.Conn
	r *bytes.Reader
}

func (c bytesConn) Read(p []byte) (int, error)    { return c.r.Read(p) }
func (bytesConn) SetReadDeadline(time.Time) error { return nil }

// FuzzRequest: any bytes in a tunnel, read strictly. What net/http reads of the
// bytes that were let through is what it reads of the raw ones; what is decided
// is what is written; and what is written is read, by net/http again, as what
// was decided, with the same digest.
func FuzzRequest(f *testing.F) {
	for _, s := range []string{
		"GET /a?b HTTP/1.1\r\nHost: app.example\r\n\r\n",
		"GET /a%2fb/../;c?d=%00&?#e HTTP/1.1\r\nHost: APP.example.:443\r\nX-A: 1\r\nX-A: 2\r\nx_b: 3\r\n\r\n",
		"POST /a HTTP/1.1\r\nHost: app.example\r\nContent-Length: 3\r\nContent-Type: a/b\r\n\r\nabcGET /b HTTP/1.1\r\nHost: app.example\r\n\r\n",
		"PUT /a HTTP/1.1\r\nHost: app.example\r\nTransfer-Encoding: chunked\r\nExpect: 100-continue\r\nConnection: close, te\r\n\r\n3\r\nabc\r\n0\r\nX: y\r\n\r\n",
		"POST /a?_method=put HTTP/1.1\r\nHost: app.example\r\nX-HTTP-Method-Override: PUT\r\nIdempotency-Key: k\r\nContent-Encoding: identity\r\nContent-Length: 1\r\n\r\nx",
		"OPTIONS / HTTP/1.1\r\nHost: app.example\r\nUser-Agent:\r\nAccept-Encoding: br\r\n\r\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, input []byte) { checkRead(t, input) })
}

// FuzzRequestParts is FuzzRequest for messages that are mostly well formed.
func FuzzRequestParts(f *testing.F) {
	f.Add("GET", "/a/%2e%2e/b?c=d", "Accept: */*\r\nUser-Agent: x\r\n", []byte(nil), false)
	f.Add("POST", "/a", "Content-Type: application/json\r\nX-HTTP-Method-Override: PUT\r\nExpect: 100-continue\r\n", []byte("{}"), true)
	f.Add("DELETE", "/;a//b?", "Cookie: a=b; c=d\r\nX-Forwarded-Host: e\r\nIdempotency-Key: 1\r\nUser-Agent:\r\n", []byte("x"), false)
	f.Fuzz(func(t *testing.T, method, target, fields string, body []byte, chunked bool) {
		var b bytes.Buffer
		fmt.Fprintf(&b, "%s %s HTTP/1.1\r\nHost: app.example\r\n%s", method, target, fields)
		if chunked {
			fmt.Fprintf(&b, "Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(body), body)
		} else {
			fmt.Fprintf(&b, "Content-Length: %d\r\n\r\n%s", len(body), body)
		}
		checkRead(t, b.Bytes())
	})
}

// checkRead reads the bytes that a client has sent through a tunnel to
// https://app.example.
func checkRead(t *testing.T, input []byte) {
	t.Helper()
	to, _ := parseTarget("https", "app.example:443")
	p := &Proxy{cfg: Config{MaxBody: 1 << 16}}
	w := &wire{Conn: bytesConn{r: bytes.NewReader(input)}, tunnel: to, refuse: func(*wire, string, []byte, bool) {}}
	through := bufio.NewReader(w)
	plain := bufio.NewReader(bytes.NewReader(input))
	for range 4 {
		r, err := http.ReadRequest(through)
		if err != nil {
			return
		}
		in, code := p.read(httptest.NewRecorder(), r, w, to, true)
		theirs, err := http.ReadRequest(plain)
		if err != nil {
			t.Fatalf("let through what net/http does not read: %v", err)
		}
		theirBody, err := io.ReadAll(theirs.Body)
		if code != "" || in.websocket {
			return
		}
		same := r.Header.Get("Content-Encoding") == theirs.Header.Get("Content-Encoding") // nothing was decompressed
		if err != nil || theirs.Method != r.Method || theirs.RequestURI != r.RequestURI || theirs.Host != r.Host || same && !bytes.Equal(theirBody, in.body) {
			t.Fatalf("read %s %s %s %q, net/http %s %s %s %q (%v)", r.Method, r.Host, r.RequestURI, in.body,
				theirs.Method, theirs.Host, theirs.RequestURI, theirBody, err)
		}
		checkSent(t, in.request(r), r.Header, in)
	}
}

// checkSent writes the outgoing request and reads it as an origin would.
func checkSent(t *testing.T, req action.Request, header http.Header, in incoming) {
	t.Helper()
	clean, _ := clean(header, Recognized{})
	if writes(req.Method) {
		noReplay(clean)
	}
	out := outgoing(req, clean, in.body)
	decided, err := wireDigest(out, in.body)
	if err != nil {
		return // no canonical form: never sent
	}
	var b bytes.Buffer
	if err := out.Write(&b); err != nil {
		t.Fatal(err)
	}
	sent := bufio.NewReader(&b)
	got, err := http.ReadRequest(sent)
	if err != nil {
		t.Fatalf("written %q: %v", b.String(), err)
	}
	body, err := io.ReadAll(got.Body)
	if _, more := sent.ReadByte(); err != nil || more != io.EOF {
		t.Fatalf("more than one message is written: %v %v", err, more)
	}
	uri := req.Path
	if req.Query != "" {
		uri += "?" + req.Query
	}
	if got.Method != req.Method || got.RequestURI != uri || "https://"+got.Host != req.Origin || !bytes.Equal(body, in.body) || len(got.TransferEncoding) > 0 {
		t.Fatalf("decided %+v %q, an origin reads %s %s %s %q %v", req, in.body, got.Method, got.Host, got.RequestURI, body, got.TransferEncoding)
	}
	if d := receivedDigest(t, req.Origin, seen{Method: got.Method, URI: got.RequestURI, Header: got.Header, Body: body}); d != decided {
		t.Fatalf("decided %+v, an origin reads %+v", clean, got.Header)
	}
	for name := range got.Header {
		if strings.Contains(name, "_") || strings.HasPrefix(name, "X-Sallyport") || name == "Expect" || name == "Connection" || name == "Content-Encoding" {
			t.Fatalf("%s is sent", name)
		}
	}
}

// TestExpectContinue: the body is asked for by the door, decided on, and sent
// without the expectation.
func TestExpectContinue(t *testing.T) {
	o := newOrigin(t, false, nil)
	r := newRig(t, o, nil)
	c := r.dial(t)
	io.WriteString(c, "POST http://"+o.authority()+"/w HTTP/1.1\r\nHost: "+o.authority()+"\r\nExpect: 100-Continue\r\nContent-Length: 5\r\n\r\n")
	br := bufio.NewReader(c)
	if line, err := br.ReadString('\n'); err != nil || line != "HTTP/1.1 100 Continue\r\n" {
		t.Fatalf("got %q, %v", line, err)
	}
	if n := len(o.all()); n != 0 {
		t.Fatalf("origin got %d requests before there was a body", n)
	}
	br.ReadString('\n')
	io.WriteString(c, "abcde")
	resp, err := http.ReadResponse(br, nil)
	if err != nil || resp.StatusCode != 200 {
		t.Fatalf("got %v %v", resp, err)
	}
	if got := o.one(t); string(got.Body) != "abcde" || got.Header.Get("Expect") != "" {
		t.Errorf("origin got %+v", got)
	}
}

// TestRedirectIsDecidedAgain: a browser that is told by 307 or 308 to repeat a
// write elsewhere asks again, and is refused where the write is not allowed.
func TestRedirectIsDecidedAgain(t *testing.T) {
	for _, status := range []int{301, 302, 303, 307, 308} {
		o := newOrigin(t, true, nil)
		there := newOrigin(t, true, nil)
		there.host = "other.localhost"
		o.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
			body, _ := io.ReadAll(q.Body)
			o.mu.Lock()
			o.got = append(o.got, seen{Method: q.Method, URI: q.RequestURI, Body: body})
			o.mu.Unlock()
			switch q.URL.Path {
			case "/same":
				w.Header().Set("Location", "/delete")
				w.WriteHeader(status)
			case "/away":
				w.Header().Set("Location", there.name()+"/steal")
				w.WriteHeader(status)
			}
		})
		r := newRig(t, o, nil, func(c *Config) {
			c.Connectors = connectors(func(q action.Request, _ []byte) (Recognized, error) {
				if q.Path == "/delete" && q.Method == "POST" || q.Origin != o.name() {
					return Recognized{}, nil // no operation, or no connector
				}
				return Recognized{App: "app", Operation: "app.write", Effect: action.Write, Allowed: true, AllowLocal: true}, nil
			})
		})
		c := r.client(true)
		c.CheckRedirect = nil // follow, as a browser does
		for _, path := range []string{"/same", "/away"} {
			resp, err := c.Post(o.name()+path, "text/plain", strings.NewReader("payload"))
			if err != nil {
				t.Fatal(err)
			}
			read(t, resp)
			all := r.Log.Decisions(t)
			first, second := all[len(all)-2].Action, all[len(all)-1].Action
			if second.Request.RedirectOf != first.ID {
				t.Errorf("%d %s: not linked: %+v", status, path, second.Request)
			}
			repeats := status == 307 || status == 308
			if repeats != (second.Request.Method == "POST") || repeats && second.Request.BodyDigest != first.Request.BodyDigest {
				t.Errorf("%d %s: decided again as %+v", status, path, second.Request)
			}
			if refused := repeats || path == "/away"; refused != (resp.StatusCode != 200) {
				t.Errorf("%d %s: got %d", status, path, resp.StatusCode)
			}
		}
		if n := len(there.all()); n != 0 {
			t.Errorf("%d: the other origin got %d requests", status, n)
		}
	}
}
