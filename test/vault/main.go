// Command vault asks a server what internal/lease/vault asks, by OpenBao's own client:
// what that client cannot read is no answer of such a server.
//
// VAULT names the server, CA its root, TASK and BOUNDARY are JWTs for its two roles.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net/http"
	"os"
	"slices"

	"github.com/openbao/openbao/api/v2"
)

func main() {
	task, boundary := client(), client()
	desk := login(task, "desk", os.Getenv("TASK"))
	login(boundary, "sallyport", os.Getenv("BOUNDARY"))
	if desk.Auth.Metadata["sallyport"] == "" || desk.Auth.LeaseDuration < 60 || !desk.Auth.Renewable {
		fail("login", fmt.Errorf("got %+v", desk.Auth))
	}

	self, err := task.Auth().Token().LookupSelf()
	fail("lookup-self", err)
	if accessor, err := self.TokenAccessor(); err != nil || accessor != desk.Auth.Accessor {
		fail("lookup-self", fmt.Errorf("accessor %q: %v", accessor, err))
	}
	renewed, err := task.Auth().Token().RenewSelf(300)
	fail("renew-self", err)
	if renewed.Auth.LeaseDuration != 300 {
		fail("renew-self", fmt.Errorf("got %+v", renewed.Auth))
	}

	account, err := task.Logical().Read("database/creds/desk")
	fail("creds", err)
	if account.LeaseID == "" || account.Data["username"] == nil || account.Data["password"] == nil {
		fail("creds", fmt.Errorf("got no account with a lease"))
	}
	text, err := task.KVv2("secret").Get(context.Background(), "desk")
	fail("kv", err)
	if text.Data["token"] != "kept-in-the-vault" {
		fail("kv", fmt.Errorf("got %v", text.Data))
	}
	cert, err := task.Logical().Write("pki/issue/desk", map[string]any{"common_name": "desk.example", "ttl": "60s", "format": "pem"})
	fail("pki", err)
	l, err := task.Sys().Renew(account.LeaseID, 120)
	fail("renew", err)
	if l.LeaseDuration != 120 || l.LeaseID != account.LeaseID {
		fail("renew", fmt.Errorf("got %+v", l))
	}

	all, err := boundary.Logical().List("auth/token/accessors")
	fail("accessors", err)
	if !slices.Contains(all.Data["keys"].([]any), any(desk.Auth.Accessor)) {
		fail("accessors", fmt.Errorf("got %v", all.Data))
	}
	found, err := boundary.Auth().Token().LookupAccessor(desk.Auth.Accessor)
	fail("lookup-accessor", err)
	if meta, err := found.TokenMetadata(); err != nil || meta["sallyport"] != desk.Auth.Metadata["sallyport"] {
		fail("lookup-accessor", fmt.Errorf("got %v %v", meta, err))
	}
	_, err = boundary.Sys().Lookup(account.LeaseID)
	fail("lease lookup", err)
	// Its RevokeWithOptions names the lease in the path, for which a policy is wider.
	_, err = boundary.Logical().Write("sys/leases/revoke", map[string]any{"lease_id": account.LeaseID, "sync": true})
	fail("lease revoke", err)
	refused("lease lookup", 400, func() error { _, err := boundary.Sys().Lookup(account.LeaseID); return err })
	_, err = boundary.Logical().Write("pki/revoke", map[string]any{"serial_number": cert.Data["serial_number"]})
	fail("pki revoke", err)
	read, err := boundary.Logical().Read("pki/cert/" + cert.Data["serial_number"].(string))
	fail("pki cert", err)
	if fmt.Sprint(read.Data["revocation_time"]) == "0" {
		fail("pki cert", fmt.Errorf("got %v", read.Data))
	}
	fail("revoke-accessor", boundary.Auth().Token().RevokeAccessor(desk.Auth.Accessor))
	refused("lookup-accessor", 400, func() error { _, err := boundary.Auth().Token().LookupAccessor(desk.Auth.Accessor); return err })
	refused("lookup-self", 403, func() error { _, err := task.Auth().Token().LookupSelf(); return err })
	refused("a task that revokes", 403, func() error {
		login(task, "desk", os.Getenv("TASK"))
		return task.Sys().Revoke(account.LeaseID)
	})
	fail("revoke-self", boundary.Auth().Token().RevokeSelf(""))
	fmt.Println("agreed")
}

func client() *api.Client {
	pem, err := os.ReadFile(os.Getenv("CA"))
	fail("CA", err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	c, err := api.NewClient(&api.Config{Address: os.Getenv("VAULT"), HttpClient: &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, ServerName: "example.com"}}}})
	fail("client", err)
	c.ClearToken()
	return c
}

func login(c *api.Client, role, jwt string) *api.Secret {
	c.ClearToken()
	s, err := c.Logical().Write("auth/jwt/login", map[string]any{"role": role, "jwt": jwt})
	fail("login as "+role, err)
	c.SetToken(s.Auth.ClientToken)
	return s
}

func refused(what string, status int, f func() error) {
	err := f()
	if e, ok := err.(*api.ResponseError); !ok || e.StatusCode != status || len(e.Errors) == 0 {
		fail(what, fmt.Errorf("got %v, want the status %d", err, status))
	}
}

func fail(what string, err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", what, err)
		os.Exit(1)
	}
}
