package action

import (
	"regexp"
	"strings"
)

// PlaceholderPrefix begins the text that stands for a secret: the name of a
// credential source follows. It is no secret itself.
const PlaceholderPrefix = "sallyport-secret:"

var sourceName = regexp.MustCompile(`^[a-z][a-z0-9-]{0,62}$`)

// PlaceholderOf is the credential source that a text stands for, when the text
// is a placeholder and nothing else.
func PlaceholderOf(text string) (source string, ok bool) {
	source, ok = strings.CutPrefix(text, PlaceholderPrefix)
	return source, ok && sourceName.MatchString(source)
}
