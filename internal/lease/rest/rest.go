// Package rest asks an upstream over HTTPS in JSON, for the credential sources
// that need no library for it.
//
// Invariants:
//   - One origin: redirects are not followed, and no proxy of the environment is
//     asked, since a credential goes with every request.
//   - Nothing is sent twice.
//   - Only an answer of the upstream itself is an *Error. Everything else leaves
//     open whether the request took effect.
//   - No error repeats a secret that was sent: errors are put on record.
package rest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"unicode"
)

// maxAnswer bounds an answer in bytes.
const maxAnswer = 8 << 20

// Client asks one origin.
type Client struct {
	Origin string // https://HOST[:PORT]
	HTTP   *http.Client
}

// Error is an upstream's own refusal.
type Error struct {
	Status int
	// Said is what it says of the reason, in its own words, without those that repeat
	// a secret.
	Said []string
}

func (e *Error) Error() string {
	said := strings.Map(func(r rune) rune {
		if unicode.IsGraphic(r) {
			return r
		}
		return ' '
	}, strings.Join(e.Said, "; "))
	return fmt.Sprintf("it answers %d: %.300s", e.Status, said)
}

// Refused gives the error's refusal with that status; nil if it is none.
func Refused(err error, status int) *Error {
	if e, ok := errors.AsType[*Error](err); ok && e.Status == status {
		return e
	}
	return nil
}

// Never reports whether the error is a refusal after which the request had no
// effect: the upstream read it and said no.
func Never(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Status >= 400 && e.Status < 500 && e.Status != http.StatusRequestTimeout
}

// Do sends in as JSON, if it is not nil, and reads the answer into out, if that
// is not nil. said finds the words of a refusal. secrets are those that are sent, in
// header or in.
func (c *Client) Do(ctx context.Context, method, path string, header http.Header, in, out any, said func([]byte) []string, secrets ...string) error {
	var body io.Reader
	if in != nil {
		b, err := json.Marshal(in)
		if err != nil {
			return err
		}
		defer clear(b)
		body = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(ctx, method, c.Origin+path, body)
	if err != nil {
		return err
	}
	for n, v := range header {
		r.Header[n] = v
	}
	r.GetBody = nil // nothing is sent twice
	r.Header.Set("Accept", "application/json")
	if in != nil && r.Header.Get("Content-Type") == "" {
		r.Header.Set("Content-Type", "application/json")
	}
	resp, err := c.HTTP.Do(r)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err != nil {
		return fmt.Errorf("read its answer: %w", err)
	}
	defer clear(b)
	if len(b) > maxAnswer {
		return errors.New("its answer is too large")
	}
	if resp.StatusCode >= 300 {
		e := &Error{Status: resp.StatusCode}
		for _, text := range said(b) {
			e.Said = append(e.Said, Without(text, secrets...))
		}
		return e
	}
	if out == nil || resp.StatusCode == http.StatusNoContent {
		return nil
	}
	if err := json.Unmarshal(b, out); err != nil {
		return errors.New("its answer is not the JSON that it should be")
	}
	return nil
}
