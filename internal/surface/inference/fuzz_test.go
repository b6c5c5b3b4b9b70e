package inference

import (
	"bytes"
	"maps"
	"testing"
)

// Whatever a provider sends, what goes out reads back as exactly what was
// observed: no event can hide in the form of another.
func FuzzEvents(f *testing.F) {
	f.Add([]byte("event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"m\"}}\n\n"))
	f.Add([]byte("\xef\xbb\xbfdata: {\"type\":\"ping\",\ndata: \"x\":1}\r\n\r\n:c\rdata:{\"type\":\"a\"}\r\r"))
	f.Fuzz(func(t *testing.T, b []byte) {
		var facts []fact
		var out bytes.Buffer
		in, skip := newEvents(bytes.NewReader(b)), false
		for {
			ev, err := in.next(&skip)
			if err != nil {
				break
			}
			x, err := ev.read()
			if err != nil {
				break
			}
			facts = append(facts, x)
			if err := ev.write(&out, x); err != nil {
				t.Fatal(err)
			}
		}
		again, skip := newEvents(&out), false
		for i, want := range facts {
			ev, err := again.next(&skip)
			if err != nil {
				t.Fatalf("event %d of %d: %v", i, len(facts), err)
			}
			if got, err := ev.read(); err != nil || got != want || ev.name != want.Type {
				t.Fatalf("event %d: got %+v (%v), want %+v", i, got, err, want)
			}
		}
		if _, err := again.next(&skip); err == nil {
			t.Fatal("more events came out than went in")
		}
	})
}

// A request that is read is one strict document with a known shape; reading
// must not depend on anything but its bytes.
func FuzzMessage(f *testing.F) {
	f.Add([]byte(`{"model":"m","max_tokens":1,"system":[{"type":"text","text":"a"}],"tools":[{"type":"computer_20251124","name":"computer"}],"messages":[{"role":"user","content":[{"type":"tool_result","content":[{"type":"image","source":{"type":"base64","data":"AA"}}]}]}]}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		m, why := readMessage(b, 1<<20, nil)
		if why != nil {
			return
		}
		if n, why := readMessage(b, 1<<20, nil); why != nil || n.SystemDigest != m.SystemDigest || n.ToolsDigest != m.ToolsDigest || !maps.Equal(n.Sampling, m.Sampling) {
			t.Fatal("two readings differ")
		}
		if m.Model == "" || m.SystemDigest == "" || m.ToolsDigest == "" {
			t.Fatalf("accepted without measurement: %+v", m)
		}
	})
}
