// Package ssh signs in to a real sshd with the real ssh, from inside the
// containment, through the source of certificates and the door to hosts.
package ssh

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	xssh "golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/contain"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/gate/gatetest"
	"github.com/sallyport-dev/sallyport/internal/lease"
	leasessh "github.com/sallyport-dev/sallyport/internal/lease/ssh"
	"github.com/sallyport-dev/sallyport/internal/surface/ssh"
	"github.com/sallyport-dev/sallyport/test/sshd"
)

func TestMain(m *testing.M) {
	contain.Main()
	os.Exit(m.Run())
}

const label = "sallyport-00112233-l-1"

// world is a task with a lease at a host, and its door.
type world struct {
	*gatetest.Kit
	d      *sshd.Server
	source *leasessh.Source
	sealed []byte
	sock   string
	door   *ssh.Door
	dir    string
}

func source(t testing.TB, d *sshd.Server, keys *leasessh.Keys, edit func(*leasessh.Config)) *leasessh.Source {
	t.Helper()
	c := leasessh.Config{Address: d.Addr, User: d.User, HostKeys: []xssh.PublicKey{d.HostKey}, Principals: []string{"deploy"},
		SourceAddresses: []string{"127.0.0.1"}, CA: func(context.Context) ([]byte, error) { return bytes.Clone(d.CA), nil }}
	if edit != nil {
		edit(&c)
	}
	s, err := leasessh.New(c, keys)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func order(until time.Duration) lease.Order {
	return lease.Order{Label: label, Task: "t-1", Agent: "helper", Purpose: "deploy", Expires: time.Now().Add(until)}
}

func newWorld(t *testing.T, d *sshd.Server, p gatetest.Policy, edit func(*leasessh.Config)) *world {
	t.Helper()
	w := &world{Kit: gatetest.New(t, p), d: d, source: source(t, d, leasessh.NewKeys(), edit)}
	var err error
	if w.sealed, err = w.source.Issue(t.Context(), order(time.Hour)); err != nil {
		t.Fatal(err)
	}
	w.door, err = ssh.New(ssh.Config{Tenant: gatetest.Tenant, Task: gatetest.Task, Agent: gatetest.Agent, Gate: w.Gate, Hosts: []ssh.Host{{
		Source: "build", Effect: action.Write, Audience: "ssh://" + d.User + "@" + d.Addr, User: d.User, HostKeys: []xssh.PublicKey{d.HostKey},
		Dial:        func(ctx context.Context) (net.Conn, error) { return (&net.Dialer{}).DialContext(ctx, "tcp", d.Addr) },
		Certificate: func(ctx context.Context) (*xssh.Certificate, error) { return w.source.Certificate(ctx, label) },
		Sign:        func(data []byte) (*xssh.Signature, error) { return w.source.Sign(label, data) },
	}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.door.Close(); err != nil {
			t.Error(err)
		}
	})
	if w.dir, err = os.MkdirTemp("", "ssh-"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(w.dir) })
	w.sock = filepath.Join(w.dir, "agent.sock")
	l, err := net.Listen("unix", w.sock)
	if err == nil {
		err = os.Chmod(w.sock, 0o666)
	}
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		if err := w.door.ServeAgent(l); err != nil {
			t.Error(err)
		}
	}()
	known := filepath.Join(w.dir, "known")
	if err := os.WriteFile(known, append([]byte("build "), xssh.MarshalAuthorizedKey(d.HostKey)...), 0o644); err != nil {
		t.Fatal(err)
	}
	return w
}

// harness runs a shell command inside; $S is ssh with what it needs.
func (w *world) harness(t *testing.T, script string) (*contain.Process, *sshd.Buffer) {
	t.Helper()
	out := &sshd.Buffer{}
	const addr = "127.0.0.1:8630"
	p, err := contain.Start(t.Context(), contain.Spec{Path: "/bin/sh", Args: []string{"-c", "S='ssh -p 8630 -l " + w.d.User +
		" -o HostKeyAlias=build -o UserKnownHostsFile=/run/known -o StrictHostKeyChecking=yes -o BatchMode=yes 127.0.0.1'; " + script},
		Env: []string{"PATH=/usr/bin:/bin", "HOME=/home/agent", "SSH_AUTH_SOCK=/run/agent.sock"}, Listen: []string{addr},
		Mounts: append(contain.SystemMounts(), contain.Mount{Source: w.sock, Target: "/run/agent.sock"}, contain.Mount{Source: filepath.Join(w.dir, "known"), Target: "/run/known"}),
		Stdout: out, Stderr: out})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Kill)
	go func() {
		if err := w.door.ServeHost(0, p.Listeners()[0]); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	}()
	return p, out
}

