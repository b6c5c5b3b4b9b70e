package resource

import (
	"crypto/x509"
	"fmt"
	"maps"
	"net"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/sallyport-dev/sallyport/internal/action"
)

// PostgreSQL is the block of a CredentialSource that makes a role of a database
// for each task.
type PostgreSQL struct {
	// Effect is how far the roles reach: it counts for the tier of every agent
	// that has the source, and policy sees it at each connection.
	Effect action.Effect `json:"effect"`
	// Roles are those that a task's role is a member of. What they may do is what
	// the task may do in the database.
	Roles []string `json:"roles"`
	// Owner is the role that is given what a task made; without one it is dropped.
	Owner string `json:"owner,omitempty"`
	// Connections bounds the sessions of one task at once; 0 is 8.
	Connections int `json:"connections,omitempty"`
	// TTLSeconds is how long a role can sign in unless the boundary renews it;
	// 0 is as long as the task may take.
	TTLSeconds int64                            `json:"ttlSeconds,omitempty"`
	Admin      PostgreSQLAdmin                  `json:"admin"`
	Stages     map[action.Stage]PostgreSQLStage `json:"stages"`
}

// PostgreSQLAdmin makes and drops the roles. Without secret and certificate it is
// the peer of a Unix socket.
type PostgreSQLAdmin struct {
	Role string `json:"role"`
	// Secret names the sealed password.
	Secret *SecretRef `json:"secret,omitempty"`
	// Certificate names the sealed client certificate: PEM, with its key.
	Certificate *SecretRef `json:"certificate,omitempty"`
}

// PostgreSQLStage is where the database of a stage is.
type PostgreSQLStage struct {
	// Address is HOST:PORT, always over TLS, or the folder of a Unix socket, with
	// :PORT if that is not 5432.
	Address  string `json:"address"`
	Database string `json:"database"`
	// CA is PEM of the only roots trusted for it; CAFile is a path that the
	// client resolves into CA. Neither means the machine's roots.
	CA     string `json:"ca,omitempty"`
	CAFile string `json:"caFile,omitempty"`
}

// Endpoint is the host and port of Address; unix says that the host is a folder.
func (s PostgreSQLStage) Endpoint() (host string, port uint16, unix bool, err error) {
	if strings.HasPrefix(s.Address, "/") {
		host, text, given := strings.Cut(s.Address, ":")
		if !given {
			text = "5432"
		}
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil || n == 0 || path.Clean(host) != host {
			return "", 0, true, fmt.Errorf("want an absolute folder, with :PORT or without")
		}
		return host, uint16(n), true, nil
	}
	host, text, err := net.SplitHostPort(s.Address)
	n, perr := strconv.ParseUint(text, 10, 16)
	if err != nil || perr != nil || n == 0 || !hostForm.MatchString(host) {
		return "", 0, false, fmt.Errorf("want HOST:PORT, or the folder of a Unix socket")
	}
	return host, uint16(n), false, nil
}

// Audience is the one place that a credential of the stage is sent to.
func (s PostgreSQLStage) Audience() string { return "postgresql://" + s.Address + "/" + s.Database }

var hostForm = regexp.MustCompile(`^([A-Za-z0-9]([A-Za-z0-9.-]{0,252}[A-Za-z0-9])?|[0-9A-Fa-f:]{2,45})$`)

func pgName(s string) string {
	if s == "" || len(s) > 63 || strings.ContainsRune(s, 0) || !utf8.ValidString(s) {
		return "want a name of 1 to 63 bytes"
	}
	return ""
}

func (p *PostgreSQL) validate(report func(path, problem string)) {
	if _, err := action.ParseEffect(string(p.Effect)); err != nil || !p.Effect.AtLeast(action.Read) {
		report("effect", "want read, write, privileged or irreversible")
	}
	if len(p.Roles) == 0 {
		report("roles", "want at least one role: a role of nothing can do what anybody can")
	}
	names := map[string]string{"admin.role": p.Admin.Role}
	for i, r := range p.Roles {
		names[fmt.Sprintf("roles[%d]", i)] = r
	}
	if p.Owner != "" {
		names["owner"] = p.Owner
	}
	for stage, s := range p.Stages {
		names["stages."+string(stage)+".database"] = s.Database
	}
	for _, at := range slices.Sorted(maps.Keys(names)) {
		if problem := pgName(names[at]); problem != "" {
			report(at, problem)
		}
	}
	if p.Connections < 0 || p.Connections > 64 {
		report("connections", "want 1 to 64")
	}
	if p.TTLSeconds != 0 && (p.TTLSeconds < 60 || p.TTLSeconds > 86400) {
		report("ttlSeconds", "want 60 to 86400")
	}
	for at, ref := range map[string]*SecretRef{"admin.secret.sealed": p.Admin.Secret, "admin.certificate.sealed": p.Admin.Certificate} {
		if ref != nil && ref.problem() != "" {
			report(at, ref.problem())
		}
	}
	if len(p.Stages) == 0 {
		report("stages", "want at least one stage")
	}
	for _, stage := range slices.Sorted(maps.Keys(p.Stages)) {
		at, s := "stages."+string(stage), p.Stages[stage]
		if _, err := action.ParseStage(string(stage)); err != nil {
			report(at, err.Error())
		}
		_, _, unix, err := s.Endpoint()
		if err != nil {
			report(at+".address", err.Error())
		}
		if unix && (s.CA != "" || s.CAFile != "" || p.Admin.Certificate != nil) {
			report(at, "a Unix socket has no TLS: leave ca and admin.certificate out")
		}
		if s.CA != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(s.CA)) {
			report(at+".ca", "want PEM certificates")
		}
	}
}

// resolve reads the roots of the stages.
func (p *PostgreSQL) resolve(read func(path string) ([]byte, error)) error {
	for _, stage := range slices.Sorted(maps.Keys(p.Stages)) {
		st := p.Stages[stage]
		if st.CAFile == "" {
			continue
		}
		b, err := read(st.CAFile)
		if err != nil {
			return fmt.Errorf("postgresql.stages.%s.caFile: %w", stage, err)
		}
		st.CA, st.CAFile = string(b), ""
		p.Stages[stage] = st
	}
	return nil
}
