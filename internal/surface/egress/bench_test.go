package egress

import (
	"crypto/tls"
	"io"
	"net/http"
	"strings"
	"testing"
)

// The pair says what the door costs per warm 1 KiB request: gate, two records in
// memory, recognition, digests, a second TLS and the search for secrets.

func benchOrigin(b *testing.B) *origin {
	kib := strings.Repeat("x", 1024)
	return newOrigin(b, true, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, kib) })
}

func bench(b *testing.B, c *http.Client, u string) {
	b.Helper()
	b.ReportAllocs()
	for b.Loop() {
		resp, err := c.Get(u)
		if err != nil {
			b.Fatal(err)
		}
		n, err := io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		if err != nil || n != 1024 {
			b.Fatal(n, err)
		}
	}
}

func BenchmarkDirect(b *testing.B) {
	for _, proto := range []string{"h1", "h2"} {
		b.Run(proto, func(b *testing.B) {
			o := benchOrigin(b)
			tr := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: o.TLS.ClientCAs}, DialContext: newUpstreamDial(b, o), Protocols: new(http.Protocols)}
			tr.Protocols.SetHTTP1(proto == "h1")
			tr.Protocols.SetHTTP2(proto == "h2")
			bench(b, &http.Client{Transport: tr}, o.name()+"/")
		})
	}
}

func BenchmarkThroughDoor(b *testing.B) {
	for _, proto := range []string{"h1", "h2"} {
		b.Run(proto, func(b *testing.B) {
			o := benchOrigin(b)
			r := newRig(b, o, nil, func(c *Config) {
				c.Credentials, c.Redactor = &jar{value: "a-secret-cookie"}, secrets{"a-secret-cookie"}
			})
			bench(b, r.client(proto == "h2"), o.name()+"/")
		})
	}
}

func BenchmarkScrub(b *testing.B) {
	s := newScrubber([]Secret{"0a1b2c3d4e5f60718293a4b5c6d7e8f9", "eyJhbGciOiJIUzI1NiJ9.e30.c2lnbmF0dXJl", "correct horse battery staple"})
	page := []byte(strings.Repeat(`<tr><td class="name">Ada Lovelace</td><td>ada@example.com</td><td>0a1b</td></tr>`, 800))
	b.SetBytes(int64(len(page)))
	for b.Loop() {
		if _, _, hit := s.step(page, true); hit {
			b.Fatal("found a secret where there is none")
		}
	}
}
