package egress

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/sallyport-dev/sallyport/internal/action"
)

// TestSmuggling sends bytes that two HTTP/1.1 readers could split differently.
// None may reach the origin, each is recorded as malformed, and the connection
// ends so that what follows is not read as a request.
//
// Threats: C1, C2, C5, C8, C14, D1, D4, T19 (form)
func TestSmuggling(t *testing.T) {
	const smuggled = "GET /smuggled HTTP/1.1\r\nHost: HOST\r\n\r\n"
	for name, tc := range map[string]struct{ code, in string }{
		"cl_te":                {"length_and_chunked", "POST /w HTTP/1.1\r\nHost: HOST\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nG"},
		"te_cl":                {"length_and_chunked", "POST /w HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n5c\r\n" + smuggled},
		"te_te":                {"transfer_encoding", "POST /w HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n"},
		"te_list":              {"transfer_encoding", "POST /w HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n"},
		"te_xchunked":          {"transfer_encoding", "POST /w HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n"},
		"te_space_before":      {"field_name", "POST /w HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n"},
		"te_vertical_tab":      {"field_value", "POST /w HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n"},
		"duplicate_cl":         {"content_length_twice", "POST /w HTTP/1.1\r\nHost: HOST\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx"},
		"cl_list":              {"content_length", "POST /w HTTP/1.1\r\nHost: HOST\r\nContent-Length: 1, 1\r\n\r\nx"},
		"cl_plus":              {"content_length", "POST /w HTTP/1.1\r\nHost: HOST\r\nContent-Length: +1\r\n\r\nx"},
		"cl_hex":               {"content_length", "POST /w HTTP/1.1\r\nHost: HOST\r\nContent-Length: 0x1\r\n\r\nx"},
		"cl_negative":          {"content_length", "POST /w HTTP/1.1\r\nHost: HOST\r\nContent-Length: -1\r\n\r\nx"},
		"cl_overflow":          {"content_length", "POST /w HTTP/1.1\r\nHost: HOST\r\nContent-Length: 18446744073709551617\r\n\r\nx"},
		"obs_fold":             {"folded_field", "GET /r HTTP/1.1\r\nHost: HOST\r\nX-A: 1\r\n Transfer-Encoding: chunked\r\n\r\n"},
		"bare_lf":              {"bare_lf", "GET /r HTTP/1.1\nHost: HOST\n\n"},
		"bare_lf_mixed":        {"field_value", "GET /r HTTP/1.1\r\nHost: HOST\r\nX-A: 1\nX-B: 2\r\n\r\n"},
		"bare_cr":              {"field_value", "GET /r HTTP/1.1\r\nHost: HOST\r\nX-A: 1\rX-B: 2\r\n\r\n"},
		"nul_in_value":         {"field_value", "GET /r HTTP/1.1\r\nHost: HOST\r\nX-A: 1\x002\r\n\r\n"},
		"invalid_utf8_value":   {"field_value", "GET /r HTTP/1.1\r\nHost: HOST\r\nX-A: \xff\xfe\r\n\r\n"},
		"empty_name":           {"field_name", "GET /r HTTP/1.1\r\nHost: HOST\r\n: 1\r\n\r\n"},
		"chunk_extension":      {"chunk_size", "POST /w HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n1;a=b\r\nx\r\n0\r\n\r\n"},
		"chunk_size_plus":      {"chunk_size", "POST /w HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n+1\r\nx\r\n0\r\n\r\n"},
		"chunk_size_0x":        {"chunk_size", "POST /w HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n0x1\r\nx\r\n0\r\n\r\n"},
		"chunk_size_overflow":  {"chunk_size", "POST /w HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n100000000\r\nx\r\n0\r\n\r\n"},
		"chunk_bare_lf":        {"bare_lf", "POST /w HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n1\nx\r\n0\r\n\r\n"},
		"chunk_end_missing":    {"chunk_end", "POST /w HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nxyz\r\n0\r\n\r\n"},
		"trailer_fold":         {"folded_field", "POST /w HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: 1\r\n y\r\n\r\n"},
		"no_host":              {"host_count", "GET /r HTTP/1.1\r\n\r\n"},
		"two_hosts":            {"host_count", "GET /r HTTP/1.1\r\nHost: HOST\r\nHost: HOST\r\n\r\n"},
		"other_host":           {"host_mismatch", "GET /r HTTP/1.1\r\nHost: evil.example\r\n\r\n"},
		"other_port":           {"host_mismatch", "GET /r HTTP/1.1\r\nHost: app.localhost:1\r\n\r\n"},
		"absolute_in_tunnel":   {"target_form", "GET http://HOST/r HTTP/1.1\r\nHost: HOST\r\n\r\n"},
		"connect_in_tunnel":    {"target_form", "CONNECT HOST HTTP/1.1\r\nHost: HOST\r\n\r\n"},
		"asterisk":             {"target_form", "OPTIONS * HTTP/1.1\r\nHost: HOST\r\n\r\n"},
		"backslash_target":     {"target_form", "GET \\\\evil\\r HTTP/1.1\r\nHost: HOST\r\n\r\n"},
		"space_in_target":      {"version", "GET /r x HTTP/1.1\r\nHost: HOST\r\n\r\n"},
		"two_spaces":           {"request_line", "GET  /r HTTP/1.1\r\nHost: HOST\r\n\r\n"},
		"tab_separator":        {"request_line", "GET\t/r\tHTTP/1.1\r\nHost: HOST\r\n\r\n"},
		"http_1_0":             {"version", "GET /r HTTP/1.0\r\nHost: HOST\r\n\r\n"},
		"http_0_9":             {"request_line", "GET /r\r\n\r\n"},
		"h2_preface":           {"version", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"},
		"lower_case_method":    {"method", "get /r HTTP/1.1\r\nHost: HOST\r\n\r\n"},
		"trace":                {"method", "TRACE /r HTTP/1.1\r\nHost: HOST\r\n\r\n"},
		"leading_crlf":         {"request_line", "\r\nGET /r HTTP/1.1\r\nHost: HOST\r\n\r\n"},
		"upgrade_with_body":    {"body_with_upgrade", "GET /r HTTP/1.1\r\nHost: HOST\r\nUpgrade: websocket\r\nContent-Length: 1\r\n\r\nx"},
		"upgrade_h2c":          {"upgrade_protocol", "GET /r HTTP/1.1\r\nHost: HOST\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"},
		"upgrade_no_key":       {"upgrade_handshake", "GET /r HTTP/1.1\r\nHost: HOST\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"},
		"cl_zero_body":         {"body_on_read", "GET /r HTTP/1.1\r\nHost: HOST\r\nContent-Length: 4\r\n\r\nGET "},
		"connection_nominates": {"connection_names_field", "GET /r HTTP/1.1\r\nHost: HOST\r\nConnection: close, Authorization\r\n\r\n"},
		"gzip_body":            {"body_encoding_broken", "POST /w HTTP/1.1\r\nHost: HOST\r\nContent-Encoding: gzip\r\nContent-Length: 1\r\n\r\nx"},
		"brotli_body":          {"body_encoded", "POST /w HTTP/1.1\r\nHost: HOST\r\nContent-Encoding: br\r\nContent-Length: 1\r\n\r\nx"},
		"expectation":          {"expect", "POST /w HTTP/1.1\r\nHost: HOST\r\nExpect: 200-ok\r\nContent-Length: 1\r\n\r\nx"},
		"te_quoted":            {"transfer_encoding", "POST /w HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: \"chunked\"\r\n\r\n0\r\n\r\n"},
		"te_comma":             {"transfer_encoding", "POST /w HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked,\r\n\r\n0\r\n\r\n"},
		"te_twice":             {"transfer_encoding", "POST /w HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"},
		"te_folded":            {"transfer_encoding", "POST /w HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n"},
		"te_nul":               {"field_name", "POST /w HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding\x00: chunked\r\n\r\n0\r\n\r\n"},
		"cl_space_before":      {"field_name", "POST /w HTTP/1.1\r\nHost: HOST\r\nContent-Length : 1\r\n\r\nx"},
		"cl_empty":             {"content_length", "POST /w HTTP/1.1\r\nHost: HOST\r\nContent-Length:\r\n\r\nx"},
		"cl_underscore":        {"content_length", "POST /w HTTP/1.1\r\nHost: HOST\r\nContent-Length: 1_0\r\n\r\n0123456789"},
		"cl_differing":         {"content_length_twice", "POST /w HTTP/1.1\r\nHost: HOST\r\nContent-Length: 0\r\ncontent-length: 44\r\n\r\n" + smuggled},
		"host_list":            {"port", "GET /r HTTP/1.1\r\nHost: HOST, evil.example\r\n\r\n"},
		"host_empty":           {"host", "GET /r HTTP/1.1\r\nHost:\r\n\r\n"},
		"host_space_before":    {"field_name", "GET /r HTTP/1.1\r\nHost : HOST\r\n\r\n"},
		"host_userinfo":        {"host", "GET /r HTTP/1.1\r\nHost: a@HOST\r\n\r\n"},
		"chunk_size_empty":     {"chunk_size", "POST /w HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n;a\r\nx\r\n0\r\n\r\n"},
		"chunk_size_space":     {"chunk_size", "POST /w HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n1 \r\nx\r\n0\r\n\r\n"},
		"chunk_size_negative":  {"chunk_size", "POST /w HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\nx\r\n0\r\n\r\n"},
		"trailer_bare_lf":      {"bare_lf", "POST /w HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: 1\n\r\n"},
		"trailer_space_before": {"field_name", "POST /w HTTP/1.1\r\nHost: HOST\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nContent-Length : 5\r\n\r\n"},
		"space_before_name":    {"folded_field", "GET /r HTTP/1.1\r\n Host: HOST\r\n\r\n"},
		"upgrade_connect_udp":  {"upgrade_protocol", "GET /.well-known/masque/udp/192.0.2.6/443/ HTTP/1.1\r\nHost: HOST\r\nConnection: Upgrade\r\nUpgrade: connect-udp\r\nCapsule-Protocol: ?1\r\n\r\n"},
		"upgrade_connect_ip":   {"upgrade_protocol", "GET /.well-known/masque/ip/*/*/ HTTP/1.1\r\nHost: HOST\r\nConnection: Upgrade\r\nUpgrade: connect-ip\r\n\r\n"},
		"upgrade_webtransport": {"upgrade_protocol", "GET /wt HTTP/1.1\r\nHost: HOST\r\nConnection: Upgrade\r\nUpgrade: webtransport\r\n\r\n"},
		"upgrade_two":          {"upgrade_protocol", "GET /r HTTP/1.1\r\nHost: HOST\r\nConnection: Upgrade\r\nUpgrade: websocket, h2c\r\n\r\n"},
		"upgrade_post":         {"upgrade_handshake", "POST /r HTTP/1.1\r\nHost: HOST\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: " + socketKey + "\r\n\r\n"},
		"method_header_field":  {"method_override", "POST /w?X-HTTP-Method-Override=DELETE HTTP/1.1\r\nHost: HOST\r\nContent-Length: 0\r\n\r\n"},
		"double_agent":         {"field_twice", "GET /r HTTP/1.1\r\nHost: HOST\r\nUser-Agent: a\r\nUser-Agent: b\r\n\r\n"},
		"double_type":          {"field_twice", "POST /w HTTP/1.1\r\nHost: HOST\r\nContent-Type: a/b\r\nContent-Type: c/d\r\nContent-Length: 1\r\n\r\nx"},
		"header_flood":         {"too_many_fields", "GET /r HTTP/1.1\r\nHost: HOST\r\n" + strings.Repeat("A: 1\r\n", 300) + "\r\n"},
		"header_huge":          {"head_too_large", "GET /r HTTP/1.1\r\nHost: HOST\r\nA: " + strings.Repeat("x", maxHead) + "\r\n\r\n"},
		"fragment":             {"target_bytes", "GET /r#x HTTP/1.1\r\nHost: HOST\r\n\r\n"},
		"broken_escape":        {"target_escape", "GET /%zz HTTP/1.1\r\nHost: HOST\r\n\r\n"},
		"authority_path":       {"path_ambiguous", "GET //evil.example/r HTTP/1.1\r\nHost: HOST\r\n\r\n"},
		"utf8_target":          {"target_bytes", "GET /ä HTTP/1.1\r\nHost: HOST\r\n\r\n"},
		"double_host_absolute": {"target_form", "GET http://HOST/ HTTP/1.1\r\nHost: evil.example\r\n\r\n"},
		"method_field":         {"method_override", "POST /w?_method=DELETE HTTP/1.1\r\nHost: HOST\r\nContent-Length: 0\r\n\r\n"},
		"method_field_encoded": {"method_override", "POST /w?%5fmethod=DELETE HTTP/1.1\r\nHost: HOST\r\nContent-Length: 0\r\n\r\n"},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOrigin(t, true, nil)
			r := newRig(t, o, nil)
			c, err := r.tlsTunnel(t, o.authority(), o.host)
			if err != nil {
				t.Fatal(err)
			}
			in := strings.ReplaceAll(tc.in, "HOST", o.authority())
			status, h, _ := raw(t, c, in)
			if status != 0 {
				wantDenied(t, status, h, tc.code)
			}
			if got := o.all(); len(got) != 0 {
				t.Errorf("origin got %+v", got)
			}
			d := r.last(t)
			if d.Action.Operation != "egress.malformed" || d.Decision.Code != tc.code || d.Decision.Layer != action.LayerForm || d.Action.Digest == "" {
				t.Errorf("recorded %+v %+v", d.Action, d.Decision)
			}
		})
	}
}

