package server

import (
	"context"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/boundary"
	"github.com/sallyport-dev/sallyport/internal/surface/cdp"
	"github.com/sallyport-dev/sallyport/internal/surface/computer"
)

// RunScreenless is Run for a sandbox task whose harness does not look at its
// screen: it starts no browser, so that tests of the other doors are cheap.
func (s *Server) RunScreenless(ctx context.Context, id string, h Harness) (*Running, error) {
	t, err := s.tenant("")
	if err != nil {
		return nil, err
	}
	x, err := t.tasks.Start(ctx, id)
	if err != nil {
		return nil, err
	}
	w := t.current()
	a := *w.agents[x.Agent]
	a.protocol = string(cdp.Sealed)
	r := &session{t: t, task: x, world: w, agent: &a, seen: newMeasured(), jar: newJar(), done: make(chan struct{}), dir: h.Dir}
	r.journal = computer.NewJournal(r.sender)
	if r.instance, err = w.capabilities[x.Capability].Instantiate(x.Capability, x.Params); err != nil {
		return nil, err
	}
	t.mu.Lock()
	t.sessions[id] = r
	t.mu.Unlock()
	h.Dir = ""
	if err := r.admit(); err != nil {
		return nil, err
	}
	var bin, files action.Digest
	if bin, err = r.takeProgram(h); err == nil {
		files, err = treeDigest(h.Bind)
	}
	if err != nil {
		return nil, err
	}
	r.seen.set(boundary.Pinned, "launch", map[string]string{"harness.binary": string(bin), "harness.files": string(files)})
	if err := r.lease(ctx); err != nil {
		return nil, err
	}
	return &Running{r}, r.startHarness(ctx, h)
}
