package cli

import (
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/internal/capability"
	"github.com/sallyport-dev/sallyport/internal/policy"
	"github.com/sallyport-dev/sallyport/internal/resource"
)

func policyCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{Use: "policy", Short: "Check, test and replay policies", Example: "  sallyport policy check policies/company.cedar"}
	cmd.AddCommand(policyCheck(e), policyTest(e), policyReplay(e))
	return cmd
}

func policyCheck(e *env) *cobra.Command {
	var declared []string
	cmd := &cobra.Command{
		Use: "check FILE...", Short: "Check Cedar files against the schema", Example: "  sallyport policy check policies/company.cedar -f examples/helpdesk",
		Long: `Reports everything for which an apply would refuse these guardrails, and what is suspicious.
With -f, names that no connector among the resources declares, and parameters that are compared in a spelling that slips past.`,
		Args: cobra.MinimumNArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			files, err := e.policies(args)
			if err != nil {
				return err
			}
			vocabulary, err := e.vocabulary(declared)
			if err != nil {
				return err
			}
			found := policy.Check(files, vocabulary)
			if found == nil {
				found = []policy.Problem{}
			}
			err = e.print(found, func(w io.Writer) {
				for _, p := range found {
					fmt.Fprintf(w, "%s: %s\n", p.Severity, p)
				}
				if len(found) == 0 {
					fmt.Fprintln(w, "ok")
				}
			})
			if slices.ContainsFunc(found, func(p policy.Problem) bool { return p.Severity == policy.SeverityError }) {
				return &exit{code: exitUsage}
			}
			return err
		},
	}
	cmd.Flags().StringArrayVarP(&declared, "file", "f", nil, "resources, file or folder: their connectors are the vocabulary")
	return cmd
}

// vocabulary is what the connectors among resources declare, or nil.
func (e *env) vocabulary(paths []string) (*policy.Vocabulary, error) {
	if len(paths) == 0 {
		return nil, nil
	}
	all, err := e.load(paths)
	if err != nil {
		return nil, err
	}
	tenants := map[string]bool{}
	for _, r := range all {
		if r.Kind == resource.KindConnector {
			tenants[r.Metadata.Tenant] = true
		}
	}
	if len(tenants) != 1 {
		return nil, usage("the resources of -f have connectors of %d tenants; want one", len(tenants))
	}
	return resource.Vocabulary(all, slices.Collect(maps.Keys(tenants))[0]), nil
}

func (e *env) policies(names []string) (map[string][]byte, error) {
	files := map[string][]byte{}
	for _, n := range names {
		b, err := e.readFile(n)
		if err != nil {
			return nil, usage("%v", err)
		}
		files[n] = b
	}
	return files, nil
}

func policyTest(e *env) *cobra.Command {
	var cedar, declared []string
	cmd := &cobra.Command{
		Use: "test [CASES...]", Short: "Run policy tests: what must be allowed, denied or held",
		Long: `Runs files of cases against the shipped guardrails and the Cedar files of --policy.
With -f, capabilities that cases name are taken from declared resources, and the
tests of the policy sets among them are run too.`,
		Example: "  sallyport policy test policies/company_test.yaml --policy policies/company.cedar\n  sallyport policy test -f examples/helpdesk",
		RunE: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 && len(declared) == 0 {
				return usage("give files of cases, or resources with -f")
			}
			rep, err := e.testPolicies(args, cedar, declared)
			if err != nil {
				return err
			}
			err = e.print(rep, func(w io.Writer) {
				for _, r := range rep.Results {
					if r.Problem != "" {
						fmt.Fprintf(w, "FAIL %s: %s\n", plain(r.Name), plain(r.Problem))
					}
				}
				for _, id := range rep.Untested {
					fmt.Fprintf(w, "untested: no case is decided by %s\n", plain(id))
				}
				fmt.Fprintf(w, "%d of %d cases as expected\n", len(rep.Results)-rep.Failed, len(rep.Results))
			})
			if rep.Failed > 0 {
				return &exit{code: exitRefused}
			}
			return err
		},
	}
	cmd.Flags().StringArrayVar(&cedar, "policy", nil, "Cedar file of guardrails")
	cmd.Flags().StringArrayVarP(&declared, "file", "f", nil, "resources, file or folder: capabilities and policy sets are used")
	return cmd
}

func (e *env) testPolicies(cases, cedar, declared []string) (policy.Report, error) {
	var rep policy.Report
	add := func(r policy.Report) {
		rep.Results = append(rep.Results, r.Results...)
		rep.Failed += r.Failed
		rep.Untested = append(rep.Untested, r.Untested...)
	}
	all, err := e.declared(declared)
	if err != nil {
		return rep, err
	}
	for _, r := range all {
		if r.Kind == resource.KindPolicySet {
			one, err := resource.TestPolicies(all, r.Metadata.Tenant, r.Metadata.Name)
			if err != nil {
				return rep, invalidInput(err)
			}
			add(one)
		}
	}
	if len(cases) == 0 {
		return rep, nil
	}
	files, err := e.policies(cedar)
	if err != nil {
		return rep, err
	}
	guardrails, err := policy.Parse(files)
	if err != nil {
		return rep, invalidInput(err)
	}
	var list []policy.Case
	for _, n := range cases {
		b, err := e.readFile(n)
		if err != nil {
			return rep, usage("%v", err)
		}
		var file policy.Cases
		if err := resource.DecodeInto(resource.Source{Name: n, Data: b}, &file); err != nil {
			return rep, err
		}
		list = append(list, file.Cases...)
	}
	add(policy.Test(guardrails, list, func(name, agent string, params map[string]string) (*policy.Set, error) {
		for _, r := range all {
			if spec, ok := r.Spec.(*capability.Spec); ok && r.Metadata.Name == name {
				in, err := spec.Instantiate(name, params)
				if err != nil {
					return nil, err
				}
				return policy.CompileGrant(resource.Grant(in, "test", agent, "test", resource.DeclaredIn(all, r.Metadata.Tenant)))
			}
		}
		return nil, fmt.Errorf("there is no capability %q: name resources with -f", name)
	}))
	return rep, nil
}

// declared reads the policy sets and capabilities among resources.
func (e *env) declared(paths []string) ([]resource.Resource, error) {
	if len(paths) == 0 {
		return nil, nil
	}
	all, err := e.load(paths)
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(r resource.Resource) bool {
		return r.Kind != resource.KindPolicySet && r.Kind != resource.KindCapability
	})
	return all, resource.Inline(all, e.beside)
}

func invalidInput(err error) error {
	var bad resource.Errors
	if errors.As(err, &bad) {
		return err
	}
	return &exit{exitUsage, err}
}
