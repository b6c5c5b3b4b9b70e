package cli

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/internal/api/client"
	"github.com/sallyport-dev/sallyport/internal/resource"
	"github.com/sallyport-dev/sallyport/internal/server"
)

func applyCommand(e *env) *cobra.Command {
	var files []string
	cmd := &cobra.Command{
		Use:   "apply -f FILE|DIR|-",
		Short: "Declare resources: all of them, or none",
		Long: `Reads resources from files, from the *.yaml, *.yml and *.json files of folders, or
from standard input. What they refer to (policies, prompts, keys, certificates) is
read here, from beside the file that names it. Where the files are of a Git work tree
the commit is recorded with them, as claimed.`,
		Example: "  sallyport apply -f examples/helpdesk --as noor",
		Args:    cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if len(files) == 0 {
				return usage("-f is needed: a file, a folder, or -")
			}
			all, err := e.load(files)
			if err != nil {
				return err
			}
			if err := resource.Inline(all, e.beside); err != nil {
				return err
			}
			c, err := e.client()
			if err != nil {
				return err
			}
			done, err := c.ApplyFrom(cmd.Context(), all, provenance(cmd.Context(), e.read))
			if err != nil {
				have, _ := c.Resources(cmd.Context(), "", "") // none, where there is no tenant yet
				return located(err, all, have)
			}
			return e.applied(done)
		},
	}
	cmd.Flags().StringArrayVarP(&files, "file", "f", nil, "file, folder or - (may be given more than once)")
	return cmd
}

func (e *env) applied(done []server.Applied) error {
	return e.print(done, func(w io.Writer) {
		var rows [][]string
		pending := map[string]bool{}
		for _, d := range done {
			rows = append(rows, []string{d.Kind, d.Name, d.Change, d.Pending})
			if d.Pending != "" {
				pending[d.Pending] = true
			}
		}
		table(w, []string{"KIND", "NAME", "CHANGE", "PENDING APPROVAL"}, rows)
		if len(pending) > 0 {
			fmt.Fprintf(w, "\n%d waiting for approval; see: sallyport approvals\n", len(pending))
		}
	})
}

// load reads and decodes resources.
func (e *env) load(paths []string) ([]resource.Resource, error) {
	var sources []resource.Source
	for _, p := range paths {
		names := []string{p}
		if fi, err := os.Stat(p); p != "-" && err == nil && fi.IsDir() {
			entries, err := os.ReadDir(p)
			if err != nil {
				return nil, usage("%v", err)
			}
			names = nil
			for _, d := range entries {
				if slices.Contains([]string{".yaml", ".yml", ".json"}, filepath.Ext(d.Name())) && !d.IsDir() {
					names = append(names, filepath.Join(p, d.Name()))
				}
			}
			if len(names) == 0 {
				return nil, usage("%s has no *.yaml, *.yml or *.json", p)
			}
		}
		for _, n := range names {
			b, err := e.readFile(n)
			if err != nil {
				return nil, usage("%v", err)
			}
			sources = append(sources, resource.Source{Name: n, Data: b})
		}
	}
	return resource.Decode(sources)
}

// readFile reads at most one byte more than a resource file may have.
func (e *env) readFile(name string) ([]byte, error) {
	r := e.in
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			return nil, err
		}
		defer f.Close()
		r = f
	}
	b, err := io.ReadAll(io.LimitReader(r, resource.MaxFileBytes+1))
	e.read = append(e.read, sourceFile{name, b})
	return b, err
}

// beside reads what a resource file refers to.
func (e *env) beside(from, path string) ([]byte, error) {
	if !filepath.IsAbs(path) && from != "-" {
		path = filepath.Join(filepath.Dir(from), path)
	}
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, resource.MaxFileBytes+1))
	if err == nil && len(b) > resource.MaxFileBytes {
		err = fmt.Errorf("%s is larger than %d bytes", path, resource.MaxFileBytes)
	}
	e.read = append(e.read, sourceFile{path, b})
	return b, err
}

// place is one line with the file and line that the same mistake has here, or
// else those of the resource that it names.
func place(line string, found resource.Errors, all []resource.Resource) string {
	for _, f := range found {
		if strings.HasSuffix(line, ": "+f.Path+": "+f.Problem) {
			return f.Error()
		}
	}
	for _, r := range all {
		if rest, ok := strings.CutPrefix(line, r.Kind+"/"+r.Metadata.Name+":"); ok {
			return fmt.Sprintf("%s:%d:%s", r.File, r.Line, rest)
		}
	}
	return line
}

// located puts file and line where the server could only name the resource, or
// the field. have is what is in force.
func located(err error, all []resource.Resource, have []json.RawMessage) error {
	var no *client.Refusal
	if !errors.As(err, &no) || no.Code != "invalid_resources" {
		return err
	}
	lines := strings.Split(no.Reason, "\n")
	// What is wrong between resources is found here too, and the same words tell
	// the place.
	world := slices.Clone(all)
	for _, raw := range have {
		if r, err := resource.FromCanonical(raw); err == nil && resource.Find(all, r.Metadata.Tenant, r.Kind, r.Metadata.Name) == nil {
			world = append(world, r)
		}
	}
	var found resource.Errors
	errors.As(resource.Validate(world), &found)
	for i, l := range lines {
		lines[i] = place(l, found, all)
	}
	out := *no
	out.Reason = strings.Join(lines, "\n")
	return &out
}
