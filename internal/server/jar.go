package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/sallyport-dev/sallyport/internal/connector"
	"github.com/sallyport-dev/sallyport/internal/lease"
	"github.com/sallyport-dev/sallyport/internal/resource"
	"github.com/sallyport-dev/sallyport/internal/surface/egress"
)

// jar holds the application sessions of one task inside the boundary. It is the
// egress door's Injector and Redactor: cookies go only to the exact origin that
// set them, and their values are looked for in everything that comes back.
type jar struct {
	mu     sync.Mutex
	closed bool
	// origins maps scheme://host[:port] to cookie names and values. Only origins
	// with a lease are in it.
	origins map[string]map[string]string
	// fields maps the same to what goes into fields and headers, by its source.
	fields map[string]map[string]field
	// seen keeps every value that was ever in the jar, since an old session
	// cookie is a secret too until the application forgets it.
	seen []egress.Secret
}

// field is a secret for the requests of one origin, and the lease that it is of.
type field struct {
	lease lease.Lease
	value egress.Secret
}

func newJar() *jar {
	return &jar{origins: map[string]map[string]string{}, fields: map[string]map[string]field{}}
}

// add puts the credential of a lease in for its one audience.
func (j *jar) add(l lease.Lease, credential []byte) error {
	cookies, err := lease.ParseCookies(credential)
	if err != nil {
		return err
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	m := map[string]string{}
	for _, c := range cookies {
		m[c.Name] = c.Value
		j.remember(c.Value)
	}
	j.origins[l.Audience] = m
	return nil
}

// addField puts the secret of a lease in for the requests of its one audience, in
// the place of the one before.
func (j *jar) addField(l lease.Lease, secret string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return
	}
	if j.fields[l.Audience] == nil {
		j.fields[l.Audience] = map[string]field{}
	}
	j.fields[l.Audience][l.Source] = field{l, egress.Secret(secret)}
	j.remember(secret)
}

// hold lends a secret to door 2, for fields or for requests of one origin.
func (s *session) hold(name string, src *resource.CredentialSourceSpec, l lease.Lease, secret []byte) error {
	value := string(secret)
	if src.PutIn() && src.Account != "" {
		if len(secret) < connector.MinSecret {
			return fmt.Errorf("the password of %s is shorter than %d bytes, too short to be found in what comes back", name, connector.MinSecret)
		}
		s.jar.secret(secret) // and not only as a part of the pair
		value = src.Account + ":" + value
	}
	if err := s.world.carries(name, src, []byte(value)); err != nil {
		return err
	}
	s.jar.addField(l, value)
	return nil
}

// field finds the secret of a source for an origin.
func (j *jar) field(origin, source string) (field, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	f, ok := j.fields[origin][source]
	return f, ok
}

// fieldSecrets is the jar as the egress door's Secrets. Order of a use: record
// lease.used for each, in the log of the task; only then the values leave here.
type fieldSecrets struct {
	jar    *jar
	leases *lease.Keeper
}

func (s fieldSecrets) Leased(origin, name string) bool {
	_, ok := s.jar.field(origin, name)
	return ok
}

func (s fieldSecrets) Use(ctx context.Context, origin, action string, names []string) (map[string]string, error) {
	out := map[string]string{}
	for _, n := range names {
		if _, again := out[n]; again {
			continue
		}
		f, ok := s.jar.field(origin, n)
		if !ok {
			return nil, lease.ErrEnded
		}
		if err := s.leases.Use(ctx, f.lease, action); err != nil {
			return nil, err
		}
		out[n] = string(f.value)
	}
	return out, nil
}

// secret makes a value known that must not reach the client, such as the password
// that a session was made with.
func (j *jar) secret(v []byte) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.remember(string(v))
}

// close forgets everything: from then on every request of the session fails
// before it is sent.
func (j *jar) close() {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.closed = true
	clear(j.origins)
	clear(j.fields)
}

func (j *jar) remember(v string) {
	if len(v) >= 8 && !slices.Contains(j.seen, egress.Secret(v)) {
		j.seen = append(j.seen, egress.Secret(v))
	}
}

// Inject adds the cookies of the request's own origin.
func (j *jar) Inject(_ context.Context, r *http.Request) error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed {
		return errors.New("the task's credentials are ended")
	}
	for n, v := range j.origins[originOf(r)] {
		r.AddCookie(&http.Cookie{Name: n, Value: v})
	}
	return nil
}

// Observe keeps what the application sets. An origin without a lease has no
// place in the jar, so nothing of it is kept.
func (j *jar) Observe(r *http.Response) {
	j.mu.Lock()
	defer j.mu.Unlock()
	m := j.origins[originOf(r.Request)]
	for _, c := range r.Cookies() {
		if m != nil && c.MaxAge >= 0 && c.Value != "" {
			m[c.Name] = c.Value
		} else {
			delete(m, c.Name)
		}
		j.remember(c.Value)
	}
}

// Secrets are all values that must not reach the client.
func (j *jar) Secrets() []egress.Secret {
	j.mu.Lock()
	defer j.mu.Unlock()
	return slices.Clone(j.seen)
}

// values are Secrets for the client of the browser's protocol.
func (j *jar) values() []string {
	var out []string
	for _, s := range j.Secrets() {
		out = append(out, string(s))
	}
	return out
}

// originOf is scheme://host[:port] without a default port.
func originOf(r *http.Request) string {
	host := strings.ToLower(r.URL.Host)
	for scheme, port := range map[string]string{"https": ":443", "http": ":80"} {
		if r.URL.Scheme == scheme {
			host = strings.TrimSuffix(host, port)
		}
	}
	return r.URL.Scheme + "://" + host
}
