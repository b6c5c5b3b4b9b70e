package contain

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// Finding is the result of one attempt to get around the containment.
type Finding struct {
	Name    string // profile/attempt, e.g. "harness/tcp-host-loopback"
	Stopped bool
	How     string // what stopped it, or what it reached
}

// ErrBypass says that an attempt succeeded. The caller must not serve.
var ErrBypass = errors.New("containment can be bypassed")

// SelfTest runs every known attempt from inside a contained copy of this
// program, once as a harness and once as a browser (user namespaces allowed).
// The targets are real: listeners, files and a process that the parent has
// reached itself just before, so "stopped" does not mean "was not there". An
// attempt that did not report counts as not stopped.
func SelfTest(ctx context.Context) ([]Finding, error) {
	var all []Finding
	for _, profile := range []string{"harness", "browser"} {
		fs, err := selfTest(ctx, profile)
		all = append(all, fs...)
		if err != nil {
			return all, fmt.Errorf("self-test as %s: %w", profile, err)
		}
	}
	var open []string
	for _, f := range all {
		if !f.Stopped {
			open = append(open, f.Name)
		}
	}
	if open != nil {
		return all, fmt.Errorf("%w: %s", ErrBypass, strings.Join(open, ", "))
	}
	return all, nil
}

func selfTest(ctx context.Context, profile string) ([]Finding, error) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	b, err := layBait()
	if err != nil {
		return nil, fmt.Errorf("prepare targets: %w", err)
	}
	defer b.close()
	b.Profile = profile
	order, err := json.Marshal(b.bait)
	if err != nil {
		return nil, err
	}
	exe, err := openSelf()
	if err != nil {
		return nil, err
	}
	var out, log bytes.Buffer
	p, err := Start(ctx, Spec{
		Path: "/proc/self/fd/3", argv0: stageProbe, Files: []*os.File{exe}, Mounts: SystemMounts(),
		Stdin: bytes.NewReader(order), Stdout: &out, Stderr: &log,
		Listen: []string{doorAddr}, NestedUserNS: profile == "browser",
	})
	exe.Close()
	if err != nil {
		return nil, err
	}
	defer p.Kill()
	go answer(p.Listeners()[0])
	defer p.Listeners()[0].Close()
	if err := p.Wait(); err != nil {
		return nil, fmt.Errorf("probe: %w: %s", err, bytes.TrimSpace(log.Bytes()))
	}
	return b.judge(out.Bytes())
}

// openSelf opens this program for execution by the contained user.
func openSelf() (*os.File, error) {
	path, err := selfExe()
	if err != nil {
		return nil, err
	}
	return os.Open(path)
}

func answer(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		c.Write([]byte(doorWord))
		c.Close()
	}
}

// bait is what a probe is told about the host.
type bait struct {
	Profile            string
	TCP4, TCP6         string
	Abstract           string // name of an abstract Unix socket
	Socket             string // path of a Unix socket with mode 0666
	UDP                string
	Folder, File, Home string // File has Canary in it
	Canary             string
	Parent             int    // process id on the host
	Likeness           string // of the parent, which tells it from a namesake
	ShmKey             int
}

// trap is the bait laid out, with a bell on each: what is touched is known
// here, whatever the probe says.
type trap struct {
	bait
	touched atomic.Pointer[string]
	closers []func()
}

func (t *trap) close() {
	for _, f := range t.closers {
		f()
	}
}

func (t *trap) judge(out []byte) ([]Finding, error) {
	got := map[string]Finding{}
	for line := range bytes.Lines(out) {
		var f Finding
		if err := json.Unmarshal(line, &f); err != nil {
			return nil, fmt.Errorf("probe wrote %q", line)
		}
		got[f.Name] = f
	}
	var fs []Finding
	for _, a := range attempts {
		f, ok := got[a.name]
		if !ok {
			f = Finding{How: "the attempt did not report"}
		}
		f.Name = t.Profile + "/" + a.name
		fs = append(fs, f)
	}
	bell := Finding{Name: t.Profile + "/bells", Stopped: true, How: "nothing arrived at any target of the host"}
	if what := t.touched.Load(); what != nil {
		bell = Finding{Name: bell.Name, How: "arrived on the host: " + *what}
	}
	return append(fs, bell), nil
}

