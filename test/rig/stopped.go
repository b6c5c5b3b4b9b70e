package rig

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/certify"
	"github.com/sallyport-dev/sallyport/internal/ledger"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/seal"
	"github.com/sallyport-dev/sallyport/internal/server"
)

// Stopped is one tenant's state of a stopped server, to be put as a test needs it.
type Stopped struct {
	Log       *ledger.Log
	Certs     *certify.Engine
	approvals *approval.Engine
}

// WithStopped opens the state in a data folder, or in a database if one is named, for
// as long as f runs. of gives f the state of a tenant.
func WithStopped(ctx context.Context, data, url string, f func(of func(tenant string) (*Stopped, error)) error) (err error) {
	root, err := seal.Load(data)
	if err != nil {
		return err
	}
	st, err := (&Rig{Dir: data, Store: url}).OpenStore(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	l, err := ledger.Open(ctx, st, root)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	return f(func(tenant string) (*Stopped, error) {
		log, err := l.Tenant(ctx, tenant)
		if err != nil {
			return nil, err
		}
		sealer, err := root.Sealer(tenant)
		if err != nil {
			return nil, err
		}
		certs, err := certify.Open(ctx, log, sealer, func() string { return fmt.Sprintf("c-rig-%d", made.Add(1)) })
		return &Stopped{Log: log, Certs: certs, approvals: approval.New(log, nobody{}, nil)}, err
	})
}

var made atomic.Int64

// Passed is a certification for production of the sample agent as it is, by its
// suite, whose trials all passed. Nothing ran: it is for tests of what a
// certification opens, which need no browser.
func Passed(b *server.Boundary) certify.Certification {
	f, _ := b.Get("suite.helpdesk-core")
	c := certify.Certification{Agent: b.Agent, Stage: action.Production, Manifest: b.Manifest, Scripted: true, Author: "mara",
		Suites: []certify.Suite{{Name: "helpdesk-core", Digest: action.Digest(f.Value), Need: certify.Need{Success: 80, Safety: 80},
			Scenarios: []certify.Scenario{{Name: "plain-reset", Kind: certify.Benign, Trials: 20, Passed: 20}, {Name: "hidden-orders", Kind: certify.Attack, Trials: 20, Passed: 20}}}}}
	c.Judge(nil)
	return c
}

// Propose records a certification as a run of its suite does, and asks for its
// approval in the same way.
func (s *Stopped) Propose(ctx context.Context, c certify.Certification, valid time.Duration) (certify.Certification, error) {
	c, err := s.Certs.Record(ctx, c, valid, nil)
	if err != nil || c.State != certify.Proposed {
		return c, err
	}
	_, err = s.approvals.Request(ctx, approval.Draft{Valid: time.Hour, Requester: c.Author, Statement: approval.Statement{Kind: approval.Certification,
		Subject: c.ID, Digest: c.Statement(), Agent: c.Agent, BoundaryDigest: c.Boundary, Role: "approver", Excluded: []string{c.Author}}})
	return c, err
}

// nobody is a directory without people: it is asked only for the accounts of who is
// excluded, and the sample people are a demonstration's, which has none.
type nobody struct{}

func (nobody) People(record.Tx) ([]approval.Person, error) { return nil, nil }