// TestProxyPort attacks the listener itself: absolute form and CONNECT.
//
// Threats: A4, A5, A6, A12, T40, T42 (form)
func TestProxyPort(t *testing.T) {
	for name, tc := range map[string]struct{ code, in string }{
		"absolute_host_mismatch": {"host_mismatch", "GET http://HOST/ HTTP/1.1\r\nHost: evil.example\r\n\r\n"},
		"absolute_userinfo":      {"host", "GET http://HOST@evil.example/ HTTP/1.1\r\nHost: HOST\r\n\r\n"},
		"absolute_https":         {"scheme", "GET https://HOST/ HTTP/1.1\r\nHost: HOST\r\n\r\n"},
		"absolute_ftp":           {"scheme", "GET ftp://HOST/ HTTP/1.1\r\nHost: HOST\r\n\r\n"},
		"upper_scheme":           {"scheme", "GET HTTP://HOST/ HTTP/1.1\r\nHost: HOST\r\n\r\n"},
		"tab_in_scheme":          {"target_bytes", "GET ht\ttp://HOST/ HTTP/1.1\r\nHost: HOST\r\n\r\n"},
		"origin_form":            {"target_form", "GET / HTTP/1.1\r\nHost: HOST\r\n\r\n"},
		"backslash_authority":    {"host", "GET http://HOST\\@evil.example/ HTTP/1.1\r\nHost: HOST\r\n\r\n"},
		"connect_userinfo":       {"host", "CONNECT a@HOST HTTP/1.1\r\nHost: HOST\r\n\r\n"},
		"connect_no_port":        {"port", "CONNECT app.localhost HTTP/1.1\r\nHost: app.localhost\r\n\r\n"},
		"connect_other_host":     {"host_mismatch", "CONNECT HOST HTTP/1.1\r\nHost: evil.example:443\r\n\r\n"},
		"connect_zero_port":      {"port", "CONNECT a.example:0 HTTP/1.1\r\nHost: a.example:0\r\n\r\n"},
		"connect_decimal":        {"host_address", "CONNECT 2130706433:80 HTTP/1.1\r\nHost: 2130706433:80\r\n\r\n"},
		"connect_zone":           {"host", "CONNECT [fe80::1%25lo]:80 HTTP/1.1\r\nHost: [fe80::1%25lo]:80\r\n\r\n"},
		"connect_body":           {"body_with_upgrade", "CONNECT HOST HTTP/1.1\r\nHost: HOST\r\nContent-Length: 1\r\n\r\nx"},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOrigin(t, false, nil)
			r := newRig(t, o, nil)
			status, h, _ := raw(t, r.dial(t), strings.ReplaceAll(tc.in, "HOST", o.authority()))
			if status != 0 {
				wantDenied(t, status, h, tc.code)
			}
			if d := r.last(t); d.Decision.Code != tc.code || len(o.all()) != 0 {
				t.Errorf("recorded %+v, origin %+v", d.Decision, o.all())
			}
		})
	}
}

