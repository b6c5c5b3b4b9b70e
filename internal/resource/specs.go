package resource

import (
	"crypto/x509"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"time"

	"golang.org/x/crypto/ssh"
	"golang.org/x/mod/sumdb/note"

	"github.com/sallyport-dev/sallyport/internal/connector"
	"github.com/sallyport-dev/sallyport/receipt"
)

// TenantSpec is the body of a Tenant: one policy domain, one trust domain, one
// log, one set of keys.
type TenantSpec struct {
	DisplayName string `json:"displayName,omitempty"`
	// TrustDomain is the SPIFFE trust domain (SPIFFE-ID 2.1).
	TrustDomain string `json:"trustDomain"`
	// Demo tenants accept scripted models and scripted approvers; no other
	// tenant does.
	Demo bool `json:"demo,omitempty"`
	// Retention names a Retention; without one records are kept for ever.
	Retention string `json:"retention,omitempty"`
	// Witnesses names the Witnesses that cosign the tenant's checkpoints.
	Witnesses []string `json:"witnesses,omitempty"`
	// Reviewers are persons who review break-glass and lapsed certifications.
	Reviewers []string `json:"reviewers,omitempty"`
	// FederatesWith are other trust domains whose SVIDs are verified here.
	FederatesWith []FederationSpec `json:"federatesWith,omitempty"`
	// Issuers are OpenID Connect issuers of workloads elsewhere.
	Issuers []IssuerSpec `json:"issuers,omitempty"`
	// Identity is where the agents' SVIDs come from; empty is sallyport.
	Identity IdentitySource `json:"identity,omitempty"`
	// Transmitters are whose security events about people are believed, and
	// Receivers who may ask for ours (OpenID Shared Signals Framework).
	Transmitters []TransmitterSpec `json:"transmitters,omitempty"`
	Receivers    []ReceiverSpec    `json:"receivers,omitempty"`
	// Notify are who is told what happens here.
	Notify []TargetSpec `json:"notify,omitempty"`
}

// Role is what a person may do.
type Role string

// The roles.
const (
	RoleOwner      Role = "owner"
	RoleRequester  Role = "requester"
	RoleApprover   Role = "approver"
	RolePolicy     Role = "policy-author"
	RoleIdentity   Role = "identity-administrator"
	RoleSecrets    Role = "secrets-administrator"
	RoleAuditor    Role = "auditor"
	RoleOperations Role = "operator"
)

// Roles lists every role.
var Roles = []Role{RoleOwner, RoleRequester, RoleApprover, RolePolicy, RoleIdentity, RoleSecrets, RoleAuditor, RoleOperations}

// Values lists what may be written.
func (Role) Values() []string {
	out := make([]string, 0, len(Roles))
	for _, r := range Roles {
		out = append(out, string(r))
	}
	return out
}

// PersonSpec is the body of a Person.
type PersonSpec struct {
	DisplayName string `json:"displayName"`
	Email       string `json:"email,omitempty"`
	Roles       []Role `json:"roles"`
	// UnixUser is who the person is on the local machine.
	UnixUser string `json:"unixUser,omitempty"`
	// SSHKeys are public keys in authorized_keys form: approvals are signed
	// with them. A security key may have the option verify-required. SSHKeyFiles are paths that the client resolves into SSHKeys.
	SSHKeys     []string `json:"sshKeys,omitempty"`
	SSHKeyFiles []string `json:"sshKeyFiles,omitempty"`
	// Passkeys are WebAuthn credentials: approvals are signed with them as well.
	Passkeys []Passkey `json:"passkeys,omitempty"`
	// Subjects are who the person is at the tenant's transmitters.
	Subjects []SubjectSpec `json:"subjects,omitempty"`
}

