// Package vault leases secrets of an OpenBao or HashiCorp Vault server: one login
// for each task, with the task's own JWT-SVID, and one secret read with it.
//
// Invariants:
//   - Nothing long-lived is kept for the server: each login shows a JWT-SVID that
//     this boundary issued, for the declared audience.
//   - The token of a login can be found by its lease: the role copies the JWT's
//     `jti`, which begins with the label, into the token's metadata (claim_mappings).
//     A login whose role does not is ended again at once.
//   - Ended means: the server was asked afterwards, and refused the token, and knew
//     neither its accessor nor its lease; and, of a database, the account was
//     refused there. That a revocation was accepted is not taken for any of it:
//     revoking a token ends its leases later, in the background, and a lease that
//     the server gives up on ("irrevocable") is still known to it.
//   - A task's token can read its secret. What ends it is another role, SweepRole,
//     of the boundary itself.
//
// Order of issuing: login; the secret. Of ending: the lease, until the server knows
// it no more; the token. So a lease is never without the token by which a crash
// leaves it to be found.
//
// A crash between login and record leaves a token, found by its label. What it read
// ends with it, by the server alone: the id of a lease whose answer was lost cannot
// be asked for, and nobody ever had the secret.
//
// Not reached: who read a KV secret knows it for ever; a certificate that was
// issued is believed, by who looks at no revocation list, until it expires.
package vault

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/lease"
	"github.com/sallyport-dev/sallyport/internal/lease/rest"
)

// Kind is what is read.
type Kind string

// The kinds.
const (
	Database Kind = "database" // GET <mount>/creds/<role>
	KV       Kind = "kv"       // GET <mount>/data/<path>, version 2
	PKI      Kind = "pki"      // POST <mount>/issue/<role>
)

// Config says where the server is, who logs in and what is read.
type Config struct {
	Client    rest.Client
	Namespace string // X-Vault-Namespace; empty is none
	Mount     string // of the JWT auth method, without auth/
	Role      string // of tasks
	SweepRole string // of the boundary, which ends what tasks had
	// TTL is what Role gives its tokens, at least: the keeper renews by it.
	TTL  time.Duration
	Kind Kind
	Path string // of the secret, without /v1/
	// Field is the field of a KV secret; CommonName is that of a certificate.
	Field, CommonName string
	// Task makes the JWT-SVID of an order's task, with its label as the beginning of
	// `jti`; Boundary that of the boundary.
	Task     func(ctx context.Context, o lease.Order) (string, error)
	Boundary func(ctx context.Context) (string, error)
	// SignsIn tries an account at its database. false without an error is the
	// database's own word that it refuses it. nil asks nobody.
	SignsIn func(ctx context.Context, username, password string) (bool, error)
}

// Source is a lease.Source. It holds nothing between calls.
type Source struct{ c Config }

var (
	_ lease.Renewer = (*Source)(nil)
	_ lease.Lister  = (*Source)(nil)
)

// New makes a source. It does not touch the network.
func New(c Config) *Source { return &Source{c} }

// Metadata is the field of a token's metadata that holds the `jti` of its login.
const Metadata = "sallyport"

// Credential is what is sealed: of the secret, what Kind has.
type Credential struct {
	Token       string `json:"token"`
	Accessor    string `json:"accessor"`
	Lease       string `json:"lease,omitempty"`
	Renewable   bool   `json:"renewable,omitempty"` // the lease, not the token
	Username    string `json:"username,omitempty"`
	Password    string `json:"password,omitempty"`
	Value       string `json:"value,omitempty"`
	Certificate string `json:"certificate,omitempty"` // PEM, with its chain
	Key         string `json:"key,omitempty"`         // PEM
	Serial      string `json:"serial,omitempty"`
}

// Parse reads a credential that Issue made.
func Parse(secret []byte) (c Credential, err error) {
	if json.Unmarshal(secret, &c) != nil || c.Token == "" || c.Accessor == "" {
		return c, errors.New("not a credential of a vault")
	}
	return c, nil
}

var labels = regexp.MustCompile(`^sallyport-[0-9a-z-]{8,53}$`)

