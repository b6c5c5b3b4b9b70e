package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/browser"
	"github.com/sallyport-dev/sallyport/internal/connector"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/surface/computer"
	"github.com/sallyport-dev/sallyport/internal/surface/egress"
)

// rig is both doors of one session in front of one origin.
type rig struct {
	origin  *origin
	sample  *sample
	disk    *disk
	gate    *gate.Gate
	journal *computer.Journal
	door    *egress.Proxy // serves the browser and one loopback address
	addr    string
	close   []func() error
}

func (r *rig) Close() error {
	var errs []error
	for i := len(r.close) - 1; i >= 0; i-- {
		errs = append(errs, r.close[i]())
	}
	return errors.Join(errs...)
}

// newRig admits one task on an own ledger.
func newRig(ctx context.Context, dir string) (_ *rig, err error) {
	r := &rig{journal: computer.NewJournal(nil), gate: newGate()}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Close())
		}
	}()
	if r.origin, err = newOrigin(); err != nil {
		return nil, err
	}
	r.close = append(r.close, r.origin.http.Close)
	if r.sample, err = newSample(r.origin.port, r.origin.ca.pem()); err != nil {
		return nil, err
	}
	if r.disk, err = newDisk(ctx, dir); err != nil {
		return nil, err
	}
	r.close = append(r.close, r.disk.Close)
	guardrails, err := r.sample.guardrails(policies, scoped)
	if err != nil {
		return nil, err
	}
	if err := r.sample.admit(r.gate, r.disk, guardrails, taskName); err != nil {
		return nil, err
	}
	if r.door, err = r.newDoor(taskName, r.journal); err != nil {
		return nil, err
	}
	r.close = append(r.close, r.door.Close)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	r.addr = l.Addr().String()
	go r.door.Serve(l)
	return r, nil
}

// newDoor is the egress door of a task, as a session has it: with a cookie of
// the boundary to add and to look for in what comes back.
func (r *rig) newDoor(task string, in egress.Explainer) (*egress.Proxy, error) {
	roots := r.origin.ca.pool()
	return egress.New(egress.Config{Tenant: tenantName, Task: task, Agent: agentName, Source: "browser", Stage: action.Production, Gate: r.gate,
		Connectors: recognizer{r.sample.connectors}, Credentials: cookie("0a1b2c3d4e5f60718293a4b5c6d7e8f9"), Inputs: in,
		Redactor: cookie("0a1b2c3d4e5f60718293a4b5c6d7e8f9"), RootsFor: func(string) *x509.CertPool { return roots }})
}

// recognizer speaks connector to the door, as a server's session does.
type recognizer struct{ set *connector.Set }

func (c recognizer) Recognize(r action.Request, body []byte) (egress.Recognized, error) {
	m, err := c.set.Recognize(action.Production, r, body)
	if err != nil || !m.Allowed {
		return egress.Recognized{Effect: m.Effect}, err
	}
	out := egress.Recognized{App: m.Connector, Effect: m.Effect, Params: m.Params, Labels: m.Labels, Allowed: true, AllowLocal: m.Local}
	if m.Matched {
		out.Operation = m.Operation
	}
	return out, nil
}

// cookie is the session of the application that the boundary holds.
type cookie string

func (c cookie) Inject(_ context.Context, r *http.Request) error {
	r.AddCookie(&http.Cookie{Name: "__Host-session", Value: string(c)})
	return nil
}
func (cookie) Observe(*http.Response)     {}
func (c cookie) Secrets() []egress.Secret { return []egress.Secret{egress.Secret(c)} }

// doors: what a request through door 2, a page, and a click through door 1 cost.
func (b *bench) doors(ctx context.Context) (err error) {
	r, err := newRig(ctx, filepath.Join(b.dir, "doors"))
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
	version, _, kind := managed.Facts()
	b.fact("Browser", fmt.Sprintf("%s (%s), contained", version, kind))
	if err := b.clicks(ctx, r, managed, bare); err != nil {
		return fmt.Errorf("click: %w", err)
	}
	if err := b.requests(ctx, r); err != nil {
		return fmt.Errorf("request: %w", err)
	}
	if err := b.proxies(ctx, r); err != nil {
		return fmt.Errorf("proxies: %w", err)
	}
	return b.pages(ctx, r, managed, bare)
}

func (b *bench) clicks(ctx context.Context, r *rig, managed *browser.Browser, bare *plain) error {
	door, err := computer.New(computer.Config{Tenant: tenantName, Task: taskName, Agent: agentName, Gate: r.gate, Screen: screen{managed},
		Journal: r.journal, Width: 1280, Height: 800, AppOf: func(o string) string {
			if o == r.origin.url("") {
				return "iam"
			}
			return ""
		}})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go door.Serve(l)
	defer door.Close()
	if err := errors.Join(managed.Navigate(ctx, r.origin.url(buttonPath)), bare.navigate(r.origin.url(buttonPath))); err != nil {
		return err
	}
	const x, y = 200, 130
	body := fmt.Sprintf(`{"actions":[{"type":"left_click","x":%d,"y":%d}]}`, x, y)
	at := "http://" + l.Addr().String() + "/v1/actions"
	guarded := func() (time.Duration, error) { return timed(func() error { return post(ctx, at, body) }) }
	sent := 0
	direct := func() (time.Duration, error) { sent++; return timed(func() error { return bare.click(x, y) }) }
	var p pair
	for i := range b.rounds + 1 {
		var round pair
		if err := round.each(b.n(50), guarded, direct); err != nil {
			return err
		}
		if i > 0 {
			p.own, p.base = append(p.own, round.own...), append(p.base, round.base...)
		}
	}
	if n, err := bare.count("n"); err != nil || n != sent {
		return fmt.Errorf("the plain browser's page counted %d of %d clicks: %v", n, sent, err)
	}
	own, base := p.p50()
	all, none := pool(p.own), pool(p.base)
	p99 := all.p99() - none.p50()
	b.add(row{"click through door 1, p50 added", added(p.added(), own), short(base) + " bare", times(p.ratio()), "under 15 ms", p.added() < 15*time.Millisecond},
		row{"click through door 1, p99 added", added(p99, all.p99()), short(none.p50()) + " bare p50", times(float64(all.p99()) / float64(none.p50())), "under 50 ms", p99 < 50*time.Millisecond})
	b.note("**Click.** One left click on a button: an HTTP request to the computer surface, grounding, the gate with %d guardrails, the durable "+
		"record, grounding again, arming the guard, the three input events, the guard's confirmation, and the outcome's durable record. Bare: the "+
		"same three events over the protocol pipe of a second Chromium with the same flags and containment, without guard or gate (the managed one "+
		"takes no input from anybody else). p99 is over all rounds together (%d clicks) and is held against the p50 of bare clicks; theirs is %s.",
		policies, len(all), short(none.p99()))
	return nil
}

