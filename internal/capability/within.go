package capability

import (
	"errors"
	"fmt"
	"maps"
	"slices"
)

// Within reports whether everything that the instance covers is covered by p:
// what a sub-task may do is at most what the task above it may. The error joins
// one for each way in which it is wider; it repeats no parameter's value.
func (in *Instance) Within(p *Instance) error {
	var errs []error
	bad := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	for _, r := range in.Rules {
		i := slices.IndexFunc(p.Rules, func(q Rule) bool { return q.Operation == r.Operation && q.App == r.App })
		if i < 0 {
			bad("it covers %s, which the task above does not", r.Operation)
			continue
		}
		for _, why := range r.wider(p.Rules[i]) {
			bad("%s: %s", r.Operation, why)
		}
	}
	within := func(what string, mine, theirs []string) {
		for _, s := range mine {
			if !slices.Contains(theirs, s) {
				bad("%s: %s is not of the task above", what, s)
			}
		}
	}
	within("reads", in.Reads, p.Reads)
	within("computer", in.Computer, p.Computer)
	within("credentials", in.Credentials, p.Credentials)
	within("audiences", in.Audiences, p.Audiences)
	if in.Inference && !p.Inference {
		bad("inference: the task above has none")
	}
	if in.Budgets.Actions > p.Budgets.Actions {
		bad("budgets.actions: %d, and the task above has %d", in.Budgets.Actions, p.Budgets.Actions)
	}
	for _, op := range slices.Sorted(maps.Keys(p.Budgets.PerOperation)) {
		if n, ok := in.Budgets.PerOperation[op]; !ok || n > p.Budgets.PerOperation[op] {
			bad("budgets.perOperation.%s: want at most %d", op, p.Budgets.PerOperation[op])
		}
	}
	for _, l := range p.Labels {
		if !slices.Contains(in.Labels, l) {
			bad("labels: the rule about %s is missing", l.Label)
		}
	}
	return errors.Join(errs...)
}

// wider says how a rule covers more than q.
func (r Rule) wider(q Rule) (out []string) {
	if r.Max > q.Max {
		out = append(out, fmt.Sprintf("at most %d, and the task above has %d", r.Max, q.Max))
	}
	for _, name := range slices.Sorted(maps.Keys(r.Params)) {
		v := r.Params[name]
		w, ok := q.Params[name]
		switch {
		case !ok:
			out = append(out, "parameter "+name+" may be there, and in the task above it may not")
		case !w.Any && (v.Any || v.Equals != w.Equals):
			out = append(out, "parameter "+name+" is not limited to the value that the task above has")
		case v.Optional && !w.Optional:
			out = append(out, "parameter "+name+" may be absent, and in the task above it may not")
		}
	}
	for _, name := range slices.Sorted(maps.Keys(q.Params)) {
		if _, ok := r.Params[name]; !ok && !q.Params[name].Optional {
			out = append(out, "parameter "+name+" is missing")
		}
	}
	if h := q.Hold; h != nil && (r.Hold == nil || r.Hold.Approvers != h.Approvers || r.Hold.Count < h.Count || r.Hold.ExpiresSeconds > h.ExpiresSeconds) {
		out = append(out, "the task above holds it for "+h.Approvers)
	}
	return out
}
