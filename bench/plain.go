package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/browser"
	"github.com/sallyport-dev/sallyport/internal/contain"
)

// plain is the baseline of the browser: the same Chromium with the same flags
// in the same containment, but nothing of ours between its protocol pipe and the
// page, and a proxy in its namespace that only forwards.
type plain struct {
	proc    *contain.Process
	proxy   *http.Server
	w       *os.File
	session string

	mu   sync.Mutex
	next int
	wait map[int]chan answer
	err  error
	load chan struct{} // capacity 1: a page has loaded
}

type answer struct {
	ID     int             `json:"id"`
	Method string          `json:"method"`
	Result json.RawMessage `json:"result"`
	Error  json.RawMessage `json:"error"`
}

const trustFlag = "--ignore-certificate-errors-spki-list="

// newPlain copies what the managed browser was started with; only the key to
// trust is the origin's own.
func newPlain(ctx context.Context, like *browser.Browser, o *origin) (*plain, error) {
	pid := like.Process().PID()
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return nil, err
	}
	bin, err := contain.FindChromium("shell")
	if err != nil {
		return nil, err
	}
	args := strings.Split(strings.TrimSuffix(string(raw), "\x00"), "\x00")
	if filepath.Base(args[0]) != filepath.Base(bin) {
		return nil, fmt.Errorf("process %d is %s, not the browser", pid, args[0])
	}
	args = args[1:]
	for i, a := range args {
		if strings.HasPrefix(a, trustFlag) {
			args[i] = trustFlag + o.spki
		}
	}
	inR, inW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	outR, outW, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	p := &plain{w: inW, wait: map[int]chan answer{}, load: make(chan struct{}, 1)}
	p.proc, err = contain.Start(ctx, contain.Spec{Path: bin, Args: args, Listen: []string{"127.0.0.1:3128"}, Mounts: contain.SystemMounts(),
		Env:   []string{"HOME=/home/agent", "XDG_CONFIG_HOME=/home/agent/.config", "XDG_CACHE_HOME=/home/agent/.cache", "PATH=/usr/bin:/bin", "LANG=C.UTF-8", "TZ=UTC"},
		Files: []*os.File{inR, outW}, Stdout: io.Discard, Stderr: io.Discard, NestedUserNS: true})
	inR.Close()
	outW.Close()
	if err != nil {
		return nil, errors.Join(err, inW.Close(), outR.Close())
	}
	go p.read(outR)
	p.proxy = &http.Server{Handler: forward(o.dial()), ReadHeaderTimeout: 10 * time.Second}
	go p.proxy.Serve(p.proc.Listeners()[0])
	if err := p.attach(); err != nil {
		p.Close()
		return nil, err
	}
	return p, nil
}

func (p *plain) Close() {
	p.proc.Kill()
	p.proxy.Close()
	p.w.Close()
}

// attach prepares the one page like the managed browser's, without a guard.
func (p *plain) attach() error {
	var list struct {
		Infos []struct {
			ID   string `json:"targetId"`
			Type string `json:"type"`
		} `json:"targetInfos"`
	}
	for until := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if err := p.call("Target.getTargets", nil, &list); err != nil {
			return err
		}
		if len(list.Infos) > 0 && list.Infos[0].Type == "page" {
			break
		}
		if time.Now().After(until) {
			return errors.New("the plain browser opened no page")
		}
	}
	var at struct {
		Session string `json:"sessionId"`
	}
	if err := p.call("Target.attachToTarget", map[string]any{"targetId": list.Infos[0].ID, "flatten": true}, &at); err != nil {
		return err
	}
	p.session = at.Session
	return errors.Join(p.call("Page.enable", nil, nil), p.call("Page.bringToFront", nil, nil),
		p.call("Emulation.setDeviceMetricsOverride", map[string]any{"width": 1280, "height": 800, "deviceScaleFactor": 1, "mobile": false}, nil),
		p.call("Emulation.setFocusEmulationEnabled", map[string]any{"enabled": true}, nil))
}

