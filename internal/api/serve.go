package api

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/server"
)

// Config says where a server is served.
type Config struct {
	// Data is the server's folder: the sockets are in it. The caller's lock on
	// the folder keeps two servers apart.
	Data string
	// People is the path of a second socket, which every local user can reach and
	// every Person of a tenant can use; empty serves none.
	People string
	// Listen is the TCP address of what is public; empty serves none.
	Listen string
	// TLSCert and TLSKey are PEM files with which Listen is served over TLS. A
	// client certificate is asked for and binds tokens; it is never needed.
	TLSCert, TLSKey string
	// Bundles are TCP addresses of https_spiffe bundle endpoints, by tenant.
	Bundles map[string]string
	// Issuer is the base URL under which others reach Listen. Its host name is
	// accepted beside IP addresses and localhost.
	Issuer string
	Log    *slog.Logger
}

// Faces are the open listeners of a server.
type Faces struct {
	cancel  context.CancelFunc
	servers []*http.Server
	launch  net.Listener
	socket  string
	addr    string
	wg      sync.WaitGroup
}

// maxPath is how long the path of a Unix socket can be on Linux (unix(7)).
const maxPath = 107

// Serve opens the sockets in the data folder, and the TCP address. It returns
// when they are open; Close ends them.
func Serve(s *server.Server, c Config) (*Faces, error) {
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if err := os.Chmod(c.Data, 0o700); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	f := &Faces{cancel: cancel, socket: filepath.Join(c.Data, SocketName)}
	a := &api{s: s, data: c.Data, log: c.Log}
	if err := f.open(ctx, a, c); err != nil {
		return nil, errors.Join(err, f.Close())
	}
	return f, nil
}

func (f *Faces) open(ctx context.Context, a *api, c Config) error {
	main, err := listenUnix(f.socket, 0o600)
	if err != nil {
		return err
	}
	f.http(ctx, a, main, a.handler(), withPeer)
	if c.People != "" {
		people, err := listenUnix(c.People, 0o666)
		if err != nil {
			return fmt.Errorf("people's socket: %w", err)
		}
		f.http(ctx, a, people, a.handler(), withPeer)
	}
	if f.launch, err = listenUnix(filepath.Join(c.Data, LaunchName), 0o600); err != nil {
		return err
	}
	f.wg.Go(func() { a.serveLaunch(ctx, f.launch) })
	for tenant, addr := range c.Bundles {
		if err := f.bundle(ctx, a, tenant, addr); err != nil {
			return fmt.Errorf("bundle endpoint of %s: %w", tenant, err)
		}
	}
	if c.Listen == "" {
		return nil
	}
	tcp, err := net.Listen("tcp", c.Listen)
	if err != nil {
		return fmt.Errorf("listen address: %w", err)
	}
	f.addr = tcp.Addr().String()
	if c.TLSCert != "" {
		cert, err := tls.LoadX509KeyPair(c.TLSCert, c.TLSKey)
		if err != nil {
			tcp.Close()
			return fmt.Errorf("listen address: %w", err)
		}
		tcp = tls.NewListener(tcp, &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS12, ClientAuth: tls.RequestClientCert})
	}
	f.http(ctx, a, tcp, a.publicHandler(c.Issuer), nil)
	return nil
}

// bundle serves a tenant's bundle under https_spiffe, and nothing else. The
// tenant must exist: it is its own issuer that proves the endpoint.
func (f *Faces) bundle(ctx context.Context, a *api, tenant, addr string) error {
	conf, err := a.s.BundleTLS(tenant)
	if err != nil {
		return err
	}
	tcp, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /t/"+tenant+"/bundle", func(w http.ResponseWriter, r *http.Request) {
		h, err := a.s.Bundle(tenant)
		if err != nil {
			a.refuse(w, r, err)
			return
		}
		h.ServeHTTP(w, r)
	})
	f.http(ctx, a, tls.NewListener(tcp, conf), mux, nil)
	return nil
}

func (f *Faces) http(ctx context.Context, a *api, l net.Listener, h http.Handler, conn func(context.Context, net.Conn) context.Context) {
	srv := &http.Server{Handler: a.loud(h), ReadHeaderTimeout: 10 * time.Second, ReadTimeout: time.Minute, IdleTimeout: 2 * time.Minute, MaxHeaderBytes: 16 << 10,
		ErrorLog: slog.NewLogLogger(a.log.Handler(), slog.LevelDebug), ConnContext: conn,
		BaseContext: func(net.Listener) context.Context { return ctx }}
	f.servers = append(f.servers, srv)
	f.wg.Go(func() {
		if err := srv.Serve(l); err != nil && !errors.Is(err, http.ErrServerClosed) {
			a.log.Error("listener ended", "address", l.Addr().String(), "err", err)
		}
	})
}

// loud logs a panic, which net/http would only tell those who look at what it
// logs of its own. The caller's connection ends.
func (a *api) loud(h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		defer func() {
			switch v := recover(); v {
			case nil:
			case http.ErrAbortHandler:
				panic(v)
			default:
				a.log.Error("sallyport: internal error: a request panicked", "path", r.URL.Path, "panic", fmt.Sprint(v), "stack", string(debug.Stack()))
				panic(http.ErrAbortHandler)
			}
		}()
		h.ServeHTTP(w, r)
	})
}

// listenUnix makes a socket with this mode. One that a dead process left is
// removed; the data folder's lock says that no living server of it has it.
func listenUnix(path string, mode os.FileMode) (net.Listener, error) {
	if len(path) > maxPath {
		return nil, fmt.Errorf("%s is too long for a socket: %d bytes, limit %d; choose a shorter data folder", path, len(path), maxPath)
	}
	if fi, err := os.Lstat(path); err == nil {
		if fi.Mode().Type() != os.ModeSocket {
			return nil, fmt.Errorf("%s is in the way: it is not a socket", path)
		}
		if err := os.Remove(path); err != nil {
			return nil, err
		}
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	// In the data folder, that folder's own mode keeps others out until here.
	if err := os.Chmod(path, mode); err != nil {
		l.Close()
		return nil, err
	}
	return l, nil
}

// Socket is the path of the API's socket.
func (f *Faces) Socket() string { return f.socket }

// Addr is the TCP address, or empty.
func (f *Faces) Addr() string { return f.addr }

// Close ends every request: what streams or waits is cancelled first, and runs
// that were launched are ended with their tasks.
func (f *Faces) Close() error {
	f.cancel()
	ctx, cancel := context.WithTimeout(context.Background(), 15*time.Second)
	defer cancel()
	var errs []error
	if f.launch != nil {
		errs = append(errs, f.launch.Close())
	}
	for _, s := range f.servers {
		if err := s.Shutdown(ctx); err != nil {
			errs = append(errs, s.Close())
		}
	}
	f.wg.Wait()
	return errors.Join(errs...)
}