func layBait() (*trap, error) {
	dir, err := os.MkdirTemp("", "sallyport-selftest-")
	if err != nil {
		return nil, err
	}
	t := &trap{closers: []func(){func() { os.RemoveAll(dir) }}}
	t.Canary = "canary-" + filepath.Base(dir)
	t.Folder, t.File = dir, filepath.Join(dir, "canary")
	t.Home, _ = os.UserHomeDir()
	t.Parent = os.Getpid()
	t.Likeness, err = likeness("self")
	if err := errors.Join(err, os.Chmod(dir, 0o755), os.WriteFile(t.File, []byte(t.Canary), 0o644)); err != nil {
		t.close()
		return nil, err
	}
	if err := errors.Join(t.listen(), t.shm(), t.leak()); err != nil {
		t.close()
		return nil, err
	}
	return t, nil
}

// listen opens the targets and reaches each once.
func (t *trap) listen() error {
	t.Abstract = "@sallyport-selftest-" + filepath.Base(t.Folder)
	t.Socket = filepath.Join(t.Folder, "socket")
	for _, l := range []struct {
		network, addr string
		to            *string
	}{
		{"tcp4", "127.0.0.1:0", &t.TCP4}, {"tcp6", "[::1]:0", &t.TCP6},
		{"unix", t.Abstract, &t.Abstract}, {"unix", t.Socket, &t.Socket},
	} {
		ln, err := net.Listen(l.network, l.addr)
		if err != nil && l.network == "tcp6" {
			continue // a host without IPv6 has nothing to reach there
		}
		if err != nil {
			return err
		}
		t.closers = append(t.closers, func() { ln.Close() })
		*l.to = ln.Addr().String()
		if c, err := net.Dial(l.network, *l.to); err != nil {
			return fmt.Errorf("target not reachable from the host: %w", err)
		} else if _, err = ln.Accept(); err != nil {
			return err
		} else {
			c.Close()
		}
		go func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				t.ring(l.network + " " + *l.to)
				c.Close()
			}
		}()
	}
	if err := os.Chmod(t.Socket, 0o666); err != nil {
		return err
	}
	u, err := net.ListenPacket("udp4", "127.0.0.1:0")
	if err != nil {
		return err
	}
	t.closers = append(t.closers, func() { u.Close() })
	t.UDP = u.LocalAddr().String()
	go func() {
		for {
			if _, _, err := u.ReadFrom(make([]byte, 64)); err != nil {
				return
			}
			t.ring("udp " + t.UDP)
		}
	}()
	return nil
}

func (t *trap) ring(what string) { t.touched.CompareAndSwap(nil, &what) }

// shm makes a System V segment that everybody on the host may attach.
func (t *trap) shm() error {
	for range 16 {
		key := os.Getpid()<<8 | int(time.Now().UnixNano()&0xff)
		id, err := unix.SysvShmGet(key, 4096, unix.IPC_CREAT|unix.IPC_EXCL|0o666)
		if err == unix.EEXIST {
			continue
		}
		if err != nil {
			return os.NewSyscallError("shmget", err)
		}
		t.ShmKey = key
		t.closers = append(t.closers, func() { unix.SysvShmCtl(id, unix.IPC_RMID, nil) })
		return nil
	}
	return errors.New("no free shared memory key")
}

// leak keeps the canary open without close-on-exec, as a careless parent of
// the server would. It must not arrive inside.
func (t *trap) leak() error {
	f, err := os.Open(t.File)
	if err != nil {
		return err
	}
	defer f.Close()
	fd, err := unix.FcntlInt(f.Fd(), unix.F_DUPFD, 100)
	if err != nil {
		return os.NewSyscallError("dup", err)
	}
	t.closers = append(t.closers, func() { unix.Close(fd) })
	return nil
}

// likeness tells a process from others, also across PID namespaces: when it
// started (field 22 of proc_pid_stat(5), in ticks so coarse that stages may
// share the parent's) and what it was started as.
func likeness(pid string) (string, error) {
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	if err != nil {
		return "", err
	}
	cmdline, err := os.ReadFile("/proc/" + pid + "/cmdline")
	if err != nil {
		return "", err
	}
	f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	if len(f) < 20 {
		return "", errors.New("short stat of process " + pid)
	}
	return fmt.Sprintf("%s %x", f[19], sha256.Sum256(cmdline)), nil
}

func pidText(pid int) string { return strconv.Itoa(pid) }
