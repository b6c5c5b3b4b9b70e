package resource

import (
	"crypto/x509"
	"fmt"
	"maps"
	"net"
	"net/url"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/action"
)

// LDAP is the block of a CredentialSource with whose account of a directory the
// boundary signs in to the connector: one that is made for each task, or one that is
// there and has another password after each.
type LDAP struct {
	Mode   LDAPMode                   `json:"mode,omitempty"`
	Admin  LDAPAdmin                  `json:"admin"`
	Stages map[action.Stage]LDAPStage `json:"stages"`
}

// LDAPMode is what happens to accounts.
type LDAPMode string

// LDAPRotate is for a service account; the zero value is an account for each task.
const LDAPRotate LDAPMode = "rotate"

// Values lists what may be written.
func (LDAPMode) Values() []string { return []string{string(LDAPRotate)} }

// LDAPAdmin makes and deletes the accounts, or sets their passwords.
type LDAPAdmin struct {
	DN     string     `json:"dn"`
	Secret *SecretRef `json:"secret"`
}

// LDAPStage is where the directory of a stage is, and what an account is in it.
type LDAPStage struct {
	// URL is ldaps://HOST[:PORT], ldap://HOST[:PORT] (StartTLS is used, always), or
	// ldapi:// and the path of a socket with %2F for /.
	URL string `json:"url"`
	// Base is the entry under which accounts are made. Nothing else is in it.
	Base string `json:"base,omitempty"`
	// Account is the service account of mode rotate, and Login the name with which it
	// signs in to the connector.
	Account string `json:"account,omitempty"`
	Login   string `json:"login,omitempty"`
	// Groups are those that each account is a member of.
	Groups []string `json:"groups,omitempty"`
	// CA is PEM of the only roots trusted for it; CAFile is a path that the
	// client resolves into CA. Neither means the machine's roots.
	CA     string `json:"ca,omitempty"`
	CAFile string `json:"caFile,omitempty"`
}

// ldapURL says what is wrong with a directory's URL. The client of it, which is
// internal/lease/ldap, reads it again.
func ldapURL(text string) (socket bool, problem string) {
	const want = "want ldaps://HOST:PORT, ldap://HOST:PORT (StartTLS is used) or ldapi:// and a socket's path with %2F for /"
	if at, ok := strings.CutPrefix(text, "ldapi://"); ok {
		file, err := url.PathUnescape(at)
		if err != nil || strings.ContainsAny(at, "/?#") || !path.IsAbs(file) || path.Clean(file) != file || strings.ContainsRune(file, 0) {
			return true, want
		}
		return true, ""
	}
	scheme, at, _ := strings.Cut(text, "://")
	host, port := at, "636"
	if h, p, err := net.SplitHostPort(at); err == nil {
		host, port = h, p
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 || scheme != "ldap" && scheme != "ldaps" || !hostForm.MatchString(host) {
		return false, want
	}
	return false, ""
}

// plainDN refuses what cannot be a DN. The directory reads it in full.
func plainDN(s string) string {
	if len(s) > 1024 || !strings.Contains(s, "=") {
		return "want a DN, as in ou=tasks,dc=example"
	}
	return ""
}

func (l *LDAP) validate(report func(path, problem string)) {
	if l.Admin.Secret == nil {
		report("admin.secret", "is missing")
	} else if problem := l.Admin.Secret.problem(); problem != "" {
		report("admin.secret.sealed", problem)
	}
	dns := map[string]string{"admin.dn": l.Admin.DN}
	if len(l.Stages) == 0 {
		report("stages", "want at least one stage")
	}
	for _, stage := range slices.Sorted(maps.Keys(l.Stages)) {
		at, s := "stages."+string(stage), l.Stages[stage]
		if _, err := action.ParseStage(string(stage)); err != nil {
			report(at, err.Error())
		}
		socket, problem := ldapURL(s.URL)
		if problem != "" {
			report(at+".url", problem)
		}
		if socket && (s.CA != "" || s.CAFile != "") {
			report(at, "a Unix socket has no TLS: leave ca out")
		}
		if s.CA != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(s.CA)) {
			report(at+".ca", "want PEM certificates")
		}
		if l.Mode == LDAPRotate {
			dns[at+".account"] = s.Account
			if s.Login == "" {
				report(at+".login", "is missing")
			}
			if s.Base != "" || len(s.Groups) > 0 {
				report(at, "base and groups are of accounts that are made for a task")
			}
			continue
		}
		if s.Account != "" || s.Login != "" {
			report(at, "account and login are of mode rotate")
		}
		dns[at+".base"] = s.Base
		for i, g := range s.Groups {
			dns[fmt.Sprintf("%s.groups[%d]", at, i)] = g
		}
	}
	for _, at := range slices.Sorted(maps.Keys(dns)) {
		if problem := plainDN(dns[at]); problem != "" {
			report(at, problem)
		}
	}
}

// resolve reads the roots of the stages.
func (l *LDAP) resolve(read func(path string) ([]byte, error)) error {
	for _, stage := range slices.Sorted(maps.Keys(l.Stages)) {
		st := l.Stages[stage]
		if st.CAFile == "" {
			continue
		}
		b, err := read(st.CAFile)
		if err != nil {
			return fmt.Errorf("ldap.stages.%s.caFile: %w", stage, err)
		}
		st.CA, st.CAFile = string(b), ""
		l.Stages[stage] = st
	}
	return nil
}
