package leasetest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"database/sql"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	_ "modernc.org/sqlite" // its database
)

// The client of a started Glewlwyd, by client_secret_basic.
const (
	GlewlwydClient = "boundary"
	GlewlwydSecret = "a-client-secret"
)

// Glewlwyd is a running Glewlwyd of the test's own: an OpenID provider whose access
// tokens are JWTs (RFC 9068).
type Glewlwyd struct {
	Issuer string // through Wire
	Wire   *Wire
	t      testing.TB
	direct string
	db     *sql.DB
	client *http.Client
}

const glewlwydConf = `port=%s
bind_address="127.0.0.1"
external_url="%s"
login_url="login.html"
api_prefix="api"
log_mode="console"
log_level="WARNING"
cookie_domain=""
cookie_secure=0
session_expiration=3600
session_key="S"
admin_scope="g_admin"
profile_scope="g_profile"
user_module_path="MODULES/user"
user_middleware_module_path="DIR/none"
client_module_path="MODULES/client"
user_auth_scheme_module_path="MODULES/scheme"
plugin_module_path="MODULES/plugin"
use_secure_connection=false
secure_connection_key_file="DIR/key.pem"
secure_connection_pem_file="DIR/key.pem"
hash_algorithm="SHA512"
database = { type = "sqlite3"; path = "DIR/db"; };
`

// StartGlewlwyd runs Glewlwyd until the test ends.
func StartGlewlwyd(t testing.TB, life time.Duration) *Glewlwyd {
	t.Helper()
	if testing.Short() {
		t.Skip("starts Glewlwyd")
	}
	binary, err := exec.LookPath("glewlwyd")
	modules := firstOf("/usr/lib/glewlwyd", "/usr/lib64/glewlwyd", "/usr/local/lib/glewlwyd")
	schema := firstOf("/usr/share/dbconfig-common/data/glewlwyd/install/sqlite3")
	if err != nil || modules == "" || schema == "" {
		t.Fatal("this test needs Glewlwyd, as Debian's package has it: scripts/deps.sh")
	}
	dir := t.TempDir()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	keyPEM := pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := freeAddr(t)
	_, port, _ := net.SplitHostPort(addr)
	g := &Glewlwyd{t: t, direct: "http://" + addr, client: &http.Client{Timeout: 20 * time.Second}, Wire: NewWire(t, l, "tcp", addr)}
	outside := "http://" + l.Addr().String()
	g.Issuer = outside + "/api/oidc"
	conf := strings.NewReplacer("DIR", dir, "MODULES", modules).Replace(fmt.Sprintf(glewlwydConf, port, outside))
	for name, b := range map[string][]byte{"conf": []byte(conf), "key.pem": keyPEM} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	g.open(filepath.Join(dir, "db"), schema)
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd := exec.Command(binary, "--config-file="+filepath.Join(dir, "conf"))
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		if c, err := net.Dial("tcp", addr); err == nil {
			c.Close()
			break
		}
		if time.Now().After(deadline) {
			said, _ := os.ReadFile(log.Name())
			t.Fatalf("Glewlwyd does not start: %s", said)
		}
	}
	seconds := int(life / time.Second)
	g.client.Jar, _ = cookiejar.New(nil) // which fails for its options alone
	g.admin("auth/", map[string]any{"username": "admin", "password": "password"})
	g.admin("scope/", map[string]any{"name": "read", "display_name": "read", "description": "read", "password_required": false, "scheme": struct{}{}})
	g.admin("mod/plugin/", map[string]any{"module": "oidc", "name": "oidc", "display_name": "oidc", "enabled": true, "parameters": map[string]any{
		"iss": g.Issuer, "jwt-type": "ecdsa", "jwt-key-size": "256", "key": string(keyPEM),
		"cert":                  string(pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public})),
		"access-token-duration": seconds, "refresh-token-duration": seconds, "code-duration": seconds, "allow-non-oidc": true,
		"auth-type-code-enabled": true, "auth-type-token-enabled": false, "auth-type-id-token-enabled": true, "auth-type-none-enabled": false,
		"auth-type-password-enabled": false, "auth-type-client-enabled": true, "auth-type-device-enabled": false, "auth-type-refresh-enabled": false,
		"request-parameter-allow": true, "request-maximum-exp": 3600, "client-jwks-parameter": "jwks",
		"introspection-revocation-allowed": true, "introspection-revocation-allow-target-client": true, "subject-type": "public"}})
	g.admin("client/", map[string]any{"client_id": GlewlwydClient, "name": "boundary", "confidential": true, "enabled": true, "password": GlewlwydSecret,
		"authorization_type": []string{"client_credentials"}, "scope": []string{"read"}, "redirect_uri": []string{}, "token_endpoint_auth_method": []string{"client_secret_basic"}})
	return g
}