// Issue logs in and reads the secret.
func (s *Source) Issue(ctx context.Context, o lease.Order) ([]byte, error) {
	if !labels.MatchString(o.Label) {
		return nil, fmt.Errorf("%w: the label has another form", lease.ErrNotIssued)
	}
	jwt, err := s.c.Task(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", lease.ErrNotIssued, err)
	}
	a, err := s.login(ctx, s.c.Role, jwt)
	if err != nil {
		if rest.Never(err) {
			err = fmt.Errorf("%w: %w", lease.ErrNotIssued, err)
		}
		return nil, fmt.Errorf("log in as role %s: %w", s.c.Role, err)
	}
	out := Credential{Token: a.Token, Accessor: a.Accessor}
	if err = s.fits(ctx, o, a); err == nil {
		err = s.read(ctx, o, &out)
	}
	if err != nil {
		// The token is there, and its lease may be: End finds both by the label, or
		// by what is known here.
		return nil, errors.Join(fmt.Errorf("role %s: %w", s.c.Role, err), s.call(ctx, out.Token, "POST", "auth/token/revoke-self", nil, nil))
	}
	return json.Marshal(out)
}

// fits refuses a login that could not be ended, or found.
func (s *Source) fits(ctx context.Context, o lease.Order, a auth) error {
	label, _, _ := strings.Cut(a.Metadata[Metadata], ".")
	switch {
	case a.Type == "batch":
		return errors.New("it gives batch tokens, which nobody can revoke: want token_type=service")
	case label != o.Label:
		return fmt.Errorf(`it does not name the lease: want claim_mappings={"jti": %q}`, Metadata)
	case a.Uses != 0:
		return errors.New("its tokens end after so many uses: want token_num_uses=0")
	case time.Duration(a.Seconds)*time.Second < s.c.TTL:
		return fmt.Errorf("its tokens live %d s, and ttlSeconds is %.0f: want token_ttl of at least that", a.Seconds, s.c.TTL.Seconds())
	}
	// A token that may not look itself up is refused alive as it is dead.
	var self struct{ Accessor string }
	if err := s.call(ctx, a.Token, "GET", "auth/token/lookup-self", nil, &self); err != nil {
		return fmt.Errorf("its tokens may not look themselves up, which the policy default lets them: %w", err)
	}
	if self.Accessor != a.Accessor || a.Accessor == "" {
		return errors.New("the token is another one than the login said")
	}
	return nil
}

// read gets the secret.
func (s *Source) read(ctx context.Context, o lease.Order, out *Credential) error {
	var err error
	switch s.c.Kind {
	case Database:
		err = s.readDatabase(ctx, out)
	case KV:
		err = s.readKV(ctx, out)
	case PKI:
		err = s.readPKI(ctx, o, out)
	default:
		err = errors.New("there is no such kind of secret")
	}
	if err != nil {
		return fmt.Errorf("read %s: %w", s.c.Path, err)
	}
	return nil
}

func (s *Source) readDatabase(ctx context.Context, out *Credential) error {
	var data struct{ Username, Password string }
	l, err := s.secret(ctx, out.Token, "GET", s.c.Path, nil, &data)
	if err != nil {
		return err
	}
	out.Lease, out.Renewable, out.Username, out.Password = l.ID, l.Renewable, data.Username, data.Password
	if l.ID == "" || data.Username == "" || data.Password == "" {
		return errors.New("it is not an account with a lease: want MOUNT/creds/ROLE of a database")
	}
	if time.Duration(l.Seconds)*time.Second < s.c.TTL {
		return fmt.Errorf("the account lives %d s, and ttlSeconds is %.0f: want default_ttl of at least that", l.Seconds, s.c.TTL.Seconds())
	}
	if s.c.SignsIn == nil {
		return nil
	}
	// A database that refuses it alive would say the same of one that ended.
	if taken, err := s.c.SignsIn(ctx, data.Username, data.Password); err != nil || !taken {
		return errors.Join(errors.New("the database does not take the account"), err)
	}
	return nil
}

func (s *Source) readKV(ctx context.Context, out *Credential) error {
	var data struct{ Data map[string]any }
	if _, err := s.secret(ctx, out.Token, "GET", s.c.Path, nil, &data); err != nil {
		return err
	}
	v, ok := data.Data[s.c.Field].(string)
	if !ok || v == "" {
		return fmt.Errorf("it has no text %q: want MOUNT/data/PATH of a KV engine, version 2", s.c.Field)
	}
	out.Value = v
	// Nothing more is asked with the token.
	return s.call(ctx, out.Token, "POST", "auth/token/revoke-self", nil, nil)
}

