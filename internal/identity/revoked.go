package identity

import (
	"context"
	"encoding/json"
	"fmt"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/record"
)

const kindRevoked = "identity-revoked"

// revokedV is a token that ended before its time: kind "identity-revoked", id
// the digest of its jti. It is kept until the token would have expired.
type revokedV struct {
	Expires time.Time `json:"expires"`
}

// revokedBody is the body of identity.revoked.
type revokedBody struct {
	V         int           `json:"v"`
	JTIDigest action.Digest `json:"jtiDigest"`
	By        string        `json:"by"` // SPIFFE ID
	Expires   time.Time     `json:"expires"`
	Chain     []string      `json:"chain,omitempty"` // the tasks above, nearest first
}

// revocations are the tokens that were revoked and would not have expired yet.
type revocations struct {
	mu sync.Mutex
	by map[action.Digest]time.Time // digest of the jti, and when it may be forgotten
}

// check refuses a token that was revoked, or exchanged from one that was.
func (r *revocations) check(c tokenClaims) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.by) == 0 {
		return nil
	}
	for _, id := range append([]string{c.ID}, c.Parents...) {
		if _, ok := r.by[canon.Digest([]byte(id))]; ok {
			return refuse("revoked", "the token was revoked")
		}
	}
	return nil
}

// load reads what was revoked before this process.
func (r *revocations) load(ctx context.Context, log record.Log) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return log.View(ctx, func(tx record.Tx) error {
		r.by = map[action.Digest]time.Time{}
		return tx.List(kindRevoked, func(id string, raw []byte) error {
			var v revokedV
			err := json.Unmarshal(raw, &v)
			r.by[action.Digest(id)] = v.Expires
			return err
		})
	})
}

// revokeToken ends a token and all that was or is exchanged from it. In memory
// first, as with a kill: if the record fails the token is ended in this process,
// and the caller hears that it is not durable.
func (i *Issuer) revokeToken(ctx context.Context, c tokenClaims, w Workload, by string) error {
	d, now := canon.Digest([]byte(c.ID)), i.cfg.Now()
	// What is exchanged from it lives no longer than it.
	expires := time.Unix(c.Expires, 0).UTC().Add(skew)
	var over []action.Digest
	i.revoked.mu.Lock()
	for id, at := range i.revoked.by {
		if now.After(at) {
			over = append(over, id)
			delete(i.revoked.by, id)
		}
	}
	i.revoked.by[d] = expires
	i.revoked.mu.Unlock()
	if _, err := i.log.Append(ctx, record.Draft{Type: "identity.revoked", Task: w.Task, Agent: w.Agent, Actor: "sallyport",
		Body: revokedBody{V: 1, JTIDigest: d, By: by, Expires: expires, Chain: w.Chain},
		Change: func(tx record.Tx) error {
			for _, id := range over {
				if err := tx.Delete(kindRevoked, string(id)); err != nil {
					return err
				}
			}
			return tx.Put(kindRevoked, string(d), revokedV{expires})
		}}); err != nil {
		return fmt.Errorf("%w: record revocation: %w", ErrUnavailable, err)
	}
	return nil
}