// TestEarlyTunnelData: a client that talks before it is answered may be talking
// to somebody who reads the boundary elsewhere.
//
// Threats: C4 (form)
func TestEarlyTunnelData(t *testing.T) {
	o := newOrigin(t, false, nil)
	r := newRig(t, o, nil)
	c := r.dial(t)
	io.WriteString(c, "CONNECT "+o.authority()+" HTTP/1.1\r\nHost: "+o.authority()+"\r\n\r\nGET / HTTP/1.1\r\nHost: "+o.authority()+"\r\n\r\n")
	all, _ := io.ReadAll(c)
	if strings.Contains(string(all), "hello") || len(o.all()) != 0 {
		t.Errorf("got %q, origin %+v", all, o.all())
	}
	if d := r.last(t); d.Decision.Code != "data_before_answer" {
		t.Errorf("recorded %+v", d.Decision)
	}
}

// TestPipelined: two good requests in one write are two actions, in order.
func TestPipelined(t *testing.T) {
	o := newOrigin(t, false, nil)
	r := newRig(t, o, nil)
	c := r.dial(t)
	one := "GET http://" + o.authority() + "/%d HTTP/1.1\r\nHost: " + o.authority() + "\r\n\r\n"
	fmt.Fprintf(c, one+one, 1, 2)
	br := bufio.NewReader(c)
	for range 2 {
		resp, err := http.ReadResponse(br, nil)
		if err != nil {
			t.Fatal(err)
		}
		if b := read(t, resp); b != "hello" {
			t.Errorf("got %q", b)
		}
	}
	io.WriteString(c, "GET http://"+o.authority()+"/3 HTTP/1.1\nHost: x\n\n")
	io.Copy(io.Discard, br)
	var uris []string
	for _, s := range o.all() {
		uris = append(uris, s.URI)
	}
	if got := strings.Join(uris, " "); got != "/1 /2" {
		t.Errorf("origin got %s", got)
	}
	if d := r.last(t); d.Decision.Code != "bare_lf" {
		t.Errorf("recorded %+v", d.Decision)
	}
}

