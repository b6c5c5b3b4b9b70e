package identity

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/sallyport-dev/sallyport/internal/action"
)

// Attestor says which workload a caller is. An error denies; a *Refusal from
// it carries the code that is recorded.
type Attestor interface {
	Attest(ctx context.Context, p Peer) (Workload, error)
}

// Launch is a contained process that was started for a task.
type Launch struct {
	Tenant string
	Agent  string
	Task   string
	// PID is the host pid of the launched process. It is used once, by
	// Register, to take hold of the network namespace.
	PID int
	// NetNS is the inode of the process's own network namespace. Every process
	// in it counts as the workload, and no other does.
	NetNS uint64
	// PIDNS, if not 0, is the inode of its pid namespace; a caller must be in it.
	PIDNS uint64
	// HostUID is the uid that the process runs as, as seen from this host.
	HostUID uint32
	// BinaryDigest is the digest of the executable that was launched. It goes
	// into the records; children of the launched process are not compared.
	BinaryDigest action.Digest
	// SPIFFEID is how SPIRE knows the agent, where it issues the SVIDs.
	SPIFFEID string
}

// LaunchAttestor attests by launch: a caller is the workload if and only if it
// is in the network namespace that was made for the launch, with the uid of
// the launch. A process outside cannot enter the namespace without being root
// on the host; one inside cannot leave it.
type LaunchAttestor struct {
	mu       sync.Mutex
	launches map[uint64]*launch // by network namespace
}

type launch struct {
	Launch
	// ns keeps the namespace alive: the inode of a dead namespace is reused,
	// and a later launch must not be taken for this one.
	ns *os.File
}

// NewLaunchAttestor makes an attestor that knows no launches.
func NewLaunchAttestor() *LaunchAttestor {
	return &LaunchAttestor{launches: map[uint64]*launch{}}
}

// Register makes the processes of a launch known. It refuses the namespace
// that Sallyport itself runs in, and one that is registered already.
func (a *LaunchAttestor) Register(l Launch) error {
	if l.Tenant == "" || l.Agent == "" || l.Task == "" || l.PID <= 0 || l.NetNS == 0 || l.BinaryDigest == "" {
		return errors.New("register launch: tenant, agent, task, pid, network namespace and binary digest are required")
	}
	own, err := namespaceOf(os.Getpid(), "net")
	if err != nil {
		return fmt.Errorf("register launch: %w", err)
	}
	if own == l.NetNS {
		return errors.New("register launch: the process is not in a network namespace of its own")
	}
	ns, err := os.Open("/proc/" + strconv.Itoa(l.PID) + "/ns/net")
	if err != nil {
		return fmt.Errorf("register launch: %w", err)
	}
	var st unix.Stat_t
	if err := unix.Fstat(int(ns.Fd()), &st); err != nil || st.Ino != l.NetNS {
		ns.Close()
		return fmt.Errorf("register launch: process %d is not in network namespace %d", l.PID, l.NetNS)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.launches[l.NetNS] != nil {
		ns.Close()
		return fmt.Errorf("register launch: network namespace %d belongs to another launch", l.NetNS)
	}
	a.launches[l.NetNS] = &launch{l, ns}
	return nil
}

// Revoke forgets the launches of a task: no caller is attested as it again.
func (a *LaunchAttestor) Revoke(tenant, task string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for inode, l := range a.launches {
		if l.Tenant == tenant && l.Task == task {
			l.ns.Close()
			delete(a.launches, inode)
		}
	}
}

var errNotLaunched = &Refusal{"not_launched", "the caller is not a process that was launched for a task"}

// Attest finds the launch that the caller belongs to.
func (a *LaunchAttestor) Attest(_ context.Context, p Peer) (Workload, error) {
	netns, err := p.namespace("net")
	if err != nil {
		return Workload{}, errNotLaunched
	}
	a.mu.Lock()
	found := a.launches[netns]
	var l Launch
	if found != nil {
		l = found.Launch
	}
	a.mu.Unlock()
	if found == nil {
		return Workload{}, errNotLaunched
	}
	if p.UID != l.HostUID {
		return Workload{}, refuse("wrong_uid", "the caller runs as another user than was launched")
	}
	if l.PIDNS != 0 {
		if pidns, err := p.namespace("pid"); err != nil || pidns != l.PIDNS {
			return Workload{}, refuse("wrong_namespace", "the caller is in another pid namespace than was launched")
		}
	}
	// Last: it makes what was read above true of the process that connected.
	if err := p.Alive(); err != nil {
		return Workload{}, err
	}
	return Workload{Tenant: l.Tenant, Agent: l.Agent, Task: l.Task, SPIFFEID: l.SPIFFEID, Selectors: l.selectors()}, nil
}

func (l Launch) selectors() []string {
	s := []string{
		"launch:binary:" + string(l.BinaryDigest),
		"launch:uid:" + strconv.FormatUint(uint64(l.HostUID), 10),
		"launch:task:" + l.Task,
		"launch:netns:" + strconv.FormatUint(l.NetNS, 10),
	}
	if l.PIDNS != 0 {
		s = append(s, "launch:pidns:"+strconv.FormatUint(l.PIDNS, 10))
	}
	return s
}
