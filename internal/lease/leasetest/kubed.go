package leasetest

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Cluster speaks the API of Kubernetes as far as a source of leases uses it: Secrets,
// TokenRequest and TokenReview, written from their published description. Fields
// that those do not have are refused. It is no API server.
//
// Its access rules are those of docs/operate/identity.md, for one namespace.
type Cluster struct {
	*httptest.Server
	trust *Trust

	mu      sync.Mutex
	secrets map[string]kubeSecret
	tokens  map[string]kubeToken
	n       int

	Keeps bool // a deleted Secret stays, as one with a finalizer does
	Takes bool // a token is taken whatever becomes of its Secret
}

type kubeSecret struct {
	APIVersion string         `json:"apiVersion"`
	Kind       string         `json:"kind"`
	Metadata   kubeMeta       `json:"metadata"`
	Immutable  bool           `json:"immutable"`
	Type       string         `json:"type"`
	Data       map[string]any `json:"data,omitempty"`
}

type kubeMeta struct {
	Name        string            `json:"name"`
	Namespace   string            `json:"namespace"`
	UID         string            `json:"uid,omitempty"`
	Labels      map[string]string `json:"labels,omitempty"`
	Annotations map[string]string `json:"annotations,omitempty"`
}

type kubeToken struct {
	account, secret, uid string
	audiences            []string
	expires              time.Time
}

// KubeNamespace, KubeAccount, KubeAudience and KubeToken are what the cluster knows:
// the token is the boundary's own, sealed one.
const (
	KubeNamespace = "desk"
	KubeAccount   = "reader"
	KubeAudience  = "https://cluster.example"
	KubeToken     = "sealed-token-of-the-boundary"
)

// StartCluster starts one that believes an issuer.
func StartCluster(t testing.TB, trust *Trust) *Cluster {
	c := &Cluster{trust: trust, secrets: map[string]kubeSecret{}, tokens: map[string]kubeToken{}}
	c.Server = httptest.NewUnstartedServer(c)
	c.Config.ErrorLog = log.New(io.Discard, "", 0) // connections that are cut
	c.StartTLS()
	t.Cleanup(c.Close)
	return c
}

// CA is the cluster's own root.
func (c *Cluster) CA() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.Certificate().Raw})
}

// Labels are the names of the Secrets.
func (c *Cluster) Labels() (out []string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for n := range c.secrets {
		out = append(out, n)
	}
	slices.SortFunc(out, byNumber)
	return out
}

// Works tries a token as its holder.
func (c *Cluster) Works(token string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t, ok := c.tokens[token]; !ok || !c.taken(t) {
		return fmt.Errorf("Unauthorized")
	}
	return nil
}

// Put makes a Secret behind the source's back.
func (c *Cluster) Put(name string, labels map[string]string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.secrets[name] = kubeSecret{APIVersion: "v1", Kind: "Secret", Metadata: kubeMeta{Name: name, Namespace: KubeNamespace, UID: rand.Text(), Labels: labels}}
}

func (c *Cluster) taken(t kubeToken) bool {
	return c.Takes || c.secrets[t.secret].Metadata.UID == t.uid && time.Now().Before(t.expires)
}

func (c *Cluster) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if err := c.boundary(r); err != nil {
		kubeStatus(w, 401, "Unauthorized", err.Error())
		return
	}
	const secrets = "/api/v1/namespaces/" + KubeNamespace + "/secrets"
	name, one := strings.CutPrefix(r.URL.Path, secrets+"/")
	switch {
	case one && r.Method == "GET":
		if s, ok := c.secrets[name]; ok {
			kubeAnswer(w, 200, s)
			return
		}
		kubeStatus(w, 404, "NotFound", "secrets "+name+" not found")
	case one && r.Method == "DELETE":
		c.remove(w, r, name)
	case r.URL.Path == secrets && r.Method == "POST":
		c.create(w, r)
	case r.URL.Path == secrets && r.Method == "GET":
		c.list(w, r)
	case r.URL.Path == "/api/v1/namespaces/"+KubeNamespace+"/serviceaccounts/"+KubeAccount+"/token" && r.Method == "POST":
		c.token(w, r)
	case r.URL.Path == "/apis/authentication.k8s.io/v1/tokenreviews" && r.Method == "POST":
		c.review(w, r)
	default:
		kubeStatus(w, 403, "Forbidden", r.Method+" "+r.URL.Path)
	}
}

// boundary is who may all that: by its token, or by an identity that is no task's.
func (c *Cluster) boundary(r *http.Request) error {
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if token == KubeToken {
		return nil
	}
	x, err := c.trust.verify(token, KubeAudience)
	if err == nil && (!strings.HasSuffix(x.Subject, "/boundary") || strings.Contains(x.Subject, "/agent/")) {
		err = fmt.Errorf("%s may nothing here", x.Subject)
	}
	return err
}

func (c *Cluster) create(w http.ResponseWriter, r *http.Request) {
	var s kubeSecret
	if !kubeRead(w, r, "Secret", &s, &s.APIVersion, &s.Kind) {
		return
	}
	if _, there := c.secrets[s.Metadata.Name]; there {
		kubeStatus(w, 409, "AlreadyExists", "secrets already exists")
		return
	}
	c.n++
	s.Metadata.UID = fmt.Sprintf("00000000-0000-4000-8000-%012d", c.n)
	c.secrets[s.Metadata.Name] = s
	kubeAnswer(w, 201, s)
}

