package database_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/gate/gatetest"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/store/pgtest"
	"github.com/sallyport-dev/sallyport/internal/surface/database"
)

func TestMain(m *testing.M) {
	code := m.Run()
	pgtest.Stop()
	os.Exit(code)
}

// rig is a door in front of a real server.
type rig struct {
	*gatetest.Kit
	url       string // of the server itself
	addr      string // of the door
	connected atomic.Int64
}

func newRig(t *testing.T, p gatetest.Policy) *rig {
	t.Helper()
	r := &rig{Kit: gatetest.New(t, p), url: pgtest.URL(t)}
	proxy, err := database.New(database.Config{Tenant: gatetest.Tenant, Task: gatetest.Task, Agent: gatetest.Agent, Gate: r.Gate, Source: "orders-db", Effect: action.Read,
		Audience: "postgresql://db/orders", Database: "orders", Role: "sallyport",
		Connect: func(ctx context.Context, parameters map[string]string) (*pgconn.HijackedConn, error) {
			r.connected.Add(1)
			cfg, err := pgconn.ParseConfig(r.url)
			if err != nil {
				return nil, err
			}
			cfg.RuntimeParams = parameters
			c, err := pgconn.ConnectConfig(ctx, cfg)
			if err != nil {
				return nil, err
			}
			return c.Hijack()
		}})
	if err != nil {
		t.Fatal(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r.addr = l.Addr().String()
	done := make(chan error, 1)
	go func() { done <- proxy.Serve(l) }()
	t.Cleanup(func() {
		if err := errors.Join(proxy.Close(), <-done); err != nil {
			t.Error(err)
		}
	})
	return r
}

func (r *rig) connect(t *testing.T) (*pgx.Conn, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	c, err := pgx.Connect(ctx, "postgresql://sallyport@"+r.addr+"/orders?sslmode=disable&application_name=test")
	if err == nil {
		t.Cleanup(func() { c.Close(context.Background()) })
	}
	return c, err
}

// TestDenied: nothing reaches the server unless the gate allowed it and that is on
// record; the client is told why in its own protocol.
//
// Threats: T55 (ledger)
func TestDenied(t *testing.T) {
	for name, c := range map[string]struct {
		policy gatetest.Policy
		fail   func(record.Draft) error
		want   string
	}{
		"policy": {func(gate.Facts) action.Decision {
			return action.Denied(action.LayerGrant, "outside_grant", "the task was not given it", "stay within the task")
		}, nil, "outside_grant"},
		"ledger": {nil, func(record.Draft) error { return errors.New("disk full") }, "not_recorded"},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRig(t, c.policy)
			r.Log.Fail = c.fail
			_, err := r.connect(t)
			r.Log.Fail = nil
			var pg *pgconn.PgError
			if !errors.As(err, &pg) || !strings.HasPrefix(pg.Message, c.want) || pg.Hint == "" {
				t.Errorf("got %v", err)
			}
			if r.connected.Load() != 0 {
				t.Error("the server was asked")
			}
		})
	}
}

// TestEndCutsTheSession: when the end of the task has returned, its session is
// closed and what the server did for it is cancelled.
//
// Threats: T57 (authority)
func TestEndCutsTheSession(t *testing.T) {
	r := newRig(t, nil)
	c, err := r.connect(t)
	if err != nil {
		t.Fatal(err)
	}
	over := make(chan error, 1)
	go func() { _, err := c.Exec(context.Background(), "SELECT pg_sleep(600)"); over <- err }()
	direct, err := pgx.Connect(t.Context(), r.url)
	if err != nil {
		t.Fatal(err)
	}
	defer direct.Close(context.Background())
	active := func() (n int) {
		if err := direct.QueryRow(t.Context(), "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'test' AND state = 'active'").Scan(&n); err != nil {
			t.Fatal(err)
		}
		return n
	}
	until := func(what string, want int) {
		t.Helper()
		for end := time.Now().Add(30 * time.Second); active() != want; time.Sleep(5 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatal(what)
			}
		}
	}
	until("the statement does not begin", 1)
	if err := r.End(t.Context(), func(gate.Admission) bool { return true }, "killed", "the kill"); err != nil {
		t.Fatal(err)
	}
	if err := <-over; err == nil {
		t.Error("the statement went on")
	}
	until("the server works on after the end", 0)
	if _, err := r.connect(t); err == nil {
		t.Error("a session was opened after the end")
	}
}

