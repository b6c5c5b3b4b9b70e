package identity_test

import (
	"context"
	"encoding/hex"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/svid/x509svid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/internal/record"
)

const wantID = "spiffe://acme.example/agent/helpdesk/task/t-1"

// launched starts a workload and registers it for task t-1.
func launched(t *testing.T, f *fixture) (*child, *identity.LaunchAttestor, string) {
	t.Helper()
	a := identity.NewLaunchAttestor()
	sock := f.serve(t, a)
	c := startChild(t, sock)
	if err := a.Register(c.launch("t-1")); err != nil {
		t.Fatal(err)
	}
	return c, a, sock
}

// An unmodified go-spiffe client in the launched namespace gets everything the
// Workload API has, and every SVID is in the ledger.
func TestWorkloadAPI(t *testing.T) {
	f := newFixture(t, identity.Config{})
	c, _, _ := launched(t, f)

	x := c.do("x509")
	if x.Code != "OK" || x.ID != wantID {
		t.Fatalf("x509: got %+v", x)
	}
	cert := mustCert(t, x.Cert)
	if life := cert.NotAfter.Sub(cert.NotBefore); life > identity.DefaultTTL+identity.Skew {
		t.Errorf("life of the certificate: got %v", life)
	}
	sub, err := f.issuer.VerifyX509(t.Context(), cert)
	if err != nil || sub.Agent != "helpdesk" || sub.Task != "t-1" || sub.ID != wantID {
		t.Errorf("verify x509: got %+v, %v", sub, err)
	}

	j := c.do("jwt vault.example other.example")
	if j.Code != "OK" || j.ID != wantID {
		t.Fatalf("jwt: got %+v", j)
	}
	if sub, err := f.issuer.VerifyJWT(t.Context(), j.Token, "vault.example"); err != nil || sub.ID != wantID {
		t.Errorf("verify jwt: got %+v, %v", sub, err)
	}
	if r := c.do("validate " + j.Token + " other.example"); r.Code != "OK" || r.ID != wantID {
		t.Errorf("validate: got %+v", r)
	}
	if r := c.do("validate " + j.Token + " third.example"); r.Code != "InvalidArgument" {
		t.Errorf("validate for another audience: got %+v, want InvalidArgument", r)
	}
	b := c.do("bundles")
	if want := []string{"x509 acme.example 1", "jwt acme.example 1"}; !slices.Equal(b.Has, want) {
		t.Errorf("bundles: got %v %s, want %v", b.Has, b.Error, want)
	}

	issued := f.entries(t, "identity.issued")
	if len(issued) != 2 {
		t.Fatalf("issued records: got %d, want 2", len(issued))
	}
	if issued[0]["serial"] != hex.EncodeToString(cert.SerialNumber.Bytes()) || issued[0]["subject"] != wantID {
		t.Errorf("record of the certificate: got %v", issued[0])
	}
	if !strings.HasPrefix(issued[1]["jtiDigest"].(string), "sha256:") || len(issued[1]["audience"].([]any)) != 2 {
		t.Errorf("record of the token: got %v", issued[1])
	}
	if s := issued[0]["selectors"].([]any); !slices.ContainsFunc(s, func(v any) bool { return strings.HasPrefix(v.(string), "launch:netns:") }) {
		t.Errorf("selectors: got %v", s)
	}
	if n := len(f.entries(t, "identity.attested")); n != 1 {
		t.Errorf("attested records: got %d, want 1", n)
	}
}

// The go-spiffe library, given the published bundle document, is the outside
// judge of what we issue.
func TestGoSPIFFEVerifies(t *testing.T) {
	f := newFixture(t, identity.Config{})
	b, err := spiffebundle.Parse(spiffeid.RequireTrustDomainFromString("acme.example"), get(t, f.issuer.BundleEndpoint()))
	if err != nil {
		t.Fatal(err)
	}
	cert, err := f.issuer.IssueX509(t.Context(), aWorkload())
	if err != nil {
		t.Fatal(err)
	}
	if id, _, err := x509svid.ParseAndVerify([][]byte{cert.Raw}, b); err != nil || id.String() != wantID {
		t.Errorf("x509: got %v, %v", id, err)
	}
	tok, err := f.issuer.IssueJWT(t.Context(), aWorkload(), "vault.example")
	if err != nil {
		t.Fatal(err)
	}
	if s, err := jwtsvid.ParseAndValidate(tok.Reveal(), b, []string{"vault.example"}); err != nil || s.ID.String() != wantID {
		t.Errorf("jwt: got %v, %v", s, err)
	}
}

