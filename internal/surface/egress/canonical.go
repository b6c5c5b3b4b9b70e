package egress

import (
	"bytes"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
)

// wireForm is what the digest of an egress action is over: the canonical JSON
// (RFC 8785) of exactly this. Fields are sorted by name; values keep their order.
type wireForm struct {
	Version string      `json:"v"` // wireVersion
	Method  string      `json:"method"`
	Origin  string      `json:"origin"`
	Path    string      `json:"path"`
	Query   string      `json:"query"`
	Fields  [][2]string `json:"fields"`
	Body    string      `json:"body"` // digest of the body, of no bytes if there is none
	Size    int         `json:"size"`
}

const wireVersion = "sallyport/egress/1"

// outgoing builds the one request that will be sent. It is built before the
// decision and not touched after it, except by the Injector.
func outgoing(req action.Request, header http.Header, body []byte) *http.Request {
	scheme, host, _ := strings.Cut(req.Origin, "://")
	r := &http.Request{
		Method: req.Method,
		// Opaque is written as it is; Path would be escaped anew.
		URL:  &url.URL{Scheme: scheme, Host: host, Opaque: req.Path, RawQuery: req.Query},
		Host: host, Header: header,
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
	}
	if len(body) > 0 {
		// No GetBody: the transport cannot send a body twice.
		r.Body, r.ContentLength = io.NopCloser(bytes.NewReader(body)), int64(len(body))
	}
	return r
}

// wireDigest is computed when the action is made and again, over the same
// request value, when its permit is consumed.
func wireDigest(r *http.Request, body []byte) (action.Digest, error) {
	f := wireForm{Version: wireVersion, Method: r.Method, Origin: r.URL.Scheme + "://" + r.Host,
		Path: r.URL.Opaque, Query: r.URL.RawQuery, Body: string(canon.Digest(body)), Size: len(body), Fields: [][2]string{}}
	for n, values := range r.Header {
		for _, v := range values {
			f.Fields = append(f.Fields, [2]string{strings.ToLower(n), v})
		}
	}
	slices.SortStableFunc(f.Fields, func(a, b [2]string) int { return strings.Compare(a[0], b[0]) })
	return canon.DigestOf(f)
}

// Field names that are removed before deciding; see the package comment.
var (
	hopByHop = []string{"Connection", "Proxy-Connection", "Keep-Alive", "Te", "Trailer", "Transfer-Encoding", "Upgrade",
		"Http2-Settings", "Content-Length", "Host", "Expect", "Accept-Encoding"}
	intermediary = []string{"Forwarded", "X-Real-Ip", "Via", "X-Client-Ip", "True-Client-Ip", "Cf-Connecting-Ip"}
	overrides    = []string{"X-Http-Method-Override", "X-Method-Override", "X-Http-Method",
		"X-Original-Url", "X-Rewrite-Url", "X-Override-Url", "X-Original-Uri", "X-Original-Method", "X-Original-Host", "X-Host",
		"X-Http-Host-Override", "X-Http-Path-Override", "X-Envoy-Original-Path", "X-Sendfile-Type", "X-Accel-Mapping",
		// These choose the operation beside path and body, and no connector reads them.
		"Soapaction", "Next-Action"}
	brokered = []string{"Cookie", "Cookie2", "Authorization", "Range", "If-Range"}
)

// commands reports whether a field tells the application to do something else, or as
// somebody else, than path and body say, which no connector reads: all of AWS but
// what checks a body (a copy's source, an access list, an encryption key), and whom a
// cluster is asked as.
func commands(lower string) bool {
	return strings.HasPrefix(lower, "x-amz-") && !strings.HasPrefix(lower, "x-amz-checksum-") && lower != "x-amz-sdk-checksum-algorithm" ||
		strings.HasPrefix(lower, "impersonate-")
}

// checkHeader refuses what cannot be brought into one form. wire did it before
// for HTTP/1.1; HTTP/2 comes here only.
func checkHeader(h http.Header) string {
	n := 0
	for name, values := range h {
		if !isToken(name) {
			return "field_name"
		}
		for _, v := range values {
			if n++; n > maxFields {
				return "too_many_fields"
			}
			if !isFieldValue(v) {
				return "field_value"
			}
		}
		switch name {
		case "Content-Length", "Content-Type", "Content-Encoding", "Host", "Authorization", "User-Agent": // net/http sends one User-Agent
			if len(values) > 1 {
				return "field_twice"
			}
		}
	}
	// In HTTP/2, net/http reads a length that is no number as 0.
	if l, ok := h["Content-Length"]; ok && (l[0] == "" || strings.Trim(l[0], "0123456789") != "") {
		return "content_length"
	}
	// RFC 9110 section 7.6.1 lets a client have fields removed on the way. Only
	// those that are removed anyway may be named.
	for _, v := range h["Connection"] {
		for name := range strings.SplitSeq(v, ",") {
			switch strings.ToLower(strings.TrimSpace(name)) {
			case "", "close", "keep-alive", "upgrade", "te", "proxy-connection", "http2-settings":
			default:
				return "connection_names_field"
			}
		}
	}
	return ""
}

// clean applies the header policy. stripped names the overrides that were there.
func clean(in http.Header, rec Recognized) (out http.Header, stripped []string) {
	out = http.Header{}
	for name, values := range in {
		lower := strings.ToLower(name)
		switch {
		case slices.Contains(overrides, name), commands(lower):
			stripped = append(stripped, lower)
		case slices.Contains(hopByHop, name), slices.Contains(intermediary, name),
			strings.HasPrefix(lower, "proxy-"), strings.HasPrefix(lower, "x-forwarded"),
			strings.HasPrefix(lower, "sallyport-"), strings.HasPrefix(lower, "x-sallyport"):
		case strings.Contains(name, "_"):
			// Gateways read X_HTTP_METHOD as X-HTTP-METHOD.
			if n := strings.ReplaceAll(lower, "_", "-"); slices.Contains(overrides, http.CanonicalHeaderKey(n)) || commands(n) {
				stripped = append(stripped, lower)
			}
		case !rec.OwnCredentials && slices.Contains(brokered, name):
		default:
			out[name] = slices.Clone(values)
		}
	}
	// gzip is undone here, so that secrets can be found in responses.
	out.Set("Accept-Encoding", "gzip")
	if out.Get("User-Agent") == "" {
		out["User-Agent"] = nil // net/http sends no empty one, and adds its own where there is none
	}
	slices.Sort(stripped)
	return out, stripped
}

// noReplay renames the fields that make net/http send a write again after a
// broken connection. Names are case-insensitive for everybody else.
func noReplay(h http.Header) {
	for _, n := range []string{"Idempotency-Key", "X-Idempotency-Key"} {
		if v, ok := h[n]; ok {
			delete(h, n)
			h[strings.ToLower(n)] = v
		}
	}
}
