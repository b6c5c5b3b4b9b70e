package resource

import (
	"crypto/x509"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/action"
)

// Endpoint is where an upstream of a stage is asked over HTTPS.
type Endpoint struct {
	Address string `json:"address"` // https://HOST[:PORT]
	// CA is PEM of the only roots trusted for it; CAFile is a path that the
	// client resolves into CA. Neither means the machine's roots.
	CA     string `json:"ca,omitempty"`
	CAFile string `json:"caFile,omitempty"`
}

func (e Endpoint) validate(at string, report func(path, problem string)) {
	u, err := url.Parse(e.Address)
	port := "443"
	if err == nil && u.Port() != "" {
		port = u.Port()
	}
	n, perr := strconv.ParseUint(port, 10, 16)
	if err != nil || perr != nil || n == 0 || u.Scheme != "https" || !hostForm.MatchString(u.Hostname()) || e.Address != "https://"+u.Host {
		report(at+".address", "want https://HOST[:PORT], and nothing after it")
	}
	if e.CA != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(e.CA)) {
		report(at+".ca", "want PEM certificates")
	}
}

// resolveFile reads roots.
func resolveFile(at string, ca, file *string, read func(path string) ([]byte, error)) error {
	if *file == "" {
		return nil
	}
	b, err := read(*file)
	if err != nil {
		return fmt.Errorf("%s.caFile: %w", at, err)
	}
	*ca, *file = string(b), ""
	return nil
}

func resolveEndpoints(kind string, stages map[action.Stage]Endpoint, read func(path string) ([]byte, error)) error {
	for _, stage := range slices.Sorted(maps.Keys(stages)) {
		e := stages[stage]
		if err := resolveFile(kind+".stages."+string(stage), &e.CA, &e.CAFile, read); err != nil {
			return err
		}
		stages[stage] = e
	}
	return nil
}

func validateStages[T any](stages map[action.Stage]T, report func(path, problem string), f func(at string, s T)) {
	if len(stages) == 0 {
		report("stages", "want at least one stage")
	}
	for _, stage := range slices.Sorted(maps.Keys(stages)) {
		at := "stages." + string(stage)
		if _, err := action.ParseStage(string(stage)); err != nil {
			report(at, err.Error())
		}
		f(at, stages[stage])
	}
}

// Vault is the block of a CredentialSource that logs in to an OpenBao or HashiCorp
// Vault server for each task and reads one secret: an account of a database, a text,
// or a certificate.
type Vault struct {
	// Mount is that of the JWT auth method; empty is jwt. Role is what tasks log in
	// as, SweepRole what the boundary does.
	Mount     string `json:"mount,omitempty"`
	Role      string `json:"role"`
	SweepRole string `json:"sweepRole"`
	// Audience is that of the JWT-SVIDs: the roles' bound_audiences.
	Audience  string `json:"audience"`
	Namespace string `json:"namespace,omitempty"`
	// TTLSeconds is how long tokens and accounts live unless they are renewed.
	TTLSeconds int64                       `json:"ttlSeconds"`
	Database   *VaultDatabase              `json:"database,omitempty"`
	KV         *VaultKV                    `json:"kv,omitempty"`
	PKI        *VaultPKI                   `json:"pki,omitempty"`
	Stages     map[action.Stage]VaultStage `json:"stages"`
}

// VaultDatabase is an account of a PostgreSQL database.
type VaultDatabase struct {
	Path string `json:"path"` // MOUNT/creds/ROLE
	// Effect is how far the account reaches, as with PostgreSQL.
	Effect action.Effect `json:"effect"`
}

// VaultKV is a text of a KV engine, version 2.
type VaultKV struct {
	Path  string `json:"path"` // MOUNT/data/PATH
	Field string `json:"field"`
}

// VaultPKI is a client certificate.
type VaultPKI struct {
	Path       string `json:"path"` // MOUNT/issue/ROLE
	CommonName string `json:"commonName"`
}

// VaultStage is where the server of a stage is, and of database the database.
type VaultStage struct {
	Address    string           `json:"address"` // https://HOST[:PORT]
	CA         string           `json:"ca,omitempty"`
	CAFile     string           `json:"caFile,omitempty"`
	PostgreSQL *PostgreSQLStage `json:"postgresql,omitempty"`
}

var (
	vaultPath = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$`)
	vaultName = regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}$`)
	audience  = regexp.MustCompile(`^[!-~]{1,255}$`)
)

