package connector

import (
	"bytes"
	"io"
	"maps"
	"mime"
	"mime/multipart"
	"net/textproto"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
)

// writeParts is the other direction of readParts, for a body that ends as tail.
func writeParts(boundary string, parts []part, tail string) []byte {
	var b bytes.Buffer
	for _, p := range parts {
		b.WriteString("--" + boundary + "\r\n" + partName + p.name + `"`)
		if p.file {
			b.WriteString(partFile + p.filename + `"`)
		}
		b.WriteString("\r\n")
		if p.media != "" {
			b.WriteString(partType + p.media + "\r\n")
		}
		b.WriteString("\r\n")
		b.Write(p.data)
		b.WriteString("\r\n")
	}
	b.WriteString("--" + boundary + "--" + tail)
	return b.Bytes()
}

func text(s string) *string { return &s }

func recognizer(t testing.TB, ops ...Operation) func(method, target, typ, body string) Match {
	t.Helper()
	set, err := NewSet(map[string]*Spec{"app": {
		Stages: map[action.Stage]Stage{action.Sandbox: {Origins: []Origin{{Name: "main", URL: "https://app.example"}}}},
		Reads:  ReadsAllow, Operations: ops}})
	if err != nil {
		t.Fatal(err)
	}
	return func(method, target, typ, body string) Match {
		t.Helper()
		path, query, _ := strings.Cut(target, "?")
		r := action.Request{Method: method, Origin: "https://app.example", Path: path, Query: query, BodyType: typ,
			BodySize: int64(len(body)), BodyDigest: canon.Digest([]byte(body))}
		m, err := set.Recognize(action.Sandbox, r, []byte(body))
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
}

var upload = Operation{Name: "app.file.upload", Method: "POST", Path: "/upload", Effect: action.Write,
	Body: &Body{Type: BodyMultipart, Fields: map[string]Field{"to": {Param: "to"}, "doc": {Param: "doc", Type: TypeFile},
		"icon": {Ignored: true, Type: TypeFile, Optional: true}, "_csrf": {Ignored: true, Optional: true}}}}

// TestMultipart: what a browser, curl and net/http write is read, with the name,
// size and digest of each file.
func TestMultipart(t *testing.T) {
	recognize := recognizer(t, upload)
	want := map[string]string{"to": "jö", "doc": string(canon.Digest([]byte("a\r\n--b"))), "docName": "r é.txt", "docSize": "6", "docType": "text/plain"}
	check := func(name, typ, body string) {
		t.Helper()
		if m := recognize("POST", "/upload", typ, body); m.Operation != upload.Name || !maps.Equal(m.Params, want) {
			t.Errorf("%s: got %+v, want %v", name, m, want)
		}
	}
	var b bytes.Buffer
	w := multipart.NewWriter(&b)
	w.WriteField("to", "jö")
	p, _ := w.CreatePart(textproto.MIMEHeader{"Content-Disposition": {`form-data; name="doc"; filename="r é.txt"`}, "Content-Type": {"text/plain"}})
	io.WriteString(p, "a\r\n--b")
	w.Close()
	check("net_http", w.FormDataContentType(), b.String())
	for name, boundary := range map[string]string{"chromium": "----WebKitFormBoundaryA1b2C3d4E5f6G7h8", "firefox": "----geckoformboundary0a1b", "curl": "------------------------0a1b2c3d4e5f6a7b"} {
		parts := []part{{name: "to", data: []byte("jö")}, {name: "doc", file: true, filename: "r é.txt", media: "text/plain", data: []byte("a\r\n--b")},
			{name: "icon", file: true, media: "application/octet-stream"}}
		check(name, "multipart/form-data; boundary="+boundary, string(writeParts(boundary, parts, "\r\n")))
	}
	all, required := upload.Params()
	if got := strings.Join(all, " "); got != "doc docName docSize docType to" || len(required) != 5 {
		t.Errorf("parameters %s, required %v", got, required)
	}
}

// TestMultipartTricks: each is one body to one server and another to the next.
//
// Threats: T19 (guardrail)
func TestMultipartTricks(t *testing.T) {
	recognize := recognizer(t, upload,
		Operation{Name: "app.loose", Method: "POST", Path: "/loose", Effect: action.Write,
			Body: &Body{Type: BodyMultipart, AllowExtra: true, Fields: map[string]Field{"to": {Param: "to", Optional: true}}}})
	const typ = "multipart/form-data; boundary=b"
	to := "--b\r\n" + partName + "to\"\r\n\r\njo\r\n"
	doc := "--b\r\n" + partName + "doc\"; filename=\"a.txt\"\r\n" + partType + "text/plain\r\n\r\nx\r\n"
	file := func(head string) string { return to + "--b\r\n" + head + "\r\n\r\nx\r\n--b--\r\n" }
	const end = "--b--\r\n"
	if m := recognize("POST", "/upload", typ, to+doc+end); !m.Matched {
		t.Fatalf("the plain form is not read: %+v", m)
	}
	for name, tc := range map[string]struct{ path, typ, body, code string }{
		"field_twice":            {"/upload", typ, to + to + doc + end, "duplicate_field"},
		"file_twice":             {"/upload", typ, to + doc + doc + end, "duplicate_field"},
		"text_and_file_one_name": {"/upload", typ, to + doc + strings.Replace(doc, `"doc"`, `"to"`, 1) + end, "duplicate_field"},
		"file_as_text":           {"/upload", typ, to + "--b\r\n" + partName + "doc\"\r\n\r\nx\r\n" + end, "field_type"},
		"text_as_file":           {"/upload", typ, doc + strings.Replace(doc, `"doc"`, `"to"`, 1) + end, "field_type"},
		"ignored_text_as_file":   {"/upload", typ, to + doc + strings.Replace(doc, `"doc"`, `"_csrf"`, 1) + end, "field_type"},
		"file_missing":           {"/upload", typ, to + end, "missing_field"},
		"extra_field":            {"/upload", typ, to + doc + strings.Replace(to, `"to"`, `"role"`, 1) + end, "unknown_field"},
		"preamble":               {"/upload", typ, "x\r\n" + to + doc + end, "multipart_syntax"},
		"leading_crlf":           {"/upload", typ, "\r\n" + to + doc + end, "multipart_syntax"},
		"epilogue":               {"/upload", typ, to + doc + end + to, "multipart_syntax"},
		"epilogue_text":          {"/upload", typ, to + doc + end + "x", "multipart_syntax"},
		"no_end":                 {"/upload", typ, to + doc, "multipart_syntax"},
		"two_ends":               {"/upload", typ, to + end + doc + end, "multipart_syntax"},
		"end_with_blank":         {"/upload", typ, to + doc + "--b-- \r\n", "multipart_syntax"},
		"boundary_with_blank":    {"/upload", typ, "--b \r\n" + to[5:] + doc + end, "multipart_syntax"},
		"boundary_longer":        {"/upload", typ, to + "--bb\r\n" + doc[5:] + end, "multipart_syntax"},
		"boundary_in_value":      {"/upload", typ, strings.Replace(to, "jo", "jo--b", 1) + doc + end, "multipart_syntax"},
		"boundary_in_value_lf":   {"/upload", typ, strings.Replace(to, "jo", "jo\n--b\n"+partName+"to\"\n\nana", 1) + doc + end, "multipart_syntax"},
		"boundary_in_file":       {"/upload", typ, to + strings.Replace(doc, "x\r\n", "x\n--b\r\nContent-Disposition: form-data; name=\"to\"\r\n\r\nana\r\n", 1) + end, "multipart_syntax"},
		"bare_lf":                {"/upload", typ, strings.ReplaceAll(to+doc+end, "\r\n", "\n"), "multipart_syntax"},
		"lf_in_head":             {"/upload", typ, file("Content-Disposition: form-data; name=\"doc\"\nX: 1"), "multipart_head"},
		"boundary_quoted_blank":  {"/upload", `multipart/form-data; boundary="b "`, to + doc + end, "content_type"},
		"boundary_quoted_other":  {"/upload", `multipart/form-data; boundary="b;c"`, to + doc + end, "content_type"},
		"boundary_twice":         {"/upload", "multipart/form-data; boundary=b; boundary=c", to + doc + end, "content_type"},
		"boundary_twice_case":    {"/upload", "multipart/form-data; boundary=c; Boundary=b", to + doc + end, "content_type"},
		"boundary_extended":      {"/upload", "multipart/form-data; boundary*=utf-8''b", to + doc + end, "content_type"},
		"boundary_continued":     {"/upload", "multipart/form-data; boundary*0=b", to + doc + end, "content_type"},
		"boundary_missing":       {"/upload", "multipart/form-data", to + doc + end, "content_type"},
		"boundary_empty":         {"/upload", "multipart/form-data; boundary=", to + doc + end, "content_type"},
		"boundary_and_charset":   {"/upload", typ + "; charset=utf-7", to + doc + end, "content_type"},
		"boundary_unusual":       {"/upload", "multipart/form-data; boundary=b*b", strings.ReplaceAll(to+doc+end, "--b", "--b*b"), "multipart_boundary"},
		"boundary_long":          {"/upload", "multipart/form-data; boundary=" + strings.Repeat("b", 71), "", "multipart_boundary"},
		"other_multipart":        {"/upload", "multipart/mixed; boundary=b", to + doc + end, "content_type"},
		"filename_star":          {"/upload", typ, file(`Content-Disposition: form-data; name="doc"; filename*=UTF-8''b.exe`), "multipart_head"},
		"filename_and_star":      {"/upload", typ, file(`Content-Disposition: form-data; name="doc"; filename="a.txt"; filename*=UTF-8''b.exe`), "multipart_head"},
		"filename_continued":     {"/upload", typ, file(`Content-Disposition: form-data; name="doc"; filename*0="a"; filename*1=".exe"`), "multipart_head"},
		"filename_twice":         {"/upload", typ, file(`Content-Disposition: form-data; name="doc"; filename="a.txt"; filename="b.exe"`), "multipart_head"},
		"filename_unquoted":      {"/upload", typ, file(`Content-Disposition: form-data; name="doc"; filename=a.txt`), "multipart_head"},
		"filename_escape":        {"/upload", typ, file(`Content-Disposition: form-data; name="doc"; filename="a\".exe"`), "multipart_head"},
		"filename_percent":       {"/upload", typ, file(`Content-Disposition: form-data; name="doc"; filename="a%22.txt"`), "multipart_filename"},
		"filename_path":          {"/upload", typ, file(`Content-Disposition: form-data; name="doc"; filename="../../etc/cron.d/x"`), "multipart_filename"},
		"filename_dots":          {"/upload", typ, file(`Content-Disposition: form-data; name="doc"; filename=".."`), "multipart_filename"},
		"filename_drive":         {"/upload", typ, file(`Content-Disposition: form-data; name="doc"; filename="C:x.exe"`), "multipart_filename"},
		"filename_stream":        {"/upload", typ, file(`Content-Disposition: form-data; name="doc"; filename="x.asp::$DATA"`), "multipart_filename"},
		"filename_bidi":          {"/upload", typ, file("Content-Disposition: form-data; name=\"doc\"; filename=\"a\u202etxt.exe\""), "multipart_filename"},
		"filename_nul":           {"/upload", typ, file("Content-Disposition: form-data; name=\"doc\"; filename=\"a.exe\x00.txt\""), "multipart_filename"},
		"filename_invalid_utf8":  {"/upload", typ, file("Content-Disposition: form-data; name=\"doc\"; filename=\"\xff\""), "multipart_filename"},
		"name_unquoted":          {"/upload", typ, file(`Content-Disposition: form-data; name=doc`), "multipart_head"},
		"name_star":              {"/upload", typ, file(`Content-Disposition: form-data; name*=UTF-8''doc`), "multipart_head"},
		"name_twice":             {"/upload", typ, file(`Content-Disposition: form-data; name="to"; name="doc"`), "multipart_head"},
		"name_escape":            {"/upload", typ, file(`Content-Disposition: form-data; name="d\oc"`), "multipart_head"},
		"name_percent":           {"/upload", typ, file(`Content-Disposition: form-data; name="%22doc"`), "multipart_head"},
		"name_empty":             {"/upload", typ, file(`Content-Disposition: form-data; name=""`), "multipart_head"},
		"no_disposition":         {"/upload", typ, file(`Content-Type: text/plain`), "multipart_head"},
		"attachment":             {"/upload", typ, file(`Content-Disposition: attachment; name="doc"`), "multipart_head"},
		"disposition_twice":      {"/upload", typ, file("Content-Disposition: form-data; name=\"doc\"\r\nContent-Disposition: form-data; name=\"to\""), "multipart_head"},
		"folded":                 {"/upload", typ, file("Content-Disposition: form-data; name=\"doc\";\r\n filename=\"a\""), "multipart_head"},
		"transfer_encoding":      {"/upload", typ, file("Content-Disposition: form-data; name=\"doc\"\r\nContent-Transfer-Encoding: base64"), "multipart_head"},
		"second_field":           {"/upload", typ, file("Content-Disposition: form-data; name=\"doc\"; filename=\"a\"\r\nContent-Type: text/plain\r\nX: 1"), "multipart_head"},
		"nested":                 {"/upload", typ, file("Content-Disposition: form-data; name=\"doc\"; filename=\"a\"\r\nContent-Type: multipart/mixed; boundary=c"), "multipart_nested"},
		"message":                {"/upload", typ, file("Content-Disposition: form-data; name=\"doc\"; filename=\"a\"\r\nContent-Type: message/rfc822"), "multipart_nested"},
		"text_utf7":              {"/upload", typ, file("Content-Disposition: form-data; name=\"doc\"\r\nContent-Type: text/plain; charset=utf-7"), "charset"},
		"text_as_json":           {"/upload", typ, file("Content-Disposition: form-data; name=\"doc\"\r\nContent-Type: application/json"), "charset"},
		"text_invalid_utf8":      {"/upload", typ, strings.Replace(to, "jo", "\xff", 1) + doc + end, "form_encoding"},
		"text_nul":               {"/upload", typ, strings.Replace(to, "jo", "jo\x00ana", 1) + doc + end, "form_encoding"},
		"override":               {"/loose", typ, strings.Replace(to, `"to"`, `"_method"`, 1) + end, "method_override"},
		"override_case":          {"/loose", typ, strings.Replace(to, `"to"`, `"_METHOD[]"`, 1) + end, "method_override"},
		"charset_field":          {"/loose", typ, strings.Replace(to, `"to"`, `"_charset_"`, 1) + end, "charset"},
		"similar_case":           {"/loose", typ, to + strings.Replace(to, `"to"`, `"To"`, 1) + end, "similar_field"},
		"similar_array":          {"/loose", typ, to + strings.Replace(to, `"to"`, `"to[]"`, 1) + end, "similar_field"},
		"too_many":               {"/loose", typ, strings.Repeat(to, maxFields+1) + end, "too_many_fields"},
	} {
		t.Run(name, func(t *testing.T) {
			m := recognize("POST", tc.path, tc.typ, tc.body)
			if m.Matched || m.Effect != action.Write || m.Code != tc.code || m.Params != nil {
				t.Errorf("got %+v, want unmatched and %s", m, tc.code)
			}
		})
	}
}

// TestMultipartRoundTrip: any parts, written and read, are the same parts.
func TestMultipartRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		boundary := rapid.StringMatching(`[0-9A-Za-z_.-]{1,70}`).Draw(t, "boundary")
		var parts []part
		for range rapid.IntRange(0, 4).Draw(t, "parts") {
			p := part{name: rapid.StringMatching(`[a-zé\[\]. ]{1,9}`).Draw(t, "name"), data: []byte(rapid.StringMatching(`[a-z\r\n-]{0,40}`).Draw(t, "data"))}
			if p.file = rapid.Bool().Draw(t, "file"); p.file {
				p.filename, p.media = rapid.StringMatching(`([a-zé][a-z .]{0,9})?`).Draw(t, "filename"), rapid.SampledFrom([]string{"", "text/html", "image/png"}).Draw(t, "media")
				p.data = rapid.SliceOfN(rapid.Byte(), 0, 40).Draw(t, "bytes")
			}
			parts = append(parts, p)
		}
		body := writeParts(boundary, parts, "")
		got, ref := readParts(boundary, body)
		if ref != nil {
			for _, p := range parts {
				if bytes.Contains(append([]byte("\n"), p.data...), []byte("--"+boundary)) {
					return // its own fault
				}
			}
			if strings.Contains("--"+boundary, "--"+boundary+"-") || strings.Trim(boundary, "-") == "" {
				return
			}
			t.Fatalf("%q: %v", body, ref)
		}
		if again := writeParts(boundary, got, ""); !bytes.Equal(again, body) || len(got) != len(parts) {
			t.Fatalf("read %q, written %q", body, again)
		}
	})
}