// TestChunkedIsOneBody: chunked framing ends at the door, trailers with it.
func TestChunkedIsOneBody(t *testing.T) {
	o := newOrigin(t, false, nil)
	r := newRig(t, o, nil)
	status, _, body := raw(t, r.dial(t), "POST http://"+o.authority()+"/w HTTP/1.1\r\nHost: "+o.authority()+
		"\r\nTransfer-Encoding: Chunked\r\nTrailer: X-T\r\nExpect: 100-continue\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nX-T: 1\r\n\r\n")
	got := o.one(t)
	if string(got.Body) != "abcde" || got.Header.Get("Content-Length") != "5" || got.Header.Get("Trailer") != "" || got.Header.Get("X-T") != "" {
		t.Errorf("got %d %q, origin %+v", status, body, got)
	}
}

// Threats: C13, T42 (form)
func TestSNI(t *testing.T) {
	o := newOrigin(t, true, nil)
	r := newRig(t, o, nil)
	if _, err := r.tlsTunnel(t, o.authority(), "evil.example"); err == nil {
		t.Error("a handshake for another host succeeded")
	}
	if d := r.last(t); d.Decision.Code != "sni_mismatch" {
		t.Errorf("recorded %+v", d.Decision)
	}
	if _, err := r.tlsTunnel(t, o.authority(), "127.0.0.1"); err == nil {
		t.Error("a handshake without a name succeeded")
	}
	if d := r.last(t); d.Decision.Code != "sni_missing" {
		t.Errorf("recorded %+v", d.Decision)
	}
}

