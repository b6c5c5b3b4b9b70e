// Package resource reads declared resources: YAML in, typed values out, with
// every mistake named by file, line and field.
//
// Invariants:
//   - Strict: an unknown field, a missing one, a wrong type, a key given twice,
//     a null, a tag, an anchor or an alias is an error. Nothing is converted.
//   - All mistakes are reported, not the first.
//   - The same resource has the same digest, however it was written.
//
// Not trusted: the files. Size, depth and number of documents are bounded
// before anything recursive runs, and no error text repeats a value: a secret
// may stand where it should not.
package resource

import (
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/capability"
	"github.com/sallyport-dev/sallyport/internal/connector"
	"github.com/sallyport-dev/sallyport/internal/policy"
)

// APIVersion is the only version there is.
const APIVersion = "sallyport/v1"

// The kinds.
const (
	KindTenant           = "Tenant"
	KindPerson           = "Person"
	KindAgent            = "Agent"
	KindConnector        = "Connector"
	KindCapability       = "Capability"
	KindPolicySet        = "PolicySet"
	KindCredentialSource = "CredentialSource"
	KindSuite            = "Suite"
	KindRetention        = "Retention"
	KindWitness          = "Witness"
)

// kinds in the order in which they can be applied: later ones refer to earlier ones.
var kinds = []struct {
	name string
	spec reflect.Type
}{
	{KindRetention, reflect.TypeFor[RetentionSpec]()},
	{KindWitness, reflect.TypeFor[WitnessSpec]()},
	{KindTenant, reflect.TypeFor[TenantSpec]()},
	{KindPerson, reflect.TypeFor[PersonSpec]()},
	{KindConnector, reflect.TypeFor[connector.Spec]()},
	{KindPolicySet, reflect.TypeFor[policy.SetSpec]()},
	{KindCredentialSource, reflect.TypeFor[CredentialSourceSpec]()},
	{KindCapability, reflect.TypeFor[capability.Spec]()},
	{KindSuite, reflect.TypeFor[SuiteSpec]()},
	{KindAgent, reflect.TypeFor[AgentSpec]()},
}

// Kinds lists the kinds in the order in which they can be applied.
func Kinds() []string {
	names := make([]string, 0, len(kinds))
	for _, k := range kinds {
		names = append(names, k.name)
	}
	return names
}

// NewSpec is a pointer to an empty spec of the kind, or nil.
func NewSpec(kind string) any {
	for _, k := range kinds {
		if k.name == kind {
			return reflect.New(k.spec).Interface()
		}
	}
	return nil
}

// Source is one file.
type Source struct {
	Name string // as it is shown in errors
	Data []byte
}

// Metadata names a resource.
type Metadata struct {
	Name string `json:"name"`
	// Tenant owns the resource. A Tenant owns itself and may leave it out.
	Tenant string `json:"tenant,omitempty"`
}

// Resource is one declared resource.
type Resource struct {
	APIVersion string
	Kind       string
	Metadata   Metadata
	Spec       any // pointer to the kind's spec
	File       string
	Line       int
	// Digest is over the canonical JSON of kind, metadata and spec.
	Digest action.Digest

	lines map[string]int // field path to line
}

// Canonical is the RFC 8785 form that Digest is over.
func (r *Resource) Canonical() ([]byte, error) {
	return canon.Marshal(struct {
		APIVersion string   `json:"apiVersion"`
		Kind       string   `json:"kind"`
		Metadata   Metadata `json:"metadata"`
		Spec       any      `json:"spec"`
	}{r.APIVersion, r.Kind, r.Metadata, r.Spec})
}

func (r *Resource) digest() error {
	b, err := r.Canonical()
	if err != nil {
		return fmt.Errorf("%s %s: %w", r.Kind, r.Metadata.Name, err)
	}
	r.Digest = canon.Digest(b)
	return nil
}

// FromCanonical reads back what Canonical made, from the store.
func FromCanonical(data []byte) (Resource, error) {
	var env struct {
		APIVersion string   `json:"apiVersion"`
		Kind       string   `json:"kind"`
		Metadata   Metadata `json:"metadata"`
		Spec       any      `json:"spec"`
	}
	if err := canon.UnmarshalOpen(data, MaxFileBytes*4, &env); err != nil {
		return Resource{}, err
	}
	env.Spec = NewSpec(env.Kind)
	if env.Spec == nil || env.APIVersion != APIVersion {
		return Resource{}, fmt.Errorf("resource of kind %q in %q is not known", env.Kind, env.APIVersion)
	}
	if err := canon.Unmarshal(data, MaxFileBytes*4, &env); err != nil {
		return Resource{}, err
	}
	r := Resource{APIVersion: env.APIVersion, Kind: env.Kind, Metadata: env.Metadata, Spec: env.Spec}
	return r, r.digest()
}

// Receive reads resources that a client has decoded and inlined, each in
// canonical form. A client is not trusted with the checks: canonical JSON is
// YAML, so Decode reads it again, with all that it refuses (unknown words,
// missing fields, characters that hide). The error is Errors.
func Receive(docs [][]byte) ([]Resource, error) {
	var all []Resource
	var errs Errors
	for i, d := range docs {
		name := fmt.Sprintf("document %d", i)
		rs, es := decodeFile(Source{Name: name, Data: d})
		if errs = append(errs, es...); len(es) > 0 {
			continue
		}
		if len(rs) != 1 {
			errs = append(errs, &Error{File: name, Problem: fmt.Sprintf("want one resource, got %d", len(rs))})
			continue
		}
		rs[0].File = rs[0].Kind + "/" + rs[0].Metadata.Name
		all = append(all, rs[0])
	}
	if err := errs.orNil(); err != nil {
		return nil, err
	}
	return all, nil
}

// line is where a field path, or the nearest one above it, was written.
func (r *Resource) line(path string) int {
	for path != "" {
		if n, ok := r.lines[path]; ok {
			return n
		}
		path = path[:max(0, strings.LastIndexAny(path, ".["))]
	}
	return r.Line
}

func (r *Resource) problem(path, format string, args ...any) *Error {
	return &Error{File: r.File, Line: r.line(path), Path: path, Problem: fmt.Sprintf(format, args...)}
}

// Error is one mistake.
type Error struct {
	File    string `json:"file"`
	Line    int    `json:"line"`           // from 1; 0 when the whole file is meant
	Path    string `json:"path,omitempty"` // e.g. spec.operations[2].path
	Problem string `json:"problem"`
}

// Error is "file:line: path: problem".
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.File)
	if e.Line > 0 {
		fmt.Fprintf(&b, ":%d", e.Line)
	}
	if e.Path != "" {
		b.WriteString(": " + e.Path)
	}
	return b.String() + ": " + e.Problem
}

// Errors is every mistake, by file and line.
type Errors []*Error

// Error is one mistake per line.
func (es Errors) Error() string {
	lines := make([]string, 0, len(es))
	for _, e := range es {
		lines = append(lines, e.Error())
	}
	return strings.Join(lines, "\n")
}

func (es Errors) orNil() error {
	if len(es) == 0 {
		return nil
	}
	slices.SortStableFunc(es, func(a, b *Error) int {
		if c := strings.Compare(a.File, b.File); c != 0 {
			return c
		}
		return a.Line - b.Line
	})
	return es
}
