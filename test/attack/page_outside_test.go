package attack

import (
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// bells are listeners on this host, for TCP and UDP on both loopback addresses
// and one port, that nothing inside may ring.
type bells struct {
	port string
	mu   sync.Mutex
	rung []string
}

func ringable(t *testing.T) *bells {
	t.Helper()
	b := &bells{}
	ring := func(what string, from net.Addr) {
		b.mu.Lock()
		b.rung = append(b.rung, fmt.Sprintf("%s from %s", what, from))
		b.mu.Unlock()
	}
	first, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, b.port, _ = net.SplitHostPort(first.Addr().String())
	listeners := []net.Listener{first}
	if l, err := net.Listen("tcp6", "[::1]:"+b.port); err == nil { // where there is IPv6
		listeners = append(listeners, l)
	}
	for _, l := range listeners {
		t.Cleanup(func() { l.Close() })
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				ring("tcp", c.RemoteAddr())
				c.Close()
			}
		}()
	}
	for _, addr := range []string{"127.0.0.1:" + b.port, "[::1]:" + b.port} {
		p, err := net.ListenPacket("udp", addr)
		if err != nil {
			continue // where there is no IPv6
		}
		t.Cleanup(func() { p.Close() })
		go func() {
			for buf := make([]byte, 2048); ; {
				_, from, err := p.ReadFrom(buf)
				if err != nil {
					return
				}
				ring("udp", from)
			}
		}()
	}
	return b
}

func (b *bells) silent(t *testing.T) {
	t.Helper()
	time.Sleep(100 * time.Millisecond) // for what is on its way
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.rung {
		t.Errorf("a listener outside was reached: %s", s)
	}
}