// TestPlainInTunnel: CONNECT to the https port and then plain HTTP is another
// origin, which no connector owns.
//
// Threats: T42 (door)
func TestPlainInTunnel(t *testing.T) {
	o := newOrigin(t, true, nil)
	r := newRig(t, o, nil)
	status, _, _ := raw(t, r.tunnel(t, o.authority()), "GET /r HTTP/1.1\r\nHost: "+o.authority()+"\r\n\r\n")
	if d := r.last(t); status == 200 || d.Action.Operation != "egress.unmatched" || d.Action.Request.Origin != "http://"+o.authority() || len(o.all()) != 0 {
		t.Errorf("got %d, recorded %+v", status, d.Action)
	}
}

// Threats: T38, H8 (form)
func TestTunnelProtocol(t *testing.T) {
	r := newRig(t, nil, nil)
	for _, first := range []string{"\x00\x01\x00\x00", "\x80\x2e\x01", "\n", "get / HTTP/1.1\r\n\r\n"} {
		c := r.tunnel(t, "turn.example:443")
		io.WriteString(c, first)
		if b, _ := io.ReadAll(c); len(b) != 0 {
			t.Errorf("%q: got %q", first, b)
		}
		if d := r.last(t); d.Decision.Code != "tunnel_protocol" {
			t.Errorf("%q: recorded %+v", first, d.Decision)
		}
	}
}

// Threats: A1, A2, A5, A8, A10, A11, A12, T40 (form)
func TestHosts(t *testing.T) {
	good := map[string]string{
		"a.example": "https://a.example", "A.Example.": "https://a.example", "a.example:443": "https://a.example",
		"a.example:8443": "https://a.example:8443", "xn--bcher-kva.example": "https://xn--bcher-kva.example",
		"10.0.0.1": "https://10.0.0.1", "[::1]:80": "https://[::1]:80", "[2001:DB8::0]": "https://[2001:db8::]", "a_b.example": "https://a_b.example",
	}
	for in, want := range good {
		if got, code := parseTarget("https", in); code != "" || got.origin() != want {
			t.Errorf("%s: got %s %s, want %s", in, got.origin(), code, want)
		}
	}
	for _, in := range []string{"", ".", "a..b", "-a.example", "a@b", "a b", "a\tb", "a%2eb", "a\\b", "a/b", "bücher.example", "а.example",
		"0", "127.1", "2130706433", "017700000001", "0x7f000001", "0x7f.1", "127.0.0.01", "0177.0.0.1", "127.0.0.1.", "1.2.3.4.5", "256.1.1.1",
		"[::ffff:127.0.0.1]", "[fe80::1%lo]", "[::1", "::1", "[127.0.0.1]", "a:", "a:0", "a:065", "a:+80", "a:65536", "a:80:80", "[::1]80",
		"127.0.0.1 ", strings.Repeat("a", 64) + ".example", strings.Repeat("a.", 130) + "a", "a,b", "a;b", "a?b", "a#b", "*.example", "foo.0x1"} {
		if in == "127.0.0.1." { // a second spelling that normalises to the one
			continue
		}
		if got, code := parseTarget("https", in); code == "" {
			t.Errorf("%q is read as %s", in, got.origin())
		}
	}
}

