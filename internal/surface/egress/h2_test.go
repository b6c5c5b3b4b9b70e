package egress

import (
	"bytes"
	"io"
	"net/http"
	"strings"
	"testing"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"

	"github.com/sallyport-dev/sallyport/internal/action"
)

// h2Message is one stream as it is sent: fields in this order, then data, then
// trailers. A nil data ends the stream with the fields.
type h2Message struct {
	fields, trailers [][2]string
	data             []byte
}

// sendH2 sends the message on a new connection and returns the response's
// fields; none if the stream or the connection was refused.
func sendH2(t *testing.T, r *rig, m h2Message) http.Header {
	t.Helper()
	c, err := r.tlsTunnel(t, r.o.authority(), r.o.host, "h2")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, http2.ClientPreface)
	f := http2.NewFramer(c, c)
	f.WriteSettings()
	writeH2(f, m)
	return readH2(f)
}

func writeH2(f *http2.Framer, m h2Message) {
	var block bytes.Buffer
	e := hpack.NewEncoder(&block)
	for _, h := range m.fields {
		e.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
	}
	f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndStream: m.data == nil, EndHeaders: true})
	if m.data == nil {
		return
	}
	f.WriteData(1, m.trailers == nil, m.data)
	if m.trailers != nil {
		block.Reset()
		for _, h := range m.trailers {
			e.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
		}
		f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: block.Bytes(), EndStream: true, EndHeaders: true})
	}
}

func readH2(f *http2.Framer) http.Header {
	got := http.Header{}
	dec := hpack.NewDecoder(4096, nil)
	for {
		fr, err := f.ReadFrame()
		if err != nil {
			return got
		}
		switch fr := fr.(type) {
		case *http2.HeadersFrame:
			fields, _ := dec.DecodeFull(fr.HeaderBlockFragment())
			if len(fields) > 0 && fields[0].Value == "100" {
				continue
			}
			for _, h := range fields {
				got.Add(h.Name, h.Value)
			}
			return got
		case *http2.RSTStreamFrame, *http2.GoAwayFrame:
			return got
		}
	}
}

