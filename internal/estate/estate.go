package estate

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"
)

// A Stage names one of the two copies of the estate.
type Stage string

// The stages.
const (
	Sandbox    Stage = "sandbox"
	Production Stage = "production"
)

// An App names one of the applications of a copy.
type App string

// The applications. Runbooks has no pages: it is a server of tools. Evil is the
// attacker's site: it has no accounts.
const (
	IAM      App = "iam"
	Tickets  App = "tickets"
	Mail     App = "mail"
	Pay      App = "pay"
	Runbooks App = "runbooks"
	Evil     App = "evil"
)

var (
	stages = []Stage{Sandbox, Production}
	// signedApps are the applications with sign-in, in the order of the switcher.
	signedApps = []App{IAM, Tickets, Mail, Pay}
	ownApps    = append(slices.Clone(signedApps), Runbooks) // which have accounts and an audit log
	allApps    = append(slices.Clone(ownApps), Evil)
)

// Config says where the estate listens. The zero value serves both copies on
// free loopback ports with random passwords and without the admin listener.
type Config struct {
	// SandboxAddr and ProductionAddr are loopback addresses, host:port, on
	// which all names of a copy are served. Default 127.0.0.1:0.
	SandboxAddr, ProductionAddr string
	// AdminAddr is the loopback address of the admin listener (plain HTTP,
	// unauthenticated). Default: not served.
	AdminAddr string
	// Password may choose the password of an account, for example one that is
	// sealed elsewhere. Where it is nil or returns "", the password is random.
	Password func(stage Stage, app App, username string) string
	// Directory may take who is no account of an application itself, as one does
	// that signs people in by LDAP.
	Directory func(stage Stage, app App, username, password string) bool
	// Code may ask an account for a one-time code beside its password, on the same
	// form, and judge it.
	Code func(stage Stage, app App, username, code string) (asked, right bool)
}

// An Estate is a running sample estate.
type Estate struct {
	ca      *authority
	copies  map[Stage]*Copy
	addrs   map[Stage]string
	admin   string
	leaves  map[Stage]leafSet
	serving sync.WaitGroup
	stop    func() bool

	mu      sync.Mutex
	servers []*http.Server
	worlds  map[Stage][]World
	closed  bool
}

// World is a further copy of a stage, under the same names, with data of its own and
// the accounts of the sandbox, for who reaches it by its own address. Trials that
// run at once have one each, and so has what rehearses production.
type World struct {
	For     string `json:"for"`     // address of the stage whose names it serves
	Address string `json:"address"` // where it is served itself
	copy    *Copy
}

// maxWorlds bounds how many there are.
const maxWorlds = 16

// Worlds makes worlds of a stage until there are n, and returns the first n.
func (e *Estate) Worlds(stage Stage, n int) ([]World, error) {
	if n < 1 || n > maxWorlds {
		return nil, fmt.Errorf("n: want 1 to %d worlds", maxWorlds)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for len(e.worlds[stage]) < n {
		l, err := listenLoopback("")
		if err != nil {
			return nil, err
		}
		c, err := e.copies[stage].another(e.copies[Sandbox].accounts)
		if err != nil {
			return nil, errors.Join(err, l.Close())
		}
		if err := e.serve(l, c.handler(), &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: e.leaves[stage].get}); err != nil {
			return nil, err
		}
		e.worlds[stage] = append(e.worlds[stage], World{e.addrs[stage], l.Addr().String(), c})
	}
	return e.worlds[stage][:n:n], nil
}

// World is the copy of a stage's world, counted from 1; nil if there is none.
func (e *Estate) World(stage Stage, n int) *Copy {
	e.mu.Lock()
	defer e.mu.Unlock()
	if n < 1 || n > len(e.worlds[stage]) {
		return nil
	}
	return e.worlds[stage][n-1].copy
}

// Serve starts the estate and returns when all its listeners accept. It is
// closed by Close or by the end of ctx.
func Serve(ctx context.Context, c Config) (*Estate, error) {
	ca, err := newAuthority(time.Now())
	if err != nil {
		return nil, fmt.Errorf("make estate authority: %w", err)
	}
	e := &Estate{ca: ca, copies: map[Stage]*Copy{}, addrs: map[Stage]string{}, leaves: map[Stage]leafSet{}, worlds: map[Stage][]World{}}
	if err := e.listen(c); err != nil {
		return nil, errors.Join(err, e.Close())
	}
	e.stop = context.AfterFunc(ctx, func() { _ = e.Close() })
	return e, nil
}

func (e *Estate) listen(c Config) error {
	for _, stage := range stages {
		addr := c.SandboxAddr
		if stage == Production {
			addr = c.ProductionAddr
		}
		l, err := listenLoopback(addr)
		if err != nil {
			return fmt.Errorf("listen for %s: %w", stage, err)
		}
		e.addrs[stage] = l.Addr().String()
		e.copies[stage], err = newCopy(stage, l.Addr().(*net.TCPAddr).Port, c)
		if err != nil {
			return errors.Join(err, l.Close())
		}
		leaves, err := e.ca.leaves(hostsOf(stage))
		if err != nil {
			return errors.Join(fmt.Errorf("issue certificates of %s: %w", stage, err), l.Close())
		}
		e.leaves[stage] = leaves
		e.start(l, e.copies[stage].handler(), &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: leaves.get})
	}
	if c.AdminAddr != "" {
		l, err := listenLoopback(c.AdminAddr)
		if err != nil {
			return fmt.Errorf("listen for admin: %w", err)
		}
		e.admin = l.Addr().String()
		e.start(l, e.adminHandler(), nil)
	}
	return nil
}