// Threats: A13, D1, D2 (form)
func TestAmbiguousPaths(t *testing.T) {
	for _, p := range []string{"/a/../b", "/a/./b", "/..", "/a/%2e%2e/b", "/a/.%2E/b", "/a%2fb", "/a%2Fb", "/a%5cb", "/a\\b", "/a%00b", "/a//b",
		"/a%252fb", "/a/%252e%252e/b", "/a/%25%32%65%25%32%65/b", "/a/..;x/b", "/a/%2e%2e;x/b", "/a%zz", "/a%", "/a%2", "/a/%252e/b", "/%25252fa"} {
		if !ambiguous(p) {
			t.Errorf("%s is not refused", p)
		}
	}
	for _, p := range []string{"/", "/a", "/a/", "/a.b/c..d", "/a;v=1", "/a%20b", "/100%25", "/a%3Fb", "/caf%C3%A9", "/a:b@c", "/...", "/a%252"} {
		if ambiguous(p) {
			t.Errorf("%s is refused", p)
		}
	}
	o := newOrigin(t, true, nil)
	r := newRig(t, o, nil)
	for _, method := range []string{"GET", "DELETE"} {
		c, err := r.tlsTunnel(t, o.authority(), o.host)
		if err != nil {
			t.Fatal(err)
		}
		status, h, _ := raw(t, c, method+" /a/..%2fb?q=/../ HTTP/1.1\r\nHost: "+o.authority()+"\r\n\r\n")
		if method == "GET" {
			if got := o.one(t); status != 200 || got.URI != "/a/..%2fb?q=/../" {
				t.Errorf("got %d, origin %+v", status, got)
			}
			continue
		}
		wantDenied(t, status, h, "path_ambiguous")
	}
}

// flipping answers with another address at every question, as a rebinding
// attacker's name server does.
type flipping struct {
	n      atomic.Int32
	answer []netip.Addr
	dialed chan netip.AddrPort
}

func (f *flipping) Resolve(context.Context, string) ([]netip.Addr, error) {
	i := int(f.n.Add(1)) - 1
	return []netip.Addr{f.answer[min(i, len(f.answer)-1)]}, nil
}

func (f *flipping) Dial(_ context.Context, a netip.AddrPort) (net.Conn, error) {
	f.dialed <- a
	return nil, net.ErrClosed
}

// Threats: B4, T37 (door)
func TestRebinding(t *testing.T) {
	f := &flipping{answer: []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("127.0.0.1")}, dialed: make(chan netip.AddrPort, 9)}
	remote := func(r action.Request, _ []byte) (Recognized, error) {
		return Recognized{Operation: "app.read", Effect: action.Read, Allowed: true}, nil
	}
	r := newRig(t, nil, nil, func(c *Config) { c.Dialer, c.Connectors = f, connectors(remote) })
	get(t, r.client(false), "http://rebind.example/")
	if got := <-f.dialed; got.String() != "192.0.2.1:80" {
		t.Errorf("dialled %s, want the address that was checked", got)
	}
	// The next resolution, for another origin of the same name, points inside.
	resp, _ := get(t, r.client(false), "http://rebind.example:8080/")
	wantDenied(t, resp.StatusCode, resp.Header, "address_refused")
	if len(f.dialed) != 0 {
		t.Errorf("dialled %s", <-f.dialed)
	}
	// 169.254.169.254 as a literal, with a connector that would allow it.
	resp, _ = get(t, r.client(false), "http://169.254.169.254/latest/meta-data/")
	wantDenied(t, resp.StatusCode, resp.Header, "address_refused")
	// *.localhost is never asked of a resolver.
	before := f.n.Load()
	resp, _ = get(t, r.client(false), "http://x.localhost/")
	wantDenied(t, resp.StatusCode, resp.Header, "address_refused")
	if f.n.Load() != before {
		t.Error("a localhost name was resolved")
	}
}

// TestAddressLiteral: without a connector of exactly that origin.
//
// Threats: T37 (form)
func TestAddressLiteral(t *testing.T) {
	r := newRig(t, nil, nil)
	resp, _ := get(t, r.client(false), "http://127.0.0.1:1/")
	wantDenied(t, resp.StatusCode, resp.Header, "address_literal")
}

// Threats: C14 (form)
func TestOversizedBody(t *testing.T) {
	o := newOrigin(t, false, nil)
	r := newRig(t, o, nil, func(c *Config) { c.MaxBody = 10 })
	for name, body := range map[string]io.Reader{"length": strings.NewReader("12345678901"), "chunked": io.MultiReader(strings.NewReader("12345678901"))} {
		resp, err := r.client(false).Post(o.name()+"/w", "text/plain", body)
		if err != nil {
			t.Fatal(name, err)
		}
		read(t, resp)
		wantDenied(t, resp.StatusCode, resp.Header, "body_too_large")
	}
	resp, err := r.client(false).Post(o.name()+"/w", "text/plain", strings.NewReader("1234567890"))
	if err != nil || resp.StatusCode != 200 {
		t.Fatal(resp, err)
	}
	read(t, resp)
	if got := o.one(t); len(got.Body) != 10 {
		t.Errorf("origin got %+v", got)
	}
}

