package vault

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"

	"github.com/sallyport-dev/sallyport/internal/lease"
	"github.com/sallyport-dev/sallyport/internal/lease/rest"
)

// maxTokens bounds the tokens of a server that are looked through for a label.
const maxTokens = 20000

// boundary logs in as the boundary, does f with the token, and ends that.
func (s *Source) boundary(ctx context.Context, f func(a auth) error) error {
	jwt, err := s.c.Boundary(ctx)
	if err != nil {
		return err
	}
	a, err := s.login(ctx, s.c.SweepRole, jwt)
	if err != nil {
		return fmt.Errorf("log in as role %s: %w", s.c.SweepRole, err)
	}
	err = f(a)
	// One that stays ends by itself, soon: it is for this call alone.
	_ = s.call(ctx, a.Token, "POST", "auth/token/revoke-self", nil, nil)
	return err
}

// Revoke ends the secret and then the token; or, where only the label is known,
// every token that carries it.
func (s *Source) Revoke(ctx context.Context, c lease.Credential) error {
	return s.boundary(ctx, func(a auth) error {
		if c.Secret == nil {
			found, err := s.find(ctx, a, func(label string) bool { return label == c.Label })
			for _, accessor := range found[c.Label] {
				err = errors.Join(err, s.revokeToken(ctx, a, accessor))
			}
			return err
		}
		cred, err := Parse(c.Secret)
		if err != nil {
			return err
		}
		if err := s.revokeSecret(ctx, a, cred); err != nil {
			return err
		}
		return s.revokeToken(ctx, a, cred.Accessor)
	})
}

// revokeSecret ends what was read, and waits for it: without sync the server only
// makes a note of it.
func (s *Source) revokeSecret(ctx context.Context, a auth, cred Credential) error {
	if cred.Lease != "" {
		if err := s.raw(ctx, a.Token, "POST", "sys/leases/revoke", map[string]any{"lease_id": cred.Lease, "sync": true}, nil); err != nil {
			return fmt.Errorf("revoke the secret's lease: %w", err)
		}
		if err := s.leaseGone(ctx, a.Token, cred.Lease); err != nil {
			return err
		}
	}
	if cred.Serial != "" {
		if revoked, err := s.certificateRevoked(ctx, a.Token, cred.Serial); revoked || err != nil {
			return err
		}
		if err := s.call(ctx, a.Token, "POST", s.mount()+"/revoke", map[string]any{"serial_number": cred.Serial}, nil); err != nil {
			return fmt.Errorf("revoke the certificate: %w", err)
		}
	}
	return nil
}

// revokeToken ends a token, if it is there.
func (s *Source) revokeToken(ctx context.Context, a auth, accessor string) error {
	err := s.call(ctx, a.Token, "POST", "auth/token/revoke-accessor", map[string]any{"accessor": accessor}, nil)
	if err != nil && !s.noAccessor(ctx, a, err) {
		return fmt.Errorf("revoke the token: %w", err)
	}
	return nil
}

// noAccessor: the server's own word that there is no token behind an accessor. Its
// status changed over the versions. Of a token whose revocation was cut off on its
// way the accessor stays: asked for that, the server says that permission is denied,
// as it would to who may not ask, which is why our own is asked for as well.
func (s *Source) noAccessor(ctx context.Context, a auth, err error) bool {
	e, ok := errors.AsType[*rest.Error](err)
	switch {
	case !ok || e.Status < 400 || e.Status >= 500:
		return false
	case saysOne(e, "invalid accessor"):
		return true
	case e.Status != http.StatusForbidden || !saysOne(e, "permission denied") && !saysOne(e, "bad token"):
		return false
	}
	return s.call(ctx, a.Token, "POST", "auth/token/lookup-accessor", map[string]any{"accessor": a.Accessor}, nil) == nil
}

func saysOne(e *rest.Error, words string) bool {
	return slices.ContainsFunc(e.Said, func(s string) bool { return strings.Contains(s, words) })
}

// Confirm asks for everything that there was.
func (s *Source) Confirm(ctx context.Context, c lease.Credential) error {
	return s.boundary(ctx, func(a auth) error {
		if c.Secret == nil {
			found, err := s.find(ctx, a, func(label string) bool { return label == c.Label })
			if err == nil && len(found) > 0 {
				err = errors.New("a token with the label is still there")
			}
			return err
		}
		cred, err := Parse(c.Secret)
		if err != nil {
			return err
		}
		if err := s.tokenRefused(ctx, a, cred); err != nil {
			return err
		}
		if cred.Lease != "" {
			if err := s.leaseGone(ctx, a.Token, cred.Lease); err != nil {
				return err
			}
		}
		if cred.Serial != "" {
			if revoked, err := s.certificateRevoked(ctx, a.Token, cred.Serial); err != nil || !revoked {
				return errors.Join(err, errors.New("the certificate is not on record as revoked"))
			}
		}
		if s.c.SignsIn == nil || cred.Username == "" {
			return nil
		}
		taken, err := s.c.SignsIn(ctx, cred.Username, cred.Password)
		if taken {
			err = errors.Join(err, errors.New("the database still takes the account, which the server has forgotten: drop it there"))
		}
		return err
	})
}