func (s *Source) readPKI(ctx context.Context, o lease.Order, out *Credential) error {
	var data struct {
		Certificate string
		Chain       []string `json:"ca_chain"`
		Key         string   `json:"private_key"`
		Serial      string   `json:"serial_number"`
	}
	want := map[string]any{"common_name": s.c.CommonName, "format": "pem", "ttl": fmt.Sprintf("%.0fs", max(1, time.Until(o.Expires).Seconds()))}
	l, err := s.secret(ctx, out.Token, "POST", s.c.Path, want, &data)
	if err != nil {
		return err
	}
	out.Lease, out.Renewable, out.Serial, out.Key = l.ID, l.Renewable, data.Serial, data.Key
	out.Certificate = strings.Join(append([]string{data.Certificate}, data.Chain...), "\n")
	if data.Serial == "" || data.Key == "" || data.Certificate == "" {
		return errors.New("it is not a certificate with its key: want MOUNT/issue/ROLE of a PKI engine")
	}
	return nil
}

// Renew keeps token and account alive. What the server caps is an error: it would
// end before anybody expects it.
func (s *Source) Renew(ctx context.Context, c lease.Credential, expires time.Time) error {
	cred, err := Parse(c.Secret)
	if err != nil || s.c.Kind == KV {
		return err
	}
	want := int64(time.Until(expires).Seconds())
	var r struct {
		Auth struct {
			Seconds int64 `json:"lease_duration"`
		}
	}
	if err := s.raw(ctx, cred.Token, "POST", "auth/token/renew-self", map[string]any{"increment": want}, &r); err != nil {
		return fmt.Errorf("the token: %w", err)
	}
	got := r.Auth.Seconds
	if cred.Renewable {
		var l struct {
			Seconds int64 `json:"lease_duration"`
		}
		if err := s.raw(ctx, cred.Token, "POST", "sys/leases/renew", map[string]any{"lease_id": cred.Lease, "increment": want}, &l); err != nil {
			return fmt.Errorf("the secret's lease: %w", err)
		}
		got = min(got, l.Seconds)
	}
	if got < want-5 { // the way there and back
		return fmt.Errorf("it gives %d s more where %d are wanted: a maximum of the server is reached", got, want)
	}
	return nil
}

// auth is the answer to a login.
type auth struct {
	Token    string            `json:"client_token"`
	Accessor string            `json:"accessor"`
	Metadata map[string]string `json:"metadata"`
	Seconds  int64             `json:"lease_duration"`
	Type     string            `json:"token_type"`
	Uses     int               `json:"num_uses"`
}

func (s *Source) login(ctx context.Context, role, jwt string) (auth, error) {
	var r struct{ Auth auth }
	if err := s.raw(ctx, "", "POST", "auth/"+s.c.Mount+"/login", map[string]any{"role": role, "jwt": jwt}, &r, jwt); err != nil {
		return auth{}, err
	}
	if r.Auth.Token == "" {
		return auth{}, errors.New("its answer has no token")
	}
	return r.Auth, nil
}

// leaseOf is what an answer says of its lease.
type leaseOf struct {
	ID        string
	Seconds   int64
	Renewable bool
}

// secret asks for a secret.
func (s *Source) secret(ctx context.Context, token, method, path string, in, data any) (leaseOf, error) {
	var r struct {
		ID        string `json:"lease_id"`
		Seconds   int64  `json:"lease_duration"`
		Renewable bool   `json:"renewable"`
		Data      any    `json:"data"`
	}
	r.Data = data
	err := s.raw(ctx, token, method, path, in, &r)
	return leaseOf{r.ID, r.Seconds, r.Renewable}, err
}

// call asks for what has its answer in data.
func (s *Source) call(ctx context.Context, token, method, path string, in, data any) error {
	_, err := s.secret(ctx, token, method, path, in, data)
	return err
}

// raw sends the token and what else is secret in a request: no error repeats those.
func (s *Source) raw(ctx context.Context, token, method, path string, in, out any, secrets ...string) error {
	h := http.Header{"X-Vault-Request": {"true"}} // which agents in between ask for
	if token != "" {
		h.Set("X-Vault-Token", token)
	}
	if s.c.Namespace != "" {
		h.Set("X-Vault-Namespace", s.c.Namespace)
	}
	return s.c.Client.Do(ctx, method, "/v1/"+path, h, in, out, said, append(secrets, token)...)
}

// said reads the errors of an answer.
func said(b []byte) []string {
	var e struct{ Errors []string }
	if json.Unmarshal(b, &e) != nil || e.Errors == nil {
		return []string{"not an answer of the server itself"}
	}
	return e.Errors
}
