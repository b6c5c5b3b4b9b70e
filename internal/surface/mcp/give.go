package mcp

import (
	"context"
	"strings"
	"sync"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
)

// given are the definitions that the harness has, as it was given them.
type given struct {
	mu  sync.Mutex
	all map[handed]bool
}

type handed struct {
	tool string
	says action.Digest // description and schema
}

// give makes what the harness is given of a definition that was measured.
func (s *Door) give(ctx context.Context, app string, d *definition) (canon.Value, error) {
	var x definition
	if err := canon.UnmarshalOpen(d.text, maxAnswer, &x); err != nil {
		return nil, err
	}
	text := d.text
	if s.c.Tell != nil {
		more, err := s.c.Tell(ctx, app, d.Name)
		if err != nil {
			return nil, err
		}
		if more != "" {
			x.Description = strings.TrimSpace(x.Description + " " + more)
			if text, err = canon.Marshal(x); err != nil {
				return nil, err
			}
		}
	}
	says, err := saying(x.Description, x.InputSchema)
	if err != nil {
		return nil, err
	}
	s.given.mu.Lock()
	defer s.given.mu.Unlock()
	if s.given.all == nil {
		s.given.all = map[handed]bool{}
	}
	s.given.all[handed{d.Name, says}] = true
	return text, nil
}

// Gave reports whether the harness has a definition from here, word for word, under its
// own name or one that ends with it after a separator, as clients of several servers name
// tools.
func (s *Door) Gave(name, description string, schema []byte) bool {
	says, err := saying(description, schema)
	if err != nil {
		return false
	}
	s.given.mu.Lock()
	defer s.given.mu.Unlock()
	for x := range s.given.all {
		before, ok := strings.CutSuffix(name, x.tool)
		if ok && x.says == says && (before == "" || strings.HasSuffix(before, "_") || strings.HasSuffix(before, "-") || strings.HasSuffix(before, ".")) {
			return true
		}
	}
	return false
}

func saying(description string, schema canon.Value) (action.Digest, error) {
	return canon.DigestOf(struct {
		Description string      `json:"description"`
		Schema      canon.Value `json:"schema"`
	}{description, schema})
}
