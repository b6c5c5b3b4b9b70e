// Package crash kills the real server with SIGKILL, again and again, at moments
// that nobody chose, and holds what it finds after the restart against design
// section 11: a crash loses no acknowledged record and leaves no credential
// alive unseen.
//
// The estate and the scripted model live in the test process, so they survive
// as the real ones would. SIGKILL does not lose the page cache: lost writes are
// the subject of internal/store's power-loss tests.
package crash

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/api/client"
	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/task"
	"github.com/sallyport-dev/sallyport/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m, nil) }

// world is the estate with its model, and the binary under test.
type world struct {
	*testing.T
	*rig.Rig
	binary string
	c      *client.Client

	server   *exec.Cmd
	database []int // processes of what is upstream, and of the store, if it has any
	edit     func(files map[string][]byte)
	out      *rig.Output

	mu   sync.Mutex
	seen map[int64]string // records that a client was given, by position
}

// rounds is how often the server is killed: SALLYPORT_CRASH_ROUNDS, or 8.
func rounds(t *testing.T) int {
	t.Helper()
	if v := os.Getenv("SALLYPORT_CRASH_ROUNDS"); v != "" {
		n, err := strconv.Atoi(v)
		if err != nil || n < 1 {
			t.Fatalf("SALLYPORT_CRASH_ROUNDS=%q: want a number", v)
		}
		return n
	}
	return 8
}

func newWorld(t *testing.T) *world { return newWorldWith(t, rig.Options{}) }

