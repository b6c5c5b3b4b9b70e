package leasetest

import (
	"cmp"
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"maps"
	"net/http"
	"net/http/httptest"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// Vault speaks the HTTP API of OpenBao and HashiCorp Vault as far as a source of
// leases uses it, written from their published descriptions. It is no such server:
// TestLive asks a real one the same, and OpenBao's own client this one.
//
// Its policies are those of docs/operate/identity.md: role "desk" reads, role
// "sallyport" ends.
type Vault struct {
	*httptest.Server
	trust    *Trust
	audience string

	mu       sync.Mutex
	tokens   map[string]*vaultToken
	leases   map[string]*vaultLease
	accounts map[string]string // of the database behind it: name to password
	certs    map[string]int64  // serial to revocation time
	later    []string          // leases that a worker will end
	torn     []string          // accessors of tokens whose revocation was cut off
	n        int

	// What a server may do wrong, or somebody else to it.
	Stuck    bool // a lease cannot be ended at its source
	Lazy     bool // sync is not obeyed, and the worker does not come
	Forgets  bool // a lease is dropped and its account lives (revoke-force)
	Batch    bool // logins give batch tokens
	Unmapped bool // the role has no claim_mappings
	Life     int64
	// Make and Drop, if they are not nil, make and drop accounts in a real database as well.
	Make func(name, password string) error
	Drop func(name string) error
	// Answer, if it is not nil, may answer in place of the server.
	Answer func(w http.ResponseWriter, r *http.Request) bool
}

type vaultToken struct {
	token, accessor, role string
	meta                  map[string]string
	expires               time.Time
}

type vaultLease struct {
	accessor, account string
	expires           time.Time
	issued            time.Time
}

// Audience is what the roles of the server are bound to.
const Audience = "https://vault.example"

// StartVault starts one that believes an issuer.
func StartVault(t testing.TB, trust *Trust) *Vault {
	v := &Vault{trust: trust, audience: Audience, tokens: map[string]*vaultToken{}, leases: map[string]*vaultLease{}, accounts: map[string]string{}, certs: map[string]int64{}, Life: 3600}
	v.Server = httptest.NewUnstartedServer(v)
	v.Config.ErrorLog = log.New(io.Discard, "", 0) // connections that are cut
	v.StartTLS()
	t.Cleanup(v.Close)
	return v
}

// CA is the server's own root.
func (v *Vault) CA() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: v.Certificate().Raw})
}

// SignIn tries an account at the database behind it.
func (v *Vault) SignIn(name, password string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.work()
	if p, ok := v.accounts[name]; !ok || p != password {
		return fmt.Errorf("password authentication failed for user %q", name)
	}
	return nil
}

// Labels are those of live tokens, and of accounts whose token is gone.
func (v *Vault) Labels() (out []string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.work()
	for _, t := range v.tokens {
		if label, _, _ := strings.Cut(t.meta["sallyport"], "."); label != "" {
			out = append(out, label)
		}
	}
	for name := range v.accounts {
		if !slices.ContainsFunc(slices.Collect(maps.Values(v.leases)), func(l *vaultLease) bool { return l.account == name && v.byAccessor(l.accessor) != nil }) {
			out = append(out, "an account without a token: "+name)
		}
	}
	slices.SortFunc(out, byNumber)
	return out
}

// byNumber orders labels whose ids end in a number.
func byNumber(a, b string) int { return cmp.Or(cmp.Compare(len(a), len(b)), cmp.Compare(a, b)) }

// work is what a worker of the server does in the background.
func (v *Vault) work() {
	if v.Lazy {
		return
	}
	for _, id := range v.later {
		v.end(id)
	}
	v.later = nil
}

// end is a synchronous revocation.
func (v *Vault) end(id string) bool {
	l := v.leases[id]
	if l == nil {
		return true
	}
	if v.Stuck || v.Drop != nil && !v.Forgets && v.Drop(l.account) != nil {
		return false
	}
	if !v.Forgets {
		delete(v.accounts, l.account)
	}
	delete(v.leases, id)
	return true
}

func (v *Vault) byAccessor(a string) *vaultToken {
	for _, t := range v.tokens {
		if t.accessor == a {
			return t
		}
	}
	return nil
}

// drop ends a token. Its leases end later, by a worker, as in the real ones.
func (v *Vault) drop(t *vaultToken) {
	delete(v.tokens, t.token)
	for id, l := range v.leases {
		if l.accessor == t.accessor {
			v.later = append(v.later, id)
		}
	}
}

