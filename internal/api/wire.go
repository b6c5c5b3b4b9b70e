package api

import (
	"strings"

	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/certify"
	"github.com/sallyport-dev/sallyport/internal/contain"
	"github.com/sallyport-dev/sallyport/internal/replay"
	"github.com/sallyport-dev/sallyport/internal/server"
	"github.com/sallyport-dev/sallyport/internal/task"
)

// AsHeader names the person that a caller on the socket acts as.
const AsHeader = "Sallyport-As"

// Names of the sockets in the data folder.
const (
	SocketName = "sallyport.sock"
	LaunchName = "launch.sock"
)

// Limits of what is read from a caller, in bytes.
const (
	maxApply   = 16 << 20
	maxRequest = 256 << 10
	maxSecret  = 64 << 10
)

// ApplyRequest is the body of POST apply: resources in canonical form, decoded
// and with their files inlined by the client.
type ApplyRequest struct {
	Resources []canon.Value `json:"resources"`
	// Claimed is where the client says that they come from. Nothing is decided by it.
	Claimed *server.Provenance `json:"claimed,omitempty"`
}

// ApplyResponse says what came of each.
type ApplyResponse struct {
	Resources []server.Applied `json:"resources"`
}

// ReplayRequest is the body of POST policy/replay: resources as for apply, or none
// for those in force, and which decisions.
type ReplayRequest struct {
	Resources []canon.Value `json:"resources,omitempty"`
	replay.Filter
}

// RevokeRequest is the body of POST revoke.
type RevokeRequest struct {
	Scope  string `json:"scope"`
	Reason string `json:"reason"`
}

// ReinstateRequest is the body of POST identity/reinstate.
type ReinstateRequest struct {
	Person     string `json:"person"`
	Reason     string `json:"reason"`
	BreakGlass bool   `json:"breakGlass,omitempty"` // by the server's user, who is nobody of the tenant
}

// CertifyRequest is the body of POST certifications.
type CertifyRequest struct {
	Agent string `json:"agent"`
	Suite string `json:"suite,omitempty"`
	// Changed runs only what the changes since the last certification touch.
	Changed bool `json:"changed,omitempty"`
}

// CertifyLine is one line of the answer: progress, until the last, which has
// the certification or the problem.
type CertifyLine struct {
	Progress      string                 `json:"progress,omitempty"`
	Certification *certify.Certification `json:"certification,omitempty"`
	Problem       *server.Problem        `json:"problem,omitempty"`
}

// LaunchRequest is what the client of the launch socket sends, as one line of
// JSON with three descriptors: standard input, output and error.
type LaunchRequest struct {
	Tenant string   `json:"tenant,omitempty"`
	Task   string   `json:"task"`
	Path   string   `json:"path"` // absolute
	Args   []string `json:"args,omitempty"`
	Dir    string   `json:"dir,omitempty"`  // absolute
	Bind   []string `json:"bind,omitempty"` // absolute
	Env    []string `json:"env,omitempty"`  // NAME=VALUE
}

// Launch events. Refused and Ended are final.
const (
	Started = "started"
	Ended   = "ended"
	Refused = "refused"
)

// LaunchEvent is one line of the answer on the launch socket.
type LaunchEvent struct {
	Event   string          `json:"event"`
	Exit    int             `json:"exit,omitempty"` // of the harness; -1 when a signal ended it
	Task    *task.Task      `json:"task,omitempty"`
	Problem *server.Problem `json:"problem,omitempty"`
}

// Doctor is contain.Report on the wire.
type Doctor struct {
	Grade    string          `json:"grade"`
	Checks   []DoctorCheck   `json:"checks"`
	Attempts []DoctorAttempt `json:"attempts"`
}

// DoctorCheck is contain.Check on the wire.
type DoctorCheck struct {
	Name   string `json:"name"`
	OK     bool   `json:"ok"`
	Needed bool   `json:"needed"`
	Detail string `json:"detail"`
	Do     string `json:"do,omitempty"`
}

// DoctorAttempt is contain.Finding on the wire.
type DoctorAttempt struct {
	Name    string `json:"name"`
	Stopped bool   `json:"stopped"`
	How     string `json:"how"`
}

// NewDoctor puts a report on the wire.
func NewDoctor(r contain.Report) Doctor {
	d := Doctor{Grade: string(r.Grade), Checks: []DoctorCheck{}, Attempts: []DoctorAttempt{}}
	for _, c := range r.Checks {
		d.Checks = append(d.Checks, DoctorCheck{c.Name, c.OK, c.Needed, strings.TrimSpace(c.Detail), c.Do})
	}
	for _, f := range r.Findings {
		d.Attempts = append(d.Attempts, DoctorAttempt{f.Name, f.Stopped, f.How})
	}
	return d
}
