package approval

import (
	"errors"
	"time"

	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/receipt"
)

// kindCounter is the object kind of a FIDO key's last signature counter. Its id
// is the digest of the public key, so that a key declared anew goes on counting.
const kindCounter = "approval-counter"

type counter struct {
	Counter uint32    `json:"counter"`
	At      time.Time `json:"at"`
}

// advance takes the counter of a signature that is about to be granted, in the
// transaction that grants it. A counter that does not rise is one of two copies
// of the key, or an old signature (WebAuthn level 3, section 6.1.1); a key that
// never counted may go on with 0.
func advance(tx record.Tx, sig receipt.Signer, now time.Time) error {
	id, err := receipt.KeyDigest(sig.Key)
	if err != nil {
		return err
	}
	var last counter
	if err := tx.Get(kindCounter, id, &last); err != nil && !errors.Is(err, record.ErrNotFound) {
		return err
	}
	if sig.Counter == 0 && last.Counter == 0 {
		return nil
	}
	if sig.Counter <= last.Counter {
		return refuse("counter_back", "the key's signature counter did not rise: it may have been copied; sign again, and replace the key if this goes on")
	}
	return tx.Put(kindCounter, id, counter{sig.Counter, now})
}
