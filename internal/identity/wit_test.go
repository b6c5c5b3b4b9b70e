package identity_test

import (
	"context"
	"crypto"
	"crypto/ecdsa"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/exp/svid/witsvid"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/sallyport-dev/sallyport/internal/identity"
)

// go-spiffe's source of WIT-SVIDs works against our socket, also after the keys
// were rotated: what it gets verifies by the bundle it gets and by the published
// one, is bound to the key that came with it, and is on record. It ends with the
// task.
func TestWIT(t *testing.T) {
	f := newFixture(t, identity.Config{WIT: true, JWTTTL: 2 * time.Second})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	src, err := workloadapi.NewWITSource(ctx, workloadapi.WithClientOptions(workloadapi.WithAddr("unix://"+f.serve(t, as(aWorkload())))))
	if err != nil {
		t.Fatal(err)
	}
	defer src.Close()
	own := spiffeid.RequireFromString(wantID)
	first, err := src.GetWITSVIDForID(own)
	if err != nil {
		t.Fatal(err)
	}
	published, err := spiffebundle.Parse(spiffeid.RequireTrustDomainFromString("acme.example"), get(t, f.issuer.BundleEndpoint()))
	if err != nil {
		t.Fatal(err)
	}
	for name, b := range map[string]*spiffebundle.Bundle{"published": published, "streamed": fromSource(t, src)} {
		s, err := witsvid.ParseAndValidate(first.Marshal(), b)
		if err != nil || s.ID.String() != wantID {
			t.Fatalf("by the bundle %s: got %v, %v", name, s, err)
		}
		if k, ok := first.PrivateKey.(*ecdsa.PrivateKey); !ok || !k.PublicKey.Equal(s.PublicKey) {
			t.Errorf("bound to %v, and the key that came with it is %T", s.PublicKey, first.PrivateKey)
		}
	}
	issued := f.entries(t, "identity.issued")
	if len(issued) == 0 || issued[0]["kind"] != "wit" || issued[0]["subject"] != wantID || issued[0]["bound"] != true || issued[0]["audience"] != nil {
		t.Errorf("on record: %v", issued)
	}
	await(t, "another WIT-SVID, with another key", func() bool {
		s, err := src.GetWITSVIDForID(own)
		return err == nil && s.Marshal() != first.Marshal() && !s.PublicKey.(interface{ Equal(crypto.PublicKey) bool }).Equal(first.PublicKey)
	})
	f.issuer.Revoke("t-1")
	n := len(f.entries(t, "identity.issued"))
	if _, err := workloadapi.FetchWITSVIDs(ctx, "", workloadapi.WithAddr("unix://"+f.serve(t, as(aWorkload())))); status.Code(err) != codes.PermissionDenied {
		t.Errorf("after the task ended: %v", err)
	}
	if got := len(f.entries(t, "identity.issued")); got != n {
		t.Errorf("%d more were issued", got-n)
	}
}

func fromSource(t *testing.T, src *workloadapi.WITSource) *spiffebundle.Bundle {
	t.Helper()
	b, err := src.GetWITBundleForTrustDomain(spiffeid.RequireTrustDomainFromString("acme.example"))
	if err != nil {
		t.Fatal(err)
	}
	return spiffebundle.FromWITBundle(b)
}

// A WIT-SVID is nothing but that: it opens nothing where a JWT-SVID is asked for,
// and a JWT-SVID is none. Nobody gets one of another, or where they are off.
//
// Threats: F4 (door)
func TestWITIsNoJWTSVID(t *testing.T) {
	d := newDesk(t, identity.Config{WIT: true})
	client := func(f *fixture) (workload.SpiffeWorkloadAPIClient, context.Context) {
		conn, err := grpc.NewClient("unix://"+f.serve(t, as(aWorkload())), grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { conn.Close() })
		return workload.NewSpiffeWorkloadAPIClient(conn), metadata.AppendToOutgoingContext(t.Context(), "workload.spiffe.io", "true")
	}
	api, ctx := client(d.fixture)
	fetch := func(id string) (*workload.WITSVIDResponse, error) {
		s, err := api.FetchWITSVID(ctx, &workload.WITSVIDRequest{SpiffeId: id})
		if err != nil {
			return nil, err
		}
		return s.Recv()
	}
	r, err := fetch(wantID)
	if err != nil {
		t.Fatal(err)
	}
	wit := r.Svids[0].WitSvid
	if _, err := fetch("spiffe://acme.example/agent/helpdesk/task/t-2"); status.Code(err) != codes.PermissionDenied {
		t.Errorf("the WIT-SVID of another task: %v", err)
	}
	head, claims := claimsOf(t, wit)
	if head["typ"] != "wit+jwt" || claims["aud"] != nil || strings.Contains(fmt.Sprint(claims["cnf"]), " d:") {
		t.Errorf("got %v %v", head, claims)
	}
	var key map[string]any
	if err := json.Unmarshal([]byte(r.Svids[0].WitSvidKey), &key); err != nil || key["d"] == nil || key["alg"] != "ES256" {
		t.Errorf("the key that came with it: %v, %v", key["kty"], err)
	}
	for _, aud := range []string{"vault.example", d.url, wantID} {
		if _, err := d.issuer.VerifyJWT(t.Context(), wit, aud); err == nil {
			t.Errorf("taken for a JWT-SVID of %s", aud)
		}
	}
	if v, err := api.ValidateJWTSVID(ctx, &workload.ValidateJWTSVIDRequest{Audience: "vault.example", Svid: wit}); status.Code(err) != codes.InvalidArgument {
		t.Errorf("validated over the socket: %v, %v", v, err)
	}
	if a := d.post("/token", form("grant_type", exchange, "subject_token", wit, "subject_token_type", jwtType, "resource", "https://api.example")); a.status == 200 {
		t.Error("exchanged for a token")
	}
	b, err := spiffebundle.Parse(spiffeid.RequireTrustDomainFromString("acme.example"), get(t, d.issuer.BundleEndpoint()))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := witsvid.ParseAndValidate(mustJWT(t, d, "vault.example"), b); err == nil {
		t.Error("a JWT-SVID is taken for a WIT-SVID")
	}

	off, ctx := client(newFixture(t, identity.Config{}))
	s, err := off.FetchWITSVID(ctx, &workload.WITSVIDRequest{})
	if err == nil {
		_, err = s.Recv()
	}
	if status.Code(err) != codes.Unimplemented {
		t.Errorf("where they are off: %v", err)
	}
}