func (w *world) run(t *testing.T, script string) (string, error) {
	t.Helper()
	p, out := w.harness(t, script)
	err := p.Wait()
	return strings.TrimSpace(out.String()), err
}

// operations are the decisions on record.
func (w *world) operations(t *testing.T) (out []string) {
	t.Helper()
	for _, e := range w.Log.All() {
		if e.Type == "action.decided" {
			out = append(out, string(e.Body))
		}
	}
	return out
}

// TestSSH: one sshd, several tasks.
//
// Threats: E8, K2, K6, K12 (lease, door)
func TestSSH(t *testing.T) {
	if testing.Short() {
		t.Skip("starts an sshd")
	}
	d := sshd.Start(t)

	t.Run("use_without_sight", func(t *testing.T) {
		w := newWorld(t, d, nil, nil)
		out, err := w.run(t, "$S 'echo from $SSH_CONNECTION; echo $0'; ls /home/agent/.ssh; ssh-add -L | cut -d' ' -f1,3")
		if err != nil || !strings.Contains(out, "from 127.0.0.1 ") || !strings.Contains(out, "ssh-ed25519-cert-v01@openssh.com build") {
			t.Fatalf("%v\n%s", err, out)
		}
		if !strings.Contains(d.Log.String(), "ID "+label) {
			t.Error("the host's log does not name the lease")
		}
		all := strings.Join(w.operations(t), "\n")
		if strings.Count(all, `"ssh.connect"`) != 1 || strings.Count(all, `"ssh.sign"`) != 1 {
			t.Errorf("on record: %s", all)
		}
	})

	t.Run("denied", func(t *testing.T) {
		for _, op := range []string{"ssh.connect", "ssh.sign"} {
			w := newWorld(t, d, func(f gate.Facts) action.Decision {
				if f.Action.Operation == op {
					return action.Denied(action.LayerGrant, "outside_grant", "the task was not given it", "stay within the task")
				}
				return gatetest.AllowAll(f)
			}, nil)
			if out, err := w.run(t, "$S echo in"); err == nil || strings.Contains(out, "in\n") {
				t.Errorf("%s denied, and yet: %s", op, out)
			}
		}
	})

	t.Run("bounded_by_the_certificate", func(t *testing.T) {
		w := newWorld(t, d, nil, func(c *leasessh.Config) { c.ForceCommand = "echo forced" })
		if out, err := w.run(t, "$S echo mine; $S /bin/sh -c mine"); err != nil || strings.Contains(out, "mine") || !strings.Contains(out, "forced") {
			t.Errorf("%v\n%s", err, out)
		}
		w = newWorld(t, d, nil, nil)
		if out, _ := w.run(t, "$S -tt echo x 2>&1"); !strings.Contains(out, "PTY allocation request failed") {
			t.Errorf("a terminal without permit-pty: %s", out)
		}
		for name, edit := range map[string]func(*leasessh.Config){
			"source_address": func(c *leasessh.Config) { c.SourceAddresses = []string{"192.0.2.1"} },
			"principal":      func(c *leasessh.Config) { c.Principals = []string{"somebody-else"} },
			"authority": func(c *leasessh.Config) {
				other, _ := sshd.NewKey(t)
				c.CA = func(context.Context) ([]byte, error) { return bytes.Clone(other), nil }
			},
		} {
			keys := leasessh.NewKeys()
			if _, err := source(t, d, keys, edit).Issue(t.Context(), order(time.Hour)); !errors.Is(err, lease.ErrNotIssued) || !strings.Contains(err.Error(), "does not accept") {
				t.Errorf("%s: got %v", name, err)
			}
		}
		if _, err := leasessh.New(leasessh.Config{Address: d.Addr, User: d.User, HostKeys: []xssh.PublicKey{d.HostKey}, SourceAddresses: []string{"127.0.0.1"},
			CA: func(context.Context) ([]byte, error) { return d.CA, nil }}, leasessh.NewKeys()); err == nil || !strings.Contains(err.Error(), "principals") {
			t.Errorf("no principals: got %v", err)
		}
		other := *d
		_, other.HostKey = sshd.NewKey(t)
		if _, err := source(t, &other, leasessh.NewKeys(), nil).Issue(t.Context(), order(time.Hour)); err == nil {
			t.Error("a host that proved another key was asked")
		}
	})

	t.Run("certificate_without_its_key", func(t *testing.T) {
		w := newWorld(t, d, nil, nil)
		cert, err := w.source.Certificate(t.Context(), label)
		if err != nil {
			t.Fatal(err)
		}
		if cert.ValidBefore > uint64(time.Now().Add(leasessh.Life).Unix()) || len(cert.ValidPrincipals) != 1 || len(cert.Extensions) != 0 {
			t.Errorf("got %+v", cert)
		}
		mine, _ := sshd.NewKey(t)
		signer, err := xssh.ParsePrivateKey(mine)
		if err != nil {
			t.Fatal(err)
		}
		if signIn(d, stolen{cert, signer}) == nil {
			t.Error("somebody signed in with a certificate of another's key")
		}
	})

	t.Run("kill_cuts_and_confirms", func(t *testing.T) {
		w := newWorld(t, d, nil, nil)
		before := d.Children()
		_, out := w.harness(t, "$S 'echo session; exec sleep 600'; echo over $?; $S echo again; echo over $?; sleep 600")
		sshd.Await(t, "session", func() bool { return strings.Contains(out.String(), "session") })
		cert, err := w.source.Certificate(t.Context(), label) // alive for all of Life
		if err != nil {
			t.Fatal(err)
		}
		signer, err := xssh.NewCertSigner(cert, leased{w.source, cert.Key})
		if err != nil {
			t.Fatal(err)
		}
		if err := signIn(d, signer); err != nil {
			t.Fatalf("before the end: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
		defer cancel()
		if err := w.Gate.End(ctx, func(gate.Admission) bool { return true }, "killed", "acts strangely"); err != nil {
			t.Fatal(err)
		}
		sshd.Await(t, "end of the client", func() bool { return strings.Count(out.String(), "over 255") == 2 })
		if strings.Contains(out.String(), "again\n") {
			t.Errorf("a session after the end: %s", out)
		}
		sshd.Await(t, "end of the session at the host", func() bool { return d.Children() <= before })
		c := lease.Credential{Label: label, Secret: w.sealed}
		if w.source.Confirm(ctx, c) == nil {
			t.Error("confirmed before it was revoked")
		}
		if err := w.source.Revoke(ctx, c); err != nil {
			t.Fatal(err)
		}
		if signIn(d, signer) == nil {
			t.Error("signed in after the revocation")
		}
		if _, err := w.source.Certificate(ctx, label); !errors.Is(err, lease.ErrEnded) {
			t.Errorf("a certificate after the revocation: %v", err)
		}
		soon, stop := context.WithTimeout(ctx, 50*time.Millisecond)
		defer stop()
		if w.source.Confirm(soon, c) == nil {
			t.Error("confirmed while a certificate is valid")
		}
		// Another process knows the label alone, and not when the last one ends.
		if source(t, d, leasessh.NewKeys(), nil).Confirm(soon, lease.Credential{Label: label}) == nil {
			t.Error("confirmed by a process that has just begun")
		}
		if err := w.source.Confirm(ctx, c); err != nil {
			t.Error(err)
		}
		if now := uint64(time.Now().Unix()); now < cert.ValidBefore {
			t.Errorf("confirmed at %d, and the certificate is valid until %d", now, cert.ValidBefore)
		}
	})
}

// TestHostDoesNotRefuse: a lease stays as it is while its host accepts what is over,
// as one does whose clock is behind, is away, or is another.
//
// Threats: K2, K4 (lease)
func TestHostDoesNotRefuse(t *testing.T) {
	private, pub := sshd.NewKey(t)
	key, err := xssh.ParsePrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	c := &xssh.ServerConfig{PublicKeyCallback: func(xssh.ConnMetadata, xssh.PublicKey) (*xssh.Permissions, error) { return nil, nil }}
	c.AddHostKey(key)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go xssh.NewServerConn(conn, c)
		}
	}()
	ca, other := sshd.NewKey(t)
	d := &sshd.Server{Addr: l.Addr().String(), User: "deploy", CA: ca, HostKey: pub}
	keys := leasessh.NewKeys()
	s := source(t, d, keys, nil)
	if _, err := s.Issue(t.Context(), order(2*time.Second)); err != nil {
		t.Fatal(err)
	}
	cred := lease.Credential{Label: label}
	if err := s.Revoke(t.Context(), cred); err != nil {
		t.Fatal(err)
	}
	for _, is := range []struct {
		want string
		s    *leasessh.Source
	}{
		{"its clock is behind", s},
		{"no answer", source(t, d, keys, func(c *leasessh.Config) { c.HostKeys = []xssh.PublicKey{other} })},
		{"cannot be reached", source(t, d, keys, func(c *leasessh.Config) {
			c.Dial = func(context.Context, string, string) (net.Conn, error) { return nil, errors.New("no route") }
		})},
	} {
		if err := is.s.Confirm(t.Context(), cred); err == nil || !strings.Contains(err.Error(), is.want) {
			t.Errorf("got %v, want %q", err, is.want)
		}
	}
}

