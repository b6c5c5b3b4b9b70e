package leasetest

import (
	"crypto/rand"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"
)

// STS speaks AssumeRoleWithWebIdentity and GetCallerIdentity of AWS STS (version
// 2011-06-15), written from its published description, and is a service of its own at
// every other path, which says who calls it. It verifies tokens by discovery and
// every signature.
type STS struct {
	*httptest.Server
	trust *Trust

	mu       sync.Mutex
	sessions map[string]*stsSession // by access key
	passed   time.Duration
	// Never: sessions outlive their time.
	Never bool
	// Calls of the service, with who made them.
	Calls []string
}

type stsSession struct {
	secret, token, name, policy, subject string
	expires                              time.Time
}

// STSAudience, Region and RoleARN are what the server knows.
const (
	STSAudience = "sts.amazonaws.com"
	Region      = "eu-central-1"
	RoleARN     = "arn:aws:iam::123456789012:role/desk"
)

// StartSTS starts one that believes an issuer.
func StartSTS(t testing.TB, trust *Trust) *STS {
	s := &STS{trust: trust, sessions: map[string]*stsSession{}}
	s.Server = httptest.NewUnstartedServer(s)
	s.Config.ErrorLog = log.New(io.Discard, "", 0) // connections that are cut
	s.StartTLS()
	t.Cleanup(s.Close)
	return s
}

// CA is the server's own root.
func (s *STS) CA() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
}

// Pass lets the server's time pass by that much.
func (s *STS) Pass(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.passed += d
}

// Now is the server's clock.
func (s *STS) Now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Now().Add(s.passed)
}

// Works tries a session.
func (s *STS) Works(secret []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var c struct{ AccessKeyID, SecretAccessKey string }
	if err := json.Unmarshal(secret, &c); err != nil {
		return err
	}
	x := s.sessions[c.AccessKeyID]
	if x == nil || x.secret != c.SecretAccessKey || s.over(x) {
		return errors.New("no such session")
	}
	return nil
}

// Labels are the names of the sessions that are not over.
func (s *STS) Labels() (out []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.sessions {
		if !s.over(x) {
			out = append(out, x.name)
		}
	}
	slices.SortFunc(out, byNumber)
	return out
}

func (s *STS) over(x *stsSession) bool { return time.Now().Add(s.passed).After(x.expires) && !s.Never }

func (s *STS) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return
	}
	form, _ := url.ParseQuery(string(body))
	if r.URL.Path == "/" && form.Get("Action") == "AssumeRoleWithWebIdentity" {
		s.assume(w, form)
		return
	}
	service := "execute-api"
	if r.URL.Path == "/" {
		service = "sts"
	}
	var caller *stsSession
	_, err = VerifySigV4(r, body, service, Region, func(key string) (string, string, error) {
		caller = s.sessions[key]
		switch {
		case caller == nil:
			return "", "", errors.New("InvalidClientTokenId")
		case s.over(caller):
			return "", "", errors.New("ExpiredToken")
		}
		return caller.secret, caller.token, nil
	})
	if err != nil {
		stsError(w, 403, err.Error())
		return
	}
	s.Calls = append(s.Calls, caller.name+" "+r.Method+" "+r.URL.RequestURI()+" "+string(body))
	if r.URL.Path != "/" {
		fmt.Fprintf(w, `{"caller":%q}`, caller.name)
		return
	}
	w.Header().Set("Content-Type", "text/xml")
	fmt.Fprintf(w, `<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><GetCallerIdentityResult><Arn>arn:aws:sts::123456789012:assumed-role/desk/%s</Arn>`+
		`<UserId>AROA:%[1]s</UserId><Account>123456789012</Account></GetCallerIdentityResult><ResponseMetadata><RequestId>r</RequestId></ResponseMetadata></GetCallerIdentityResponse>`, caller.name)
}

func (s *STS) assume(w http.ResponseWriter, form url.Values) {
	seconds, err := strconv.Atoi(form.Get("DurationSeconds"))
	name := form.Get("RoleSessionName")
	switch {
	case form.Get("Version") != "2011-06-15" || err != nil || seconds < 900 || seconds > 7200 || len(name) < 2 || len(name) > 64 || !json.Valid([]byte(form.Get("Policy"))):
		stsError(w, 400, "ValidationError")
		return
	case form.Get("RoleArn") != RoleARN:
		stsError(w, 403, "AccessDenied")
		return
	}
	c, err := s.trust.verify(form.Get("WebIdentityToken"), STSAudience)
	if err != nil {
		stsError(w, 400, "InvalidIdentityToken")
		return
	}
	x := &stsSession{secret: rand.Text(), token: "IQoJ" + rand.Text() + "/+==", name: name, policy: form.Get("Policy"), subject: c.Subject,
		expires: time.Now().Add(s.passed + time.Duration(seconds)*time.Second).UTC().Truncate(time.Second)}
	key := "ASIA" + rand.Text()[:16]
	s.sessions[key] = x
	w.Header().Set("Content-Type", "text/xml")
	fmt.Fprintf(w, `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult>`+
		`<SubjectFromWebIdentityToken>%s</SubjectFromWebIdentityToken><Audience>%s</Audience><AssumedRoleUser><Arn>arn:aws:sts::123456789012:assumed-role/desk/%s</Arn><AssumedRoleId>AROA:%[3]s</AssumedRoleId></AssumedRoleUser>`+
		`<Credentials><AccessKeyId>%s</AccessKeyId><SecretAccessKey>%s</SecretAccessKey><SessionToken>%s</SessionToken><Expiration>%s</Expiration></Credentials><Provider>issuer</Provider>`+
		`</AssumeRoleWithWebIdentityResult><ResponseMetadata><RequestId>r</RequestId></ResponseMetadata></AssumeRoleWithWebIdentityResponse>`,
		c.Subject, STSAudience, name, key, x.secret, x.token, x.expires.Format(time.RFC3339))
}

func stsError(w http.ResponseWriter, status int, code string) {
	w.Header().Set("Content-Type", "text/xml")
	w.WriteHeader(status)
	fmt.Fprintf(w, `<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type><Code>%s</Code><Message>no</Message></Error><RequestId>r</RequestId></ErrorResponse>`, code)
}
