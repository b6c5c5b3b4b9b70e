package server

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"regexp"
	"strconv"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/connector"
	"github.com/sallyport-dev/sallyport/internal/lease"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/resource"
	"github.com/sallyport-dev/sallyport/internal/surface/inference"
	"github.com/sallyport-dev/sallyport/internal/task"
	"github.com/sallyport-dev/sallyport/internal/totp"
)

// kindSecret holds sealed static secrets: object kind "secret", id the name.
const kindSecret = "secret"

// Secret is what may be said of a sealed secret.
type Secret struct {
	Name   string    `json:"name"`
	Author string    `json:"author"`
	Stored time.Time `json:"stored"`
	Sealed []byte    `json:"sealed,omitempty"`
}

var secretForm = regexp.MustCompile(`^[a-z][a-z0-9/-]{0,62}$`)

// PutSecret seals a secret. It can be replaced, used by the boundary, and never
// read back.
func (s *Server) PutSecret(ctx context.Context, tenantName string, c Caller, name string, value []byte) error {
	defer clear(value)
	t, err := s.tenant(tenantName)
	if err != nil {
		return err
	}
	person, err := t.require(c, "store a secret", resource.RoleSecrets)
	if err != nil {
		return err
	}
	if !secretForm.MatchString(name) {
		return problem(Invalid, "invalid_name", "secret name "+strconv.Quote(name)+": want lower-case letters, digits, hyphens and /", "choose another name")
	}
	if len(value) == 0 || len(value) > 64<<10 {
		return problem(Invalid, "invalid_secret", "a secret has 1 to 65536 bytes", "give it on standard input")
	}
	if bytes.HasPrefix(value, []byte(totp.Scheme)) {
		if _, err := totp.Parse(string(value)); err != nil {
			return problem(Invalid, "invalid_secret", "the otpauth URI: "+err.Error(), "give the one that the application shows at the enrolment")
		}
	}
	sealed, err := t.seal.Seal(kindSecret+"/"+name, value)
	if err != nil {
		return err
	}
	t.storing.Lock()
	defer t.storing.Unlock()
	_, err = t.log.Append(ctx, record.Draft{Type: "secret.stored", Actor: "person:" + person, Body: map[string]any{"name": name},
		Change: func(tx record.Tx) error {
			return tx.Put(kindSecret, name, Secret{Name: name, Author: person, Stored: time.Now().UTC(), Sealed: sealed})
		}})
	if err == nil && ofTarget(name) {
		t.mu.Lock()
		t.forTargets[name] = sealed
		t.mu.Unlock()
	}
	return err
}

// Secrets lists the names of the sealed secrets.
func (s *Server) Secrets(ctx context.Context, tenantName string) ([]Secret, error) {
	t, err := s.tenant(tenantName)
	if err != nil {
		return nil, err
	}
	out := []Secret{}
	err = t.log.View(ctx, func(tx record.Tx) error {
		out = out[:0]
		return tx.List(kindSecret, func(_ string, raw []byte) error {
			var x Secret
			if err := json.Unmarshal(raw, &x); err != nil {
				return err
			}
			x.Sealed = nil
			out = append(out, x)
			return nil
		})
	})
	return out, err
}

// secret opens a sealed secret for use inside the boundary. The caller clears it.
func (t *tenant) secret(ctx context.Context, name string) ([]byte, error) {
	var x Secret
	err := t.log.View(ctx, func(tx record.Tx) error { return tx.Get(kindSecret, name, &x) })
	if errors.Is(err, record.ErrNotFound) {
		return nil, fmt.Errorf("no secret %q is stored (%w): sallyport secret put %s", name, err, name)
	}
	if err != nil {
		return nil, err
	}
	return t.seal.Open(kindSecret+"/"+name, x.Sealed)
}

// providerKey gives the inference door the key of an agent's provider.
func (t *tenant) providerKey(a *agent) inference.Key {
	return keyFunc(func(ctx context.Context) (inference.Secret, error) {
		b, err := t.secret(ctx, a.spec.Model.Key.Sealed)
		if err != nil {
			return inference.Secret{}, err
		}
		defer clear(b)
		return inference.NewSecret(string(b)), nil
	})
}

type keyFunc func(context.Context) (inference.Secret, error)

func (f keyFunc) Key(ctx context.Context) (inference.Secret, error) { return f(ctx) }

