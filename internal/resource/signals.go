package resource

import (
	"crypto/x509"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/connector"
)

// TransmitterSpec is an identity provider, or another source, whose security
// events about people are believed (OpenID Shared Signals Framework 1.0). They
// only take authority away.
type TransmitterSpec struct {
	Issuer   string `json:"issuer"`   // exactly as in `iss`
	Audience string `json:"audience"` // exactly as in `aud`
	// Subjects are the formats of subject identifiers (RFC 9493) that it names
	// people by: email, or iss_sub and opaque, which a Person's subjects say.
	Subjects []SubjectFormat `json:"subjects"`
	// Authorization names the sealed secret, signals/..., that the Authorization
	// header of its deliveries must be, as a whole.
	Authorization *SecretRef `json:"authorization,omitempty"`
	// Where its keys are, as for an issuer; none of them means discovery at
	// /.well-known/ssf-configuration.
	Keys     string `json:"keys,omitempty"`
	KeysFile string `json:"keysFile,omitempty"`
	KeysURL  string `json:"keysURL,omitempty"`
	CA       string `json:"ca,omitempty"`
	CAFile   string `json:"caFile,omitempty"`
}

// SubjectFormat is a format of subject identifiers (RFC 9493 section 3.2).
type SubjectFormat string

// Values lists what may be written.
func (SubjectFormat) Values() []string { return []string{"email", "iss_sub", "opaque"} }

// SubjectSpec is who a person is at a transmitter.
type SubjectSpec struct {
	Issuer  string `json:"issuer"`
	Subject string `json:"subject"`
}

// ReceiverSpec is who may have a stream of this tenant's security events.
type ReceiverSpec struct {
	Name string `json:"name"` // also the audience of its events
	// Workload is how it proves itself at the management API: a token of one of
	// the tenant's issuers or federated trust domains, made for this issuer.
	Workload WorkloadSpec `json:"workload"`
	// Push is where its stream may have events delivered, https://host/path; the
	// stream's own address begins with it. Without it events are polled for.
	Push   string `json:"push,omitempty"`
	Local  bool   `json:"local,omitempty"` // Push may be at a loopback or private address
	CA     string `json:"ca,omitempty"`    // as in FederationSpec, of Push
	CAFile string `json:"caFile,omitempty"`
}

// signals: each issuer once, every workload of what the tenant trusts, and no
// address that is not plain https.
func (v *validator) signals(r *Resource, s *TenantSpec) {
	seen := map[string]bool{}
	for i, o := range s.Transmitters {
		at := fmt.Sprintf("spec.transmitters[%d]", i)
		if seen[o.Issuer] {
			v.bad(r, at+".issuer", "is declared before")
		}
		seen[o.Issuer] = true
		if o.Audience == "" {
			v.bad(r, at+".audience", "want what its events name as aud")
		}
		if len(o.Subjects) == 0 {
			v.bad(r, at+".subjects", "want at least one of %s", strings.Join(SubjectFormat("").Values(), ", "))
		}
		if o.Authorization != nil && o.Authorization.problemIn(placeSignals) != "" {
			v.bad(r, at+".authorization.sealed", "%s", o.Authorization.problemIn(placeSignals))
		}
	}
	seen = map[string]bool{}
	for i, o := range s.Receivers {
		at := fmt.Sprintf("spec.receivers[%d]", i)
		if seen[o.Name] || o.Name == "" {
			v.bad(r, at+".name", "is empty or given twice")
		}
		seen[o.Name] = true
		v.workload(r, at+".workload", s, o.Workload)
		if u, err := url.Parse(o.Push); o.Push != "" && (err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.String() != o.Push) {
			v.bad(r, at+".push", "want https://host/path")
		}
		if o.CA != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(o.CA)) {
			v.bad(r, at+".ca", "want PEM certificates")
		}
	}
}

// subjects: of transmitters that the tenant declares.
func (v *validator) subjects(r *Resource, s *PersonSpec) {
	t, _ := Of[TenantSpec](v.all, r.Metadata.Tenant, r.Metadata.Tenant)
	for i, x := range s.Subjects {
		at := fmt.Sprintf("spec.subjects[%d]", i)
		if t == nil || !slices.ContainsFunc(t.Transmitters, func(o TransmitterSpec) bool { return o.Issuer == x.Issuer }) {
			v.bad(r, at+".issuer", "is none of the tenant's transmitters")
		}
		if x.Subject == "" {
			v.bad(r, at+".subject", "is empty")
		}
	}
}

func (v *validator) declaredRoles(r *Resource, all []connector.DeclaredRole) {
	for i, d := range all {
		at := fmt.Sprintf("spec.declaredRoles[%d]", i)
		v.refer(r, at+".person", KindPerson, d.Person)
		if d.Role == "" || len(d.Can) == 0 {
			v.bad(r, at, "want role, and what it can reach")
		}
	}
}
