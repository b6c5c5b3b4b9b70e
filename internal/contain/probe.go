package contain

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"
)

const (
	doorAddr = "127.0.0.1:3128"
	doorWord = "the door"
)

// An attempt returns why it was stopped, or nil if it got through, or through
// if there is more to say about that.
type attempt struct {
	name string
	try  func(bait) error
}

type through string

func (t through) Error() string { return string(t) }

var attempts = []attempt{
	{"control-served-listener", control},
	{"tcp-host-loopback", func(b bait) error { return dial("tcp4", b.TCP4) }},
	{"tcp-host-loopback-v6", func(b bait) error { return dial("tcp6", b.TCP6) }},
	{"abstract-socket", func(b bait) error { return dial("unix", b.Abstract) }},
	{"path-socket", func(b bait) error { return dial("unix", b.Socket) }},
	{"desktop-and-system-sockets", systemSockets},
	{"metadata-service", func(bait) error { return dial("tcp4", "169.254.169.254:80") }},
	{"tcp-anywhere", func(bait) error { return dial("tcp4", "192.0.2.1:443") }},
	{"tcp-anywhere-v6", func(bait) error { return dial("tcp6", "[2001:db8::1]:443") }},
	{"udp-anywhere", udp},
	{"dns", dns},
	{"other-interfaces", interfaces},
	{"raw-socket", rawSocket},
	{"packet-socket", packetSocket},
	{"vsock", vsock},
	{"read-data-folder", func(b bait) error { return readCanary(b.File, b.Canary) }},
	{"read-home", readHome},
	{"read-through-init", throughInit},
	{"climb-out-of-root", climb},
	{"write-outside-scratch", writeOutside},
	{"mount-options", mountOptions},
	{"inherited-descriptors", inherited},
	{"environment", environment},
	{"parent-visible", parentVisible},
	{"read-parent-environment", func(b bait) error { return procFile(b, "environ") }},
	{"read-parent-memory", func(b bait) error { return procFile(b, "mem") }},
	{"signal-parent", signalParent},
	{"trace-parent", traceParent},
	{"trace-init", traceInit},
	{"shared-memory", sharedMemory},
	{"capabilities", capabilities},
	{"new-privileges-by-exec", noNewPrivs},
	{"become-root", becomeRoot},
	{"mount", mountSomething},
	{"device-node", deviceNode},
	{"terminal-injection", terminalInjection},
	{"user-namespace", userNamespace},
	{"join-namespace", joinNamespace},
	{"kernel-interfaces", kernelInterfaces},
	{"change-clock", changeClock},
	{"cgroup", cgroup},
}

// runProbe is the program that tries. It reads the bait from standard input.
func runProbe() {
	if len(os.Args) > 1 && os.Args[1] == gainRoute {
		os.Exit(tryGainRoute())
	}
	var b bait
	if err := json.NewDecoder(os.Stdin).Decode(&b); err != nil {
		fmt.Fprintln(os.Stderr, "probe without bait:", err)
		os.Exit(1)
	}
	enc := json.NewEncoder(os.Stdout)
	for _, a := range attempts {
		err := a.try(b)
		_, open := err.(through)
		f := Finding{Name: a.name, Stopped: err != nil && !open, How: "it worked"}
		if err != nil {
			f.How = err.Error()
		}
		if err := enc.Encode(f); err != nil {
			os.Exit(1)
		}
	}
}

// control is the reverse: the one way out must work, or the failures of the
// others would say nothing.
func control(bait) error {
	c, err := net.DialTimeout("tcp", doorAddr, 10*time.Second)
	if err != nil {
		return nil
	}
	defer c.Close()
	if got, err := io.ReadAll(c); err != nil || string(got) != doorWord {
		return nil
	}
	return errors.New("control: the served listener answers, as it must")
}

func dial(network, addr string) error {
	if addr == "" {
		return errors.New("the host has no such target")
	}
	c, err := net.DialTimeout(network, addr, 2*time.Second)
	if err == nil {
		c.Close()
	}
	return err
}

func systemSockets(bait) error {
	var why error
	for _, s := range []string{
		"/run/dbus/system_bus_socket", "/var/run/dbus/system_bus_socket", "/run/systemd/private",
		"/run/systemd/journal/socket", "/var/run/docker.sock", "/run/containerd/containerd.sock",
		"/tmp/.X11-unix/X0", "@/tmp/.X11-unix/X0", "/run/snapd.socket", "/run/nscd/socket",
	} {
		if why = dial("unix", s); why == nil {
			return nil
		}
	}
	return why
}

