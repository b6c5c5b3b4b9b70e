package connector_test

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/connector"
	"github.com/sallyport-dev/sallyport/internal/lease/leasetest"
)

var session = connector.Session{AccessKeyID: "ASIAEXAMPLE", SecretKey: "secret/+key", SessionToken: "token/+=="}

func signed(t *testing.T, method, url, body string, take connector.Take, header ...string) (*http.Request, error) {
	t.Helper()
	r, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(header); i += 2 {
		r.Header.Add(header[i], header[i+1])
	}
	text, err := json.Marshal(session)
	if err != nil {
		t.Fatal(err)
	}
	return r, take.Put(r, []byte(body), string(text))
}

// TestSignature: what a signature covers, by a verifier of other hands which agrees
// with AWS' own vectors. The request is sent as it was decided, whatever its order.
//
// Threats: T44 (door)
func TestSignature(t *testing.T) {
	take := connector.Take{Source: "cloud", As: connector.AsSigV4, Service: "execute-api", Region: "eu-central-1"}
	verify := func(r *http.Request, body, service, region string) error {
		_, err := leasetest.VerifySigV4(r, []byte(body), service, region, func(key string) (string, string, error) {
			return session.SecretKey, session.SessionToken, nil
		})
		return err
	}
	for _, url := range []string{"https://api.example/prod/x?b=2&a=1&a=0", "https://api.example:8443/a%20b/%E6%97%A5?q=x%2Fy%20z&empty", "https://api.example", "https://api.example/a//b/./c"} {
		for _, body := range []string{"", `{"a":"ü"}`} {
			r, err := signed(t, "POST", url, body, take, "Content-Type", "application/json", "Accept", "a", "Accept", "b", "Cookie", "s=1")
			if err != nil {
				t.Fatal(err)
			}
			if r.URL.String() != url {
				t.Errorf("it sends %s, and %s was decided", r.URL, url)
			}
			if err := verify(r, body, "execute-api", "eu-central-1"); err != nil {
				t.Errorf("%s: %v", url, err)
			}
			for name, change := range map[string]func(*http.Request) (body, service, region string){
				"method": func(r *http.Request) (string, string, string) {
					r.Method = "DELETE"
					return body, take.Service, take.Region
				},
				"path": func(r *http.Request) (string, string, string) {
					r.URL.Path += "/x"
					return body, take.Service, take.Region
				},
				"query": func(r *http.Request) (string, string, string) {
					r.URL.RawQuery += "&z=9"
					return body, take.Service, take.Region
				},
				"host": func(r *http.Request) (string, string, string) {
					r.Host = "evil.example"
					return body, take.Service, take.Region
				},
				"token": func(r *http.Request) (string, string, string) {
					r.Header.Set("X-Amz-Security-Token", "x")
					return body, take.Service, take.Region
				},
				"body":    func(*http.Request) (string, string, string) { return body + " ", take.Service, take.Region },
				"service": func(*http.Request) (string, string, string) { return body, "iam", take.Region },
				"region":  func(*http.Request) (string, string, string) { return body, take.Service, "us-east-1" },
			} {
				c := r.Clone(t.Context())
				if b, s, region := change(c); verify(c, b, s, region) == nil {
					t.Errorf("%s: another %s has the same signature", url, name)
				}
			}
		}
	}
	for name, secret := range map[string]string{"a token": "ghp_0123456789", "half": `{"accessKeyId":"A","secretAccessKey":"B"}`} {
		if err := take.Check(secret); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

// TestSignatureOfTheClient: an SDK may sign with the placeholder, which signs nothing;
// what it signs with another key is its own credential.
func TestSignatureOfTheClient(t *testing.T) {
	take := connector.Take{Source: "cloud", As: connector.AsSigV4, Service: "s3", Region: "eu-central-1"}
	theirs := connector.Session{AccessKeyID: connector.Placeholder("cloud"), SecretKey: "x", SessionToken: connector.Placeholder("cloud")}
	mine := connector.Session{AccessKeyID: "AKIAMINE", SecretKey: "x", SessionToken: "mine"}
	for s, want := range map[*connector.Session]bool{&theirs: true, &mine: false} {
		r, _ := http.NewRequest("GET", "https://bucket.example/key", nil)
		if err := s.Sign(t.Context(), r, nil, "s3", "eu-central-1", time.Now()); err != nil {
			t.Fatal(err)
		}
		all := true
		for _, f := range take.Fields() {
			all = all && take.Names(r.Header.Get(f))
		}
		if all != want {
			t.Errorf("%s: got %v", s.AccessKeyID, all)
		}
	}
	if !slices.Contains(take.Fields(), "X-Amz-Security-Token") {
		t.Error("a client may send a session token of its own")
	}
}