// FuzzMultipart: what is accepted is byte for byte what its parts are written
// as, and mime/multipart, another reader, finds the same parts in it.
func FuzzMultipart(f *testing.F) {
	f.Add("multipart/form-data; boundary=b", []byte("--b\r\n"+partName+"to\"\r\n\r\njo\r\n--b--\r\n"))
	f.Add("multipart/form-data; boundary=\"b-1\"", []byte("--b-1\r\n"+partName+"d\"; filename=\"a.txt\"\r\n"+partType+"text/plain\r\n\r\n\x00\r\n--b-1--"))
	f.Fuzz(func(t *testing.T, typ string, body []byte) {
		media, params, ok := mediaType(typ)
		if !ok || media != "multipart/form-data" {
			return
		}
		parts, ref := readParts(params["boundary"], body)
		if ref != nil {
			return
		}
		tail := ""
		if bytes.HasSuffix(body, []byte("--\r\n")) {
			tail = "\r\n"
		}
		if again := writeParts(params["boundary"], parts, tail); !bytes.Equal(again, body) {
			t.Fatalf("read %q, written %q", body, again)
		}
		_, theirs, err := mime.ParseMediaType(typ)
		if err != nil || theirs["boundary"] != params["boundary"] {
			t.Fatalf("%q: boundary %q, mime reads %q (%v)", typ, params["boundary"], theirs["boundary"], err)
		}
		r := multipart.NewReader(bytes.NewReader(body), theirs["boundary"])
		for i := 0; ; i++ {
			p, err := r.NextRawPart()
			if err != nil {
				if i != len(parts) {
					t.Fatalf("%q: %d parts, mime reads %d: %v", body, len(parts), i, err)
				}
				return
			}
			data, err := io.ReadAll(p)
			if err != nil || i >= len(parts) || p.FormName() != parts[i].name || !bytes.Equal(data, parts[i].data) ||
				p.Header.Get("Content-Type") != parts[i].media {
				t.Fatalf("%q: part %d is %+v, mime reads %q %q (%v)", body, i, parts, p.Header, data, err)
			}
			if _, ps, _ := mime.ParseMediaType(p.Header.Get("Content-Disposition")); ps["filename"] != parts[i].filename {
				t.Fatalf("%q: file name %q, mime reads %q", body, parts[i].filename, ps["filename"])
			}
		}
	})
}

func TestFileLimits(t *testing.T) {
	recognize := recognizer(t, upload)
	to := "--b\r\n" + partName + "to\"\r\n\r\n"
	doc := "\r\n--b\r\n" + partName + "doc\"; filename=\"a\"\r\n\r\n"
	big := strings.Repeat("x", maxBody+1)
	if m := recognize("POST", "/upload", "multipart/form-data; boundary=b", to+"jo"+doc+big+"\r\n--b--"); m.Params["docSize"] != strconv.Itoa(maxBody+1) {
		t.Errorf("a large file: got %+v", m)
	}
	if m := recognize("POST", "/upload", "multipart/form-data; boundary=b", to+big+doc+"x\r\n--b--"); m.Code != "body_too_large" {
		t.Errorf("a large text: got %+v", m)
	}
}