func newWorldWith(t *testing.T, o rig.Options) *world {
	t.Helper()
	if testing.Short() {
		t.Skip("builds and kills servers")
	}
	// Whatever the killed server leaves behind becomes our child, so that
	// nothing can hide.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	o.NoServer = true
	w := &world{T: t, edit: o.Edit, Rig: rig.New(t, o), seen: map[int64]string{}}
	w.database = children(t)
	dir := t.TempDir()
	// Harnesses run as another user, who must be able to execute it.
	for d := dir; d != filepath.Dir(os.TempDir()) && d != "/"; d = filepath.Dir(d) {
		if d == os.TempDir() {
			break
		}
		if err := os.Chmod(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	w.binary = filepath.Join(dir, "sallyport")
	build := exec.Command("go", "build", "-o", w.binary, "github.com/sallyport-dev/sallyport/cmd/sallyport")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if b, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v\n%s", err, b)
	}
	w.c = client.New(filepath.Join(w.Dir, api.SocketName), "", "")
	t.Cleanup(func() {
		if w.server != nil {
			w.kill()
		}
	})
	return w
}

// up starts the server without waiting for it.
func (w *world) up() {
	w.Helper()
	w.out = new(rig.Output)
	w.server = exec.Command(w.binary, "up", "--data", w.Dir, "--listen", "off", "--store", w.Store)
	w.server.Stdout, w.server.Stderr = w.out, w.out
	if err := w.server.Start(); err != nil {
		w.Fatal(err)
	}
}

// ready waits until the server answers, which it does when it has recovered.
func (w *world) ready() {
	w.Helper()
	rig.Await(w, "the server", func() bool {
		if _, err := os.Stat(fmt.Sprintf("/proc/%d", w.server.Process.Pid)); err != nil {
			return false
		}
		_, err := w.c.As("ada").Tasks(w.Context())
		var no *client.Refusal
		return err == nil || errors.As(err, &no)
	})
}

// kill ends the server as a crash would, and returns when nothing of it is left.
func (w *world) kill() {
	w.Helper()
	if err := w.server.Process.Kill(); err != nil {
		w.Fatal(err)
	}
	w.server.Wait() // says that it was killed
	w.server = nil
	deadline := time.Now().Add(20 * time.Second)
	for {
		left := w.orphans()
		if len(left) == 0 {
			return
		}
		if time.Now().After(deadline) {
			w.Fatalf("processes of the killed server live on: %q", left)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// orphans reaps the dead among our children and names the living, but for
// databases and directories, which the killed server did not start.
func (w *world) orphans() (alive []string) {
	w.Helper()
	for _, pid := range children(w.T) {
		if slices.Contains(w.database, pid) {
			continue
		}
		if got, err := unix.Wait4(pid, nil, unix.WNOHANG, nil); err == nil && got == 0 {
			cmd, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
			alive = append(alive, fmt.Sprintf("%d %.200q", pid, cmd))
		}
	}
	return alive
}

func children(t *testing.T) (pids []int) {
	t.Helper()
	tasks, err := filepath.Glob("/proc/self/task/*/children")
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range tasks {
		b, err := os.ReadFile(f)
		if err != nil {
			continue // the thread ended
		}
		for _, s := range strings.Fields(string(b)) {
			pid, err := strconv.Atoi(s)
			if err != nil {
				t.Fatal(err)
			}
			pids = append(pids, pid)
		}
	}
	return pids
}

// remember reads all records until ctx ends and keeps those that it was given.
func (w *world) remember(ctx context.Context) {
	next := int64(0)
	for ctx.Err() == nil {
		page, err := w.c.As("lin").Records(ctx, api.Filter{From: next, Limit: 1000}, "")
		if err != nil {
			time.Sleep(5 * time.Millisecond)
			continue
		}
		w.mu.Lock()
		for _, r := range page.Records {
			var x struct {
				Seq int64 `json:"seq"`
			}
			if json.Unmarshal(r, &x) == nil {
				w.seen[x.Seq] = string(r)
				next = x.Seq + 1
			}
		}
		w.mu.Unlock()
	}
}

// approve signs whatever waits, as a scripted approver, until ctx ends.
func (w *world) approve(ctx context.Context) {
	c := w.c.As("ines")
	key, err := w.Key("ines")
	if err != nil {
		w.Error(err)
		return
	}
	for ctx.Err() == nil {
		list, err := c.Approvals(ctx, approval.Pending)
		for _, a := range list {
			if full, gerr := c.Approval(ctx, a.ID()); gerr == nil {
				c.Approve(ctx, full, key) // refused or cut off: the next look tries again
			}
		}
		if err != nil || len(list) == 0 {
			time.Sleep(20 * time.Millisecond)
		}
	}
}

// declare applies the sample tenant and its secrets, and waits for approvals.
func (w *world) declare() {
	w.Helper()
	all, err := w.Resources(w.edit)
	if err != nil {
		w.Fatal(err)
	}
	if _, err := w.c.As("noor").Apply(w.Context(), all); err != nil {
		w.Fatal(err)
	}
	for name, value := range w.Secrets() {
		if err := w.c.As("sven").PutSecret(w.Context(), name, []byte(value)); err != nil {
			w.Fatal(err)
		}
	}
	rig.Await(w, "the approvals", func() bool {
		l, err := w.c.As("ines").Approvals(w.Context(), approval.Pending)
		return err == nil && len(l) == 0
	})
}

// start opens a task and launches a harness for it. done gives the end, or the
// error of a server that went away.
func (w *world) start(ctx context.Context, user string, args ...string) (id string, done <-chan client.Ended, err error) {
	x, err := w.c.As("dana").OpenTask(ctx, rig.Intent(action.Sandbox, user, "4711"))
	if err != nil {
		return "", nil, err
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return x.ID, nil, err
	}
	ended := make(chan client.Ended, 1)
	go func() {
		defer null.Close()
		end, err := w.c.Run(ctx, api.LaunchRequest{Task: x.ID, Path: w.binary, Args: args}, client.Streams{In: null, Out: null, Err: null}, nil)
		if err != nil {
			end.Exit = -2
			end.Task.Why = err.Error()
		}
		ended <- end
	}()
	return x.ID, ended, nil
}

// finish runs a task to its end.
func (w *world) finish(user string, args ...string) {
	w.Helper()
	_, done, err := w.start(w.Context(), user, args...)
	if err != nil {
		w.Fatal(err)
	}
	if end := <-done; end.Exit != 0 || end.Task.State != task.Closed {
		w.Errorf("a new task after the restart: exit %d, %s: %s\n%s", end.Exit, end.Task.State, end.Task.Why, w.out.String())
	}
}

// check is what must hold after a restart. opened are the tasks whose opening
// was acknowledged.
func (w *world) check(opened []string) {
	w.Helper()
	ctx := w.Context()
	v, err := w.c.As("lin").VerifyLedger(ctx)
	if err != nil || !v.OK {
		w.Errorf("ledger: %+v, %v", v, err)
	}
	now := map[int64]string{}
	var decided []gate.Decided
	for next, size := int64(0), int64(1); next < size; {
		page, err := w.c.As("lin").Records(ctx, api.Filter{From: next, Limit: 1000}, "")
		if err != nil {
			w.Fatal(err)
		}
		size = page.Size
		for _, r := range page.Records {
			now[next] = string(r)
			next++
			var x struct {
				Type string       `json:"type"`
				Body gate.Decided `json:"body"`
			}
			if json.Unmarshal(r, &x) == nil && x.Type == "action.decided" {
				decided = append(decided, x.Body)
			}
		}
	}
	if lost := rig.Unrecorded(w.State(action.Sandbox), decided); len(lost) > 0 {
		w.Errorf("effects without a record: %q", lost)
	}
	w.mu.Lock()
	for seq, r := range w.seen {
		if now[seq] != r {
			w.Errorf("record %d was acknowledged as\n%s\nand is now\n%s", seq, r, now[seq])
		}
	}
	w.mu.Unlock()
	tasks, err := w.c.As("dana").Tasks(ctx)
	if err != nil {
		w.Fatal(err)
	}
	have := map[string]bool{}
	for _, x := range tasks {
		have[x.ID] = true
		if x.State == task.Active {
			w.Errorf("task %s is active, and nothing runs", x.ID)
		}
	}
	for _, id := range opened {
		if !have[id] {
			w.Errorf("task %s was acknowledged and is lost", id)
		}
	}
	// What could not be ended during the start is tried again by itself.
	rig.Await(w, "the end of every task and credential", func() bool {
		tasks, err1 := w.c.As("dana").Tasks(ctx)
		leases, err2 := w.c.As("sven").Leases(ctx)
		if err := errors.Join(err1, err2); err != nil {
			w.Fatal(err)
		}
		for _, x := range tasks {
			if x.State == task.Closing {
				return false
			}
		}
		for _, l := range leases {
			if l.State != "revoked" && !l.Lasts.After(time.Now()) { // as a sign-in whose answer was lost
				return false
			}
		}
		return true
	})
	w.NoSessions(w, action.Sandbox)
}

// watch starts what goes on over all restarts: a scripted approver and a reader
// of records.
func (w *world) watch() context.Context {
	ctx, cancel := context.WithCancel(context.Background())
	var watchers sync.WaitGroup
	watchers.Go(func() { w.approve(ctx) })
	watchers.Go(func() { w.remember(ctx) })
	w.Cleanup(watchers.Wait)
	w.Cleanup(cancel)
	return ctx
}

// fill makes the disk full for the running server, and for it alone: from some
// bytes after the end of the largest file of its store a write fails with EFBIG.
func (w *world) fill(more int64) {
	w.Helper()
	var size int64
	err := filepath.WalkDir(w.Dir, func(_ string, d os.DirEntry, err error) error {
		if err != nil || !strings.HasPrefix(d.Name(), "ledger.") {
			return nil
		}
		if fi, err := d.Info(); err == nil { // else gone meanwhile
			size = max(size, fi.Size())
		}
		return nil
	})
	if err != nil {
		w.Fatal(err)
	}
	limit := unix.Rlimit{Cur: uint64(size + more), Max: uint64(size + more)}
	if err := unix.Prlimit(w.server.Process.Pid, unix.RLIMIT_FSIZE, &limit, nil); err != nil {
		w.Fatal(err)
	}
}

// TestFullDisk: from some byte on the store takes no more writes, in the middle
// of a task. Nothing may pass from there on; what had an effect is on record;
// with room again everything is ended and goes on.
//
// Threats: T55 (ledger)
func TestFullDisk(t *testing.T) {
	w := newWorld(t)
	w.Store = "" // a database's disk is the database's
	ctx := w.watch()
	w.up()
	w.ready()
	w.declare()
	var opened []string
	for i := range 2 {
		id, done, err := w.start(ctx, "jo", "sample-agent")
		if err != nil {
			t.Fatal(err)
		}
		opened = append(opened, id)
		rig.Await(t, "the agent to look", func() bool {
			p, err := w.c.As("lin").Records(ctx, api.Filter{Task: id, Limit: 1000}, "action.decided")
			return err == nil && len(p.Records) > 3
		})
		w.fill(int64(i) * 150 << 10)
		end := <-done
		if end.Exit == 0 && end.Task.State == task.Closed {
			t.Errorf("round %d: the task was done on a full disk", i)
		}
		if x, err := w.c.As("dana").OpenTask(ctx, rig.Intent(action.Sandbox, "jo", "4711")); err == nil {
			t.Errorf("round %d: task %s was opened on a full disk", i, x.ID)
		}
		t.Logf("round %d: exit %d, %s: %s", i, end.Exit, end.Task.State, end.Task.Why)
		w.kill()
		w.up()
		w.ready()
		w.check(opened)
		w.finish("kate", "sample-agent", "processes")
		if t.Failed() {
			t.Fatalf("server:\n%s", w.out.String())
		}
	}
}

// Threats: T58 (containment)
func TestKill(t *testing.T) {
	w := newWorld(t)
	seed := uint64(time.Now().UnixNano())
	if v := os.Getenv("SALLYPORT_CRASH_SEED"); v != "" {
		var err error
		if seed, err = strconv.ParseUint(v, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("seed %d", seed)
	random := rand.New(rand.NewPCG(seed, 1))
	ctx := w.watch()
	w.up()
	w.ready()
	w.declare()
	var opened []string
	users := []string{"jo", "sam", "priya", "marek", "ana"}
	for i := range rounds(t) {
		rctx, stop := context.WithCancel(ctx)
		id, done, err := w.start(rctx, users[i%len(users)], "sample-agent")
		if err != nil {
			t.Fatal(err)
		}
		opened = append(opened, id)
		// A run takes some seconds; the first of them have the most steps.
		wait := time.Duration(random.Int64N(int64(4500 * time.Millisecond)))
		select {
		case <-done:
		case <-time.After(wait):
		}
		w.kill()
		stop()
		// Now and then it is killed again while it recovers.
		for random.IntN(3) == 0 {
			w.up()
			time.Sleep(time.Duration(random.Int64N(int64(400 * time.Millisecond))))
			w.kill()
		}
		w.up()
		w.ready()
		w.check(opened)
		w.finish("kate", "sample-agent", "processes")
		w.mu.Lock()
		n := len(w.seen)
		w.mu.Unlock()
		t.Logf("round %d: killed %s into the run of %s; %d records seen", i+1, wait.Round(time.Millisecond), id, n)
		if t.Failed() {
			t.Fatalf("server:\n%s", w.out.String())
		}
	}
	// After all of that the boundary still works.
	w.Estate.Copy("sandbox").Reset()
	before := w.State(action.Sandbox)
	w.finish("jo", "sample-agent")
	w.check(opened)
	if got, want := rig.Changes(before, w.State(action.Sandbox)), []string{"tickets/4711", "users/jo"}; !slices.Equal(got, want) {
		t.Errorf("changed: got %q, want %q", got, want)
	}
}
