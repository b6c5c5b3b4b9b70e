// Package helpdesk is the sample tenant as files: the resources that
// `sallyport demo` applies to the sample estate, and that a reader can copy.
//
// Three things are not in it, because they are made anew each time: the people's
// public keys (keys/<name>.pub), the certificates of the estate (estate-ca.pem)
// and of the scripted model (provider-ca.pem), and the sealed secrets
// (`sallyport secret put`: iam-helpdesk, tickets-helpdesk, iam-auditor,
// tickets-auditor, provider-key). The client reads the first two from beside the files.
//
// suites are five suites to certify agents by, and desk is an agent that has all of
// them. They are folders of their own, since they take minutes to run.
package helpdesk

import (
	"embed"
	"io/fs"
	"net"
	"strings"
)

// Loopback addresses on which the sample estate and its scripted model must
// listen for the origins in connectors.yaml, agent.yaml and suite.yaml.
const (
	ProductionAddr    = "127.0.0.1:8643"
	SandboxAddr       = "127.0.0.1:8644"
	ProviderAddr      = "127.0.0.1:8645"
	EstateAdminAddr   = "127.0.0.1:8646"
	ProviderAdminAddr = "127.0.0.1:8647"
)

// Files are the resources and what they refer to.
//
//go:embed *.yaml policies prompts suites desk
var Files embed.FS

// Ports are the five loopback ports of the sample estate. The zero value of each
// stands for the default one.
type Ports struct{ Production, Sandbox, Provider, EstateAdmin, ProviderAdmin string }

// Render returns the resources by file name, with other ports in the place of
// the default ones, for machines and tests where those are taken.
func Render(p Ports) (map[string][]byte, error) {
	var pairs []string
	for addr, port := range map[string]string{ProductionAddr: p.Production, SandboxAddr: p.Sandbox, ProviderAddr: p.Provider,
		EstateAdminAddr: p.EstateAdmin, ProviderAdminAddr: p.ProviderAdmin} {
		_, old, err := net.SplitHostPort(addr)
		if err != nil {
			return nil, err
		}
		if port != "" {
			pairs = append(pairs, ":"+old, ":"+port)
		}
	}
	r := strings.NewReplacer(pairs...)
	out := map[string][]byte{}
	names, err := fs.Glob(Files, "*.yaml")
	if err != nil {
		return nil, err
	}
	more, err := fs.Glob(Files, "*/*.yaml")
	if err != nil {
		return nil, err
	}
	for _, n := range append(names, more...) {
		b, err := fs.ReadFile(Files, n)
		if err != nil {
			return nil, err
		}
		out[n] = []byte(r.Replace(string(b)))
	}
	return out, nil
}
