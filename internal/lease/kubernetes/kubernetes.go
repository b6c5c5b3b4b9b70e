// Package kubernetes leases tokens of a service account of a cluster: one for each
// task, by TokenRequest, bound to a Secret that is made for it.
//
// Invariants:
//   - A token is bound to a Secret whose name is the label and which holds nothing:
//     its deletion ends the token (authentication.k8s.io/v1, boundObjectRef).
//   - Ended means: the Secret is gone, and the cluster was asked (TokenReview) and
//     does not take the token. It was asked the same when the token was new, and
//     took it: a cluster that never answers yes has not said no.
//   - Nothing is deleted but a Secret that carries the label and our mark.
//
// Order of issuing: the Secret; the token. Of ending: the Secret. A crash leaves a
// Secret, which is found by its name.
//
// Not trusted: that a deletion is done when it is accepted. An API server remembers
// for about ten seconds that it took a token: so long a confirmation can take.
package kubernetes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/lease"
	"github.com/sallyport-dev/sallyport/internal/lease/rest"
)

// Config says where the cluster is and whose tokens are asked for.
type Config struct {
	Client         rest.Client
	Namespace      string
	ServiceAccount string
	Audiences      []string // none is the API server
	// Token is the boundary's own bearer token for the cluster.
	Token func(ctx context.Context) (string, error)
}

// Source is a lease.Source. It holds nothing between calls.
type Source struct{ c Config }

var _ lease.Lister = (*Source)(nil)

// New makes a source. It does not touch the network.
func New(c Config) *Source { return &Source{c} }

// Shortest is the shortest life of a token that a cluster gives.
const Shortest = 10 * time.Minute

// Mark is the label of our Secrets (app.kubernetes.io/managed-by).
const Mark = "sallyport"

// credential is what is sealed.
type credential struct {
	Token string `json:"token"`
	UID   string `json:"uid"` // of the Secret
}

// Token is the bearer token of an issued credential.
func Token(secret []byte) (string, error) {
	c, err := parse(secret)
	return c.Token, err
}

func parse(secret []byte) (c credential, err error) {
	if json.Unmarshal(secret, &c) != nil || c.Token == "" || c.UID == "" {
		return c, errors.New("not a token of a cluster")
	}
	return c, nil
}

