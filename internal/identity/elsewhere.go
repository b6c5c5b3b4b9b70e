package identity

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/rsa"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"

	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/reach"
)

// OIDC is an issuer of identities for workloads elsewhere: a CI system, a cloud,
// a Kubernetes cluster.
type OIDC struct {
	Issuer string `json:"issuer"` // exactly as in `iss`
	// Keys is a JWK set brought by hand, for an issuer that cannot be reached.
	Keys string `json:"keys,omitempty"`
	// KeysURL is where the set is, if not where discovery on the issuer's own host says.
	KeysURL string `json:"keysURL,omitempty"`
	Roots   string `json:"roots,omitempty"` // PEM; empty means the machine's
}

// Elsewhere declares one workload that is not launched here: by its SPIFFE ID in
// a trust domain that the tenant federates with, or by its issuer and claims.
type Elsewhere struct {
	SPIFFEID string `json:"spiffeID,omitempty"`
	Issuer   string `json:"issuer,omitempty"`
	// Claims must have exactly these values: by name, or by JSON pointer (RFC
	// 6901) for a claim inside another.
	Claims map[string]string `json:"claims,omitempty"`
	// SVID names the workload in SVIDs of a task; empty means that it gets none.
	SVID string `json:"svid,omitempty"`
}

// Limits of an issuer's keys.
const (
	keysLife  = time.Hour        // after it they are fetched again
	keysAgain = 30 * time.Second // the least time between two fetches, whatever kid is asked for
	maxKeys   = 64
)

// Check says what is wrong with a declaration, beside its field.
func (o OIDC) Check() (field, problem string) {
	bad := func(s string) bool {
		u, err := url.Parse(s)
		return err != nil || u.Scheme != "https" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != ""
	}
	switch {
	case bad(o.Issuer):
		return "issuer", "want https://host/path, exactly as the tokens say"
	case o.Keys != "" && o.KeysURL != "":
		return "keysURL", "want keys or keysURL, and not both"
	case o.KeysURL != "" && bad(o.KeysURL):
		return "keysURL", "want https://host/path"
	case o.Roots != "" && !x509.NewCertPool().AppendCertsFromPEM([]byte(o.Roots)):
		return "ca", "want PEM certificates"
	}
	if o.Keys != "" {
		if _, err := parseKeys([]byte(o.Keys)); err != nil {
			return "keys", err.Error()
		}
	}
	return "", ""
}

// oidc is one issuer with its keys.
type oidc struct {
	OIDC
	document string // where discovery is
	client   *http.Client

	mu    sync.Mutex // held while keys are fetched: one fetch at a time
	keys  map[string]crypto.PublicKey
	read  time.Time
	tried time.Time
}

// issuers are those that the tenant trusts, by the exact name.
type issuers struct {
	mu sync.Mutex
	by map[string]*oidc
}

// Trust sets the issuers whose tokens say who a workload elsewhere is. One that
// is left out is unknown from then on.
func (i *Issuer) Trust(all []OIDC) error {
	i.issuers.mu.Lock()
	defer i.issuers.mu.Unlock()
	next := map[string]*oidc{}
	for _, o := range all {
		if field, problem := o.Check(); field != "" {
			return fmt.Errorf("issuer %q: %s: %s", o.Issuer, field, problem)
		}
		if old := i.issuers.by[o.Issuer]; old != nil && old.OIDC == o {
			next[o.Issuer] = old
			continue
		}
		x := newOIDC(o)
		next[o.Issuer] = x
	}
	i.issuers.by = next
	return nil
}

func newOIDC(o OIDC) *oidc {
	x := &oidc{OIDC: o, document: o.Issuer + "/.well-known/openid-configuration"}
	x.client = &http.Client{Timeout: fetchLimit, Transport: &http.Transport{TLSClientConfig: reach.TLS(o.Roots), DisableKeepAlives: true, MaxResponseHeaderBytes: 16 << 10},
		CheckRedirect: func(*http.Request, []*http.Request) error {
			return errors.New("the issuer redirects, which is not followed")
		}}
	if o.Keys != "" {
		x.keys, _ = parseKeys([]byte(o.Keys))
	}
	return x
}

var errNoKey = refuse("unknown_key", "the token names no key of its issuer")