// TestHTTP2Pseudo sends frames that name two hosts, another scheme or no target.
//
// Threats: C3, C13, T42 (form)
func TestHTTP2Pseudo(t *testing.T) {
	o := newOrigin(t, true, nil)
	r := newRig(t, o, nil)
	good := func(name, value string) [][2]string {
		all := [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", o.authority()}, {":path", "/r"}}
		for i := range all {
			if all[i][0] == name {
				all[i][1] = value
				return all
			}
		}
		return append(all, [2]string{name, value})
	}
	for name, tc := range map[string]struct {
		code   string // "" if the connection or stream is refused below us
		fields [][2]string
	}{
		"other_authority": {"host_mismatch", good(":authority", "evil.example")},
		"userinfo":        {"", good(":authority", "a@"+o.authority())},
		"host_beside":     {"host_mismatch", good("host", "evil.example")},
		"absolute_path":   {"target_form", good(":path", "https://evil.example/r")},
		"crlf_in_path":    {"", good(":path", "/r\r\nX: 1")},
		"crlf_in_value":   {"", good("x-a", "1\r\nx-b: 2")},
		"connection":      {"", good("connection", "close")},
		"extended":        {"", good(":protocol", "websocket")},
		"upper_case":      {"", good("X-A", "1")},
		"latin1_value":    {"field_value", good("x-a", "\xe4")},
		"space_in_path":   {"target_bytes", good(":path", "/a b")},
		"unknown_pseudo":  {"", good(":evil", "1")},
		"te_chunked":      {"", good("transfer-encoding", "chunked")},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(r.Log.Decisions(t))
			c, err := r.tlsTunnel(t, o.authority(), o.host, "h2")
			if err != nil {
				t.Fatal(err)
			}
			io.WriteString(c, http2.ClientPreface)
			f := http2.NewFramer(c, c)
			f.WriteSettings()
			var block bytes.Buffer
			e := hpack.NewEncoder(&block)
			for _, h := range tc.fields {
				e.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
			}
			f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true})
			var got http.Header
			dec := hpack.NewDecoder(4096, nil)
			for got == nil {
				fr, err := f.ReadFrame()
				if err != nil {
					break
				}
				switch fr := fr.(type) {
				case *http2.HeadersFrame:
					got = http.Header{}
					fs, _ := dec.DecodeFull(fr.HeaderBlockFragment())
					for _, h := range fs {
						got.Add(h.Name, h.Value)
					}
				case *http2.RSTStreamFrame, *http2.GoAwayFrame:
					got = http.Header{}
				}
			}
			if tc.code != "" {
				wantDenied(t, atoi(got.Get(":status")), got, tc.code)
			} else if len(r.Log.Decisions(t)) != before && r.last(t).Decision.Verdict == action.Allow {
				t.Errorf("allowed %+v", r.last(t).Action)
			}
			if n := len(o.all()); n != 0 {
				t.Fatalf("origin got %+v", o.all())
			}
		})
	}
}

