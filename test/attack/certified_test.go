package attack

import (
	"sync"
	"testing"

	"github.com/sallyport-dev/sallyport/test/rig"
)

// The certified rig ran the certification suite once. Each test starts where
// that ended, on a copy of the data folder.
var (
	certifiedOnce sync.Once
	certifiedRig  *rig.Rig
	certifiedDir  string
)

func certified(t *testing.T) *rig.Rig {
	t.Helper()
	if testing.Short() {
		t.Skip("runs a certification")
	}
	certifiedOnce.Do(func() {
		r, err := rig.Start(rig.Options{})
		if err != nil {
			t.Fatal(err)
		}
		certifiedRig = r
		r.Ready(t)
		r.Certify(t)
		if certifiedDir, err = r.Snapshot(); err != nil {
			t.Fatal(err)
		}
	})
	if certifiedDir == "" {
		t.Fatal("the certification failed")
	}
	if err := certifiedRig.Restore(certifiedDir); err != nil {
		t.Fatal(err)
	}
	fresh(t, certifiedRig)
	return certifiedRig
}