func udp(b bait) error {
	if c, err := net.Dial("udp4", b.UDP); err == nil {
		c.Write([]byte("hello")) // reaches our own lo at most; the host's bell knows
		c.Close()
	}
	c, err := net.Dial("udp4", "192.0.2.1:9")
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Write([]byte("hello"))
	return err
}

func dns(bait) error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Second)
	defer cancel()
	r := net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, network, "9.9.9.9:53")
	}}
	if _, err := r.LookupHost(ctx, "example.com"); err == nil {
		return nil
	}
	_, err := (&net.Resolver{PreferGo: true}).LookupHost(ctx, "example.com")
	return err
}

func interfaces(bait) error {
	ifs, err := net.Interfaces()
	if err != nil {
		return err
	}
	for _, i := range ifs {
		// A kernel may add unconfigured tunnel devices to each namespace.
		if i.Name != "lo" && i.Flags&net.FlagUp != 0 {
			return nil
		}
	}
	return errors.New("lo is the only interface that is up")
}

func readCanary(file, canary string) error {
	b, err := os.ReadFile(file)
	if err == nil && string(b) != canary {
		return errors.New("another file is there")
	}
	return err
}

func readHome(b bait) error {
	if b.Home == "" {
		return errors.New("the parent has no home")
	}
	es, err := os.ReadDir(b.Home)
	if err == nil && len(es) == 0 {
		return errors.New("empty")
	}
	return err
}

// throughInit uses links of /proc that lead into another process's world.
func throughInit(b bait) error {
	var why error
	for _, p := range []string{"/proc/1/root", "/proc/1/cwd", "/proc/1/fd/3", "/proc/1/fd/4", "/proc/1/mem", "/proc/1/environ"} {
		f, err := os.Open(p)
		if err == nil {
			f.Close()
			return nil
		}
		why = err
	}
	return why
}

func climb(b bait) error {
	if err := readCanary(strings.Repeat("/..", 12)+b.File, b.Canary); err == nil {
		return nil
	}
	if err := readCanary("/proc/self/root"+b.File, b.Canary); err == nil {
		return nil
	}
	return readCanary(filepath.Join("/proc/self/task", pidText(os.Getpid()), "cwd/../../../../", b.File), b.Canary)
}

func writeOutside(bait) error {
	var why error
	for _, p := range []string{
		"/x", "/etc/x", "/etc/passwd", "/usr/x", "/usr/bin/sh", "/usr/lib/x", "/home/x", "/dev/x",
		"/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sys/user/max_user_namespaces",
		"/proc/sys/kernel/modprobe", "/proc/sys/vm/drop_caches", "/proc/sys/net/ipv4/ip_forward", "/proc/sysrq-trigger", "/proc/1/oom_score_adj",
	} {
		f, err := os.OpenFile(p, os.O_WRONLY|os.O_CREATE, 0o600)
		if err == nil {
			st, err := f.Stat()
			f.Close()
			if err == nil && st.Mode()&os.ModeCharDevice != 0 {
				continue // hidden behind /dev/null
			}
			return through(p)
		}
		why = err
	}
	return why
}

// mountOptions reads how everything here is mounted: nosuid all over, nodev
// but for the five devices, and nothing writable but tmpfs and /proc.
func mountOptions(bait) error {
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	n := 0
	for line := range strings.Lines(string(b)) {
		left, right, _ := strings.Cut(line, " - ")
		f, kind := strings.Fields(left), strings.Fields(right)
		if len(f) < 6 || len(kind) < 1 {
			return nil
		}
		at, opts := f[4], ","+f[5]+","
		device := strings.HasPrefix(at, "/dev/") && at != "/dev/shm"
		writable := strings.Contains(opts, ",rw,") && kind[0] != "tmpfs" && kind[0] != "proc" && !device
		if !strings.Contains(opts, ",nosuid,") || !device && !strings.Contains(opts, ",nodev,") || writable {
			return through(strings.TrimSpace(line))
		}
		n++
	}
	return fmt.Errorf("%d mounts, all nosuid, none with foreign devices, none of the host's writable", n)
}

// inherited looks for descriptors beyond standard ones, the executable that
// the self-test passes as 3, and what the Go runtime opens.
func inherited(bait) error {
	es, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		return nil
	}
	for _, e := range es {
		to, err := os.Readlink("/proc/self/fd/" + e.Name())
		switch {
		case err != nil, len(e.Name()) == 1 && e.Name() <= "3":
		case strings.HasPrefix(to, "anon_inode:"), strings.HasPrefix(to, "/proc/"):
		default:
			return through("descriptor " + e.Name() + " is " + to)
		}
	}
	return errors.New("only the named descriptors are open")
}

func environment(bait) error {
	if env := os.Environ(); len(env) != 0 {
		return nil
	}
	return errors.New("empty, as the spec says")
}
