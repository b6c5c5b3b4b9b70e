package browser

import (
	"slices"
	"strings"
	"unicode"
)

// doubts says why the name and the text of an element may not be what a person
// takes them for. The author of the page wrote both: nothing is allowed because
// of them, and where they are shown these words, which are ours, stand beside.
//
//	hidden_characters  something that turns text around or shows as nothing
//	mixed_alphabets    letters of alphabets that look alike, in one word
//	no_plain_letters   full-width, circled and the like: letters in disguise
//	name_not_shown     the name (of a label for readers of screens) is not in the text
//	generated_text     a style writes on it, which is in neither
//	picture            a picture is on it, and what that says is not known
func doubts(f facts) []string {
	out := slices.Clone(f.Drawn)
	both := f.Name + " " + f.Text
	if strings.ContainsFunc(both, hidden) {
		out = append(out, "hidden_characters")
	}
	if strings.ContainsFunc(both, disguised) {
		out = append(out, "no_plain_letters")
	}
	if slices.ContainsFunc(strings.FieldsFunc(both, func(r rune) bool { return !unicode.IsLetter(r) && !unicode.IsMark(r) }), mixed) {
		out = append(out, "mixed_alphabets")
	}
	if f.Name != "" && f.Text != "" && !strings.Contains(plain(f.Text), plain(f.Name)) {
		out = append(out, "name_not_shown")
	}
	slices.Sort(out)
	return slices.Compact(out)
}

func plain(s string) string { return strings.ToLower(strings.Join(strings.Fields(s), " ")) }

// hidden: controls of direction, joiners, soft hyphens, tags, fillers and other
// characters that are there and not seen.
func hidden(r rune) bool {
	return r != ' ' && !unicode.IsPrint(r) || unicode.In(r, unicode.Cf, unicode.Variation_Selector, unicode.Other_Default_Ignorable_Code_Point) || r == '\u2800'
}

// disguised: letters and digits that stand for plain ones.
func disguised(r rune) bool {
	return r >= 0xff01 && r <= 0xff5e || // full width
		r >= 0x2460 && r <= 0x24ff || // enclosed
		r >= 0x1d400 && r <= 0x1d7ff || // mathematical
		r >= 0x1f100 && r <= 0x1f1ff // enclosed, regional
}

// alike are the alphabets whose letters are taken for each other's.
var alike = []*unicode.RangeTable{unicode.Latin, unicode.Cyrillic, unicode.Greek, unicode.Armenian, unicode.Cherokee, unicode.Coptic, unicode.Lisu, unicode.Deseret}

func mixed(word string) bool {
	found := map[*unicode.RangeTable]bool{}
	for _, r := range word {
		for _, t := range alike {
			if unicode.Is(t, r) {
				found[t] = true
			}
		}
	}
	return len(found) > 1
}
