package identity

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"
	"github.com/spiffe/go-spiffe/v2/proto/spiffe/workload"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sallyport-dev/sallyport/internal/canon"
)

// WIT-SVIDs are experimental: SPIFFE's specification is incubating, and it builds
// on an Internet-Draft (draft-ietf-wimse-workload-creds). They are issued only if
// Config.WIT says so.
//
// A WIT-SVID binds a key to the task's identity and is for no audience: it is
// nothing without a proof by that key. It is signed by the keys of JWT-SVIDs;
// its type and its missing audience keep each from being read as the other.
//
// Source: SPIFFE WIT-SVID sections 2 and 3; Workload API, WIT-SVID profile.

// witClaims are the claims of a WIT-SVID. No others are made.
type witClaims struct {
	Issuer   string `json:"iss"`
	Subject  string `json:"sub"`
	Expires  int64  `json:"exp"`
	IssuedAt int64  `json:"iat"`
	ID       string `json:"jti"`
	Confirm  struct {
		JWK canon.Value `json:"jwk"`
	} `json:"cnf"`
}

// witSVID is an issued token and the key that is bound to it, which print as a
// label.
type witSVID struct {
	id      string
	token   Token
	key     privateJWK
	expires time.Time
}

// privateJWK is a private key in JSON (RFC 7517) that prints as a label.
type privateJWK []byte

func (privateJWK) String() string   { return "[private key]" }
func (privateJWK) GoString() string { return "[private key]" }

// Format is as that of x509SVID.
func (s witSVID) Format(f fmt.State, _ rune) { io.WriteString(f, "[wit-svid "+s.id+"]") }

var errNoWIT = status.Error(codes.Unimplemented, "WIT-SVIDs are experimental and not issued here; see: sallyport up --help, --experimental")

// FetchWITSVID streams the WIT-SVID of the caller's task until the task ends: a
// new one, with a new key, at half life.
func (s *workloadServer) FetchWITSVID(r *workload.WITSVIDRequest, stream grpc.ServerStreamingServer[workload.WITSVIDResponse]) error {
	if !s.i.cfg.WIT || s.i.external.Load() {
		return errNoWIT
	}
	return s.repeat(stream.Context(), func(ctx context.Context, w Workload) (time.Duration, error) {
		id, err := s.i.idOf(w)
		if err == nil && r.SpiffeId != "" && r.SpiffeId != id.String() {
			err = refuse("wrong_subject", "the caller is not the workload that it asks for")
		}
		if err != nil {
			return 0, err
		}
		svid, err := s.i.issueWIT(ctx, w)
		if err != nil {
			return 0, err
		}
		return svid.expires.Sub(s.i.cfg.Now()) / 2, stream.Send(&workload.WITSVIDResponse{Svids: []*workload.WITSVID{{
			SpiffeId: svid.id, WitSvid: svid.token.Reveal(), WitSvidKey: string(svid.key)}}})
	})
}

// FetchWITBundles streams the keys that WIT-SVIDs of the trust domain, and of
// those that it federates with, are signed by.
func (s *workloadServer) FetchWITBundles(_ *workload.WITBundlesRequest, stream grpc.ServerStreamingServer[workload.WITBundlesResponse]) error {
	if !s.i.cfg.WIT || s.i.external.Load() {
		return errNoWIT
	}
	return s.bundles(stream.Context(), func(all []*spiffebundle.Bundle) error {
		out := map[string]string{}
		for _, b := range all {
			doc, err := b.WITBundle().Marshal()
			if err != nil {
				return err
			}
			out[b.TrustDomain().IDString()] = string(doc)
		}
		return stream.Send(&workload.WITBundlesResponse{Bundles: out})
	})
}

// issueWIT makes a WIT-SVID with a new key, in the order of every issue here.
func (i *Issuer) issueWIT(ctx context.Context, w Workload) (witSVID, error) {
	a, err := i.admit(ctx, &w)
	if err != nil {
		return witSVID{}, err
	}
	id, err := workloadID(i.td, w)
	if err != nil {
		return witSVID{}, err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return witSVID{}, fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	var raw [16]byte
	rand.Read(raw[:])
	now := i.cfg.Now().UTC().Truncate(time.Second)
	expires := earlier(now.Add(i.cfg.JWTTTL), a.expires)
	c := witClaims{Issuer: i.cfg.IssuerURL, Subject: id.String(), Expires: expires.Unix(), IssuedAt: now.Unix(), ID: base64.RawURLEncoding.EncodeToString(raw[:])}
	jwk := jose.JSONWebKey{Key: key, KeyID: c.ID, Algorithm: string(jose.ES256)}
	out := witSVID{id: id.String(), expires: expires}
	if out.key, err = json.Marshal(jwk); err == nil {
		c.Confirm.JWK, err = json.Marshal(jwk.Public())
	}
	if err == nil {
		out.token, err = sign(a, "wit+jwt", c)
	}
	if err != nil {
		return witSVID{}, fmt.Errorf("%w: sign token: %w", ErrUnavailable, err)
	}
	b := issuedBody{V: 1, Kind: "wit", Subject: out.id, JTIDigest: canon.Digest([]byte(c.ID)), Authority: a.id, NotBefore: now, Expires: expires,
		Selectors: w.Selectors, AttestedBy: "workload-api", Bound: true}
	if err := i.record(ctx, w, b); err != nil {
		return witSVID{}, err
	}
	return out, nil
}
