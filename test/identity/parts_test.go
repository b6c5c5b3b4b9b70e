package identity

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/spiffe/go-spiffe/v2/workloadapi"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/task"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// asked is a request at the door for parts.
type asked struct{ Method, Path, Body string }

// ask sends it to the door of the session that it runs in.
func ask(a asked) string {
	q, err := http.NewRequest(a.Method, os.Getenv("SALLYPORT_TASKS_URL")+a.Path, strings.NewReader(a.Body))
	if err != nil {
		return err.Error()
	}
	q.Header.Set("Content-Type", "application/json")
	resp, err := (&http.Client{Transport: &http.Transport{}}).Do(q)
	if err != nil {
		return err.Error()
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		return err.Error()
	}
	return strconv.Itoa(resp.StatusCode) + " " + strings.TrimSpace(string(b))
}

// relay is a harness that does what its standard input says.
func relay(_ context.Context, _ []string) error {
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		var a asked
		if err := json.Unmarshal(in.Bytes(), &a); err != nil {
			return err
		}
		fmt.Println(ask(a))
	}
	return in.Err()
}

// link is the harness of the nth agent of a chain: it gets an identity, looks at
// the screen, opens a part for the next agent, tries one for an agent above it,
// and stays.
func link(ctx context.Context, args []string) error {
	fctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	if _, err := workloadapi.FetchX509SVID(fctx); err != nil {
		return err
	}
	resp, err := (&http.Client{Transport: &http.Transport{}}).Post(os.Getenv("SALLYPORT_COMPUTER_URL")+"/v1/actions", "application/json",
		strings.NewReader(`{"actions":[{"type":"screenshot"}]}`))
	if err != nil {
		return err
	}
	resp.Body.Close()
	n, err := strconv.Atoi(args[0])
	if err != nil {
		return err
	}
	part := func(n int) asked {
		return asked{"POST", "", fmt.Sprintf(`{"agent":"link%d","capability":"link","params":{"ticket":%q}}`, n, os.Getenv("SALLYPORT_PARAM_TICKET"))}
	}
	if n > 1 {
		ask(part(1))
	}
	ask(part(n + 1))
	<-ctx.Done()
	return nil
}

const links = 5

// chain gives the sample tenant five more agents, each of which may give the next
// what it was given, and one that nobody has approved.
func chain(files map[string][]byte) {
	self, err := os.Executable()
	if err != nil {
		self = err.Error()
	}
	capability := func(name, where, budgets, delegates string) string {
		return "---\napiVersion: sallyport/v1\nkind: Capability\nmetadata: {name: " + name + ", tenant: brightwell}\nspec:\n" +
			"  version: \"1\"\n  stages: [sandbox]\n  parameters: [{name: ticket, pattern: \"[0-9]{4,8}\"}]\n" +
			"  operations: [{operation: tickets.ticket.close, where: {ticket: " + where + "}, max: 1}]\n" +
			"  reads: [tickets]\n  budgets: {actions: " + budgets + ", seconds: 600, perOperation: {computer.type: 40}}\n  credentials: [tickets-helpdesk]\n" + delegates
	}
	var next, all strings.Builder
	agent := func(name, n string) {
		a := string(files["agent.yaml"])
		for _, r := range [][2]string{{"name: helpdesk\n", "name: " + name + "\n"}, {"harness: {name: reference}", fmt.Sprintf("harness: {path: %s, args: [program, link, %q]}", self, n)},
			{"capabilities: [reset-mfa]", "capabilities: [link, wide, greedy]"}, {"  suites: [helpdesk-core]\n", ""}} {
			a = strings.Replace(a, r[0], r[1], 1)
		}
		all.WriteString("---\n" + a)
	}
	for n := range links {
		name := fmt.Sprintf("link%d", n+1)
		agent(name, strconv.Itoa(n+1))
		fmt.Fprintf(&next, "    - {agent: %s, capability: link}\n", name)
	}
	agent("fresh", "1")
	all.WriteString(capability("link", `"{{ticket}}"`, "100", "  delegates:\n"+next.String()))
	all.WriteString(capability("wide", "{any: true}", "100", ""))
	all.WriteString(capability("greedy", `"{{ticket}}"`, "2001", ""))
	files["parts.yaml"] = []byte(all.String())
	files["capability.yaml"] = append(files["capability.yaml"], `
  delegates:
    - {agent: link1, capability: link}
    - {agent: link1, capability: wide}
    - {agent: link1, capability: greedy}
    - {agent: fresh, capability: link}
    - {agent: helpdesk, capability: reset-mfa}
`...)
}

