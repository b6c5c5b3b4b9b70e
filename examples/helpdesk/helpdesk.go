// Package helpdesk is the sample tenant as files: the resources that
// `sallyport demo` applies to the sample estate, and that a reader can copy.
//
// Three things are not in it, because they are made anew each time: the people's
// public keys (keys/<name>.pub), the certificates of the estate (estate-ca.pem)
// and of the scripted model (provider-ca.pem), and the sealed secrets
// (`sallyport secret put`: iam-helpdesk, tickets-helpdesk, provider-key). The
// client reads the first two from beside the files.
package helpdesk

import "embed"

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
//go:embed *.yaml policies prompts
var Files embed.FS
