package ledger

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/tlog"

	"github.com/sallyport-dev/sallyport/internal/record"
)

// tileWidth is the number of hashes or records in a full tile (C2SP
// tlog-tiles: height 8).
const tileWidth = 256

var errNoTile = errors.New("no such tile")

// TileHandler serves one tenant's log as C2SP tlog-tiles: /checkpoint,
// /tile/<L>/<N>[.p/<W>] and /tile/entries/<N>[.p/<W>], under the paths of the
// request as it gets them. Who may read the log is for the caller to decide.
func (l *Ledger) TileHandler(tenant string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodGet && r.Method != http.MethodHead {
			w.Header().Set("Allow", "GET, HEAD")
			http.Error(w, "method not allowed", http.StatusMethodNotAllowed)
			return
		}
		body, kind, err := l.resource(r.Context(), tenant, r.URL.Path)
		switch {
		case errors.Is(err, errNoTile) || errors.Is(err, record.ErrNotFound):
			http.Error(w, "not found", http.StatusNotFound)
			return
		case err != nil:
			http.Error(w, "the log cannot be read", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", kind)
		if kind == octets {
			w.Header().Set("Cache-Control", "private, max-age=31536000, immutable")
		} else {
			w.Header().Set("Cache-Control", "no-store")
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(body)))
		w.Write(body)
	})
}

const octets = "application/octet-stream"

func (l *Ledger) resource(ctx context.Context, tenant, path string) ([]byte, string, error) {
	g, err := l.Tenant(ctx, tenant)
	if err != nil {
		return nil, "", err
	}
	if path == "/checkpoint" {
		b, err := g.Checkpoint(ctx)
		return b, "text/plain; charset=utf-8", err
	}
	t, err := parseTile(path)
	if err != nil {
		return nil, "", err
	}
	cp, err := g.Checkpoint(ctx)
	if err != nil {
		return nil, "", err
	}
	size, _, err := g.openCheckpoint(cp)
	if err != nil {
		return nil, "", err
	}
	if have := size>>(8*max(t.level, 0)) - t.n*tileWidth; have < int64(t.width) {
		return nil, "", errNoTile
	}
	b, err := g.tile(ctx, t)
	return b, octets, err
}

// tile is a tile of hashes, or of entries when level is -1.
type tile struct {
	level, width int
	n            int64
}

// parseTile reads a path strictly: each tile has one.
func parseTile(path string) (tile, error) {
	t := tile{width: tileWidth}
	rest, ok := strings.CutPrefix(path, "/tile/")
	if !ok {
		return t, errNoTile
	}
	level, rest, _ := strings.Cut(rest, "/")
	if level == "entries" {
		t.level = -1
	} else if n, err := strconv.ParseUint(level, 10, 8); err != nil || n > 5 || strconv.FormatUint(n, 10) != level {
		return t, errNoTile // level 6 would need 2^48 records
	} else {
		t.level = int(n)
	}
	if before, w, ok := strings.Cut(rest, ".p/"); ok {
		n, err := strconv.ParseUint(w, 10, 8)
		if err != nil || n == 0 || strconv.FormatUint(n, 10) != w {
			return t, errNoTile
		}
		t.width, rest = int(n), before
	}
	parts := strings.Split(rest, "/")
	if len(parts) > 5 {
		return t, errNoTile
	}
	for i, p := range parts {
		if i < len(parts)-1 {
			if p, ok = strings.CutPrefix(p, "x"); !ok {
				return t, errNoTile
			}
		}
		n, err := strconv.ParseUint(p, 10, 16)
		if err != nil || len(p) != 3 || n > 999 {
			return t, errNoTile
		}
		t.n = t.n*1000 + int64(n)
	}
	if tilePath(t) != path {
		return t, errNoTile
	}
	return t, nil
}

func tilePath(t tile) string {
	n := fmt.Sprintf("%03d", t.n%1000)
	for rest := t.n / 1000; rest > 0; rest /= 1000 {
		n = fmt.Sprintf("x%03d/%s", rest%1000, n)
	}
	level := "entries"
	if t.level >= 0 {
		level = strconv.Itoa(t.level)
	}
	if t.width < tileWidth {
		n += ".p/" + strconv.Itoa(t.width)
	}
	return "/tile/" + level + "/" + n
}

func (g *Log) tile(ctx context.Context, t tile) ([]byte, error) {
	var out []byte
	if t.level < 0 {
		rows, err := g.page(ctx, "", t.n*tileWidth, t.width)
		if err != nil {
			return nil, err
		}
		for i, row := range rows {
			if row.Seq != t.n*tileWidth+int64(i) || len(row.Raw) > MaxRecord {
				return nil, errTampered
			}
			out = binary.BigEndian.AppendUint16(out, uint16(len(row.Raw)))
			out = append(out, row.Raw...)
		}
		if len(rows) != t.width {
			return nil, errTampered
		}
		return out, nil
	}
	idx := make([]int64, t.width)
	for i := range idx {
		idx[i] = tlog.StoredHashIndex(8*t.level, t.n*tileWidth+int64(i))
	}
	hs, err := g.hashReader(ctx).ReadHashes(idx)
	for _, h := range hs {
		out = append(out, h[:]...)
	}
	return out, err
}