func (v *Vault) validate(report func(path, problem string)) {
	for at, name := range map[string]string{"role": v.Role, "sweepRole": v.SweepRole} {
		if !vaultName.MatchString(name) {
			report(at, "want the name of a role of the JWT auth method")
		}
	}
	if v.Role == v.SweepRole {
		report("sweepRole", "is the role of tasks: what ends a task's token must be another")
	}
	for at, p := range map[string]string{"mount": v.Mount, "namespace": v.Namespace} {
		if p != "" && !vaultPath.MatchString(p) {
			report(at, "want a path of letters, digits and _ . -, without a slash at its ends")
		}
	}
	if !audience.MatchString(v.Audience) {
		report("audience", "want 1 to 255 printable characters without blanks")
	}
	if v.TTLSeconds < 60 || v.TTLSeconds > 86400 {
		report("ttlSeconds", "want 60 to 86400")
	}
	kinds := 0
	for at, x := range map[string]struct {
		given      bool
		path, like string
	}{
		"database": {v.Database != nil, v.path(), "/creds/"}, "kv": {v.KV != nil, v.path(), "/data/"}, "pki": {v.PKI != nil, v.path(), "/issue/"},
	} {
		if !x.given {
			continue
		}
		if kinds++; !vaultPath.MatchString(x.path) || strings.Count(x.path, x.like) != 1 {
			report(at+".path", "want MOUNT"+x.like+"NAME")
		}
	}
	if kinds != 1 {
		report("", "want one of database, kv and pki")
	}
	if v.Database != nil && (!v.Database.Effect.AtLeast(action.Read)) {
		report("database.effect", "want read, write, privileged or irreversible")
	}
	if v.KV != nil && v.KV.Field == "" {
		report("kv.field", "is missing")
	}
	if v.PKI != nil && !hostForm.MatchString(v.PKI.CommonName) {
		report("pki.commonName", "want a name, as in desk.example")
	}
	validateStages(v.Stages, report, func(at string, s VaultStage) {
		Endpoint{s.Address, s.CA, s.CAFile}.validate(at, report)
		if (s.PostgreSQL != nil) != (v.Database != nil) {
			report(at+".postgresql", "is where the account of database signs in, and is given with it")
		}
		if s.PostgreSQL == nil {
			return
		}
		if _, _, _, err := s.PostgreSQL.Endpoint(); err != nil {
			report(at+".postgresql.address", err.Error())
		}
		if problem := pgName(s.PostgreSQL.Database); problem != "" {
			report(at+".postgresql.database", problem)
		}
		if s.PostgreSQL.CA != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(s.PostgreSQL.CA)) {
			report(at+".postgresql.ca", "want PEM certificates")
		}
	})
}

// certifies: what is read is a client certificate.
func (v *Vault) certifies() bool { return v != nil && v.PKI != nil }

func (v *Vault) path() string {
	switch {
	case v.Database != nil:
		return v.Database.Path
	case v.KV != nil:
		return v.KV.Path
	case v.PKI != nil:
		return v.PKI.Path
	}
	return ""
}

func (v *Vault) resolve(read func(path string) ([]byte, error)) error {
	for _, stage := range slices.Sorted(maps.Keys(v.Stages)) {
		s, at := v.Stages[stage], "vault.stages."+string(stage)
		if err := resolveFile(at, &s.CA, &s.CAFile, read); err != nil {
			return err
		}
		if s.PostgreSQL != nil {
			if err := resolveFile(at+".postgresql", &s.PostgreSQL.CA, &s.PostgreSQL.CAFile, read); err != nil {
				return err
			}
		}
		v.Stages[stage] = s
	}
	return nil
}

// AWSSTS is the block of a CredentialSource that gets a session of a role for each
// task, by AssumeRoleWithWebIdentity of AWS or of who speaks its protocol.
type AWSSTS struct {
	RoleARN string `json:"roleARN"`
	// Region is the one that requests to STS are signed for.
	Region string `json:"region"`
	// Audience is that of the JWT-SVID; empty is sts.amazonaws.com.
	Audience string `json:"audience,omitempty"`
	// Policy is a session policy (IAM JSON): a session can do at most what it and
	// the role allow. PolicyFile is a path that the client resolves into Policy.
	Policy     string `json:"policy,omitempty"`
	PolicyFile string `json:"policyFile,omitempty"`
	// MaxSeconds is what the role allows at most (MaxSessionDuration); 0 is 3600. A
	// session lives as long as its task may take, and 900 s at least.
	MaxSeconds int64                     `json:"maxSeconds,omitempty"`
	Stages     map[action.Stage]Endpoint `json:"stages"`
}

