package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/sallyport-dev/sallyport/internal/ledger"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/store/pgtest"
)

// cutter stands between a client and the server, and can lose the answer to a
// commit, or the commit.
type cutter struct {
	dir    string
	server string
	mode   atomic.Int32 // what to do with the next commit
	hits   atomic.Int32
}

const (
	pass       = iota
	loseAnswer // the server commits, the client hears nothing
	loseCommit // the server never hears of it
)

func newCutter(t *testing.T, server string) *cutter {
	t.Helper()
	dir, err := os.MkdirTemp("", "cut") // short: a socket's path has a limit
	if err != nil {
		t.Fatal(err)
	}
	c := &cutter{dir: dir, server: filepath.Join(server, ".s.PGSQL.5432")}
	l, err := net.Listen("unix", filepath.Join(dir, ".s.PGSQL.5432"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close(); os.RemoveAll(dir) })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go c.serve(conn)
		}
	}()
	return c
}

func (c *cutter) serve(client net.Conn) {
	defer client.Close()
	server, err := net.Dial("unix", c.server)
	if err != nil {
		return
	}
	defer server.Close()
	var deaf atomic.Bool // the client gets no more answers
	go func() {
		defer client.Close()
		defer server.Close()
		buf := make([]byte, 1<<16)
		for {
			n, err := server.Read(buf)
			if err != nil || deaf.Load() {
				return
			}
			if _, err := client.Write(buf[:n]); err != nil {
				return
			}
		}
	}()
	buf := make([]byte, 1<<16)
	for {
		n, err := client.Read(buf)
		if err != nil {
			return
		}
		if bytes.Contains(buf[:n], []byte("commit\x00")) {
			switch c.mode.Swap(pass) {
			case loseAnswer:
				c.hits.Add(1)
				deaf.Store(true)
			case loseCommit:
				c.hits.Add(1)
				return
			}
		}
		if _, err := server.Write(buf[:n]); err != nil {
			return
		}
	}
}

// TestLostCommit cuts the connection around a commit: the ledger must find out
// what happened before it answers.
func TestLostCommit(t *testing.T) {
	url := pgtest.URL(t)
	server := url[strings.Index(url, "host=")+len("host="):]
	c := newCutter(t, server)
	s, err := OpenPostgres(t.Context(), strings.Replace(url, server, c.dir, 1))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l, log, err := openLog(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if _, err := log.CheckpointNow(t.Context()); err != nil { // the signer is quiet now
		t.Fatal(err)
	}
	c.mode.Store(loseAnswer)
	e, err := log.Append(t.Context(), record.Draft{Type: "answer.lost"})
	if err != nil || e.Seq != 0 || c.hits.Load() != 1 {
		t.Fatalf("answer lost: got seq %d, %v, %d cuts; want the record found", e.Seq, err, c.hits.Load())
	}
	if _, err := log.CheckpointNow(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.mode.Store(loseCommit)
	if e, err := log.Append(t.Context(), record.Draft{Type: "commit.lost"}); err == nil || errors.Is(err, ledger.ErrStopped) || c.hits.Load() != 2 {
		t.Fatalf("commit lost: got seq %d, %v; want an error and no stop", e.Seq, err)
	}
	if e, err := log.Append(t.Context(), record.Draft{Type: "next"}); err != nil || e.Seq != 1 {
		t.Errorf("next: got seq %d, %v; want 1", e.Seq, err)
	}
	rep, err := log.Verify(t.Context())
	if err != nil || !rep.OK() || rep.Size != 2 {
		t.Errorf("got %+v, %v", rep, err)
	}
}

// TestDatabaseCrash kills the database server under the ledger: what was
// acknowledged is there when it is back, and the ledger goes on by itself.
func TestDatabaseCrash(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a PostgreSQL server")
	}
	server, err := pgtest.Start()
	if err != nil {
		t.Fatalf("this test needs Debian's postgresql-15: %v", err)
	}
	defer server.Stop()
	s, err := OpenPostgres(t.Context(), server.URL("postgres"))
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	l, log, err := openLog(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var mu sync.Mutex
	acked, refused := map[int64]bool{}, 0
	stop, some := make(chan struct{}), make(chan struct{}, 1<<16)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				e, err := log.Append(t.Context(), record.Draft{Type: "x"})
				mu.Lock()
				if err != nil {
					refused++
				} else if acked[e.Seq] {
					t.Errorf("position %d was given twice", e.Seq)
				} else {
					acked[e.Seq] = true
				}
				mu.Unlock()
				if err != nil {
					time.Sleep(5 * time.Millisecond) // leave the processor to the server that starts
					continue
				}
				select {
				case some <- struct{}{}:
				default:
				}
			}
		})
	}
	for range 3 {
		for range 50 {
			<-some
		}
		if err := server.Crash(); err != nil {
			t.Error(err)
			break
		}
		for len(some) > 0 {
			<-some
		}
	}
	select {
	case <-some: // it goes on
	case <-time.After(60 * time.Second):
		t.Errorf("no append succeeds after the crash: %v", l.Err())
	}
	close(stop)
	wg.Wait()
	rep, err := log.Verify(t.Context())
	if err != nil || !rep.OK() {
		t.Fatalf("got %+v, %v", rep, err)
	}
	for seq := range acked {
		if seq >= rep.Size {
			t.Errorf("record %d was acknowledged, %d are left", seq, rep.Size)
		}
	}
	t.Logf("%d acknowledged, %d refused, %d in the log", len(acked), refused, rep.Size)
}

