package ldap_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	goldap "github.com/go-ldap/ldap/v3"

	"github.com/sallyport-dev/sallyport/internal/lease"
	"github.com/sallyport-dev/sallyport/internal/lease/ldap"
	"github.com/sallyport-dev/sallyport/internal/lease/leasetest"
)

// memory keeps passwords as a store does that outlives the process. A fault says, for
// a write, whether it fails before or after it is kept.
type memory struct {
	mu    sync.Mutex
	held  ldap.Held
	fault func(write string) (before, after bool)
	ever  []string // passwords that were current
}

var errKilled = errors.New("killed")

func newMemory() *memory { return &memory{held: ldap.Held{Current: []byte("first-password")}} }

func (m *memory) Read(context.Context) (ldap.Held, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.held, nil
}

func (m *memory) write(name string, change func() error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	before, after := false, false
	if m.fault != nil {
		before, after = m.fault(name)
	}
	if before {
		return errKilled
	}
	err := change()
	if err == nil && after {
		err = errKilled
	}
	return err
}

func (m *memory) Hold(_ context.Context, label string) error {
	return m.write("hold", func() error {
		if m.held.Holder != "" && m.held.Holder != label {
			return ldap.ErrHeld
		}
		m.held.Holder = label
		return nil
	})
}

func (m *memory) Begin(_ context.Context, label string, next []byte) error {
	return m.write("begin", func() error {
		if m.held.Holder != label || m.held.Next != nil {
			return errors.New("begun meanwhile")
		}
		m.held.Next = slices.Clone(next)
		return nil
	})
}

func (m *memory) Settle(_ context.Context, label string) error {
	return m.write("settle", func() error {
		if m.held.Holder != label || m.held.Next == nil {
			return errors.New("not begun")
		}
		m.ever = append(m.ever, string(m.held.Current))
		m.held = ldap.Held{Current: m.held.Next}
		return nil
	})
}

func rotation(d *leasetest.Directory, url string, p ldap.Passwords) *ldap.Rotation {
	return ldap.NewRotation(ldap.Config{URL: url, Admin: leasetest.Boundary,
		Password: func(context.Context) ([]byte, error) { return []byte(leasetest.AdminPassword), nil }}, leasetest.Service, "svc-crm", p)
}

// binds asks the directory apart from the source.
func binds(d *leasetest.Directory, password string) error {
	c, err := d.Bind(leasetest.Service, password)
	if err == nil {
		c.Close()
	}
	return err
}

func wired(t *testing.T, d *leasetest.Directory) (*leasetest.Wire, string) {
	t.Helper()
	socket := filepath.Join(filepath.Dir(d.Socket), "wire")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	return leasetest.NewWire(t, l, "unix", d.Socket), d.URL(socket)
}

// TestRotation: the suite that every source passes, as far as it is for one lease at
// a time.
//
// Threats: K4, K7, K9 (lease)
func TestRotation(t *testing.T) {
	d := leasetest.StartLDAP(t)
	w, url := wired(t, d)
	m := newMemory()
	r := rotation(d, url, m)
	leasetest.Run(t, &leasetest.Peer{Source: r, Wire: w, Exclusive: true,
		Labels: func() (out []string) {
			if h, _ := m.Read(t.Context()); h.Holder != "" {
				out = append(out, h.Holder)
			}
			return out
		},
		Works: func(secret []byte) error {
			_, password, err := r.Account(secret)
			if err != nil {
				return err
			}
			return binds(d, password)
		}})
	if err := binds(d, string(m.held.Current)); err != nil {
		t.Errorf("the password that is kept: %v", err)
	}
	if len(m.ever) < 10 {
		t.Errorf("the password was exchanged %d times", len(m.ever))
	}
}

// trial is one life of a lease, in which something fails.
type trial struct {
	*testing.T
	d   *leasetest.Directory
	m   *memory
	r   *ldap.Rotation
	at  string
	had []string // passwords that a lease had
}

// life issues and ends; a failure is the end of the process.
func (x *trial) life(label string) {
	secret, err := x.r.Issue(x.Context(), lease.Order{Label: label})
	if err != nil {
		return
	}
	_, password, err := x.r.Account(secret)
	if err != nil {
		x.Fatal(err)
	}
	x.had = append(x.had, password)
	c := lease.Credential{Label: label, Secret: secret}
	if x.r.Revoke(x.Context(), c) == nil {
		x.r.Confirm(x.Context(), c)
	}
}

// kept: one of the passwords that are kept is the account's.
func (x *trial) kept() {
	x.Helper()
	if binds(x.d, string(x.m.held.Current)) != nil && (x.m.held.Next == nil || binds(x.d, string(x.m.held.Next)) != nil) {
		x.Fatalf("%s: the password is lost", x.at)
	}
}

func (x *trial) end(label string) error {
	c := lease.Credential{Label: label}
	account, err := x.r.Reset(x.Context(), label)
	if err != nil {
		return err
	}
	if account != nil {
		_, p, err := x.r.Account(account)
		if err == nil {
			err = binds(x.d, p)
		}
		if err != nil {
			return fmt.Errorf("what sweeps cannot sign in: %w", err)
		}
	}
	return errors.Join(x.r.Revoke(x.Context(), c), x.r.Confirm(x.Context(), c))
}

