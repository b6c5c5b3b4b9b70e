package connector

import (
	"bytes"
	"strings"
	"unicode"
	"unicode/utf8"
)

// maxUpload bounds a multipart body in bytes; the text of its fields together
// is bounded by maxBody, as that of other bodies.
const maxUpload = 64 << 20

// part is one part of multipart/form-data (RFC 7578).
type part struct {
	name     string
	file     bool
	filename string
	media    string // Content-Type as sent; "" if it has none
	data     []byte
	at       int // of data in the body
}

const (
	partName = `Content-Disposition: form-data; name="`
	partFile = `; filename="`
	partType = `Content-Type: `
)

// readParts reads a body in the one spelling that browsers, curl and the common
// libraries write. Readers of multipart disagree about nearly everything else:
// preambles, white space after a boundary, bare LF, a boundary inside a part,
// folded or repeated or unknown fields, escapes, filename* (which RFC 7578
// section 4.2 forbids), encodings and nesting. All of it is refused, so that
// writing the parts gives the same bytes again.
func readParts(boundary string, body []byte) ([]part, *refusal) {
	if boundary == "" || len(boundary) > 70 || strings.Trim(boundary, boundaryBytes) != "" {
		return nil, refuse("multipart_boundary", "the boundary is missing or unusual")
	}
	if len(body) > maxUpload {
		return nil, refuse("body_too_large", "the body is larger than is read")
	}
	pieces := bytes.SplitN(body, []byte("--"+boundary), maxFields+3)
	last := string(pieces[len(pieces)-1])
	switch {
	case len(pieces) > maxFields+2:
		return nil, refuse("too_many_fields", "the form has too many fields")
	case len(pieces) < 2 || len(pieces[0]) > 0 || last != "--" && last != "--\r\n":
		return nil, refuse("multipart_syntax", "the body does not begin and end with the boundary")
	}
	parts := make([]part, 0, len(pieces)-2)
	text, pos := 0, 0 // pos is where the piece begins
	for _, b := range pieces[1 : len(pieces)-1] {
		pos += len("--") + len(boundary)
		rest, begins := bytes.CutPrefix(b, []byte("\r\n"))
		rest, ends := bytes.CutSuffix(rest, []byte("\r\n"))
		head, data, cut := bytes.Cut(rest, []byte("\r\n\r\n"))
		if !begins || !ends || !cut {
			return nil, refuse("multipart_syntax", "a part is not set off by lines of its own")
		}
		p, ref := readPartHead(string(head))
		if ref != nil {
			return nil, ref
		}
		p.data, p.at = data, pos+len("\r\n")+len(head)+len("\r\n\r\n")
		pos += len(b)
		if !p.file {
			if text += len(data); text > maxBody {
				return nil, refuse("body_too_large", "the fields are larger than is read")
			}
			if !utf8.Valid(data) || bytes.IndexByte(data, 0) >= 0 {
				return nil, refuse("form_encoding", "a form field is not text in UTF-8")
			}
		}
		parts = append(parts, p)
	}
	return parts, nil
}

const boundaryBytes = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_."

func readPartHead(head string) (part, *refusal) {
	var p part
	disposition, typ, typed := strings.Cut(head, "\r\n")
	rest, ok := strings.CutPrefix(disposition, partName)
	name, rest, closed := strings.Cut(rest, `"`)
	if !ok || !closed || !plainName(name) {
		return p, refuse("multipart_head", "a part has no plain name")
	}
	p.name = name
	if rest != "" {
		rest, ok = strings.CutPrefix(rest, partFile)
		p.filename, rest, closed = strings.Cut(rest, `"`)
		if !ok || !closed || rest != "" {
			return p, refuse("multipart_head", "a part says more than a name and a file name")
		}
		// Servers join it to a folder.
		if p.filename != "" && !plainName(p.filename) || strings.ContainsAny(p.filename, "/:") || strings.Trim(p.filename, ". ") == "" && p.filename != "" {
			return p, refuse("multipart_filename", "a file name could be read as another name or a path")
		}
		p.file = true
	}
	if !typed {
		return p, nil
	}
	p.media, ok = strings.CutPrefix(typ, partType)
	media, params, valid := mediaType(p.media)
	switch {
	case !ok || !valid:
		return p, refuse("multipart_head", "a part has a field other than its type")
	case strings.HasPrefix(media, "multipart/"), strings.HasPrefix(media, "message/"):
		return p, refuse("multipart_nested", "a part is a message of its own")
	case !inUTF8(params), !p.file && media != "text/plain":
		return p, refuse("charset", "a part is not plain text in UTF-8")
	}
	return p, nil
}

// plainName refuses what has a second reading inside quotes: backslashes, the
// escapes of WHATWG HTML section 4.10.21.8 (%22, %0D, %0A), which some servers
// undo, control characters and those that change how a name is shown.
func plainName(s string) bool {
	if s == "" || len(s) > 255 || !utf8.ValidString(s) || strings.ContainsAny(s, `\"`) {
		return false
	}
	upper := strings.ToUpper(s)
	for _, escape := range []string{"%22", "%0D", "%0A", "%00", "%5C", "%2F"} {
		if strings.Contains(upper, escape) {
			return false
		}
	}
	return strings.IndexFunc(s, func(r rune) bool { return unicode.In(r, unicode.Cc, unicode.Cf, unicode.Zl, unicode.Zp) }) < 0
}
