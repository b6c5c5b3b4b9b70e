package resource

import (
	"fmt"
	"strings"
)

// FederationSpec is another SPIFFE trust domain whose SVIDs are verified here
// (SPIFFE Federation), and that gets ours verified by declaring us in turn.
type FederationSpec struct {
	TrustDomain string            `json:"trustDomain"`
	Endpoint    string            `json:"endpoint"` // of its bundle, https://...
	Profile     FederationProfile `json:"profile"`
	// EndpointID is the SPIFFE ID of an https_spiffe endpoint.
	EndpointID string `json:"endpointID,omitempty"`
	// CA is PEM of the only roots trusted for an https_web endpoint; CAFile is a
	// path that the client resolves into it. Neither means the machine's roots.
	CA     string `json:"ca,omitempty"`
	CAFile string `json:"caFile,omitempty"`
	// Bundle is the first bundle, as a SPIFFE bundle document; BundleFile is a
	// path that the client resolves into it.
	Bundle     string `json:"bundle,omitempty"`
	BundleFile string `json:"bundleFile,omitempty"`
}

// FederationProfile is how a bundle endpoint proves itself.
type FederationProfile string

// Values lists what may be written.
func (FederationProfile) Values() []string { return []string{"https_web", "https_spiffe"} }

// IssuerSpec is an OpenID Connect issuer whose tokens say who a workload
// elsewhere is: a CI system, a cloud, a Kubernetes cluster.
type IssuerSpec struct {
	Issuer string `json:"issuer"` // exactly as in `iss`
	// Keys is the issuer's JWK set, where it cannot be fetched; KeysFile is a path
	// that the client resolves into it. KeysURL is where it is, if not on the
	// issuer's own host. None of them means discovery.
	Keys     string `json:"keys,omitempty"`
	KeysFile string `json:"keysFile,omitempty"`
	KeysURL  string `json:"keysURL,omitempty"`
	CA       string `json:"ca,omitempty"` // as in FederationSpec
	CAFile   string `json:"caFile,omitempty"`
}

// WorkloadSpec is a workload elsewhere that may act for the agent's running
// tasks: by its SPIFFE ID in a trust domain that the tenant federates with, or by
// issuer and claims, each of which must have exactly this value.
type WorkloadSpec struct {
	SPIFFEID string            `json:"spiffeID,omitempty"`
	Issuer   string            `json:"issuer,omitempty"`
	Claims   map[string]string `json:"claims,omitempty"` // by name, or by JSON pointer
	// SVID names the workload in SVIDs of a task, .../agent/A/task/T/workload/SVID;
	// empty means that it gets tokens and no SVIDs.
	SVID string `json:"svid,omitempty"`
}

// IdentitySource is who issues the SVIDs of a tenant's agents.
type IdentitySource string

// The sources.
const (
	IdentityOwn   IdentitySource = "sallyport" // one for each task
	IdentitySPIRE IdentitySource = "spire"     // one for each agent, of the SPIRE agent on this machine
)

// Values lists what may be written.
func (IdentitySource) Values() []string { return []string{string(IdentityOwn), string(IdentitySPIRE)} }

// Resolve reads the files of federations and issuers.
func (s *TenantSpec) Resolve(read func(path string) ([]byte, error)) error {
	take := func(field string, path, into *string) error {
		if *path == "" {
			return nil
		}
		b, err := read(*path)
		if err != nil {
			return fmt.Errorf("%s: %w", field, err)
		}
		*into, *path = string(b), ""
		return nil
	}
	for i := range s.FederatesWith {
		f := &s.FederatesWith[i]
		if err := take(fmt.Sprintf("federatesWith[%d].caFile", i), &f.CAFile, &f.CA); err != nil {
			return err
		}
		if err := take(fmt.Sprintf("federatesWith[%d].bundleFile", i), &f.BundleFile, &f.Bundle); err != nil {
			return err
		}
	}
	for i := range s.Issuers {
		o := &s.Issuers[i]
		if err := take(fmt.Sprintf("issuers[%d].caFile", i), &o.CAFile, &o.CA); err != nil {
			return err
		}
		if err := take(fmt.Sprintf("issuers[%d].keysFile", i), &o.KeysFile, &o.Keys); err != nil {
			return err
		}
	}
	for i := range s.Transmitters {
		o := &s.Transmitters[i]
		if err := take(fmt.Sprintf("transmitters[%d].caFile", i), &o.CAFile, &o.CA); err != nil {
			return err
		}
		if err := take(fmt.Sprintf("transmitters[%d].keysFile", i), &o.KeysFile, &o.Keys); err != nil {
			return err
		}
	}
	for i := range s.Receivers {
		o := &s.Receivers[i]
		if err := take(fmt.Sprintf("receivers[%d].caFile", i), &o.CAFile, &o.CA); err != nil {
			return err
		}
	}
	for i := range s.Notify {
		o := &s.Notify[i]
		if err := take(fmt.Sprintf("notify[%d].caFile", i), &o.CAFile, &o.CA); err != nil {
			return err
		}
	}
	return nil
}