func (g *Glewlwyd) open(file, schema string) {
	g.t.Helper()
	text, err := os.ReadFile(schema)
	if err != nil {
		g.t.Fatal(err)
	}
	if g.db, err = sql.Open("sqlite", file+"?_pragma=busy_timeout(10000)"); err != nil {
		g.t.Fatal(err)
	}
	g.t.Cleanup(func() { g.db.Close() })
	if _, err := g.db.Exec(string(text)); err != nil {
		g.t.Fatal(err)
	}
}

func (g *Glewlwyd) admin(path string, body any) {
	g.t.Helper()
	b, err := json.Marshal(body)
	if err != nil {
		g.t.Fatal(err)
	}
	resp, err := g.client.Post(g.direct+"/api/"+path, "application/json", bytes.NewReader(b))
	if err != nil {
		g.t.Fatal(err)
	}
	defer resp.Body.Close()
	if said, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusOK {
		g.t.Fatalf("Glewlwyd, %s: %s %s", path, resp.Status, said)
	}
}

// Asserts registers a client that shows assertions by the keys of jwks (RFC 7523).
func (g *Glewlwyd) Asserts(client string, jwks []byte) {
	g.t.Helper()
	g.admin("client/", map[string]any{"client_id": client, "name": client, "confidential": true, "enabled": true, "jwks": json.RawMessage(jwks),
		"authorization_type": []string{"client_credentials"}, "scope": []string{"read"}, "redirect_uri": []string{}, "token_endpoint_auth_method": []string{"private_key_jwt"}})
}

// Labels are those of the tokens that its database holds as good.
func (g *Glewlwyd) Labels(life time.Duration) []string {
	g.t.Helper()
	rows, err := g.db.Query("SELECT gpoa_user_agent FROM gpo_access_token WHERE gpoa_enabled = 1 AND gpoa_issued_at + ? > CAST(strftime('%s') AS INTEGER)", int(life/time.Second))
	if err != nil {
		g.t.Fatal(err)
	}
	defer rows.Close()
	var agents []string
	for rows.Next() {
		var a string
		if err := rows.Scan(&a); err != nil {
			g.t.Fatal(err)
		}
		agents = append(agents, a)
	}
	if err := rows.Err(); err != nil {
		g.t.Fatal(err)
	}
	return LabelsOf(agents)
}

// Pass makes every token that it issued as much older, in its database, once it
// issues no more.
func (g *Glewlwyd) Pass(d time.Duration) {
	g.t.Helper()
	for n, before := -1, -2; n != before; time.Sleep(50 * time.Millisecond) {
		before = n
		if err := g.db.QueryRow("SELECT count(*) FROM gpo_access_token").Scan(&n); err != nil {
			g.t.Fatal(err)
		}
	}
	if _, err := g.db.Exec("UPDATE gpo_access_token SET gpoa_issued_at = gpoa_issued_at - ?", int(d/time.Second)); err != nil {
		g.t.Fatal(err)
	}
}

// Active introspects a token, apart from the source, with a client's assertion for
// the endpoint, or as GlewlwydClient. Glewlwyd tells nobody but the client that has
// the token, in the way in which it got it.
func (g *Glewlwyd) Active(token string, assert func(endpoint string) (string, error)) bool {
	form := url.Values{"token": {token}}
	if assert != nil {
		a, err := assert(strings.TrimSuffix(g.Issuer, "/") + "/introspect")
		if err != nil {
			g.t.Error(err)
			return false
		}
		form.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
		form.Set("client_assertion", a)
	}
	r, err := http.NewRequest(http.MethodPost, g.direct+"/api/oidc/introspect", strings.NewReader(form.Encode()))
	if err != nil {
		g.t.Error(err)
		return false
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	if assert == nil {
		r.SetBasicAuth(GlewlwydClient, GlewlwydSecret)
	}
	resp, err := g.client.Do(r)
	if err != nil {
		g.t.Error(err)
		return false
	}
	defer resp.Body.Close()
	var says struct {
		Active bool `json:"active"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&says); err != nil || resp.StatusCode != http.StatusOK {
		g.t.Error(resp.Status, err)
	}
	return says.Active
}
