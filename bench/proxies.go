package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"io"
	"log"
	"net"
	"net/http"
	"time"

	"github.com/elazarl/goproxy"
)

// parallel is how many requests are under way at once.
const parallel = 16

// proxies: what door 2 lets through when many ask at once, against a proxy that
// does the same to TLS and decides nothing.
func (b *bench) proxies(ctx context.Context, r *rig) error {
	other, err := newGoproxy(r.origin)
	if err != nil {
		return err
	}
	defer other.Close()
	door := r.client(r.door.CAPEM(), r.addr, false)
	plain := r.client(other.ca, other.addr, false)
	get := func(c *http.Client) func(int) (time.Duration, error) {
		return func(int) (time.Duration, error) {
			return timed(func() error { return getKiB(ctx, c, r.origin.url(kibPath)) })
		}
	}
	var own, base crowd
	long := time.Duration(b.n(400)) * time.Millisecond
	for i := range b.rounds + 1 {
		if i == 1 {
			own, base = crowd{}, crowd{}
		}
		err := inTurn(i, func() error { return own.round(parallel, long, get(door)) }, func() error { return base.round(parallel, long, get(plain)) })
		if err != nil {
			return err
		}
	}
	slower := median(base.over(own.rates))
	b.add(row{"1 KiB requests through door 2, 16 at once", perSecond(median(own.rates)), perSecond(median(base.rates)) + " goproxy",
		times(slower) + " slower", "within 1.3x", slower <= 1.3})
	b.note("**16 at once.** As many connections of one Go client, HTTP/1.1, each with its next request as soon as the last was answered, to the same origin. " +
		"goproxy (github.com/elazarl/goproxy) ends TLS on both sides too and keeps as many connections to the origin; it decides and records nothing. Of " +
		"ours each request is decided, recorded durably twice (before and after), given a cookie, and its answer searched.")
	return nil
}

// other is goproxy as it is, with its own authority.
type other struct {
	http *http.Server
	addr string
	ca   []byte
}

func newGoproxy(o *origin) (*other, error) {
	p := goproxy.NewProxyHttpServer()
	p.Logger = log.New(io.Discard, "", 0)
	p.OnRequest().HandleConnect(goproxy.AlwaysMitm)
	p.Tr = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: o.ca.pool()}, DialContext: o.connect, DisableCompression: true, MaxIdleConnsPerHost: parallel}
	ca, err := x509.ParseCertificate(goproxy.GoproxyCa.Certificate[0])
	if err != nil {
		return nil, err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	x := &other{http: &http.Server{Handler: p, ReadHeaderTimeout: 10 * time.Second, ErrorLog: log.New(io.Discard, "", 0)},
		addr: l.Addr().String(), ca: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: ca.Raw})}
	go x.http.Serve(l)
	return x, nil
}

func (x *other) Close() { x.http.Close() }
