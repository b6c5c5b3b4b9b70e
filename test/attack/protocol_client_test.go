package attack

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"time"
)

func init() { programs["protocol"] = protocol }

// wireClient speaks the browser's protocol as a harness may that no driver made:
// any text, in any frame, to the socket that the door names.
type wireClient struct {
	conn net.Conn
	mu   sync.Mutex
	next int
	all  []string // every message that came
	wait map[int]chan string
	gone chan struct{}
}

func door() string { return strings.TrimPrefix(os.Getenv("SALLYPORT_CDP_URL"), "http://") }

// dial makes a connection; status is the answer's, 101 if there is one.
func dialProtocol(ctx context.Context) (c *wireClient, status int, err error) {
	resp, err := http.Get("http://" + door() + "/json/version")
	if err != nil {
		return nil, 0, err
	}
	defer resp.Body.Close()
	var v struct{ WebSocketDebuggerURL string }
	if err := json.NewDecoder(resp.Body).Decode(&v); err != nil || v.WebSocketDebuggerURL == "" {
		return nil, resp.StatusCode, fmt.Errorf("version: %d %w", resp.StatusCode, err)
	}
	u, err := url.Parse(v.WebSocketDebuggerURL)
	if err != nil {
		return nil, 0, err
	}
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", door())
	if err != nil {
		return nil, 0, err
	}
	fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n", u.Path, door())
	br := bufio.NewReader(conn)
	answer, err := http.ReadResponse(br, nil)
	if err != nil {
		return nil, 0, errors.Join(err, conn.Close())
	}
	if answer.StatusCode != http.StatusSwitchingProtocols {
		return nil, answer.StatusCode, conn.Close()
	}
	c = &wireClient{conn: conn, wait: map[int]chan string{}, gone: make(chan struct{})}
	go c.read(br)
	return c, answer.StatusCode, nil
}

func (c *wireClient) read(br *bufio.Reader) {
	defer close(c.gone)
	for {
		var h [2]byte
		if _, err := io.ReadFull(br, h[:]); err != nil {
			return
		}
		n := uint64(h[1] & 127)
		switch n {
		case 126:
			var b [2]byte
			io.ReadFull(br, b[:])
			n = uint64(binary.BigEndian.Uint16(b[:]))
		case 127:
			var b [8]byte
			io.ReadFull(br, b[:])
			n = binary.BigEndian.Uint64(b[:])
		}
		b := make([]byte, n)
		if _, err := io.ReadFull(br, b); err != nil {
			return
		}
		switch h[0] & 15 {
		case 8:
			return
		case 9:
			c.frame(10, b)
			continue
		}
		var m struct{ ID int }
		json.Unmarshal(b, &m) // what is no object has no id
		c.mu.Lock()
		c.all = append(c.all, string(b))
		if w := c.wait[m.ID]; w != nil {
			w <- string(b)
			delete(c.wait, m.ID)
		}
		c.mu.Unlock()
	}
}

func (c *wireClient) frame(op byte, b []byte) error {
	var mask [4]byte
	rand.Read(mask[:])
	h := []byte{0x80 | op}
	switch {
	case len(b) < 126:
		h = append(h, 0x80|byte(len(b)))
	case len(b) < 1<<16:
		h = binary.BigEndian.AppendUint16(append(h, 0x80|126), uint16(len(b)))
	default:
		h = binary.BigEndian.AppendUint64(append(h, 0x80|127), uint64(len(b)))
	}
	h = append(h, mask[:]...)
	for i := range b {
		h = append(h, b[i]^mask[i&3])
	}
	_, err := c.conn.Write(h)
	return err
}

// call sends one request and returns its answer as it came, or what went wrong.
func (c *wireClient) call(session, method, params string) string {
	c.mu.Lock()
	c.next++
	id := c.next
	w := make(chan string, 1)
	c.wait[id] = w
	c.mu.Unlock()
	m := fmt.Sprintf(`{"id":%d,"method":%q,"params":%s`, id, method, params)
	if session != "" {
		m += fmt.Sprintf(`,"sessionId":%q`, session)
	}
	if err := c.frame(1, []byte(m+"}")); err != nil {
		return "closed"
	}
	select {
	case a := <-w:
		return a
	case <-c.gone:
		return "closed"
	case <-time.After(10 * time.Second):
		return "no answer"
	}
}

// page attaches to the first page and turns its events on.
func (c *wireClient) page() (string, error) {
	var ts struct {
		Result struct {
			TargetInfos []struct{ TargetID, Type string }
		}
	}
	json.Unmarshal([]byte(c.call("", "Target.getTargets", "{}")), &ts)
	for _, t := range ts.Result.TargetInfos {
		if t.Type == "page" {
			var s struct{ Result struct{ SessionID string } }
			json.Unmarshal([]byte(c.call("", "Target.attachToTarget", fmt.Sprintf(`{"targetId":%q,"flatten":true}`, t.TargetID))), &s)
			for _, domain := range []string{"Page", "Runtime", "Network", "DOM", "Log"} {
				c.call(s.Result.SessionID, domain+".enable", "{}")
			}
			return s.Result.SessionID, nil
		}
	}
	return "", fmt.Errorf("there is no page: %+v", ts)
}

