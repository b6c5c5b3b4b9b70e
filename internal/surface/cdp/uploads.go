package cdp

import (
	"errors"
	"io"
	"net/http"
	"path"
	"strings"
	"sync"
	"unicode"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
)

// Bounds of what a harness may put here. A file is evidence when it is used, so
// that it must fit into one payload of the ledger.
const (
	maxUpload  = 8 << 20
	maxUploads = 32 << 20 // all of a task
	maxStored  = 64
)

// upload is one file: a name and its bytes, and no path.
type upload struct {
	name   string // base name, as the page will see it
	data   []byte
	digest action.Digest
}

// uploads hold what the harness put here, until the task ends. The keys are the
// paths that its client will name, compared letter by letter: nothing resolves
// them, so there is nothing that a link, a dot segment or /proc could lead to.
type uploads struct {
	mu    sync.Mutex
	files map[string]upload
	size  int
}

func (u *uploads) get(key string) (upload, bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	f, ok := u.files[key]
	return f, ok
}

var errFull = errors.New("there is no room for it")

func (u *uploads) put(key string, data []byte) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	old, there := u.files[key]
	size := u.size - len(old.data) + len(data)
	if size > maxUploads || !there && len(u.files) >= maxStored {
		return errFull
	}
	if u.files == nil {
		u.files = map[string]upload{}
	}
	u.size, u.files[key] = size, upload{path.Base(key), data, canon.Digest(data)}
	return nil
}

// uploadKey accepts an absolute path in its one spelling.
func uploadKey(key string) bool {
	return len(key) <= 1024 && len(path.Base(key)) <= 255 && strings.HasPrefix(key, "/") && key != "/" && path.Clean(key) == key &&
		!strings.ContainsFunc(key, func(r rune) bool { return !unicode.IsPrint(r) || r == '\\' })
}

// putUpload serves PUT /uploads/PATH: the body is the content of the file that
// the client will call /PATH.
func (s *Server) putUpload(w http.ResponseWriter, r *http.Request) {
	key := strings.TrimPrefix(r.URL.Path, "/uploads")
	if !uploadKey(key) {
		writeProblem(w, http.StatusBadRequest, problem{Layer: layerForm, Code: "bad_name", Message: "the name of a file is an absolute path without dot segments",
			Next: "PUT to /uploads + the absolute path that the client will name"})
		return
	}
	data, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxUpload))
	if err != nil {
		writeProblem(w, http.StatusRequestEntityTooLarge, problem{Layer: layerForm, Code: "too_large", Message: "a file has at most 8 MiB", Next: "send a smaller file"})
		return
	}
	if err := s.uploads.put(key, data); err != nil {
		writeProblem(w, http.StatusInsufficientStorage, problem{Layer: layerForm, Code: "uploads_full", Message: "a task keeps at most 64 files of 32 MiB in all", Next: "put a file in the place of another"})
		return
	}
	w.WriteHeader(http.StatusNoContent)
}
