package cli

import (
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/internal/demo"
	"github.com/sallyport-dev/sallyport/internal/estate"
)

func estateCommand(e *env) *cobra.Command {
	a := demo.DefaultAddrs
	var model, dir string
	cmd := &cobra.Command{
		Use: "estate", Short: "Serve the sample estate, to play with", Args: cobra.NoArgs,
		Long: `Serves a small company until Ctrl-C: an IAM console, a ticket queue, a webmail, a
payments page and runbooks that are used by tool, once as production and once as sandbox, and a scripted model behind
a provider's real wire format. --dir becomes a folder to play from: the sample
resources, keys of their people, certificates, and the passwords of the service
account (only for you to read).`,
		Example: "  sallyport estate --dir play",
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, addr := range []string{a.Production, a.Sandbox, a.EstateAdmin, a.Provider, a.ProviderAdmin} {
				host, _, err := net.SplitHostPort(addr)
				if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
					return usage("%q: the sample estate is served on loopback addresses only, host:port", addr)
				}
			}
			ctx := cmd.Context()
			s, err := demo.ServeSample(ctx, a, model)
			if err != nil {
				return err
			}
			defer s.Close()
			if err := s.Write(dir); err != nil {
				return usage("%v", err)
			}
			if err := writeSecrets(dir, s.Secrets); err != nil {
				return usage("%v", err)
			}
			e.sayEstate(s, dir)
			<-ctx.Done()
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&a.Production, "production", a.Production, "address of the production applications")
	f.StringVar(&a.Sandbox, "sandbox", a.Sandbox, "address of the sandbox applications")
	f.StringVar(&a.EstateAdmin, "admin", a.EstateAdmin, "address to look at and reset the estate's state")
	f.StringVar(&a.Provider, "provider", a.Provider, "address of the scripted model")
	f.StringVar(&a.ProviderAdmin, "provider-admin", a.ProviderAdmin, "address to change the scripted model's behaviour")
	f.StringVar(&model, "model", "", "name that the scripted model answers with; default: the one that the sample agent declares")
	f.StringVar(&dir, "dir", "sallyport-estate", "folder to write")
	return cmd
}

// writeSecrets writes each secret to a file of its name that only its owner can
// read. They are of this run.
func writeSecrets(dir string, secrets map[string]string) error {
	root := filepath.Join(dir, "secrets")
	if err := os.RemoveAll(root); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(secrets)) {
		path := filepath.Join(root, filepath.FromSlash(name))
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(path, []byte(secrets[name]), 0o600); err != nil {
			return err
		}
	}
	return nil
}

func (e *env) sayEstate(s *demo.Sample, dir string) {
	es := s.Estate
	var rows [][]string
	for _, app := range []estate.App{estate.IAM, estate.Tickets, estate.Mail, estate.Pay, estate.Runbooks} {
		rows = append(rows, []string{string(app), es.URL(estate.Production, app), es.URL(estate.Sandbox, app)})
	}
	table(e.out, []string{"APPLICATION", "PRODUCTION", "SANDBOX"}, rows)
	fmt.Fprintln(e.out)
	pairs(e.out, "service account", estate.ServiceAccount, "state", es.AdminURL()+"/state", "hostile content", "POST "+es.AdminURL()+"/hostile?set=ticket-text",
		"model", s.Provider.URL()+" (scripted)", "model's behaviour", "POST "+s.ProviderAdmin+"/behaviour?set=gullible", "folder", dir)
	fmt.Fprintf(e.out, `
Play (in another terminal, with a server: sallyport up):
  sallyport apply -f %[1]s --as noor
  for f in %[1]s/secrets/*/* %[1]s/secrets/provider-key; do sallyport secret put "${f#%[1]s/secrets/}" --as sven < "$f"; done
  sallyport approvals
  sallyport approve ID --key %[1]s/keys/ines
  sallyport task open --capability reset-mfa --param user=jo --param ticket=4711 --requester dana --stage sandbox
  sallyport run --task ID -- $(command -v sallyport) sample-agent
Ctrl-C ends the estate.
`, dir)
}
