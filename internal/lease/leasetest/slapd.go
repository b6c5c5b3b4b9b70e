package leasetest

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/go-ldap/ldap/v3"
)

// Names in a Directory.
const (
	Suffix        = "dc=test"
	Tasks         = "ou=tasks," + Suffix
	Operators     = "cn=operators,ou=groups," + Suffix // a group with another member
	Boundary      = "cn=boundary," + Suffix            // may make accounts in Tasks and change groups, and nothing else
	AdminPassword = "admin-password"
	Service       = "uid=svc-crm,ou=services," + Suffix // whose password Boundary may set
)

// Directory is a running OpenLDAP server of the test's own, in a folder of its own.
type Directory struct {
	Socket    string
	LDAP, TLS string // URLs: StartTLS, and TLS from the first byte
	CA        *x509.CertPool
	t         testing.TB
}

const slapdConf = `%s
pidfile DIR/pid
modulepath %s
moduleload back_mdb
TLSCertificateFile DIR/cert.pem
TLSCertificateKeyFile DIR/key.pem
access to dn.base="" by * read
database mdb
suffix "dc=test"
rootdn "cn=root,dc=test"
rootpw root-password
directory DIR/data
dbnosync
index objectClass,uid,member,entryUUID eq
access to dn.subtree="ou=tasks,dc=test" attrs=userPassword by dn.exact="cn=boundary,dc=test" write by anonymous auth by * none
access to dn.subtree="ou=services,dc=test" attrs=userPassword by dn.exact="cn=boundary,dc=test" write by anonymous auth by * none
access to attrs=userPassword by anonymous auth by * none
access to dn.subtree="ou=tasks,dc=test" by dn.exact="cn=boundary,dc=test" write by users read by * none
access to dn.subtree="ou=groups,dc=test" attrs=member by dn.exact="cn=boundary,dc=test" write by users read by * none
access to * by users read by * none
`

func firstOf(patterns ...string) string {
	for _, p := range patterns {
		if found, err := filepath.Glob(p); err == nil && len(found) > 0 {
			return found[0]
		}
	}
	return ""
}

// StartLDAP runs an OpenLDAP server until the test ends.
func StartLDAP(t testing.TB) *Directory {
	t.Helper()
	if testing.Short() {
		t.Skip("starts an LDAP server")
	}
	binary := firstOf("/usr/sbin/slapd", "/usr/libexec/slapd", "/usr/lib/slapd", "/usr/lib/openldap/slapd", "/usr/libexec/openldap/slapd")
	schema := firstOf("/etc/ldap/schema", "/etc/openldap/schema")
	if binary == "" || schema == "" {
		t.Fatal("this test needs an OpenLDAP server, such as Debian's slapd: scripts/deps.sh")
	}
	modules := filepath.Dir(firstOf("/usr/lib/ldap/back_mdb.*", "/usr/lib*/openldap/back_mdb.*", "/usr/libexec/openldap/back_mdb.*"))
	dir, err := os.MkdirTemp("", "slapd") // short: a socket's path has 107 bytes
	if err != nil {
		t.Fatal(err)
	}
	d := &Directory{t: t, Socket: filepath.Join(dir, "ldapi"), CA: x509.NewCertPool()}
	var includes string
	for _, s := range []string{"core", "cosine", "inetorgperson", "nis"} {
		includes += "include " + schema + "/" + s + ".schema\n"
	}
	conf := strings.ReplaceAll(fmt.Sprintf(slapdConf, includes, modules), "DIR", dir)
	if modules == "." { // built in
		conf = strings.NewReplacer("modulepath .\n", "", "moduleload back_mdb\n", "").Replace(conf)
	}
	d.certificate(dir)
	if err := os.WriteFile(filepath.Join(dir, "slapd.conf"), []byte(conf), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "data"), 0o700); err != nil {
		t.Fatal(err)
	}
	plain, over := freeAddr(t), freeAddr(t)
	d.LDAP, d.TLS = "ldap://"+plain, "ldaps://"+over
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	// The shell ends it when the test does, or the test binary, however that ends.
	cmd := exec.Command("/bin/sh", "-c", `"$@" </dev/null & read -r _; kill -KILL $!; wait; rm -rf "$0"`, dir,
		binary, "-d", "0", "-f", filepath.Join(dir, "slapd.conf"), "-h", d.LDAP+"/ "+d.TLS+"/ "+d.URL(d.Socket)+"/")
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // a Ctrl-C is for the tests
	held, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { held.Close(); cmd.Wait() })
	for deadline := time.Now().Add(20 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		c, err := net.Dial("unix", d.Socket)
		if err == nil {
			c.Close()
			break
		}
		if time.Now().After(deadline) {
			said, _ := os.ReadFile(log.Name())
			t.Fatalf("slapd does not start: %s", said)
		}
	}
	d.Add(Suffix, "dcObject organization", "dc", "test", "o", "test")
	d.Add(Tasks, "organizationalUnit")
	d.Add("ou=groups,"+Suffix, "organizationalUnit")
	d.Add("ou=services,"+Suffix, "organizationalUnit")
	d.Add(Service, "inetOrgPerson", "cn", "svc-crm", "sn", "svc-crm", "userPassword", "first-password")
	d.Add("cn=alice,"+Suffix, "person", "sn", "alice", "userPassword", "alice-password")
	d.Add(Boundary, "person", "sn", "boundary", "userPassword", AdminPassword)
	d.Add(Operators, "groupOfNames", "member", "cn=alice,"+Suffix)
	return d
}

