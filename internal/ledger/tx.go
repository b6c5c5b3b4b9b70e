package ledger

import (
	"errors"
	"fmt"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// MaxObject is the largest state object, in bytes.
const MaxObject = 8 << 20

var errReadOnly = errors.New("state is changed only by the Change of a draft")

// view is the record.Tx of one tenant. w is nil when reading only.
type view struct {
	tenant string
	r      ReadTx
	w      WriteTx
	// broken is the first error of the store itself: the transaction is
	// worth nothing after it, whatever the Change makes of the error.
	broken error
}

func (v *view) fail(err error) error {
	if err != nil && !errors.Is(err, record.ErrNotFound) && v.broken == nil {
		v.broken = err
	}
	return err
}

func checkName(kind, id string) error {
	if kind == "" || strings.HasPrefix(kind, reserved) {
		return fmt.Errorf("kind %q is reserved", kind)
	}
	return errors.Join(checkText(kind), checkText(id))
}

func (v *view) Get(kind, id string, into any) error {
	if err := checkName(kind, id); err != nil {
		return err
	}
	b, err := v.r.Object(v.tenant, kind, id)
	if err != nil {
		return v.fail(err)
	}
	if err := canon.Unmarshal(b, MaxObject, into); err != nil {
		return fmt.Errorf("%s %s: %w", kind, id, err)
	}
	return nil
}

func (v *view) Put(kind, id string, from any) error {
	if err := checkName(kind, id); err != nil {
		return err
	}
	if v.w == nil {
		return errReadOnly
	}
	b, err := canon.Marshal(from)
	if err != nil {
		return fmt.Errorf("%s %s: %w", kind, id, err)
	}
	if len(b) > MaxObject {
		return fmt.Errorf("%s %s: %d bytes, limit %d", kind, id, len(b), MaxObject)
	}
	return v.fail(v.w.PutObject(v.tenant, kind, id, b))
}

func (v *view) Delete(kind, id string) error {
	if err := checkName(kind, id); err != nil {
		return err
	}
	if v.w == nil {
		return errReadOnly
	}
	return v.fail(v.w.DeleteObject(v.tenant, kind, id))
}

func (v *view) List(kind string, f func(id string, raw []byte) error) error {
	if err := checkName(kind, ""); err != nil {
		return err
	}
	var inner error
	err := v.r.Objects(v.tenant, kind, func(id string, body []byte) error {
		inner = f(id, body)
		return inner
	})
	if inner != nil {
		return inner // the caller's, not the store's
	}
	return v.fail(err)
}
