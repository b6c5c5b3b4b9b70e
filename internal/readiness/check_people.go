package readiness

import (
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/approval"
)

func checkApprovers(k *check) {
	e := k.e
	names := e.approvers()
	if len(names) == 0 {
		k.fail("declare a Person with the role approver and a key, other than owner and deputy", nil, "nobody could approve a change of this agent")
	}
	const next = "ask an approver: sallyport approvals"
	refs, people, why := e.inForce(approval.Boundary, e.w.Agent, e.w.Declared.Digest())
	if why != "" {
		k.fail(next, refs, "the boundary, as declared now: %s", why)
	} else {
		k.ok(refs, "the boundary as declared now (%s) is approved by %s", short(string(e.w.Declared.Digest())), list(people, "and"))
	}
	for _, f := range e.w.Declared.Facts {
		name, ok := strings.CutPrefix(f.Name, "capability.")
		if !ok {
			continue
		}
		refs, people, why := e.inForce(approval.Capability, name, digest(f.Value))
		if why != "" {
			k.fail(next, refs, "capability %s, as declared now: %s", name, why)
		} else {
			k.ok(refs, "capability %s as declared now (%s) is approved by %s", name, short(f.Value), list(people, "and"))
		}
	}
	if c := e.w.Live; c != nil {
		refs, people, why := e.inForce(approval.Certification, c.ID, c.Statement())
		if why != "" {
			k.fail(next, refs, "certification %s: %s", c.ID, why)
		} else {
			k.ok(refs, "certification %s is approved by %s", c.ID, list(people, "and"))
		}
	}
	k.decisions()
	what := "boundary and capabilities are"
	if e.w.Live != nil {
		what = "boundary, capabilities and certification are"
	}
	k.pass("%s approved as they are now, by signatures that were verified again; those who may approve changes: %s", what, list(names, "and"))
}

// decisions shows how long people took to sign. It decides nothing: nobody can
// tell from a time whether somebody has read.
func (k *check) decisions() {
	took := map[string][]int64{}
	refs := map[string][]ref{}
	for _, g := range k.e.h.granted {
		if k.e.counts(g.time) {
			took[g.Person], refs[g.Person] = append(took[g.Person], g.Took), append(refs[g.Person], g.ref)
		}
	}
	for _, who := range slices.Sorted(maps.Keys(took)) {
		t := took[who]
		slices.Sort(t)
		hasty, _ := slices.BinarySearch(t, approval.HastyMillis)
		k.ok(refs[who], "%s signed %s: median %s after it was asked, fastest %s, %d within %s", who, count(len(t), "time"),
			seconds(t[len(t)/2]), seconds(t[0]), hasty, seconds(approval.HastyMillis))
	}
}

func seconds(millis int64) string { return (time.Duration(millis) * time.Millisecond).String() }

// conflicts are roles that nobody may hold together.
var conflicts = [][2]string{
	{"secrets-administrator", "approver"},
	{"secrets-administrator", "policy-author"},
	{"secrets-administrator", "identity-administrator"},
	{"identity-administrator", "approver"},
}

const apart = "give the roles to different people"

// roles: nobody holds roles that must not meet, under one name or several.
func (k *check) roles() {
	e := k.e
	for i, p := range e.w.People {
		roles := slices.Clone(p.Roles)
		who := p.Name
		for j, q := range e.w.People {
			if i == j {
				continue
			}
			if j > i && sharedKey(p, q) {
				k.fail("register a key to one person only", nil, "%s and %s have the same key", p.Name, q.Name)
			}
			if e.same(p.Name, q.Name) {
				roles = append(roles, q.Roles...)
				who = p.Name + " (also " + q.Name + ")"
			}
		}
		for _, c := range conflicts {
			if slices.Contains(roles, c[0]) && slices.Contains(roles, c[1]) {
				k.fail(apart, nil, "%s is both %s and %s", who, c[0], c[1])
			}
		}
	}
	for _, c := range e.w.Conflicts {
		k.fail(apart, nil, "%s", c)
	}
}

func checkSeparation(k *check) {
	e := k.e
	k.roles()
	var signed []ref
	who := map[string][]ref{}
	for _, g := range e.h.granted {
		if !e.counts(g.time) {
			continue
		}
		if why := e.selfApproved(g); why != "" {
			k.fail("have somebody else approve it", []ref{g.ref}, "%s (%s %s)", why, g.Statement.Kind, short(g.Statement.Subject))
			continue
		}
		signed = append(signed, g.ref)
		who[g.Person] = append(who[g.Person], g.ref)
	}
	var stored []ref
	for _, s := range e.h.secrets {
		if !e.counts(s.time) {
			continue
		}
		p, ok := e.person(s.person)
		switch {
		case ok && !slices.Contains(p.Roles, "secrets-administrator"):
			k.fail("let a secrets administrator store it again", []ref{s.ref}, "secret %s was stored by %s, who is no secrets administrator", s.name, s.person)
		case len(who[s.person]) > 0:
			k.fail(apart, append([]ref{s.ref}, who[s.person]...), "%s both stored secret %s and approved", s.person, s.name)
		default:
			stored = append(stored, s.ref)
		}
	}
	if len(e.h.secrets) == 0 && len(e.h.order) > 0 {
		k.unknown("let a secrets administrator store the secrets: sallyport secret put", nil, "credentials were issued, and no record shows who stored the secrets behind them")
	}
	if len(signed) == 0 {
		k.unknown("ask an approver: sallyport approvals", nil, "no approval is on record, so nothing shows who approves")
		return
	}
	k.ok(signed, "%s, none by somebody who wrote, asked for or owns the thing", count(len(signed), "approval"))
	if len(stored) > 0 {
		k.ok(stored, "%s stored, all by secrets administrators, none of whom approved anything", count(len(stored), "secret"))
	}
	k.pass("nobody holds roles that must not meet, and nobody approved what they wrote, asked for or own")
}

func sharedKey(p, q approval.Person) bool {
	for _, a := range p.Keys {
		if _, shared := holds(q, a); shared {
			return true
		}
	}
	return false
}