// source makes the lease source for a lease, also for one of an earlier process.
func (t *tenant) source(ctx context.Context, l lease.Lease) (lease.Source, error) {
	w := t.current()
	src := w.sources[l.Source]
	if src == nil {
		if l.Static { // there is nothing upstream that it would be needed for
			return lease.Static{}, nil
		}
		return nil, fmt.Errorf("credential source %s is not declared", l.Source)
	}
	if src.Static() {
		return lease.Static{Secret: func(ctx context.Context) ([]byte, error) {
			x, err := t.tasks.Get(ctx, l.Task)
			if err != nil {
				return nil, err
			}
			return t.password(ctx, src, secretStage(x))
		}}, nil
	}
	if src.PostgreSQL != nil {
		return t.roleSource(w, l.Source, l.Audience)
	}
	if src.SSH != nil {
		return t.hostSource(w, l.Source, l.Audience)
	}
	if src.OAuth != nil {
		return t.tokenSource(ctx, w, src, l)
	}
	if len(src.UpstreamStages()) > 0 {
		return t.upstreamSource(w, l.Source, l.Audience)
	}
	spec := w.connectors.Spec(src.Connector)
	if spec == nil || spec.SignIn == nil {
		return nil, fmt.Errorf("connector %s does not say how to sign in", src.Connector)
	}
	stage, ok := stageOf(spec.Stages, spec.SignIn.Origin, l.Audience)
	if !ok {
		return nil, fmt.Errorf("connector %s has no sign-in at %s", src.Connector, l.Audience)
	}
	pools, err := roots(w.connectors, stage)
	if err != nil {
		return nil, err
	}
	client := t.applicationClient(ctx, l, pools(l.Audience))
	si := spec.SignIn
	r := lease.Recipe{Origin: l.Audience, LoginPath: si.Login.Path, UserField: si.Login.Username, PasswordField: si.Login.Password,
		CSRFField: si.Login.CSRF, LogoutPath: si.Logout.Path, ConfirmPath: si.Confirm.Path, ConfirmStatus: si.Confirm.Status}
	if si.Login.TOTP != nil {
		r.CodeField, r.CodePath = si.Login.TOTP.Field, si.Login.TOTP.Path
	}
	if si.Sessions != nil {
		r.SessionsPath, r.RevokePath = si.Sessions.List, si.Sessions.Revoke
	}
	if src.LDAP != nil {
		dir, err := t.directory(src, stage)
		if err != nil {
			return nil, fmt.Errorf("credential source %s: %w", l.Source, err)
		}
		return &lease.AccountForm{Accounts: dir, Form: lease.Form{Recipe: r, Client: client}}, nil
	}
	f := &lease.Form{Recipe: r, Account: src.Account, Client: client,
		Password: func(ctx context.Context) ([]byte, error) {
			stage, err := t.signInStage(ctx, l, stage)
			if err != nil {
				return nil, err
			}
			return t.password(ctx, src, stage)
		}}
	if src.TOTP != nil {
		stage, err := t.signInStage(ctx, l, stage)
		if err == nil {
			err = t.withCode(ctx, f, src.TOTP, stage)
		}
		if err != nil {
			return nil, fmt.Errorf("credential source %s: %w", l.Source, err)
		}
	}
	return f, nil
}

// rehearsal stands for a stage in the names of secrets: NAME/canary, or NAME/sandbox,
// is what a canary signs in with at the fixture. Production's is not shown there.
const rehearsal action.Stage = "canary"

func secretStage(x task.Task) action.Stage {
	if x.Canary != "" && x.Stage == action.Production {
		return rehearsal
	}
	return x.Stage.Conditions()
}

// signInStage is the stage whose secrets the task of a lease signs in with. Without
// knowing whose lease it is nobody signs in.
func (t *tenant) signInStage(ctx context.Context, l lease.Lease, stage action.Stage) (action.Stage, error) {
	x, err := t.tasks.Get(ctx, l.Task)
	switch {
	case errors.Is(err, task.ErrUnknown):
		return stage, nil
	case err == nil && x.Canary != "":
		stage = secretStage(x)
	}
	return stage, err
}

// password is the sealed secret of a source. A stage may have one of its own,
// NAME/STAGE.
func (t *tenant) password(ctx context.Context, src *resource.CredentialSourceSpec, stage action.Stage) ([]byte, error) {
	return t.stageSecret(ctx, src.Secret, stage)
}

func (t *tenant) stageSecret(ctx context.Context, ref *resource.SecretRef, stage action.Stage) ([]byte, error) {
	// Only if the stage has none: one that does not open is no reason to show its
	// upstream another's.
	b, err := t.secret(ctx, ref.Sealed+"/"+string(stage))
	if errors.Is(err, record.ErrNotFound) && stage == rehearsal {
		return t.secret(ctx, ref.Sealed+"/"+string(action.Sandbox))
	}
	if errors.Is(err, record.ErrNotFound) {
		return t.secret(ctx, ref.Sealed)
	}
	return b, err
}

// boundaryClient is an HTTP client for the boundary's own steps: no proxy of the
// environment, no redirects, no cookie jar, time-limited.
func boundaryClient(pool *x509.CertPool) *http.Client { return clientVia(dialLocal, pool) }

// applicationClient reaches the application of a lease where its task reaches it, also
// after a restart; as it is declared, if nothing says otherwise.
func (t *tenant) applicationClient(ctx context.Context, l lease.Lease, pool *x509.CertPool) *http.Client {
	x, _ := t.tasks.Get(ctx, l.Task) // a store that cannot be read keeps no end from being tried
	return clientVia(routes(x.Routes).dial, pool)
}

func clientVia(dial func(ctx context.Context, network, addr string) (net.Conn, error), pool *x509.CertPool) *http.Client {
	return &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DialContext: dial, TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}, ForceAttemptHTTP2: true,
		DisableKeepAlives: true},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
}

// stageOf is the stage in which a named origin has this URL.
func stageOf(stages map[action.Stage]connector.Stage, name, url string) (action.Stage, bool) {
	for stage, st := range stages {
		for _, o := range st.Origins {
			if o.Name == name && o.URL == url {
				return stage, true
			}
		}
	}
	return "", false
}