// workloads: each is declared one way, by what the tenant trusts.
func (v *validator) workloads(r *Resource, s *AgentSpec) {
	t, ok := Of[TenantSpec](v.all, r.Metadata.Tenant, r.Metadata.Tenant)
	if !ok {
		return
	}
	switch own := "spiffe://" + t.TrustDomain + "/"; {
	case t.Identity != IdentitySPIRE && s.SPIFFEID != "":
		v.bad(r, "spec.spiffeID", "is for a tenant whose SVIDs are SPIRE's: identity: spire")
	case t.Identity == IdentitySPIRE && (!strings.HasPrefix(s.SPIFFEID, own) || len(s.SPIFFEID) == len(own)):
		v.bad(r, "spec.spiffeID", "want the SPIFFE ID that SPIRE gives the agent: %s...", own)
	case v.spiffeIDs[s.SPIFFEID] != "":
		// Each could act, and be ended, as the other.
		v.bad(r, "spec.spiffeID", "is the ID of Agent/%s: register another at SPIRE, and name it here", v.spiffeIDs[s.SPIFFEID])
	case s.SPIFFEID != "":
		v.spiffeIDs[s.SPIFFEID] = r.Metadata.Name
	}
	named := map[string]bool{}
	for i, w := range s.Workloads {
		at := fmt.Sprintf("spec.workloads[%d]", i)
		switch {
		case w.SVID != "" && t.Identity == IdentitySPIRE:
			v.bad(r, at+".svid", "SVIDs of this tenant are SPIRE's")
		case w.SVID != "" && !secretName.MatchString(w.SVID), strings.Contains(w.SVID, "/"):
			v.bad(r, at+".svid", "want lower-case letters, digits and hyphens")
		case named[w.SVID]:
			v.bad(r, at+".svid", "is the name of another workload")
		}
		named[w.SVID] = w.SVID != ""
		v.workload(r, at, t, w)
	}
}

func (v *validator) workload(r *Resource, at string, t *TenantSpec, w WorkloadSpec) {
	switch {
	case (w.SPIFFEID == "") == (w.Issuer == ""):
		v.bad(r, at, "want spiffeID, or issuer and claims, and not both")
	case w.SPIFFEID != "" && len(w.Claims) > 0:
		v.bad(r, at+".claims", "are for an issuer")
	case w.SPIFFEID != "" && !t.federates(w.SPIFFEID):
		v.bad(r, at+".spiffeID", "is of no trust domain that the tenant federates with")
	case w.Issuer != "" && !t.trusts(w.Issuer):
		v.bad(r, at+".issuer", "is none of the tenant's issuers")
	case w.Issuer != "" && w.Claims["sub"] == "":
		// Every workload of an issuer would be the same one.
		v.bad(r, at+".claims", "want at least sub")
	}
}

func (s *TenantSpec) federates(id string) bool {
	if s.Identity == IdentitySPIRE && strings.HasPrefix(id, "spiffe://"+s.TrustDomain+"/") {
		return true // another workload of the same SPIRE
	}
	for _, f := range s.FederatesWith {
		if p := "spiffe://" + f.TrustDomain + "/"; len(id) > len(p) && id[:len(p)] == p {
			return true
		}
	}
	return false
}

func (s *TenantSpec) trusts(issuer string) bool {
	for _, o := range s.Issuers {
		if o.Issuer == issuer {
			return true
		}
	}
	return false
}
