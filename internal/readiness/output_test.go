package readiness_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"golang.org/x/net/html"

	"github.com/sallyport-dev/sallyport/internal/boundary"
	"github.com/sallyport-dev/sallyport/internal/readiness"
)

var update = flag.Bool("update", false, "write the golden files")

// still takes what differs from run to run out of a report.
func still(r *readiness.Report) {
	at := time.Date(2026, 11, 23, 9, 30, 0, 0, time.UTC)
	r.Generated, r.Ledger.Root, r.Ledger.Checkpoint = at, strings.Repeat("A", 43)+"=", ""
	for i := range r.Conditions {
		if r.Conditions[i].Age >= 0 {
			r.Conditions[i].Age, r.Conditions[i].Newest = 90*int64(i+1), at.Add(-time.Duration(i+1)*90*time.Second)
		}
		r.Conditions[i].Summary = moment.ReplaceAllString(r.Conditions[i].Summary, "2026-11-30 09:28 UTC")
		r.Conditions[i].Summary = date.ReplaceAllString(r.Conditions[i].Summary, "2027-05-23")
		for j := range r.Conditions[i].Findings {
			saw := &r.Conditions[i].Findings[j].Saw
			*saw = rfc3339.ReplaceAllString(*saw, "2026-11-23T09:29:00Z")
		}
		r.Conditions[i].Summary = rfc3339.ReplaceAllString(r.Conditions[i].Summary, "2026-11-23T09:29:00Z")
	}
	if r.Certification != nil {
		r.Certification.Expires = at.Add(7 * 24 * time.Hour)
	}
	if r.Lapse != nil {
		r.Lapse.At = at.Add(-time.Minute)
	}
}

var (
	moment  = regexp.MustCompile(`\d{4}-\d{2}-\d{2} \d{2}:\d{2} UTC`)
	rfc3339 = regexp.MustCompile(`\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z`)
	date    = regexp.MustCompile(`20\d{2}-\d{2}-\d{2}\b(;)`)
)

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs (run with -update if that is meant):\n%s", path, got)
	}
}

func TestText(t *testing.T) {
	s := newStory(t)
	s.tell()
	w := s.world()
	w.ReviewBy = "2100-05-31"
	ready := evaluate(t, source{s, w}, readiness.Options{Probe: true})
	b := breakable(t, s)
	b.dropAt(b.last("lease.revoked"))
	b.lapse()
	b.drift()
	b.w.ReviewBy, b.w.Live, b.w.Owner, b.w.Demo, b.w.Scripted = "2100-05-31", nil, "", true, true
	b.close()
	not := evaluate(t, b, readiness.Options{})
	for name, r := range map[string]*readiness.Report{"ready.txt": ready, "not-ready.txt": not} {
		still(r)
		got := text(t, r)
		golden(t, name, got)
		for i, l := range strings.Split(got, "\n") {
			if n := utf8.RuneCountInString(l); n > 100 {
				t.Errorf("%s:%d has %d columns", name, i+1, n)
			}
		}
		if !strings.HasPrefix(got, r.Decision) {
			t.Errorf("%s does not start with the decision", name)
		}
	}
}

const hostile = "\"'><script>alert(1)</script><img src=x onerror=alert(1)><style>*{display:none}</style>javascript:alert(1)\x1b[2J\r\n\u202e{{.}}</textarea><!--"

// spoil puts the hostile text into every string that can be reached.
func spoil(v reflect.Value) {
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			spoil(v.Elem())
		}
	case reflect.Struct:
		for i := range v.NumField() {
			if v.Type() != reflect.TypeFor[time.Time]() {
				spoil(v.Field(i))
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			spoil(v.Index(i))
		}
	case reflect.Map:
		for _, k := range v.MapKeys() {
			e := reflect.New(v.Type().Elem()).Elem()
			e.Set(v.MapIndex(k))
			spoil(e)
			v.SetMapIndex(k, e)
		}
	case reflect.String:
		v.SetString(hostile)
	}
}

