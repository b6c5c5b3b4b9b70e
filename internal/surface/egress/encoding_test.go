package egress

import (
	"bytes"
	"compress/flate"
	"compress/gzip"
	"compress/zlib"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
)

func zipped(t testing.TB, encoding string, plain []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	var w io.WriteCloser
	switch encoding {
	case "gzip":
		w = gzip.NewWriter(&b)
	case "deflate":
		w = zlib.NewWriter(&b)
	default:
		w, _ = flate.NewWriter(&b, 9)
	}
	if _, err := w.Write(plain); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// TestCompressedBody: what is decided, recorded and sent is the plain body.
func TestCompressedBody(t *testing.T) {
	plain := []byte(`{"user":"jo"}`)
	for _, encoding := range []string{"gzip", "x-gzip", "deflate", "identity", "GZIP"} {
		for _, h2 := range []bool{false, true} {
			o := newOrigin(t, true, nil)
			var decided []byte
			r := newRig(t, o, nil, func(c *Config) {
				c.Connectors = connectors(func(q action.Request, body []byte) (Recognized, error) {
					decided = bytes.Clone(body)
					return allow(o.name())(q, body)
				})
			})
			body := plain
			if encoding != "identity" {
				body = zipped(t, strings.TrimPrefix(strings.ToLower(encoding), "x-"), plain)
			}
			req, _ := http.NewRequest("POST", o.name()+"/w", bytes.NewReader(body))
			req.Header.Set("Content-Encoding", encoding)
			req.Header.Set("Content-Type", "application/json")
			resp, err := r.client(h2).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			read(t, resp)
			got, d := o.one(t), r.last(t).Action
			if !bytes.Equal(got.Body, plain) || !bytes.Equal(decided, plain) || got.Header.Get("Content-Encoding") != "" ||
				d.Request.BodyDigest != canon.Digest(plain) || d.Digest != receivedDigest(t, o.name(), got) {
				t.Errorf("%s: decided %q, recorded %+v, sent %+v", encoding, decided, d.Request, got)
			}
		}
	}
}

// TestCompressedTricks: what two servers would decompress differently, or one of
// them not at all, is refused.
func TestCompressedTricks(t *testing.T) {
	gz := zipped(t, "gzip", []byte("user=jo"))
	bomb := zipped(t, "gzip", make([]byte, DefaultMaxBody+1))
	for name, tc := range map[string]struct {
		encoding, code string
		body           []byte
	}{
		"brotli":          {"br", "body_encoded", []byte("\x8b\x03\x80user=jo\x03")},
		"zstd":            {"zstd", "body_encoded", []byte("\x28\xb5\x2f\xfd")},
		"compress":        {"compress", "body_encoded", []byte("x")},
		"unknown":         {"x", "body_encoded", []byte("x")},
		"aes128gcm":       {"aes128gcm", "body_encoded", []byte("x")},
		"twice":           {"gzip, gzip", "body_encoded", zipped(t, "gzip", gz)},
		"list":            {"identity, gzip", "body_encoded", gz},
		"empty_in_list":   {"gzip,", "body_encoded", gz},
		"gzip_in_gzip":    {"gzip", "", zipped(t, "gzip", gz)}, // one layer: what is inside is decided on as it is
		"not_gzip":        {"gzip", "body_encoding_broken", []byte("user=jo")},
		"zlib_as_gzip":    {"gzip", "body_encoding_broken", zipped(t, "deflate", []byte("user=jo"))},
		"raw_deflate":     {"deflate", "body_encoding_broken", zipped(t, "raw", []byte("user=jo"))},
		"cut":             {"gzip", "body_encoding_broken", gz[:len(gz)-3]},
		"wrong_sum":       {"gzip", "body_encoding_broken", append(bytes.Clone(gz[:len(gz)-8]), 1, 2, 3, 4, 7, 0, 0, 0)},
		"two_members":     {"gzip", "body_encoding_broken", append(bytes.Clone(gz), zipped(t, "gzip", []byte("&user=ana"))...)},
		"bytes_behind":    {"gzip", "body_encoding_broken", append(bytes.Clone(gz), "&user=ana"...)},
		"zlib_behind":     {"deflate", "body_encoding_broken", append(zipped(t, "deflate", []byte("user=jo")), 0)},
		"bomb":            {"gzip", "body_too_large", bomb},
		"bomb_of_zlib":    {"deflate", "body_too_large", zipped(t, "deflate", make([]byte, DefaultMaxBody+1))},
		"no_body":         {"gzip", "body_encoding_broken", nil},
		"upper_case_fine": {"GZip", "", gz},
	} {
		t.Run(name, func(t *testing.T) {
			o := newOrigin(t, false, nil)
			r := newRig(t, o, nil)
			req, _ := http.NewRequest("POST", o.name()+"/w", bytes.NewReader(tc.body))
			req.Header.Set("Content-Encoding", tc.encoding)
			resp, err := r.client(false).Do(req)
			if err != nil {
				t.Fatal(err)
			}
			read(t, resp)
			if tc.code == "" {
				if n := len(o.all()); n != 1 {
					t.Errorf("origin got %d requests (%s)", n, resp.Header.Get("Sallyport-Decision"))
				}
				return
			}
			wantDenied(t, resp.StatusCode, resp.Header, tc.code)
			if d := r.last(t); d.Action.Operation != "egress.malformed" || len(o.all()) != 0 {
				t.Errorf("recorded %+v, origin %+v", d.Action, o.all())
			}
		})
	}
}

// FuzzEncoding: what comes out is what compress/gzip reads of the whole input,
// and nothing of the input is left over.
func FuzzEncoding(f *testing.F) {
	f.Add(true, zipped(f, "gzip", []byte("user=jo")))
	f.Add(false, zipped(f, "deflate", []byte("user=jo")))
	f.Fuzz(func(t *testing.T, isGzip bool, body []byte) {
		h := http.Header{"Content-Encoding": {"deflate"}}
		if isGzip {
			h.Set("Content-Encoding", "gzip")
		}
		got, code := plainBody(h, body, 1<<16)
		if code != "" {
			return
		}
		var z io.Reader
		var err error
		if isGzip {
			z, err = gzip.NewReader(bytes.NewReader(body)) // reads all members
		} else {
			z, err = zlib.NewReader(bytes.NewReader(body))
		}
		if err != nil {
			t.Fatal(err)
		}
		want, err := io.ReadAll(z)
		if err != nil || !bytes.Equal(got, want) || h.Get("Content-Encoding") != "" || len(got) > 1<<16 {
			t.Fatalf("got %q, want %q (%v)", got, want, err)
		}
	})
}
