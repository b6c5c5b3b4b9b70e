// Package approval is what a person signs, and what a signature is worth.
//
// A Statement says exactly what will happen. Its canonical bytes (RFC 8785)
// are signed as OpenSSH SSHSIG in Namespace, or by a passkey whose challenge is
// their SHA-256 (WebAuthn), with a key that the directory holds for that person
// alone, so that the signature is checkable offline: with ssh-keygen, or with
// package receipt. The engine keeps statements, checks who may approve, and makes
// an approval good for one use.
//
// Invariants:
//   - An approval releases the digest that was signed, once: consuming it is a
//     state change in the same transaction as what it releases.
//   - Nobody in Excluded counts: not by a second account, not by a second key.
//   - Eligibility (key, role, person) is read from the directory in the
//     transaction that grants, and again in the one that uses.
//   - What the statement names (policy, boundary, resources) is what is in force
//     when it is signed, and when it is used, if the directory can tell.
//   - The signature counter of a FIDO key only rises.
//   - Every grant and every refusal is in the ledger; what is not recorded is
//     not granted.
//
// Order of writes of a grant: the signature is verified first; then one
// transaction holds the record, the new state and the caller's own change. A
// crash before the commit leaves the statement pending.
//
// Not trusted: the signature, the name that comes with it, everything under
// Quoted. Trusted: the directory, and that the caller authenticated the person
// who rejects.
package approval

import (
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
)

// Kind is what a statement is about. The zero value is not a kind.
type Kind string

// The kinds.
const (
	Capability    Kind = "capability"
	Boundary      Kind = "boundary"
	Certification Kind = "certification"
	Action        Kind = "action"
	Policy        Kind = "policy"
	Resource      Kind = "resource"
)

// Statement is what a person signs. Times are whole seconds in UTC.
type Statement struct {
	V      int    `json:"v"` // 1
	Kind   Kind   `json:"kind"`
	Tenant string `json:"tenant"`
	// Subject names the thing; Digest is of the thing itself: for an action, of
	// the exact form that will be dispatched.
	Subject string        `json:"subject"`
	Digest  action.Digest `json:"digest"`
	// Details are display fields that Sallyport made from the thing.
	Details map[string]string `json:"details,omitempty"`
	// Quoted is text that a page, an agent or a model wrote. It is shown as a
	// quotation and describes nothing.
	Quoted         map[string]string `json:"quoted,omitempty"`
	Task           string            `json:"task,omitempty"`
	Agent          string            `json:"agent,omitempty"`
	Operation      string            `json:"operation,omitempty"`
	Params         map[string]string `json:"params,omitempty"`
	RequestDigest  action.Digest     `json:"requestDigest,omitempty"`
	BoundaryDigest action.Digest     `json:"boundaryDigest,omitempty"`
	PolicyDigest   action.Digest     `json:"policyDigest,omitempty"`
	// ResourcesDigest is over what was declared of the agent when it was asked:
	// after a change of it, nothing is released.
	ResourcesDigest action.Digest `json:"resourcesDigest,omitempty"`
	// Screenshot is the salted commitment of the picture that the agent last saw.
	Screenshot action.Digest `json:"screenshot,omitempty"`
	// Role is the role that an approver must have; Quorum is how many people
	// must sign; Excluded are people and accounts that must not, sorted.
	Role     string   `json:"role"`
	Quorum   int      `json:"quorum"`
	Excluded []string `json:"excluded,omitempty"`
	// UserVerification asks for a hardware key that verified its user (PIN or
	// biometrics), not only a touch.
	UserVerification bool `json:"userVerification,omitempty"`
	// Nonce makes the statement one of its kind; it is also its id.
	Nonce     string    `json:"nonce"`
	NotBefore time.Time `json:"notBefore"`
	Expires   time.Time `json:"expires"`
}

// Bytes are the canonical bytes that are signed.
func (s Statement) Bytes() ([]byte, error) { return canon.Marshal(s) }

// Limits of a statement.
const (
	maxStatement = 128 << 10 // bytes
	maxFields    = 128       // of each map
	maxValid     = 90 * 24 * time.Hour
)