func (e *Estate) start(l net.Listener, h http.Handler, t *tls.Config) {
	e.mu.Lock()
	defer e.mu.Unlock()
	_ = e.serve(l, h, t) // not closed yet
}

// serve is called with mu held.
func (e *Estate) serve(l net.Listener, h http.Handler, t *tls.Config) error {
	if e.closed {
		return errors.Join(errors.New("the estate is closed"), l.Close())
	}
	s := &http.Server{
		Handler:           h,
		TLSConfig:         t,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		// Handshakes that clients break off are no news here.
		ErrorLog: slog.NewLogLogger(slog.Default().Handler(), slog.LevelDebug),
	}
	e.servers = append(e.servers, s)
	e.serving.Go(func() {
		if t != nil {
			_ = s.ServeTLS(l, "", "")
			return
		}
		_ = s.Serve(l)
	})
	return nil
}

func listenLoopback(addr string) (net.Listener, error) {
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	ap, err := netip.ParseAddrPort(addr)
	if err != nil {
		return nil, err
	}
	if !ap.Addr().IsLoopback() {
		return nil, fmt.Errorf("%s is not a loopback address", addr)
	}
	return net.Listen("tcp", addr)
}

// Close cuts all connections and returns when the listeners are closed.
func (e *Estate) Close() error {
	var errs []error
	e.mu.Lock()
	if !e.closed {
		e.closed = true
		if e.stop != nil {
			e.stop()
		}
		for _, s := range e.servers {
			errs = append(errs, s.Close())
		}
	}
	e.mu.Unlock()
	e.serving.Wait()
	return errors.Join(errs...)
}

// Host is the DNS name of an application, "" for an unknown one.
func Host(stage Stage, app App) string {
	switch {
	case app == Evil && stage == Production:
		return "evil.localhost"
	case app == Evil && stage == Sandbox:
		return "sandbox.evil.localhost"
	case !slices.Contains(ownApps, app):
		return ""
	case stage == Production:
		return string(app) + ".brightwell.localhost"
	case stage == Sandbox:
		return string(app) + ".sandbox.brightwell.localhost"
	}
	return ""
}

func hostsOf(stage Stage) []string {
	var names []string
	for _, app := range allApps {
		names = append(names, Host(stage, app))
	}
	return names
}

// URL is the origin of an application, without a trailing slash, "" for an
// unknown one.
func (e *Estate) URL(stage Stage, app App) string {
	if c := e.copies[stage]; c != nil {
		return c.url(app)
	}
	return ""
}

// Addr is the host:port on which all names of a stage are served.
func (e *Estate) Addr(stage Stage) string { return e.addrs[stage] }

// AdminURL is the origin of the admin listener, "" when it is not served.
func (e *Estate) AdminURL() string {
	if e.admin == "" {
		return ""
	}
	return "http://" + e.admin
}

// Copy is the copy of a stage, nil for an unknown stage.
func (e *Estate) Copy(stage Stage) *Copy { return e.copies[stage] }

// CAPEM is the certificate of the estate's own authority, which signed the
// certificates of all its names. Its key is never written down.
func (e *Estate) CAPEM() []byte { return e.ca.pem }

// Credentials are those of the service account svc-helpdesk, the zero value for
// an unknown application or one without accounts.
func (e *Estate) Credentials(stage Stage, app App) Credentials {
	c, _ := e.CredentialsOf(stage, app, ServiceAccount)
	return c
}

// CredentialsOf are those of a named account: ServiceAccount or ReadOnlyAccount.
func (e *Estate) CredentialsOf(stage Stage, app App, username string) (Credentials, bool) {
	c := e.copies[stage]
	if c == nil {
		return Credentials{}, false
	}
	a, ok := c.accounts[app][username]
	return Credentials{Username: a.name, Password: a.password}, ok
}

// DialContext connects to a name of the estate, whatever the port, and to no
// other. Resolvers differ on *.localhost, so programs in Go use this.
func (e *Estate) DialContext(ctx context.Context, network, addr string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	for _, stage := range stages {
		for _, name := range hostsOf(stage) {
			if strings.EqualFold(name, host) {
				var d net.Dialer
				return d.DialContext(ctx, network, e.addrs[stage])
			}
		}
	}
	return nil, fmt.Errorf("%s is not a name of the estate", host)
}

// HTTPClient is a new client with its own cookie jar that trusts the estate's
// authority, reaches only the estate's names and follows no redirect.
func (e *Estate) HTTPClient() *http.Client {
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(e.ca.pem)
	jar, err := cookiejar.New(nil)
	if err != nil {
		panic("sallyport: internal error: cookie jar: " + err.Error())
	}
	return &http.Client{
		Jar: jar,
		Transport: &http.Transport{
			DialContext:       e.DialContext,
			TLSClientConfig:   &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12},
			ForceAttemptHTTP2: true,
		},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}
