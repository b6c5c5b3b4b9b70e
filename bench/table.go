package main

import (
	"fmt"
	"strings"
	"time"
)

// row is one line of the table. A row without a target informs.
type row struct {
	name     string
	value    string
	baseline string
	ratio    string
	target   string
	ok       bool // meets the target
}

// header is the fixed part of the page.
const header = `# Benchmarks

This page is written by ` + "`go run ./bench -write docs/benchmarks.md`" + `. All numbers are of one run on one
machine; take the ratios with you and leave the milliseconds here. p50 and p99 are the median and the 99th
percentile. A row without a target informs.

`

func (b *bench) page() string {
	var s strings.Builder
	s.WriteString(header)
	for _, f := range b.facts {
		fmt.Fprintf(&s, "- %s: %s\n", f.name, f.value)
	}
	s.WriteByte('\n')
	cells := [][]string{{"What", "Value", "Baseline", "Ratio", "Target", ""}}
	for _, r := range b.rows {
		verdict := "over"
		switch {
		case r.target == "":
			verdict = ""
		case r.ok:
			verdict = "ok"
		}
		cells = append(cells, []string{r.name, r.value, r.baseline, r.ratio, r.target, verdict})
	}
	writeTable(&s, cells)
	s.WriteString("\n## What is measured\n\n")
	for _, n := range b.notes {
		fmt.Fprintf(&s, "- %s\n", n)
	}
	return s.String()
}

// writeTable aligns the columns, so that the Markdown reads as text too.
func writeTable(s *strings.Builder, cells [][]string) {
	width := make([]int, len(cells[0]))
	for _, line := range cells {
		for i, c := range line {
			width[i] = max(width[i], len([]rune(c)))
		}
	}
	put := func(line []string) {
		for i, c := range line {
			fmt.Fprintf(s, "| %-*s ", width[i], c)
		}
		s.WriteString("|\n")
	}
	put(cells[0])
	for _, w := range width {
		s.WriteString("|" + strings.Repeat("-", w+2))
	}
	s.WriteString("|\n")
	for _, line := range cells[1:] {
		put(line)
	}
}

func (b *bench) add(rows ...row)              { b.rows = append(b.rows, rows...) }
func (b *bench) note(format string, a ...any) { b.notes = append(b.notes, fmt.Sprintf(format, a...)) }
func times(r float64) string                  { return fmt.Sprintf("%.2fx", r) }
func perSecond(r float64) string              { return fmt.Sprintf("%.0f/s", r) }
func mib(bytes int64) string                  { return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20)) }
func added(d time.Duration, of time.Duration) string {
	sign := "+"
	if d < 0 {
		sign = "" // which short prints
	}
	return fmt.Sprintf("%s%s (%s)", sign, short(d), short(of))
}

// short prints three significant digits.
func short(d time.Duration) string {
	switch {
	case d < 0:
		return "-" + short(-d)
	case d < 10*time.Microsecond:
		return fmt.Sprintf("%.2f µs", float64(d)/1e3)
	case d < time.Millisecond:
		return fmt.Sprintf("%.0f µs", float64(d)/1e3)
	case d < 10*time.Millisecond:
		return fmt.Sprintf("%.2f ms", float64(d)/1e6)
	}
	return fmt.Sprintf("%.1f ms", float64(d)/1e6)
}