// find returns a key of the issuer; one that is not known makes it look again,
// but not more often than keysAgain. errNoKey is the word of a set that was fetched
// on this account; where none was, it is ErrUnavailable.
func (o *oidc) find(ctx context.Context, kid string, now time.Time) (crypto.PublicKey, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	k, ok := o.keys[kid]
	switch {
	case ok && (o.OIDC.Keys != "" || now.Sub(o.read) < keysLife):
		return k, nil
	case o.OIDC.Keys != "":
		return nil, errNoKey
	case now.Sub(o.tried) < keysAgain:
		return nil, fmt.Errorf("%w: the keys of %s were asked for less than %s ago", ErrUnavailable, o.Issuer, keysAgain)
	}
	o.tried = now
	keys, err := o.fetch(context.WithoutCancel(ctx)) // who asked may go; others wait for the keys
	if err != nil {
		return nil, fmt.Errorf("%w: the keys of %s: %w", ErrUnavailable, o.Issuer, err)
	}
	o.keys, o.read = keys, now
	if k, ok = keys[kid]; !ok {
		return nil, errNoKey
	}
	return k, nil
}

func (o *oidc) fetch(ctx context.Context) (map[string]crypto.PublicKey, error) {
	at := o.KeysURL
	if at == "" {
		doc, err := o.get(ctx, o.document)
		if err != nil {
			return nil, err
		}
		var d map[string]canon.Value
		if err := canon.Unmarshal(doc, maxBundle, &d); err != nil {
			return nil, err
		}
		if iss, _ := text(d["issuer"]); iss != o.Issuer {
			return nil, errors.New("the discovery document is of another issuer")
		}
		at, _ = text(d["jwks_uri"])
		// A document could send us anywhere; whoever declares the issuer may.
		a, err := url.Parse(at)
		if own, _ := url.Parse(o.Issuer); err != nil || a.Scheme != "https" || a.Host != own.Host {
			return nil, errors.New("the discovery document names keys on another host: declare keysURL")
		}
	}
	doc, err := o.get(ctx, at)
	if err != nil {
		return nil, err
	}
	return parseKeys(doc)
}

func (o *oidc) get(ctx context.Context, at string) ([]byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, at, nil)
	if err != nil {
		return nil, err
	}
	resp, err := o.client.Do(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxBundle+1))
	if err == nil && (resp.StatusCode != http.StatusOK || len(b) > maxBundle) {
		err = fmt.Errorf("%s answers %d", at, resp.StatusCode)
	}
	return b, err
}

// parseKeys reads a JWK set: its public EC and RSA keys that have a kid and are
// for signatures. Others are left out, since issuers publish such; a private or
// symmetric key is a mistake that ends the trust in all.
func parseKeys(doc []byte) (map[string]crypto.PublicKey, error) {
	var strict map[string]canon.Value
	var set []jose.JSONWebKey
	if err := canon.Unmarshal(doc, maxBundle, &strict); err != nil {
		return nil, errors.New("the key set is not strict JSON")
	}
	if err := canon.Unmarshal(strict["keys"], maxBundle, &set); err != nil || len(set) > maxKeys {
		return nil, errors.New("the key set cannot be read")
	}
	out := map[string]crypto.PublicKey{}
	for _, k := range set {
		switch pub := k.Key.(type) {
		case *ecdsa.PublicKey:
		case *rsa.PublicKey:
			if pub.N.BitLen() < 2048 {
				continue
			}
		default:
			if !k.IsPublic() {
				return nil, errors.New("the key set holds a key that is not public")
			}
			continue
		}
		if k.KeyID == "" || k.Use != "" && k.Use != "sig" {
			continue
		}
		if _, twice := out[k.KeyID]; twice {
			return nil, errors.New("the key set has two keys of one kid")
		}
		out[k.KeyID] = k.Key
	}
	if len(out) == 0 {
		return nil, errors.New("the key set has no key that can be used")
	}
	return out, nil
}

// verifyOIDC checks a token of an issuer that the tenant trusts, addressed to
// this issuer.
func (i *Issuer) verifyOIDC(ctx context.Context, token string) (Foreign, error) {
	return i.verifyForeign(ctx, token, i.cfg.IssuerURL, func(c map[string]canon.Value) (string, findKey, error) {
		iss, _ := text(c["iss"])
		i.issuers.mu.Lock()
		o := i.issuers.by[iss]
		i.issuers.mu.Unlock()
		if o == nil {
			return "", nil, refuse("unknown_issuer", "the token's issuer is not one that the tenant declares")
		}
		return iss, func(kid string) (crypto.PublicKey, error) {
			k, err := o.find(ctx, kid, i.cfg.Now())
			if err != nil { // who asks for a token can ask again; there is no other answer to them
				return nil, errNoKey
			}
			return k, nil
		}, nil
	})
}