// TestAgentOpensParts: a contained agent opens parts of its task for the agents
// that its capability names, and they for others; nothing grows on the way, every
// record leads back to the person who opened the first task, and the end of that
// ends all.
//
// Threats: E11, E12, E13 (authority, door)
func TestAgentOpensParts(t *testing.T) {
	if testing.Short() {
		t.Skip("starts browsers")
	}
	r := rig.New(t, rig.Options{Edit: chain})
	r.Approver(func(a approval.Approval) string {
		if a.Statement.Kind == approval.Boundary && strings.Contains(a.Statement.Subject, "fresh") {
			return ""
		}
		return "ines"
	})
	rig.Await(t, "all approvals but one", func() bool { return len(r.Pending(t)) == 1 })
	other := r.OpenTask(t, rig.Intent(action.Sandbox, "tom", "4712"))
	x := r.OpenTask(t, rig.Intent(action.Sandbox, "jo", "4711"))
	var out rig.Output
	h := rig.Harness(t, &out, "program", "relay")
	stdin, tell, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer tell.Close()
	h.Stdin = stdin
	running, err := r.Server.Run(t.Context(), "", x.ID, h)
	stdin.Close()
	if err != nil {
		t.Fatal(err)
	}
	lines := 0
	do := func(method, path, body string) string {
		t.Helper()
		b, err := json.Marshal(asked{method, path, body})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := tell.Write(append(b, '\n')); err != nil {
			t.Fatal(err)
		}
		lines++
		rig.Await(t, "an answer inside", func() bool { return strings.Count(out.String(), "\n") >= lines })
		return strings.Split(out.String(), "\n")[lines-1]
	}
	part := func(agent, capability, ticket string) string {
		return fmt.Sprintf(`{"agent":%q,"capability":%q,"params":{"ticket":%q}}`, agent, capability, ticket)
	}
	for _, a := range []struct{ name, method, path, body, want string }{
		{"widened_parameter", "POST", "", part("link1", "link", "4712"), "403 wider_than_parent"},
		{"parameter_left_open", "POST", "", part("link1", "wide", "4711"), "403 wider_than_parent"},
		{"more_budget", "POST", "", part("link1", "greedy", "4711"), "403 wider_than_parent"},
		{"agent_not_declared", "POST", "", part("link3", "link", "4711"), "403 not_delegated"},
		{"capability_not_declared", "POST", "", part("link1", "reset-mfa", "4711"), "403 not_delegated"},
		{"itself", "POST", "", `{"agent":"helpdesk","capability":"reset-mfa","params":{"user":"jo","ticket":"4711"}}`, "403 agent_above"},
		{"not_approved", "POST", "", part("fresh", "link", "4711"), "403 not_approved"},
		{"forged_parent", "POST", "", `{"parent":"` + other.ID + `",` + part("link1", "link", "4711")[1:], "400 invalid_body"},
		{"other_user", "POST", "", `{"requester":"noor",` + part("link1", "link", "4711")[1:], "400 invalid_body"},
		{"other_stage", "POST", "", `{"stage":"production",` + part("link1", "link", "4711")[1:], "400 invalid_body"},
		{"looks_at_another_task", "GET", "/" + other.ID, "", "404 no_such_task"},
		{"ends_another_task", "DELETE", "/" + other.ID, "", "404 no_such_task"},
		{"ends_its_own_task", "DELETE", "/" + x.ID, "", "404 no_such_task"},
	} {
		t.Run(a.name, func(t *testing.T) {
			got := do(a.method, a.path, a.body)
			status, code, _ := strings.Cut(a.want, " ")
			if !strings.HasPrefix(got, status+" ") || !strings.Contains(got, `"code":"`+code+`"`) {
				t.Errorf("got %s, want %s", got, a.want)
			}
		})
	}
	if o, err := r.Server.Task(t.Context(), "", other.ID); err != nil || o.State != task.Proposed {
		t.Errorf("the other task: %s, %v", o.State, err)
	}

	var first struct{ Task string }
	answer := do("POST", "", part("link1", "link", "4711"))
	if body, ok := strings.CutPrefix(answer, "201 "); !ok || json.Unmarshal([]byte(body), &first) != nil {
		t.Fatalf("got %s", answer)
	}
	codes := func() (out []string) {
		for _, e := range r.Records(t, 0) {
			var b struct{ Code string }
			if e.Type == "task.refused" && e.Task != x.ID && json.Unmarshal(e.Body, &b) == nil {
				out = append(out, b.Code)
			}
		}
		return out
	}
	rig.Await(t, "the chain", func() bool { return slices.Contains(codes(), "too_deep") })
	if got := codes(); !slices.Equal(got, []string{"agent_above", "agent_above", "agent_above", "too_deep"}) {
		t.Errorf("refused inside of the chain: %q", got)
	}
	all, err := r.Server.Tasks(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	tree := map[string]task.Task{}
	for _, y := range all {
		if y.Top() == x.ID {
			tree[y.ID] = y
		}
	}
	if len(tree) != links {
		t.Errorf("the tree has %d tasks, want %d", len(tree), links)
	}
	for id, y := range tree {
		if id != x.ID && (y.Requester != "dana" || y.OpenedBy == "" || y.Params["ticket"] != "4711" || y.State != task.Active) {
			t.Errorf("got %+v", y)
		}
		if y.Parent() == first.Task {
			if got := do("DELETE", "/"+id, ""); !strings.HasPrefix(got, "404 ") {
				t.Errorf("a part of a part is not its own: got %s", got)
			}
		}
	}
	if got := do("GET", "/"+first.Task, ""); !strings.Contains(got, `"state":"active"`) {
		t.Errorf("got %s", got)
	}
	if got := do("DELETE", "/"+first.Task, ""); !strings.HasPrefix(got, "200 ") {
		t.Errorf("got %s", got)
	}
	rig.Await(t, "the end of all parts", func() bool {
		for id := range tree {
			y, err := r.Server.Task(t.Context(), "", id)
			if err != nil {
				t.Fatal(err)
			}
			if id != x.ID && !y.State.Over() {
				return false
			}
		}
		return true
	})
	t.Run("flood", func(t *testing.T) {
		for range 40 {
			do("POST", "", part("link1", "wide", "4711"))
		}
		if got := do("POST", "", part("link1", "link", "4711")); !strings.HasPrefix(got, "429 ") {
			t.Errorf("got %s", got)
		}
		n := 0
		for _, e := range r.Records(t, 0) {
			if e.Type == "task.refused" && e.Task == x.ID {
				n++
			}
		}
		if n > 33 {
			t.Errorf("%d refusals of one task are on record", n)
		}
	})
	tell.Close()
	rig.Wait(t, running)
	followed(t, r.Records(t, 0), tree)
}

// followed checks that every record of a task in the tree leads to the person
// who opened the task at the top, and that those of task, action, credential and
// identity say so themselves.
func followed(t *testing.T, all []record.Entry, tree map[string]task.Task) {
	t.Helper()
	opened := map[string]task.Task{}
	actor := map[string]string{}
	for _, e := range all {
		if e.Type == "task.opened" {
			var x task.Task
			if err := json.Unmarshal(e.Body, &x); err != nil {
				t.Fatal(err)
			}
			opened[e.Task], actor[e.Task] = x, e.Actor
		}
	}
	seen := map[string]bool{}
	for _, e := range all {
		y, ok := tree[e.Task]
		if !ok {
			continue
		}
		for at := e.Task; ; at = opened[at].Parent() {
			x, ok := opened[at]
			if !ok {
				t.Fatalf("%s: there is no record of the opening of %q", e.Type, at)
			}
			if x.Parent() == "" {
				if actor[at] != "person:dana" {
					t.Errorf("%s: leads to %s", e.Type, actor[at])
				}
				break
			}
			if want := "agent:" + opened[x.Parent()].Agent; actor[at] != want {
				t.Errorf("%s was opened by %s, want %s", at, actor[at], want)
			}
		}
		kind, _, _ := strings.Cut(e.Type, ".")
		if !slices.Contains([]string{"task", "lease", "identity"}, kind) && e.Type != "action.decided" {
			continue
		}
		seen[e.Type] = true
		var b struct{ Chain []string }
		if err := json.Unmarshal(e.Body, &b); err != nil {
			t.Fatal(err)
		}
		want := y.Chain
		if e.Type == "task.refused" { // of the part that there would have been
			want = append([]string{y.ID}, y.Chain...)
		}
		if !slices.Equal(b.Chain, want) {
			t.Errorf("%s of %s: says %q is above, want %q in %s", e.Type, e.Task, b.Chain, want, bytes.TrimSpace(e.Body))
		}
	}
	for _, want := range []string{"task.opened", "task.active", "task.closed", "task.revoked", "task.refused", "lease.requested", "lease.issued", "lease.revoked",
		"identity.attested", "identity.issued", "action.decided"} {
		if !seen[want] {
			t.Errorf("there is no record %s in the tree", want)
		}
	}
}