// recovered ends by the label, as a process does that starts, and again as long as
// that fails: what was cut on its way to the directory may still be done there.
func (x *trial) recovered(label string) {
	x.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		err := x.end(label)
		if err == nil {
			break
		}
		if time.Now().After(end) {
			x.Fatalf("%s: %v", x.at, err)
		}
	}
	if x.m.held.Holder != "" || x.m.held.Next != nil || binds(x.d, string(x.m.held.Current)) != nil {
		x.Fatalf("%s: after the recovery: held by %q", x.at, x.m.held.Holder)
	}
	for _, p := range x.had {
		if binds(x.d, p) == nil {
			x.Fatalf("%s: the password that the lease had is still taken", x.at)
		}
	}
	x.had = nil
}

// TestCrashWhileRotating: whatever write or message fails, before or after it, and
// whatever of the recovery from that, one of the kept passwords is the account's;
// then a recovery that nothing disturbs ends the lease.
//
// Threats: K15 (lease)
func TestCrashWhileRotating(t *testing.T) {
	d := leasetest.StartLDAP(t)
	w, url := wired(t, d)
	m := newMemory()
	x := &trial{T: t, d: d, m: m, r: rotation(d, url, m)}
	label, n := "", 0
	begin := func(at string) {
		n++
		label, x.at = fmt.Sprintf("%sl-%d", leasetest.Prefix, n), at
	}
	for _, write := range []string{"hold", "begin", "settle"} {
		for _, after := range []bool{false, true} {
			begin(fmt.Sprintf("write %s, after: %v", write, after))
			hit := false
			m.fault = func(w string) (bool, bool) {
				now := w == write && !hit
				hit = hit || now
				return now && !after, now && after
			}
			x.life(label)
			m.fault = nil
			if !hit {
				t.Errorf("%s: nothing failed", x.at)
			}
			x.kept()
			x.recovered(label)
		}
	}
	messages := 0
	for first := int64(1); ; first++ {
		hit := false
		for _, after := range []bool{false, true} {
			for second := int64(1); ; second++ { // 1: in the recovery too
				begin(fmt.Sprintf("message %d, after: %v, then %d", first, after, second))
				w.CutAt(first, after)
				x.life(label)
				hit = w.Restore() || hit
				x.kept()
				w.CutAt(second, after)
				c := lease.Credential{Label: label}
				_ = errors.Join(x.r.Revoke(t.Context(), c), x.r.Confirm(t.Context(), c))
				again := w.Restore()
				x.kept()
				x.recovered(label)
				if !again {
					break
				}
				messages++
			}
		}
		if !hit {
			break
		}
	}
	if messages < 20 {
		t.Errorf("only %d pairs of messages were cut: the case tests nothing", messages)
	}
}

// TestRotationMeetsOthers: a password that is not the account's gives no lease, and
// one that the holder changed does not outlive the lease either.
//
// Threats: K15 (lease)
func TestRotationMeetsOthers(t *testing.T) {
	d := leasetest.StartLDAP(t)
	m := newMemory()
	r := rotation(d, d.URL(d.Socket), m)
	set := func(password string) {
		t.Helper()
		d.As(func(c *goldap.Conn) error {
			q := goldap.NewModifyRequest(leasetest.Service, nil)
			q.Replace("userPassword", []string{password})
			return c.Modify(q)
		})
	}
	set("set by somebody")
	if _, err := r.Issue(t.Context(), lease.Order{Label: leasetest.Prefix + "l-1"}); !errors.Is(err, lease.ErrNotIssued) || !strings.Contains(err.Error(), "store the one") {
		t.Errorf("another password than the stored one: got %v", err)
	}
	m.held.Current = nil
	if _, err := r.Issue(t.Context(), lease.Order{Label: leasetest.Prefix + "l-1"}); !errors.Is(err, lease.ErrNotIssued) {
		t.Errorf("no password, with which a bind is anonymous: got %v", err)
	}
	if h, _ := m.Read(t.Context()); h.Holder != "" {
		t.Errorf("the account is held by %q", h.Holder)
	}
	m.held.Current = []byte("set by somebody")
	for i, ends := range []func(c lease.Credential) error{
		func(c lease.Credential) error { return r.Revoke(t.Context(), c) },
		func(c lease.Credential) error { // by the label, after a crash
			account, err := r.Reset(t.Context(), c.Label)
			if err != nil {
				return err
			}
			_, p, err := r.Account(account)
			return errors.Join(err, binds(d, p), r.Revoke(t.Context(), lease.Credential{Label: c.Label}))
		}} {
		label := fmt.Sprintf("%sh-%d", leasetest.Prefix, i)
		secret, err := r.Issue(t.Context(), lease.Order{Label: label})
		if err != nil {
			t.Fatal(err)
		}
		set("set by the holder")
		c := lease.Credential{Label: label, Secret: secret}
		if err := errors.Join(ends(c), r.Confirm(t.Context(), c)); err != nil {
			t.Error(err)
		}
		if binds(d, "set by the holder") == nil {
			t.Error("the holder's own password outlives the lease")
		}
	}
}
