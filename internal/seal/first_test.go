package seal_test

import (
	"errors"
	"io/fs"
	"path/filepath"
	"sync"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/seal"
)

// Two servers start in one empty folder at once. One of them has the folder, and what
// it seals opens afterwards; the other seals nothing.
func TestTwoFirstStarts(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	var both sync.WaitGroup
	both.Add(2)
	seal.AtStep(func(s string) {
		if s == "wrapped" {
			both.Done()
			both.Wait()
		}
	})
	defer seal.AtStep(func(string) {})
	var rings [2]*seal.Ring
	var errs [2]error
	var wg sync.WaitGroup
	for i := range rings {
		k := kek(t, passphrase)
		wg.Go(func() { rings[i], errs[i] = seal.CreateRing(t.Context(), dir, k) })
	}
	wg.Wait()
	if (errs[0] == nil) == (errs[1] == nil) || !errors.Is(errors.Join(errs[0], errs[1]), fs.ErrExist) {
		t.Fatalf("got %v and %v, want one ring", errs[0], errs[1])
	}
	first := rings[0]
	if errs[0] != nil {
		first = rings[1]
	}
	sealed := sealedBy(t, first.Root())
	r, err := seal.OpenRing(t.Context(), dir, kek(t, passphrase))
	if err != nil {
		t.Fatal(err)
	}
	opens(t, r.Root(), sealed)
}
