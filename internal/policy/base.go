package policy

import (
	"embed"
	"sync"
)

//go:embed guardrails/*.cedar
var guardrailFiles embed.FS

// baseEntries are the shipped guardrails. They are part of every parsed set.
var baseEntries = sync.OnceValue(func() []*entry {
	entries, problems := read(BaseFiles(), shipped)
	if err := joinProblems(problems); err != nil {
		panic("sallyport: internal error: shipped guardrails: " + err.Error())
	}
	return entries
})

// BaseFiles are the shipped guardrails as text, by file name: for showing.
func BaseFiles() map[string][]byte {
	dir, err := guardrailFiles.ReadDir("guardrails")
	if err != nil {
		panic("sallyport: internal error: " + err.Error())
	}
	files := map[string][]byte{}
	for _, f := range dir {
		b, err := guardrailFiles.ReadFile("guardrails/" + f.Name())
		if err != nil {
			panic("sallyport: internal error: " + err.Error())
		}
		files["guardrails/"+f.Name()] = b
	}
	return files
}
