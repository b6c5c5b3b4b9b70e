// Package apitest runs a real server with the sample tenant on real sockets in a
// temporary folder, in front of the real sample estate, for tests.
//
// The test binary is also what the server starts again inside the boundary, so a
// package that uses it calls Main as the first statement of TestMain.
package apitest

import (
	"context"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/api/client"
	"github.com/sallyport-dev/sallyport/internal/contain"
	"github.com/sallyport-dev/sallyport/internal/demo"
	"github.com/sallyport-dev/sallyport/internal/resource"
	"github.com/sallyport-dev/sallyport/internal/server"
	"github.com/sallyport-dev/sallyport/internal/store/pgtest"
)

// Main is the first statement of TestMain.
func Main() { contain.Main() }

// Rig is a running server. Its folder of resources is Files.
type Rig struct {
	Data, Files string
	Server      *server.Server
	Faces       *api.Faces
	Sample      *demo.Sample
	Keys        map[string]ssh.Signer // of the people
	Store       string                // URL of a database; "" for the embedded store
}

// Start runs a server with nothing in it. Addresses are chosen by the kernel, so
// that several can run at once.
func Start(t testing.TB) *Rig {
	t.Helper()
	// Short, for the sockets in it.
	dir, err := os.MkdirTemp("", "sp")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	r := &Rig{Data: filepath.Join(dir, "data"), Files: filepath.Join(dir, "files"), Keys: map[string]ssh.Signer{}}
	if r.Store, err = pgtest.Chosen(t.Context()); err != nil {
		t.Fatal(err)
	}
	if r.Sample, err = demo.ServeSample(context.Background(), demo.Addrs{}, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.Sample.Close() })
	if err := r.Sample.Write(r.Files); err != nil {
		t.Fatal(err)
	}
	r.keys(t)
	r.Open(t)
	t.Cleanup(func() { r.Stop(t) })
	return r
}

func (r *Rig) keys(t testing.TB) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(r.Files, "keys", "*.pub"))
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range names {
		n = strings.TrimSuffix(n, ".pub")
		b, err := os.ReadFile(n)
		if err != nil {
			t.Fatal(err)
		}
		if r.Keys[filepath.Base(n)], err = ssh.ParsePrivateKey(b); err != nil {
			t.Fatal(err)
		}
	}
}

// Open starts the server on the folder.
func (r *Rig) Open(t testing.TB) {
	t.Helper()
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	var err error
	if r.Server, err = server.Open(context.Background(), server.Config{Data: r.Data, Store: r.Store, Log: log}); err != nil {
		t.Fatal(err)
	}
	if r.Faces, err = api.Serve(r.Server, api.Config{Data: r.Data, People: r.People(), Listen: "127.0.0.1:0", Issuer: "https://sallyport.example", Log: log}); err != nil {
		r.Server.Close()
		t.Fatal(err)
	}
}

// Stop ends the server. It may be called again.
func (r *Rig) Stop(t testing.TB) {
	if r.Server == nil {
		return
	}
	if err := r.Faces.Close(); err != nil {
		t.Error(err)
	}
	if err := r.Server.Close(); err != nil {
		t.Error(err)
	}
	r.Server, r.Faces = nil, nil
}

// People is the path of the socket that every local user can reach.
func (r *Rig) People() string { return filepath.Join(filepath.Dir(r.Data), "people.sock") }

// As is a client of the server, as a person.
func (r *Rig) As(person string) *client.Client {
	return client.New(filepath.Join(r.Data, api.SocketName), "", person)
}

// Apply declares the sample tenant and stores its secrets.
func (r *Rig) Apply(t testing.TB) { t.Helper(); r.ApplyAs(t, "noor") }

// ApplyAs is Apply by another person.
func (r *Rig) ApplyAs(t testing.TB, person string) {
	t.Helper()
	names, err := filepath.Glob(filepath.Join(r.Files, "*.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	var sources []resource.Source
	for _, n := range names {
		b, err := os.ReadFile(n)
		if err != nil {
			t.Fatal(err)
		}
		sources = append(sources, resource.Source{Name: n, Data: b})
	}
	all, err := resource.Decode(sources)
	if err == nil {
		err = resource.Inline(all, func(from, path string) ([]byte, error) { return os.ReadFile(filepath.Join(filepath.Dir(from), path)) })
	}
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.As(person).Apply(t.Context(), all); err != nil {
		t.Fatal(err)
	}
	for name, value := range r.Sample.Secrets {
		if err := r.As("sven").PutSecret(t.Context(), name, []byte(value)); err != nil {
			t.Fatal(err)
		}
	}
}

// Approver signs whatever comes until the returned function is called.
func (r *Rig) Approver(t testing.TB, person string) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		c := r.As(person)
		for ctx.Err() == nil {
			list, _ := c.Approvals(ctx, "")
			for _, a := range list {
				if x, err := c.Approval(ctx, a.ID()); err == nil {
					c.Approve(ctx, x, r.Keys[person])
				}
			}
			select {
			case <-ctx.Done():
			case <-time.After(50 * time.Millisecond):
			}
		}
	}()
	return func() { cancel(); <-done }
}

// ApproveAll signs everything that waits, as one person.
func (r *Rig) ApproveAll(t testing.TB, person string) {
	t.Helper()
	c := r.As(person)
	list, err := c.Approvals(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range list {
		x, err := c.Approval(t.Context(), a.ID())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Approve(t.Context(), x, r.Keys[person]); err != nil {
			t.Fatal(err)
		}
	}
}
