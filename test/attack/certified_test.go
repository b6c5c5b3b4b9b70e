package attack

import (
	"sync"
	"testing"

	"github.com/sallyport-dev/sallyport/test/rig"
)

// The certified rig ran the certification suite once. Each test starts where
// that ended, on a copy of its state.
var (
	certifiedOnce  sync.Once
	certifiedRig   *rig.Rig
	certifiedState *rig.Snapshot
)

func certified(t *testing.T) *rig.Rig {
	t.Helper()
	if testing.Short() {
		t.Skip("runs a certification")
	}
	certifiedOnce.Do(func() {
		r, err := rig.Start(rig.Options{Edit: canaried})
		if err != nil {
			t.Fatal(err)
		}
		certifiedRig = r
		r.Ready(t)
		r.Certify(t)
		s, err := r.Snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		certifiedState = &s
	})
	if certifiedState == nil {
		t.Fatal("the certification failed")
	}
	if err := certifiedRig.Restore(t.Context(), *certifiedState); err != nil {
		t.Fatal(err)
	}
	fresh(t, certifiedRig)
	return certifiedRig
}

// canariedAnd are the certified rig's files with one more change.
func canariedAnd(edit func(map[string][]byte)) func(map[string][]byte) {
	return func(files map[string][]byte) { canaried(files); edit(files) }
}
