// Package rig runs the whole product inside a test: the sample estate and its
// scripted model on ports of their own, a server with the sample tenant applied
// under fresh keys, a scripted approver, and harnesses that are the test binary
// itself, started again inside the boundary.
//
// It uses exported API only. Nothing in it replaces a part of the product: the
// browser is Chromium, the containment is the kernel's, the ledger is on disk.
// What is scripted (the model, the approver) says so in its name.
package rig

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sallyport-dev/sallyport/examples/helpdesk"
	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/estate"
	"github.com/sallyport-dev/sallyport/internal/estate/provider"
	"github.com/sallyport-dev/sallyport/internal/ledger"
	"github.com/sallyport-dev/sallyport/internal/resource"
	"github.com/sallyport-dev/sallyport/internal/seal"
	"github.com/sallyport-dev/sallyport/internal/server"
	"github.com/sallyport-dev/sallyport/internal/store"
	"github.com/sallyport-dev/sallyport/internal/store/pgtest"
)

// Options of a rig. The zero value is the sample tenant as it ships.
type Options struct {
	Dir  string        // data folder of the server; "" makes one that goes with the rig
	Pace time.Duration // how long the scripted model gives a page; 0 means 50 ms
	// Issuer is the base URL under which tokens name the server.
	Issuer string
	// SPIRE is the socket of a SPIRE agent for the sample tenant; "" is none.
	SPIRE string
	// HoldLimit bounds how long an action waits for people; 0 means the server's.
	HoldLimit time.Duration
	// Edit changes the sample resources, by file name, before they are applied.
	Edit func(files map[string][]byte)
	Log  *slog.Logger
	// NoServer starts the world only: estate, model, keys. Open comes later, or
	// the server is another process.
	NoServer bool
	// Audit has the server read the applications' own audit logs, as the sample tenant
	// declares it. Tests act in the applications by the agent's account, and go back to
	// older states of the server, both of which is a finding.
	Audit bool
	// Password chooses the passwords of the estate's accounts; see estate.Config.
	Password func(stage estate.Stage, app estate.App, username string) string
	// Directory signs in who is no account of the estate itself; see estate.Config.
	Directory func(stage estate.Stage, app estate.App, username, password string) bool
	// Code asks for one-time codes; see estate.Config.
	Code func(stage estate.Stage, app estate.App, username, code string) (asked, right bool)
	// KEK makes what wraps the server's keys, at each Open, and says how long
	// secrets open without it; nil is a key file.
	KEK func() (seal.KEK, time.Duration, error)
	// Before runs when the world is up and nothing is applied. It may change
	// Ports and EstateCA, to stand between the server and the estate.
	Before func(*Rig) error
}

// Rig is one world and the server in front of it. Its methods may be used by
// one test at a time.
type Rig struct {
	Server   *server.Server
	Estate   *estate.Estate
	Provider *provider.Provider
	Ports    helpdesk.Ports
	EstateCA []byte // PEM
	Dir      string // data folder
	Store    string // URL of a database; "" for the embedded store

	key     string // of the scripted model
	options Options
	keys    map[string]ssh.Signer
	closers []func() error

	mu     sync.Mutex
	signer func(approval.Approval) string // of the scripted approver
	stop   func()
}

// New starts a rig that ends with the test.
func New(t testing.TB, o Options) *Rig {
	t.Helper()
	r, err := Start(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	})
	return r
}

