package server

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	xssh "golang.org/x/crypto/ssh"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/contain"
	"github.com/sallyport-dev/sallyport/internal/lease"
	leasessh "github.com/sallyport-dev/sallyport/internal/lease/ssh"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/resource"
	"github.com/sallyport-dev/sallyport/internal/surface/ssh"
	"github.com/sallyport-dev/sallyport/internal/task"
)

// Paths inside the harness's root.
const (
	insideAgent      = "/run/sallyport/ssh-agent.sock"
	insideSSHConfig  = "/run/sallyport/ssh_config"
	insideKnownHosts = "/run/sallyport/ssh_known_hosts"
)

// hostSource makes the source of a host as it is declared now. The keys are the
// tenant's: they outlive a declaration.
func (t *tenant) hostSource(w *world, name, audience string) (*leasessh.Source, error) {
	spec := w.sources[name].SSH
	for stage, st := range spec.Stages {
		if spec.Audience(stage) == audience {
			return t.newHostSource(spec, stage, st)
		}
	}
	return nil, fmt.Errorf("credential source %s has no host %s any more", name, audience)
}

func (t *tenant) newHostSource(spec *resource.SSH, stage action.Stage, st resource.SSHStage) (*leasessh.Source, error) {
	keys, err := st.Keys()
	if err != nil {
		return nil, err
	}
	extensions := make([]string, len(spec.Extensions))
	for i, e := range spec.Extensions {
		extensions[i] = string(e)
	}
	return leasessh.New(leasessh.Config{Address: st.Address, User: spec.User, HostKeys: keys,
		CA:         func(ctx context.Context) ([]byte, error) { return t.stageSecret(ctx, &spec.CA, stage) },
		Principals: spec.Principals, SourceAddresses: spec.SourceAddresses, ForceCommand: spec.ForceCommand, Extensions: extensions, Dial: dialLocal}, t.keys)
}

// hostLease is a host that a task may sign in to.
type hostLease struct {
	name     string
	host     ssh.Host
	hostKeys []xssh.PublicKey
}

// leaseHost makes the task's own key for one host.
func (s *session) leaseHost(ctx context.Context, name string, src *resource.CredentialSourceSpec) error {
	spec, stage := src.SSH, s.stage()
	st, ok := spec.Stages[stage]
	if !ok {
		return fmt.Errorf("credential source %s has no host in stage %s", name, stage)
	}
	source, err := s.t.newHostSource(spec, stage, st)
	if err != nil {
		return err
	}
	keys, err := st.Keys()
	if err != nil {
		return err
	}
	l, _, err := s.t.leases.Issue(ctx, lease.Request{Task: s.task.ID, Agent: s.task.Agent, Chain: s.task.Chain, Source: name, Audience: spec.Audience(stage),
		Account: spec.User + ", as " + strings.Join(spec.Principals, ", "), Purpose: s.instance.Capability, Until: s.until(),
		Live: func(tx record.Tx) error { return task.Live(tx, s.task.ID) }})
	if err != nil {
		return err
	}
	s.hosts = append(s.hosts, hostLease{name: name, hostKeys: keys, host: ssh.Host{Source: name, Effect: spec.Effect, Audience: l.Audience, User: spec.User, HostKeys: keys,
		Dial:        func(ctx context.Context) (net.Conn, error) { return dialLocal(ctx, "tcp", st.Address) },
		Certificate: func(ctx context.Context) (*xssh.Certificate, error) { return source.Certificate(ctx, l.Label) },
		Sign:        func(data []byte) (*xssh.Signature, error) { return source.Sign(l.Label, data) }}})
	return nil
}

// hostAddr is the address of the n-th host inside the harness's network namespace.
func hostAddr(n int) string { return "127.0.0.1:" + strconv.Itoa(8630+n) }

// hostFiles makes the agent socket and the client's files in the session's folder,
// and says where they are inside.
func (s *session) hostFiles() (net.Listener, []contain.Mount, error) {
	if len(s.hosts) == 0 {
		return nil, nil, nil
	}
	sock := filepath.Join(s.dir, "ssh-agent.sock")
	l, err := net.Listen("unix", sock)
	if err != nil {
		return nil, nil, err
	}
	s.onStop(func() { l.Close() })
	if err := os.Chmod(sock, 0o666); err != nil { // as with the workload API's
		return nil, nil, err
	}
	mounts := []contain.Mount{{Source: sock, Target: insideAgent}}
	var config, known strings.Builder
	for i, h := range s.hosts {
		addr, port, _ := net.SplitHostPort(hostAddr(i))
		fmt.Fprintf(&config, "Host %s\n\tHostName %s\n\tPort %s\n\tUser %s\n\tHostKeyAlias %s\n", h.name, addr, port, h.host.User, h.name)
		for _, k := range h.hostKeys {
			fmt.Fprintf(&known, "%s %s", h.name, xssh.MarshalAuthorizedKey(k))
		}
	}
	fmt.Fprintf(&config, "Host *\n\tUserKnownHostsFile %s\n\tStrictHostKeyChecking yes\n\tPreferredAuthentications publickey\n\tIdentityAgent %s\n", insideKnownHosts, insideAgent)
	for target, text := range map[string]string{insideSSHConfig: config.String(), insideKnownHosts: known.String()} {
		file := filepath.Join(s.dir, filepath.Base(target))
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			return nil, nil, err
		}
		mounts = append(mounts, contain.Mount{Source: file, Target: target})
	}
	return l, mounts, nil
}

// serveHosts opens the door to the task's hosts: an address for each, in order, and
// the agent socket.
func (s *session) serveHosts(agent net.Listener, ls []net.Listener) error {
	if len(s.hosts) == 0 {
		return nil
	}
	c := ssh.Config{Tenant: s.t.name, Task: s.task.ID, Agent: s.task.Agent, Gate: s.t.srv.gate}
	for _, h := range s.hosts {
		c.Hosts = append(c.Hosts, h.host)
	}
	d, err := ssh.New(c)
	if err != nil {
		return err
	}
	s.onStop(func() {
		if err := d.Close(); err != nil {
			s.t.srv.log.Error("SSH door did not close", "task", s.task.ID, "err", err)
		}
	})
	s.serve("SSH agent", func() error { return d.ServeAgent(bounded(agent)) })
	for i, h := range s.hosts {
		s.serve("host "+h.name, func() error { return d.ServeHost(i, bounded(ls[i])) })
	}
	return nil
}

// hostEnvironment is where a harness finds its hosts: `ssh -F FILE NAME`.
func (s *session) hostEnvironment() []string {
	if len(s.hosts) == 0 {
		return nil
	}
	return []string{"SSH_AUTH_SOCK=" + insideAgent, "SALLYPORT_SSH_CONFIG=" + insideSSHConfig}
}
