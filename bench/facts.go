package main

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/boundary"
	"github.com/sallyport-dev/sallyport/internal/certify"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/lease/leasetest"
	"github.com/sallyport-dev/sallyport/internal/surface/inference"
)

const (
	callSize      = 200 << 10
	measuredSize  = 12 << 10 // of it: prompt and tools
	streamEvents  = 2000
	boundaryFacts = 40
	lapsing       = 64 // tasks under one certification
	calledModel   = "bench-1"
)

// certified is a boundary that calls are held against, as the server's observer does.
type certified struct{ m boundary.Manifest }

func (c certified) Observe(_ context.Context, m inference.Measurement) error {
	seen := boundary.Measure{}
	switch m.Phase {
	case inference.AtRequest:
		seen = boundary.Measure{"model.requested": m.Model, "prompt.system": string(m.SystemDigest), "tools": string(m.ToolsDigest), "model.sampling": m.SamplingText("max_tokens"), "model.endpoint": m.Endpoint}
	case inference.AtResponse:
		seen = boundary.Measure{"model.id": m.Model, "model.account": m.Said.Account, "model.geo": m.Said.Geo}
	}
	if seen["model.id"] == "" && seen["prompt.system"] == "" {
		return nil
	}
	// The bench's manifest names none of these values: the differences are made, and
	// not acted on.
	_ = c.m.Drift(seen)
	return nil
}

type blind struct{}

func (blind) Observe(context.Context, inference.Measurement) error { return nil }

type allowing struct{}

func (allowing) Decide(gate.Facts) action.Decision {
	return action.Decision{Verdict: action.Allow, Layer: action.LayerGrant, Code: "bench"}
}

type benchKey struct{}

func (benchKey) Key(context.Context) (inference.Secret, error) {
	return inference.NewSecret("sk-bench"), nil
}

