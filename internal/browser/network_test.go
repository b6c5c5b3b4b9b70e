package browser

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/contain"
)

// waysOut is a page that uses every protocol of a browser that knows no proxy:
// ICE towards STUN and TURN servers and towards a peer, QUIC by WebTransport,
// names that are resolved ahead, and names of the local link. Its peers are at
// addresses and names that everybody can reach where it is run bare.
const waysOut = `<!doctype html><title>ways out</title><body><script>
const go = f => { try { const p = f(); if (p && p.catch) p.catch(() => {}) } catch (e) {} };
for (const at of ['203.0.113.1', '[2001:db8::1]', 'stun.example']) for (const how of ['stun:' + at + ':3478', 'turn:' + at + ':3478?transport=udp', 'turn:' + at + ':3478?transport=tcp', 'turns:' + at + ':5349'])
  for (const policy of ['all', 'relay']) go(() => {
    const c = new RTCPeerConnection({iceServers: [{urls: how, username: 'a', credential: 'b'}], iceTransportPolicy: policy});
    c.createDataChannel('x'); return c.createOffer().then(o => c.setLocalDescription(o));
  });
for (const peer of ['203.0.113.2', '2001:db8::2', '3f5b9c1e-0000-4000-8000-000000000000.local']) for (const how of ['udp', 'tcp']) go(() => {
  const c = new RTCPeerConnection; c.createDataChannel('x');
  return c.setRemoteDescription({type: 'offer', sdp: ['v=0', 'o=- 1 1 IN IP4 127.0.0.1', 's=-', 't=0 0', 'a=group:BUNDLE 0', 'a=ice-ufrag:aaaa', 'a=ice-pwd:aaaaaaaaaaaaaaaaaaaaaaaa', 'a=fingerprint:sha-256 ' + Array(32).fill('AA').join(':'),
    'm=application 9 UDP/DTLS/SCTP webrtc-datachannel', 'c=IN IP4 0.0.0.0', 'a=setup:actpass', 'a=mid:0', 'a=sctp-port:5000', 'a=candidate:1 1 ' + how + ' 1 ' + peer + ' 4000 typ host' + (how == 'tcp' ? ' tcptype passive' : ''), ''].join('\r\n')}).then(() => c.createAnswer()).then(a => c.setLocalDescription(a));
});
for (const at of ['203.0.113.3:4433', '[2001:db8::3]:4433', 'quic.example:4433']) go(() => new WebTransport('https://' + at + '/').ready);
for (const rel of ['dns-prefetch', 'preconnect', 'prefetch', 'preload']) for (const at of ['//203.0.113.4', '//prefetch-' + rel + '.example', '//printer-' + rel + '.local']) go(() => document.head.append(Object.assign(document.createElement('link'), {rel, href: at + '/x', as: 'image'})));
const s = document.createElement('script'); s.type = 'speculationrules';
s.textContent = JSON.stringify({prerender: [{source: 'list', urls: ['https://prerender.example/']}], prefetch: [{source: 'list', urls: ['https://prefetch.example/']}]});
document.head.append(s);
for (const at of ['https://203.0.113.5', 'https://fetch.example', 'http://printer.local', 'wss://socket.example', 'http://intranet']) go(() => at.startsWith('ws') ? new WebSocket(at) : fetch(at, {mode: 'no-cors'}));
setTimeout(() => fetch('/done'), 3000);
</script>`

// outside is what the program in the namespace saw.
type outside struct {
	Done    bool
	Packets map[string]int // "udp 203.0.113.1:3478" to how many
}

// A page uses everything that leads around a proxy, in both builds of the
// browser, in a network in which every address in the world answers and every
// packet is counted. Bare, packets leave; as it is launched, not one does. Where
// namespaces cannot be nested the launch's switches alone are tried: they are
// hygiene, and leave questions for names of the local link (RFC 6762).
//
// Threats: T38, T39, H8 (containment, browser)
func TestNothingLeavesAroundTheProxy(t *testing.T) {
	if testing.Short() {
		t.Skip("starts browsers")
	}
	guarded := "launched"
	if os.Getuid() != 0 {
		guarded = "switches"
	}
	for _, tt := range [][2]string{{"shell", "bare"}, {"shell", guarded}, {"full", guarded}} {
		t.Run(tt[0]+"_"+tt[1], func(t *testing.T) {
			got := lookOutside(t, tt[0], tt[1])
			if !got.Done {
				t.Fatal("the page did not come to its end")
			}
			if tt[1] != "bare" {
				if tt[1] == "switches" {
					delete(got.Packets, "udp 224.0.0.251:5353")
				}
				if len(got.Packets) > 0 {
					t.Errorf("packets left: %v", got.Packets)
				}
				return
			}
			for _, want := range []string{"udp 203.0.113.1:3478", "tcp 203.0.113.1:3478", "udp 203.0.113.2:4000", "udp 203.0.113.3:4433", "udp 224.0.0.251:5353", ":53"} {
				if !slices.ContainsFunc(slices.Collect(maps.Keys(got.Packets)), func(p string) bool { return strings.HasSuffix(p, want) }) {
					t.Errorf("no packet to %s: the page does not try what this test is about; %v", want, got.Packets)
				}
			}
		})
	}
}