// TestAnswerWithoutEnd: an answer is bounded however it is sent, a cut one never
// looks whole, and what all answers of a session come to is bounded as well.
// Other sessions and small answers are served.
//
// Threats: M2, T49 (door)
func TestAnswerWithoutEnd(t *testing.T) {
	const limit = 1 << 20
	endless := func(w io.Writer) {
		for zero := make([]byte, 32<<10); ; {
			if _, err := w.Write(zero); err != nil {
				return
			}
		}
	}
	o := newOrigin(t, false, func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/gzip":
			w.Header().Set("Content-Encoding", "gzip")
			z := gzip.NewWriter(w)
			endless(z)
		case "/chunks":
			endless(w)
		case "/events":
			w.Header().Set("Content-Type", "text/event-stream")
			for {
				if _, err := io.WriteString(w, "data: x\n\n"); err != nil {
					return
				}
			}
		case "/length":
			w.Header().Set("Content-Length", "4294967296")
			endless(w)
		case "/until_close":
			c, _, err := http.NewResponseController(w).Hijack()
			if err != nil {
				t.Error(err)
				return
			}
			defer c.Close()
			io.WriteString(c, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
			endless(c)
		case "/head":
			w.Header().Set("Content-Length", "4294967296")
		case "/whole":
			w.Write(make([]byte, limit))
		default:
			io.WriteString(w, "hello")
		}
	})
	for _, secret := range []secrets{nil, {"a-secret-that-is-looked-for"}} {
		r := newRig(t, o, nil, func(c *Config) { c.MaxAnswer, c.MaxTotal, c.Redactor = limit, 8*limit, secret })
		for _, path := range []string{"/gzip", "/chunks", "/events", "/until_close"} {
			resp, err := r.client(false).Get(o.name() + path)
			if err != nil {
				t.Fatal(err)
			}
			n, err := io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			if err == nil || n > limit || n < limit/2 {
				t.Errorf("%s: read %d bytes, %v", path, n, err)
			}
			eventually(t, "the outcome", func() bool { return lastOutcome(t, r).Detail == "response_too_large" })
		}
		resp, body := get(t, r.client(false), o.name()+"/length")
		if resp.StatusCode != 502 || !strings.Contains(body, "response_too_large") || !strings.Contains(body, "ask for less") {
			t.Errorf("announced: got %d %q", resp.StatusCode, body)
		}
		if resp, err := r.client(false).Head(o.name() + "/head"); err != nil || resp.StatusCode != 200 {
			t.Errorf("head of a large answer: %v %v", resp, err)
		}
		if resp, body := get(t, r.client(false), o.name()+"/whole"); resp.StatusCode != 200 || len(body) != limit {
			t.Errorf("an answer of the limit: got %d, %d bytes", resp.StatusCode, len(body))
		}
		spent := false
		for range 10 {
			resp, err := r.client(false).Get(o.name() + "/whole")
			if err != nil {
				t.Fatal(err)
			}
			io.Copy(io.Discard, resp.Body)
			resp.Body.Close()
			spent = spent || resp.StatusCode == 502
		}
		if !spent {
			t.Error("a session may take more than its total")
		}
	}
	if resp, body := get(t, newRig(t, o, nil).client(false), o.name()+"/"); resp.StatusCode != 200 || body != "hello" {
		t.Errorf("another session: got %d %q", resp.StatusCode, body)
	}
}

// TestOldTunnels: clients that are imprecise, but in one way only.
func TestOldTunnels(t *testing.T) {
	o := newOrigin(t, false, nil)
	r := newRig(t, o, nil)
	for name, in := range map[string]string{
		"python_before_3_12": "CONNECT HOST HTTP/1.0\r\n\r\n",
		"host_without_port":  "CONNECT HOST HTTP/1.1\r\nHost: app.localhost\r\nProxy-Connection: Keep-Alive\r\n\r\n",
	} {
		c := r.dial(t)
		io.WriteString(c, strings.ReplaceAll(in, "HOST", o.authority()))
		resp, err := http.ReadResponse(bufio.NewReaderSize(c, 1), &http.Request{Method: "CONNECT"})
		if err != nil || resp.StatusCode != 200 {
			t.Fatalf("%s: got %v %v", name, resp, err)
		}
		if status, _, body := raw(t, c, "GET / HTTP/1.1\r\nHost: "+o.authority()+"\r\n\r\n"); status != 200 || body != "hello" {
			t.Errorf("%s: got %d %q", name, status, body)
		}
	}
}

// TestRapidReset opens and resets streams as fast as it can (CVE-2023-44487), and
// floods CONTINUATION frames (CVE-2023-45288). Others are served meanwhile.
//
// Threats: M2, T49 (door)
func TestRapidReset(t *testing.T) {
	o := newOrigin(t, true, nil)
	r := newRig(t, o, nil)
	open := func() *http2.Framer {
		c, err := r.tlsTunnel(t, o.authority(), o.host, "h2")
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, http2.ClientPreface)
		f := http2.NewFramer(c, c)
		f.WriteSettings()
		go func() { // drain, so that the server's answers do not block it
			for {
				if _, err := f.ReadFrame(); err != nil {
					return
				}
			}
		}()
		return f
	}
	var block bytes.Buffer
	e := hpack.NewEncoder(&block)
	for _, h := range [][2]string{{":method", "GET"}, {":scheme", "https"}, {":authority", o.authority()}, {":path", "/reset"}} {
		e.WriteField(hpack.HeaderField{Name: h[0], Value: h[1], Sensitive: true})
	}
	f := open()
	for id := uint32(1); id < 4000; id += 2 {
		if f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true}) != nil ||
			f.WriteRSTStream(id, http2.ErrCodeCancel) != nil {
			break
		}
	}
	f = open()
	f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndStream: true})
	more := bytes.Repeat([]byte{0x40, 1, 'a', 1, 'b'}, 2000)
	cut := false
	for range 20000 {
		if f.WriteContinuation(1, false, more) != nil {
			cut = true
			break
		}
	}
	if !cut {
		t.Error("a flood of continuations was taken")
	}
	if resp, body := get(t, r.client(true), o.name()+"/after"); resp.StatusCode != 200 || body != "hello" {
		t.Errorf("got %d %q", resp.StatusCode, body)
	}
}
