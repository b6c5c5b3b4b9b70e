package resource

import (
	"crypto/x509"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/action"
)

// OAuth is the block of a CredentialSource that asks an authorization server for a
// token for each task.
type OAuth struct {
	Grant OAuthGrant `json:"grant"`
	// Auth is how the boundary authenticates as the client.
	Auth OAuthAuth `json:"auth"`
	// ClientID is the server's name for the client; with private_key_jwt it may be
	// left out, and is the SPIFFE ID of the agent.
	ClientID string     `json:"clientID,omitempty"`
	Secret   *SecretRef `json:"secret,omitempty"` // of client_secret_basic
	// AssertionAudience is whom the assertion of private_key_jwt is for; left out, it
	// is the issuer.
	AssertionAudience OAuthAudience `json:"assertionAudience,omitempty"`
	Scope             []string      `json:"scope,omitempty"`
	Resource          []string      `json:"resource,omitempty"` // RFC 8707
	// LifeSeconds is the longest that a token may live; 0 is 3600. Of a server that
	// cannot end its tokens, or cannot tell, at most 300.
	LifeSeconds int64 `json:"lifeSeconds,omitempty"`
	// Probe is a GET at the connector's origin that tells a live token from a dead one.
	Probe  *OAuthProbe                 `json:"probe,omitempty"`
	Stages map[action.Stage]OAuthStage `json:"stages"`
}

// OAuthProbe is the request, and its status for a dead token.
type OAuthProbe struct {
	Path   string `json:"path"`
	Status int    `json:"status"`
}

// OAuthStage is the authorization server of a stage: its endpoints are found by its
// metadata (RFC 8414).
type OAuthStage struct {
	Issuer string `json:"issuer"`
	// CA is PEM of the only roots trusted for it; CAFile is a path that the
	// client resolves into CA. Neither means the machine's roots.
	CA     string `json:"ca,omitempty"`
	CAFile string `json:"caFile,omitempty"`
}

// OAuthGrant is how a token is asked for.
type OAuthGrant string

// Values lists what may be written.
func (OAuthGrant) Values() []string { return []string{"client_credentials", "token_exchange"} }

// OAuthAuth is a token endpoint authentication method (RFC 7591 section 2).
type OAuthAuth string

// The methods.
const (
	AuthPrivateKeyJWT     OAuthAuth = "private_key_jwt"
	AuthClientSecretBasic OAuthAuth = "client_secret_basic"
)

// Values lists what may be written.
func (OAuthAuth) Values() []string {
	return []string{string(AuthPrivateKeyJWT), string(AuthClientSecretBasic)}
}

// OAuthAudience is whom an assertion names (RFC 7523 section 3). Its issuer is what
// no other server takes for itself; some servers want the endpoint's URL.
type OAuthAudience string

// The audiences.
const (
	AudienceIssuer   OAuthAudience = "issuer"
	AudienceEndpoint OAuthAudience = "endpoint"
)

// Values lists what may be written.
func (OAuthAudience) Values() []string {
	return []string{string(AudienceIssuer), string(AudienceEndpoint)}
}

// Life is the longest that a token is taken for, in seconds.
func (o *OAuth) Life() int64 {
	if o.LifeSeconds == 0 {
		return 3600
	}
	return o.LifeSeconds
}

// scopeToken is RFC 6749 section 3.3.
var scopeToken = regexp.MustCompile(`^[\x21\x23-\x5b\x5d-\x7e]+$`)

func (o *OAuth) validate(report func(path, problem string)) {
	switch basic := o.Auth == AuthClientSecretBasic; {
	case basic && o.Secret == nil:
		report("secret", "is missing")
	case basic && o.ClientID == "":
		report("clientID", "is missing")
	case !basic && o.Secret != nil:
		report("secret", "is of client_secret_basic")
	case basic && o.AssertionAudience != "":
		report("assertionAudience", "is of private_key_jwt")
	case o.Secret != nil && o.Secret.problem() != "":
		report("secret.sealed", o.Secret.problem())
	}
	if len(o.ClientID) > 255 || strings.ContainsFunc(o.ClientID, func(r rune) bool { return r < ' ' || r > '~' }) {
		report("clientID", "want at most 255 characters of ASCII")
	}
	for i, s := range o.Scope {
		if !scopeToken.MatchString(s) {
			report(fmt.Sprintf("scope[%d]", i), "want one scope (RFC 6749 section 3.3)")
		}
	}
	for i, s := range o.Resource {
		if u, err := url.Parse(s); err != nil || !u.IsAbs() || strings.Contains(s, "#") {
			report(fmt.Sprintf("resource[%d]", i), "want an absolute URI without fragment (RFC 8707)")
		}
	}
	if o.LifeSeconds != 0 && (o.LifeSeconds < 10 || o.LifeSeconds > 86400) {
		report("lifeSeconds", "want 10 to 86400")
	}
	if p := o.Probe; p != nil {
		if u, err := url.Parse(p.Path); err != nil || !strings.HasPrefix(p.Path, "/") || strings.HasPrefix(p.Path, "//") || u.Host != "" || u.Fragment != "" {
			report("probe.path", "want a path at the connector's origin")
		}
		if p.Status < 400 || p.Status > 499 {
			report("probe.status", "want the status that a dead token is answered with, as 401")
		}
	}
	if len(o.Stages) == 0 {
		report("stages", "want at least one stage")
	}
	for _, stage := range slices.Sorted(maps.Keys(o.Stages)) {
		at, s := "stages."+string(stage), o.Stages[stage]
		if _, err := action.ParseStage(string(stage)); err != nil {
			report(at, err.Error())
		}
		if u, err := url.Parse(s.Issuer); err != nil || u.Host == "" || u.Scheme != "https" && u.Scheme != "http" {
			report(at+".issuer", "want https://host[:port][/path]")
		}
		if s.CA != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(s.CA)) {
			report(at+".ca", "want PEM certificates")
		}
	}
}

// resolve reads the roots of the stages.
func (o *OAuth) resolve(read func(path string) ([]byte, error)) error {
	for _, stage := range slices.Sorted(maps.Keys(o.Stages)) {
		st := o.Stages[stage]
		if st.CAFile == "" {
			continue
		}
		b, err := read(st.CAFile)
		if err != nil {
			return fmt.Errorf("oauth.stages.%s.caFile: %w", stage, err)
		}
		st.CA, st.CAFile = string(b), ""
		o.Stages[stage] = st
	}
	return nil
}
