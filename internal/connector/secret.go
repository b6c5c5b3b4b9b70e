package connector

import (
	"bytes"
	"encoding/json"
	"errors"
	"net/url"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/sallyport-dev/sallyport/internal/action"
)

// Placeholder is the text that stands for the secret of a credential source in a
// request until door 2 puts the secret in.
func Placeholder(source string) string { return action.PlaceholderPrefix + source }

// Slot is one place of a body that holds a placeholder: the bytes from Start to
// End are replaced by the secret, in the spelling of the body's type, and no
// other byte of the request changes.
type Slot struct {
	Secret, Field string
	Start, End    int
	Type          BodyType
}

// takesSecret reports whether a field of the body is a secret.
func (b *Body) takesSecret() bool {
	for _, f := range b.Fields {
		if f.Secret != "" {
			return true
		}
	}
	return false
}

// slots checks that each placeholder is spelled as browsers, JSON.stringify and
// curl do. Another spelling of the same value would be read alike, but nobody
// has a reason for it.
func (b *Body) slots(all []Slot, body []byte) ([]Slot, *refusal) {
	for i := range all {
		s := &all[i]
		s.Type = b.Type
		text := Placeholder(s.Secret)
		spellings := map[BodyType][]string{BodyForm: {text, url.QueryEscape(text)}, BodyMultipart: {text}, BodyJSON: {`"` + text + `"`}}
		if !slices.Contains(spellings[b.Type], string(body[s.Start:s.End])) {
			return nil, refuse("placeholder_spelling", "the placeholder of a secret is not in its plain spelling")
		}
	}
	slices.SortFunc(all, func(a, b Slot) int { return a.Start - b.Start })
	return all, nil
}

// Encode spells a secret for the slot.
func (s Slot) Encode(secret string) ([]byte, error) {
	if err := CheckSecret(s.Type, secret); err != nil {
		return nil, err
	}
	switch s.Type {
	case BodyForm:
		return []byte(url.QueryEscape(secret)), nil
	case BodyJSON:
		var b bytes.Buffer
		e := json.NewEncoder(&b)
		e.SetEscapeHTML(false)
		if err := e.Encode(secret); err != nil {
			return nil, err
		}
		return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
	}
	return []byte(secret), nil
}

// MinSecret is the shortest secret in bytes. Shorter ones could not be told from
// other text in what comes back.
const MinSecret = 8

// CheckSecret says why a body of the type cannot carry a secret as it is. The
// error repeats nothing of it.
func CheckSecret(t BodyType, secret string) error {
	switch {
	case len(secret) < MinSecret:
		return errors.New("the secret is shorter than 8 bytes, too short to be found in what comes back")
	case !utf8.ValidString(secret):
		return errors.New("the secret is not UTF-8, which is all that a field can carry")
	case t == BodyJSON:
		return nil
	case strings.IndexByte(secret, 0) >= 0:
		return errors.New("the secret has a NUL byte, at which readers of forms stop")
	case t == BodyMultipart && strings.Contains(secret, "--"):
		// Whoever sends the form chooses its boundary, and would learn from a
		// refusal that the secret has it.
		return errors.New(`the secret has "--", with which boundaries of a multipart body begin`)
	}
	return nil
}

// SecretUse is where a connector's operations take the secret of one source.
type SecretUse struct {
	Origins []string   // names, each once
	Types   []BodyType // each once
}

// SecretUse says where the secret of a source is put in.
func (s *Spec) SecretUse(source string) SecretUse {
	var u SecretUse
	for _, op := range s.Operations {
		if op.Body == nil {
			continue
		}
		for _, f := range op.Body.Fields {
			if f.Secret == source {
				u.Origins = append(u.Origins, s.originOf(op))
				u.Types = append(u.Types, op.Body.Type)
			}
		}
	}
	slices.Sort(u.Origins)
	slices.Sort(u.Types)
	return SecretUse{slices.Compact(u.Origins), slices.Compact(u.Types)}
}

func (s *Spec) originOf(op Operation) string { return s.originName(op.Origin) }

func (s *Spec) originName(name string) string {
	if name == "" {
		for _, st := range s.Stages {
			if len(st.Origins) > 0 {
				return st.Origins[0].Name // the only one, and named alike in every stage
			}
		}
	}
	return name
}

// SecretFields are the names of the fields that take a secret at an origin,
// sorted.
func (s *Set) SecretFields(stage action.Stage, origin string) []string {
	t := s.origins[stage][origin]
	if t == nil {
		return nil
	}
	var names []string
	for _, op := range t.ops {
		if op.Body == nil {
			continue
		}
		for name, f := range op.Body.Fields {
			if f.Secret != "" {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}