// Outside says who shows a token that is addressed to this issuer: a workload of
// a federated trust domain, or of a declared issuer.
func (i *Issuer) Outside(ctx context.Context, token string) (Foreign, error) {
	if strings.Contains(subjectUnverified(token), "spiffe://") {
		return i.VerifyForeignJWT(ctx, token, i.cfg.IssuerURL)
	}
	return i.verifyOIDC(ctx, token)
}

// elsewhere exchanges the identity of a workload that is not launched here for a
// token of a running task, if the task's agent declares that workload. It acts
// for the task (`act`), and is not the task.
func (i *Issuer) elsewhere(ctx context.Context, r Request) (order, error) {
	f, err := i.Outside(ctx, r.SubjectToken)
	if err != nil {
		return order{}, err
	}
	none := refuse("not_declared", "the task's agent does not declare this workload, or no such task runs")
	if err := i.tasks.check(r.Task); err != nil {
		return order{}, none
	}
	o, err := i.root(ctx, Workload{Tenant: i.log.Tenant(), Task: r.Task})
	if err != nil {
		return order{}, none
	}
	n := slices.IndexFunc(o.grant.Elsewhere, func(e Elsewhere) bool { return e.Is(f) })
	if n < 0 {
		return order{}, none
	}
	o.w.Agent = o.grant.Agent
	id, err := i.idOf(o.w)
	if err != nil {
		return order{}, err
	}
	o.subject, o.client, o.notAfter = id.String(), f.name(), f.Expires
	o.act = &actor{Subject: f.name()}
	o.svid = o.grant.Elsewhere[n].SVID
	o.by, o.selectors = "elsewhere", append([]string{"launch:task:" + r.Task}, o.grant.Elsewhere[n].selectors()...)
	return o, nil
}

// subjectUnverified is only used to choose the way of verification.
func subjectUnverified(token string) string {
	var c map[string]canon.Value
	parts := strings.SplitN(token, ".", 3)
	if len(token) > maxToken || len(parts) != 3 || decodePart(parts[1], &c) != nil {
		return ""
	}
	s, _ := text(c["sub"])
	return s
}

// name is how somebody else is called in a chain of actors: a SPIFFE ID, or
// issuer and subject.
func (f Foreign) name() string {
	if strings.HasPrefix(f.ID, "spiffe://") {
		return f.ID
	}
	return f.Issuer + "#" + f.ID
}

// Is reports whether a verified token is of this workload.
func (e Elsewhere) Is(f Foreign) bool {
	if e.SPIFFEID != "" {
		return e.Issuer == "" && e.SPIFFEID == f.ID
	}
	if e.Issuer == "" || e.Issuer != f.Issuer || len(e.Claims) == 0 {
		return false
	}
	for name, want := range e.Claims {
		if got, ok := claim(f.Claims, name); !ok || got != want {
			return false
		}
	}
	return true
}

// claim is a claim as text: a string, or a boolean or whole number as it is written.
func claim(c map[string]canon.Value, name string) (string, bool) {
	path := []string{name}
	if rest, ok := strings.CutPrefix(name, "/"); ok {
		path = strings.Split(rest, "/")
	}
	for n, p := range path {
		v, ok := c[strings.NewReplacer("~1", "/", "~0", "~").Replace(p)]
		if !ok {
			return "", false
		}
		if n < len(path)-1 {
			c = nil
			if canon.Unmarshal(v, maxToken, &c) != nil {
				return "", false
			}
			continue
		}
		if s, ok := text(v); ok {
			return s, true
		}
		s := string(bytes.TrimSpace(v))
		if _, err := strconv.ParseInt(s, 10, 64); err == nil || s == "true" || s == "false" {
			return s, true
		}
	}
	return "", false
}

func (e Elsewhere) selectors() []string {
	if e.SPIFFEID != "" {
		return []string{"elsewhere:spiffe:" + e.SPIFFEID}
	}
	out := []string{"elsewhere:issuer:" + e.Issuer}
	for _, name := range slices.Sorted(maps.Keys(e.Claims)) {
		out = append(out, "elsewhere:claim:"+name+"="+e.Claims[name])
	}
	return out
}