// TestHTTP2Smuggling: what an HTTP/1.1 reader behind the door would split, or
// another HTTP/2 reader would place elsewhere, and the protocols that HTTP/2
// could carry instead of requests. Nothing reaches the origin.
func TestHTTP2Smuggling(t *testing.T) {
	o := newOrigin(t, true, nil)
	r := newRig(t, o, nil)
	method, scheme, path := [2]string{":method", "POST"}, [2]string{":scheme", "https"}, [2]string{":path", "/w"}
	authority := [2]string{":authority", o.authority()}
	list := func(all ...[2]string) [][2]string { return all }
	plus := func(all ...[2]string) [][2]string { return append(list(method, scheme, authority, path), all...) }
	at := func(p string) [][2]string {
		return list([2]string{":method", "GET"}, scheme, authority, [2]string{":path", p})
	}
	connect := func(protocol string) [][2]string {
		return list([2]string{":method", "CONNECT"}, [2]string{":protocol", protocol}, scheme, authority, [2]string{":path", "/.well-known/masque/udp/192.0.2.1/443/"})
	}
	for name, tc := range map[string]struct {
		code string // "" if it is refused below the door, or at both in either order
		h2Message
	}{
		"method_twice":            {"", h2Message{fields: list(method, [2]string{":method", "GET"}, scheme, authority, path)}},
		"path_twice":              {"", h2Message{fields: list(method, scheme, authority, path, [2]string{":path", "/other"})}},
		"authority_twice":         {"", h2Message{fields: list(method, scheme, authority, [2]string{":authority", "evil.example"}, path)}},
		"scheme_twice":            {"", h2Message{fields: list(method, scheme, [2]string{":scheme", "http"}, authority, path)}},
		"pseudo_after_field":      {"", h2Message{fields: list(method, scheme, authority, [2]string{"x-a", "1"}, path)}},
		"status":                  {"", h2Message{fields: plus([2]string{":status", "200"})}},
		"no_method":               {"", h2Message{fields: list(scheme, authority, path)}},
		"no_path":                 {"", h2Message{fields: list(method, scheme, authority)}},
		"no_scheme":               {"", h2Message{fields: list(method, authority, path)}},
		"no_authority":            {"host", h2Message{fields: list(method, scheme, path)}},
		"empty_path":              {"", h2Message{fields: at("")}},
		"asterisk":                {"target_form", h2Message{fields: at("*")}},
		"relative_path":           {"", h2Message{fields: at("r")}},
		"fragment":                {"target_bytes", h2Message{fields: at("/r#/other")}},
		"space":                   {"target_bytes", h2Message{fields: at("/r HTTP/1.1")}},
		"tab":                     {"", h2Message{fields: at("/r\t")}},
		"backslash":               {"target_bytes", h2Message{fields: at(`/r\..\x`)}},
		"utf8":                    {"target_bytes", h2Message{fields: at("/ä")}},
		"request_in_path":         {"", h2Message{fields: at("/ HTTP/1.1\r\nHost: evil.example\r\n\r\nGET /x")}},
		"lf_in_path":              {"", h2Message{fields: at("/\nx")}},
		"nul_in_path":             {"", h2Message{fields: at("/\x00")}},
		"authority_in_path":       {"path_ambiguous", h2Message{fields: at("//evil.example/")}},
		"space_in_method":         {"", h2Message{fields: list([2]string{":method", "GET /x HTTP/1.1"}, scheme, authority, path)}},
		"crlf_in_method":          {"", h2Message{fields: list([2]string{":method", "GET\r\nX: 1"}, scheme, authority, path)}},
		"lower_case_method":       {"method", h2Message{fields: list([2]string{":method", "post"}, scheme, authority, path)}},
		"crlf_in_authority":       {"", h2Message{fields: list(method, scheme, [2]string{":authority", o.authority() + "\r\nX: 1"}, path)}},
		"path_in_authority":       {"", h2Message{fields: list(method, scheme, [2]string{":authority", o.authority() + "/x"}, path)}},
		"host_twice":              {"host_mismatch", h2Message{fields: plus([2]string{"host", o.authority()}, [2]string{"host", "evil.example"})}},
		"crlf_in_name":            {"", h2Message{fields: plus([2]string{"x-a\r\nx-b", "1"})}},
		"colon_in_name":           {"", h2Message{fields: plus([2]string{"transfer-encoding: chunked\r\nx", "1"})}},
		"space_in_name":           {"", h2Message{fields: plus([2]string{"content-length ", "1"})}},
		"empty_name":              {"", h2Message{fields: plus([2]string{"", "1"})}},
		"lf_in_value":             {"", h2Message{fields: plus([2]string{"x-a", "1\ntransfer-encoding: chunked"})}},
		"nul_in_value":            {"", h2Message{fields: plus([2]string{"x-a", "1\x002"})}},
		"transfer_encoding":       {"", h2Message{fields: plus([2]string{"transfer-encoding", "chunked"}), data: []byte("0\r\n\r\nGET /x HTTP/1.1\r\n\r\n")}},
		"connection":              {"", h2Message{fields: plus([2]string{"connection", "content-length"})}},
		"proxy_connection":        {"", h2Message{fields: plus([2]string{"proxy-connection", "keep-alive"})}},
		"keep_alive":              {"", h2Message{fields: plus([2]string{"keep-alive", "timeout=1"})}},
		"upgrade":                 {"", h2Message{fields: plus([2]string{"upgrade", "websocket"})}},
		"te":                      {"", h2Message{fields: plus([2]string{"te", "chunked"})}},
		"length_too_long":         {"", h2Message{fields: plus([2]string{"content-length", "9"}), data: []byte("x")}},
		"length_too_short":        {"", h2Message{fields: plus([2]string{"content-length", "1"}), data: []byte("x" + "GET /smuggled HTTP/1.1\r\n\r\n")}},
		"length_zero":             {"", h2Message{fields: plus([2]string{"content-length", "0"}), data: []byte("GET /smuggled HTTP/1.1\r\n\r\n")}},
		"length_twice":            {"field_twice", h2Message{fields: plus([2]string{"content-length", "1"}, [2]string{"content-length", "2"}), data: []byte("x")}},
		"length_not_a_number":     {"", h2Message{fields: plus([2]string{"content-length", "+1"}), data: []byte("x")}},
		"length_empty":            {"", h2Message{fields: plus([2]string{"content-length", ""}), data: []byte("x")}},
		"pseudo_in_trailers":      {"", h2Message{fields: plus(), data: []byte("x"), trailers: list([2]string{":path", "/other"})}},
		"length_in_trailers":      {"", h2Message{fields: plus([2]string{"trailer", "x-t"}), data: []byte("x"), trailers: list([2]string{"content-length", "9"})}},
		"body_on_get":             {"body_on_read", h2Message{fields: at("/r"), data: []byte("GET /x HTTP/1.1\r\n\r\n")}},
		"gzip_of_nothing":         {"body_encoding_broken", h2Message{fields: plus([2]string{"content-encoding", "gzip"})}},
		"override_in_query":       {"method_override", h2Message{fields: list(method, scheme, authority, [2]string{":path", "/w?_method=DELETE"})}},
		"connect":                 {"", h2Message{fields: list([2]string{":method", "CONNECT"}, authority)}},
		"connect_elsewhere":       {"", h2Message{fields: list([2]string{":method", "CONNECT"}, [2]string{":authority", "evil.example:443"})}},
		"websocket":               {"", h2Message{fields: connect("websocket")}},
		"webtransport":            {"", h2Message{fields: connect("webtransport")}},
		"connect_udp":             {"", h2Message{fields: connect("connect-udp")}},
		"connect_ip":              {"", h2Message{fields: connect("connect-ip")}},
		"protocol_without_tunnel": {"", h2Message{fields: plus([2]string{":protocol", "connect-udp"})}},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(r.Log.Decisions(t))
			got := sendH2(t, r, tc.h2Message)
			decided := r.Log.Decisions(t)[before:]
			switch {
			case tc.code != "" && got.Get(":status") != "":
				wantDenied(t, atoi(got.Get(":status")), got, tc.code)
			case tc.code != "":
				t.Errorf("refused without an answer, want %s", tc.code)
			case got.Get(":status") == "200":
				t.Error("answered")
			}
			for _, d := range decided {
				if d.Decision.Verdict == action.Allow {
					t.Errorf("allowed %+v", d.Action)
				}
			}
			if n := len(o.all()); n != 0 {
				t.Fatalf("origin got %+v", o.all())
			}
		})
	}
}