func (p *plain) read(r *os.File) {
	defer r.Close()
	for br := bufio.NewReaderSize(r, 256<<10); ; {
		b, err := br.ReadBytes(0)
		var a answer
		if err == nil {
			err = json.Unmarshal(bytes.TrimSuffix(b, []byte{0}), &a)
		}
		p.mu.Lock()
		if err != nil {
			p.err = errors.Join(errors.New("the plain browser ended"), err)
			for id, c := range p.wait {
				delete(p.wait, id)
				close(c)
			}
			p.mu.Unlock()
			return
		}
		c := p.wait[a.ID]
		delete(p.wait, a.ID)
		p.mu.Unlock()
		if c != nil {
			c <- a
		}
		if a.Method == "Page.loadEventFired" {
			select {
			case p.load <- struct{}{}:
			default:
			}
		}
	}
}

func (p *plain) send(method string, params any) (chan answer, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.err != nil {
		return nil, p.err
	}
	p.next++
	m := map[string]any{"id": p.next, "method": method}
	if params != nil {
		m["params"] = params
	}
	if p.session != "" {
		m["sessionId"] = p.session
	}
	b, err := json.Marshal(m)
	if err != nil {
		return nil, err
	}
	c := make(chan answer, 1)
	p.wait[p.next] = c
	_, err = p.w.Write(append(b, 0))
	return c, err
}

func (p *plain) get(c chan answer, out any) error {
	select {
	case a, ok := <-c:
		switch {
		case !ok:
			return errors.New("the plain browser ended")
		case a.Error != nil:
			return fmt.Errorf("the plain browser answered %s", a.Error)
		case out != nil:
			return json.Unmarshal(a.Result, out)
		}
		return nil
	case <-time.After(20 * time.Second):
		return errors.New("the plain browser did not answer")
	}
}

func (p *plain) call(method string, params, out any) error {
	c, err := p.send(method, params)
	if err != nil {
		return err
	}
	return p.get(c, out)
}

// click is the three events of a click, sent at once and waited for.
func (p *plain) click(x, y int) error {
	var cs []chan answer
	for _, e := range []struct {
		kind, button   string
		buttons, count int
	}{{"mouseMoved", "none", 0, 0}, {"mousePressed", "left", 1, 1}, {"mouseReleased", "left", 0, 1}} {
		c, err := p.send("Input.dispatchMouseEvent", map[string]any{"type": e.kind, "x": x, "y": y, "button": e.button, "buttons": e.buttons,
			"clickCount": e.count, "modifiers": 0, "pointerType": "mouse"})
		if err != nil {
			return err
		}
		cs = append(cs, c)
	}
	var errs []error
	for _, c := range cs {
		errs = append(errs, p.get(c, nil))
	}
	return errors.Join(errs...)
}

// navigate waits for the load event.
func (p *plain) navigate(url string) error {
	select {
	case <-p.load:
	default:
	}
	var r struct {
		Error string `json:"errorText"`
	}
	if err := p.call("Page.navigate", map[string]any{"url": url}, &r); err != nil {
		return err
	}
	if r.Error != "" {
		return fmt.Errorf("navigate: %s", r.Error)
	}
	select {
	case <-p.load:
		return nil
	case <-time.After(30 * time.Second):
		return errors.New("the page did not load in the plain browser")
	}
}

// count is an expression's value in the page.
func (p *plain) count(expression string) (n int, err error) {
	var r struct {
		Result struct {
			Value int `json:"value"`
		} `json:"result"`
	}
	err = p.call("Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true}, &r)
	return r.Result.Value, err
}

// forward is a proxy that answers CONNECT by passing bytes on to the one origin.
func forward(to string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodConnect || !strings.HasPrefix(r.Host, iamHost+":") {
			http.Error(w, "only the origin", http.StatusForbidden)
			return
		}
		up, err := net.Dial("tcp", to)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		defer up.Close()
		down, buf, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer down.Close()
		io.WriteString(down, "HTTP/1.1 200 OK\r\n\r\n")
		go func() {
			io.Copy(up, buf)
			up.Close()
		}()
		io.Copy(down, up)
	})
}
