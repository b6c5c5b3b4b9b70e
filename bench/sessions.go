package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/store"
	"github.com/sallyport-dev/sallyport/internal/surface/computer"
	"github.com/sallyport-dev/sallyport/internal/task"
)

// sessionsCommand runs sessions in a process of their own, whose memory is
// theirs alone: bench sessions FOLDER.
const sessionsCommand = "sessions"

// held is what the process holds after so many sessions.
type held struct {
	Heap       uint64 // bytes, after a collection
	Resident   int64  // bytes
	Goroutines int
}

// sessions measures what sessions leave behind that are whole but for the two
// contained processes.
func (b *bench) sessions(ctx context.Context) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, self, sessionsCommand, filepath.Join(b.dir, "sessions"))
	cmd.Stderr = os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return fmt.Errorf("sessions: %w", err)
	}
	var seen [2]held
	if err := json.Unmarshal(out, &seen); err != nil {
		return fmt.Errorf("sessions: %w", err)
	}
	b.grown(fmt.Sprintf("%d sessions through gate and doors, heap", late), [2]int64{int64(seen[0].Heap), int64(seen[1].Heap)})
	b.grown(fmt.Sprintf("%d sessions through gate and doors, resident", late), [2]int64{seen[0].Resident, seen[1].Resident})
	b.note("**Sessions** run in a process of their own. Each opens and starts a task, compiles its grant, is admitted to the gate, opens an egress door with keys "+
		"of its own and a computer door, sends one decided request through each, and is ended and forgotten. What a session has beyond that is not in "+
		"it: the contained browser and harness, leases, and identity. Up to 256 KiB more counts as flat in a heap of so little: the store remembers which tasks it "+
		"has indexed, at most 1024 of them, which after %d sessions is a tenth full. Goroutines were %d after %d sessions and %d after %d.",
		early, seen[0].Goroutines, early, seen[1].Goroutines, late)
	return nil
}

// sessions is the child process.
func sessions(dir string) (err error) {
	ctx := context.Background()
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	r, err := newRig(ctx, filepath.Join(dir, "rig"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Close()) }()
	engine := newEngine(r)
	if err := r.fill(ctx, filepath.Join(dir, "rig", store.DatabaseName)); err != nil {
		return err
	}
	var seen []held
	for i := 1; i <= late; i++ {
		if err := r.session(ctx, engine); err != nil {
			return fmt.Errorf("session %d: %w", i, err)
		}
		if i == early || i == late {
			h, err := hold()
			if err != nil {
				return err
			}
			seen = append(seen, h)
		}
	}
	return json.NewEncoder(os.Stdout).Encode(seen)
}

// newEngine keeps the tasks of the rig. The gate is the one thing that ends with
// them.
func newEngine(r *rig) *task.Engine {
	n := 0
	ids := func() string { n++; return fmt.Sprintf("t-%020d", n) }
	return task.New(r.disk.log, ids, task.Ender{Name: "gate", End: func(ctx context.Context, t task.Task) error {
		return r.gate.End(ctx, func(a gate.Admission) bool { return a.Task == t.ID }, "closed", "the task is over")
	}})
}

// fill lets callers pass the gate until the database is larger than its page
// cache, which would read as growth.
func (r *rig) fill(ctx context.Context, db string) error {
	a, err := r.sample.read(r.origin.url(""))
	if err != nil {
		return err
	}
	for {
		st, err := os.Stat(db)
		if err != nil || st.Size() >= cached {
			return err
		}
		var c crowd
		if err := c.round(callers, time.Second, func(int) (time.Duration, error) { _, all, err := act(ctx, r.gate, a); return all, err }); err != nil {
			return err
		}
	}
}

func hold() (h held, err error) {
	debug.FreeOSMemory() // collects, and gives back what is free
	time.Sleep(time.Second)
	debug.FreeOSMemory()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	h.Heap, h.Goroutines = m.HeapAlloc, runtime.NumGoroutine()
	h.Resident, err = status(os.Getpid(), "VmRSS")
	return h, err
}

// session is the life of one task.
func (r *rig) session(ctx context.Context, engine *task.Engine) error {
	t, err := engine.Open(ctx, task.Task{Agent: agentName, Capability: capabilityName, Params: taskParams, Stage: action.Production, Tier: "privileged",
		Requester: "dana", Seconds: 900}, nil)
	if err != nil {
		return err
	}
	if t, err = engine.Start(ctx, t.ID); err != nil {
		return err
	}
	guardrails, err := r.sample.guardrails(0, nil)
	if err != nil {
		return err
	}
	if err := r.sample.admit(r.gate, r.disk, guardrails, t.ID); err != nil {
		return err
	}
	err = errors.Join(r.oneRequest(ctx, t.ID), r.oneAction(ctx, t.ID))
	t, cerr := engine.Close(ctx, t.ID, task.Closed, "done", "the agent finished", "agent:"+agentName)
	r.gate.Forget(tenantName, t.ID)
	if cerr == nil && t.State != task.Closed {
		cerr = fmt.Errorf("task %s is %s", t.ID, t.State)
	}
	return errors.Join(err, cerr)
}

// oneRequest goes through an egress door of the task's own.
func (r *rig) oneRequest(ctx context.Context, id string) (err error) {
	journal := computer.NewJournal(nil)
	door, err := r.newDoor(id, journal)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, door.Close()) }()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go door.Serve(l)
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(door.CAPEM())
	t := &http.Transport{Proxy: http.ProxyURL(&url.URL{Scheme: "http", Host: l.Addr().String()}), TLSClientConfig: &tls.Config{RootCAs: roots},
		DisableCompression: true, ForceAttemptHTTP2: true}
	defer t.CloseIdleConnections()
	return getKiB(ctx, &http.Client{Transport: t, Timeout: 20 * time.Second}, r.origin.url(kibPath))
}

// oneAction asks the computer door where the pointer is: the one action that
// needs the gate and no browser.
func (r *rig) oneAction(ctx context.Context, id string) error {
	door, err := computer.New(computer.Config{Tenant: tenantName, Task: id, Agent: agentName, Gate: r.gate, Screen: screen{}, Journal: computer.NewJournal(nil),
		Width: 1280, Height: 800, AppOf: func(string) string { return "" }})
	if err != nil {
		return err
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	go door.Serve(l)
	defer door.Close()
	return post(ctx, "http://"+l.Addr().String()+"/v1/actions", `{"actions":[{"type":"cursor_position"}]}`)
}
