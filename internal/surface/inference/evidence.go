package inference

import (
	"bytes"
	"sync"

	"github.com/go-json-experiment/json/jsontext"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
)

// A conversation is sent anew with every call, screenshots included. Kept whole
// each time, the evidence of a task would grow with the square of its length. So
// a string of minShared bytes or more that was in the evidence of an earlier
// call of this task is kept there once, and in later evidence its literal is
// replaced by the literal "sha256:..." over the bytes that it stands for, quotes
// included. Nothing else changes: putting the literals back gives the exact
// body, whose digest is the parameter bodyDigest of the action.
const (
	minShared = 4 << 10
	maxShared = 8192 // remembered strings; beyond it they are kept again
)

// kept remembers which long strings are on record.
type kept struct {
	mu   sync.Mutex
	seen map[action.Digest]bool
}

// shorten returns the evidence for body and the strings that will be on record
// once it is. body is a strict JSON document.
func (k *kept) shorten(body []byte) (evidence []byte, fresh []action.Digest) {
	k.mu.Lock()
	defer k.mu.Unlock()
	var out bytes.Buffer
	d := jsontext.NewDecoder(bytes.NewReader(body))
	from := int64(0)
	for {
		if d.PeekKind() != '"' {
			if _, err := d.ReadToken(); err != nil {
				break // the end: the document was checked before
			}
			continue
		}
		v, err := d.ReadValue()
		if err != nil {
			return body, nil
		}
		if len(v) < minShared {
			continue
		}
		sum := canon.Digest(v)
		if !k.seen[sum] {
			fresh = append(fresh, sum)
			continue
		}
		end := d.InputOffset()
		out.Write(body[from : end-int64(len(v))])
		out.WriteString(`"` + string(sum) + `"`)
		from = end
	}
	if from == 0 {
		return body, fresh
	}
	out.Write(body[from:])
	return out.Bytes(), fresh
}

// recorded says that the evidence with these strings is durable.
func (k *kept) recorded(fresh []action.Digest) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, d := range fresh {
		if len(k.seen) >= maxShared {
			return
		}
		k.seen[d] = true
	}
}