// stolen shows a certificate and signs with a key that is not its own.
type stolen struct {
	cert *xssh.Certificate
	xssh.Signer
}

func (s stolen) PublicKey() xssh.PublicKey { return s.cert }

// leased signs with the lease's key, as the door would.
type leased struct {
	s   *leasessh.Source
	key xssh.PublicKey
}

func (l leased) PublicKey() xssh.PublicKey { return l.key }

func (l leased) Sign(_ io.Reader, data []byte) (*xssh.Signature, error) {
	return l.s.Sign(label, data)
}

// signIn tries to sign in to the host, past the door.
func signIn(d *sshd.Server, s xssh.Signer) error {
	c, err := xssh.Dial("tcp", d.Addr, &xssh.ClientConfig{User: d.User, Auth: []xssh.AuthMethod{xssh.PublicKeys(s)}, HostKeyCallback: xssh.FixedHostKey(d.HostKey)})
	if err == nil {
		c.Close()
	}
	return err
}

// TestAgentSignsNothingElse: through the agent protocol itself.
//
// Threats: K11 (door)
func TestAgentSignsNothingElse(t *testing.T) {
	if testing.Short() {
		t.Skip("starts an sshd")
	}
	d := sshd.Start(t)
	w := newWorld(t, d, nil, nil)
	dial := func(t *testing.T) (agent.ExtendedAgent, *agent.Key) {
		t.Helper()
		c, err := net.Dial("unix", w.sock)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		a := agent.NewClient(c)
		keys, err := a.List()
		if err != nil || len(keys) != 1 {
			t.Fatalf("got %v %v", keys, err)
		}
		return a, keys[0]
	}
	session := []byte("a session's identifier, 32 bytes")
	bind := func(t *testing.T, key []byte, signed []byte, forwarding bool) []byte {
		t.Helper()
		signer, err := xssh.ParsePrivateKey(key)
		if err != nil {
			t.Fatal(err)
		}
		sig, err := signer.Sign(rand.Reader, signed)
		if err != nil {
			t.Fatal(err)
		}
		return xssh.Marshal(struct {
			HostKey, Session, Signature []byte
			Forwarding                  bool
		}{signer.PublicKey().Marshal(), session, xssh.Marshal(sig), forwarding})
	}
	request := func(k *agent.Key, edit func(*signInRequest)) []byte {
		r := signInRequest{session, 50, d.User, "ssh-connection", "publickey", true, k.Format, k.Blob, nil}
		if edit != nil {
			edit(&r)
		}
		return xssh.Marshal(&r)
	}
	other, _ := sshd.NewKey(t)
	const ext = "session-bind@openssh.com"
	t.Run("bound", func(t *testing.T) { // the control: with all of it right there is a signature
		a, k := dial(t)
		if _, err := a.Extension(ext, bind(t, d.HostPrivate, session, false)); err != nil {
			t.Fatal(err)
		}
		data := request(k, nil)
		sig, err := a.Sign(k, data)
		if err != nil {
			t.Fatal(err)
		}
		pub, err := xssh.ParsePublicKey(k.Blob)
		if err != nil || pub.(*xssh.Certificate).Key.Verify(data, sig) != nil {
			t.Errorf("got %v %v", sig, err)
		}
		for name, data := range map[string][]byte{
			"raw":           []byte("anything at all"),
			"empty":         {},
			"sshsig":        append([]byte("SSHSIG"), request(k, nil)...),
			"trailing":      append(request(k, nil), 0),
			"other_session": request(k, func(r *signInRequest) { r.Session = []byte("another session's identifier, 32") }),
			"other_user":    request(k, func(r *signInRequest) { r.User = "postgres" }),
			"other_service": request(k, func(r *signInRequest) { r.Service = "ssh-userauth" }),
			"other_message": request(k, func(r *signInRequest) { r.Type = 51 }),
			"other_method":  request(k, func(r *signInRequest) { r.Method = "hostbased" }),
			"not_signed":    request(k, func(r *signInRequest) { r.Signed = false }),
			"plain_key":     request(k, func(r *signInRequest) { r.Key = pub.(*xssh.Certificate).Key.Marshal() }),
			"plain_method":  request(k, func(r *signInRequest) { r.Algorithm = xssh.KeyAlgoED25519 }),
			"host_unbound":  request(k, func(r *signInRequest) { r.Method = "publickey-hostbound-v00@openssh.com" }),
		} {
			if _, err := a.Sign(k, data); err == nil {
				t.Errorf("%s: signed", name)
			}
		}
		if _, err := a.Extension(ext, bind(t, d.HostPrivate, session, false)); err == nil {
			t.Error("bound twice")
		}
		if _, err := a.Sign(&agent.Key{Format: "ssh-ed25519", Blob: d.HostKey.Marshal()}, data); err == nil {
			t.Error("signed with a key that was not listed")
		}
	})
	for name, contents := range map[string][]byte{
		"not_bound":         nil,
		"other_host":        bind(t, other, session, false),
		"not_proved":        bind(t, d.HostPrivate, []byte("something else"), false),
		"forwarded_to_host": bind(t, d.HostPrivate, session, true),
		"nonsense":          []byte("nonsense"),
	} {
		t.Run(name, func(t *testing.T) {
			a, k := dial(t)
			if contents != nil {
				_, _ = a.Extension(ext, contents) // whether it is refused now or at the signature
			}
			if _, err := a.Sign(k, request(k, nil)); err == nil {
				t.Error("signed")
			}
		})
	}
	all := strings.Join(w.operations(t), "\n")
	for _, code := range []string{"not_a_sign_in", "other_session", "other_user", "other_host", "session_not_bound", "session_not_proved", "forwarded_agent", "bound_before", "unknown_key"} {
		if !strings.Contains(all, `"`+code+`"`) {
			t.Errorf("no refusal %s is on record", code)
		}
	}
	t.Run("keys_stay", func(t *testing.T) {
		a, k := dial(t)
		_, key, err := ed25519.GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		pub, _ := xssh.ParsePublicKey(k.Blob)
		for name, err := range map[string]error{"add": a.Add(agent.AddedKey{PrivateKey: key}), "remove": a.Remove(pub), "remove_all": a.RemoveAll(),
			"lock": a.Lock([]byte("x")), "unlock": a.Unlock([]byte("x"))} {
			if err == nil {
				t.Errorf("%s: done", name)
			}
		}
		if keys, err := a.List(); err != nil || len(keys) != 1 {
			t.Errorf("got %v %v", keys, err)
		}
	})
}

type signInRequest struct {
	Session   []byte
	Type      uint8
	User      string
	Service   string
	Method    string
	Signed    bool
	Algorithm string
	Key       []byte
	Rest      []byte `ssh:"rest"`
}