// tokenRefused asks with the token itself, and for its accessor.
func (s *Source) tokenRefused(ctx context.Context, a auth, cred Credential) error {
	err := s.call(ctx, cred.Token, "GET", "auth/token/lookup-self", nil, nil)
	if err == nil {
		return errors.New("the server still takes the token")
	}
	// Sealed, standby, rate limits and proxies have other statuses or other words.
	if e := rest.Refused(err, http.StatusForbidden); e == nil || !saysOne(e, "permission denied") && !saysOne(e, "bad token") && !saysOne(e, "invalid token") {
		return fmt.Errorf("the token was not refused: %w", err)
	}
	err = s.call(ctx, a.Token, "POST", "auth/token/lookup-accessor", map[string]any{"accessor": cred.Accessor}, nil)
	if err == nil {
		return errors.New("the server still knows the token's accessor")
	}
	if !s.noAccessor(ctx, a, err) {
		return fmt.Errorf("look up the token's accessor: %w", err)
	}
	return nil
}

// leaseGone: a lease that is being revoked, or that the server gave up on, is
// known to it.
func (s *Source) leaseGone(ctx context.Context, token, id string) error {
	err := s.call(ctx, token, "POST", "sys/leases/lookup", map[string]any{"lease_id": id}, nil)
	if err == nil {
		return errors.New("the server still has the secret's lease: see why with `bao lease lookup`, or in its log; a lease that it gave up on is ended at its source first")
	}
	if e := rest.Refused(err, http.StatusBadRequest); e == nil || !saysOne(e, "invalid lease") {
		return fmt.Errorf("look up the secret's lease: %w", err)
	}
	return nil
}

func (s *Source) mount() string { return strings.SplitN(s.c.Path, "/issue/", 2)[0] }

// certificateRevoked asks the engine that issued it.
func (s *Source) certificateRevoked(ctx context.Context, token, serial string) (bool, error) {
	var data struct {
		Time int64 `json:"revocation_time"`
	}
	if err := s.call(ctx, token, "GET", s.mount()+"/cert/"+serial, nil, &data); err != nil {
		return false, fmt.Errorf("read the certificate: %w", err)
	}
	return data.Time > 0, nil
}

// List says which labels tokens carry.
func (s *Source) List(ctx context.Context, prefix string) (out []string, err error) {
	err = s.boundary(ctx, func(a auth) error {
		found, err := s.find(ctx, a, func(label string) bool { return strings.HasPrefix(label, prefix) })
		for label := range found {
			out = append(out, label)
		}
		return err
	})
	slices.Sort(out)
	return out, err
}

// find looks through all tokens of the server for labels: there is no index by
// metadata. It gives their accessors.
func (s *Source) find(ctx context.Context, a auth, want func(label string) bool) (map[string][]string, error) {
	var all struct{ Keys []string }
	if err := s.call(ctx, a.Token, "LIST", "auth/token/accessors", nil, &all); err != nil {
		return nil, fmt.Errorf("list tokens: %w", err)
	}
	if len(all.Keys) > maxTokens {
		return nil, fmt.Errorf("the server has %d tokens, too many to look through: give tasks a namespace of their own", len(all.Keys))
	}
	var mu sync.Mutex
	var wg sync.WaitGroup
	found := map[string][]string{}
	var failed error
	free := make(chan struct{}, 8)
	for _, accessor := range all.Keys {
		free <- struct{}{}
		wg.Go(func() {
			defer func() { <-free }()
			var t struct{ Meta map[string]string }
			err := s.call(ctx, a.Token, "POST", "auth/token/lookup-accessor", map[string]any{"accessor": accessor}, &t)
			gone := err != nil && s.noAccessor(ctx, a, err) // it ended meanwhile
			mu.Lock()
			defer mu.Unlock()
			label, _, _ := strings.Cut(t.Meta[Metadata], ".")
			switch {
			case err == nil && labels.MatchString(label) && want(label):
				found[label] = append(found[label], accessor)
			case err != nil && !gone:
				failed = err
			}
		})
	}
	wg.Wait()
	if failed != nil {
		return nil, fmt.Errorf("look up a token: %w", failed)
	}
	return found, nil
}
