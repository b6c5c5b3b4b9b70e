package egress

import (
	"bytes"
	"compress/gzip"
	"compress/zlib"
	"io"
	"net/http"
	"strings"
)

// plainBody undoes the one encoding that a request body may have, so that it is
// decided on and sent as what it is. The field is taken away. One layer of gzip
// (RFC 1952, one member) or of zlib (RFC 1950, which HTTP calls deflate) is
// undone; other encodings, several, bytes behind the end, and more than limit
// bytes are refused: an origin may read them in another way, or not at all.
func plainBody(h http.Header, body []byte, limit int64) ([]byte, string) {
	encoding := strings.ToLower(h.Get("Content-Encoding"))
	src := bytes.NewReader(body) // a ByteReader: what is read ends where the stream ends
	var z io.Reader
	switch encoding {
	case "", "identity":
		h.Del("Content-Encoding")
		return body, ""
	case "gzip", "x-gzip":
		g, err := gzip.NewReader(src)
		if err != nil {
			return body, "body_encoding_broken"
		}
		g.Multistream(false)
		z = g
	case "deflate":
		d, err := zlib.NewReader(src)
		if err != nil {
			return body, "body_encoding_broken"
		}
		z = d
	default:
		return body, "body_encoded"
	}
	plain, err := io.ReadAll(io.LimitReader(z, limit+1))
	switch {
	case err != nil:
		return body, "body_encoding_broken"
	case int64(len(plain)) > limit:
		return body, "body_too_large"
	case src.Len() > 0:
		return body, "body_encoding_broken"
	}
	h.Del("Content-Encoding")
	return plain, ""
}
