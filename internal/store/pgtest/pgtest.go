// Package pgtest runs a real PostgreSQL server for tests, in a folder of its
// own, on a Unix socket only.
package pgtest

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
)

// binary finds a program of the server: where distributions keep it, the newest
// version first, and then in PATH.
func binary(name string) string {
	for _, pattern := range []string{"/usr/lib/postgresql/*/bin/", "/usr/pgsql-*/bin/", "/usr/libexec/postgresql*/"} {
		if found, err := filepath.Glob(pattern + name); err == nil && len(found) > 0 {
			slices.SortFunc(found, func(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) })
			return found[len(found)-1]
		}
	}
	if path, err := exec.LookPath(name); err == nil {
		return path
	}
	return name
}

// Server is a running server.
type Server struct {
	Dir  string // data folder and socket
	cmd  *exec.Cmd
	attr *syscall.SysProcAttr
	done chan struct{} // closed when cmd has ended

	guard *exec.Cmd      // see watch
	held  io.WriteCloser // its standard input
	o     Options
}

var (
	once   sync.Once
	shared *Server
	failed error
	count  int
	mu     sync.Mutex
)

// URL returns the URL of a new, empty database. The server is started once for
// the test binary.
func URL(t testing.TB) string {
	t.Helper()
	if testing.Short() {
		t.Skip("starts a PostgreSQL server")
	}
	url, err := database(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return url
}

// StoreEnv chooses the store of tests that run a whole server: "postgres", or
// nothing for the embedded one.
const StoreEnv = "SALLYPORT_TEST_STORE"

// Chosen is the URL of a new, empty database if StoreEnv asks for one, and ""
// otherwise.
func Chosen(ctx context.Context) (string, error) {
	switch v := os.Getenv(StoreEnv); v {
	case "":
		return "", nil
	case "postgres":
		return database(ctx)
	default:
		return "", fmt.Errorf("%s is %q: want postgres, or nothing for the embedded store", StoreEnv, v)
	}
}

func database(ctx context.Context) (string, error) {
	once.Do(func() { shared, failed = Start() })
	if failed != nil {
		return "", fmt.Errorf("this test needs a PostgreSQL server, such as Debian's postgresql-15: %w", failed)
	}
	return create(ctx, "template1")
}

// Copy makes a database like the one at url, which nobody may be connected to.
func Copy(ctx context.Context, url string) (string, error) {
	c, err := pgx.ParseConfig(url)
	if err != nil {
		return "", err
	}
	return create(ctx, c.Database)
}

func create(ctx context.Context, template string) (string, error) {
	mu.Lock()
	count++
	name := fmt.Sprintf("t%d", count)
	mu.Unlock()
	c, err := pgx.Connect(ctx, shared.URL("postgres"))
	if err != nil {
		return "", err
	}
	defer c.Close(context.WithoutCancel(ctx))
	_, err = c.Exec(ctx, "CREATE DATABASE "+name+" TEMPLATE "+template)
	return shared.URL(name), err
}

// Stop ends the shared server, if it was started. It is over in any case when the
// test binary is.
func Stop() {
	if shared != nil {
		shared.Stop()
	}
}

// URL of a database of the server.
func (s *Server) URL(database string) string {
	port := ""
	if s.o.Port != 0 {
		port = fmt.Sprintf("&port=%d", s.o.Port)
	}
	return "postgres:///" + database + "?user=sallyport&host=" + s.Dir + port
}

// Start makes a cluster and starts a server on it, as an unprivileged user
// when run by root, since PostgreSQL refuses root.
func Start() (*Server, error) { return start(Options{}) }

// Options of a server that differs.
type Options struct {
	Prepare func(data string) error // changes the data folder before the start
	Args    []string                // of the server
	Port    int                     // on 127.0.0.1 as well, and of the socket; 0 is the socket alone
}

// StartWith starts a server that differs. What Prepare writes is the server's.
func StartWith(o Options) (*Server, error) { return start(o) }

// StartStandby starts a server that believes it is a standby.
func StartStandby() (*Server, error) {
	return start(Options{Prepare: func(data string) error {
		return os.WriteFile(filepath.Join(data, "standby.signal"), nil, 0o644)
	}})
}

func start(o Options) (_ *Server, err error) {
	dir, err := os.MkdirTemp("", "pg")
	if err != nil {
		return nil, err
	}
	s := &Server{Dir: dir, o: o}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Stop())
		}
	}()
	attr := &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if os.Getuid() == 0 {
		u, err := user.Lookup("postgres")
		if err != nil {
			return nil, err
		}
		uid, _ := strconv.Atoi(u.Uid)
		gid, _ := strconv.Atoi(u.Gid)
		if err := os.Chown(dir, uid, gid); err != nil {
			return nil, err
		}
		attr.Credential = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	data := filepath.Join(dir, "data")
	initdb := exec.Command(binary("initdb"), "-D", data, "-U", "sallyport", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "--no-sync")
	initdb.Dir, initdb.SysProcAttr = dir, attr
	if out, err := initdb.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("initdb: %w: %s", err, out)
	}
	if o.Prepare != nil {
		if err := o.Prepare(data); err != nil {
			return nil, err
		}
		if attr.Credential != nil {
			err := filepath.WalkDir(data, func(path string, _ fs.DirEntry, err error) error {
				return errors.Join(err, os.Lchown(path, int(attr.Credential.Uid), int(attr.Credential.Gid)))
			})
			if err != nil {
				return nil, err
			}
		}
	}
	// Without Pdeathsig: it is tied to the thread, which Go may end.
	s.attr = &syscall.SysProcAttr{Credential: attr.Credential}
	if err := s.watch(); err != nil {
		return nil, err
	}
	return s, s.run()
}