func pool(rounds []samples) samples {
	var all samples
	for _, r := range rounds {
		all = append(all, r...)
	}
	return all
}

// post sends one action to a computer door, which must do it.
func post(ctx context.Context, at, body string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, at, strings.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	var out struct {
		Results []struct{ Status, Code, Message string }
	}
	if err := json.NewDecoder(resp.Body).Decode(&out); err != nil {
		return err
	}
	if _, err := io.Copy(io.Discard, resp.Body); err != nil { // until the end, so that the door is free again
		return err
	}
	if len(out.Results) != 1 || out.Results[0].Status != "done" {
		return fmt.Errorf("an action was not done: %s %+v", resp.Status, out.Results)
	}
	return nil
}

func (b *bench) requests(ctx context.Context, r *rig) error {
	through := r.client(r.door.CAPEM(), r.addr, true)
	direct := r.client(r.origin.ca.pem(), "", true)
	get := func(c *http.Client) func() (time.Duration, error) {
		return func() (time.Duration, error) {
			return timed(func() error { return getKiB(ctx, c, r.origin.url(kibPath)) })
		}
	}
	var p pair
	for i := range b.rounds + 1 {
		var round pair
		if err := round.each(b.n(100), get(through), get(direct)); err != nil {
			return err
		}
		if i > 0 {
			p.own, p.base = append(p.own, round.own...), append(p.base, round.base...)
		}
	}
	own, base := p.p50()
	b.add(row{"1 KiB request through door 2, p50 added", added(p.added(), own), short(base) + " direct", times(p.ratio()), "under 3 ms", p.added() < 3*time.Millisecond})
	b.note("**Request.** A Go client, HTTP/2 over warm TLS connections, 1 KiB answers. Through the door: strict reading, recognition by the sample's "+
		"connector, the gate with %d guardrails, two durable records, a cookie added, a second TLS connection, and the answer searched for the "+
		"cookie's value. Direct: the same client and origin without the door.", policies)
	return nil
}

// client reaches the origin, through the proxy at an address or without one.
func (r *rig) client(ca []byte, proxy string, http2 bool) *http.Client {
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(ca)
	t := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, Protocols: new(http.Protocols), DisableCompression: true, MaxIdleConnsPerHost: parallel}
	t.Protocols.SetHTTP1(!http2)
	t.Protocols.SetHTTP2(http2)
	if proxy != "" {
		t.Proxy = http.ProxyURL(&url.URL{Scheme: "http", Host: proxy})
	} else {
		t.DialContext = r.origin.connect
	}
	return &http.Client{Transport: t, Timeout: 20 * time.Second}
}

func getKiB(ctx context.Context, c *http.Client, u string) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return err
	}
	resp, err := c.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && (resp.StatusCode != http.StatusOK || len(body) != len(kib)) {
		err = fmt.Errorf("%s and %d bytes: %s", resp.Status, len(body), resp.Header.Get("Sallyport-Decision"))
	}
	return err
}

func (b *bench) pages(ctx context.Context, r *rig, managed *browser.Browser, bare *plain) error {
	u := r.origin.url(pagePath)
	var p pair
	for i := range b.rounds + 1 {
		var round pair
		err := round.each(b.n(4),
			func() (time.Duration, error) { return timed(func() error { return managed.Navigate(ctx, u) }) },
			func() (time.Duration, error) { return timed(func() error { return bare.navigate(u) }) })
		if err != nil {
			return err
		}
		if i > 0 {
			p.own, p.base = append(p.own, round.own...), append(p.base, round.base...)
		}
	}
	if n, err := bare.count("[...document.images].filter(i=>i.naturalWidth>0).length"); err != nil || n != resources {
		return fmt.Errorf("the plain browser shows %d of %d images: %v", n, resources, err)
	}
	if err := r.gallery(ctx); err != nil {
		return err
	}
	own, base := p.p50()
	b.add(row{fmt.Sprintf("page with %d sub-resources through door 2, p50", resources), short(own), short(base) + " plain proxy", times(p.ratio()), "under 1.5x", p.ratio() < 1.5})
	b.note("**Page.** Navigation until the load event, nothing from a cache, in real Chromium; every one of the %d requests is decided and recorded "+
		"twice. Direct: the second Chromium, whose only way out is a proxy in its namespace that passes bytes on and decides nothing.", resources+1)
	return nil
}