// Tear ends every token as a revocation does that is cut off on its way: what it had
// ends, and its accessor stays.
func (v *Vault) Tear() {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, t := range v.tokens {
		v.drop(t)
		v.torn = append(v.torn, t.accessor)
	}
	v.work()
}

// policies of the roles: what a token may besides what every token may.
var policies = map[string][]string{
	"desk":      {"GET database/creds/desk", "GET secret/data/desk", "POST pki/issue/desk"},
	"sallyport": {"POST sys/leases/revoke", "POST sys/leases/lookup", "LIST auth/token/accessors", "POST auth/token/lookup-accessor", "POST auth/token/revoke-accessor", "POST pki/revoke"},
}

// everybody is the policy "default".
var everybody = []string{"GET auth/token/lookup-self", "POST auth/token/renew-self", "POST auth/token/revoke-self", "POST sys/leases/renew", "POST sys/leases/lookup"}

func (v *Vault) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.Answer != nil && v.Answer(w, r) {
		return
	}
	var in map[string]any
	if r.ContentLength != 0 {
		if err := json.NewDecoder(r.Body).Decode(&in); err != nil && r.Method != "GET" {
			v.refuse(w, 400, "failed to parse JSON input: "+err.Error())
			return
		}
	}
	method := r.Method
	if method == "PUT" {
		method = "POST"
	}
	if method == "GET" && r.URL.Query().Get("list") == "true" {
		method = "LIST"
	}
	what := method + " " + strings.TrimPrefix(r.URL.Path, "/v1/")
	if what == "POST auth/jwt/login" {
		v.login(w, in)
		return
	}
	if serial, ok := strings.CutPrefix(what, "GET pki/cert/"); ok { // needs no token
		v.answer(w, map[string]any{"data": map[string]any{"certificate": "PEM", "revocation_time": v.certs[serial]}})
		return
	}
	t := v.tokens[r.Header.Get("X-Vault-Token")]
	if t == nil || time.Now().After(t.expires) || !slices.Contains(everybody, what) && !slices.Contains(policies[t.role], what) {
		v.refuse(w, 403, "permission denied")
		return
	}
	v.handle(w, what, t, in)
}

func (v *Vault) handle(w http.ResponseWriter, what string, t *vaultToken, in map[string]any) {
	text := func(name string) string { s, _ := in[name].(string); return s }
	switch path.Base(what) {
	case "lookup-self":
		v.answer(w, map[string]any{"data": t.data(true)})
	case "renew-self":
		n := v.extend(&t.expires, in["increment"])
		v.answer(w, map[string]any{"auth": map[string]any{"client_token": t.token, "accessor": t.accessor, "lease_duration": n, "renewable": true}})
	case "revoke-self":
		v.drop(t)
		w.WriteHeader(204)
	case "accessors":
		keys := []string{}
		for _, x := range v.tokens {
			keys = append(keys, x.accessor)
		}
		v.answer(w, map[string]any{"data": map[string]any{"keys": append(keys, v.torn...)}})
	case "lookup-accessor", "revoke-accessor":
		x := v.byAccessor(text("accessor"))
		switch {
		case x == nil && slices.Contains(v.torn, text("accessor")):
			v.refuse(w, 403, "1 error occurred:\n\t* permission denied\n\n")
		case x == nil:
			v.refuse(w, 400, "1 error occurred:\n\t* invalid accessor\n\n")
		case path.Base(what) == "revoke-accessor":
			v.drop(x)
			w.WriteHeader(204)
		default:
			v.answer(w, map[string]any{"data": x.data(false)})
		}
	case "lookup", "renew":
		l := v.leases[text("lease_id")]
		if l == nil {
			v.refuse(w, 400, map[string]string{"lookup": "invalid lease", "renew": "lease not found"}[path.Base(what)])
			return
		}
		if path.Base(what) == "renew" {
			v.answer(w, map[string]any{"lease_id": text("lease_id"), "renewable": true, "lease_duration": v.extend(&l.expires, in["increment"])})
			return
		}
		v.answer(w, map[string]any{"data": map[string]any{"id": text("lease_id"), "issue_time": l.issued, "expire_time": l.expires, "last_renewal": nil, "renewable": true, "ttl": int(time.Until(l.expires).Seconds())}})
	case "revoke":
		if strings.HasPrefix(what, "POST pki/") {
			v.certs[text("serial_number")] = time.Now().Unix()
			v.answer(w, map[string]any{"data": map[string]any{"revocation_time": time.Now().Unix()}})
			return
		}
		sync, _ := in["sync"].(bool)
		switch {
		case !sync || v.Lazy:
			v.later = append(v.later, text("lease_id"))
			w.WriteHeader(202)
		case !v.end(text("lease_id")):
			v.refuse(w, 400, "failed to revoke entry: resp: (*logical.Response)(nil) err: the database is down")
		default:
			w.WriteHeader(204)
		}
	default:
		v.read(w, what, t, in)
	}
}