// TestHTTP2BodyAndTrailers: data frames are one body and trailers end here.
func TestHTTP2BodyAndTrailers(t *testing.T) {
	o := newOrigin(t, true, nil)
	r := newRig(t, o, nil)
	got := sendH2(t, r, h2Message{
		fields: [][2]string{{":method", "POST"}, {":scheme", "https"}, {":authority", o.authority()}, {":path", "/w"}, {"te", "trailers"},
			{"expect", "100-continue"}, {"trailer", "x-t"}},
		data: []byte("abc"), trailers: [][2]string{{"x-t", "1"}, {"x-http-method-override", "DELETE"}}})
	if got.Get(":status") != "200" {
		t.Fatalf("got %v", got)
	}
	if s := o.one(t); got.Get(":status") != "200" || string(s.Body) != "abc" || s.Header.Get("X-T") != "" || s.Header.Get("Te") != "" ||
		s.Header.Get("Trailer") != "" || s.Header.Get("Expect") != "" || s.Header.Get("X-Http-Method-Override") != "" || s.Method != "POST" {
		t.Errorf("got %v, origin %+v", got, s)
	}
	if d := r.last(t); strings.Contains(d.Action.Params["stripped"], "override") {
		t.Errorf("a trailer was taken for a field: %+v", d.Action)
	}
}