// SVIDs are renewed at half life, each with a key and a record of its own.
func TestRotation(t *testing.T) {
	f := newFixture(t, identity.Config{X509TTL: 2 * time.Second})
	c, _, _ := launched(t, f)
	c.send("watch")
	seen := map[string]bool{}
	for len(seen) < 3 {
		r := c.next()
		if r.Code != "OK" {
			t.Fatalf("watch: got %+v", r)
		}
		seen[r.Serial] = true
	}
	if n := len(f.entries(t, "identity.issued")); n < 3 {
		t.Errorf("issued records: got %d, want at least 3", n)
	}
}

// The task ends while its stream is open: the stream ends, and nothing more is
// issued, although the process still runs.
func TestTaskEndedMidStream(t *testing.T) {
	f := newFixture(t, identity.Config{})
	c, _, _ := launched(t, f)
	c.send("watch")
	if r := c.next(); r.Code != "OK" {
		t.Fatalf("watch: got %+v", r)
	}
	f.issuer.Revoke("t-1")
	if r := c.next(); r.Code != "PermissionDenied" || !strings.Contains(r.Error, "task_ended") {
		t.Errorf("stream after the end: got %+v, want PermissionDenied task_ended", r)
	}
	before := len(f.entries(t, "identity.issued"))
	for _, verb := range []string{"x509", "jwt vault.example", "bundles"} {
		if r := c.do(verb); r.Code != "PermissionDenied" {
			t.Errorf("%s after the end: got %+v, want PermissionDenied", verb, r)
		}
	}
	if after := len(f.entries(t, "identity.issued")); after != before {
		t.Errorf("issued after the end: got %d records, want %d", after, before)
	}
}

// The task ends in the instant between the record and the answer: the record
// stays, the SVID does not go out.
func TestTaskEndedWhileRecording(t *testing.T) {
	f := newFixture(t, identity.Config{})
	f.log.after = func(d record.Draft) {
		if d.Type == "identity.issued" {
			f.issuer.Revoke(d.Task)
		}
	}
	tok, err := f.issuer.IssueJWT(t.Context(), aWorkload(), aud)
	wantCode(t, err, "task_ended")
	if tok.Reveal() != "" {
		t.Error("token: got one, want none")
	}
	w := aWorkload()
	w.Task = "t-2"
	_, err = f.issuer.IssueX509(t.Context(), w)
	wantCode(t, err, "task_ended")
	if n := len(f.entries(t, "identity.issued")); n != 2 {
		t.Errorf("issued records: got %d, want 2", n)
	}
}

// The epoch is over but nobody told the issuer: it asks.
func TestAuthorityAskedOnEveryIssue(t *testing.T) {
	f := newFixture(t, identity.Config{})
	c, _, _ := launched(t, f)
	if r := c.do("x509"); r.Code != "OK" {
		t.Fatalf("got %+v", r)
	}
	f.live.dead.Store(true)
	for _, verb := range []string{"x509", "jwt vault.example"} {
		if r := c.do(verb); r.Code != "PermissionDenied" || strings.Contains(r.Error, "epoch is over") {
			t.Errorf("%s: got %+v, want PermissionDenied without the private cause", verb, r)
		}
	}
}

// No record, no SVID.
func TestLedgerDown(t *testing.T) {
	f := newFixture(t, identity.Config{})
	c, _, _ := launched(t, f)
	if r := c.do("x509"); r.Code != "OK" {
		t.Fatalf("got %+v", r)
	}
	f.log.down.Store(true)
	for _, verb := range []string{"x509", "jwt vault.example"} {
		if r := c.do(verb); r.Code != "Unavailable" || r.ID != "" || strings.Contains(r.Error, "disk") {
			t.Errorf("%s: got %+v, want Unavailable without the private cause", verb, r)
		}
	}
	f.log.down.Store(false)
	if r := c.do("x509"); r.Code != "OK" {
		t.Errorf("after the ledger came back: got %+v", r)
	}
}

// A process of the same host and the same uid, outside the namespace, gets
// nothing, and cannot fill the ledger by asking.
func TestSiblingOutsideNamespace(t *testing.T) {
	f := newFixture(t, identity.Config{})
	c, _, sock := launched(t, f)
	const tries = 40
	for range tries {
		if r := call(sock, "x509", nil); r.Code != "PermissionDenied" || !strings.Contains(r.Error, "not_launched") {
			t.Fatalf("got %+v, want PermissionDenied not_launched", r)
		}
	}
	// A second workload, launched for nobody.
	if r := startChild(t, sock).do("x509"); r.Code != "PermissionDenied" {
		t.Errorf("unregistered namespace: got %+v", r)
	}
	if r := c.do("x509"); r.Code != "OK" {
		t.Errorf("the workload itself: got %+v", r)
	}
	start := time.Now()
	f.issuer.Close()
	var count float64
	refused := f.entries(t, "identity.refused")
	for _, r := range refused {
		count += r["count"].(float64)
	}
	if count != tries+1 {
		t.Errorf("counted refusals: got %v, want %d", count, tries+1)
	}
	if len(refused) > int(time.Since(start)/time.Second)+20 || len(refused) >= tries {
		t.Errorf("refused records: got %d for %d tries", len(refused), tries)
	}
}

