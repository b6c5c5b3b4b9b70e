package egress

import (
	"bufio"
	"compress/gzip"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
)

var errEncoding = errors.New("response has an encoding that was not asked for")

func itoa(n int64) string { return strconv.FormatInt(n, 10) }

// decode undoes gzip, the only encoding that is asked for. The length is -1 if
// it is not known.
func decode(resp *http.Response, method string) (io.Reader, int64, error) {
	enc := strings.TrimSpace(strings.Join(resp.Header.Values("Content-Encoding"), ","))
	switch strings.ToLower(enc) {
	case "", "identity":
		resp.Header.Del("Content-Encoding")
		return resp.Body, resp.ContentLength, nil
	case "gzip", "x-gzip":
		resp.Header.Del("Content-Encoding")
		if method == "HEAD" || resp.StatusCode == http.StatusNoContent || resp.StatusCode == http.StatusNotModified {
			return resp.Body, -1, nil
		}
		return &lazyGzip{src: resp.Body}, -1, nil
	}
	return nil, 0, errEncoding
}

// lazyGzip opens the stream at the first Read, so that the head of a slow
// response is passed on at once.
type lazyGzip struct {
	src io.Reader
	z   *gzip.Reader
}

func (l *lazyGzip) Read(p []byte) (int, error) {
	if l.z == nil {
		z, err := gzip.NewReader(bufio.NewReader(l.src))
		if err != nil {
			return 0, err
		}
		l.z = z
	}
	return l.z.Read(p)
}

// copyResponseHeader passes on what the client may see.
func copyResponseHeader(dst, src http.Header, brokered bool, s *scrubber) {
	for name, values := range src {
		lower := strings.ToLower(name)
		switch lower {
		case "connection", "proxy-connection", "keep-alive", "te", "trailer", "transfer-encoding", "upgrade", "content-length",
			"alt-svc", "public-key-pins", "public-key-pins-report-only", "nel", "report-to", "reporting-endpoints":
			continue
		case "set-cookie", "set-cookie2":
			if brokered {
				continue
			}
		}
		if strings.HasPrefix(lower, "proxy-") || strings.HasPrefix(lower, "sallyport-") || strings.HasPrefix(lower, "x-sallyport") {
			continue
		}
		for _, v := range values {
			dst.Add(name, s.text(v))
		}
	}
	for v := range strings.SplitSeq(strings.Join(src["Connection"], ","), ",") {
		if v = strings.TrimSpace(v); v != "" {
			dst.Del(v)
		}
	}
	// Without a type net/http would guess one, which the origin did not say.
	if _, ok := dst["Content-Type"]; !ok {
		dst["Content-Type"] = nil
	}
	if _, ok := dst["Date"]; !ok {
		dst["Date"] = nil
	}
}

var buffers = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

// copyBody streams a body. The head and each piece of a live one are flushed at
// once.
func copyBody(w http.ResponseWriter, body io.Reader, live bool) error {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	rc := http.NewResponseController(w)
	if live {
		if err := rc.Flush(); err != nil {
			return err
		}
	}
	for {
		n, err := body.Read(*buf)
		if n > 0 {
			if _, werr := w.Write((*buf)[:n]); werr != nil {
				return werr
			}
			if live && err == nil {
				if ferr := rc.Flush(); ferr != nil {
					return ferr
				}
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// redirects remembers where responses pointed to, so that the request that
// follows can be linked. It is bounded and informative only.
type redirects struct {
	mu sync.Mutex
	m  map[string]pointer // by absolute URL without fragment
}

type pointer struct {
	action string
	until  time.Time
}

const (
	maxRedirects = 256
	redirectLife = time.Minute
)

func (d *redirects) remember(out *http.Request, resp *http.Response, id string) {
	loc := resp.Header.Get("Location")
	if loc == "" || resp.StatusCode < 300 || resp.StatusCode > 399 {
		return
	}
	base, err := url.Parse(out.URL.Scheme + "://" + out.Host + out.URL.Opaque)
	if err != nil {
		return
	}
	u, err := base.Parse(loc)
	if err != nil {
		return
	}
	t, code := parseTarget(u.Scheme, u.Host)
	if code != "" {
		return
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	now := time.Now()
	if d.m == nil || len(d.m) >= maxRedirects {
		d.m = map[string]pointer{}
	}
	d.m[t.origin()+u.RequestURI()] = pointer{id, now.Add(redirectLife)}
}

// take returns the action whose response pointed to req, once.
func (d *redirects) take(req action.Request) string {
	key := req.Origin + req.Path
	if req.Query != "" {
		key += "?" + req.Query
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	p, ok := d.m[key]
	if !ok {
		return ""
	}
	delete(d.m, key)
	if time.Now().After(p.until) {
		return ""
	}
	return p.action
}