// read is what is kept secret: an account, a text, a certificate.
func (v *Vault) read(w http.ResponseWriter, what string, t *vaultToken, in map[string]any) {
	switch what {
	case "GET database/creds/desk":
		name, id := "v-jwt-desk-"+rand.Text(), "database/creds/desk/"+rand.Text()
		v.accounts[name] = rand.Text()
		if v.Make != nil && v.Make(name, v.accounts[name]) != nil {
			v.refuse(w, 500, "1 error occurred:\n\t* the database refuses\n\n")
			return
		}
		v.leases[id] = &vaultLease{t.accessor, name, time.Now().Add(time.Duration(v.Life) * time.Second), time.Now()}
		v.answer(w, map[string]any{"lease_id": id, "lease_duration": v.Life, "renewable": true, "data": map[string]any{"username": name, "password": v.accounts[name]}})
	case "GET secret/data/desk":
		v.answer(w, map[string]any{"data": map[string]any{"data": map[string]any{"token": "kept-in-the-vault"}, "metadata": map[string]any{"version": 3}}})
	case "POST pki/issue/desk":
		v.n++
		serial := fmt.Sprintf("7a:%02x", v.n)
		v.certs[serial] = 0
		v.answer(w, map[string]any{"data": map[string]any{"certificate": "-----BEGIN CERTIFICATE-----\n" + in["common_name"].(string), "issuing_ca": "CA", "ca_chain": []string{"CA"},
			"private_key": "-----BEGIN EC PRIVATE KEY-----", "private_key_type": "ec", "serial_number": serial, "expiration": time.Now().Add(time.Hour).Unix()}})
	default:
		v.refuse(w, 404)
	}
}

func (v *Vault) extend(at *time.Time, increment any) int64 {
	n, _ := increment.(float64)
	got := min(int64(cmp.Or(n, float64(v.Life))), v.Life) // token_max_ttl is Life
	*at = time.Now().Add(time.Duration(got) * time.Second)
	return got
}

func (t *vaultToken) data(self bool) map[string]any {
	out := map[string]any{"accessor": t.accessor, "display_name": "jwt", "expire_time": t.expires, "id": "", "meta": t.meta, "num_uses": 0, "path": "auth/jwt/login",
		"policies": []string{"default", t.role}, "ttl": int(time.Until(t.expires).Seconds()), "type": "service"}
	if self {
		out["id"] = t.token
	}
	return out
}

func (v *Vault) login(w http.ResponseWriter, in map[string]any) {
	role, _ := in["role"].(string)
	jwt, _ := in["jwt"].(string)
	c, err := v.trust.verify(jwt, v.audience)
	bound := map[string]bool{"desk": strings.Contains(c.Subject, "/agent/"), "sallyport": strings.HasSuffix(c.Subject, "/boundary") && !strings.Contains(c.Subject, "/agent/")}
	if err != nil || !bound[role] { // bound_claims of the role
		v.refuse(w, 400, fmt.Sprintf("error validating token: %v", err))
		return
	}
	t := &vaultToken{token: "hvs." + rand.Text(), accessor: rand.Text(), role: role, meta: map[string]string{"role": role}, expires: time.Now().Add(time.Duration(v.Life) * time.Second)}
	if role == "desk" && !v.Unmapped {
		t.meta["sallyport"] = c.ID
	}
	kind := "service"
	if v.Batch {
		kind = "batch"
	}
	v.tokens[t.token] = t
	v.answer(w, map[string]any{"auth": map[string]any{"client_token": t.token, "accessor": t.accessor, "policies": []string{"default", role}, "token_policies": []string{"default", role},
		"metadata": t.meta, "lease_duration": v.Life, "renewable": true, "entity_id": "e", "token_type": kind, "orphan": true, "num_uses": 0}})
}

// answer fills in what every answer has.
func (v *Vault) answer(w http.ResponseWriter, with map[string]any) {
	out := map[string]any{"request_id": rand.Text(), "lease_id": "", "renewable": false, "lease_duration": 0, "data": nil, "wrap_info": nil, "warnings": nil, "auth": nil}
	maps.Copy(out, with)
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	json.NewEncoder(w).Encode(out)
}

func (v *Vault) refuse(w http.ResponseWriter, status int, errors ...string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(map[string]any{"errors": append([]string{}, errors...)})
}
