package resource

import (
	"crypto/x509"
	"fmt"
)

// TargetSpec is who is told what happens in the tenant: a webhook that takes
// CloudEvents 1.0, or a mail server.
type TargetSpec struct {
	Name string `json:"name"`
	// URL is https://host/path of a webhook, or a mail server: smtp://host[:port],
	// which must offer STARTTLS unless it is on loopback, or smtps://host[:port].
	URL string `json:"url"`
	// Events are types, or beginnings of types that end in *. Without it these are
	// all but approvals.
	Events []string `json:"events,omitempty"`
	Local  bool     `json:"local,omitempty"` // may be at a loopback or private address
	CA     string   `json:"ca,omitempty"`    // as in FederationSpec
	CAFile string   `json:"caFile,omitempty"`
	// Signature names the sealed secret, notify/..., by which a webhook's events are
	// signed (Standard Webhooks, whsec_...); Authorization one that is the header of
	// that name, as a whole.
	Signature     *SecretRef `json:"signature,omitempty"`
	Authorization *SecretRef `json:"authorization,omitempty"`
	Mail          *MailSpec  `json:"mail,omitempty"`
}

// MailSpec is what a mail server needs beside its address.
type MailSpec struct {
	From string `json:"from"`
	// To gets all events but requests for approval, which go to the people who may
	// answer them, by their email.
	To       []string   `json:"to,omitempty"`
	Username string     `json:"username,omitempty"`
	Password *SecretRef `json:"password,omitempty"`
}

// notify: what the engine that tells them cannot see of them.
func (v *validator) notify(r *Resource, s *TenantSpec) {
	seen := map[string]bool{}
	for i, o := range s.Notify {
		at := fmt.Sprintf("spec.notify[%d]", i)
		if !kindNames.MatchString(o.Name) {
			v.bad(r, at+".name", "want lower-case letters, digits and hyphens")
		}
		if seen[o.Name] {
			v.bad(r, at+".name", "is given twice")
		}
		seen[o.Name] = true
		if o.CA != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(o.CA)) {
			v.bad(r, at+".ca", "want PEM certificates")
		}
		secrets := map[string]*SecretRef{"signature": o.Signature, "authorization": o.Authorization}
		if o.Mail != nil {
			secrets["mail.password"] = o.Mail.Password
		}
		for _, field := range []string{"signature", "authorization", "mail.password"} {
			if ref := secrets[field]; ref != nil && ref.problemIn(PlaceNotify) != "" {
				v.bad(r, at+"."+field+".sealed", "%s", ref.problemIn(PlaceNotify))
			}
		}
	}
}
