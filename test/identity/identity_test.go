// Package identity shows the agent's identity with a program of the outside: an
// ordinary go-spiffe client, run by a task and run beside it.
package identity

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/test/rig"
)

func TestMain(m *testing.M) {
	rig.Main(m, map[string]rig.Program{"svids": svids, "link": link, "relay": relay})
}

// svids fetches both SVIDs with the environment it was given, as any go-spiffe
// program would, with one argument stays until it is ended, and
// with another one calls that URL first.
func svids(ctx context.Context, args []string) error {
	fctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	c, err := workloadapi.New(fctx)
	if err != nil {
		return err
	}
	defer c.Close()
	x, errX := c.FetchX509SVID(fctx)
	if errX == nil {
		fmt.Println("x509", x.ID, len(x.Certificates))
	}
	j, errJ := c.FetchJWTSVID(fctx, jwtsvid.Params{Audience: "ticket-system"})
	if errJ == nil {
		fmt.Println("jwt", j.ID, j.Audience)
	}
	if err := errors.Join(errX, errJ); err != nil {
		return err
	}
	if at := os.Getenv("SALLYPORT_ISSUER_URL"); at != "" {
		if err := exchange(fctx, c, at); err != nil {
			return err
		}
	}
	if len(args) > 1 {
		if err := call(fctx, args[1]); err != nil {
			return err
		}
	}
	if len(args) > 0 {
		<-ctx.Done()
	}
	return nil
}

// call asks an application by the harness's own client, without a credential.
func call(ctx context.Context, u string) error {
	proxy, err := url.Parse(os.Getenv("HTTPS_PROXY"))
	if err != nil {
		return err
	}
	pem, err := os.ReadFile(os.Getenv("SSL_CERT_FILE"))
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	c := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(proxy), TLSClientConfig: &tls.Config{RootCAs: roots}}}
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, u, nil)
	if err != nil {
		return err
	}
	resp, err := c.Do(r)
	if err != nil {
		return err
	}
	resp.Body.Close()
	fmt.Println("called", resp.StatusCode)
	return nil
}

// exchange gets a token for the task's own JWT-SVID, at the door inside.
func exchange(ctx context.Context, c *workloadapi.Client, at string) error {
	get := func(r *http.Response, err error) (m map[string]any, _ error) {
		if err != nil {
			return nil, err
		}
		defer r.Body.Close()
		return m, json.NewDecoder(r.Body).Decode(&m)
	}
	direct := &http.Client{Transport: &http.Transport{}} // the proxy is for the world
	d, err := get(direct.Get(at + "/.well-known/openid-configuration"))
	if err != nil {
		return err
	}
	issuer, _ := d["issuer"].(string)
	j, err := c.FetchJWTSVID(ctx, jwtsvid.Params{Audience: issuer})
	if err != nil {
		return err
	}
	m, err := get(direct.PostForm(at+"/token", url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:token-exchange"}, "subject_token": {j.Marshal()},
		"subject_token_type": {"urn:ietf:params:oauth:token-type:jwt"}, "resource": {"https://api.example"}}))
	fmt.Println("exchanged", m["token_type"], m["scope"])
	return err
}

// A program that was launched for a task gets both SVIDs. The same program, run
// outside by the same user against the same socket while the task runs, gets
// none; and after the task nobody does.
func TestLaunchedProgramAloneHasIdentity(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a browser")
	}
	r := rig.New(t, rig.Options{})
	r.Ready(t)
	own, err := os.MkdirTemp("", "own-") // a path of a socket is short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(own) })
	t.Setenv("TMPDIR", own) // where others' tasks have no socket
	x := r.OpenTask(t, rig.Intent(action.Sandbox, "jo", "4711"))
	var out rig.Output
	running, err := r.Server.Run(t.Context(), "", x.ID, rig.Harness(t, &out, "program", "svids", "stay"))
	if err != nil {
		t.Fatal(err)
	}
	id := "spiffe://brightwell.example/agent/helpdesk/task/" + x.ID
	rig.Await(t, "both SVIDs inside", func() bool {
		s := out.String()
		return strings.Contains(s, "x509 "+id) && strings.Contains(s, "jwt "+id+" [ticket-system]")
	})
	sockets, err := filepath.Glob(filepath.Join(own, "sallyport-*", "workload.sock"))
	if err != nil || len(sockets) != 1 {
		t.Fatalf("the sockets of the task are %v, %v", sockets, err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	outside := func() string {
		cmd := exec.CommandContext(t.Context(), self, "program", "svids")
		cmd.Env = append(os.Environ(), "SPIFFE_ENDPOINT_SOCKET=unix://"+sockets[0])
		b, err := cmd.CombinedOutput()
		if err == nil {
			t.Errorf("the same program outside got an identity: %s", b)
		}
		return string(b)
	}
	if got := outside(); !strings.Contains(got, "PermissionDenied") || strings.Contains(got, "spiffe://") {
		t.Errorf("outside: got %q, want PermissionDenied and no identity", got)
	}
	if _, err := r.Server.Revoke(t.Context(), "", rig.As("ada"), "task/"+x.ID, "the test is over"); err != nil {
		t.Fatal(err)
	}
	rig.Wait(t, running)
	outside()
	refused := 0
	for _, e := range r.Records(t, 0) {
		if e.Type == "identity.refused" {
			refused++
		}
	}
	if refused == 0 {
		t.Error("the refusal outside is not in the ledger")
	}
}