// TestTakenOver: while a person has the session the agent's connections are cut,
// and it opens none.
func TestTakenOver(t *testing.T) {
	r := newRig(t, nil)
	c, err := r.connect(t)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Pass(t.Context(), gatetest.Tenant, gatetest.Task, "", "person:ines"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Exec(t.Context(), "SELECT 1"); err == nil {
		t.Error("the agent goes on while a person has the session")
	}
	if _, err := r.connect(t); err == nil || !strings.Contains(err.Error(), gate.CodeTaken) {
		t.Errorf("got %v", err)
	}
	if err := r.Pass(t.Context(), gatetest.Tenant, gatetest.Task, "person:ines", ""); err != nil {
		t.Fatal(err)
	}
	if _, err := r.connect(t); err != nil {
		t.Error(err)
	}
}

// TestForeignCancel: a cancel request with another key cancels nothing.
func TestForeignCancel(t *testing.T) {
	r := newRig(t, nil)
	c, err := r.connect(t)
	if err != nil {
		t.Fatal(err)
	}
	own := c.PgConn()
	for _, key := range [][2]uint32{{own.PID(), 0}, {0, binary.BigEndian.Uint32(own.SecretKey())}} {
		raw, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		b := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, 16), 80877102)
		raw.Write(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(b, key[0]), key[1]))
		io.ReadAll(raw) // until it was looked at
		raw.Close()
	}
	if _, err := c.Exec(t.Context(), "SELECT 1"); err != nil {
		t.Errorf("cancelled by another's key: %v", err)
	}
	var pid uint32
	if err := c.QueryRow(t.Context(), "SELECT pg_backend_pid()").Scan(&pid); err != nil || pid == own.PID() {
		t.Errorf("the client was given the server's own key: %v", err)
	}
}

// TestLaterProtocol: a client of a later minor version is answered in 3.0.
func TestLaterProtocol(t *testing.T) {
	r := newRig(t, nil)
	raw, err := net.Dial("tcp", r.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer raw.Close()
	f := pgproto3.NewFrontend(raw, raw)
	f.Send(&pgproto3.StartupMessage{ProtocolVersion: pgproto3.ProtocolVersion32, Parameters: map[string]string{"user": "sallyport", "_pq_.new": "1"}})
	if err := f.Flush(); err != nil {
		t.Fatal(err)
	}
	m, err := f.Receive()
	n, ok := m.(*pgproto3.NegotiateProtocolVersion)
	if err != nil || !ok || n.NewestMinorProtocol != 0 || !slices.Equal(n.UnrecognizedOptions, []string{"_pq_.new"}) {
		t.Errorf("got %#v %v", m, err)
	}
}

// TestStartupTricks: what two readers could read differently is no startup message.
func TestStartupTricks(t *testing.T) {
	message := func(body string) []byte {
		return append(binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, uint32(len(body)+8)), 3<<16), body...)
	}
	r := newRig(t, nil)
	for name, b := range map[string][]byte{
		"twice":        message("user\x00sallyport\x00user\x00postgres\x00\x00"),
		"no_end":       message("user\x00sallyport\x00"),
		"no_value":     message("user\x00"),
		"behind_end":   message("user\x00sallyport\x00\x00database\x00template1\x00\x00"),
		"long":         {0x7f, 0xff, 0xff, 0xff, 0, 3, 0, 0},
		"short":        {0, 0, 0, 4},
		"version_2":    {0, 0, 0, 9, 0, 2, 0, 0, 0},
		"tls_for_ever": bytes.Repeat([]byte{0, 0, 0, 8, 4, 0xd2, 0x16, 0x2f}, 8),
		"other_role":   message("user\x00postgres\x00\x00"),
	} {
		raw, err := net.Dial("tcp", r.addr)
		if err != nil {
			t.Fatal(err)
		}
		raw.Write(b)
		raw.SetReadDeadline(time.Now().Add(20 * time.Second))
		answer, _ := io.ReadAll(raw)
		raw.Close()
		if got := bytes.TrimLeft(answer, "N"); len(got) > 0 && got[0] != 'E' {
			t.Errorf("%s: answered %q", name, got)
		}
	}
	if r.connected.Load() != 0 {
		t.Errorf("%d of them reached the server", r.connected.Load())
	}
	for _, d := range r.Log.Decisions(t) {
		if d.Decision.Verdict == action.Allow {
			t.Errorf("allowed: %+v", d.Action)
		}
	}
}
