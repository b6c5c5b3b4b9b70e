package connector

import (
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// Take says that requests to one origin take the credential of a source. Door 2
// puts it in; neither the agent nor the page ever has it. Of the sources that one
// request could take from, those count that its task holds a lease of.
type Take struct {
	Source string `json:"source"`           // CredentialSource
	Origin string `json:"origin,omitempty"` // name; may be left out when there is one
	As     TakeAs `json:"as"`
	Header string `json:"header,omitempty"` // of as: header, and of no other
	// Of as: sigv4, for which service and region a request is signed, and no other.
	Service string `json:"service,omitempty"`
	Region  string `json:"region,omitempty"`
	// Operations are those that take it; without any, all do.
	Operations []string `json:"operations,omitempty"`
}

// TakeAs is how a credential is put into a request.
type TakeAs string

// The ways.
const (
	AsBearer      TakeAs = "bearer"            // Authorization: Bearer (RFC 6750)
	AsBasic       TakeAs = "basic"             // Authorization: Basic (RFC 7617); the credential is user:password
	AsHeader      TakeAs = "header"            // a header field of its own
	AsSigV4       TakeAs = "sigv4"             // a signature of AWS (Signature Version 4); the credential is a session of STS
	AsCertificate TakeAs = "clientCertificate" // TLS client authentication; the credential is PEM, with its key
)

// Values lists what may be written.
func (TakeAs) Values() []string {
	return []string{string(AsBearer), string(AsBasic), string(AsHeader), string(AsSigV4), string(AsCertificate)}
}

// Fields are the header fields that the credential goes into.
func (t Take) Fields() []string {
	switch t.As {
	case AsBearer, AsBasic:
		return []string{"Authorization"}
	case AsHeader:
		return []string{http.CanonicalHeaderKey(t.Header)}
	case AsSigV4:
		return sigV4Fields
	}
	return nil
}

// Names reports whether what a client sends in a field is the placeholder of the
// credential and nothing else: clients that insist on one are given that.
func (t Take) Names(value string) bool {
	place := Placeholder(t.Source)
	scheme, rest, _ := strings.Cut(value, " ")
	switch t.As {
	case AsBearer:
		return strings.EqualFold(scheme, "Bearer") && rest == place
	case AsBasic:
		pair, err := base64.StdEncoding.DecodeString(rest)
		_, password, _ := strings.Cut(string(pair), ":")
		return err == nil && strings.EqualFold(scheme, "Basic") && password == place
	case AsHeader:
		return value == place
	case AsSigV4:
		return t.namesSession(value)
	}
	return false
}

// Put writes the credential into the request. It comes last: method, target, other
// fields and body are as they are sent.
func (t Take) Put(r *http.Request, body []byte, credential string) error {
	if err := t.Check(credential); err != nil {
		return err
	}
	switch t.As {
	case AsBearer:
		r.Header.Set("Authorization", "Bearer "+credential)
	case AsBasic:
		r.Header.Set("Authorization", "Basic "+base64.StdEncoding.EncodeToString([]byte(credential)))
	case AsHeader:
		r.Header.Set(t.Header, credential)
	case AsSigV4:
		return t.sign(r, body, credential)
	}
	return nil
}

// b64token is RFC 6750 section 2.1.
var b64token = regexp.MustCompile(`^[A-Za-z0-9._~+/-]+=*$`)

// Check says why a credential cannot be put in as it is. The error repeats nothing
// of it.
func (t Take) Check(credential string) error {
	switch {
	case len(credential) < MinSecret:
		return errors.New("the secret is shorter than 8 bytes, too short to be found in what comes back")
	case t.As == AsCertificate:
		return nil // read by who opens the connection
	case t.As == AsSigV4:
		_, err := ParseSession(credential)
		return err
	case strings.ContainsFunc(credential, func(r rune) bool { return r < ' ' || r > '~' }):
		return errors.New("the secret has a byte that no header field carries: a line break at its end, perhaps")
	case t.As == AsBearer && !b64token.MatchString(credential):
		return errors.New("the secret is no bearer token (RFC 6750 section 2.1)")
	case t.As == AsBasic && !strings.Contains(credential, ":"):
		return errors.New("the credential has no user name")
	case t.As == AsHeader && strings.TrimSpace(credential) != credential:
		return errors.New("the secret begins or ends with a blank, which no header field keeps")
	}
	return nil
}

// Takes are where the connector takes the credential of a source.
func (s *Spec) TakesOf(source string) (out []Take) {
	for _, t := range s.Takes {
		if t.Source == source {
			t.Origin = s.originName(t.Origin)
			out = append(out, t)
		}
	}
	return out
}

// Clash reports two takes that one request could not carry both of.
func (t Take) Clash(o Take) bool {
	apart := len(t.Operations) > 0 && len(o.Operations) > 0 && !slices.ContainsFunc(t.Operations, func(op string) bool { return slices.Contains(o.Operations, op) })
	if t.Origin != o.Origin || apart {
		return false
	}
	return t.As == AsCertificate && o.As == AsCertificate || slices.ContainsFunc(t.Fields(), func(f string) bool { return slices.Contains(o.Fields(), f) })
}

// takes are those of an operation at the target. A preflight carries no
// credentials (Fetch, CORS-preflight).
func (t *target) takes(operation string) (out []Take) {
	for _, k := range t.spec.Takes {
		if t.spec.originName(k.Origin) == t.origin.Name && operation != t.connector+".preflight" &&
			(len(k.Operations) == 0 || slices.Contains(k.Operations, operation)) {
			out = append(out, k)
		}
	}
	return out
}

// fieldsKept are those that a credential has no place in: they frame the message,
// route it, or are the boundary's own.
var fieldsKept = regexp.MustCompile(`^(Cookie2?|Host|Connection|Te|Trailer|Upgrade|Expect|Range|If-Range|Prefer|Origin|Referer|User-Agent|Accept(-.*)?|` +
	`(Content|Transfer|Keep|Proxy|Sec|Http2|Mcp|Sallyport|X-Sallyport|X-Forwarded|Access-Control|X-Http|X-Original)-.*|X-Method-Override|Forwarded|Via)$`)

var fieldForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9-]{0,63}$`)

func (c *checker) takes() {
	for i, t := range c.spec.Takes {
		at := fmt.Sprintf("takes[%d]", i)
		if !nameForm.MatchString(t.Source) {
			c.bad(at+".source", "want the name of a CredentialSource")
		}
		c.originName(t.Origin, at+".origin")
		switch {
		case t.As == AsHeader && !fieldForm.MatchString(t.Header):
			c.bad(at+".header", "want the name of a header field: letters, digits and hyphens")
		case t.As == AsHeader && fieldsKept.MatchString(http.CanonicalHeaderKey(t.Header)):
			c.bad(at+".header", "%s is no field for a credential", t.Header)
		case t.As != AsHeader && t.Header != "":
			c.bad(at+".header", "is of as: header")
		case t.As == AsSigV4 && (!awsName.MatchString(t.Service) || !awsName.MatchString(t.Region)):
			c.bad(at+".service", "want service and region, as in execute-api and eu-central-1")
		case t.As != AsSigV4 && t.Service+t.Region != "":
			c.bad(at+".service", "service and region are of as: sigv4")
		}
		for stage, st := range c.spec.Stages {
			for _, o := range st.Origins {
				if t.As == AsCertificate && (t.Origin == "" || o.Name == t.Origin) && !strings.HasPrefix(o.URL, "https://") {
					c.bad(at+".as", "a client certificate needs TLS, and %s of stage %s has none", o.URL, stage)
				}
			}
		}
		if c.atTools(t.Origin) && (t.As == AsCertificate || t.As == AsSigV4) {
			c.bad(at+".as", "an MCP server takes a credential in a header field: want bearer, basic or header")
		}
		for j, name := range t.Operations {
			if slices.ContainsFunc(c.spec.Operations, func(op Operation) bool { return op.Name == name && op.Kind == KindTool }) {
				c.bad(fmt.Sprintf("%s.operations[%d]", at, j), "all tools of a server are listed and called with one credential: leave operations out")
			}
			if !slices.ContainsFunc(c.spec.Operations, func(op Operation) bool { return op.Name == name }) {
				c.bad(fmt.Sprintf("%s.operations[%d]", at, j), "the connector has no operation %s", name)
			}
		}
		for _, o := range c.spec.Takes[:i] {
			if o.Source == t.Source && o.Clash(t) {
				c.bad(at, "%s is taken in the same place before", t.Source)
			}
		}
	}
}