// Start starts a rig that the caller closes. Capability and boundary of the
// sample tenant are not approved yet.
func Start(o Options) (*Rig, error) {
	if o.Pace == 0 {
		o.Pace = 50 * time.Millisecond
	}
	r := &Rig{options: o, Dir: o.Dir, keys: map[string]ssh.Signer{}, key: "sk-estate-" + rand.Text()}
	if err := r.start(); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

func (r *Rig) start() error {
	ctx := context.Background()
	var err error
	if r.Dir == "" {
		base, err := os.MkdirTemp("", "rig-")
		if err != nil {
			return err
		}
		r.closers = append(r.closers, func() error { return os.RemoveAll(base) })
		r.Dir = filepath.Join(base, "data")
	}
	if r.Store, err = pgtest.Chosen(ctx); err != nil {
		return err
	}
	if r.Estate, err = estate.Serve(ctx, estate.Config{AdminAddr: "127.0.0.1:0", Password: r.options.Password, Directory: r.options.Directory, Code: r.options.Code}); err != nil {
		return err
	}
	r.closers = append(r.closers, r.Estate.Close)
	// Patient: a person may have to approve what the script waits for.
	r.Provider, err = provider.Serve(ctx, provider.Config{Key: r.key, Model: "scripted-1", Behaviour: provider.Honest, Pace: r.options.Pace, Patience: 60})
	if err != nil {
		return err
	}
	r.closers = append(r.closers, r.Provider.Close)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	admin := &http.Server{Handler: r.Provider.Admin(), ReadHeaderTimeout: 10 * time.Second}
	go admin.Serve(l)
	r.closers = append(r.closers, admin.Close)
	port := func(addr string) string { return addr[strings.LastIndex(addr, ":")+1:] }
	r.Ports = helpdesk.Ports{Production: port(r.Estate.Addr(estate.Production)), Sandbox: port(r.Estate.Addr(estate.Sandbox)),
		Provider: port(r.Provider.URL()), EstateAdmin: port(r.Estate.AdminURL()), ProviderAdmin: port(l.Addr().String())}
	r.EstateCA = r.Estate.CAPEM()
	if r.options.Before != nil {
		if err := r.options.Before(r); err != nil {
			return err
		}
	}
	if r.options.NoServer {
		return nil
	}
	if err := r.Open(); err != nil {
		return err
	}
	all, err := r.Resources(r.options.Edit)
	if err != nil {
		return err
	}
	if _, err := r.Server.Apply(ctx, As("noor"), all); err != nil {
		return err
	}
	for name, value := range r.Secrets() {
		if err := r.Server.PutSecret(ctx, "", As("sven"), name, []byte(value)); err != nil {
			return err
		}
	}
	return nil
}

// Open opens the server on the rig's data folder.
func (r *Rig) Open() (err error) {
	c := server.Config{Data: r.Dir, Store: r.Store, Issuer: r.options.Issuer, HoldLimit: r.options.HoldLimit, SPIRE: map[string]string{}, Log: r.options.Log}
	if r.options.SPIRE != "" {
		c.SPIRE["brightwell"] = r.options.SPIRE
	}
	if r.options.KEK != nil {
		if c.KEK, c.KEKGrace, err = r.options.KEK(); err != nil {
			return err
		}
	}
	r.Server, err = server.Open(context.Background(), c)
	return err
}

// OpenStore opens the store of a stopped server, to be closed by the caller.
func (r *Rig) OpenStore(ctx context.Context) (interface {
	ledger.Store
	Close() error
}, error) {
	if r.Store != "" {
		return store.OpenPostgres(ctx, r.Store)
	}
	return store.OpenSQLite(r.Dir)
}

// CloseServer stops the server and the scripted approver; the world stays.
func (r *Rig) CloseServer() error {
	r.StopApprover()
	if r.Server == nil {
		return nil
	}
	err := r.Server.Close()
	r.Server = nil
	return err
}

// Close ends everything.
func (r *Rig) Close() error {
	errs := []error{r.CloseServer()}
	for i := len(r.closers) - 1; i >= 0; i-- {
		errs = append(errs, r.closers[i]())
	}
	r.closers = nil
	return errors.Join(errs...)
}

// As is a call by one of the sample people, from the server's own user.
func As(person string) server.Caller { return server.Caller{UID: os.Getuid(), Person: person} }

// Secrets are what the sample tenant's secrets administrator stores, by name.
func (r *Rig) Secrets() map[string]string {
	out := map[string]string{"provider-key": r.key}
	for _, stage := range []estate.Stage{estate.Sandbox, estate.Production} {
		for name, app := range map[string]estate.App{"iam-helpdesk": estate.IAM, "tickets-helpdesk": estate.Tickets} {
			out[name+"/"+string(stage)] = r.Estate.Credentials(stage, app).Password.Reveal()
		}
	}
	for _, app := range []estate.App{estate.IAM, estate.Tickets} {
		if !r.options.Audit {
			break
		}
		c, _ := r.Estate.CredentialsOf(estate.Production, app, estate.ReadOnlyAccount)
		out[string(app)+"-auditor/production"] = c.Password.Reveal()
	}
	for _, app := range []estate.App{estate.Mail, estate.Pay, estate.Runbooks} {
		out[string(app)+"-desk/sandbox"] = r.Estate.Credentials(estate.Sandbox, app).Password.Reveal()
	}
	return out
}

// Resources are the sample tenant's, on this rig's ports and with its keys,
// after edit, if it is not nil, changed their files.
func (r *Rig) Resources(edit func(files map[string][]byte)) ([]resource.Resource, error) {
	files, err := helpdesk.Render(r.Ports)
	if err != nil {
		return nil, err
	}
	err = fs.WalkDir(helpdesk.Files, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || files[path] != nil {
			return err
		}
		files[path], err = fs.ReadFile(helpdesk.Files, path)
		return err
	})
	if err != nil {
		return nil, err
	}
	files["estate-ca.pem"], files["provider-ca.pem"] = r.EstateCA, r.Provider.CAPEM()
	if !r.options.Audit {
		files["connectors.yaml"] = auditLog.ReplaceAll(files["connectors.yaml"], nil)
		files["credentials.yaml"] = auditors.ReplaceAll(files["credentials.yaml"], nil)
	}
	if edit != nil {
		edit(files)
	}
	var sources []resource.Source
	for name, b := range files {
		if strings.HasSuffix(name, ".yaml") && !strings.Contains(name, "/") {
			sources = append(sources, resource.Source{Name: name, Data: b})
		}
	}
	all, err := resource.Decode(sources)
	if err != nil {
		return nil, err
	}
	err = resource.Inline(all, func(_, path string) ([]byte, error) {
		if name, ok := strings.CutPrefix(path, "keys/"); ok {
			key, err := r.Key(strings.TrimSuffix(name, ".pub"))
			if err != nil {
				return nil, err
			}
			return ssh.MarshalAuthorizedKey(key.PublicKey()), nil
		}
		if b, ok := files[path]; ok {
			return b, nil
		}
		return nil, fmt.Errorf("%s: %w", path, fs.ErrNotExist)
	})
	return all, err
}

// auditLog and auditors are what the sample files say of audit logs.
var (
	auditLog = regexp.MustCompile(`(?m)^(  # What the application itself.*\n)?  audit:\n(    .*\n)+`)
	auditors = regexp.MustCompile(`(?s)---\n# What the boundary reads the applications' own audit logs with.*`)
)

// Replace returns an Edit that replaces text in one file and fails loudly, by
// an invalid file, where the text is not there once.
func Replace(file, old, text string) func(map[string][]byte) {
	return func(files map[string][]byte) {
		if bytes.Count(files[file], []byte(old)) != 1 {
			files[file] = fmt.Appendf(nil, "%q is not once in %s", old, file)
			return
		}
		files[file] = bytes.Replace(files[file], []byte(old), []byte(text), 1)
	}
}

// Key is the approval key of a person, made at the first use.
func (r *Rig) Key(person string) (ssh.Signer, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if k := r.keys[person]; k != nil {
		return k, nil
	}
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return nil, err
	}
	r.keys[person], err = ssh.NewSignerFromKey(priv)
	return r.keys[person], err
}

// Await waits until ok, within a limit that is far above what it takes.
func Await(t testing.TB, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(time.Minute)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited too long for %s", what)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
