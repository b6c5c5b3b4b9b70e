package connector

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// Session is a session of a role, as STS gives it.
type Session struct {
	AccessKeyID  string    `json:"accessKeyId"`
	SecretKey    string    `json:"secretAccessKey"`
	SessionToken string    `json:"sessionToken"`
	Expires      time.Time `json:"expiration"`
}

// ParseSession reads one. The error repeats nothing of it.
func ParseSession(text string) (s Session, err error) {
	if json.Unmarshal([]byte(text), &s) != nil || s.AccessKeyID == "" || s.SecretKey == "" || s.SessionToken == "" {
		return s, errors.New("the credential is no session of STS")
	}
	return s, nil
}

// Sign signs a request (AWS Signature Version 4) over method, path, query, host,
// body and the fields that it has: nothing of it may change afterwards. S3 alone
// reads a path as it is; the others read it encoded once more.
func (s Session) Sign(ctx context.Context, r *http.Request, body []byte, service, region string, now time.Time) error {
	sum := sha256.Sum256(body)
	digest := hex.EncodeToString(sum[:])
	// The signer puts the query in order, and what was decided is what is sent.
	c := r.Clone(ctx)
	c.Header.Set("X-Amz-Content-Sha256", digest) // which S3 asks for, and others sign
	keys := aws.Credentials{AccessKeyID: s.AccessKeyID, SecretAccessKey: s.SecretKey, SessionToken: s.SessionToken}
	err := v4.NewSigner(func(o *v4.SignerOptions) { o.DisableURIPathEscaping = service == "s3" }).SignHTTP(ctx, keys, c, digest, service, region, now)
	if err != nil {
		return err
	}
	for _, f := range sigV4Fields {
		r.Header[f] = c.Header[f]
	}
	return nil
}

// sigV4Fields are what a signature is made of.
var sigV4Fields = []string{"Authorization", "X-Amz-Content-Sha256", "X-Amz-Date", "X-Amz-Security-Token"}

var awsName = regexp.MustCompile(`^[a-z0-9-]{1,64}$`)

// sign puts a signature in. What of the header is signed is what the signer always
// takes: other fields are decided and sent, and need no signature.
func (t Take) sign(r *http.Request, body []byte, credential string) error {
	s, err := ParseSession(credential)
	if err != nil {
		return err
	}
	return s.Sign(r.Context(), r, body, t.Service, t.Region, time.Now())
}

var (
	sigDate   = regexp.MustCompile(`^[0-9]{8}T[0-9]{6}Z$`)
	sigDigest = regexp.MustCompile(`^([0-9a-f]{64}|UNSIGNED-PAYLOAD)$`)
)

// namesSession: the value is of a signature that an SDK made with the placeholder in
// the place of an access key and of a session token. It signs nothing.
func (t Take) namesSession(value string) bool {
	place := Placeholder(t.Source)
	return value == place || sigDate.MatchString(value) || sigDigest.MatchString(value) ||
		strings.HasPrefix(value, "AWS4-HMAC-SHA256 Credential="+place+"/")
}
