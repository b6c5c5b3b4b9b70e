package cli

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

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"github.com/sallyport-dev/sallyport/examples/helpdesk"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/estate"
	"github.com/sallyport-dev/sallyport/internal/estate/agent"
	"github.com/sallyport-dev/sallyport/internal/estate/provider"
	"github.com/sallyport-dev/sallyport/internal/resource"
)

// SampleAgent runs the sample harness: "sallyport sample-agent [ATTEMPTS
// [TARGETS]]" with the goal from its task's parameters, or with what a hijacked
// harness tries (names, and where they aim as JSON). It is started inside the
// boundary.
func SampleAgent(args []string) int {
	o := agent.Options{}
	if len(args) > 1 {
		if err := canon.Unmarshal([]byte(args[1]), 1<<16, &o.Targets); err != nil {
			fmt.Fprintln(os.Stderr, "sample-agent:", err)
			return exitUsage
		}
	}
	if len(args) > 0 {
		o.Attacks = strings.Split(args[0], ",")
	} else {
		o.Goal = fmt.Sprintf("Reset MFA for user %s, ticket %s", os.Getenv("SALLYPORT_PARAM_USER"), os.Getenv("SALLYPORT_PARAM_TICKET"))
	}
	if err := agent.Run(context.Background(), o); err != nil {
		fmt.Fprintln(os.Stderr, "sample-agent:", err)
		return exitRefused
	}
	return exitOK
}

// sample is where the sample estate listens and what it is called.
type sample struct {
	production, sandbox, admin, provider, providerAdmin string
	model, dir                                          string
}

func estateCommand(e *env) *cobra.Command {
	var s sample
	cmd := &cobra.Command{
		Use: "estate", Short: "Serve the sample estate, to play with", Args: cobra.NoArgs,
		Long: `Serves a small company until Ctrl-C: an IAM console, a ticket queue, a webmail and a
payments page, once as production and once as sandbox, and a scripted model behind
a provider's real wire format. --dir becomes a folder to play from: the sample
resources, keys of their people, certificates, and the passwords of the service
account (only for you to read).`,
		Example: "  sallyport estate --dir play",
		RunE:    func(cmd *cobra.Command, _ []string) error { return e.serveEstate(cmd.Context(), s) },
	}
	f := cmd.Flags()
	f.StringVar(&s.production, "production", helpdesk.ProductionAddr, "address of the production applications")
	f.StringVar(&s.sandbox, "sandbox", helpdesk.SandboxAddr, "address of the sandbox applications")
	f.StringVar(&s.admin, "admin", "127.0.0.1:8646", "address to look at and reset the estate's state")
	f.StringVar(&s.provider, "provider", "127.0.0.1:8645", "address of the scripted model")
	f.StringVar(&s.providerAdmin, "provider-admin", "127.0.0.1:8647", "address to change the scripted model's behaviour")
	f.StringVar(&s.model, "model", "", "name that the scripted model answers with; default: the one that the sample agent declares")
	f.StringVar(&s.dir, "dir", "sallyport-estate", "folder to write")
	return cmd
}

func (e *env) serveEstate(ctx context.Context, s sample) error {
	for _, a := range []string{s.production, s.sandbox, s.admin, s.provider, s.providerAdmin} {
		host, _, err := net.SplitHostPort(a)
		if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
			return usage("%q: the sample estate is served on loopback addresses only, host:port", a)
		}
	}
	keys, model, err := declared(helpdesk.Files)
	if err != nil {
		return err
	}
	if s.model == "" {
		s.model = model
	}
	es, err := estate.Serve(ctx, estate.Config{ProductionAddr: s.production, SandboxAddr: s.sandbox, AdminAddr: s.admin})
	if err != nil {
		return err
	}
	defer es.Close()
	key := "sk-estate-" + rand.Text()
	p, err := provider.Serve(ctx, provider.Config{Addr: s.provider, Key: key, Model: s.model, Behaviour: provider.Honest})
	if err != nil {
		return err
	}
	defer p.Close()
	l, err := net.Listen("tcp", s.providerAdmin)
	if err != nil {
		return err
	}
	admin := &http.Server{Handler: p.Admin(), ReadHeaderTimeout: 10 * time.Second}
	defer admin.Close()
	go admin.Serve(l)
	secrets := map[string]string{"provider-key": key}
	for _, st := range []estate.Stage{estate.Production, estate.Sandbox} {
		for _, app := range []estate.App{estate.IAM, estate.Tickets, estate.Mail, estate.Pay} {
			secrets[fmt.Sprintf("%s-helpdesk/%s", app, st)] = es.Credentials(st, app).Password.Reveal()
		}
	}
	if err := writeSample(s.dir, keys, es.CAPEM(), p.CAPEM(), secrets); err != nil {
		return err
	}
	e.sayEstate(es, s)
	<-ctx.Done()
	return nil
}

func (e *env) sayEstate(es *estate.Estate, s sample) {
	var rows [][]string
	for _, app := range []estate.App{estate.IAM, estate.Tickets, estate.Mail, estate.Pay} {
		rows = append(rows, []string{string(app), es.URL(estate.Production, app), es.URL(estate.Sandbox, app)})
	}
	table(e.out, []string{"APPLICATION", "PRODUCTION", "SANDBOX"}, rows)
	fmt.Fprintln(e.out)
	pairs(e.out, "service account", estate.ServiceAccount, "state", es.AdminURL()+"/state", "hostile content", "POST "+es.AdminURL()+"/hostile?set=ticket-text",
		"model", "https://"+s.provider+" (scripted)", "model's behaviour", "POST http://"+s.providerAdmin+"/behaviour?set=gullible", "folder", s.dir)
	fmt.Fprintf(e.out, `
Play (in another terminal, with a server: sallyport up):
  sallyport apply -f %[1]s --as noor
  for f in %[1]s/secrets/*/* %[1]s/secrets/provider-key; do sallyport secret put "${f#%[1]s/secrets/}" --as sven < "$f"; done
  sallyport approvals
  sallyport approve ID --key %[1]s/keys/ines
Ctrl-C ends the estate.
`, s.dir)
}

// writeSample makes the folder to play from. Keys that are there are kept, so
// that people stay who they are when the estate starts again; certificates and
// passwords are of this run.
func writeSample(dir string, keys []string, ca, providerCA []byte, secrets map[string]string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return usage("%v", err)
	}
	put := func(name string, b []byte) error {
		path := filepath.Join(dir, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		// Removed first, so that the mode is ours also where a file was.
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return os.WriteFile(path, b, 0o600)
	}
	err := fs.WalkDir(helpdesk.Files, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		b, err := fs.ReadFile(helpdesk.Files, path)
		if err != nil {
			return err
		}
		return put(path, b)
	})
	if err != nil {
		return err
	}
	for _, name := range keys {
		if err := keyPair(dir, name, put); err != nil {
			return err
		}
	}
	for _, name := range slices.Sorted(maps.Keys(secrets)) {
		if err := put("secrets/"+name, []byte(secrets[name])); err != nil {
			return err
		}
	}
	return errors.Join(put("estate-ca.pem", ca), put("provider-ca.pem", providerCA))
}

// keyPair makes the key whose public half is in the file name, if it is not
// there. The public half is written last: a run that was cut makes the pair again.
func keyPair(dir, name string, put func(string, []byte) error) error {
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
	return errors.Join(put(private, pem.EncodeToMemory(block)), put(name, ssh.MarshalAuthorizedKey(k)))
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