// inert fails if a document holds anything but the elements and attributes of
// the template, or its text could run.
func inert(t *testing.T, doc []byte) {
	t.Helper()
	allowed := "html head meta title style body main section div h1 h2 h3 br p nav a span dl dt dd strong article header ul li table thead tbody tr th td pre footer"
	attributes := "lang charset http-equiv content name class href id colspan"
	z := html.NewTokenizer(bytes.NewReader(doc))
	styles := 0
	for {
		switch z.Next() {
		case html.ErrorToken:
			if styles != 1 {
				t.Errorf("got %d style sheets, want 1", styles)
			}
			return
		case html.CommentToken:
			t.Errorf("comment: %q", z.Token().Data)
		case html.StartTagToken, html.SelfClosingTagToken:
			tok := z.Token()
			if !strings.Contains(" "+allowed+" ", " "+tok.Data+" ") {
				t.Errorf("element %q", tok.Data)
			}
			if tok.Data == "style" {
				styles++
			}
			for _, a := range tok.Attr {
				if !strings.Contains(" "+attributes+" ", " "+a.Key+" ") {
					t.Errorf("<%s %s=%q>", tok.Data, a.Key, a.Val)
				}
				if a.Key == "href" && !regexp.MustCompile(`^#c\d+$`).MatchString(a.Val) {
					t.Errorf("link to %q", a.Val)
				}
			}
		}
	}
}

func TestHostileTextStaysText(t *testing.T) {
	s := newStory(t)
	s.tell()
	b := breakable(t, s)
	// By way of the system: what pages, people and providers can write.
	b.w.Purpose, b.w.Owner, b.w.TierWhy, b.w.ReviewBy, b.w.Retention = hostile, hostile, hostile, hostile, hostile
	b.w.Conflicts, b.w.Containment = []string{hostile}, hostile
	b.w.People[0].Name = hostile
	b.fact("model.id", func(f *boundary.Fact) {
		f.Value, f.Source, f.Owner, f.Grade = hostile, hostile, hostile, boundary.Grade(hostile)
	})
	b.declare("model.location", hostile)
	b.problems = []string{hostile}
	in(b.last("action.decided", op("tickets.ticket.close")).body, "action")["operation"] = hostile
	b.last("identity.issued").body["subject"] = hostile
	b.lapse()
	in(b.last("certification.lapsed").body, "lapse")["changes"] = []any{map[string]any{"name": hostile, "old": hostile, "new": hostile}}
	b.close()
	first := evaluate(t, b, readiness.Options{Probe: true})

	// By way of the report itself, every field of it.
	second := evaluate(t, b, readiness.Options{Probe: true})
	second.Certification, second.Lapse = &readiness.Certified{Approvers: []string{""}}, &readiness.Lapsed{Changes: []boundary.Change{{}, {}}}
	second.Probed, second.Probes = true, []readiness.ProbeResult{{}}
	second.Markings = []string{""}
	spoil(reflect.ValueOf(second).Elem())
	for i := range second.Conditions { // ids are ours: a foreign one has no title to show
		second.Conditions[i].Controls = first.Conditions[i].Controls
	}
	for name, r := range map[string]*readiness.Report{"system": first, "report": second} {
		t.Run(name, func(t *testing.T) {
			var page, plain bytes.Buffer
			if err := r.HTML(&page); err != nil {
				t.Fatal(err)
			}
			inert(t, page.Bytes())
			if !bytes.Contains(page.Bytes(), []byte("&lt;script&gt;")) {
				t.Error("the hostile text is not in the page at all")
			}
			if err := r.Text(&plain); err != nil {
				t.Fatal(err)
			}
			if strings.ContainsAny(plain.String(), "\x1b\r\u202e") {
				t.Error("control characters reach the terminal")
			}
			for _, f := range []func(*bytes.Buffer) error{func(b *bytes.Buffer) error { return r.JSON(b) }, func(b *bytes.Buffer) error { return r.OSCAL(b) }} {
				var out bytes.Buffer
				if err := f(&out); err != nil {
					t.Fatal(err)
				}
				if !json.Valid(out.Bytes()) || bytes.Contains(out.Bytes(), []byte("<script")) {
					t.Error("JSON is not safe to embed")
				}
			}
		})
	}
}

func TestPageLoadsNothing(t *testing.T) {
	s := newStory(t)
	s.tell()
	var b bytes.Buffer
	if err := evaluate(t, source{s, s.world()}, readiness.Options{}).HTML(&b); err != nil {
		t.Fatal(err)
	}
	inert(t, b.Bytes())
	page := b.String()
	if !strings.Contains(page, `content="default-src &#39;none&#39;; style-src &#39;sha256-`) {
		t.Error("the content policy is missing")
	}
	for _, bad := range []string{"url(", "@import", "<link", "<script", "src="} {
		if strings.Contains(page, bad) {
			t.Errorf("the page has %s", bad)
		}
	}
	if !strings.Contains(page, "READY") || strings.Contains(page, "NOT READY") {
		t.Error("the decision is not there")
	}
}

