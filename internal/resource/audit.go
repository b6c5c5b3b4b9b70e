package resource

import (
	"fmt"
	"slices"

	"github.com/sallyport-dev/sallyport/internal/capability"
	"github.com/sallyport-dev/sallyport/internal/connector"
)

// audit: what reads the log is this connector's, and no task is given it: who acts must
// not be who is asked about it.
func (v *validator) audit(r *Resource, s *connector.Spec) {
	if s.Audit == nil {
		return
	}
	const at = "spec.audit.credential.source"
	name := s.Audit.Credential.Source
	for account, source := range s.Audit.Accounts {
		if at := "spec.audit.accounts." + account; v.refer(r, at, KindCredentialSource, source) && source == name {
			v.bad(r, at, "%s is what the log is read with", source)
		}
	}
	src, ok := Of[CredentialSourceSpec](v.all, r.Metadata.Tenant, name)
	if !ok {
		return // it comes later, as one that requests take; until then the log is not read
	}
	switch {
	case src.Connector != r.Metadata.Name:
		v.bad(r, at, "%s is not for this connector", name)
	case src.Type != SourceRequest:
		v.bad(r, at, "%s is of type %s, and the log is read with a static-request", name, src.Type)
	case src.takenAs(s.Audit.Credential.As) != "":
		v.bad(r, "spec.audit.credential.as", "%s %s", name, src.takenAs(s.Audit.Credential.As))
	case len(s.TakesOf(name)) > 0:
		v.bad(r, at, "requests of tasks take %s: read the log with a credential of its own", name)
	}
	for _, o := range v.all {
		if c, ok := o.Spec.(*capability.Spec); ok && o.Metadata.Tenant == r.Metadata.Tenant {
			if i := slices.Index(c.Credentials, name); i >= 0 {
				v.bad(&o, fmt.Sprintf("spec.credentials[%d]", i), "%s is what the boundary reads an audit log with, and no task is given it", name)
			}
		}
	}
}