// AgentSpec is the body of an Agent.
type AgentSpec struct {
	DisplayName string  `json:"displayName,omitempty"`
	Purpose     string  `json:"purpose"`
	Owner       string  `json:"owner"`  // person
	Deputy      string  `json:"deputy"` // another person
	Harness     Harness `json:"harness"`
	Model       Model   `json:"model"`
	// SystemPrompt is pinned by digest.
	SystemPrompt *Prompt `json:"systemPrompt,omitempty"`
	// Tools are the tool types that the harness declares to the model.
	Tools        []string `json:"tools,omitempty"`
	Browser      *Browser `json:"browser,omitempty"`
	Connectors   []string `json:"connectors,omitempty"`
	Capabilities []string `json:"capabilities,omitempty"`
	PolicySets   []string `json:"policySets,omitempty"`
	Suites       []string `json:"suites,omitempty"`
	// Drift says what a change of a measured fact comes to; the first rule that names
	// the fact counts, and what none names lapses.
	Drift []DriftRule `json:"drift,omitempty"`
	// SPIFFEID is how SPIRE knows the agent, where it issues the tenant's SVIDs.
	SPIFFEID string `json:"spiffeID,omitempty"`
	// Workloads are workloads elsewhere that may act for the agent's running tasks.
	Workloads []WorkloadSpec `json:"workloads,omitempty"`
	// Watch is how its behaviour in production is watched.
	Watch    *Watch `json:"watch,omitempty"`
	ReviewBy string `json:"reviewBy"` // date, 2006-01-02; after it the agent is not ready
}

// Harness is the program that drives the model: by path, or one of the built-in
// ones by name.
type Harness struct {
	Path string   `json:"path,omitempty"`
	Name string   `json:"name,omitempty"`
	Args []string `json:"args,omitempty"`
	// Provenance, of one by path: who must have built the program.
	Provenance *Provenance `json:"provenance,omitempty"`
}

// Model is what the agent thinks with and where that runs.
type Model struct {
	Provider string `json:"provider"`
	ID       string `json:"id"`
	Endpoint string `json:"endpoint"` // origin of the API, https://host[:port]
	// CA is PEM of the only roots trusted for the endpoint; CAFile is a path that
	// the client resolves into CA. Neither means the machine's roots.
	CA     string `json:"ca,omitempty"`
	CAFile string `json:"caFile,omitempty"`
	// Key names the sealed provider key. The harness never has it.
	Key SecretRef `json:"key"`
	// Betas are the beta features of the API that the harness may ask for.
	Betas    []string `json:"betas,omitempty"`
	Location string   `json:"location"` // where inference runs, as declared by the owner
	// Signature is its publisher's.
	Signature *ModelSignature `json:"signature,omitempty"`
	// Sampling bounds parameters of a call. What is not bounded here may not change
	// after the certification; what is must be sent.
	Sampling map[SamplingParameter]Bound `json:"sampling,omitempty"`
	// Scripted marks a model that answers from a script: demo tenants only.
	Scripted bool `json:"scripted,omitempty"`
}

// Prompt is the system prompt, in place or from a file that the client resolves.
type Prompt struct {
	Text string `json:"text,omitempty"`
	File string `json:"file,omitempty"`
}

// Browser is the managed browser.
type Browser struct {
	Kind BrowserKind `json:"kind"`
	// Protocol is how much of the Chrome DevTools Protocol the harness is
	// served; empty is sealed.
	Protocol BrowserProtocol `json:"protocol,omitempty"`
}

// BrowserProtocol is a profile of the DevTools Protocol's surface.
type BrowserProtocol string

// Values lists what may be written: nothing at all (the screen only), known
// helper scripts of drivers only, or scripts of the harness's own as well.
func (BrowserProtocol) Values() []string { return []string{"sealed", "pinned", "open"} }

// BrowserKind is the build of Chromium.
type BrowserKind string

// Values lists what may be written.
func (BrowserKind) Values() []string { return []string{"shell", "full"} }

