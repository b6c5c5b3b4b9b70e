package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/seal"
	"github.com/sallyport-dev/sallyport/internal/seal/kms"
)

// DefaultKEKGrace is how long secrets go on opening while a remote key-encryption
// key does not answer.
const DefaultKEKGrace = 10 * time.Minute

// ParseKEK reads what wraps the keys of a data folder: "file" for nothing, which is
// nil, "passphrase", or a KMS plugin's socket.
func ParseKEK(text string, passphrase func() ([]byte, error)) (seal.KEK, error) {
	switch {
	case text == "file":
		return nil, nil
	case text == "passphrase":
		b, err := passphrase()
		if err != nil {
			return nil, err
		}
		return seal.NewPassphrase(b)
	case strings.HasPrefix(text, "unix://"):
		return kms.New(text)
	}
	return nil, fmt.Errorf("%q: want file, passphrase or unix:///path of a KMS plugin's socket", text)
}

// openKeys opens the keys of the folder, or makes them in one that holds nothing,
// and takes the folder for this process.
func (s *Server) openKeys(ctx context.Context) (err error) {
	dir := s.cfg.Data
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	names, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		if err := s.makeKeys(ctx); err != nil {
			return err
		}
	}
	if s.lock, err = lockFolder(dir); err != nil {
		return err
	}
	if s.root != nil {
		return nil
	}
	s.root, s.ring, err = OpenKeys(ctx, dir, s.cfg.KEK)
	return err
}

func (s *Server) makeKeys(ctx context.Context) (err error) {
	if s.cfg.KEK == nil {
		s.root, err = seal.Create(s.cfg.Data)
		return err
	}
	if s.ring, err = seal.CreateRing(ctx, s.cfg.Data, s.cfg.KEK); err == nil {
		s.root = s.ring.Root()
	}
	return err
}

// OpenKeys opens the keys of a folder that has some. There is no ring without a KEK.
func OpenKeys(ctx context.Context, dir string, kek seal.KEK) (*seal.Root, *seal.Ring, error) {
	if kek == nil {
		root, err := seal.Load(dir)
		return root, nil, err
	}
	ring, err := seal.OpenRing(ctx, dir, kek)
	if err != nil {
		return nil, nil, err
	}
	return ring.Root(), ring, nil
}

// watchKeys asks a remote KEK for as long as the server runs, and lets go of any
// other, which is not needed again.
func (s *Server) watchKeys() {
	if s.ring == nil {
		return
	}
	if _, ok := s.cfg.KEK.(seal.Remote); !ok {
		s.cfg.KEK.Close()
		return
	}
	s.background(func(ctx context.Context) {
		s.ring.Watch(ctx, s.cfg.KEKGrace, func(rewrapped bool, err error) {
			switch {
			case rewrapped:
				s.rewrapped(ctx)
			case err != nil:
				s.log.Error("the key-encryption key does not answer; secrets open for a time, and then no more", "grace", s.cfg.KEKGrace, "err", err)
			default:
				s.log.Info("the key-encryption key answers again")
			}
		})
	})
}

// rewrapped is on record in every tenant's log. The ring is durable before: a crash
// between leaves a wrapping that is not on record, and loses nothing.
func (s *Server) rewrapped(ctx context.Context) {
	st := s.ring.State()
	s.log.Info("the keys are wrapped anew", "keyID", st.KeyID)
	for _, t := range s.all() {
		if _, err := t.log.Append(ctx, record.Draft{Type: "keys.rewrapped", Actor: "sallyport", Body: map[string]any{"kind": st.Kind, "keyID": st.KeyID}}); err != nil {
			s.log.Warn("a new wrapping of the keys is not on record", "tenant", t.name, "err", err)
		}
	}
}

// KeyRing says what wraps the keys of this server.
func (s *Server) KeyRing() seal.RingState {
	if s.ring == nil {
		return seal.RingState{Kind: "file", Generations: 1}
	}
	return s.ring.State()
}

// Rewrap wraps the keys of a stopped server's folder by another KEK, or by the same
// anew. from is nil for a key file, which is gone afterwards.
func Rewrap(ctx context.Context, dir string, from, to seal.KEK) (st seal.RingState, err error) {
	if to == nil {
		return st, problem(Invalid, "invalid_kek", "keys are not taken out of their wrapping into a file", "name another passphrase or KMS plugin")
	}
	if _, err := os.Stat(dir); err != nil {
		return st, err
	}
	lock, err := lockFolder(dir)
	if err != nil {
		return st, err
	}
	defer func() { err = errors.Join(err, lock.Close()) }()
	if from == nil {
		ring, err := seal.Adopt(ctx, dir, to)
		if err != nil {
			return st, err
		}
		return ring.State(), nil
	}
	ring, err := seal.OpenRing(ctx, dir, from)
	if err != nil {
		return st, err
	}
	if err := ring.Rewrap(ctx, to); err != nil {
		return st, err
	}
	return ring.State(), nil
}