// meta is ObjectMeta as far as it is used.
type meta struct {
	Name        string            `json:"name,omitempty"`
	Namespace   string            `json:"namespace,omitempty"`
	UID         string            `json:"uid,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Continue    string            `json:"continue,omitempty"` // of a list
}

type object struct {
	APIVersion string `json:"apiVersion,omitempty"`
	Kind       string `json:"kind,omitempty"`
	Metadata   meta   `json:"metadata"`
	Immutable  bool   `json:"immutable,omitempty"`
	Type       string `json:"type,omitempty"`
}

var labels = regexp.MustCompile(`^sallyport-[0-9a-z-]{8,53}$`)

const managedBy = "app.kubernetes.io/managed-by"

// Issue makes the Secret and asks for a token that is bound to it.
func (s *Source) Issue(ctx context.Context, o lease.Order) ([]byte, error) {
	if !labels.MatchString(o.Label) || strings.HasSuffix(o.Label, "-") {
		return nil, fmt.Errorf("%w: the label has another form", lease.ErrNotIssued)
	}
	want := object{APIVersion: "v1", Kind: "Secret", Immutable: true, Type: "Opaque", Metadata: meta{Name: o.Label, Namespace: s.c.Namespace, Labels: map[string]string{managedBy: Mark},
		Annotations: map[string]string{"sallyport.dev/task": o.Task, "sallyport.dev/agent": o.Agent, "sallyport.dev/purpose": o.Purpose, "sallyport.dev/until": o.Expires.UTC().Format(time.RFC3339)}}}
	var made object
	if err := s.call(ctx, http.MethodPost, s.secrets(""), want, &made); err != nil {
		if rest.Never(err) && rest.Refused(err, http.StatusConflict) == nil {
			err = fmt.Errorf("%w: %w", lease.ErrNotIssued, err)
		}
		return nil, fmt.Errorf("make the Secret: %w", err)
	}
	out := credential{UID: made.Metadata.UID}
	life := max(Shortest, time.Until(o.Expires).Round(time.Second))
	type ref struct {
		Kind       string `json:"kind"`
		APIVersion string `json:"apiVersion"`
		Name       string `json:"name"`
		UID        string `json:"uid"`
	}
	type spec struct {
		Audiences []string `json:"audiences"`
		Seconds   int64    `json:"expirationSeconds"`
		Bound     ref      `json:"boundObjectRef"`
	}
	ask := struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
		Spec       spec   `json:"spec"`
	}{"authentication.k8s.io/v1", "TokenRequest", spec{append([]string{}, s.c.Audiences...), int64(life.Seconds()), ref{"Secret", "v1", o.Label, out.UID}}}
	var got struct {
		Status struct {
			Token   string    `json:"token"`
			Expires time.Time `json:"expirationTimestamp"`
		} `json:"status"`
	}
	// From here on the Secret is there: no error is ErrNotIssued.
	if err := s.call(ctx, http.MethodPost, "/api/v1/namespaces/"+s.c.Namespace+"/serviceaccounts/"+s.c.ServiceAccount+"/token", ask, &got); err != nil {
		return nil, fmt.Errorf("ask for a token of %s: %v", s.c.ServiceAccount, err)
	}
	if out.Token = got.Status.Token; out.Token == "" || out.UID == "" {
		return nil, errors.New("the cluster gave no token")
	}
	if got.Status.Expires.Before(o.Expires.Add(-time.Minute)) {
		return nil, fmt.Errorf("the token ends at %s and the task may take until %s: shorten the capability, or raise --service-account-max-token-expiration",
			got.Status.Expires.Format(time.RFC3339), o.Expires.Format(time.RFC3339))
	}
	r, err := s.review(ctx, out.Token)
	if err != nil {
		return nil, err
	}
	if name := "system:serviceaccount:" + s.c.Namespace + ":" + s.c.ServiceAccount; !r.Authenticated || r.User.Username != name {
		return nil, fmt.Errorf("the cluster does not take its own token as %s: %.200q", name, r.Error)
	}
	return json.Marshal(out)
}

// Revoke deletes the Secret, if it is there and ours.
func (s *Source) Revoke(ctx context.Context, c lease.Credential) error {
	there, err := s.read(ctx, c)
	if err != nil || there == nil {
		return err
	}
	del := map[string]any{"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": map[string]any{"uid": there.Metadata.UID}}
	if err := s.call(ctx, http.MethodDelete, s.secrets(c.Label), del, nil); err != nil && rest.Refused(err, http.StatusNotFound) == nil {
		return fmt.Errorf("delete the Secret: %w", err)
	}
	return nil
}

// Confirm reads back, and asks whether the token is taken.
func (s *Source) Confirm(ctx context.Context, c lease.Credential) error {
	there, err := s.read(ctx, c)
	switch {
	case err != nil:
		return err
	case there != nil:
		return errors.New("the Secret is still there: see its finalizers")
	case c.Secret == nil:
		return nil
	}
	cred, err := parse(c.Secret)
	if err != nil {
		return err
	}
	r, err := s.review(ctx, cred.Token)
	if err != nil {
		return err
	}
	if r.Authenticated {
		return errors.New("the cluster still takes the token, as it does for some seconds")
	}
	return nil
}

// read gives the Secret of a label, or nil if there is none.
func (s *Source) read(ctx context.Context, c lease.Credential) (*object, error) {
	if !labels.MatchString(c.Label) {
		return nil, errors.New("the Secret carries no label of ours")
	}
	var o object
	err := s.call(ctx, http.MethodGet, s.secrets(c.Label), nil, &o)
	switch {
	case rest.Refused(err, http.StatusNotFound) != nil && slices.Contains(rest.Refused(err, http.StatusNotFound).Said, "NotFound"):
		return nil, nil // by the API server's own word: a proxy has other ones
	case err != nil:
		return nil, fmt.Errorf("read the Secret: %w", err)
	case o.Metadata.Name != c.Label || o.Metadata.UID == "":
		return nil, errors.New("the answer is another object")
	case o.Metadata.Labels[managedBy] != Mark:
		return nil, fmt.Errorf("Secret %s has lost the label %s, or is somebody else's: look who made it", c.Label, managedBy)
	}
	return &o, nil
}

// review is the cluster's word on a token.
type review struct {
	Authenticated bool
	Error         string
	User          struct{ Username string }
}

func (s *Source) review(ctx context.Context, token string) (review, error) {
	spec := map[string]any{"token": token}
	if len(s.c.Audiences) > 0 {
		spec["audiences"] = s.c.Audiences
	}
	var r struct {
		Kind   string
		Status *review
	}
	own, err := s.c.Token(ctx)
	if err != nil {
		return review{}, err
	}
	err = s.callAs(ctx, own, http.MethodPost, "/apis/authentication.k8s.io/v1/tokenreviews", map[string]any{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": spec}, &r, token)
	if err == nil && (r.Kind != "TokenReview" || r.Status == nil) {
		err = errors.New("the answer is no TokenReview")
	}
	if err != nil {
		return review{}, fmt.Errorf("ask whether the token is taken: %w", err)
	}
	r.Status.Error = rest.Without(r.Status.Error, own, token)
	return *r.Status, nil
}

// List says which labels Secrets of ours carry.
func (s *Source) List(ctx context.Context, prefix string) (out []string, err error) {
	for next := ""; ; {
		q := url.Values{"labelSelector": {managedBy + "=" + Mark}, "limit": {"500"}}
		if next != "" {
			q.Set("continue", next)
		}
		var l struct {
			Metadata meta
			Items    []object
		}
		if err := s.call(ctx, http.MethodGet, s.secrets("")+"?"+q.Encode(), nil, &l); err != nil {
			return nil, fmt.Errorf("list Secrets: %w", err)
		}
		for _, o := range l.Items {
			if n := o.Metadata.Name; strings.HasPrefix(n, prefix) && labels.MatchString(n) {
				out = append(out, n)
			}
		}
		if next = l.Metadata.Continue; next == "" {
			slices.Sort(out)
			return slices.Compact(out), nil
		}
	}
}

func (s *Source) secrets(name string) string {
	p := "/api/v1/namespaces/" + s.c.Namespace + "/secrets"
	if name != "" {
		p += "/" + name
	}
	return p
}

func (s *Source) call(ctx context.Context, method, path string, in, out any) error {
	token, err := s.c.Token(ctx)
	if err != nil {
		return err
	}
	return s.callAs(ctx, token, method, path, in, out)
}

// callAs shows the boundary's token; secrets is what else no error may repeat.
func (s *Source) callAs(ctx context.Context, token, method, path string, in, out any, secrets ...string) error {
	return s.c.Client.Do(ctx, method, path, http.Header{"Authorization": {"Bearer " + token}}, in, out, said, append(secrets, token)...)
}

// said reads a Status of the API server.
func said(b []byte) []string {
	var s struct{ Kind, Reason, Message string }
	if json.Unmarshal(b, &s) != nil || s.Kind != "Status" {
		return []string{"not an answer of the API server itself"}
	}
	return []string{s.Reason, s.Message}
}