// CredentialSourceSpec is the body of a CredentialSource: where a task's
// credential for a connector comes from.
type CredentialSourceSpec struct {
	Description string `json:"description,omitempty"`
	// Type selects what of the rest is given.
	Type SourceType `json:"type"`
	// Of static-form, static-field, static-request, ldap and oauth: whose form, fields
	// or requests. Of static-form: which account signs in; of a static-request that is
	// taken as basic: the user. Of all static ones: the sealed password or secret;
	// of ldap in mode rotate: the password, which the boundary exchanges.
	Connector string     `json:"connector,omitempty"`
	Account   string     `json:"account,omitempty"`
	Secret    *SecretRef `json:"secret,omitempty"`
	// Of static-form, where the form asks for a one-time code: the sealed key of the
	// account's codes, an otpauth URI or base32.
	TOTP *SecretRef `json:"totp,omitempty"`
	// Of postgresql.
	PostgreSQL *PostgreSQL `json:"postgresql,omitempty"`
	// Of ssh.
	SSH *SSH `json:"ssh,omitempty"`
	// Of ldap.
	LDAP *LDAP `json:"ldap,omitempty"`
	// Of oauth.
	OAuth *OAuth `json:"oauth,omitempty"`
	// Of vault.
	Vault *Vault `json:"vault,omitempty"`
	// Of aws-sts.
	AWSSTS *AWSSTS `json:"awsSTS,omitempty"`
	// Of kubernetes.
	Kubernetes *Kubernetes `json:"kubernetes,omitempty"`
	// DeclaredRoles are roles that people have in the system behind it.
	DeclaredRoles []connector.DeclaredRole `json:"declaredRoles,omitempty"`
}

// SignsIn says that the credential is a session, got by the connector's form.
func (s *CredentialSourceSpec) SignsIn() bool { return s.Type == SourceForm || s.Type == SourceLDAP }

// Static says that the credential is a sealed secret, which no task's end changes.
func (s *CredentialSourceSpec) Static() bool {
	return s.Type == SourceField || s.Type == SourceRequest
}

// PutIn says that the credential goes into requests as the connector's takes say.
func (s *CredentialSourceSpec) PutIn() bool {
	return s.Type == SourceRequest || s.Type == SourceOAuth || s.Type == SourceAWS || s.Type == SourceKubernetes || s.Vault != nil && s.Vault.Database == nil
}

// takenAs says what is wrong with a way of taking the source's credential.
func (s *CredentialSourceSpec) takenAs(as connector.TakeAs) string {
	switch {
	case !s.PutIn():
		return fmt.Sprintf("is of type %s, whose credential goes into no request", s.Type)
	case s.Type == SourceOAuth && as != connector.AsBearer:
		return "gives a bearer token"
	case (as == connector.AsSigV4) != (s.Type == SourceAWS):
		return fmt.Sprintf("is of type %s, and sigv4 signs with a session of aws-sts, which nothing else takes", s.Type)
	case (as == connector.AsCertificate) != (s.Vault.certifies()) && s.Vault != nil:
		return "is of type vault, whose pki alone, and always, is a client certificate"
	case as == connector.AsBasic && s.Account == "":
		return "has no account, which basic needs for its user"
	case as != connector.AsBasic && s.Account != "":
		return fmt.Sprintf("has an account, which %s has no place for", as)
	}
	return ""
}

// SourceType is a kind of credential source.
type SourceType string

// The types.
const (
	SourceForm       SourceType = "static-form"    // signs in by the connector's form with a sealed password
	SourceField      SourceType = "static-field"   // a sealed secret that door 2 puts into the fields for which the connector names the source
	SourceRequest    SourceType = "static-request" // a sealed token, password or client certificate that door 2 puts into the requests for which the connector takes it
	SourcePostgreSQL SourceType = "postgresql"     // makes a role for each task
	SourceSSH        SourceType = "ssh"            // certifies a key for each task
	SourceLDAP       SourceType = "ldap"           // makes an account for each task, and signs in with it by the connector's form
	SourceOAuth      SourceType = "oauth"          // asks an authorization server for a token for each task, which door 2 puts into the requests for which the connector takes it
	SourceVault      SourceType = "vault"          // reads a secret of OpenBao or Vault for each task
	SourceAWS        SourceType = "aws-sts"        // gets a session of a role for each task
	SourceKubernetes SourceType = "kubernetes"     // gets a token of a service account for each task
)

// Values lists what may be written.
func (SourceType) Values() []string {
	return []string{string(SourceForm), string(SourceField), string(SourceRequest), string(SourcePostgreSQL), string(SourceSSH), string(SourceLDAP), string(SourceOAuth),
		string(SourceVault), string(SourceAWS), string(SourceKubernetes)}
}

