package demo

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/sallyport-dev/sallyport/examples/helpdesk"
	"github.com/sallyport-dev/sallyport/internal/estate"
	"github.com/sallyport-dev/sallyport/internal/estate/provider"
	"github.com/sallyport-dev/sallyport/internal/resource"
)

// Sample is a running sample estate with its scripted model, and the folder of
// resources that declares it.
type Sample struct {
	Estate   *estate.Estate
	Provider *provider.Provider
	Ports    helpdesk.Ports
	// ProviderAdmin is where the scripted model takes orders.
	ProviderAdmin string
	// Secrets are what the secrets administrator seals: name to value.
	Secrets map[string]string

	admin *http.Server
}

// Addrs are loopback addresses; an empty one is a free port.
type Addrs struct{ Production, Sandbox, EstateAdmin, Provider, ProviderAdmin string }

// DefaultAddrs are those that the sample resources name.
var DefaultAddrs = Addrs{helpdesk.ProductionAddr, helpdesk.SandboxAddr, helpdesk.EstateAdminAddr, helpdesk.ProviderAddr, helpdesk.ProviderAdminAddr}

// ServeSample starts the estate and the scripted model. model is the name that
// the script answers with; empty means the one that the sample agent declares.
func ServeSample(ctx context.Context, a Addrs, model string) (s *Sample, err error) {
	s = &Sample{}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	for _, p := range []*string{&a.Production, &a.Sandbox, &a.EstateAdmin, &a.Provider, &a.ProviderAdmin} {
		if *p == "" {
			*p = "127.0.0.1:0"
		}
		host, _, err := net.SplitHostPort(*p)
		if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
			return s, fmt.Errorf("%q: the sample estate is served on loopback addresses only, host:port", *p)
		}
	}
	if model == "" {
		if _, model, err = declared(helpdesk.Files); err != nil {
			return s, err
		}
	}
	if s.Estate, err = estate.Serve(ctx, estate.Config{ProductionAddr: a.Production, SandboxAddr: a.Sandbox, AdminAddr: a.EstateAdmin}); err != nil {
		return s, err
	}
	key := "sk-estate-" + rand.Text()
	s.Provider, err = provider.Serve(ctx, provider.Config{Addr: a.Provider, Key: key, Model: model, Behaviour: provider.Honest,
		Pace: 60 * time.Millisecond, Patience: 1200})
	if err != nil {
		return s, err
	}
	l, err := net.Listen("tcp", a.ProviderAdmin)
	if err != nil {
		return s, err
	}
	s.ProviderAdmin = "http://" + l.Addr().String()
	s.admin = &http.Server{Handler: s.Provider.Admin(), ReadHeaderTimeout: 10 * time.Second}
	go s.admin.Serve(l)
	port := func(addr string) string { return addr[strings.LastIndex(addr, ":")+1:] }
	s.Ports = helpdesk.Ports{Production: port(s.Estate.Addr(estate.Production)), Sandbox: port(s.Estate.Addr(estate.Sandbox)),
		Provider: port(s.Provider.URL()), EstateAdmin: port(s.Estate.AdminURL()), ProviderAdmin: port(s.ProviderAdmin)}
	s.Secrets = map[string]string{"provider-key": key}
	for _, st := range []estate.Stage{estate.Production, estate.Sandbox} {
		for _, app := range []estate.App{estate.IAM, estate.Tickets} {
			s.Secrets[fmt.Sprintf("%s-helpdesk/%s", app, st)] = s.Estate.Credentials(st, app).Password.Reveal()
		}
	}
	for _, app := range []estate.App{estate.IAM, estate.Tickets} {
		c, _ := s.Estate.CredentialsOf(estate.Production, app, estate.ReadOnlyAccount)
		s.Secrets[string(app)+"-auditor/production"] = c.Password.Reveal()
	}
	for _, app := range []estate.App{estate.Mail, estate.Pay, estate.Runbooks} { // of the suites' agent, which has no production
		s.Secrets[string(app)+"-desk/sandbox"] = s.Estate.Credentials(estate.Sandbox, app).Password.Reveal()
	}
	return s, nil
}

// Close ends the estate and the scripted model.
func (s *Sample) Close() error {
	var errs []error
	if s.admin != nil {
		errs = append(errs, s.admin.Close())
	}
	if s.Provider != nil {
		errs = append(errs, s.Provider.Close())
	}
	if s.Estate != nil {
		errs = append(errs, s.Estate.Close())
	}
	return errors.Join(errs...)
}

// Write makes the folder of resources: the sample files on the estate's ports,
// a key pair for each person, and the certificates. Keys that are there are
// kept, so that people stay who they are; the rest is of this run.
func (s *Sample) Write(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	files, err := helpdesk.Render(s.Ports)
	if err != nil {
		return err
	}
	err = fs.WalkDir(helpdesk.Files, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || files[path] != nil {
			return err
		}
		files[path], err = fs.ReadFile(helpdesk.Files, path)
		return err
	})
	if err != nil {
		return err
	}
	files["estate-ca.pem"], files["provider-ca.pem"] = s.Estate.CAPEM(), s.Provider.CAPEM()
	for _, name := range slices.Sorted(maps.Keys(files)) {
		if err := put(dir, name, files[name]); err != nil {
			return err
		}
	}
	keys, _, err := declared(helpdesk.Files)
	if err != nil {
		return err
	}
	for _, name := range keys {
		if err := keyPair(dir, name); err != nil {
			return err
		}
	}
	return nil
}

// put writes a file that only its owner can read, whatever was there.
func put(dir, name string, b []byte) error {
	path := filepath.Join(dir, filepath.FromSlash(name))
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.WriteFile(path, b, 0o600)
}

// keyPair makes the key whose public half is in the file name, if it is not
// there. The public half is written last: a run that was cut makes the pair again.
func keyPair(dir, name string) error {
	private, ok := strings.CutSuffix(name, ".pub")
	if !ok {
		return fmt.Errorf("sample key %s does not end with .pub", name)
	}
	if _, err := os.Stat(filepath.Join(dir, filepath.FromSlash(name))); err == nil {
		return nil
	}
	pub, priv, err := ed25519.GenerateKey(nil)
	if err != nil {
		return err
	}
	block, err := ssh.MarshalPrivateKey(priv, filepath.Base(private))
	if err != nil {
		return err
	}
	k, err := ssh.NewPublicKey(pub)
	if err != nil {
		return err
	}
	return errors.Join(put(dir, private, pem.EncodeToMemory(block)), put(dir, name, ssh.MarshalAuthorizedKey(k)))
}

// declared is what the sample resources want to find: key files of people, and
// the name of the model.
func declared(files fs.FS) (keys []string, model string, err error) {
	names, err := fs.Glob(files, "*.yaml")
	if err != nil {
		return nil, "", err
	}
	var sources []resource.Source
	for _, n := range names {
		b, err := fs.ReadFile(files, n)
		if err != nil {
			return nil, "", err
		}
		sources = append(sources, resource.Source{Name: n, Data: b})
	}
	all, err := resource.Decode(sources)
	for _, r := range all {
		switch spec := r.Spec.(type) {
		case *resource.PersonSpec:
			keys = append(keys, spec.SSHKeyFiles...)
		case *resource.AgentSpec:
			model = spec.Model.ID
		}
	}
	return keys, model, err
}