// ParseStatement reads the canonical bytes of a statement, and nothing else:
// any other spelling of the same statement is refused.
func ParseStatement(b []byte) (Statement, error) {
	var s Statement
	if err := canon.Unmarshal(b, maxStatement, &s); err != nil {
		return Statement{}, fmt.Errorf("statement: %w", err)
	}
	if err := s.check(); err != nil {
		return Statement{}, err
	}
	again, err := s.Bytes()
	if err != nil || string(again) != string(b) {
		return Statement{}, errors.New("statement is not in canonical form")
	}
	return s, nil
}

var (
	nonceForm  = regexp.MustCompile(`^[a-z2-7]{26}$`)
	digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)
	fieldForm  = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}$`)
)

func newNonce() string {
	var b [16]byte
	rand.Read(b[:])
	return strings.ToLower(base32.StdEncoding.WithPadding(base32.NoPadding).EncodeToString(b[:]))
}

func (s Statement) check() error {
	switch s.Kind {
	case Capability, Boundary, Certification, Action, Policy, Resource:
	default:
		return fmt.Errorf("statement: kind %q is not known", s.Kind)
	}
	if s.V != 1 || s.Tenant == "" || s.Subject == "" || s.Role == "" || !nonceForm.MatchString(s.Nonce) {
		return errors.New("statement: v, tenant, subject, role and nonce are required")
	}
	if !digestForm.MatchString(string(s.Digest)) {
		return errors.New("statement: digest of the subject is required")
	}
	for _, d := range []action.Digest{s.RequestDigest, s.BoundaryDigest, s.PolicyDigest, s.ResourcesDigest, s.Screenshot} {
		if d != "" && !digestForm.MatchString(string(d)) {
			return errors.New("statement: malformed digest")
		}
	}
	if s.Quorum < 1 || s.Quorum > 9 {
		return errors.New("statement: quorum must be 1 to 9")
	}
	if !slices.IsSorted(s.Excluded) || len(slices.Compact(slices.Clone(s.Excluded))) != len(s.Excluded) {
		return errors.New("statement: excluded must be sorted, each once")
	}
	for _, t := range []time.Time{s.NotBefore, s.Expires} {
		if t.IsZero() || !t.Equal(t.Truncate(time.Second)) || t.Location() != time.UTC {
			return errors.New("statement: times must be whole seconds in UTC")
		}
	}
	if d := s.Expires.Sub(s.NotBefore); d <= 0 || d > maxValid {
		return fmt.Errorf("statement: must be valid for more than nothing and at most %v", maxValid)
	}
	return s.checkText()
}

func (s Statement) checkText() error {
	for _, m := range []map[string]string{s.Details, s.Quoted, s.Params} {
		if len(m) > maxFields {
			return fmt.Errorf("statement: more than %d fields", maxFields)
		}
		for k, v := range m {
			if !fieldForm.MatchString(k) {
				return fmt.Errorf("statement: field name %q is not plain", k)
			}
			if !utf8.ValidString(v) {
				return fmt.Errorf("statement: field %s is not UTF-8", k)
			}
		}
	}
	for _, v := range append([]string{s.Tenant, s.Subject, s.Task, s.Agent, s.Operation, s.Role}, s.Excluded...) {
		if !utf8.ValidString(v) || len(v) > 4096 {
			return errors.New("statement: malformed text")
		}
	}
	if b, err := s.Bytes(); err != nil || len(b) > maxStatement {
		return fmt.Errorf("statement: larger than %d bytes", maxStatement)
	}
	return nil
}

// complete fills in what the engine decides.
func (s Statement) complete(tenant string, excluded []string, now time.Time, valid time.Duration) Statement {
	s.V, s.Tenant, s.Nonce = 1, tenant, newNonce()
	s.Details, s.Quoted, s.Params = maps.Clone(s.Details), maps.Clone(s.Quoted), maps.Clone(s.Params)
	if s.NotBefore.IsZero() {
		s.NotBefore = now
	}
	s.NotBefore = s.NotBefore.UTC().Truncate(time.Second)
	s.Expires = s.NotBefore.Add(valid).Truncate(time.Second)
	if s.Quorum == 0 {
		s.Quorum = 1
	}
	s.Excluded = excluded
	return s
}