// RetentionSpec is the body of a Retention.
type RetentionSpec struct {
	// Days that payloads (screenshots, bodies, prompts) are kept; records stay.
	Days int `json:"days"`
	// LegalHold keeps everything, whatever Days says.
	LegalHold bool `json:"legalHold,omitempty"`
}

// WitnessSpec is the body of a Witness: who cosigns checkpoints.
type WitnessSpec struct {
	URL string `json:"url"`
	// Key is a verifier key in the form of C2SP signed-note.
	Key string `json:"key"`
}

var (
	trustDomain = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,254}$`)
	unixUser    = regexp.MustCompile(`^[a-z_][a-z0-9_-]{0,31}$`)
	email       = regexp.MustCompile(`^[^@\s]+@[^@\s]+$`)
	originForm  = regexp.MustCompile(`^https?://[a-z0-9.-]+(:[0-9]{1,5})?$`)
)

// Validate reports what is wrong, by field path.
func (s *TenantSpec) Validate(_ string, report func(path, problem string)) {
	if !trustDomain.MatchString(s.TrustDomain) {
		report("trustDomain", "want lower-case letters, digits, dots, hyphens and underscores (SPIFFE-ID 2.1)")
	}
}

// Validate reports what is wrong, by field path.
func (s *PersonSpec) Validate(_ string, report func(path, problem string)) {
	if s.Roles == nil {
		report("roles", "want the roles of the person; [] for none")
	}
	has := map[Role]bool{}
	for i, r := range s.Roles {
		if has[r] {
			report(fmt.Sprintf("roles[%d]", i), "is given twice")
		}
		has[r] = true
	}
	// Who holds secrets grants nothing: neither access, nor rules, nor identities.
	for _, r := range []Role{RoleApprover, RolePolicy, RoleIdentity} {
		if has[RoleSecrets] && has[r] {
			report("roles", "nobody is both "+string(RoleSecrets)+" and "+string(r))
		}
	}
	if has[RoleIdentity] && has[RoleApprover] {
		report("roles", "nobody is both "+string(RoleIdentity)+" and "+string(RoleApprover))
	}
	if s.UnixUser != "" && !unixUser.MatchString(s.UnixUser) {
		report("unixUser", "want a user name of the local machine")
	}
	if s.Email != "" && !email.MatchString(s.Email) {
		report("email", "want name@domain")
	}
	for i, k := range s.SSHKeys {
		at := fmt.Sprintf("sshKeys[%d]", i)
		_, _, options, rest, err := ssh.ParseAuthorizedKey([]byte(k))
		if len(options) > 0 {
			if _, err := receipt.ParseSSHKey(k); err == nil {
				options = nil // verify-required, of a security key
			}
		}
		switch {
		case strings.Contains(k, "PRIVATE KEY"):
			report(at, "is a private key; give the public one, and replace this key")
		case err != nil || len(options) > 0 || len(rest) > 0:
			report(at, "want one public key: type, base64, comment")
		}
	}
	for i, k := range s.Passkeys {
		if _, err := k.Line(); err != nil {
			report(fmt.Sprintf("passkeys[%d]", i), err.Error())
		}
	}
}

// Resolve reads the key files.
func (s *PersonSpec) Resolve(read func(path string) ([]byte, error)) error {
	for _, f := range s.SSHKeyFiles {
		b, err := read(f)
		if err != nil {
			return fmt.Errorf("sshKeyFiles: %w", err)
		}
		for line := range strings.Lines(string(b)) {
			if line = strings.TrimSpace(line); line != "" && !strings.HasPrefix(line, "#") {
				s.SSHKeys = append(s.SSHKeys, line)
			}
		}
	}
	s.SSHKeyFiles = nil
	return nil
}