// watch starts a process that outlives this one by a moment: when its standard
// input ends it stops the server, if there still is one, and removes the folder.
func (s *Server) watch() (err error) {
	s.guard = exec.Command("/bin/sh", "-c", `read -r _
if pid=$(head -n 1 "$0/data/postmaster.pid" 2>/dev/null); then kill -QUIT "$pid" 2>/dev/null; fi
rm -rf "$0"`, s.Dir)
	s.guard.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // a Ctrl-C is for the tests
	if s.held, err = s.guard.StdinPipe(); err != nil {
		return err
	}
	return s.guard.Start()
}

func (s *Server) run() error {
	args := []string{"-D", filepath.Join(s.Dir, "data"), "-k", s.Dir, "-c", "listen_addresses=", "-c", "log_min_messages=fatal"}
	if s.o.Port != 0 {
		args = append(args, "-c", "listen_addresses=127.0.0.1", "-c", fmt.Sprintf("port=%d", s.o.Port))
	}
	s.cmd = exec.Command(binary("postgres"), append(args, s.o.Args...)...)
	s.cmd.Dir, s.cmd.SysProcAttr = s.Dir, s.attr
	if err := s.cmd.Start(); err != nil {
		s.cmd = nil
		return err
	}
	cmd, done := s.cmd, make(chan struct{})
	s.done = done
	go func() { defer close(done); cmd.Wait() }()
	return s.wait()
}

// Crash kills the server as a crash would, and starts it again.
func (s *Server) Crash() error {
	if err := s.cmd.Process.Kill(); err != nil {
		return err
	}
	<-s.done
	// The server refuses to start while a child of the dead one lives, which
	// is a moment: try until then.
	var err error
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); {
		if err = s.run(); err == nil {
			return nil
		}
		s.cmd.Process.Kill() // fails if it has ended
		<-s.done
	}
	return err
}

func (s *Server) wait() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	for {
		c, err := pgx.Connect(ctx, s.URL("postgres"))
		if err == nil {
			return c.Close(ctx)
		}
		select {
		case <-ctx.Done():
			return err
		case <-s.done:
			return fmt.Errorf("the server ended: %w", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Stop ends the server and removes its folder.
func (s *Server) Stop() error {
	if s.cmd != nil {
		s.cmd.Process.Signal(syscall.SIGINT) // fast shutdown
		<-s.done
		s.cmd = nil
	}
	if s.guard == nil {
		return os.RemoveAll(s.Dir)
	}
	return errors.Join(s.held.Close(), s.guard.Wait())
}
