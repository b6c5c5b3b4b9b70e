package secrets

import (
	"bytes"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"html"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// search looks for secrets, by label, in every form in which one is likely to
// leak: as it is, URL-encoded, escaped for JSON and HTML, hexadecimal, and
// base64 of both alphabets at each of the three alignments.
type search struct {
	forms map[string][][]byte
	// found says where what was found, without it.
	found []string
	bytes int64
	where int
}

func newSearch(secrets map[string]string) *search {
	s := &search{forms: map[string][][]byte{}}
	for label, v := range secrets {
		s.forms[label] = forms(v)
	}
	return s
}

func forms(v string) [][]byte {
	b := []byte(v)
	quoted, _ := json.Marshal(v) // a string always marshals
	out := [][]byte{b, []byte(url.QueryEscape(v)), []byte(url.PathEscape(v)), []byte(html.EscapeString(v)),
		quoted[1 : len(quoted)-1], []byte(hex.EncodeToString(b)), []byte(strings.ToUpper(hex.EncodeToString(b)))}
	for shift := range 3 {
		e := base64.RawStdEncoding.EncodeToString(append(make([]byte, shift), b...))
		// The characters that depend on the neighbours alone are left out.
		e = e[[3]int{0, 2, 3}[shift]:]
		e = e[:len(e)-[3]int{0, 1, 1}[(len(b)+shift)%3]]
		out = append(out, []byte(e), []byte(strings.NewReplacer("+", "-", "/", "_").Replace(e)))
	}
	slices.SortFunc(out, bytes.Compare)
	return slices.CompactFunc(out, bytes.Equal)
}

// in searches one place.
func (s *search) in(place string, b []byte) {
	s.bytes += int64(len(b))
	s.where++
	for label, fs := range s.forms {
		for _, f := range fs {
			if i := bytes.Index(b, f); i >= 0 {
				s.found = append(s.found, fmt.Sprintf("%s in %s at byte %d", label, place, i))
				break
			}
		}
	}
}

// files searches every file under a folder.
func (s *search) files(t testing.TB, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return nil // gone meanwhile, or not a file
		}
		if b, err := os.ReadFile(path); err == nil {
			s.in(path, b)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestSearchFindsWhatIsPlanted: each form, at each alignment, inside other text.
func TestSearchFindsWhatIsPlanted(t *testing.T) {
	const secret = `pw "4&7" <ö>/+?=%: 0123456789abcdef`
	for name, encode := range map[string]func(string) string{
		"raw":        func(s string) string { return s },
		"query":      url.QueryEscape,
		"path":       url.PathEscape,
		"html":       html.EscapeString,
		"json":       func(s string) string { b, _ := json.Marshal(map[string]string{"k": s}); return string(b) },
		"hex":        func(s string) string { return hex.EncodeToString([]byte(s)) },
		"HEX":        func(s string) string { return fmt.Sprintf("%X", s) },
		"base64":     func(s string) string { return base64.StdEncoding.EncodeToString([]byte(s)) },
		"base64url":  func(s string) string { return base64.URLEncoding.EncodeToString([]byte(s)) },
		"base64 raw": func(s string) string { return base64.RawURLEncoding.EncodeToString([]byte(s)) },
	} {
		for pad := range 6 {
			before, after := strings.Repeat("é", pad/2)+strings.Repeat("x", pad%2), strings.Repeat("z", pad)
			s := newSearch(map[string]string{"it": secret})
			text := "PNG\x00..." + encode(before+secret+after) + "...end"
			s.in("text", []byte(text))
			if len(s.found) != 1 {
				t.Errorf("%s, %d bytes before: found %d times in %q", name, len(before), len(s.found), text)
			}
			s = newSearch(map[string]string{"it": secret})
			s.in("text", []byte(strings.ReplaceAll(text, "7", "8")+encode(strings.ToUpper(secret))))
			if len(s.found) != 0 && !strings.Contains(name, "b") && !strings.Contains(strings.ToLower(name), "hex") {
				t.Errorf("%s: found where it is not: %q", name, s.found)
			}
		}
	}
}
