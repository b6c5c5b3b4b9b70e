package policy

import (
	"fmt"
	"regexp"
	"strings"
)

// SetSpec is the body of a resource of kind PolicySet: the guardrails that a
// tenant adds to the shipped ones. Fields without omitempty must be given.
type SetSpec struct {
	Description string `json:"description,omitempty"`
	// Policies are Cedar texts.
	Policies []Text `json:"policies"`
	// Tests are YAML documents, each a list of Case under "cases".
	Tests []Text `json:"tests,omitempty"`
}

// Text is a file by name, written in place or referred to. The client puts the
// content of File into Text before anything is sent.
type Text struct {
	Name string `json:"name"` // file name in problems and evidence
	Text string `json:"text,omitempty"`
	File string `json:"file,omitempty"`
}

var fileForm = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,100}$`)

// Resolve puts the content of each File into its Text.
func (s *SetSpec) Resolve(read func(path string) ([]byte, error)) error {
	for _, list := range [][]Text{s.Policies, s.Tests} {
		for i := range list {
			if t := &list[i]; t.File != "" {
				b, err := read(t.File)
				if err != nil {
					return fmt.Errorf("%s: %w", t.Name, err)
				}
				t.Text, t.File = string(b), ""
			}
		}
	}
	return nil
}

// Files are the policies as Parse takes them. Texts that are not resolved yet
// are left out.
func (s *SetSpec) Files() map[string][]byte {
	files := map[string][]byte{}
	for _, p := range s.Policies {
		if p.File == "" {
			files[p.Name] = []byte(p.Text)
		}
	}
	return files
}

// Validate reports everything that is wrong, by field path. name is the name
// of the resource.
func (s *SetSpec) Validate(_ string, report func(path, problem string)) {
	if len(s.Policies) == 0 {
		report("policies", "want at least one policy text")
	}
	at := map[string]string{}
	for field, list := range map[string][]Text{"policies": s.Policies, "tests": s.Tests} {
		for i, t := range list {
			path := fmt.Sprintf("%s[%d]", field, i)
			if !fileForm.MatchString(t.Name) {
				report(path+".name", "want a file name")
			}
			if at[t.Name] != "" {
				report(path+".name", "the name is used twice")
			}
			at[t.Name] = path
			if (t.Text == "") == (t.File == "") {
				report(path, "want text or file, and not both")
			}
		}
	}
	for _, p := range Check(s.Files(), nil) {
		if p.Severity == SeverityError {
			report(at[p.File]+".text", strings.ReplaceAll(p.String(), "\n", " "))
		}
	}
}
