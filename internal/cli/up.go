package cli

import (
	"errors"
	"fmt"
	"io"
	stdlog "log"
	"log/slog"
	"net"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/server"
)

// onlyLog makes l what everything logs to. What net/http logs by itself goes
// nowhere: it repeats bytes that an origin has sent unasked, which may be a
// credential or made to look like a line of ours.
func onlyLog(l *slog.Logger) {
	slog.SetDefault(l)
	stdlog.SetOutput(io.Discard) // after SetDefault, which leads it to l
}

func upCommand(e *env) *cobra.Command {
	var listen, people, store, issuer, tlsCert, tlsKey string
	var bundles, signers, spire map[string]string
	var hold, grace time.Duration
	var warm int
	var experimental []string
	cmd := &cobra.Command{
		Use:   "up",
		Short: "Run the whole boundary on this machine",
		Long: `Runs the server until it is interrupted. A data folder that is missing or empty
is made new; one that has state but no root key is refused.`,
		Example: "  sallyport up --data ~/sallyport",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if hold <= 0 {
				return usage("--hold-limit: want more than nothing")
			}
			if warm < 0 || warm > maxWarm {
				return usage("--warm-browsers: want 0 to %d", maxWarm)
			}
			if listen == "off" {
				listen = ""
			}
			if issuer == "" && listen != "" {
				if _, port, err := net.SplitHostPort(listen); err != nil {
					return usage("--listen: %v", err)
				} else if port != "0" {
					issuer = "http://" + listen
					if tlsCert != "" {
						issuer = "https://" + listen
					}
				}
			}
			if (tlsCert == "") != (tlsKey == "") {
				return usage("want --tls-cert and --tls-key, or neither")
			}
			log := slog.New(slog.NewTextHandler(e.err, nil))
			onlyLog(log)
			ctx := cmd.Context()
			for _, x := range experimental {
				if x != witSVID {
					return usage("--experimental: %q: want %s", x, witSVID)
				}
			}
			if grace <= 0 {
				return usage("--kek-grace: want more than nothing")
			}
			if hold <= 0 {
				return usage("--hold-limit: want more than nothing")
			}
			kek, err := e.kek.open(e)
			if err != nil {
				return err
			}
			fmt.Fprintln(e.out, "starting: what this machine can contain is tried first")
			s, err := server.Open(ctx, server.Config{Data: e.data, Store: store, Issuer: issuer, HoldLimit: hold, WarmBrowsers: warm, WIT: len(experimental) > 0, Signers: signers, SPIRE: spire, KEK: kek, KEKGrace: grace, Log: log})
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, s.Close()) }()
			f, err := api.Serve(s, api.Config{Data: e.data, People: people, Listen: listen, Issuer: issuer, TLSCert: tlsCert, TLSKey: tlsKey,
				Bundles: bundles, Log: log})
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(f.Close(), err) }()
			fmt.Fprintf(e.out, "sallyport is up\n  socket  %s\n", f.Socket())
			if people != "" {
				fmt.Fprintf(e.out, "  people  %s\n", people)
			}
			if f.Addr() != "" {
				scheme := "http"
				if tlsCert != "" {
					scheme = "https"
				}
				fmt.Fprintf(e.out, "  public  %s://%s\n", scheme, f.Addr())
			}
			fmt.Fprintln(e.out, "  stop    Ctrl-C")
			<-ctx.Done()
			fmt.Fprintln(e.out, "stopping: tasks and their credentials are ended first")
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&listen, "listen", "127.0.0.1:8470", "TCP address of what is public (keys, checkpoints, health); off serves none")
	f.StringVar(&people, "people", "", "path of a second socket, open to every local user who is a Person of a tenant")
	f.StringVar(&store, "store", "", "postgres://... instead of the store in --data")
	f.StringVar(&issuer, "issuer", "", "base URL under which others reach --listen; default http:// and its address")
	f.StringVar(&tlsCert, "tls-cert", "", "PEM certificate chain with which --listen is served over TLS")
	f.StringVar(&tlsKey, "tls-key", "", "PEM private key of --tls-cert")
	f.StringToStringVar(&bundles, "bundle-listen", nil, "TENANT=ADDR: serve the tenant's SPIFFE bundle under https_spiffe too")
	f.StringToStringVar(&spire, "spire", nil, "TENANT=SOCKET: Workload API of a SPIRE agent, for a tenant that declares identity: spire")
	f.StringToStringVar(&signers, "signer", nil, "TENANT=SOCKET: an SSH agent that holds the tenant's signing keys, e.g. in a PKCS #11 token")
	f.StringSliceVar(&experimental, "experimental", nil, witSVID+": the Workload API gives WIT-SVIDs too, whose specification is not final")
	e.kek.addTo(cmd)
	f.DurationVar(&grace, "kek-grace", server.DefaultKEKGrace, "how long secrets open while the KMS plugin does not answer")
	f.DurationVar(&hold, "hold-limit", 10*time.Minute, "how long an action waits for people at most")
	f.IntVar(&warm, "warm-browsers", 0, "browsers that wait, started, for the next task; each costs the memory of a Chromium")
	return cmd
}

// witSVID is what --experimental may name.
const witSVID = "wit-svid"

// maxWarm bounds what waits: it is memory that nobody uses.
const maxWarm = 8
