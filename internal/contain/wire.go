package contain

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// plan is what the stages need of a Spec. It travels in a sealed memory file.
type plan struct {
	Path, Dir, Home string
	Argv0           string
	Args, Env       []string
	Listen          []string
	Mounts          []Mount
	Trees           bool // mounts come from the parent as detached trees
	UID             int
	Files           int
	Nested          bool
	MemoryMax       int64 // bytes, as a limit per process; 0 when a cgroup does it
	PidsMax         int64
}

// note is one message between parent and init. Sequenced packets keep notes
// and the descriptors that come with them together.
type note struct {
	Kind   string // parent: "go"; child: "listening", "running", "exit", "error"
	NetNS  uint64 `json:",omitempty"`
	Status int    `json:",omitempty"` // wait status of the first process
	Text   string `json:",omitempty"` // what went wrong, in words for the operator
}

const (
	fdControl = 3 // descriptors of the stages
	fdPlan    = 4
	fdFirst   = 5 // first of Spec.Files

	maxNote  = 16 << 10
	maxRight = 253
)

// send writes one note on a socket.
func send(fd int, n note, rights ...int) error {
	b, err := json.Marshal(n)
	if err != nil {
		return err
	}
	var oob []byte
	if len(rights) > 0 {
		oob = unix.UnixRights(rights...)
	}
	for {
		err = unix.Sendmsg(fd, b, oob, nil, unix.MSG_NOSIGNAL)
		if err != unix.EINTR {
			return os.NewSyscallError("sendmsg", err)
		}
	}
}

var errGone = errors.New("the other side is gone")

// receive reads one note; limit 0 waits for ever. All descriptors that came
// are close-on-exec.
func receive(fd int, limit time.Duration) (note, []int, error) {
	var n note
	tv := unix.NsecToTimeval(limit.Nanoseconds())
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &tv); err != nil {
		return n, nil, os.NewSyscallError("setsockopt", err)
	}
	b, oob := make([]byte, maxNote), make([]byte, unix.CmsgSpace(4*maxRight))
	var got, got2 int
	var err error
	for {
		got, got2, _, _, err = unix.Recvmsg(fd, b, oob, unix.MSG_CMSG_CLOEXEC)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		return n, nil, os.NewSyscallError("recvmsg", err)
	}
	fds, err := rights(oob[:got2])
	if err != nil {
		return n, nil, err
	}
	if got == 0 {
		return n, nil, errGone
	}
	if err := json.Unmarshal(b[:got], &n); err != nil {
		for _, f := range fds {
			unix.Close(f)
		}
		return n, nil, fmt.Errorf("note of the containment stage: %w", err)
	}
	return n, fds, nil
}

func rights(oob []byte) ([]int, error) {
	if len(oob) == 0 {
		return nil, nil
	}
	msgs, err := unix.ParseSocketControlMessage(oob)
	if err != nil {
		return nil, err
	}
	var fds []int
	for i := range msgs {
		f, err := unix.ParseUnixRights(&msgs[i])
		if err != nil {
			return nil, err
		}
		fds = append(fds, f...)
	}
	return fds, nil
}

// planFile puts the plan where only a holder of the descriptor can read it.
func planFile(p plan) (*os.File, error) {
	b, err := json.Marshal(p)
	if err != nil {
		return nil, err
	}
	return sealed("plan", b)
}

func sealed(name string, b []byte) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, os.NewSyscallError("memfd_create", err)
	}
	f := os.NewFile(uintptr(fd), name)
	if _, err := f.WriteAt(b, 0); err != nil {
		f.Close()
		return nil, err
	}
	seals := unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		f.Close()
		return nil, os.NewSyscallError("seal "+name, err)
	}
	return f, nil
}

func readPlan() (plan, error) {
	var p plan
	// Not an os.File: once the collector found it unused it would close the
	// descriptor, which the next stage reads again.
	var st unix.Stat_t
	if err := unix.Fstat(fdPlan, &st); err != nil {
		return p, os.NewSyscallError("fstat", err)
	}
	b := make([]byte, st.Size)
	if n, err := unix.Pread(fdPlan, b, 0); err != nil || n != len(b) {
		return p, fmt.Errorf("read the plan: %d of %d bytes: %v", n, len(b), err)
	}
	return p, json.Unmarshal(b, &p)
}
