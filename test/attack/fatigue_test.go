package attack

import (
	"context"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// A harness asks for the same approval again and again, and people say no each
// time, until somebody is tired enough to say yes. What is asked of people must
// be bounded by more than their patience.
//
// Threats: T52 (approval)
func TestApproversAreNotWornOut(t *testing.T) {
	r := wide(t)
	r.Approver(rig.Nobody)
	ctx, stop := context.WithCancel(t.Context())
	asked := make(chan int, 1)
	go func() {
		n := 0
		for ctx.Err() == nil {
			list, err := r.Server.Approvals(ctx, "", approval.Pending)
			for _, a := range list {
				if _, e := r.Server.Reject(ctx, "", rig.As("ines"), a.ID(), "no"); err == nil && e == nil {
					n++
				}
			}
			time.Sleep(10 * time.Millisecond)
		}
		asked <- n
	}()
	x, out := r.Run(t, rig.Intent(action.Sandbox, "jo", "4711"), reset(r, "40")...)
	stop()
	n := <-asked
	if got := resets(r); got != 0 {
		t.Errorf("%d resets reached the application", got)
	}
	t.Log(n, x.State, out)
	if n != 1 {
		t.Errorf("people were asked %d times for one thing, want once", n)
	}
}
