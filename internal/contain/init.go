package contain

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// runInit is PID 1 without any privilege. It executes the workload, reaps what
// is orphaned, passes on termination signals, and reports the exit status of
// its first process. When it ends, the kernel ends all others.
//
// It shares the workload's uid but is not dumpable, so the workload can
// neither trace it nor open its memory or descriptors.
func runInit() error {
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0); err != nil {
		return fmt.Errorf("become undumpable: %w", err)
	}
	// The exec kept it, but ask again: a parent that died meanwhile shows as
	// the end of the control socket below.
	if err := unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGKILL), 0, 0, 0); err != nil {
		return fmt.Errorf("parent-death signal: %w", err)
	}
	if err := unix.CloseRange(fdControl, ^uint(0), unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return fmt.Errorf("close descriptors: %w", err)
	}
	p, err := readPlan()
	if err != nil {
		return fmt.Errorf("read the plan: %w", err)
	}
	if err := limit(p); err != nil {
		return err
	}
	if err := filter(p.Nested); err != nil {
		return fmt.Errorf("seccomp: %w", err)
	}
	pid, pidfd, err := execute(p)
	if err != nil {
		return err
	}
	if err := send(fdControl, note{Kind: "running"}, pidfd); err != nil {
		return err
	}
	unix.Close(pidfd)
	go passSignals(pid)
	go func() { // the parent never writes after "go": anything here is its end
		receive(fdControl, 0)
		syscall.Exit(0)
	}()
	status, err := reap(pid)
	if err != nil {
		return err
	}
	return send(fdControl, note{Kind: "exit", Status: int(status)})
}

// execute starts the workload in its own session with exactly the descriptors
// of the Spec.
func execute(p plan) (pid, pidfd int, err error) {
	files := []uintptr{0, 1, 2}
	for i := range p.Files {
		files = append(files, uintptr(fdFirst+i))
	}
	pid, err = syscall.ForkExec(p.Path, append([]string{p.Argv0}, p.Args...), &syscall.ProcAttr{
		Dir: p.Dir, Env: p.Env, Files: files,
		Sys: &syscall.SysProcAttr{Setsid: true, PidFD: &pidfd},
	})
	if err != nil {
		return 0, 0, fmt.Errorf("execute %s: %w%s", p.Path, err, whyNotExecuted(p, err))
	}
	if pidfd < 0 {
		return 0, 0, errors.New("this kernel has no process descriptors (needs Linux 5.4)")
	}
	return pid, pidfd, nil
}

func whyNotExecuted(p plan, err error) string {
	if st, e := os.Stat(p.Dir); e != nil || !st.IsDir() {
		return fmt.Sprintf(" (working directory %s does not exist inside)", p.Dir)
	}
	switch {
	case errors.Is(err, syscall.EACCES):
		return " (the contained user, or others, must have read and execute permission on the file)"
	case errors.Is(err, syscall.ENOENT):
		return " (its interpreter or loader must be mounted too)"
	}
	return ""
}

func passSignals(pid int) {
	c := make(chan os.Signal, 8)
	signal.Notify(c, unix.SIGTERM, unix.SIGINT, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2)
	for s := range c {
		unix.Kill(pid, s.(syscall.Signal))
	}
}

// reap waits for every child until the first one is gone.
func reap(first int) (syscall.WaitStatus, error) {
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, 0, nil)
		switch {
		case err == syscall.EINTR:
		case err != nil:
			return 0, os.NewSyscallError("wait4", err)
		case pid == first:
			return ws, nil
		}
	}
}

// limit sets what a process may use. The memory limit counts the private
// writable memory of each process; address space is no measure, as runtimes
// reserve terabytes.
func limit(p plan) error {
	set := func(name string, which int, n uint64) error {
		var old syscall.Rlimit
		if err := syscall.Getrlimit(which, &old); err != nil {
			return fmt.Errorf("read limit of %s: %w", name, err)
		}
		n = min(n, old.Max) // raising takes a capability
		if err := syscall.Setrlimit(which, &syscall.Rlimit{Cur: n, Max: n}); err != nil {
			return fmt.Errorf("limit %s: %w", name, err)
		}
		return nil
	}
	const nofile = 65536
	return errors.Join(
		// 1, not 0: a core dump piped to a program of the host ignores the
		// limit except for 1, which means none (core(5)).
		set("core dumps", unix.RLIMIT_CORE, 1),
		set("open files", unix.RLIMIT_NOFILE, nofile),
		set("processes", unix.RLIMIT_NPROC, uint64(p.PidsMax)),
		set("locked memory", unix.RLIMIT_MEMLOCK, 8<<20),
		set("message queues", unix.RLIMIT_MSGQUEUE, 1<<20),
		memory(p, set),
	)
}

func memory(p plan, set func(string, int, uint64) error) error {
	if p.MemoryMax == 0 {
		return nil
	}
	return set("memory", unix.RLIMIT_DATA, uint64(p.MemoryMax))
}
