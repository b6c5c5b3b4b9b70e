package readiness

import (
	"bufio"
	"fmt"
	"io"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

const columns = 100

// Text writes the report for a terminal of 100 columns, the decision first.
// Control characters in what it shows are replaced.
func (r *Report) Text(w io.Writer) error {
	b := bufio.NewWriter(w)
	p := printer{b}
	p.head(r)
	for _, c := range r.Conditions {
		p.condition(c)
	}
	p.probes(r)
	p.mapping(r)
	return b.Flush()
}

type printer struct{ w *bufio.Writer }

func (p printer) line(format string, args ...any) {
	s := strings.TrimRight(plain(fmt.Sprintf(format, args...)), " ")
	p.w.WriteString(s + "\n")
}

func (p printer) head(r *Report) {
	left := r.Decision + "   agent " + r.Agent + " in " + r.Stage
	right := "tenant " + r.Tenant
	gap := max(2, columns-utf8.RuneCountInString(left)-utf8.RuneCountInString(right))
	p.line("%s%s%s", left, strings.Repeat(" ", gap), right)
	p.line("%s", strings.Repeat("=", columns))
	for _, m := range r.Markings {
		p.line("*** %s ***", strings.ToUpper(m))
	}
	if len(r.Markings) > 0 {
		p.line("")
	}
	p.field("Conditions", r.tally())
	p.field("Purpose", r.Purpose)
	p.field("Owner", fmt.Sprintf("%s, deputy %s", dash(r.Owner), dash(r.Deputy)))
	p.field("Tier", r.Tier+": "+r.TierWhy)
	if c := r.Certification; c != nil {
		p.field("Certification", fmt.Sprintf("%s, until %s; suite %s, %d of %d trials; approved by %s", c.ID, stamp(c.Expires), c.Suite, c.Passed, c.Trials, list(c.Approvers, "and")))
		p.field("Boundary", string(c.Boundary))
	} else {
		p.field("Certification", "none in force")
	}
	if l := r.Lapse; l != nil {
		p.field("Lapsed", l.sentence())
		for _, c := range l.Changes {
			p.field("", change(c))
		}
	}
	if f := r.Weakest; f != nil {
		p.field("Weakest grade", fmt.Sprintf("%s, of %s; the %s tier requires %s (%s)", f.Grade, f.Name, r.Tier, f.Required, r.FactsOf))
	}
	p.field("Ledger", r.Ledger.sentence())
	p.field("Made", stamp(r.Generated))
	p.line("")
}

func (r *Report) tally() string {
	n := map[State]int{}
	for _, c := range r.Conditions {
		n[c.State]++
	}
	return fmt.Sprintf("%d pass, %d fail, %d unknown, of %d (unknown counts as fail)", n[Pass], n[Fail], n[Unknown], len(r.Conditions))
}

func (l Lapsed) sentence() string {
	s := fmt.Sprintf("certification %s, %s at %s", l.ID, l.Code, stamp(l.At))
	if l.Record >= 0 {
		s += fmt.Sprintf(" (record %d)", l.Record)
	}
	return s
}

func (l LedgerPosition) sentence() string {
	if l.Size == 0 {
		return "no verified checkpoint"
	}
	word := "NOT VERIFIED"
	if l.Verified {
		word = "verified"
	}
	return fmt.Sprintf("%s; checkpoint over %d records of %s, root %s", word, l.Size, l.Origin, l.Root)
}

func (p printer) field(name, value string) { p.hang(fmt.Sprintf("  %-15s", name), value) }

// hang writes text behind a first column, wrapped at the last one.
func (p printer) hang(first, text string) {
	indent := utf8.RuneCountInString(first)
	for i, l := range wrap(plain(text), columns-indent) {
		if i > 0 {
			first = strings.Repeat(" ", indent)
		}
		p.line("%s%s", first, l)
	}
}

func (p printer) condition(c Result) {
	head := fmt.Sprintf("%2d  %-9s%s", c.Number, strings.ToUpper(string(c.State)), c.Title)
	right := c.oldness()
	gap := max(2, columns-utf8.RuneCountInString(head)-utf8.RuneCountInString(right))
	p.line("%s%s%s", head, strings.Repeat(" ", gap), right)
	const indent = "             "
	main := c.Summary
	for _, f := range c.Findings {
		if c.State != Pass && sentence(f.Saw) == c.Summary {
			main += where(f)
			break
		}
	}
	p.hang(indent, main)
	if c.State == Pass {
		if s := c.evidence(); s != "" {
			p.hang(indent, s)
		}
		p.line("")
		return
	}
	for _, f := range c.Findings {
		if f.State != Pass && sentence(f.Saw) != c.Summary {
			p.hang(indent+"- ", sentence(f.Saw)+where(f))
		}
	}
	p.hang(indent+"next: ", c.Next)
	p.line("")
}

func (c Result) oldness() string {
	if c.Age < 0 {
		return "no record"
	}
	return "newest record " + age(time.Duration(c.Age)*time.Second) + " old"
}

// evidence names the newest records behind a pass.
func (c Result) evidence() string {
	var all []int64
	for _, f := range c.Findings {
		all = append(all, f.Records...)
	}
	slices.Sort(all)
	all = slices.Compact(all)
	if len(all) == 0 {
		return ""
	}
	s := "records " + positions(all[max(0, len(all)-10):], 0)
	if len(all) > 10 {
		s += " and others before"
	}
	return s
}

func where(f Finding) string {
	s := ""
	if len(f.Records) > 0 {
		s = " [records " + positions(f.Records, f.Count) + "]"
	}
	return s
}

func positions(seqs []int64, n int) string {
	var out []string
	for _, s := range seqs {
		out = append(out, strconv.FormatInt(s, 10))
	}
	s := strings.Join(out, ", ")
	if n > len(seqs) {
		s += fmt.Sprintf(" and %d before", n-len(seqs))
	}
	return s
}

func (p printer) probes(r *Report) {
	if !r.Probed {
		p.hang("", "No probe was run; --probe also tries to break the running system.")
		p.line("")
		return
	}
	p.line("Probes")
	for _, x := range r.Probes {
		word := "WENT THROUGH"
		if x.Caught {
			word = "caught"
		}
		p.hang(fmt.Sprintf("    %-8s", word), fmt.Sprintf("%s: %s (%s)", x.Condition, x.Tried, x.Saw))
	}
	if len(r.Probes) == 0 {
		p.line("    none could be run")
	}
	p.line("")
}

func (p printer) mapping(r *Report) {
	p.line("Gives evidence towards (never: conforms to)")
	for _, f := range r.Frameworks {
		if slices.Contains([]string{"owasp_asi", "csa_maestro", "ai_rmf", "csf"}, f.Key) {
			p.hang(fmt.Sprintf("    %-44s", f.Name+" "+f.Version), brief(r.ids(f.Key)))
		}
	}
}

// ids joins the ids of one framework over all conditions.
func (r *Report) ids(framework string) []string {
	var out []string
	for _, c := range r.Conditions {
		out = append(out, c.Mapping[framework]...)
	}
	slices.SortFunc(out, natural)
	return slices.Compact(out)
}

// natural sorts numbers in ids by their value.
func natural(a, b string) int {
	key := func(s string) string {
		return number.ReplaceAllStringFunc(s, func(d string) string { return fmt.Sprintf("%09s", d) })
	}
	return strings.Compare(key(a), key(b))
}

var number = regexp.MustCompile(`[0-9]+`)

// brief says "GOVERN 1.1, 1.2" for "GOVERN 1.1, GOVERN 1.2".
func brief(ids []string) string {
	var b strings.Builder
	last := ""
	for i, id := range ids {
		word, rest, ok := strings.Cut(id, " ")
		switch {
		case i > 0 && ok && word == last:
			b.WriteString(", " + rest)
		case i > 0 && ok:
			b.WriteString("; " + id)
		case i > 0:
			b.WriteString(", " + id)
		default:
			b.WriteString(id)
		}
		if ok {
			last = word
		}
	}
	return b.String()
}

func stamp(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.UTC().Format("2006-01-02 15:04:05 UTC")
}

func dash(s string) string {
	if s == "" {
		return "(none)"
	}
	return s
}

// wrap breaks text at spaces; a word longer than the line is cut.
func wrap(s string, width int) []string {
	var out []string
	line := ""
	for _, w := range strings.Fields(s) {
		for utf8.RuneCountInString(w) > width {
			if line != "" {
				out, line = append(out, line), ""
			}
			r := []rune(w)
			out, w = append(out, string(r[:width])), string(r[width:])
		}
		switch {
		case line == "":
			line = w
		case utf8.RuneCountInString(line)+1+utf8.RuneCountInString(w) <= width:
			line += " " + w
		default:
			out, line = append(out, line), w
		}
	}
	return append(out, line)
}