// The launch says one uid, the caller has another.
func TestWrongUID(t *testing.T) {
	f := newFixture(t, identity.Config{})
	a := identity.NewLaunchAttestor()
	c := startChild(t, f.serve(t, a))
	l := c.launch("t-1")
	l.HostUID++
	if err := a.Register(l); err != nil {
		t.Fatal(err)
	}
	if r := c.do("x509"); r.Code != "PermissionDenied" || !strings.Contains(r.Error, "wrong_uid") {
		t.Errorf("got %+v, want wrong_uid", r)
	}
}

// The workload connects, hands its connection to a process outside, and dies:
// the connection is worth nothing, and neither would be its reused pid.
func TestConnectionOutlivesProcess(t *testing.T) {
	f := newFixture(t, identity.Config{})
	a := identity.NewLaunchAttestor()
	sock := f.serve(t, a)
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_DGRAM, 0)
	if err != nil {
		t.Fatal(err)
	}
	theirs := os.NewFile(uintptr(pair[1]), "pair")
	c := startChild(t, sock, theirs)
	theirs.Close()
	defer unix.Close(pair[0])
	if err := a.Register(c.launch("t-1")); err != nil {
		t.Fatal(err)
	}
	if r := c.do("pass"); r.Code != "OK" {
		t.Fatalf("pass: got %+v", r)
	}
	oob := make([]byte, 64)
	_, n, _, _, err := unix.Recvmsg(pair[0], make([]byte, 1), oob, 0)
	if err != nil {
		t.Fatal(err)
	}
	msgs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil {
		t.Fatal(err)
	}
	fds, err := unix.ParseUnixRights(&msgs[0])
	if err != nil {
		t.Fatal(err)
	}
	stolen, err := net.FileConn(os.NewFile(uintptr(fds[0]), "stolen"))
	if err != nil {
		t.Fatal(err)
	}
	defer stolen.Close()
	c.send("exit")
	c.cmd.Wait()

	cl, err := workloadapi.New(t.Context(), workloadapi.WithAddr("unix://"+sock),
		workloadapi.WithDialOptions(grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return stolen, nil })))
	if err != nil {
		t.Fatal(err)
	}
	defer cl.Close()
	if _, err := cl.FetchX509SVID(t.Context()); status.Code(err) != codes.PermissionDenied {
		t.Errorf("stolen connection of a dead process: got %v, want PermissionDenied", err)
	}
}

// After a pid was reused, /proc/PID shows the workload while the pidfd still
// stands for the process that connected: the pidfd wins.
func TestPIDReuse(t *testing.T) {
	a := identity.NewLaunchAttestor()
	live, dead := startChild(t, "/nowhere"), startChild(t, "/nowhere")
	if err := a.Register(live.launch("t-1")); err != nil {
		t.Fatal(err)
	}
	uid := uint32(os.Getuid())
	open := func(c *child) *os.File {
		fd, err := identity.OpenPidfd(c.cmd.Process.Pid, uid)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { fd.Close() })
		return fd
	}
	liveFD, deadFD := open(live), open(dead)
	dead.send("exit")
	dead.cmd.Wait()

	pid := live.cmd.Process.Pid
	if _, err := a.Attest(t.Context(), identity.PeerOf(pid, uid, liveFD)); err != nil {
		t.Errorf("the workload itself: got %v", err)
	}
	_, err := a.Attest(t.Context(), identity.PeerOf(pid, uid, deadFD))
	wantCode(t, err, "process_gone")
	_, err = a.Attest(t.Context(), identity.PeerOf(pid, uid, nil))
	wantCode(t, err, "process_gone")
	_, err = a.Attest(t.Context(), identity.PeerOf(dead.cmd.Process.Pid, uid, deadFD))
	wantCode(t, err, "not_launched")
	if _, err := identity.OpenPidfd(pid, uid+1); err == nil {
		t.Error("pidfd of a process of another uid: got it, want an error")
	}
	a.Revoke("acme", "t-1")
	_, err = a.Attest(t.Context(), identity.PeerOf(pid, uid, liveFD))
	wantCode(t, err, "not_launched")
}