func TestJSON(t *testing.T) {
	s := newStory(t)
	s.tell()
	var b bytes.Buffer
	if err := evaluate(t, source{s, s.world()}, readiness.Options{}).JSON(&b); err != nil {
		t.Fatal(err)
	}
	var got struct {
		Schema, Decision string
		Ready            bool
		Conditions       []struct {
			ID, State string
			Findings  []struct {
				Saw     string
				Records []int64
			}
			Mapping map[string][]string
		}
		Ledger struct {
			Size     int64
			Verified bool
		}
	}
	if err := json.Unmarshal(b.Bytes(), &got); err != nil {
		t.Fatal(err)
	}
	if got.Schema != readiness.Schema || !got.Ready || got.Decision != "READY" || len(got.Conditions) != 10 || !got.Ledger.Verified {
		t.Errorf("got %+v", got)
	}
	for _, c := range got.Conditions {
		n := 0
		for _, f := range c.Findings {
			n += len(f.Records)
			for _, seq := range f.Records {
				if seq < 0 || seq >= got.Ledger.Size {
					t.Errorf("%s cites record %d, which the checkpoint over %d does not cover", c.ID, seq, got.Ledger.Size)
				}
			}
		}
		if n == 0 {
			t.Errorf("%s passes without a record", c.ID)
		}
		for _, f := range []string{"owasp_asi", "csa_maestro", "ai_rmf", "csf"} {
			// The catalogue's controls on separation of duties name no layer of MAESTRO.
			if len(c.Mapping[f]) == 0 && (c.ID != "separation" || f != "csa_maestro") {
				t.Errorf("%s maps to nothing in %s", c.ID, f)
			}
		}
	}
}

func TestOSCAL(t *testing.T) {
	s := newStory(t)
	s.tell()
	r := evaluate(t, source{s, s.world()}, readiness.Options{})
	var b, again bytes.Buffer
	if err := r.OSCAL(&b); err != nil {
		t.Fatal(err)
	}
	if err := r.OSCAL(&again); err != nil || again.String() != b.String() {
		t.Error("the same report gives another document")
	}
	var doc struct {
		AR struct {
			UUID     string
			Metadata map[string]any
			Results  []struct {
				Observations []struct {
					UUID     string
					Methods  []string
					Evidence []struct{ Description string } `json:"relevant-evidence"`
				}
				Findings []struct {
					UUID   string
					Target struct {
						ID     string `json:"target-id"`
						Status struct{ State string }
					}
					Related []map[string]string `json:"related-observations"`
				}
			}
		} `json:"assessment-results"`
	}
	if err := json.Unmarshal(b.Bytes(), &doc); err != nil {
		t.Fatal(err)
	}
	res := doc.AR.Results[0]
	if len(res.Observations) != 10 || len(res.Findings) != 10 {
		t.Fatalf("got %d observations and %d findings", len(res.Observations), len(res.Findings))
	}
	form := regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-5[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)
	seen := map[string]bool{}
	for i, o := range res.Observations {
		f := res.Findings[i]
		for _, u := range []string{o.UUID, f.UUID} {
			if !form.MatchString(u) || seen[u] {
				t.Errorf("uuid %q", u)
			}
			seen[u] = true
		}
		if f.Target.Status.State != "satisfied" || f.Related[0]["observation-uuid"] != o.UUID || len(o.Evidence) == 0 {
			t.Errorf("got %+v", f)
		}
	}
}

// members lists every member of the JSON form.
func members(out *[]string, path string, v reflect.Type) {
	switch {
	case v == reflect.TypeFor[time.Time]():
		*out = append(*out, path+" time")
	case v.Kind() == reflect.Pointer:
		members(out, path, v.Elem())
	case v.Kind() == reflect.Slice:
		members(out, path+"[]", v.Elem())
	case v.Kind() == reflect.Map:
		members(out, path+"{}", v.Elem())
	case v.Kind() == reflect.Struct:
		for i := range v.NumField() {
			name, option, _ := strings.Cut(v.Field(i).Tag.Get("json"), ",")
			if option != "" {
				name += "?"
			}
			members(out, path+"."+name, v.Field(i).Type)
		}
	default:
		*out = append(*out, path+" "+v.Kind().String())
	}
}

// The form of the report is a promise: this file may grow, and nothing in it may
// change or go.
func TestSchemaOnlyGrows(t *testing.T) {
	var got []string
	members(&got, "", reflect.TypeFor[readiness.Report]())
	golden(t, "members.txt", readiness.Schema+"\n"+strings.Join(got, "\n")+"\n")
}
