package server

import (
	"context"

	"github.com/sallyport-dev/sallyport/internal/lease"
	"github.com/sallyport-dev/sallyport/internal/ledger"
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
