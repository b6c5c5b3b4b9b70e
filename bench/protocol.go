package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"time"

	"github.com/coder/websocket"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/browser"
	"github.com/sallyport-dev/sallyport/internal/surface/cdp"
	"github.com/sallyport-dev/sallyport/internal/surface/computer"
	"github.com/sallyport-dev/sallyport/internal/surface/egress"
)

// protocol: what a message of the DevTools protocol and a picture cost through
// the boundary, and how long a session takes until its first picture.
func (b *bench) protocol(ctx context.Context) (err error) {
	r, err := newRig(ctx, filepath.Join(b.dir, "protocol"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	managed, err := browser.Launch(ctx, browser.Config{TrustSPKI: r.door.SPKI()})
	if err != nil {
		return err
	}
	defer managed.Close()
	go r.door.Serve(managed.ProxyListener())
	bare, err := newPlain(ctx, managed, r.origin)
	if err != nil {
		return err
	}
	defer bare.Close()
	if err := errors.Join(managed.Navigate(ctx, r.origin.url(buttonPath)), bare.navigate(r.origin.url(buttonPath))); err != nil {
		return err
	}
	c, err := r.driver(ctx, managed, taskName, r.journal)
	if err != nil {
		return err
	}
	defer c.Close()
	if err := b.messages(ctx, c, bare); err != nil {
		return fmt.Errorf("message: %w", err)
	}
	if err := b.pictures(ctx, r, managed, bare); err != nil {
		return fmt.Errorf("picture: %w", err)
	}
	return b.ready(ctx)
}

// driver is a client's connection to the protocol's door, attached to the page.
type driver struct {
	door    *cdp.Server
	ws      *websocket.Conn
	next    int
	session string
}

func (r *rig) driver(ctx context.Context, managed *browser.Browser, task string, j *computer.Journal) (*driver, error) {
	version, _, _ := managed.Facts()
	door, err := cdp.New(cdp.Config{Tenant: tenantName, Task: task, Agent: agentName, Profile: cdp.Open, Version: version, Width: 1280, Height: 800,
		Gate: r.gate, Journal: inputs{j}, AppOf: func(string) string { return "iam" },
		Open: func(e cdp.Events) (cdp.Upstream, error) { return managed.OpenClient(browser.ClientEvents(e)) }})
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	go door.Serve(l)
	c := &driver{door: door}
	var about struct {
		URL string `json:"webSocketDebuggerUrl"`
	}
	if err := getJSON(ctx, "http://"+l.Addr().String()+"/json/version", &about); err != nil {
		return nil, errors.Join(err, door.Close())
	}
	if c.ws, _, err = websocket.Dial(ctx, about.URL, nil); err != nil {
		return nil, errors.Join(err, door.Close())
	}
	c.ws.SetReadLimit(16 << 20)
	if _, err := c.call(ctx, "Target.setAutoAttach", `{"autoAttach":true,"waitForDebuggerOnStart":false,"flatten":true}`); err != nil {
		return nil, errors.Join(err, c.Close())
	}
	for c.session == "" {
		if _, err := c.read(ctx); err != nil {
			return nil, errors.Join(err, c.Close())
		}
	}
	return c, nil
}

func (c *driver) Close() error {
	if c.ws != nil {
		c.ws.CloseNow()
	}
	return c.door.Close()
}

type reply struct {
	ID     int             `json:"id"`
	Method string          `json:"method"`
	Result json.RawMessage `json:"result"`
	Error  json.RawMessage `json:"error"`
}

func (c *driver) read(ctx context.Context) (reply, error) {
	var m reply
	_, raw, err := c.ws.Read(ctx)
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(raw, &m); err != nil {
		return m, err
	}
	if m.Method == "Target.attachedToTarget" {
		var e struct {
			Params struct {
				Session string `json:"sessionId"`
			} `json:"params"`
		}
		if err := json.Unmarshal(raw, &e); err != nil {
			return m, err
		}
		c.session = e.Params.Session
	}
	return m, nil
}

func (c *driver) call(ctx context.Context, method, params string) (json.RawMessage, error) {
	c.next++
	session := ""
	if c.session != "" {
		session = `,"sessionId":"` + c.session + `"`
	}
	err := c.ws.Write(ctx, websocket.MessageText, fmt.Appendf(nil, `{"id":%d,"method":%q,"params":%s%s}`, c.next, method, params, session))
	for err == nil {
		var m reply
		if m, err = c.read(ctx); err == nil && m.ID == c.next {
			if m.Error != nil {
				err = fmt.Errorf("%s: %s", method, m.Error)
			}
			return m.Result, err
		}
	}
	return nil, err
}

// inputs tells the journal of a driver's inputs, as a session does.
type inputs struct{ j *computer.Journal }

func (i inputs) Note(id, kind, key string, e action.Element) {
	i.j.Note(id, computer.Input{Kind: computer.Kind(kind), Key: key}, e)
}

func (i inputs) Forget(id string) { i.j.Forget(id) }

func (b *bench) messages(ctx context.Context, c *driver, bare *plain) error {
	const expression = `document.title`
	own := func() (time.Duration, error) {
		return timed(func() error { _, err := c.call(ctx, "Runtime.evaluate", `{"expression":"`+expression+`"}`); return err })
	}
	base := func() (time.Duration, error) {
		return timed(func() error { return bare.call("Runtime.evaluate", map[string]any{"expression": expression}, nil) })
	}
	p, err := b.alternate(300, own, base)
	if err != nil {
		return err
	}
	mine, other := p.p50()
	all, none := pool(p.own), pool(p.base)
	p99 := all.p99() - none.p50()
	b.add(row{"protocol message through its door, p50 added", added(p.added(), mine), short(other) + " bare", times(p.ratio()), "under 0.2 ms", p.added() < 200*time.Microsecond},
		row{"protocol message through its door, p99 added", added(p99, all.p99()), short(none.p50()) + " bare p50", times(float64(all.p99()) / float64(none.p50())), "under 1 ms", p99 < time.Millisecond})
	b.note("**Message.** `Runtime.evaluate` of `%s` by a WebSocket client, profile open: strict parsing, the table of methods, numbers and names of our own, "+
		"the pipe, and the same way back. Bare: the same over the pipe of the second Chromium.", expression)
	return nil
}

// alternate is all rounds of a comparison but the first one, which warms up.
func (b *bench) alternate(n int, own, base func() (time.Duration, error)) (p pair, err error) {
	for i := range b.rounds + 1 {
		var round pair
		if err := round.each(b.n(n), own, base); err != nil {
			return p, err
		}
		if i > 0 {
			p.own, p.base = append(p.own, round.own...), append(p.base, round.base...)
		}
	}
	return p, nil
}

func (b *bench) pictures(ctx context.Context, r *rig, managed *browser.Browser, bare *plain) error {
	door, err := computer.New(computer.Config{Tenant: tenantName, Task: taskName, Agent: agentName, Gate: r.gate, Screen: screen{managed},
		Journal: r.journal, Width: 1280, Height: 800, AppOf: func(string) string { return "iam" }})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go door.Serve(l)
	defer door.Close()
	at := "http://" + l.Addr().String() + "/v1/actions"
	shoot := func() error { return post(ctx, at, `{"actions":[{"type":"screenshot"}]}`) }
	bareShoot := func() error {
		var out struct {
			Data []byte `json:"data"`
		}
		err := bare.call("Page.captureScreenshot", map[string]any{"format": "png", "optimizeForSpeed": true}, &out)
		if err == nil && len(out.Data) == 0 {
			err = errors.New("no picture")
		}
		return err
	}
	p, err := b.alternate(20, spread(shoot), spread(bareShoot))
	if err != nil {
		return err
	}
	mine, other := p.p50()
	b.add(row{"picture of 1280x800 through door 1, p50", short(mine), short(other) + " bare", times(p.ratio()), "under 1.05x", p.ratio() < 1.05})
	b.note("**Picture.** A screenshot by the computer surface, decided, recorded as encrypted evidence before it leaves, and sent as base64 in JSON. Bare: " +
		"`Page.captureScreenshot` with the same options over the pipe, decoded. Chromium draws 60 times a second and a picture waits for that, so each begins " +
		"at another moment between two drawings; one begun right after the last would always meet the same.")
	return nil
}

// spread times f, begun at moments that lie evenly between two frames of the
// browser.
func spread(f func() error) func() (time.Duration, error) {
	const frame = time.Second / 60
	n := 0
	return func() (time.Duration, error) {
		n++
		time.Sleep(frame * time.Duration(n*13%20) / 20)
		return timed(f)
	}
}

// ready: from nothing, or from a pool that is full, to the first picture of a
// contained browser with its guard.
func (b *bench) ready(ctx context.Context) error {
	none, warm := browser.NewPool(0, egress.NewKeys), browser.NewPool(1, egress.NewKeys)
	defer warm.Close()
	session := func(p *browser.Pool[*egress.Keys]) (time.Duration, error) {
		return timed(func() error {
			m, _, err := p.Take(ctx, browser.Config{})
			if err != nil {
				return err
			}
			defer m.Close()
			_, err = m.Screenshot(ctx)
			return err
		})
	}
	var cold, ready samples
	for i := range max(3, b.n(12)) + 1 {
		c, err := session(none)
		if err != nil {
			return err
		}
		if i > 0 {
			if err := full(ctx, warm); err != nil {
				return err
			}
		}
		w, err := session(warm)
		if err != nil {
			return err
		}
		if i > 0 { // the first one reads Chromium from the disk, and finds an empty pool
			cold, ready = append(cold, c), append(ready, w)
		}
	}
	m, _, err := none.Take(ctx, browser.Config{})
	if err != nil {
		return err
	}
	defer m.Close()
	cost, err := treePSS(m.Process().PID())
	if err != nil {
		return err
	}
	b.add(row{"session ready, cold, p50", short(cold.p50()), "", "", "under 400 ms", cold.p50() < 400*time.Millisecond},
		row{"session ready, from a warm pool, p50", short(ready.p50()), short(cold.p50()) + " cold", times(float64(ready.p50()) / float64(cold.p50())), "under 120 ms", ready.p50() < 120*time.Millisecond},
		row{"a browser that waits in the pool, memory", mib(cost), "", "", "", false})
	b.note("**Session ready.** Cold: namespaces, Chromium, its guard, the first picture, and the end of it again. From a warm pool: the same of a browser that was started " +
		"before, with keys of its own, and is ended with this use (`sallyport up --warm-browsers`, off unless asked for). Memory is the proportional set " +
		"size (PSS) of its processes.")
	return nil
}

// full waits until a browser waits.
func full(ctx context.Context, p *browser.Pool[*egress.Keys]) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	for p.Idle() == 0 {
		select {
		case <-time.After(20 * time.Millisecond):
		case <-ctx.Done():
			return errors.New("no browser waits in the pool")
		}
	}
	return nil
}

func getJSON(ctx context.Context, u string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	return json.NewDecoder(resp.Body).Decode(into)
}