func TestRegisterRefuses(t *testing.T) {
	a := identity.NewLaunchAttestor()
	c, other := startChild(t, "/nowhere"), startChild(t, "/nowhere")
	good := c.launch("t-1")
	for name, edit := range map[string]func(*identity.Launch){
		"no_tenant":       func(l *identity.Launch) { l.Tenant = "" },
		"no_task":         func(l *identity.Launch) { l.Task = "" },
		"no_binary":       func(l *identity.Launch) { l.BinaryDigest = "" },
		"other_namespace": func(l *identity.Launch) { l.NetNS = other.launch("t-2").NetNS },
		"no_such_process": func(l *identity.Launch) { l.PID = 1 << 30 },
		"our_own_namespace": func(l *identity.Launch) {
			*l = (&child{t: t, cmd: &exec.Cmd{Process: &os.Process{Pid: os.Getpid()}}}).launch("t-1")
		},
	} {
		l := good
		edit(&l)
		if err := a.Register(l); err == nil {
			t.Errorf("%s: registered, want an error", name)
		}
	}
	if err := a.Register(good); err != nil {
		t.Fatal(err)
	}
	if err := a.Register(good); err == nil {
		t.Error("second launch in one namespace: registered, want an error")
	}
}

// A request without the security header could come from another protocol
// (a browser, a proxy).
func TestSecurityHeaderRequired(t *testing.T) {
	f := newFixture(t, identity.Config{})
	sock := f.serve(t, identity.NewLaunchAttestor())
	conn, err := grpc.NewClient("unix://"+sock, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	c := workload.NewSpiffeWorkloadAPIClient(conn)
	if _, err := c.FetchJWTSVID(t.Context(), &workload.JWTSVIDRequest{Audience: []string{"a"}}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("got %v, want InvalidArgument", err)
	}
	s, err := c.FetchX509SVID(t.Context(), &workload.X509SVIDRequest{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Recv(); status.Code(err) != codes.InvalidArgument {
		t.Errorf("stream: got %v, want InvalidArgument", err)
	}
}

// A workload that opens connections without end keeps no one else out for
// good, and holds no more than its share of descriptors.
//
// Threats: M3 (door)
func TestConnectionFlood(t *testing.T) {
	f := newFixture(t, identity.Config{})
	c, _, sock := launched(t, f)
	var open []net.Conn
	for range identity.MaxConns * 3 {
		conn, err := net.Dial("unix", sock)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, conn)
	}
	closed := 0
	for _, conn := range open {
		// Connections over the limit are closed at once; the others get the
		// server's HTTP/2 settings, or wait for ours.
		conn.SetReadDeadline(time.Now().Add(2 * time.Second))
		n, err := conn.Read(make([]byte, 64))
		if n == 0 && err != nil && !os.IsTimeout(err) {
			closed++
		}
	}
	if closed < identity.MaxConns {
		t.Errorf("closed connections: got %d of %d, want the surplus", closed, len(open))
	}
	for _, conn := range open {
		conn.Close()
	}
	for limit := time.Now().Add(20 * time.Second); ; {
		r := c.do("x509")
		if r.Code == "OK" {
			return
		}
		if time.Now().After(limit) {
			t.Fatalf("20 s after the flood: got %+v", r)
		}
	}
}

// A loop of issues must not fill the ledger.
func TestIssueRate(t *testing.T) {
	now := time.Date(2026, 11, 23, 12, 0, 0, 0, time.UTC)
	f := newFixture(t, identity.Config{Now: func() time.Time { return now }})
	var err error
	for range identity.IssueBurst {
		if _, err = f.issuer.IssueJWT(t.Context(), aWorkload(), "a"); err != nil {
			t.Fatal(err)
		}
	}
	_, err = f.issuer.IssueJWT(t.Context(), aWorkload(), "a")
	wantCode(t, err, "too_many")
	now = now.Add(time.Second)
	if _, err = f.issuer.IssueJWT(t.Context(), aWorkload(), "a"); err != nil {
		t.Errorf("a second later: got %v", err)
	}
}

// A socket in a folder that others can enter would be reachable from outside
// the session.
func TestListenWorkloadRefusesOpenFolder(t *testing.T) {
	dir := t.TempDir()
	for mode, ok := range map[os.FileMode]bool{0o700: true, 0o750: false, 0o701: false, 0o777: false} {
		if err := os.Chmod(dir, mode); err != nil {
			t.Fatal(err)
		}
		l, err := identity.ListenWorkload(dir + "/s")
		if (err == nil) != ok {
			t.Errorf("folder of mode %v: got %v", mode, err)
		}
		if err == nil {
			l.Close()
		}
	}
}