func freeAddr(t testing.TB) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// URL is the ldapi URL of a socket.
func (d *Directory) URL(socket string) string { return "ldapi://" + url.PathEscape(socket) }

func (d *Directory) certificate(dir string) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		d.t.Fatal(err)
	}
	tpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	der, err := x509.CreateCertificate(rand.Reader, tpl, tpl, &key.PublicKey, key)
	if err != nil {
		d.t.Fatal(err)
	}
	kder, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		d.t.Fatal(err)
	}
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	d.CA.AppendCertsFromPEM(cert)
	for name, b := range map[string][]byte{"cert.pem": cert, "key.pem": pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: kder})} {
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
			d.t.Fatal(err)
		}
	}
}

// Bind connects through the socket as who has the password, and as the directory's
// owner without one.
func (d *Directory) Bind(dn, password string) (*ldap.Conn, error) {
	raw, err := net.Dial("unix", d.Socket)
	if err != nil {
		return nil, err
	}
	c := ldap.NewConn(raw, false)
	c.SetTimeout(10 * time.Second)
	c.Start()
	if dn == "" {
		dn, password = "cn=root,"+Suffix, "root-password"
	}
	if err := c.Bind(dn, password); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

// As does something as the directory's owner.
func (d *Directory) As(do func(*ldap.Conn) error) {
	d.t.Helper()
	c, err := d.Bind("", "")
	if err != nil {
		d.t.Fatal(err)
	}
	defer c.Close()
	if err := do(c); err != nil {
		d.t.Fatal(err)
	}
}

// Add makes an entry: its classes, and names and values of attributes.
func (d *Directory) Add(dn, classes string, attributes ...string) {
	d.t.Helper()
	r := ldap.NewAddRequest(dn, nil)
	r.Attribute("objectClass", strings.Fields(classes))
	for i := 0; i+1 < len(attributes); i += 2 {
		r.Attribute(attributes[i], []string{attributes[i+1]})
	}
	d.As(func(c *ldap.Conn) error { return c.Add(r) })
}

// Find lists the DNs that a filter selects.
func (d *Directory) Find(filter string) (out []string) {
	d.t.Helper()
	d.As(func(c *ldap.Conn) error {
		r, err := c.Search(ldap.NewSearchRequest(Suffix, ldap.ScopeWholeSubtree, ldap.NeverDerefAliases, 0, 10, false, filter, []string{"1.1"}, nil))
		if err == nil {
			for _, e := range r.Entries {
				out = append(out, e.DN)
			}
		}
		return err
	})
	return out
}
