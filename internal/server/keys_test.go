package server_test

import (
	"net/http"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/estate"
	"github.com/sallyport-dev/sallyport/internal/seal"
	"github.com/sallyport-dev/sallyport/internal/server"
	"github.com/sallyport-dev/sallyport/test/kms"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// TestKillWhileTheKMSIsAway: the keys are wrapped by a KMS, which goes while a task
// holds credentials. They are sealed, so the application cannot be asked to end them:
// the kill says so, the task can do nothing any more, and when the KMS is back the
// sessions are ended without anybody asking again.
//
// Threats: K4 (lease)
func TestKillWhileTheKMSIsAway(t *testing.T) {
	token := kms.NewToken(t)
	token.Serve("key-1")
	r := rig.New(t, rig.Options{KEK: func() (seal.KEK, time.Duration, error) {
		k, err := server.ParseKEK(token.Endpoint(), nil)
		return k, time.Second, err
	}})
	r.Ready(t)
	id := r.OpenTask(t, rig.Intent(action.Sandbox, "jo", "4711")).ID
	inject, _, err := r.Server.StartLeases(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	try := func() error {
		q, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.Estate.URL(estate.Sandbox, estate.IAM)+"/", nil)
		if err != nil {
			t.Fatal(err)
		}
		return inject(q)
	}
	token.Stop()
	rig.Await(t, "the keys to be forgotten", func() bool { return r.Server.KeyRing().Closed })
	if err := try(); err != nil {
		t.Errorf("what is in use stopped: %v", err)
	}
	if _, err := r.Server.Revoke(t.Context(), "", rig.As("ada"), "task/"+id, "test"); err == nil {
		t.Error("an end was confirmed that nobody could ask for")
	}
	if err := try(); err == nil {
		t.Error("the ended task still has its session")
	}
	token.Serve("key-1")
	rig.Await(t, "the leases to be confirmed", func() bool {
		n, err := r.Server.UnconfirmedLeases(t.Context())
		return err == nil && n == 0
	})
	r.NoSessions(t, action.Sandbox)
}
