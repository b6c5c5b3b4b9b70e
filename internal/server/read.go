package server

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/lease"
	"github.com/sallyport-dev/sallyport/internal/ledger"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/resource"
)

// Log is a tenant's log, for reading.
func (s *Server) Log(tenantName string) (*ledger.Log, error) {
	t, err := s.tenant(tenantName)
	if err != nil {
		return nil, err
	}
	return t.log, nil
}

// Leases lists the credentials that tasks hold or held, without themselves.
func (s *Server) Leases(ctx context.Context, tenantName string) ([]lease.Lease, error) {
	t, err := s.tenant(tenantName)
	if err != nil {
		return nil, err
	}
	return t.leases.All(ctx)
}

// UnconfirmedLeases counts the credentials of all tenants whose end was tried and
// is not confirmed. Each is an alarm.
func (s *Server) UnconfirmedLeases(ctx context.Context) (n int, err error) {
	for _, t := range s.all() {
		left, err := t.leases.Unconfirmed(ctx)
		if err != nil {
			return 0, err
		}
		n += len(left)
	}
	return n, nil
}

// Discovery is the tenant's OIDC discovery document.
func (s *Server) Discovery(tenantName string) (http.Handler, error) {
	t, err := s.tenant(tenantName)
	if err != nil {
		return nil, err
	}
	return t.issuer.Discovery(), nil
}

// Keys is the tenant's JWK set.
func (s *Server) Keys(tenantName string) (http.Handler, error) {
	t, err := s.tenant(tenantName)
	if err != nil {
		return nil, err
	}
	return t.issuer.Keys(), nil
}

// Bundle is the tenant's SPIFFE trust bundle.
func (s *Server) Bundle(tenantName string) (http.Handler, error) {
	t, err := s.tenant(tenantName)
	if err != nil {
		return nil, err
	}
	return t.issuer.BundleEndpoint(), nil
}

// Tiles is the tenant's log in the form of C2SP tlog-tiles.
func (s *Server) Tiles(tenantName string) (http.Handler, error) {
	t, err := s.tenant(tenantName)
	if err != nil {
		return nil, err
	}
	return s.ledger.TileHandler(t.name), nil
}

// Payload opens the n-th payload of a record for an auditor. That it was opened
// is recorded before it is.
func (s *Server) Payload(ctx context.Context, tenantName string, c Caller, seq int64, n int) (action.Evidence, []byte, error) {
	t, err := s.tenant(tenantName)
	if err != nil {
		return action.Evidence{}, nil, err
	}
	person, err := t.require(c, "open evidence", resource.RoleAuditor)
	if err != nil {
		return action.Evidence{}, nil, err
	}
	var found *record.Entry
	stop := errors.New("found")
	err = t.log.Entries(ctx, seq, func(e record.Entry) error {
		if e.Seq == seq {
			found = &e
		}
		return stop
	})
	if err != nil && !errors.Is(err, stop) {
		return action.Evidence{}, nil, err
	}
	if found == nil || n < 0 || n >= len(found.Evidence) {
		return action.Evidence{}, nil, problem(NotFound, "no_such_evidence", fmt.Sprintf("record %d has no evidence number %d", seq, n), "see: sallyport ledger show "+strconv.FormatInt(seq, 10))
	}
	ev := found.Evidence[n]
	if _, err := t.log.Append(ctx, record.Draft{Type: "evidence.opened", Task: found.Task, Agent: found.Agent, Actor: "person:" + person,
		Body: map[string]any{"seq": seq, "evidence": ev.Blob, "name": ev.Name}}); err != nil {
		return action.Evidence{}, nil, err
	}
	b, err := t.log.Payload(ctx, ev)
	return ev, b, err
}
