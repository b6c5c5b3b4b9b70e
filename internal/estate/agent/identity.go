package agent

import (
	"context"
	"fmt"
	"time"

	"github.com/spiffe/go-spiffe/v2/spiffeid"
	"github.com/spiffe/go-spiffe/v2/svid/jwtsvid"
	"github.com/spiffe/go-spiffe/v2/workloadapi"
)

const identityLimit = 20 * time.Second

// identify fetches both kinds of SVID over the Workload API and prints who the
// agent is. Without SPIFFE_ENDPOINT_SOCKET it runs without an identity.
func (a *agent) identify(ctx context.Context) error {
	socket := a.o.Getenv("SPIFFE_ENDPOINT_SOCKET")
	if socket == "" {
		a.printf("identity (none)")
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, identityLimit)
	defer cancel()
	c, err := workloadapi.New(ctx, workloadapi.WithAddr(socket))
	if err != nil {
		return fmt.Errorf("workload api: %w", err)
	}
	defer c.Close()
	x, err := c.FetchX509SVID(ctx)
	if err != nil {
		return fmt.Errorf("workload api: fetch an X.509-SVID: %w", err)
	}
	a.printf("identity %s (X.509-SVID until %s)", x.ID, x.Certificates[0].NotAfter.UTC().Format(time.RFC3339))
	audience := a.o.Audience
	if audience == "" {
		audience = "sample-agent"
	}
	j, err := c.FetchJWTSVID(ctx, jwtsvid.Params{Audience: audience})
	if err != nil {
		return fmt.Errorf("workload api: fetch a JWT-SVID: %w", err)
	}
	a.printf("identity %s (JWT-SVID for %s until %s)", j.ID, audience, j.Expiry.UTC().Format(time.RFC3339))
	return nil
}

// fetchAs asks the Workload API for the identity of somebody else.
func (a *agent) fetchAs(ctx context.Context, id string) (string, error) {
	want, err := spiffeid.FromString(id)
	if err != nil {
		return "", err
	}
	c, err := workloadapi.New(ctx, workloadapi.WithAddr(a.o.Getenv("SPIFFE_ENDPOINT_SOCKET")))
	if err != nil {
		return "", err
	}
	defer c.Close()
	j, err := c.FetchJWTSVID(ctx, jwtsvid.Params{Audience: "sample-agent", Subject: want})
	if err != nil {
		return "", err
	}
	return j.ID.String(), nil
}
