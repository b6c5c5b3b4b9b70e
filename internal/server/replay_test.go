package server_test

import (
	"bytes"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/replay"
	"github.com/sallyport-dev/sallyport/internal/resource"
	"github.com/sallyport-dev/sallyport/internal/server"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// past is a tenant with decisions on record: each by its real gate, grants,
// guardrails and approvers, of requests that no browser sent. Half of them are told
// one by one, the other half are random.
type past struct {
	*rig.Rig
	top, part  string    // tasks
	told, rest []string  // all tasks
	since      time.Time // of those that are told
}

// parts lets the sample's agent open parts for a second one.
func parts(files map[string][]byte) {
	files["capability.yaml"] = append(files["capability.yaml"], "  delegates: [{agent: second, capability: reset-mfa}]\n"...)
	files["second.yaml"] = files["agent.yaml"]
	rig.Replace("second.yaml", "name: helpdesk\n", "name: second\n")(files)
}

func newPast(t *testing.T) *past {
	p := &past{Rig: rig.New(t, rig.Options{Edit: parts})}
	p.Ready(t)
	var top, part *server.Asker
	p.rest, top, part = p.open(t)
	p.ask(t, part, "GET", "tickets", "/tickets/4711", "", "allow permitted") // untrusted, so that this asks for a person:
	p.ask(t, top, "POST", "iam", "/users/jo/mfa/reset", "_csrf=a", "allow approved")
	p.random(t, 7, top, part)
	p.since = time.Now()
	p.told, top, part = p.open(t)
	p.top, p.part = p.told[0], p.told[1]
	p.ask(t, top, "GET", "iam", "/users/jo", "", "allow permitted")
	p.ask(t, top, "POST", "iam", "/users/Jo/mfa/reset", "_csrf=a", "allow approved")
	p.ask(t, part, "POST", "tickets", "/tickets/4711/comments", "_csrf=a&body=done", "allow permitted")
	p.ask(t, top, "POST", "tickets", "/tickets/4711/comments", "_csrf=a&body="+strings.Repeat("long+", 1000), "allow approved")
	p.ask(t, part, "POST", "tickets", "/tickets/4711/comments", "_csrf=a&body=once+more", "deny count_spent") // of the task above
	p.ask(t, top, "POST", "iam", "/groups/global-administrators/members", "_csrf=a&user=jo", "deny global_administrators")
	p.ask(t, top, "POST", "iam", "/users/tom/disable", "_csrf=a", "deny second_person")
	p.ask(t, top, "POST", "tickets", "/tickets/4712/close", "_csrf=a", "deny outside_grant")
	for _, id := range slices.Concat(p.rest, p.told) {
		if _, err := p.Server.CloseTask(t.Context(), "", rig.As("dana"), id); err != nil {
			t.Fatal(err)
		}
	}
	return p
}

// open starts a task and a part of it.
func (p *past) open(t *testing.T) (ids []string, top, part *server.Asker) {
	t.Helper()
	in := rig.Intent(action.Sandbox, "jo", "4711")
	in.Agent = "helpdesk"
	above := p.OpenTask(t, in).ID
	top = p.start(t, above)
	in.Agent, in.Parent = "second", above
	below := p.OpenTask(t, in).ID
	return []string{above, below}, top, p.start(t, below)
}

func (p *past) start(t *testing.T, id string) *server.Asker {
	t.Helper()
	a, err := p.Server.StartAsker(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return a
}

func (p *past) origin(app string) string {
	return fmt.Sprintf("https://%s.sandbox.brightwell.localhost:%s", app, p.Ports.Sandbox)
}

func (p *past) ask(t *testing.T, a *server.Asker, method, app, path, body, want string) {
	t.Helper()
	r, err := a.Request(t.Context(), action.Request{Method: method, Origin: p.origin(app), Path: path}, body, "a-0")
	if err != nil {
		t.Fatal(err)
	}
	if got := string(r.Decision.Verdict) + " " + r.Decision.Code; want != "" && got != want {
		t.Fatalf("%s %s: got %s: %s; want %s", method, path, got, r.Decision.Reason, want)
	}
}

// random adds what no list would think of. Nobody waits for people in it.
func (p *past) random(t *testing.T, seed uint64, tasks ...*server.Asker) {
	t.Helper()
	rnd := rand.New(rand.NewPCG(seed, 1))
	of := func(all ...string) string { return all[rnd.IntN(len(all))] }
	ctx := gate.WithPatience(t.Context(), 0)
	for range 60 {
		a := tasks[rnd.IntN(len(tasks))]
		switch rnd.IntN(4) {
		case 0:
			endpoint, model := a.Model()
			a.Act(ctx, action.Action{Surface: action.Inference, Source: "harness", Operation: "inference.messages", Effect: action.Read,
				Params: map[string]string{"endpoint": of(endpoint, "https://elsewhere.example"), "model": of(model, "another")}})
		case 1:
			origin := of(p.origin("iam"), p.origin("tickets"), "https://elsewhere.example")
			a.Act(ctx, action.Action{Surface: action.Computer, Source: "harness", Operation: of("computer.left_click", "computer.type", "computer.upload", "computer.malformed"),
				Effect: action.Read, App: a.AppOf(origin), Params: map[string]string{"why": "x"},
				Element: &action.Element{FrameOrigin: origin, TopOrigin: origin, InputType: of("", "password"), Uninspectable: of("", "", "canvas")}})
		default:
			q := action.Request{Method: of("GET", "POST", "PUT", "HEAD", "OPTIONS"), Origin: of(p.origin("iam"), p.origin("tickets"), "https://elsewhere.example"),
				Path:  of("/", "/users/jo", "/users/tom/", "/users/jo/mfa/reset", "/static/a.css", "/users/jo/disable", "/tickets/4711", "/tickets/4711", "/tickets/4711/close", "/tickets/4712/close", "/%2e/x"),
				Query: of("", "", "a=1"), Destination: of("document", "empty", "websocket")}
			body := ""
			if q.Method == "POST" || q.Method == "PUT" {
				body = url.Values{"_csrf": {"a"}, of("user", "_csrf", "body"): {of("jo", "tom")}}.Encode()
			}
			if _, err := a.Request(ctx, q, body, of("", "a-0")); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// try replays with changed resources, or with those in force if nothing is edited.
func (p *past) try(t *testing.T, person string, f replay.Filter, edits ...func(map[string][]byte)) (replay.Report, error) {
	t.Helper()
	if len(edits) == 0 {
		return p.Server.Replay(t.Context(), "", rig.As(person), nil, f)
	}
	all, err := p.Resources(func(files map[string][]byte) {
		for _, e := range append([]func(map[string][]byte){parts}, edits...) {
			e(files)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return p.Server.Replay(t.Context(), "", rig.As(person), all, f)
}

func (p *past) replay(t *testing.T, person string, f replay.Filter, edits ...func(map[string][]byte)) replay.Report {
	t.Helper()
	rep, err := p.try(t, person, f, edits...)
	if err != nil {
		t.Fatal(err)
	}
	return rep
}

// said is a report in lines.
func said(rep replay.Report) (out []string) {
	side := func(s replay.Side) string { return fmt.Sprintf("%s %s %s", s.Verdict, s.Layer, s.Code) }
	for _, g := range rep.Differences {
		as := ""
		if g.New.Operation != g.Old.Operation {
			as = " as " + g.New.Operation
		}
		out = append(out, fmt.Sprintf("%s %d %s: %s -> %s%s", g.Change, len(g.Records), g.Old.Operation, side(g.Old), side(g.New), as))
	}
	return out
}

func whys(rep replay.Report) (out []string) {
	for _, s := range rep.NotReplayed {
		out = append(out, s.Why)
	}
	return out
}

func add(file, text string) func(map[string][]byte) {
	return func(files map[string][]byte) { files[file] = append(files[file], text...) }
}

// renamed is an operation under another name wherever resources name it, and not in
// the policies.
func renamed(old, now string) func(map[string][]byte) {
	return func(files map[string][]byte) {
		for name, b := range files {
			if strings.HasSuffix(name, ".yaml") && !strings.Contains(name, "/") {
				files[name] = bytes.ReplaceAll(b, []byte(old), []byte(now))
			}
		}
	}
}

// rewritten are the connectors in other words, so that every body is read again.
func rewritten(files map[string][]byte) {
	rig.Replace("connectors.yaml", "description: The directory", "description: Once more, the directory")(files)
	rig.Replace("connectors.yaml", "description: The helpdesk queue", "description: Once more, the helpdesk queue")(files)
}

// TestReplay: what is on record, decided again.
//
// Threats: R5 (policy, ledger)
func TestReplay(t *testing.T) {
	if testing.Short() {
		t.Skip("starts the sample estate")
	}
	p := newPast(t)
	t.Run("unchanged", func(t *testing.T) { replayUnchanged(t, p) })
	t.Run("changes", func(t *testing.T) { replayChanges(t, p) })
	t.Run("bounds", func(t *testing.T) { replayBounds(t, p) })
	t.Run("grants_nothing", func(t *testing.T) { replayGrantsNothing(t, p) })
	t.Run("attack", func(t *testing.T) { replayAttacked(t, p) })
}

// What is in force decides as it did: every decision of policy, of a random past.
func replayUnchanged(t *testing.T, p *past) {
	asked := 0
	for _, id := range slices.Concat(p.told, p.rest) {
		for _, d := range p.Decisions(t, id) {
			if d.Decision.Layer != action.LayerAuthority && !strings.HasSuffix(d.Action.Operation, ".malformed") {
				asked++
			}
		}
	}
	rep := p.replay(t, "noor", replay.Filter{})
	if len(rep.Differences) > 0 || rep.Cut != "" || rep.Unchanged != asked || asked < 40 {
		t.Errorf("%d decisions are unchanged, of %d that policy made: %q %q", rep.Unchanged, asked, said(rep), rep.Cut)
	}
	if got := whys(rep); !slices.Equal(got, []string{"it has no canonical form on record"}) {
		t.Errorf("not replayed: %q", got)
	}
	rep = p.replay(t, "lin", replay.Filter{}, rewritten)
	if len(rep.Differences) > 0 || rep.Unchanged != asked {
		t.Errorf("by connectors in other words: %d of %d, %q, not replayed: %q", rep.Unchanged, asked, said(rep), whys(rep))
	}
}

// replayChanges is the table of what a change does to the past that is told.
func replayChanges(t *testing.T, p *past) {
	const policies = "policies/company.cedar"
	for name, c := range map[string]struct {
		edit func(map[string][]byte)
		want []string
	}{
		"guardrail_added": {add(policies, `
@id("company/frozen") @code("frozen") @reason("no comments today")
forbid (principal, action == Action::"tickets.ticket.comment", resource == App::"tickets");
`), []string{
			"tightened 1 tickets.ticket.comment: hold guardrail needs_approval -> deny guardrail frozen",
			"tightened 1 tickets.ticket.comment: allow grant permitted -> deny guardrail frozen",
			"otherwise 1 tickets.ticket.comment: deny grant count_spent -> deny guardrail frozen"}},
		"guardrail_removed": {rig.Replace(policies, "context.request.bodySize > 4000", "context.request.bodySize > 40000"), []string{
			"loosened 1 tickets.ticket.comment: hold guardrail needs_approval -> allow grant permitted"}},
		"guardrail_for_others": {rig.Replace(policies, `context.params.group == "global-administrators"`, `context.params.group == "payroll"`), []string{
			"otherwise 1 iam.group.member.add: deny guardrail global_administrators -> deny grant outside_grant"}},
		"count_raised": {rig.Replace("capability.yaml", "max: 2", "max: 3"), []string{
			"loosened 1 tickets.ticket.comment: deny grant count_spent -> allow grant permitted"}},
		"count_lowered": {rig.Replace("capability.yaml", "max: 2", "max: 1"), []string{
			"tightened 1 tickets.ticket.comment: hold guardrail needs_approval -> deny grant count_spent"}},
		"rule_added_before": {rig.Replace("capability.yaml", "  operations:\n", "  operations:\n    - {operation: iam.user.enable, where: {user: \"{{user}}\"}, max: 1}\n"), nil},
		"capability_narrowed": {rig.Replace("capability.yaml", `where: {ticket: "{{ticket}}", text: {any: true}}`, `where: {ticket: "{{ticket}}", text: done}`), []string{
			"tightened 1 tickets.ticket.comment: hold guardrail needs_approval -> deny grant outside_grant",
			"otherwise 1 tickets.ticket.comment: deny grant count_spent -> deny grant outside_grant"}},
		"task_refused": {func(files map[string][]byte) {
			rig.Replace("capability.yaml", `pattern: "[0-9]{4,8}"`, `pattern: "[0-9]{8}"`)(files)
			renamed(`ticket: "471`, `ticket: "0000471`)(files)
		}, []string{
			"tightened 1 iam.user.mfa.reset: hold grant needs_approval -> deny authority not_opened",
			"tightened 1 iam.user.read: allow grant permitted -> deny authority not_opened",
			"tightened 1 tickets.ticket.comment: hold guardrail needs_approval -> deny authority not_opened",
			"tightened 1 tickets.ticket.comment: allow grant permitted -> deny authority not_opened",
			"otherwise 1 iam.group.member.add: deny guardrail global_administrators -> deny authority not_opened",
			"otherwise 1 iam.user.disable: deny guardrail second_person -> deny authority not_opened",
			"otherwise 1 tickets.ticket.close: deny grant outside_grant -> deny authority not_opened",
			"otherwise 1 tickets.ticket.comment: deny grant count_spent -> deny authority not_opened"}},
		"parameter_not_folded": {rig.Replace("connectors.yaml", "fold: [user, group]", "fold: [group]"), []string{
			"tightened 1 iam.user.mfa.reset: hold grant needs_approval -> deny grant outside_grant"}},
		// The guardrail about the old name says nothing of the new one: the long comment passes.
		"operation_renamed": {renamed("tickets.ticket.comment", "tickets.ticket.reply"), []string{
			"loosened 1 tickets.ticket.comment: hold guardrail needs_approval -> allow grant permitted as tickets.ticket.reply",
			"otherwise 1 tickets.ticket.comment: allow grant permitted -> allow grant permitted as tickets.ticket.reply",
			"otherwise 1 tickets.ticket.comment: deny grant count_spent -> deny grant count_spent as tickets.ticket.reply"}},
		"operation_undeclared": {rig.Replace("connectors.yaml", `path: "/users/{user}/disable"`, `path: "/people/{user}/disable"`), []string{
			"otherwise 1 iam.user.disable: deny guardrail second_person -> deny guardrail unmatched_write as egress.unmatched"}},
	} {
		t.Run(name, func(t *testing.T) {
			rep := p.replay(t, "lin", replay.Filter{Since: p.since}, c.edit)
			got := said(rep)
			slices.Sort(got)
			slices.Sort(c.want)
			if !slices.Equal(got, c.want) {
				t.Errorf("got  %q\nwant %q\nnot replayed: %q", got, c.want, whys(rep))
			}
		})
	}
}

func replayBounds(t *testing.T, p *past) {
	looked := func(rep replay.Report) int {
		n := rep.Replayed
		for _, s := range rep.NotReplayed {
			n += len(s.Records)
		}
		return n
	}
	if rep := p.replay(t, "noor", replay.Filter{Limit: 5}); looked(rep) != 5 || rep.Cut != "limit" {
		t.Errorf("limit: %d %q", looked(rep), rep.Cut)
	}
	if rep := p.replay(t, "noor", replay.Filter{Since: time.Now().Add(time.Hour)}); looked(rep) != 0 || rep.Cut != "" {
		t.Errorf("since: %d", looked(rep))
	}
	if rep := p.replay(t, "noor", replay.Filter{Task: p.part}); looked(rep) != 2 || len(rep.Differences) > 0 {
		t.Errorf("one part, counted with the task above: %d %q", looked(rep), said(rep))
	}
	if rep := p.replay(t, "noor", replay.Filter{Agent: "second", Since: p.since}); looked(rep) != 2 {
		t.Errorf("agent: %d", looked(rep))
	}
	last := p.Records(t, 0)
	for want, f := range map[string]replay.Filter{"invalid_limit": {Limit: replay.MaxLimit + 1}, "no_such_task": {Task: "t-none"}, "no_such_agent": {Agent: "none"}} {
		if _, err := p.try(t, "noor", f); code(err) != want {
			t.Errorf("%+v: got %v, want %s", f, err, want)
		}
	}
	// What names nothing is not repeated on record, however long it is.
	for _, e := range p.Records(t, int64(len(last))) {
		if e.Type == "policy.replayed" {
			t.Errorf("on record is %s", e.Body)
		}
	}
	if _, err := p.try(t, "noor", replay.Filter{}, rig.Replace("agent.yaml", "owner: mara", "owner: nobody")); code(err) != "invalid_resources" {
		t.Errorf("an agent of nobody: %v", err)
	}
}

func code(err error) string {
	if p, ok := errors.AsType[*server.Problem](err); ok {
		return p.Code
	}
	return fmt.Sprint(err)
}

// A replay adds its own record to the log, and changes nothing else that can be read.
func replayGrantsNothing(t *testing.T, p *past) {
	seen := func() (string, int) {
		all, err := p.Server.Resources("", "", "")
		tasks, err2 := p.Server.Tasks(t.Context(), "")
		if err != nil || err2 != nil {
			t.Fatal(err, err2)
		}
		return fmt.Sprintf("%s %+v %+v", all, tasks, p.Pending(t)), len(p.Records(t, 0))
	}
	before, n := seen()
	rep := p.replay(t, "lin", replay.Filter{Since: p.since}, rig.Replace("capability.yaml", "max: 2", "max: 3"))
	after, m := seen()
	if last := p.Records(t, int64(n)); before != after || m != n+1 || last[0].Type != "policy.replayed" || last[0].Actor != "person:lin" {
		t.Errorf("a replay left %d records and other state: %v", m-n, before != after)
	}
	if len(rep.Differences) != 1 || rep.Differences[0].Change != replay.Loosened {
		t.Errorf("it tried nothing: %q", said(rep))
	}
}

// Who may not, what is not theirs, and records that are not what they say.
func replayAttacked(t *testing.T, p *past) {
	told := replay.Filter{Since: p.since}
	for _, person := range []string{"dana", "mara", "ines", "sven", "kofi", "ada", "nobody"} {
		if _, err := p.try(t, person, told); code(err) != "role_missing" && code(err) != "person_unknown" {
			t.Errorf("%s: %v", person, err)
		}
	}
	all, err := p.Resources(func(files map[string][]byte) { parts(files) })
	if err != nil {
		t.Fatal(err)
	}
	all[0].Metadata.Tenant = "other"
	if all[0].Kind == resource.KindTenant {
		all[0].Metadata.Name = "other"
	}
	if _, err := p.Server.Replay(t.Context(), "", rig.As("noor"), all, told); code(err) != "other_tenant" {
		t.Errorf("resources of another tenant: %v", err)
	}
	// An author asks what is in a body: whether it is long, by an operation of their own.
	const closed = "body is for an auditor, and its connector is another"
	if rep := p.replay(t, "noor", told, rewritten); !slices.Equal(whys(rep), []string{closed}) || rep.Replayed != 1 {
		t.Errorf("an author without a payload: %d, %q", rep.Replayed, whys(rep))
	}
	log, err := p.Server.Log("")
	if err != nil {
		t.Fatal(err)
	}
	// Decisions that somebody wrote beside the gate: they are not decided, and nothing that they say counts.
	real := p.Decisions(t, p.part)[0]
	other, elsewhere := real, real
	other.Action.Tenant, elsewhere.Action.Task = "other", p.top
	for _, body := range []any{other, elsewhere, map[string]any{"action": 7}} {
		if _, err := log.Append(t.Context(), record.Draft{Type: "action.decided", Task: p.part, Agent: "second", Body: body}); err != nil {
			t.Fatal(err)
		}
	}
	rep := p.replay(t, "noor", told)
	if want := []string{"the record cannot be read", "the record is of another task or tenant than its action"}; !slices.Equal(whys(rep), want) || len(rep.Differences) > 0 {
		t.Errorf("forged records: %q %q", whys(rep), said(rep))
	}
	// What is erased is not guessed; where nobody needs it, it is not missed.
	for _, id := range p.told {
		if _, err := log.DestroyKey(t.Context(), id, "person:ada"); err != nil {
			t.Fatal(err)
		}
	}
	if rep := p.replay(t, "lin", told, rewritten); !slices.Contains(whys(rep), "body is gone") || rep.Replayed != 1 {
		t.Errorf("erased: %d, %q", rep.Replayed, whys(rep))
	}
	if rep := p.replay(t, "lin", told); slices.Contains(whys(rep), "body is gone") || rep.Unchanged != 8 {
		t.Errorf("erased, and not needed: %d, %q", rep.Unchanged, whys(rep))
	}
}