// TestNodesShareALog lets two nodes append to one log at once.
func TestNodesShareALog(t *testing.T) {
	url := pgtest.URL(t)
	const each = 40
	var logs []*ledger.Log
	for range 2 {
		s, err := OpenPostgres(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { s.Close() })
		l, log, err := openLog(t.Context(), s)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { l.Close() })
		logs = append(logs, log)
	}
	var wg sync.WaitGroup
	seen := make([]atomic.Int32, 2*each)
	for _, log := range logs {
		for range each {
			wg.Go(func() {
				e, err := log.Append(t.Context(), record.Draft{Type: "x", Task: "shared", Blobs: []record.Blob{{Name: "b", Data: []byte("x")}},
					Change: func(tx record.Tx) error {
						var n int
						if err := tx.Get("sum", "n", &n); err != nil && !errors.Is(err, record.ErrNotFound) {
							return err
						}
						return tx.Put("sum", "n", n+1)
					}})
				if err != nil {
					t.Error(err)
					return
				}
				seen[e.Seq].Add(1)
				if _, err := logs[0].Payload(t.Context(), e.Evidence[0]); err != nil {
					t.Errorf("payload by the other node: %v", err)
				}
			})
		}
	}
	wg.Wait()
	for i := range seen {
		if n := seen[i].Load(); n != 1 {
			t.Errorf("position %d was given to %d records", i, n)
		}
	}
	var n int
	if err := logs[1].View(t.Context(), func(tx record.Tx) error { return tx.Get("sum", "n", &n) }); err != nil || n != 2*each {
		t.Errorf("got sum %d, %v; want %d", n, err, 2*each)
	}
	// Both sign; a key destroyed by one is gone for the other.
	if _, err := logs[1].CheckpointNow(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := logs[0].DestroyKey(t.Context(), "shared", "person:jo"); err != nil {
		t.Fatal(err)
	}
	if _, err := logs[1].Append(t.Context(), record.Draft{Type: "x", Task: "shared", Blobs: []record.Blob{{Name: "b"}}}); !errors.Is(err, ledger.ErrErased) {
		t.Errorf("got %v, want %v", err, ledger.ErrErased)
	}
	for i, log := range logs {
		if rep, err := log.Verify(t.Context()); err != nil || !rep.OK() || rep.Size != 2*each+1 {
			t.Errorf("node %d: got %+v, %v", i, rep, err)
		}
	}
}

func TestPostgresRefusesLazyServer(t *testing.T) {
	url := pgtest.URL(t)
	for _, setting := range []string{"synchronous_commit=off"} {
		s, err := OpenPostgres(t.Context(), url+"&"+setting)
		if !errors.Is(err, ErrNotPrimary) {
			t.Errorf("%s: got %v, %v; want %v", setting, s, err, ErrNotPrimary)
		}
	}
}

// TestPostgresRefusesStandby: what a standby says of epochs and approvals may
// be old.
func TestPostgresRefusesStandby(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a PostgreSQL server")
	}
	server, err := pgtest.StartStandby()
	if err != nil {
		t.Fatalf("this test needs Debian's postgresql-15: %v", err)
	}
	defer server.Stop()
	if s, err := OpenPostgres(t.Context(), server.URL("postgres")); !errors.Is(err, ErrNotPrimary) {
		t.Errorf("got %v, %v; want %v", s, err, ErrNotPrimary)
	}
}