// protocol is a harness that follows steps, each one argument:
//
//	page:METHOD PARAMS  root:METHOD PARAMS  text:BASE64  binary:BASE64  each:METHOD ...  http:METHOD PATH HEADER
//	second  again  hidden  loop  wait:MILLISECONDS
//
// SESSION in a text is the page's session. It prints each step with what came of
// it, and in the end every message that came.
func protocol(ctx context.Context, steps []string) error {
	c, _, err := dialProtocol(ctx)
	if err != nil {
		return err
	}
	s, err := c.page()
	if err != nil {
		return err
	}
	for i, step := range steps {
		kind, arg, _ := strings.Cut(step, ":")
		method, params, _ := strings.Cut(arg, " ")
		got := ""
		switch kind {
		case "page":
			got = c.call(s, method, params)
		case "root":
			got = c.call("", method, params)
		case "text", "binary":
			b, err := base64.StdEncoding.DecodeString(arg)
			if err != nil {
				return err
			}
			c.frame(map[string]byte{"text": 1, "binary": 2}[kind], bytes.ReplaceAll(b, []byte("SESSION"), []byte(s)))
			got = c.call(s, "Runtime.evaluate", `{"expression":"'alive'"}`)
		case "each": // prints those that were not refused
			for m := range strings.FieldsSeq(arg) {
				for _, on := range []string{s, ""} {
					if a := c.call(on, m, "{}"); !strings.Contains(a, `"error":`) || strings.Contains(a, "Invalid parameters") {
						got += m + " " + a + " "
					}
				}
			}
		case "http":
			conn, err := net.Dial("tcp", door())
			if err != nil {
				return err
			}
			conn.SetDeadline(time.Now().Add(5 * time.Second))
			path, header, _ := strings.Cut(params, " ")
			if !strings.HasPrefix(header, "Host:") {
				header = "Host: " + door() + "\r\n" + header
			}
			fmt.Fprintf(conn, "%s %s HTTP/1.1\r\n%s\r\n\r\n", method, path, strings.TrimSuffix(header, "\r\n"))
			if resp, err := http.ReadResponse(bufio.NewReader(conn), nil); err == nil {
				got = resp.Status
			}
			conn.Close()
		case "second":
			_, status, err := dialProtocol(ctx)
			got = fmt.Sprint(status, err)
		case "again": // a new connection, with the session of the old one
			c.conn.Close()
			old, n := s, c
			for range 50 {
				if n, _, err = dialProtocol(ctx); n != nil {
					break
				}
				time.Sleep(20 * time.Millisecond)
			}
			if n == nil {
				return fmt.Errorf("no second connection: %w", err)
			}
			n.all = append(c.all, n.all...)
			c = n
			got = c.call(old, "Runtime.evaluate", `{"expression":"1"}`)
			if s, err = c.page(); err != nil {
				return err
			}
		case "hidden":
			got = c.hidden(s)
		case "loop":
			for n := 1; ; n++ {
				if a := c.call(s, "Runtime.evaluate", `{"expression":"1"}`); !strings.Contains(a, `"result"`) {
					got = a
					break
				}
				fmt.Println("loop", n)
			}
		case "wait":
			var ms int
			fmt.Sscan(arg, &ms)
			time.Sleep(time.Duration(ms) * time.Millisecond)
		}
		fmt.Printf("%d %.60s -> %s\n", i, strings.ReplaceAll(step, "\n", " "), strings.ReplaceAll(got, "\n", " "))
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, m := range c.all {
		fmt.Println("came:", m)
	}
	return nil
}

// hidden looks for contexts of scripts that the client was not told of: the
// guard's. It tries every number, as a context and inside of the handle of an
// object, and says which of those not told of gave an answer.
func (c *wireClient) hidden(s string) string {
	told := map[int]bool{}
	c.mu.Lock()
	for _, m := range c.all {
		var e struct {
			Method string
			Params struct{ Context struct{ ID int } }
		}
		if json.Unmarshal([]byte(m), &e) == nil && e.Method == "Runtime.executionContextCreated" {
			told[e.Params.Context.ID] = true
		}
	}
	c.mu.Unlock()
	var own struct {
		Result struct{ Result struct{ ObjectID string } }
	}
	json.Unmarshal([]byte(c.call(s, "Runtime.evaluate", `{"expression":"window"}`)), &own)
	parts := strings.Split(own.Result.Result.ObjectID, ".")
	if len(parts) != 3 {
		return "no handle"
	}
	var root struct {
		Result struct{ Root struct{ BackendNodeID int } }
	}
	json.Unmarshal([]byte(c.call(s, "DOM.getDocument", "{}")), &root)
	found := ""
	for i := range 40 {
		if told[i] {
			continue
		}
		for m, p := range map[string]string{
			"Runtime.evaluate":       fmt.Sprintf(`{"expression":"1","contextId":%d}`, i),
			"Runtime.callFunctionOn": fmt.Sprintf(`{"functionDeclaration":"()=>1","executionContextId":%d}`, i),
			"DOM.resolveNode":        fmt.Sprintf(`{"backendNodeId":%d,"executionContextId":%d}`, root.Result.Root.BackendNodeID, i),
			"Runtime.addBinding":     fmt.Sprintf(`{"name":"b%d","executionContextId":%d}`, i, i),
			"Runtime.getProperties":  fmt.Sprintf(`{"objectId":"%s.%d.1"}`, parts[0], i),
		} {
			if a := c.call(s, m, p); !strings.Contains(a, `"error":`) {
				found += m + p + " "
			}
		}
	}
	return fmt.Sprintf("told %d, found %q", len(told), found)
}
