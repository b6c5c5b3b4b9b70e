package ledger

import (
	"context"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// MaxBlob is the largest payload, in bytes.
const MaxBlob = 16 << 20

// maxDataKeys bounds the keys in memory: a log has as many as it had tasks.
const maxDataKeys = 256

const (
	saltSize  = 32
	keySize   = 32
	nonceSize = 12
)

type aead = cipher.AEAD

// taskKey is the stored form of a task's data key. Erased leaves the tombstone.
type taskKey struct {
	Sealed []byte `json:"sealed,omitempty"`
	Erased bool   `json:"erased,omitempty"`
}

// sealBlob encrypts a payload as nonce || AES-256-GCM(salt || data) and makes
// the commitment HMAC-SHA-256(salt, data). Without the salt, which goes with
// the key, the commitment tells nothing even of a payload that can be guessed.
func (g *Log) sealBlob(ctx context.Context, task string, b record.Blob) (action.Evidence, Sealed, error) {
	if len(b.Data) > MaxBlob {
		return action.Evidence{}, Sealed{}, fmt.Errorf("%d bytes, limit %d", len(b.Data), MaxBlob)
	}
	if err := errors.Join(checkText(b.Name), checkText(b.Type)); err != nil {
		return action.Evidence{}, Sealed{}, err
	}
	key, err := g.dataKey(ctx, task, true)
	if err != nil {
		return action.Evidence{}, Sealed{}, err
	}
	id := randomID()
	// One copy, which is encrypted where it lies.
	out := make([]byte, nonceSize+saltSize, nonceSize+saltSize+len(b.Data)+key.Overhead())
	rand.Read(out)
	nonce, plain := out[:nonceSize], append(out, b.Data...)[nonceSize:]
	ev := action.Evidence{Name: b.Name, Blob: id, Type: b.Type, Size: int64(len(b.Data)),
		Commitment: commitment(plain[:saltSize], b.Data)}
	out = key.Seal(nonce, nonce, plain, g.blobContext(task, id))
	return ev, Sealed{ID: id, Task: task, Bytes: out}, nil
}

func (g *Log) blobContext(task, id string) []byte {
	return []byte("sallyport/blob/v1\x00" + g.tenant + "\x00" + task + "\x00" + id)
}

func commitment(salt, data []byte) action.Digest {
	m := hmac.New(sha256.New, salt)
	m.Write(data)
	return action.Digest("sha256:" + hex.EncodeToString(m.Sum(nil)))
}

// Payload implements record.Log. Erased content gives ErrErased.
func (g *Log) Payload(ctx context.Context, e action.Evidence) ([]byte, error) {
	data, err := g.payload(ctx, e)
	if err != nil {
		return nil, fmt.Errorf("payload %s: %w", e.Blob, err)
	}
	return data, nil
}

func (g *Log) payload(ctx context.Context, e action.Evidence) ([]byte, error) {
	var s Sealed
	err := g.l.store.View(ctx, func(tx ReadTx) (err error) {
		s, err = tx.Blob(g.tenant, e.Blob)
		return err
	})
	if err != nil {
		return nil, err
	}
	key, err := g.dataKey(ctx, s.Task, false)
	if err != nil {
		return nil, err
	}
	if len(s.Bytes) < nonceSize {
		return nil, errTampered
	}
	plain, err := key.Open(nil, s.Bytes[:nonceSize], s.Bytes[nonceSize:], g.blobContext(s.Task, e.Blob))
	if err != nil || len(plain) < saltSize {
		return nil, fmt.Errorf("does not decrypt: %w", errTampered)
	}
	salt, data := plain[:saltSize], plain[saltSize:]
	if int64(len(data)) != e.Size || !hmac.Equal([]byte(commitment(salt, data)), []byte(e.Commitment)) {
		return nil, fmt.Errorf("does not match its commitment: %w", errTampered)
	}
	return data, nil
}

// dataKey returns the data key of a task, and makes it, durably, when it is
// wanted for the first time. The key is in the store before any payload under
// it is; a crash between leaves a key without use.
func (g *Log) dataKey(ctx context.Context, task string, create bool) (aead, error) {
	g.keyMu.Lock()
	defer g.keyMu.Unlock()
	if k := g.dataKeys[task]; k != nil && create {
		// May be stale when another node destroyed the key: writeOne looks again.
		return k, nil
	}
	k, err := g.readKey(ctx, task)
	if errors.Is(err, record.ErrNotFound) && create {
		k, err = g.makeKey(ctx, task)
	}
	if err != nil {
		delete(g.dataKeys, task)
		return nil, err
	}
	if len(g.dataKeys) >= maxDataKeys {
		clear(g.dataKeys) // each can be read again
	}
	g.dataKeys[task] = k
	return k, nil
}

func (g *Log) readKey(ctx context.Context, task string) (k aead, err error) {
	err = g.l.store.View(ctx, func(tx ReadTx) error {
		k, err = g.openKey(tx, task)
		return err
	})
	return k, err
}

func (g *Log) makeKey(ctx context.Context, task string) (k aead, err error) {
	raw := make([]byte, keySize)
	defer clear(raw)
	rand.Read(raw)
	sealed, err := g.sealer.Seal("task key "+task, raw)
	if err != nil {
		return nil, err
	}
	body, err := canon.Marshal(taskKey{Sealed: sealed})
	if err != nil {
		return nil, err
	}
	err = g.l.store.Update(ctx, func(tx WriteTx) error {
		if _, err := tx.Lock(g.tenant); err != nil {
			return err
		}
		if _, err := tx.Object(g.tenant, kindTask, task); errors.Is(err, record.ErrNotFound) {
			if err := tx.PutObject(g.tenant, kindTask, task, body); err != nil {
				return err
			}
		}
		// Another node may have been faster: its key is the key.
		k, err = g.openKey(tx, task)
		return err
	})
	return k, g.l.check(err)
}

func (g *Log) openKey(tx ReadTx, task string) (aead, error) {
	b, err := tx.Object(g.tenant, kindTask, task)
	if err != nil {
		return nil, err
	}
	var k taskKey
	if err := canon.Unmarshal(b, 1<<12, &k); err != nil {
		return nil, fmt.Errorf("task key: %w", err)
	}
	if k.Erased {
		return nil, ErrErased
	}
	raw, err := g.sealer.Open("task key "+task, k.Sealed)
	if err != nil {
		return nil, fmt.Errorf("task key: %w", err)
	}
	defer clear(raw)
	block, err := aes.NewCipher(raw)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// DestroyKey erases the content of all payloads of a task, for ever: it
// appends an evidence.erased record and destroys the data key in the same
// transaction, then has the database wipe the old bytes of the key. Records
// and proofs stay valid. An error together with an entry means that the record
// is kept and the wipe is not known to be done: call it again. Copies of the
// database made before (backups, PostgreSQL's archived log) still hold the
// sealed key.
func (g *Log) DestroyKey(ctx context.Context, task, actor string) (record.Entry, error) {
	if task == "" {
		return record.Entry{}, errors.New("destroy key: no task")
	}
	tombstone, err := canon.Marshal(taskKey{Erased: true})
	if err != nil {
		return record.Entry{}, err
	}
	p, err := g.prepare(ctx, record.Draft{Type: "evidence.erased", Task: task, Actor: actor})
	if err != nil {
		return record.Entry{}, fmt.Errorf("destroy key: %w", err)
	}
	p.internal = func(tx WriteTx) error {
		return tx.PutObject(g.tenant, kindTask, task, tombstone)
	}
	e, err := g.submit(ctx, p)
	g.keyMu.Lock()
	delete(g.dataKeys, task)
	g.keyMu.Unlock()
	if err != nil {
		return record.Entry{}, err
	}
	if err := g.l.store.Purge(ctx); err != nil {
		return e, fmt.Errorf("destroy key: wipe: %w", g.l.check(err))
	}
	return e, nil
}