func (c *Cluster) remove(w http.ResponseWriter, r *http.Request, name string) {
	var o struct {
		APIVersion    string `json:"apiVersion"`
		Kind          string `json:"kind"`
		Preconditions struct {
			UID string `json:"uid"`
		} `json:"preconditions"`
	}
	if !kubeRead(w, r, "DeleteOptions", &o, &o.APIVersion, &o.Kind) {
		return
	}
	s, ok := c.secrets[name]
	switch {
	case !ok:
		kubeStatus(w, 404, "NotFound", "secrets "+name+" not found")
		return
	case s.Metadata.UID != o.Preconditions.UID:
		kubeStatus(w, 409, "Conflict", "the UID in the precondition does not match")
		return
	case !c.Keeps:
		delete(c.secrets, name)
	}
	kubeAnswer(w, 200, map[string]any{"kind": "Status", "apiVersion": "v1", "status": "Success"})
}

// list answers two at a time.
func (c *Cluster) list(w http.ResponseWriter, r *http.Request) {
	if r.URL.Query().Get("labelSelector") != "app.kubernetes.io/managed-by=sallyport" {
		kubeStatus(w, 403, "Forbidden", "a selector is wanted")
		return
	}
	var names []string
	for n, s := range c.secrets {
		if s.Metadata.Labels["app.kubernetes.io/managed-by"] == "sallyport" && n > r.URL.Query().Get("continue") {
			names = append(names, n)
		}
	}
	slices.Sort(names)
	meta := map[string]any{"resourceVersion": "1"}
	if len(names) > 2 {
		names = names[:2]
		meta["continue"] = names[1]
	}
	items := []kubeSecret{}
	for _, n := range names {
		items = append(items, c.secrets[n])
	}
	kubeAnswer(w, 200, map[string]any{"kind": "SecretList", "apiVersion": "v1", "metadata": meta, "items": items})
}

func (c *Cluster) token(w http.ResponseWriter, r *http.Request) {
	var q struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
		Spec       struct {
			Audiences []string `json:"audiences"`
			Seconds   int64    `json:"expirationSeconds"`
			Bound     struct {
				Kind       string `json:"kind"`
				APIVersion string `json:"apiVersion"`
				Name       string `json:"name"`
				UID        string `json:"uid"`
			} `json:"boundObjectRef"`
		} `json:"spec"`
	}
	if !kubeRead(w, r, "TokenRequest", &q, &q.APIVersion, &q.Kind) {
		return
	}
	b := q.Spec.Bound
	if s := c.secrets[b.Name]; b.Kind != "Secret" || b.APIVersion != "v1" || s.Metadata.UID != b.UID || q.Spec.Seconds < 600 {
		kubeStatus(w, 422, "Invalid", "spec.boundObjectRef or spec.expirationSeconds")
		return
	}
	payload, _ := json.Marshal(map[string]any{"sub": "system:serviceaccount:desk:reader", "jti": rand.Text()})
	token := "eyJhbGciOiJSUzI1NiJ9." + base64.RawURLEncoding.EncodeToString(payload) + "." + rand.Text()
	expires := time.Now().Add(time.Duration(min(q.Spec.Seconds, 7200)) * time.Second).UTC().Truncate(time.Second)
	c.tokens[token] = kubeToken{KubeAccount, b.Name, b.UID, q.Spec.Audiences, expires}
	kubeAnswer(w, 201, map[string]any{"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "metadata": map[string]any{"name": KubeAccount, "namespace": KubeNamespace}, "spec": q.Spec,
		"status": map[string]any{"token": token, "expirationTimestamp": expires}})
}

func (c *Cluster) review(w http.ResponseWriter, r *http.Request) {
	var q struct {
		APIVersion string `json:"apiVersion"`
		Kind       string `json:"kind"`
		Spec       struct {
			Token     string   `json:"token"`
			Audiences []string `json:"audiences,omitempty"`
		} `json:"spec"`
	}
	if !kubeRead(w, r, "TokenReview", &q, &q.APIVersion, &q.Kind) {
		return
	}
	status := map[string]any{"user": map[string]any{}, "error": "[invalid bearer token, service account token has been invalidated]"}
	if t, ok := c.tokens[q.Spec.Token]; ok && c.taken(t) && slices.Equal(t.audiences, q.Spec.Audiences) {
		status = map[string]any{"authenticated": true, "user": map[string]any{"username": "system:serviceaccount:" + KubeNamespace + ":" + t.account, "groups": []string{"system:authenticated"}}, "audiences": t.audiences}
	}
	kubeAnswer(w, 201, map[string]any{"kind": "TokenReview", "apiVersion": "authentication.k8s.io/v1", "metadata": map[string]any{}, "spec": q.Spec, "status": status})
}

// kubeRead reads a request as strictly as fieldValidation=Strict does.
func kubeRead(w http.ResponseWriter, r *http.Request, kind string, into any, version, got *string) bool {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	err := d.Decode(into)
	group := map[string]string{"TokenRequest": "authentication.k8s.io/v1", "TokenReview": "authentication.k8s.io/v1"}[kind]
	if err != nil || *got != kind || *version != group && (group != "" || *version != "v1") {
		kubeStatus(w, 400, "BadRequest", fmt.Sprintf("%s %s: %v", *version, *got, err))
		return false
	}
	return true
}

func kubeAnswer(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(body)
}

func kubeStatus(w http.ResponseWriter, status int, reason, message string) {
	kubeAnswer(w, status, map[string]any{"kind": "Status", "apiVersion": "v1", "metadata": map[string]any{}, "status": "Failure", "reason": reason, "message": message, "code": status})
}