func TestPostgresURLIsNotRepeated(t *testing.T) {
	_, err := OpenPostgres(t.Context(), "postgres://jo:hunter2@[::1/x")
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("got %v", err)
	}
}

// TestSchema refuses what this version does not know, on both databases.
func TestSchema(t *testing.T) {
	for name, change := range map[string]string{
		"newer":  `INSERT INTO migrations (number, name, digest) VALUES (9999, 'later', '')`,
		"edited": `UPDATE migrations SET digest = 'x' WHERE number = 1`,
	} {
		t.Run("sqlite_"+name, func(t *testing.T) {
			dir := t.TempDir()
			s, err := OpenSQLite(dir)
			if err != nil {
				t.Fatal(err)
			}
			if err := s.writer.exec(change); err != nil {
				t.Fatal(err)
			}
			s.Close()
			if s, err := OpenSQLite(dir); !errors.Is(err, ErrSchema) {
				t.Errorf("got %v, %v; want %v", s, err, ErrSchema)
			}
		})
		t.Run("postgres_"+name, func(t *testing.T) {
			url := pgtest.URL(t)
			s, err := OpenPostgres(t.Context(), url)
			if err != nil {
				t.Fatal(err)
			}
			s.Close()
			c, err := pgx.Connect(t.Context(), url)
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close(context.WithoutCancel(t.Context()))
			if _, err := c.Exec(t.Context(), change); err != nil {
				t.Fatal(err)
			}
			if s, err := OpenPostgres(t.Context(), url); !errors.Is(err, ErrSchema) {
				t.Errorf("got %v, %v; want %v", s, err, ErrSchema)
			}
		})
	}
}

// TestOneServerAFolder: a second process, or a reader, is refused while one has
// the folder; what is no store is not made one by a reader.
func TestOneServerAFolder(t *testing.T) {
	dir := t.TempDir()
	if s, err := OpenSQLiteReadOnly(dir); err == nil {
		t.Errorf("empty folder: got %v", s)
	}
	s, err := OpenSQLite(dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := OpenSQLite(dir); !errors.Is(err, ErrInUse) {
		t.Errorf("second: got %v, want %v", err, ErrInUse)
	}
	if _, err := OpenSQLiteReadOnly(dir); !errors.Is(err, ErrInUse) {
		t.Errorf("reader: got %v, want %v", err, ErrInUse)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := OpenSQLiteReadOnly(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := r.Update(t.Context(), func(ledger.WriteTx) error { return nil }); err == nil {
		t.Error("write to a read-only store: got no error")
	}
	odd := filepath.Join(t.TempDir(), "a b?mode=memory&x=#%41")
	if err := os.Mkdir(odd, 0o700); err != nil {
		t.Fatal(err)
	}
	o, err := OpenSQLite(odd)
	if err != nil {
		t.Fatal(err)
	}
	defer o.Close()
	if _, err := os.Stat(filepath.Join(odd, DatabaseName)); err != nil {
		t.Errorf("folder with an odd name: %v", err)
	}
}

// TestPragmas reads the settings that durability rests on back from SQLite.
func TestPragmas(t *testing.T) {
	s, err := OpenSQLite(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for pragma, want := range map[string]string{"journal_mode": "wal", "synchronous": "2", "secure_delete": "1", "wal_autocheckpoint": "0"} {
		err := s.writer.rows("PRAGMA "+pragma, 1, func(c []any) error {
			if got := fmt.Sprint(c[0]); got != want {
				t.Errorf("%s: got %s, want %s", pragma, got, want)
			}
			return nil
		})
		if err != nil {
			t.Error(err)
		}
	}
}

// Who reads what a stopped server left changes nothing there: neither data nor
// schema.
func TestPostgresReadOnly(t *testing.T) {
	url := pgtest.URL(t)
	if _, err := OpenPostgresReadOnly(t.Context(), url); err == nil {
		t.Fatal("a database without a schema was opened")
	}
	s, err := OpenPostgres(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	r, err := OpenPostgresReadOnly(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	called := false
	if err := r.Update(t.Context(), func(ledger.WriteTx) error { called = true; return nil }); err == nil || called {
		t.Errorf("update: got %v, called %v; want refused", err, called)
	}
}