const networkVariable = "SALLYPORT_TEST_NETWORK"

// lookOutside runs this binary in a network namespace of its own.
func lookOutside(t *testing.T, kind, how string) outside {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^$")
	cmd.Env = append(os.Environ(), networkVariable+"="+kind+" "+how)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	if uid := os.Getuid(); uid != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	b, err := cmd.Output()
	var got outside
	if err != nil || json.Unmarshal(b, &got) != nil {
		t.Fatalf("in the namespace: %v: %s", err, b)
	}
	return got
}

// networkProgram is the rest of the test, inside.
func networkProgram(what string) error {
	kind, how, _ := strings.Cut(what, " ")
	for _, c := range []string{"link set lo up multicast on", "link add up0 type veth peer name up1", "link set up0 up", "link set up1 up", "addr add 198.51.100.1/24 dev up0", "-6 addr add 2001:db8:1::1/64 dev up0 nodad", "route add local default dev lo", "-6 route add local default dev lo", "route add multicast 224.0.0.0/4 dev lo"} {
		if out, err := exec.Command("ip", strings.Fields(c)...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", c, err, out)
		}
	}
	seen, err := count()
	if err != nil {
		return err
	}
	over, once := make(chan struct{}), sync.Once{}
	page := &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case r.Method != "CONNECT" && r.Host == proxyAddr && r.URL.Path == "/":
			w.Header().Set("Content-Type", "text/html")
			io.WriteString(w, waysOut)
		case r.Host == proxyAddr && r.URL.Path == "/done":
			once.Do(func() { close(over) })
		default:
			http.Error(w, "no", http.StatusForbidden)
		}
	})}
	defer page.Close()
	end, err := openPage(kind, how, page)
	if err != nil {
		return err
	}
	defer end()
	var got outside
	select {
	case <-over:
		got.Done = true
	case <-time.After(45 * time.Second):
	}
	got.Packets = seen()
	return json.NewEncoder(os.Stdout).Encode(got)
}

// openPage opens the page.
func openPage(kind, how string, page *http.Server) (end func(), err error) {
	const url = "http://" + proxyAddr + "/"
	if how == "launched" {
		b, err := Launch(context.Background(), Config{Kind: kind})
		if err != nil {
			return nil, err
		}
		go page.Serve(b.ProxyListener())
		return func() { b.Close() }, b.Navigate(context.Background(), url)
	}
	l, err := net.Listen("tcp", proxyAddr)
	if err != nil {
		return nil, err
	}
	go page.Serve(l)
	bin, err := contain.FindChromium(kind)
	if err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "network-")
	if err != nil {
		return nil, err
	}
	args := []string{"--headless=new", "--no-first-run", "--disable-gpu", "--remote-debugging-pipe", "about:blank"}
	if how == "switches" {
		args = flags(Config{Kind: kind, Width: 1280, Height: 800})
	}
	args = append(args[:len(args)-1], "--no-sandbox", "--user-data-dir="+dir, url)
	cmd := exec.Command(bin, args...)
	cmd.Env = append(environment(), "HOME="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	in, _, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	_, out, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	cmd.ExtraFiles = []*os.File{in, out}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return func() {
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		cmd.Wait()
		os.RemoveAll(dir)
	}, nil
}

// count counts the packets of TCP and UDP on this namespace's one interface that
// are not for loopback addresses. All others lead to it as well.
func count() (seen func() map[string]int, err error) {
	const all = syscall.ETH_P_ALL<<8 | syscall.ETH_P_ALL>>8 // network order
	fd, err := syscall.Socket(syscall.AF_PACKET, syscall.SOCK_DGRAM, all)
	if err != nil {
		return nil, fmt.Errorf("packet socket: %w", err)
	}
	var mu sync.Mutex
	got := map[string]int{}
	go func() {
		for buf := make([]byte, 64<<10); ; {
			n, _, err := syscall.Recvfrom(fd, buf, 0)
			if err != nil {
				return
			}
			if to, ok := destination(buf[:n]); ok {
				mu.Lock()
				got[to]++
				mu.Unlock()
			}
		}
	}()
	return func() map[string]int {
		mu.Lock()
		defer mu.Unlock()
		return maps.Clone(got)
	}, nil
}

// destination of a packet of TCP or UDP (RFC 791, RFC 8200).
func destination(p []byte) (string, bool) {
	var proto byte
	var to netip.Addr
	var rest []byte
	switch {
	case len(p) >= 20 && p[0]>>4 == 4:
		proto, rest = p[9], p[min(len(p), int(p[0]&15)*4):]
		to, _ = netip.AddrFromSlice(p[16:20])
	case len(p) >= 40 && p[0]>>4 == 6:
		proto, rest = p[6], p[40:]
		to, _ = netip.AddrFromSlice(p[24:40])
	}
	name := map[byte]string{syscall.IPPROTO_TCP: "tcp", syscall.IPPROTO_UDP: "udp"}[proto]
	if name == "" || len(rest) < 4 || to.IsLoopback() {
		return "", false
	}
	return name + " " + net.JoinHostPort(to.String(), strconv.Itoa(int(binary.BigEndian.Uint16(rest[2:])))), true
}