var (
	roleARN   = regexp.MustCompile(`^arn:[a-z-]{3,20}:iam::[0-9A-Za-z]{0,32}:role/[A-Za-z0-9+=,.@_/-]{1,512}$`)
	awsRegion = regexp.MustCompile(`^[a-z0-9-]{2,32}$`)
)

func (a *AWSSTS) validate(report func(path, problem string)) {
	if !roleARN.MatchString(a.RoleARN) {
		report("roleARN", "want arn:aws:iam::ACCOUNT:role/NAME")
	}
	if !awsRegion.MatchString(a.Region) {
		report("region", "want a region, as in eu-central-1")
	}
	if a.Audience != "" && !audience.MatchString(a.Audience) {
		report("audience", "want 1 to 255 printable characters without blanks")
	}
	if a.Policy == "" && a.PolicyFile == "" {
		report("policy", "is missing: say what of the role a task needs, in a session policy")
	}
	if a.Policy != "" && (len(a.Policy) > 2048 || !json.Valid([]byte(a.Policy))) {
		report("policy", "want an IAM policy in JSON of at most 2048 characters")
	}
	if a.MaxSeconds != 0 && (a.MaxSeconds < 900 || a.MaxSeconds > 43200) {
		report("maxSeconds", "want 900 to 43200")
	}
	validateStages(a.Stages, report, func(at string, e Endpoint) { e.validate(at, report) })
}

func (a *AWSSTS) resolve(read func(path string) ([]byte, error)) error {
	if a.PolicyFile != "" {
		b, err := read(a.PolicyFile)
		if err != nil {
			return fmt.Errorf("awsSTS.policyFile: %w", err)
		}
		a.Policy, a.PolicyFile = strings.TrimSpace(string(b)), ""
	}
	return resolveEndpoints("awsSTS", a.Stages, read)
}

// Kubernetes is the block of a CredentialSource that asks a cluster for a token of
// a service account for each task, bound to a Secret that is made and deleted with it.
type Kubernetes struct {
	Namespace      string `json:"namespace"`
	ServiceAccount string `json:"serviceAccount"`
	// Audiences are those of the token; none is the API server itself.
	Audiences []string `json:"audiences,omitempty"`
	// Token names the sealed token of the boundary's own service account; Audience,
	// instead, is that of the boundary's own JWT-SVIDs, which the API server believes
	// (AuthenticationConfiguration, or --oidc-issuer-url).
	Token    *SecretRef                `json:"token,omitempty"`
	Audience string                    `json:"audience,omitempty"`
	Stages   map[action.Stage]Endpoint `json:"stages"`
}

var kubeName = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?$`)

func (k *Kubernetes) validate(report func(path, problem string)) {
	for at, name := range map[string]string{"namespace": k.Namespace, "serviceAccount": k.ServiceAccount} {
		if !kubeName.MatchString(name) || net.ParseIP(name) != nil {
			report(at, "want a name of lower-case letters, digits, hyphens and dots")
		}
	}
	for i, a := range k.Audiences {
		if !audience.MatchString(a) {
			report(fmt.Sprintf("audiences[%d]", i), "want 1 to 255 printable characters without blanks")
		}
	}
	switch {
	case (k.Token == nil) == (k.Audience == ""):
		report("token", "want token or audience, and not both: how the boundary signs in to the cluster")
	case k.Token != nil && k.Token.problem() != "":
		report("token.sealed", k.Token.problem())
	case k.Audience != "" && !audience.MatchString(k.Audience):
		report("audience", "want 1 to 255 printable characters without blanks")
	}
	validateStages(k.Stages, report, func(at string, e Endpoint) { e.validate(at, report) })
}

// UpstreamStages are the stages of a source of one of the blocks here.
func (s *CredentialSourceSpec) UpstreamStages() []action.Stage {
	switch {
	case s.Vault != nil:
		return slices.Sorted(maps.Keys(s.Vault.Stages))
	case s.AWSSTS != nil:
		return slices.Sorted(maps.Keys(s.AWSSTS.Stages))
	case s.Kubernetes != nil:
		return slices.Sorted(maps.Keys(s.Kubernetes.Stages))
	}
	return nil
}

// Database is the effect with which a source opens a database; empty is none.
func (s *CredentialSourceSpec) Database() action.Effect {
	switch {
	case s.PostgreSQL != nil:
		return s.PostgreSQL.Effect
	case s.Vault != nil && s.Vault.Database != nil:
		return s.Vault.Database.Effect
	}
	return ""
}
