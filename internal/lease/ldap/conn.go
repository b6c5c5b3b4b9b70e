package ldap

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"path"
	"strings"
	"time"

	"github.com/go-ldap/ldap/v3"
)

// Dial reaches a server.
type Dial func(ctx context.Context, network, addr string) (net.Conn, error)

// Limits of one connection.
const (
	opLimit  = 10 * time.Second // of one operation
	maxBytes = 16 << 20         // that the server may send
	pageSize = 200
	maxFound = 1000 // entries of one search
)

// Endpoint reads a URL: where to connect to, and which name the certificate has.
func Endpoint(text string) (scheme, network, addr, host string, err error) {
	u, err := url.Parse(text)
	if err == nil && (u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.Path != "" && u.Path != "/" || u.Opaque != "") {
		err = errors.New("nothing follows the host")
	}
	bad := func() (string, string, string, string, error) {
		return "", "", "", "", errors.New("want ldaps://HOST:PORT, ldap://HOST:PORT (StartTLS is used) or ldapi:// and a socket's path with %2F for /")
	}
	switch {
	case strings.HasPrefix(text, "ldapi://"): // url.Parse takes no %2F in a host
		file, err := url.PathUnescape(strings.TrimPrefix(text, "ldapi://"))
		if err != nil || !path.IsAbs(file) || path.Clean(file) != file || strings.ContainsRune(file, 0) || strings.ContainsAny(text[8:], "/?#") {
			return bad()
		}
		return "ldapi", "unix", file, "", nil
	case err != nil || u.Hostname() == "":
		return bad()
	case u.Scheme == "ldaps":
		return u.Scheme, "tcp", net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "636")), u.Hostname(), nil
	case u.Scheme == "ldap":
		return u.Scheme, "tcp", net.JoinHostPort(u.Hostname(), cmp.Or(u.Port(), "389")), u.Hostname(), nil
	}
	return bad()
}

// conn is a connection that ends with its context.
type conn struct {
	*ldap.Conn
	stop func() bool
}

func (c *conn) Close() error {
	c.stop()
	return c.Conn.Close()
}

// open connects. Nothing was said to the server yet but what TLS says.
func (s *Source) open(ctx context.Context) (*conn, error) {
	scheme, network, addr, host, err := Endpoint(s.c.URL)
	if err != nil {
		return nil, err
	}
	dial := s.c.Dial
	if dial == nil || network == "unix" {
		dial = new(net.Dialer).DialContext
	}
	dctx, cancel := context.WithTimeout(ctx, opLimit)
	defer cancel()
	raw, err := dial(dctx, network, addr)
	if err != nil {
		return nil, fmt.Errorf("the directory cannot be reached: %w", err)
	}
	raw = &bounded{raw, io.LimitReader(raw, maxBytes)}
	cfg := &tls.Config{}
	if s.c.TLS != nil {
		cfg = s.c.TLS.Clone()
	}
	cfg.MinVersion, cfg.ServerName = tls.VersionTLS12, host
	if scheme == "ldaps" {
		over := tls.Client(raw, cfg)
		if err := over.HandshakeContext(dctx); err != nil {
			raw.Close()
			return nil, fmt.Errorf("TLS with the directory: %w", err)
		}
		raw = over
	}
	c := &conn{Conn: ldap.NewConn(raw, scheme == "ldaps")}
	c.SetTimeout(opLimit)
	c.Start()
	c.stop = context.AfterFunc(ctx, func() { raw.Close() })
	if scheme == "ldap" {
		if err := c.StartTLS(cfg); err != nil {
			c.Close()
			return nil, fmt.Errorf("StartTLS with the directory: %w", err)
		}
	}
	return c, nil
}

// admin connects as Admin.
func (s *Source) admin(ctx context.Context) (*conn, error) {
	password, err := s.c.Password(ctx)
	if err != nil {
		return nil, fmt.Errorf("password of %s: %w", s.c.Admin, err)
	}
	defer clear(password)
	if len(password) == 0 { // which is an anonymous bind (RFC 4513 section 5.1.2), and succeeds
		return nil, fmt.Errorf("the password of %s is empty", s.c.Admin)
	}
	c, err := s.open(ctx)
	if err != nil {
		return nil, err
	}
	if err := c.Bind(s.c.Admin, string(password)); err != nil {
		c.Close()
		return nil, fmt.Errorf("bind as %s: %w", s.c.Admin, err)
	}
	return c, nil
}

// bounded is a connection from which so much is read and no more.
type bounded struct {
	net.Conn
	r io.Reader
}

func (b *bounded) Read(p []byte) (int, error) { return b.r.Read(p) }

// refused: the error is a result that the server sent. Codes from 200 on are the
// client's own.
func refused(err error) bool {
	e := (*ldap.Error)(nil)
	return errors.As(err, &e) && e.ResultCode > 0 && e.ResultCode < 200
}

// filter is an equality match with an escaped value.
func filter(attribute, value string) string {
	return "(" + attribute + "=" + ldap.EscapeFilter(value) + ")"
}

func search(base string, scope int, filter string) *ldap.SearchRequest {
	return ldap.NewSearchRequest(base, scope, ldap.NeverDerefAliases, maxFound, int(opLimit/time.Second), false, filter, []string{"uid", "entryUUID"}, nil)
}

// read returns one entry, or nil if there is none.
func read(c *conn, dn string) (*ldap.Entry, error) {
	r, err := c.Search(search(dn, ldap.ScopeBaseObject, "(objectClass=*)"))
	switch {
	case ldap.IsErrorWithCode(err, ldap.LDAPResultNoSuchObject):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read %s: %w", dn, err)
	case len(r.Entries) != 1:
		return nil, nil
	}
	return r.Entries[0], nil
}

// member puts an account into a group or takes it out; that it is so already is no
// error.
func member(c *conn, group, dn string, in bool) error {
	m := ldap.NewModifyRequest(group, nil)
	done := uint16(ldap.LDAPResultNoSuchAttribute)
	if in {
		m.Add("member", []string{dn})
		done = ldap.LDAPResultAttributeOrValueExists
	} else {
		m.Delete("member", []string{dn})
	}
	if err := c.Modify(m); err != nil && !ldap.IsErrorWithCode(err, done) {
		return err
	}
	return nil
}
