package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/api/client"
	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/server"
	"github.com/sallyport-dev/sallyport/internal/store"
	"github.com/sallyport-dev/sallyport/internal/task"
)

const (
	idleLimit = 80 << 20 // bytes
	early     = 100      // tasks after which memory is first looked at
	late      = 1000
	growth    = 1.05      // of memory between the two that counts as flat, or
	slack     = 256 << 10 // bytes: what is bounded, and full only after many tasks
	cached    = 34 << 20  // bytes of database after which its page cache (32 MiB) is full
	settle    = 4 * time.Second
)

// memory: what a server holds when nothing runs, and whether tasks that are over
// leave anything behind.
func (b *bench) memory(ctx context.Context) error {
	s, err := plainSample()
	if err != nil {
		return err
	}
	up, err := startServer(ctx, filepath.Join(b.dir, "server"))
	if err != nil {
		return err
	}
	defer up.stop()
	if err := up.declare(ctx, s); err != nil {
		return err
	}
	idle, err := up.resident(ctx)
	if err != nil {
		return err
	}
	anon, err := status(up.cmd.Process.Pid, "RssAnon")
	if err != nil {
		return err
	}
	b.add(row{"server at rest with the sample tenant, resident", mib(idle), mib(anon) + " of it not of files", "", "under 80 MiB", idle < idleLimit})
	b.note("**At rest.** `sallyport up` as built here, with the sample tenant applied and approved, %s after the last call; VmRSS, which counts the pages "+
		"of the program's own file too.", settle)
	if err := b.serverTasks(ctx, up, idle); err != nil {
		return err
	}
	return b.sessions(ctx)
}

func (b *bench) serverTasks(ctx context.Context, up *serverProcess, idle int64) error {
	c := up.client.As("dana")
	if err := fill(ctx, up.client.As("sven"), filepath.Join(b.dir, "server", store.DatabaseName)); err != nil {
		return err
	}
	var seen [2]int64
	for i := 1; i <= late; i++ {
		if err := oneTask(ctx, c); err != nil {
			return err
		}
		if i != early && i != late {
			continue
		}
		r, err := up.resident(ctx)
		if err != nil {
			return err
		}
		seen[i/late] = r
	}
	b.add(row{fmt.Sprintf("server at rest after %d tasks, page cache full, resident", late), mib(seen[1]), mib(idle), times(float64(seen[1]) / float64(idle)), "", false})
	b.grown(fmt.Sprintf("server after %d tasks opened and closed, resident", late), seen)
	b.note("**Tasks of a server** are opened and closed over the API of the same process: intent, grant, task engine, ledger, and every step of ending one. " +
		"They run no harness and no browser. The store's page cache, which is bounded at 32 MiB, is filled first with large secrets, since it " +
		"would read as growth.")
	return nil
}

// oneTask opens a task and closes it.
func oneTask(ctx context.Context, c *client.Client) error {
	x, err := c.OpenTask(ctx, server.Intent{Capability: capabilityName, Stage: action.Sandbox, Params: taskParams})
	if err != nil {
		return err
	}
	x, err = c.CloseTask(ctx, x.ID)
	if err == nil && x.State != task.Closed {
		err = fmt.Errorf("task %s is %s", x.ID, x.State)
	}
	return err
}

// fill stores secrets of the largest size until the database is larger than its
// page cache.
func fill(ctx context.Context, c *client.Client, db string) error {
	value := make([]byte, 64<<10)
	for i := range 4 * cached / len(value) {
		st, err := os.Stat(db)
		if err != nil || st.Size() >= cached {
			return err
		}
		if err := c.PutSecret(ctx, fmt.Sprintf("bench/fill-%d", i), value); err != nil {
			return err
		}
	}
	return errors.New("the database does not grow")
}

func (b *bench) grown(name string, seen [2]int64) {
	r := float64(seen[1]) / float64(seen[0])
	b.add(row{name, mib(seen[1]), mib(seen[0]) + fmt.Sprintf(" after %d", early), times(r), "flat within " + times(growth), r <= growth || seen[1]-seen[0] <= slack})
}

// serverProcess is the real binary.
type serverProcess struct {
	cmd    *exec.Cmd
	client *client.Client
}

// startServer builds the binary and runs it until stop.
func startServer(ctx context.Context, dir string) (*serverProcess, error) {
	bin := dir + "-binary"
	build := exec.CommandContext(ctx, "go", "build", "-o", bin, "github.com/sallyport-dev/sallyport/cmd/sallyport")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return nil, fmt.Errorf("build: %w", err)
	}
	cmd := exec.CommandContext(ctx, bin, "up", "--data", dir, "--listen", "off")
	cmd.Stderr = os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = time.Minute
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	up := &serverProcess{cmd: cmd}
	lines := bufio.NewScanner(out)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		if len(f) == 2 && f[0] == "socket" {
			up.client = client.New(f[1], "", "")
		}
		if len(f) > 0 && f[0] == "stop" {
			break
		}
	}
	if up.client == nil {
		return nil, errors.Join(errors.New("the server named no socket"), lines.Err(), cmd.Wait())
	}
	go func() {
		for lines.Scan() { // keep reading, so that the server never waits for us
		}
	}()
	return up, nil
}

// stop interrupts the server and waits for it.
func (u *serverProcess) stop() {
	if err := u.cmd.Process.Signal(os.Interrupt); err == nil {
		u.cmd.Wait()
	}
}

// declare applies the sample tenant and has its approver sign what waits.
func (u *serverProcess) declare(ctx context.Context, s *sample) error {
	if _, err := u.client.As("noor").Apply(ctx, s.resources); err != nil {
		return err
	}
	ines := u.client.As("ines")
	list, err := ines.Approvals(ctx, approval.Pending)
	if err != nil {
		return err
	}
	for _, a := range list {
		full, err := ines.Approval(ctx, a.ID())
		if err != nil {
			return err
		}
		if _, err := ines.Approve(ctx, full, s.keys["ines"]); err != nil {
			return err
		}
	}
	return nil
}

// resident is the memory of the process once it is at rest.
func (u *serverProcess) resident(ctx context.Context) (int64, error) {
	select {
	case <-time.After(settle):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	return status(u.cmd.Process.Pid, "VmRSS")
}