// Validate reports what is wrong, by field path.
func (s *AgentSpec) Validate(_ string, report func(path, problem string)) {
	if s.Owner == s.Deputy {
		report("deputy", "is the owner: who stands in must be another person")
	}
	if (s.Harness.Path == "") == (s.Harness.Name == "") {
		report("harness", "want path or name, and not both")
	}
	if s.Harness.Path != "" && !strings.HasPrefix(s.Harness.Path, "/") {
		report("harness.path", "want an absolute path")
	}
	if p := s.Harness.Provenance; p != nil && s.Harness.Name != "" {
		report("harness.provenance", "is of a harness by path; a built-in one is part of Sallyport's own program")
	} else if p != nil && p.File == "" && p.KeyFile == "" { // else Inline asks again
		if _, err := p.Verify(); err != nil {
			report("harness.provenance", err.Error())
		}
	}
	if m := s.Model.Signature; m != nil && m.File == "" && m.KeyFile == "" {
		if _, err := m.Verify(); err != nil {
			report("model.signature", err.Error())
		}
	}
	if !originForm.MatchString(s.Model.Endpoint) || !strings.HasPrefix(s.Model.Endpoint, "https://") {
		report("model.endpoint", "want https://host[:port]")
	}
	if s.Model.CA != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(s.Model.CA)) {
		report("model.ca", "want PEM certificates")
	}
	if problem := s.Model.Key.problem(); problem != "" {
		report("model.key.sealed", problem)
	}
	s.checkSampling(report)
	s.checkDrift(report)
	if p := s.SystemPrompt; p != nil && (p.Text == "") == (p.File == "") {
		report("systemPrompt", "want text or file, and not both")
	}
	if s.Watch != nil {
		s.Watch.validate(func(path, problem string) { report("watch."+path, problem) })
	}
	if _, err := time.Parse(time.DateOnly, s.ReviewBy); err != nil {
		report("reviewBy", "want a date like 2027-01-31")
	}
	for field, list := range map[string][]string{
		"connectors": s.Connectors, "capabilities": s.Capabilities, "policySets": s.PolicySets, "suites": s.Suites, "tools": s.Tools,
	} {
		seen := map[string]bool{}
		for i, name := range list {
			if seen[name] || name == "" {
				report(fmt.Sprintf("%s[%d]", field, i), "is empty or given twice")
			}
			seen[name] = true
		}
	}
}

// Resolve reads the prompt's file, the endpoint's roots, and what others signed.
func (s *AgentSpec) Resolve(read func(path string) ([]byte, error)) error {
	var errs []error
	if p := s.Harness.Provenance; p != nil {
		errs = append(errs, resolveText("harness.provenance.file", &p.Statement, &p.File, read), resolveText("harness.provenance.keyFile", &p.Key, &p.KeyFile, read))
	}
	if m := s.Model.Signature; m != nil {
		errs = append(errs, resolveText("model.signature.file", &m.Statement, &m.File, read), resolveText("model.signature.keyFile", &m.Key, &m.KeyFile, read))
	}
	if err := errors.Join(errs...); err != nil {
		return err
	}
	if s.Model.CAFile != "" {
		b, err := read(s.Model.CAFile)
		if err != nil {
			return fmt.Errorf("model.caFile: %w", err)
		}
		s.Model.CA, s.Model.CAFile = string(b), ""
	}
	if s.SystemPrompt == nil || s.SystemPrompt.File == "" {
		return nil
	}
	b, err := read(s.SystemPrompt.File)
	if err != nil {
		return fmt.Errorf("systemPrompt.file: %w", err)
	}
	s.SystemPrompt.Text, s.SystemPrompt.File = string(b), ""
	return nil
}