// measuring: what measuring a call of the model costs, and how soon a lapse is in force.
func (b *bench) measuring(ctx context.Context) (err error) {
	d, err := newDisk(ctx, filepath.Join(b.dir, "facts"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	var facts []boundary.Fact
	for i := range boundaryFacts {
		facts = append(facts, boundary.Fact{Name: fmt.Sprintf("fact.%d", i), Value: "v", Grade: boundary.Pinned})
	}
	m, err := boundary.New(agentName, facts)
	if err != nil {
		return err
	}
	if err := b.calls(d, m); err != nil {
		return err
	}
	return b.lapses(ctx, d, m)
}

func (b *bench) calls(d *disk, m boundary.Manifest) error {
	provider := httptest.NewTLSServer(http.HandlerFunc(answers))
	defer provider.Close()
	g := newGate()
	if err := g.Admit(gate.Admission{Tenant: tenantName, Task: taskName, Agent: agentName, Stage: action.Production, Tier: "privileged", Policy: allowing{}, Holds: nobody{}, Log: d.log,
		Deadline: time.Now().Add(12 * time.Hour), MaxActions: 1 << 40, HoldLimit: time.Second, Certified: func() error { return nil }}); err != nil {
		return err
	}
	start := func(o inference.Observer) (url string, stop func() error, err error) {
		s, err := inference.New(inference.Config{Tenant: tenantName, Task: taskName, Agent: agentName, Gate: g, Observer: o, Key: benchKey{}, Upstream: provider.URL,
			Roots: func() *x509.CertPool { p := x509.NewCertPool(); p.AddCert(provider.Certificate()); return p }()})
		if err != nil {
			return "", nil, err
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return "", nil, err
		}
		go s.Serve(l)
		return "http://" + l.Addr().String() + "/v1/messages", s.Close, nil
	}
	seeing, stop, err := start(certified{m})
	if err != nil {
		return err
	}
	defer stop()
	unseeing, stop2, err := start(blind{})
	if err != nil {
		return err
	}
	defer stop2()
	var whole, stream pair
	for i := range b.rounds + 1 {
		if i == 1 { // the first one warms up
			whole, stream = pair{}, pair{}
		}
		if err := errors.Join(whole.each(b.n(100), call(seeing, callBody(measuredSize, false)), call(unseeing, callBody(0, false))),
			stream.each(b.n(20), call(seeing, callBody(measuredSize, true)), call(unseeing, callBody(measuredSize, true)))); err != nil {
			return err
		}
	}
	_, base := whole.p50()
	b.add(row{"measuring a call of the model of 200 KiB, p50 added", added(whole.added(), base+whole.added()), short(base) + " not measured", times(whole.ratio()), "under 300 µs", whole.added() < 300*time.Microsecond})
	own, base := stream.p50()
	b.add(row{fmt.Sprintf("a measured stream of %d events, p50", streamEvents), short(own), short(base) + " not measured", times(stream.ratio()), "under 1.02x", stream.ratio() < 1.02})
	b.note("**Measuring.** Calls through the inference surface to a provider on the loopback over TLS, with the decision and the outcome on the disk. Measured: %d KiB of the call are prompt and tools, "+
		"and what is seen is held against a boundary of %d facts. Not measured: a call of the same size without prompt and tools, and an observer that does nothing.", measuredSize>>10, boundaryFacts)
	return nil
}

// answers a message, or a stream of many small events.
func answers(w http.ResponseWriter, r *http.Request) {
	raw, _ := io.ReadAll(r.Body)
	if !bytes.Contains(raw, []byte(`"stream":true`)) {
		w.Header().Set("Content-Type", "application/json")
		io.WriteString(w, `{"type":"message","model":"`+calledModel+`","content":[],"stop_reason":"end_turn","usage":{"inference_geo":"eu"}}`)
		return
	}
	w.Header().Set("Content-Type", "text/event-stream")
	io.WriteString(w, "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\""+calledModel+"\"}}\n\n")
	for range streamEvents {
		io.WriteString(w, "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\"some words\"}}\n\n")
	}
	io.WriteString(w, "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"}}\n\nevent: message_stop\ndata: {\"type\":\"message_stop\"}\n\n")
}

// callBody is a call of callSize, with so many bytes of it in prompt and tools.
func callBody(measured int, stream bool) []byte {
	doc := map[string]any{"model": calledModel, "max_tokens": 100, "temperature": 0.2}
	if measured > 0 {
		doc["system"] = strings.Repeat("p", measured/2)
		doc["tools"] = []any{map[string]any{"name": "t", "description": strings.Repeat("d", measured/2), "input_schema": map[string]any{"type": "object"}}}
	}
	if stream {
		doc["stream"] = true
	}
	doc["messages"] = []any{map[string]any{"role": "user", "content": strings.Repeat("m", callSize-measured)}}
	b, err := json.Marshal(doc)
	if err != nil {
		panic("bench: " + err.Error())
	}
	return b
}

func call(url string, body []byte) func() (time.Duration, error) {
	return func() (time.Duration, error) {
		return timed(func() error {
			resp, err := http.Post(url, "application/json", bytes.NewReader(body))
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			text, err := io.ReadAll(resp.Body)
			if err == nil && resp.StatusCode != http.StatusOK {
				err = fmt.Errorf("the model answered %d: %.200s", resp.StatusCode, text)
			}
			return err
		})
	}
}

// lapses takes the time from a drift that was seen to where nothing of the tasks under
// the certification passes and the lapse is on the disk.
func (b *bench) lapses(ctx context.Context, d *disk, m boundary.Manifest) error {
	n := 0
	e, err := certify.Open(ctx, d.log, leasetest.Plain{}, func() string { n++; return fmt.Sprintf("c-%08d", n) })
	if err != nil {
		return err
	}
	var all samples
	for range b.n(100) {
		c := certify.Certification{Agent: agentName, Stage: action.Production, Manifest: m, Author: "mara", Suites: []certify.Suite{{Name: "bench", Scenarios: []certify.Scenario{{Name: "s", Kind: certify.Benign, Trials: 1, Passed: 1}}}}}
		if c, err = e.Record(ctx, c, time.Hour, nil); err != nil {
			return err
		}
		if _, err = e.Issue(ctx, c.ID, "", certify.Verifier{ID: "spiffe://bench.example/boundary", Resource: "spiffe://bench.example/agent/" + agentName, Tier: "privileged"}, nil); err != nil {
			return err
		}
		g := newGate()
		for i := range lapsing {
			if err := g.Admit(gate.Admission{Tenant: tenantName, Task: callerTask(i), Agent: agentName, Stage: action.Production, Policy: allowing{}, Holds: nobody{}, Log: d.log,
				Deadline: time.Now().Add(time.Hour), MaxActions: 1, HoldLimit: time.Second, Certified: func() error { return nil }}); err != nil {
				return err
			}
		}
		took, err := timed(func() error {
			return e.Lapse(ctx, agentName, action.Production, certify.Lapse{Code: "drift", Changes: []boundary.Change{{Name: "model.id", Old: "a", New: "b"}}},
				func() { g.Shut(func(gate.Admission) bool { return true }, "lapsed", "bench") })
		})
		if err != nil {
			return err
		}
		all = append(all, took)
	}
	b.add(row{fmt.Sprintf("lapse of a certification with %d tasks, on the disk, p99", lapsing), short(all.p99()), "", "", "under 50 ms", all.p99() < 50*time.Millisecond})
	b.note("**Lapse.** From the difference that was seen to `certify.Engine.Lapse` returned: the certification is gone, the gate of every task under it is shut, and the record is durable. Taking the tasks down " +
		"begins there. How long it takes until a change is seen at all is in [what ends a certification](certification.md#what-ends-a-certification).")
	return nil
}