// A script in a ticket looks for a way out that is not door 2: loopback and
// link-local addresses in every spelling that browsers read, which browsers ask
// without a proxy if they may; the ports on which the doors, and debuggers, would
// be; sockets that know no proxy. Nothing of this host may be reached, and
// whatever came to door 2 must have been refused there by its true address.
//
// Threats: T8, T37, T40, A1, A2, A3, A4, A6, A7, A8, A9, A10, A11, B1, B2, B7, H1, H2 (form, guardrail, containment); T38, T39, H8 (containment, browser)
func TestPageLooksForAnotherWayOut(t *testing.T) {
	b := ringable(t)
	var urls []string
	for _, host := range []string{"127.0.0.1", "localhost", "x.localhost", "LOCALHOST.", "[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::]", "0.0.0.0", "0", "127.1", "127.0.1",
		"2130706433", "0x7f000001", "0x7f.1", "0177.0.0.1", "017700000001", "127.0.0.1.", "%31%32%37.0.0.1", "①②⑦.⓪.⓪.①", "127。0。0。1", "１２７.0.0.1", "lo\u00adcalhost", "user:pw@127.0.0.1",
		"allowed.example@127.0.0.1", "169.254.169.254", "[::ffff:169.254.169.254]", "[64:ff9b::7f00:1]", "[64:ff9b:1::7f00:1]", "[2002:7f00:1::]", "[fe80::1]", "100.100.100.200", "[fd00:ec2::254]"} {
		urls = append(urls, "http://"+host+":"+b.port+"/n")
	}
	p := "127.0.0.1:" + b.port
	urls = append(urls, "https://"+p+"/n", "http:\\\\"+p+"/n", "http:/"+p+"/n", "ht\ntp://"+p+"/n", "http://127.0\t.0.1:"+b.port+"/n", "//"+p+"/n", "\\\\"+p+"\\n",
		"http://iam.sandbox.brightwell.localhost\\@"+p+"/n", "http://"+p+"#@iam.sandbox.brightwell.localhost/n", "ws://"+p+"/n", "ftp://"+p+"/n")
	// Names that look like a governed one, or are none.
	urls = append(urls, "http://iаm.sandbox.brightwell.localhost:"+b.port+"/n", "http://iam.sandbox.brightwell.localhost.:"+b.port+"/n", "http://xn--iam-.localhost:"+b.port+"/n", "http://xn--example-.com:"+b.port+"/n")
	// The doors' own ports inside, and where debuggers listen.
	for _, port := range []string{"3128", "8601", "8602", "9222", "9229"} {
		urls = append(urls, "http://127.0.0.1:"+port+"/json/version", "http://localhost:"+port+"/json/list")
	}
	list, _ := json.Marshal(urls) // strings
	script := `(() => {
const port = ` + b.port + `, outside = '127.0.0.1:' + port, go = f => { try { const p = f(); if (p && p.catch) p.catch(() => {}) } catch (e) {} };
const done = [];
for (const u of ` + string(list) + `) go(() => u.startsWith('ws') ? new WebSocket(u) : fetch(u, {mode: 'no-cors'}).then(() => done.push(u)));
for (const m of ['POST', 'PUT']) go(() => fetch('http://127.0.0.1:8601/v1/actions', {method: m, mode: 'no-cors', body: '{"actions":[{"type":"screenshot"}]}'}));
for (const how of ['stun:' + outside, 'turn:' + outside + '?transport=udp', 'turn:' + outside + '?transport=tcp', 'turns:' + outside]) go(() => {
  const c = new RTCPeerConnection({iceServers: [{urls: how, username: 'a', credential: 'b'}]});
  c.createDataChannel('x'); return c.createOffer().then(o => c.setLocalDescription(o));
});
go(() => { const c = new RTCPeerConnection; c.createDataChannel('x'); return c.setRemoteDescription({type: 'offer', sdp: ['v=0', 'o=- 1 1 IN IP4 127.0.0.1', 's=-', 't=0 0', 'a=group:BUNDLE 0', 'a=ice-ufrag:aaaa', 'a=ice-pwd:aaaaaaaaaaaaaaaaaaaaaaaa', 'a=fingerprint:sha-256 ' + Array(32).fill('AA').join(':'),
  'm=application 9 UDP/DTLS/SCTP webrtc-datachannel', 'c=IN IP4 127.0.0.1', 'a=setup:actpass', 'a=mid:0', 'a=sctp-port:5000', 'a=candidate:1 1 udp 1 127.0.0.1 ' + port + ' typ host', ''].join('\r\n')}).then(() => c.createAnswer()).then(a => c.setLocalDescription(a)) });
go(() => new WebTransport('https://' + outside + '/n').ready);
for (const rel of ['dns-prefetch', 'preconnect', 'prefetch']) go(() => document.head.append(Object.assign(document.createElement('link'), {rel, href: 'http://' + outside})));
const s = document.createElement('script'); s.type = 'speculationrules';
s.textContent = JSON.stringify({prerender: [{source: 'list', urls: ['http://' + outside + '/n']}], prefetch: [{source: 'list', urls: ['http://' + outside + '/n']}]});
document.head.append(s);
for (const u of ['file:///etc/passwd', 'chrome://version', 'devtools://devtools', 'view-source:http://' + outside, 'filesystem:http://' + outside + '/x']) {
  go(() => window.open(u)); go(() => { const f = document.createElement('iframe'); f.src = u; document.body.append(f) }); go(() => fetch(u));
}
setTimeout(() => fetch('/static/done?' + encodeURIComponent(JSON.stringify(done))), 1500);
})()`
	r, tap := hostile(t, script, nil)
	ds := visit(t, r, "wait:2500")
	b.silent(t)
	done := tap.arrived(func(x request) bool { return strings.HasPrefix(x.uri, "/static/done?") })
	if len(done) != 1 {
		t.Fatalf("the script came to its end %d times", len(done))
	}
	refused := map[string]bool{}
	for _, d := range ds {
		if d.Action.Surface != action.Egress {
			continue
		}
		o := d.Action.Params["origin"]
		if d.Action.Request != nil {
			o = d.Action.Request.Origin
		}
		own := strings.HasPrefix(o, "https://iam.") || strings.HasPrefix(o, "https://tickets.")
		switch {
		case d.Decision.Verdict == action.Allow && !own:
			t.Errorf("let through: %s", rig.Say(d))
		case d.Decision.Verdict != action.Allow:
			refused[o+" "+d.Decision.Code] = true
		}
	}
	// Whatever the spelling, it is one of these at door 2.
	for _, want := range []string{"http://127.0.0.1:" + b.port + " address_literal", "https://" + p + " address_literal", "http://localhost:" + b.port + " ungoverned_origin",
		"http://x.localhost:" + b.port + " ungoverned_origin", "http://[::1]:" + b.port + " address_literal", "http://0.0.0.0:" + b.port + " address_literal",
		"http://169.254.169.254:" + b.port + " address_literal", "http://[fe80::1]:" + b.port + " address_literal", "http://127.0.0.1:8601 address_literal",
		"http://127.0.0.1:9222 address_literal", "http://iam.sandbox.brightwell.localhost ungoverned_origin", " host_address", " host",
		"http://xn--im-7kc.sandbox.brightwell.localhost:" + b.port + " ungoverned_origin", "http://iam.sandbox.brightwell.localhost:" + b.port + " ungoverned_origin"} {
		if !refused[want] {
			t.Errorf("door 2 refused nothing as %q; it refused %q", want, slices.Sorted(maps.Keys(refused)))
		}
	}
}