// Validate reports what is wrong, by field path: exactly the fields of the type
// are given.
func (s *CredentialSourceSpec) Validate(_ string, report func(path, problem string)) {
	form, ldap := s.Type == SourceForm, s.Type == SourceLDAP
	rotate := s.LDAP != nil && s.LDAP.Mode == LDAPRotate
	for name, f := range map[string]struct {
		given, wanted bool
		types         string
	}{
		"connector":  {s.Connector != "", form || s.Static() || s.PutIn() || ldap, "static-form, static-field, static-request, ldap, oauth, vault (kv and pki), aws-sts or kubernetes"},
		"account":    {s.Account != "", form || (s.Type == SourceRequest || s.Vault != nil && s.Vault.KV != nil) && s.Account != "", "static-form, static-request or vault (kv)"},
		"secret":     {s.Secret != nil, form || s.Static() || rotate, "static-form, static-field, static-request or ldap in mode rotate"},
		"totp":       {s.TOTP != nil, form && s.TOTP != nil, "static-form"},
		"postgresql": {s.PostgreSQL != nil, s.Type == SourcePostgreSQL, "postgresql"},
		"ssh":        {s.SSH != nil, s.Type == SourceSSH, "ssh"},
		"ldap":       {s.LDAP != nil, ldap, "ldap"},
		"oauth":      {s.OAuth != nil, s.Type == SourceOAuth, "oauth"},
		"vault":      {s.Vault != nil, s.Type == SourceVault, "vault"},
		"awsSTS":     {s.AWSSTS != nil, s.Type == SourceAWS, "aws-sts"},
		"kubernetes": {s.Kubernetes != nil, s.Type == SourceKubernetes, "kubernetes"},
	} {
		switch {
		case f.wanted && !f.given:
			report(name, "is missing")
		case f.given && !f.wanted:
			report(name, "is of type "+f.types)
		}
	}
	if (s.Type == SourceRequest || s.Type == SourceVault) && (strings.ContainsRune(s.Account, ':') || strings.ContainsFunc(s.Account, func(r rune) bool { return r < ' ' || r > '~' })) {
		report("account", "want a user name without colon, in ASCII (RFC 7617)")
	}
	for at, ref := range map[string]*SecretRef{"secret": s.Secret, "totp": s.TOTP} {
		if ref != nil && ref.problem() != "" {
			report(at+".sealed", ref.problem())
		}
	}
	if s.PostgreSQL != nil {
		s.PostgreSQL.validate(func(path, problem string) { report("postgresql."+path, problem) })
	}
	if s.SSH != nil {
		s.SSH.validate(func(path, problem string) { report("ssh."+path, problem) })
	}
	if s.LDAP != nil {
		s.LDAP.validate(func(path, problem string) { report("ldap."+path, problem) })
	}
	if s.OAuth != nil {
		s.OAuth.validate(func(path, problem string) { report("oauth."+path, problem) })
	}
	if s.Vault != nil {
		s.Vault.validate(func(path, problem string) { report(strings.TrimSuffix("vault."+path, "."), problem) })
	}
	if s.AWSSTS != nil {
		s.AWSSTS.validate(func(path, problem string) { report("awsSTS."+path, problem) })
	}
	if s.Kubernetes != nil {
		s.Kubernetes.validate(func(path, problem string) { report("kubernetes."+path, problem) })
	}
}

// Resolve reads the roots of the stages.
func (s *CredentialSourceSpec) Resolve(read func(path string) ([]byte, error)) error {
	switch {
	case s.PostgreSQL != nil:
		return s.PostgreSQL.resolve(read)
	case s.LDAP != nil:
		return s.LDAP.resolve(read)
	case s.OAuth != nil:
		return s.OAuth.resolve(read)
	case s.Vault != nil:
		return s.Vault.resolve(read)
	case s.AWSSTS != nil:
		return s.AWSSTS.resolve(read)
	case s.Kubernetes != nil:
		return resolveEndpoints("kubernetes", s.Kubernetes.Stages, read)
	}
	return nil
}

// Validate reports what is wrong, by field path.
func (s *RetentionSpec) Validate(_ string, report func(path, problem string)) {
	if s.Days < 1 || s.Days > 36500 {
		report("days", "want 1 to 36500")
	}
}

// Validate reports what is wrong, by field path.
func (s *WitnessSpec) Validate(_ string, report func(path, problem string)) {
	if !strings.HasPrefix(s.URL, "https://") && !strings.HasPrefix(s.URL, "http://127.0.0.1:") {
		report("url", "want https://")
	}
	if _, err := note.NewVerifier(s.Key); err != nil {
		report("key", "want a verifier key: name+hash+key")
	}
}

// keyMaterial is a public key without its comment.
func keyMaterial(text string) string {
	if d, err := receipt.KeyDigest(text); err == nil {
		return d
	}
	k, _, _, _, err := ssh.ParseAuthorizedKey([]byte(text))
	if err != nil {
		return text
	}
	return string(k.Marshal())
}
