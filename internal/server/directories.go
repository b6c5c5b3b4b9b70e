package server

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/lease"
	"github.com/sallyport-dev/sallyport/internal/lease/ldap"
	"github.com/sallyport-dev/sallyport/internal/resource"
)

// directory makes the source of a stage's accounts. It holds nothing.
func (t *tenant) directory(src *resource.CredentialSourceSpec, stage action.Stage) (lease.Accounts, error) {
	spec := src.LDAP
	st, ok := spec.Stages[stage]
	if !ok {
		return nil, fmt.Errorf("there is no directory in stage %s", stage)
	}
	c := ldap.Config{URL: st.URL, Admin: spec.Admin.DN, Base: st.Base, Groups: st.Groups, Dial: dialLocal,
		Password: func(ctx context.Context) ([]byte, error) { return t.stageSecret(ctx, spec.Admin.Secret, stage) }}
	if st.CA != "" {
		c.TLS = &tls.Config{MinVersion: tls.VersionTLS12, RootCAs: x509.NewCertPool()}
		if !c.TLS.RootCAs.AppendCertsFromPEM([]byte(st.CA)) {
			return nil, fmt.Errorf("ca of %s is not PEM", st.URL)
		}
	}
	if spec.Mode == resource.LDAPRotate {
		return ldap.NewRotation(c, st.Account, st.Login, passwords{t, src.Secret, stage}), nil
	}
	return ldap.New(c), nil
}

// accountOf is who a lease acts as, for its record.
func accountOf(src *resource.CredentialSourceSpec) string {
	if src.LDAP != nil && src.LDAP.Mode == resource.LDAPRotate {
		return "a service account, exchanged afterwards"
	}
	if src.LDAP != nil {
		return "an account of its own"
	}
	return src.Account
}

// keep puts a session into the jar, for its origin. No application should know the
// password of a task's account; if one shows it, it is replaced as any other.
func (s *session) keep(src *resource.CredentialSourceSpec, l lease.Lease, credential []byte) error {
	if src.LDAP == nil {
		return s.jar.add(l, credential)
	}
	cookies, account, err := lease.ParseAccount(credential)
	if err != nil {
		return err
	}
	_, password, err := ldap.Account(account)
	if err != nil {
		return err
	}
	s.jar.secret([]byte(password))
	return s.jar.add(l, cookies)
}
