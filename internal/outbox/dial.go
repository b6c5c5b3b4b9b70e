package outbox

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"syscall"
	"time"

	"github.com/sallyport-dev/sallyport/internal/reach"
)

const (
	dialLimit   = 10 * time.Second
	clientLimit = 10 * time.Second
)

// Dialer connects to addresses of others; to loopback and private ones only if
// they are declared local. It looks at the address that is dialled, so that a name
// may say what it likes.
func Dialer(local bool) *net.Dialer {
	return &net.Dialer{Timeout: dialLimit, Control: func(_, address string, _ syscall.RawConn) error {
		ap, err := netip.ParseAddrPort(address)
		if err != nil {
			return err
		}
		if !reach.Permitted(ap.Addr(), local) {
			return fmt.Errorf("the address %s is not one of others; a loopback or private one is declared with local: true", ap.Addr())
		}
		return nil
	}}
}

// Client posts to a receiver: no proxy of the environment, no redirects, no cookies.
func Client(roots string, local bool) *http.Client {
	return &http.Client{Timeout: clientLimit,
		Transport:     &http.Transport{DialContext: Dialer(local).DialContext, TLSClientConfig: reach.TLS(roots), DisableKeepAlives: true, MaxResponseHeaderBytes: 16 << 10},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}
