package server

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/boundary"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/contain"
)

// checkHarness refuses what cannot be measured.
func checkHarness(h Harness) error {
	for _, v := range h.Env {
		if n, _, ok := strings.Cut(v, "="); !ok || loaderVariable(n) {
			return problem(Invalid, "harness_environment", "the variable "+strconv.Quote(n)+" is not handed on: it would change which code runs", "leave it out")
		}
	}
	return nil
}

// measure fills in what is seen of the boundary before the agent runs.
func (s *session) measure(h Harness) error {
	program, err := onDisk.browser(s.agent.browserKind)
	if err != nil {
		return fmt.Errorf("browser: %w", err)
	}
	version, flags, kind := s.browser.Facts()
	s.seen.set(boundary.Pinned, atLaunch, map[string]string{
		"browser.version": version, "browser.binary": string(program), "browser.flags": string(flags), "browser.kind": kind})
	return s.measureHarness(h)
}

func (s *session) measureHarness(h Harness) error {
	bin, err := s.takeProgram(h)
	if err != nil {
		return fmt.Errorf("harness: %w", err)
	}
	args, err := canon.DigestOf(append([]string{}, h.Args...))
	if err != nil {
		return err
	}
	env, err := canon.DigestOf(append([]string{h.Dir}, slices.Sorted(slices.Values(h.Env))...))
	if err != nil {
		return err
	}
	bound, err := s.takeFiles(h)
	if err != nil {
		return fmt.Errorf("harness: %w", err)
	}
	grade, facts := boundary.Pinned, map[string]string{"harness.binary": string(bin)}
	if b := s.agent.built; b != nil {
		if !b.Programs[bin] {
			return problem(Refused, "harness_of_no_build", fmt.Sprintf("the harness's program %s is none of the %d that its provenance says %s built", bin, len(b.Programs), b.Builder),
				"bring the build's own program, or apply its provenance")
		}
		grade, facts["harness.provenance"] = boundary.Attested, s.agent.builtBy()
	}
	s.seen.set(grade, atLaunch, facts)
	s.seen.set(boundary.Pinned, atLaunch, map[string]string{
		"harness.args": string(args), "harness.environment": string(env), "harness.files": string(bound),
		"containment": s.t.srv.containment(), "sallyport.binary": string(s.t.srv.self),
	})
	return nil
}

// takeProgram gives the digest of the harness's program. It measures a copy of
// its own, which is what runs: whoever writes to the file meanwhile changes
// nothing. A program of the system or below a bound path is measured in its
// place, since what it belongs with stays there.
func (s *session) takeProgram(h Harness) (action.Digest, error) {
	around := contain.SystemMounts()
	for _, b := range h.Bind {
		around = append(around, contain.Mount{Target: b})
	}
	for _, m := range around {
		if h.Path == m.Target || strings.HasPrefix(h.Path, strings.TrimSuffix(m.Target, "/")+"/") {
			return fileDigest(h.Path)
		}
	}
	in, err := openFile(h.Path)
	if err != nil {
		return "", err
	}
	defer in.Close()
	name := filepath.Join(s.t.srv.programs(), s.task.ID)
	out, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o555)
	if err != nil {
		return "", err
	}
	s.onStop(func() { os.Remove(name) })
	sum, err := copyDigest(out, in)
	// Closed before it is started: a file that is open for writing cannot be.
	if err := errors.Join(err, out.Chmod(0o555), out.Close()); err != nil {
		return "", err
	}
	s.program = contain.Mount{Source: name, Target: h.Path}
	return sum, nil
}

// takeFiles gives the digest of the further paths that the harness sees. A mount of a
// link is of what it leads to, and so is the digest.
func (s *session) takeFiles(h Harness) (action.Digest, error) {
	var err error
	s.path = h.Path
	if s.bound, err = s.t.srv.Shown(h.Bind); err != nil {
		return "", err
	}
	return onDisk.tree(s.bound)
}

// Shown are paths that a harness is to see, without links. The server's own folder is
// none of them: the root key and the sockets are in it, and where the harness has the
// server's uid, as it has without root, nothing else would keep it out.
func (s *Server) Shown(paths []string) ([]string, error) {
	data, err := filepath.EvalSymlinks(s.cfg.Data)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, b := range paths {
		real, err := filepath.EvalSymlinks(b)
		if err != nil {
			return nil, problem(Invalid, "bind_missing", strconv.Quote(b)+" is not there", "bind what exists")
		}
		if within(real, data) || within(data, real) {
			return nil, problem(Refused, "bind_of_state", strconv.Quote(b)+" would show the server's own folder to the harness", "bind something else")
		}
		out = append(out, real)
	}
	return out, nil
}

// within reports whether path is folder or something in it; both are absolute.
func within(path, folder string) bool {
	rel, err := filepath.Rel(folder, path)
	return err == nil && rel != ".." && !strings.HasPrefix(rel, "../")
}

// unexchanged measures again what runs from its own place. Exchanged and put
// back in between is not seen: who can write there is trusted that far, as the
// threat model says.
func (s *session) unexchanged(h Harness) error {
	bin := s.seen.get("harness.binary")
	if s.program.Source == "" {
		again, err := fileDigest(h.Path)
		if err != nil {
			return err
		}
		bin = string(again)
	}
	files, err := treeDigest(s.bound)
	if err != nil {
		return err
	}
	if bin != s.seen.get("harness.binary") || string(files) != s.seen.get("harness.files") {
		return problem(Refused, "harness_exchanged", "the harness's program or files changed while it was started", "open a new task")
	}
	return nil
}
