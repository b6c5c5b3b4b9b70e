package readiness_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/readiness"
)

// audit adds a record of what was found in the audit log of iam, which is read.
func (b *broken) audit(typ string, body map[string]any) {
	body["connector"] = "iam"
	b.add(typ, "", "", "sallyport", body)
	b.w.Audits = []readiness.Audit{{Connector: "iam", Declared: true, Read: time.Now()}}
}

func finding(kind, who string) map[string]any {
	return map[string]any{"findings": []any{map[string]any{"kind": kind, "agents": []any{"other", who}, "operation": reset, "event": "7", "name": "user.mfa.reset", "why": "nothing explains it"}}}
}

// auditBreaks are wrong in what applications' own audit logs show.
var auditBreaks = []one{
	{"audit_log_shows_more", "runtime-policy", func(b *broken) { b.audit("audit.bypass", finding("bypass", agent)) }},
	{"audit_log_shows_less", "runtime-policy", func(b *broken) { b.audit("audit.missing", finding("missing", agent)) }},
	{"audit_log_rewritten", "runtime-policy", func(b *broken) { b.audit("audit.rewritten", finding("rewritten", agent)) }},
	{"audit_log_not_read_yet", "runtime-policy", func(b *broken) {
		b.w.Audits = []readiness.Audit{{Connector: "iam", Declared: true, Failing: "answers 401"}}
	}},
	{"audit_log_of_accounts_that_are_not_known", "runtime-policy", func(b *broken) {
		b.w.Audits = []readiness.Audit{{Connector: "iam", Declared: true, Read: time.Now(), Nameless: []string{"iam-token"}}}
	}},
	{"audit_log_not_read_for_long", "runtime-policy", func(b *broken) {
		b.w.Audits = []readiness.Audit{{Connector: "iam", Declared: true, Read: time.Now().Add(-time.Hour), Stale: true}}
	}},
}

// TestReconciledCount: how many effects the applications saw, and that an application
// without an audit log is named.
func TestReconciledCount(t *testing.T) {
	s := newStory(t)
	s.tell()
	b := breakable(t, s)
	var pairs []any
	for _, r := range b.all("action.decided", op(reset)) {
		pairs = append(pairs, map[string]any{"event": "7", "action": r.body["action"].(map[string]any)["id"]})
	}
	if len(pairs) == 0 {
		t.Fatal("the story has no reset")
	}
	want := fmt.Sprintf("%d effects", len(pairs))
	b.audit("audit.matched", map[string]any{"pairs": slices.Clone(pairs)}) // and again, as after a crash
	pairs = append(pairs, map[string]any{"event": "8", "action": "a-of-another-agent"})
	b.audit("audit.matched", map[string]any{"pairs": pairs})
	b.audit("audit.bypass", finding("bypass", "somebody-else"))
	b.w.Audits = append(b.w.Audits, readiness.Audit{Connector: "tickets"})
	b.close()
	r := evaluate(t, b, readiness.Options{})
	said := text(t, r)
	if !r.Ready {
		t.Errorf("it is not ready:\n%s", said)
	}
	for _, want := range []string{want + " in the audit logs of iam, each with its record; no audit log is read of tickets."} {
		if !strings.Contains(strings.Join(strings.Fields(said), " "), want) {
			t.Errorf("it does not say %q:\n%s", want, said)
		}
	}
}
