package resource

import (
	"fmt"
	"maps"
	"net"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/sallyport-dev/sallyport/internal/action"
)

// SSH is the block of a CredentialSource that certifies a key for each task, with
// which it signs in to a host.
type SSH struct {
	// Effect is how far a session reaches: it counts for the tier of every agent
	// that has the source, and policy sees it at each connection and signature.
	Effect action.Effect `json:"effect"`
	// CA names the sealed private key of the authority that hosts trust.
	CA SecretRef `json:"ca"`
	// User is the account at the host; Principals are what certificates are for.
	User       string   `json:"user"`
	Principals []string `json:"principals"`
	// SourceAddresses are those from which hosts see this machine: a certificate
	// is good from nowhere else.
	SourceAddresses []string `json:"sourceAddresses"`
	// ForceCommand is what the host runs, whatever is asked for.
	ForceCommand string `json:"forceCommand,omitempty"`
	// Extensions are what a session may do besides running commands.
	Extensions []SSHExtension            `json:"extensions,omitempty"`
	Stages     map[action.Stage]SSHStage `json:"stages"`
}

// SSHExtension is an extension of a certificate. Forwarding of the agent or of
// X11 is not among them: it would hand something of the task's to the host.
type SSHExtension string

// Values lists what may be written.
func (SSHExtension) Values() []string {
	return []string{"permit-port-forwarding", "permit-pty", "permit-user-rc"}
}

// SSHStage is where the host of a stage is.
type SSHStage struct {
	Address string `json:"address"` // HOST:PORT
	// HostKeys are its public keys, as in its /etc/ssh/ssh_host_*_key.pub.
	HostKeys []string `json:"hostKeys"`
}

// Keys are the parsed HostKeys.
func (s SSHStage) Keys() (out []ssh.PublicKey, err error) {
	for i, text := range s.HostKeys {
		k, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(text))
		if _, isCert := k.(*ssh.Certificate); err != nil || isCert || len(options) > 0 || len(rest) > 0 {
			return nil, fmt.Errorf("hostKeys[%d]: want one public key, as in ssh_host_ed25519_key.pub", i)
		}
		out = append(out, k)
	}
	return out, nil
}

// Audience is the one place that certificates of a stage are for.
func (p *SSH) Audience(stage action.Stage) string {
	return "ssh://" + p.User + "@" + p.Stages[stage].Address
}

var (
	sshUser      = regexp.MustCompile(`^[a-z_][a-z0-9_.-]{0,31}$`)
	sshPrincipal = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.@:-]{0,127}$`)
	sshCommand   = regexp.MustCompile(`^[ -~]*$`)
)

func (p *SSH) validate(report func(path, problem string)) {
	if _, err := action.ParseEffect(string(p.Effect)); err != nil || !p.Effect.AtLeast(action.Read) {
		report("effect", "want read, write, privileged or irreversible")
	}
	if problem := p.CA.problem(); problem != "" {
		report("ca.sealed", problem)
	}
	if !sshUser.MatchString(p.User) {
		report("user", "want the name of an account at the host")
	}
	if len(p.Principals) == 0 {
		report("principals", "want at least one: a certificate without any is good for every account")
	}
	for i, n := range p.Principals {
		if !sshPrincipal.MatchString(n) {
			report(fmt.Sprintf("principals[%d]", i), "want 1 to 128 letters, digits and _ . @ : -")
		}
	}
	if len(p.SourceAddresses) == 0 {
		report("sourceAddresses", "want the addresses from which the host sees this machine: a certificate is good from nowhere else")
	}
	for i, a := range p.SourceAddresses {
		_, perr := netip.ParsePrefix(a)
		if _, err := netip.ParseAddr(a); (err != nil && perr != nil) || strings.Contains(a, "%") {
			report(fmt.Sprintf("sourceAddresses[%d]", i), "want an IP address, or one with /BITS")
		}
	}
	if len(p.ForceCommand) > 1024 || !sshCommand.MatchString(p.ForceCommand) {
		report("forceCommand", "want at most 1024 printable ASCII characters")
	}
	if len(p.Stages) == 0 {
		report("stages", "want at least one stage")
	}
	for _, stage := range slices.Sorted(maps.Keys(p.Stages)) {
		at, s := "stages."+string(stage), p.Stages[stage]
		if _, err := action.ParseStage(string(stage)); err != nil {
			report(at, err.Error())
		}
		host, port, err := net.SplitHostPort(s.Address)
		if n, perr := strconv.ParseUint(port, 10, 16); err != nil || perr != nil || n == 0 || !hostForm.MatchString(host) {
			report(at+".address", "want HOST:PORT")
		}
		if len(s.HostKeys) == 0 {
			report(at+".hostKeys", "want at least one: a host that proves none of them is another")
		}
		if _, err := s.Keys(); err != nil {
			report(at, err.Error())
		}
	}
}
