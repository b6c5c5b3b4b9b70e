package readiness

import (
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"html/template"
	"io"
	"slices"
	"strings"
	"time"
)

//go:embed report.html
var htmlText string

//go:embed report.css
var cssText string

// htmlReport is parsed once; html/template escapes every text by where it
// stands. What is written into it may come from a page.
var htmlReport = template.Must(template.New("report").Funcs(template.FuncMap{
	"stamp": stamp, "short": short, "plain": plain, "dash": dash, "upper": strings.ToUpper,
	"join":     func(s []string) string { return strings.Join(s, ", ") },
	"sentence": sentence,
	"age":      func(r Result) string { return r.oldness() },
	"date":     func(t time.Time) string { return dateOnly(t) },
	"seqs":     func(f Finding) string { return positions(f.Records, f.Count) },
	"control":  func(id string) catalogueControl { c, _ := control(id); return c },
}).Parse(htmlText))

func dateOnly(t time.Time) string {
	if t.IsZero() {
		return "–"
	}
	return t.UTC().Format("2 January 2006, 15:04 UTC")
}

// HTML writes the report as one file that loads nothing and runs nothing: its
// content policy allows the one style sheet in it, by digest.
func (r *Report) HTML(w io.Writer) error {
	sum := sha256.Sum256([]byte(cssText))
	return htmlReport.Execute(w, struct {
		*Report
		CSS    template.CSS
		Policy string
		Table  []mappingRow
		Tally  string
		Log    string
	}{r, template.CSS(cssText), "default-src 'none'; style-src 'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'; base-uri 'none'; form-action 'none'",
		r.table(), r.tally(), r.Ledger.sentence()})
}

// mappingRow is one condition in the table of frameworks.
type mappingRow struct {
	Number   int
	Title    string
	Controls []string
	Cells    [][]string // in the order of Report.Frameworks, in pieces that stay on one line
}

func (r *Report) table() []mappingRow {
	var out []mappingRow
	for _, c := range r.Conditions {
		row := mappingRow{Number: c.Number, Title: c.Title, Controls: slices.Clone(c.Controls)}
		for _, f := range r.Frameworks {
			row.Cells = append(row.Cells, strings.SplitAfter(brief(c.Mapping[f.Key]), " "))
		}
		out = append(out, row)
	}
	return out
}
