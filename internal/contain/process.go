package contain

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"sync"
	"syscall"

	"golang.org/x/sys/unix"
)

// Process is a running contained process and everything it started.
type Process struct {
	cmd       *exec.Cmd
	id        identity
	control   *os.File
	pid       int
	netns     uint64
	listeners []net.Listener

	reaped chan struct{} // closed when init was reaped; nothing inside runs after
	done   chan struct{} // closed after reaped, when status is final

	// mu guards what end takes away: pidfd and status.
	mu     sync.Mutex
	pidfd  *os.File            // nil after the end
	status *syscall.WaitStatus // of the first process, as its init reported it
}

// ExitError says how the first process ended when it was not by exit status 0.
type ExitError struct {
	Code   int            // exit status, -1 when a signal ended it
	Signal syscall.Signal // 0 when it exited; SIGKILL also after Kill
}

func (e *ExitError) Error() string {
	if e.Signal != 0 {
		return fmt.Sprintf("ended by signal %d (%s)", int(e.Signal), e.Signal)
	}
	return fmt.Sprintf("exit status %d", e.Code)
}

// PID is the workload's process id as the host sees it.
func (p *Process) PID() int { return p.pid }

// HostUID is the user the kernel sees on the host: a dedicated one under a root
// parent, else the parent's own.
func (p *Process) HostUID() int { return p.id.host }

// Listeners are the opened Spec.Listen addresses, in that order. They are
// closed when the process ended, which ends the caller's Accept loops.
func (p *Process) Listeners() []net.Listener { return p.listeners }

// NetNS is the inode number of the network namespace: equal numbers at the
// same time mean the same namespace.
func (p *Process) NetNS() uint64 { return p.netns }

// Done is closed when every process inside is gone.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits until every process inside is gone. It returns nil if the first
// one exited with 0, else an *ExitError. It may be called by many.
func (p *Process) Wait() error {
	<-p.done
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.status == nil: // init itself was killed
		return &ExitError{Code: -1, Signal: syscall.SIGKILL}
	case p.status.Signaled():
		return &ExitError{Code: -1, Signal: p.status.Signal()}
	case p.status.ExitStatus() != 0:
		return &ExitError{Code: p.status.ExitStatus()}
	}
	return nil
}

// Signal sends a signal to the first process.
func (p *Process) Signal(sig syscall.Signal) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pidfd == nil {
		return os.ErrProcessDone
	}
	return unix.PidfdSendSignal(int(p.pidfd.Fd()), sig, nil, 0)
}

// Kill ends every process inside and returns when they are gone.
func (p *Process) Kill() {
	p.cmd.Process.Kill() // by pidfd, so never somebody else's process
	<-p.done
}

// watch keeps the exit status that init reports, then waits for the end. The
// kernel reaps the init of a PID namespace only after all others in it.
func (p *Process) watch() {
	n, fds, err := receive(int(p.control.Fd()), 0)
	closeAll(fds)
	<-p.reaped
	p.mu.Lock()
	if err == nil && n.Kind == "exit" {
		ws := syscall.WaitStatus(n.Status)
		p.status = &ws
	}
	p.pidfd.Close()
	p.pidfd = nil
	p.mu.Unlock()
	for _, l := range p.listeners {
		l.Close()
	}
	p.control.Close()
	p.id.release()
	close(p.done)
}

// abort undoes a start that did not reach watch.
func (p *Process) abort() {
	if p.cmd != nil {
		p.cmd.Process.Kill()
		<-p.reaped
	} else {
		close(p.reaped)
	}
	for _, l := range p.listeners {
		l.Close()
	}
	for _, f := range []*os.File{p.control, p.pidfd} {
		if f != nil {
			f.Close()
		}
	}
	p.id.release()
}
