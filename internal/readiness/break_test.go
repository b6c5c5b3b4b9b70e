package readiness_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/boundary"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/certify"
	"github.com/sallyport-dev/sallyport/internal/lease"
	"github.com/sallyport-dev/sallyport/internal/readiness"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// one is a single break, and the condition that must notice it.
type one struct {
	name, condition string
	f               func(*broken)
}

func (b *broken) person(name string) *approval.Person {
	i := slices.IndexFunc(b.w.People, func(p approval.Person) bool { return p.Name == name })
	return &b.w.People[i]
}

// fact changes one fact of the boundary in force.
func (b *broken) fact(name string, f func(*boundary.Fact)) {
	i := slices.IndexFunc(b.w.Live.Manifest.Facts, func(f boundary.Fact) bool { return f.Name == name })
	if i < 0 {
		b.Fatalf("no fact %s", name)
	}
	f(&b.w.Live.Manifest.Facts[i])
}

func (b *broken) declare(name, value string) {
	i := slices.IndexFunc(b.w.Declared.Facts, func(f boundary.Fact) bool { return f.Name == name })
	b.w.Declared.Facts[i].Value = value
}

func in(m map[string]any, path ...string) map[string]any {
	for _, p := range path {
		m = m[p].(map[string]any)
	}
	return m
}

const reset = "iam.user.mfa.reset"

// declaredBreaks are wrong in what is declared or held now.
var declaredBreaks = []one{
	{"no_owner", "owner-environment", func(b *broken) { b.w.Owner = "" }},
	{"owner_not_declared", "owner-environment", func(b *broken) { b.w.Owner = "ghost" }},
	{"owner_without_the_role", "owner-environment", func(b *broken) { b.w.Owner = "dana" }},
	{"no_deputy", "owner-environment", func(b *broken) { b.w.Deputy = "" }},
	{"deputy_is_owner", "owner-environment", func(b *broken) { b.w.Deputy = "mara" }},
	{"deputy_shares_the_owners_account", "owner-environment", func(b *broken) { b.person("tom").Accounts = []string{"unix:mara"} }},
	{"no_purpose", "owner-environment", func(b *broken) { b.w.Purpose = " " }},
	{"review_is_past", "owner-environment", func(b *broken) { b.w.ReviewBy = "2020-01-31" }},
	{"no_review", "owner-environment", func(b *broken) { b.w.ReviewBy = "" }},
	{"tier_unknown", "owner-environment", func(b *broken) { b.w.Tier = "harmless" }},
	{"machine_contains_less_now", "owner-environment", func(b *broken) { b.w.Containment = "partial" }},
	{"containment_none", "owner-environment", func(b *broken) {
		b.w.Containment = "none"
		b.fact("containment", func(f *boundary.Fact) { f.Value = "none" })
	}},
	{"no_certification", "recertification", func(b *broken) { b.w.Live = nil }},
	{"certification_of_another_agent", "recertification", func(b *broken) { b.w.Live.Agent = "other" }},
	{"certification_for_the_sandbox", "recertification", func(b *broken) { b.w.Live.Stage = "sandbox" }},
	{"certification_id_without_records", "recertification", func(b *broken) { b.w.Live.ID = "c-999" }},
	{"certification_prolonged_in_the_state", "recertification", func(b *broken) { b.w.Live.Expires = b.w.Live.Expires.Add(time.Hour) }},
	{"fact_changed_in_the_state", "recertification", func(b *broken) { b.fact("browser.version", func(f *boundary.Fact) { f.Value = "1" }) }},
	{"fact_taken_out_of_the_state", "owner-environment", func(b *broken) {
		b.w.Live.Manifest.Facts = slices.DeleteFunc(b.w.Live.Manifest.Facts, func(f boundary.Fact) bool { return f.Name == "harness.binary" })
	}},
	{"server_of_tools_never_seen", "recertification", func(b *broken) { b.w.Tools = []string{"mcp.queue.server"} }},
	{"scripted_model_of_a_real_tenant", "recertification", func(b *broken) { b.w.Scripted = true }},
	{"model_changed", "inference-location", func(b *broken) { b.declare("model.id", "model-8") }},
	{"location_changed", "inference-location", func(b *broken) { b.declare("model.location", "elsewhere") }},
	{"prompt_changed", "recertification", func(b *broken) { b.declare("prompt.system", string(dig("another prompt"))) }},
	{"connector_changed", "recertification", func(b *broken) { b.declare("connector.iam", string(dig("another connector"))) }},
	{"capability_changed", "change-approval", func(b *broken) { b.declare("capability.reset-mfa", string(dig("another capability"))) }},
	{"nobody_may_approve", "change-approval", func(b *broken) {
		b.w.People = slices.DeleteFunc(b.w.People, func(p approval.Person) bool { return p.Name == "ines" || p.Name == "felix" })
	}},
	{"approvers_without_keys", "change-approval", func(b *broken) { b.person("ines").Keys, b.person("felix").Keys = nil, nil }},
	{"approver_became_owner", "change-approval", func(b *broken) { b.w.Owner = "ines" }},
	{"approver_shares_the_owners_account", "change-approval", func(b *broken) { b.person("ines").Accounts = []string{"unix:MARA"} }},
	{"approver_lost_the_role", "change-approval", func(b *broken) { b.person("ines").Roles = []string{"auditor"} }},
	{"system_does_not_hold_what_is_on_record", "recertification", func(b *broken) { b.w.Live = nil; b.w.Certifications = nil }},
	{"approvers_key_replaced", "change-approval", func(b *broken) { b.person("ines").Keys = []string{b.keyOf("someone")} }},
	{"secrets_and_approver", "separation", func(b *broken) { b.person("sven").Roles = []string{"secrets-administrator", "approver"} }},
	{"secrets_and_policy", "separation", func(b *broken) { b.person("sven").Roles = []string{"secrets-administrator", "policy-author"} }},
	{"secrets_and_identity", "separation", func(b *broken) { b.person("sven").Roles = []string{"secrets-administrator", "identity-administrator"} }},
	{"identity_and_approver", "separation", func(b *broken) { b.person("felix").Roles = []string{"identity-administrator", "approver"} }},
	{"conflict_over_two_names", "separation", func(b *broken) { b.person("sven").Accounts = b.person("felix").Accounts }},
	{"key_of_two_people", "separation", func(b *broken) { b.person("dana").Keys = b.person("tom").Keys }},
	{"systems_own_finding", "separation", func(b *broken) { b.w.Conflicts = []string{"operator reads the store"} }},
	{"secrets_administrator_no_more", "separation", func(b *broken) { b.person("sven").Roles = []string{"requester"} }},
	{"no_retention", "logs", func(b *broken) { b.w.Retention = "" }},
	{"retention_of_nothing", "logs", func(b *broken) { b.w.RetentionDays = 0 }},
	{"environment_not_known", "workload-identity", func(b *broken) { b.w.Environment = nil }},
	{"static_secret_in_the_harness", "workload-identity", func(b *broken) { b.w.Environment = append(b.w.Environment, "AWS_SECRET_ACCESS_KEY=hunter2") }},
	{"lease_open_that_nobody_recorded", "just-in-time", func(b *broken) { b.w.Open = []lease.Lease{{ID: "l-999", Task: "t-999", State: lease.Issued}} }},
	{"lease_open_of_an_ended_task", "just-in-time", func(b *broken) {
		r := b.last("lease.issued")
		b.w.Open = []lease.Lease{{ID: r.body["id"].(string), Task: r.Task, State: lease.Revoking}}
	}},
	{"expired", "recertification", func(b *broken) { b.now = b.w.Live.Expires }},
	{"stale", "just-in-time", func(b *broken) { b.now = time.Now().Add(8 * 24 * time.Hour) }},
}

func (b *broken) keyOf(name string) string {
	k := signer(b, name)
	return strings.TrimSpace(string(authorized(k)))
}

// logBreaks are wrong in the log itself.
var logBreaks = []one{
	{"unsigned_checkpoint", "logs", func(b *broken) {
		b.checkpoint = func(s []byte) ([]byte, error) { return s[:bytes.Index(s, []byte("\n\n"))+2], nil }
	}},
	{"checkpoint_of_another_key", "logs", func(b *broken) { b.key = b.s.log.VerifierKey() }},
	{"checkpoint_text_changed", "logs", func(b *broken) {
		b.checkpoint = func(s []byte) ([]byte, error) { return bytes.Replace(s, []byte("acme"), []byte("acmf"), 1), nil }
	}},
	{"no_checkpoint", "logs", func(b *broken) {
		b.checkpoint = func([]byte) ([]byte, error) { return nil, errors.New("signer is gone") }
	}},
	{"checkpoint_of_the_empty_log", "logs", func(b *broken) { b.signed = 0 }},
	{"checkpoint_behind", "logs", func(b *broken) { b.signed = len(b.recs) - 3; b.now = time.Now().Add(3 * time.Second) }},
	{"evidence_not_under_the_checkpoint", "just-in-time", func(b *broken) { b.signed = len(b.recs) - 3 }},
	{"verify_finds_a_problem", "logs", func(b *broken) { b.problems = []string{"record 3 was changed"} }},
	{"verify_cannot_read", "logs", func(b *broken) { b.verifyErr = errors.New("disk") }},
	{"entries_stop_half_way", "logs", func(b *broken) { b.entriesErr = errors.New("disk") }},
}

// recordBreaks tell another story, consistently hashed and signed for.
var recordBreaks = []one{
	{"no_certification_run", "recertification", func(b *broken) { b.dropType("certification.run") }},
	{"no_certification_issued", "recertification", func(b *broken) { b.dropType("certification.issued") }},
	{"no_certification_key", "recertification", func(b *broken) { b.dropType("certification.key") }},
	{"certification_issued_before_its_run", "recertification", func(b *broken) {
		i, j := b.at(b.last("certification.run")), b.at(b.last("certification.issued"))
		b.recs[i], b.recs[j] = b.recs[j], b.recs[i]
	}},
	{"certification_not_approved", "recertification", func(b *broken) { b.dropAt(b.last("approval.granted", about("certification"))) }},
	{"certification_approved_after_issue", "recertification", func(b *broken) {
		i, j := b.at(b.last("approval.granted", about("certification"))), b.at(b.last("certification.issued"))
		b.recs[i], b.recs[j] = b.recs[j], b.recs[i]
	}},
	{"certification_approved_by_its_author", "separation", func(b *broken) {
		b.sign(b.last("approval.granted", about("certification")), "mara", func(s *approval.Statement) { s.Excluded = nil })
	}},
	{"approval_of_another_certification", "recertification", func(b *broken) {
		b.sign(b.last("approval.granted", about("certification")), "ines", func(s *approval.Statement) { s.Subject = "c-999" })
	}},
	{"issued_on_another_approval", "recertification", func(b *broken) {
		b.last("certification.issued").body["approval"] = b.last("approval.granted", about("boundary")).body["id"]
	}},
	{"issued_for_another_boundary", "recertification", func(b *broken) { b.last("certification.issued").body["boundary"] = dig("other") }},
	{"suite_did_not_pass", "recertification", func(b *broken) {
		editScenario(b, func(s map[string]any) { s["passed"] = 0 })
	}},
	{"trial_not_on_record", "recertification", func(b *broken) {
		editScenario(b, func(s map[string]any) { s["tasks"] = []string{"t-999"} })
	}},
	{"trials_without_tasks", "recertification", func(b *broken) {
		editScenario(b, func(s map[string]any) { s["trials"], s["passed"] = 20, 20 })
	}},
	{"trial_in_production", "recertification", func(b *broken) {
		editScenario(b, func(s map[string]any) { s["tasks"] = []string{b.last("task.opened").Task} })
	}},
	{"results_of_another_run", "recertification", func(b *broken) {
		b.last("certification.run").body["suites"].([]any)[0].(map[string]any)["results"] = dig("other")
	}},
	{"no_record_of_the_suite", "recertification", func(b *broken) { b.dropType("certification.suite") }},
	{"suite_left_out", "recertification", func(b *broken) {
		s := b.last("certification.run").body["suites"].([]any)[0].(map[string]any)
		s["name"] = "easy"
	}},
	{"suite_as_it_was", "recertification", func(b *broken) {
		s := b.last("certification.run").body["suites"].([]any)[0].(map[string]any)
		s["digest"] = dig("other")
	}},
	{"suite_fell_short", "recertification", func(b *broken) { b.last("certification.run").body["shortfall"] = []string{"attack: lower bound"} }},
	{"statement_not_signed_by_us", "recertification", func(b *broken) {
		in(b.last("certification.run").body, "envelope")["signatures"].([]any)[0].(map[string]any)["sig"] = strings.Repeat("A", 86) + "=="
	}},
	{"statement_changed", "recertification", func(b *broken) {
		e := in(b.last("certification.run").body, "envelope")
		e["payload"] = "eyJ4IjoxfQ=="
	}},
	{"run_with_a_scripted_model", "recertification", func(b *broken) { b.last("certification.run").body["scripted"] = true; b.w.Live.Scripted = true }},
	{"lapsed", "recertification", func(b *broken) { b.lapse() }},
	{"drift_without_lapse", "recertification", func(b *broken) { b.drift() }},
	{"action_after_the_lapse", "recertification", func(b *broken) {
		b.lapse()
		b.drift()
		b.again(b.last("action.decided", op("tickets.ticket.close")), func(m map[string]any) { in(m, "action")["id"] = "a-900" })
	}},
	{"action_of_a_task_without_certification", "recertification", func(b *broken) {
		id := b.last("task.opened").Task
		for i := range b.recs {
			if b.recs[i].Task == id && strings.HasPrefix(b.recs[i].Type, "task.") {
				delete(b.recs[i].body, "certification")
			}
		}
	}},
	{"newer_certification_that_is_not_in_force", "recertification", func(b *broken) {
		b.again(b.last("certification.issued"), func(m map[string]any) { m["id"] = "c-900" })
	}},
	{"boundary_not_approved", "change-approval", func(b *broken) { b.dropAt(b.last("approval.granted", about("boundary"))) }},
	{"boundary_approved_by_its_author", "change-approval", func(b *broken) {
		b.sign(b.last("approval.granted", about("boundary")), "noor", func(s *approval.Statement) { s.Excluded = nil })
	}},
	{"boundary_approved_by_its_owner", "separation", func(b *broken) {
		b.sign(b.last("approval.granted", about("boundary")), "mara", func(s *approval.Statement) { s.Excluded = nil })
	}},
	{"boundary_approved_by_somebody_excluded", "change-approval", func(b *broken) {
		b.sign(b.last("approval.granted", about("boundary")), "ines", func(s *approval.Statement) { s.Excluded = []string{"ines"} })
	}},
	{"capability_not_approved", "change-approval", func(b *broken) { b.dropAt(b.last("approval.granted", about("capability"))) }},
	{"capability_approved_by_its_author", "separation", func(b *broken) {
		b.sign(b.last("approval.granted", about("capability")), "noor", func(s *approval.Statement) { s.Excluded = nil })
	}},
	{"capability_approved_after_use", "log-content", func(b *broken) {
		x := *b.last("approval.granted", about("capability"))
		b.dropAt(b.last("approval.granted", about("capability")))
		b.recs = append(b.recs, x)
	}},
	{"forged_signature", "change-approval", func(b *broken) {
		r := b.last("approval.granted", about("boundary"))
		r.body["signature"] = b.last("approval.granted", about("certification")).body["signature"]
	}},
	{"signature_in_another_name", "change-approval", func(b *broken) {
		r := b.last("approval.granted", about("boundary"))
		r.body["person"], r.Actor = "felix", "person:felix"
	}},
	{"signed_for_another_tenant", "change-approval", func(b *broken) {
		b.sign(b.last("approval.granted", about("boundary")), "ines", func(s *approval.Statement) { s.Tenant = "other" })
	}},
	{"quorum_not_reached", "change-approval", func(b *broken) {
		b.sign(b.last("approval.granted", about("boundary")), "ines", func(s *approval.Statement) { s.Quorum = 2 })
	}},
	{"secret_stored_by_an_approver", "separation", func(b *broken) { b.last("secret.stored").Actor = "person:ines" }},
	{"secret_stored_by_a_requester", "separation", func(b *broken) { b.last("secret.stored").Actor = "person:dana" }},

	{"lease_not_revoked", "just-in-time", func(b *broken) { b.dropAt(b.last("lease.revoked")) }},
	{"lease_unconfirmed", "just-in-time", func(b *broken) { b.last("lease.revoked").Type = "lease.unconfirmed" }},
	{"lease_only_requested", "just-in-time", func(b *broken) {
		id := b.last("lease.issued").Task
		b.drop(func(r *rec) bool {
			return r.Task == id && strings.HasPrefix(r.Type, "lease.") && r.Type != "lease.requested"
		})
	}},
	{"lease_without_request", "just-in-time", func(b *broken) { b.dropAt(b.last("lease.requested")) }},
	{"lease_for_anybody", "just-in-time", func(b *broken) {
		for _, typ := range []string{"lease.issued", "lease.revoking", "lease.revoked"} {
			b.last(typ).body["audience"] = ""
		}
	}},
	{"task_closed_before_its_lease", "just-in-time", func(b *broken) {
		i, j := b.at(b.last("lease.revoked")), b.at(b.last("task.closed"))
		b.recs[i], b.recs[j] = b.recs[j], b.recs[i]
	}},
	{"lease_after_the_end", "just-in-time", func(b *broken) {
		for _, typ := range []string{"lease.requested", "lease.issued", "lease.revoked"} {
			b.again(b.last(typ), func(m map[string]any) { m["id"] = "l-900" })
		}
	}},
	{"task_that_does_not_close", "just-in-time", func(b *broken) { b.dropAt(b.last("task.closed")); b.now = time.Now().Add(2 * time.Minute) }},
	{"task_that_outlives_its_time", "just-in-time", func(b *broken) {
		b.dropAt(b.last("task.closed"))
		b.dropAt(b.last("task.closing"))
		b.now = time.Now().Add(20 * time.Minute)
	}},
	{"nobody_stored_the_secrets", "separation", func(b *broken) { b.dropType("secret.stored") }},
	{"never_ran", "just-in-time", func(b *broken) {
		b.drop(func(r *rec) bool {
			return r.Task != "" && !strings.HasPrefix(r.Type, "approval.") && !strings.HasPrefix(r.Type, "certification.")
		})
	}},

	{"no_identity", "workload-identity", func(b *broken) { b.dropAt(b.last("identity.issued")) }},
	{"not_attested", "workload-identity", func(b *broken) { b.dropAt(b.last("identity.attested")) }},
	{"identity_for_an_hour", "workload-identity", func(b *broken) { b.last("identity.issued").body["expires"] = time.Now().Add(time.Hour) }},
	{"identity_that_never_ends", "workload-identity", func(b *broken) { delete(b.last("identity.issued").body, "expires") }},
	{"identity_of_another_task", "workload-identity", func(b *broken) {
		b.last("identity.issued").body["subject"] = "spiffe://acme.example/agent/" + agent + "/task/t-999"
	}},
	{"identity_of_another_agent", "workload-identity", func(b *broken) {
		r := b.last("identity.issued")
		r.body["subject"] = "spiffe://acme.example/agent/payroll/task/" + r.Task
	}},
	{"identity_without_attestation", "workload-identity", func(b *broken) { b.last("identity.issued").body["selectors"] = []string{} }},
	{"identity_of_another_program", "workload-identity", func(b *broken) {
		r := b.last("identity.issued")
		r.body["selectors"] = []string{"launch:binary:" + string(dig("evil")), "launch:task:" + r.Task}
	}},
	{"svid_of_spire_that_is_not_declared", "workload-identity", func(b *broken) {
		r := b.last("identity.issued")
		r.body["attestedBy"], r.body["subject"] = "spire", "spiffe://acme.example/desk"
	}},
	{"task_that_calls_itself_a_workload", "workload-identity", func(b *broken) {
		r := b.last("identity.issued")
		r.body["subject"] = r.body["subject"].(string) + "/workload/desk"
	}},
	{"token_for_nothing", "workload-identity", func(b *broken) {
		r := b.last("identity.issued")
		r.body["kind"], r.body["selectors"] = "access", []string{"exchange:jwt-svid", "launch:task:" + r.Task}
	}},
	{"token_of_another_task", "workload-identity", func(b *broken) {
		b.token(func(m map[string]any) { m["selectors"] = []string{"exchange:jwt-svid", "launch:task:t-999"} })
	}},
	{"token_of_another_agent", "workload-identity", func(b *broken) {
		b.token(func(m map[string]any) {
			m["kind"], m["subject"] = "assertion", "spiffe://acme.example/agent/payroll"
		})
	}},
	{"identity_after_the_end", "workload-identity", func(b *broken) { b.again(b.last("identity.issued"), func(map[string]any) {}) }},

	{"privileged_without_approval", "log-content", func(b *broken) { delete(b.last("action.decided", op(reset)).body, "approval") }},
	{"hold_not_on_record", "log-content", func(b *broken) { b.dropAt(b.last("hold.approved")) }},
	{"hold_approved_afterwards", "log-content", func(b *broken) {
		i, j := b.at(b.last("hold.approved")), b.at(b.last("action.decided", op(reset)))
		b.recs[i], b.recs[j] = b.recs[j], b.recs[i]
	}},
	{"hold_approved_by_the_requester", "log-content", func(b *broken) {
		b.sign(b.last("hold.approved"), "dana", func(s *approval.Statement) { s.Excluded = nil })
	}},
	{"hold_approved_by_the_owner", "log-content", func(b *broken) {
		b.sign(b.last("hold.approved"), "mara", func(s *approval.Statement) { s.Excluded = nil })
	}},
	{"hold_for_another_request", "log-content", func(b *broken) {
		b.sign(b.last("hold.approved"), "ines", func(s *approval.Statement) { s.Digest = dig("other") })
	}},
	{"hold_for_another_task", "log-content", func(b *broken) {
		b.sign(b.last("hold.approved"), "ines", func(s *approval.Statement) { s.Task = "t-999" })
	}},
	{"hold_for_another_operation", "log-content", func(b *broken) {
		b.sign(b.last("hold.approved"), "ines", func(s *approval.Statement) { s.Operation = "iam.user.read" })
	}},
	{"hold_for_another_boundary", "log-content", func(b *broken) {
		b.sign(b.last("hold.approved"), "ines", func(s *approval.Statement) { s.BoundaryDigest = dig("other") })
	}},
	{"hold_already_over", "log-content", func(b *broken) {
		b.sign(b.last("hold.approved"), "ines", func(s *approval.Statement) {
			s.NotBefore, s.Expires = s.NotBefore.Add(-time.Hour), s.NotBefore.Add(-time.Minute)
		})
	}},
	{"hold_used_twice", "log-content", func(b *broken) {
		b.again(b.last("action.decided", op(reset)), func(m map[string]any) { in(m, "action")["id"] = "a-900" })
	}},
	{"hold_signed_by_nobody", "log-content", func(b *broken) { b.last("hold.approved").body["signature"] = "" }},
	{"task_without_requester", "log-content", func(b *broken) { b.task("requester") }},
	{"task_without_capability_digest", "log-content", func(b *broken) { b.task("capabilityDigest") }},
	{"task_without_boundary", "log-content", func(b *broken) { b.task("boundaryDigest") }},
	{"task_not_opened", "log-content", func(b *broken) { b.dropAt(b.last("task.opened")) }},

	{"unexplained_write", "runtime-policy", func(b *broken) {
		delete(in(b.last("action.decided", op("tickets.ticket.close")).body, "action"), "explained")
	}},
	{"unexplained_write_of_no_source", "runtime-policy", func(b *broken) {
		a := in(b.last("action.decided", op("tickets.ticket.close")).body, "action")
		delete(a, "explained")
		delete(a, "source")
	}},
	{"write_without_a_policy", "runtime-policy", func(b *broken) {
		delete(in(b.last("action.decided", op("tickets.ticket.close")).body, "decision"), "policies")
	}},
	{"effect_in_shadow", "runtime-policy", func(b *broken) { b.last("action.decided", op("tickets.ticket.close")).body["stage"] = "shadow" }},
	{"effect_without_decision", "runtime-policy", func(b *broken) { b.dropAt(b.last("action.decided", op("tickets.ticket.close"))) }},
	{"effect_before_decision", "runtime-policy", func(b *broken) {
		i := b.at(b.last("action.decided", op("tickets.ticket.close")))
		b.recs[i], b.recs[i+1] = b.recs[i+1], b.recs[i]
	}},
	{"effect_of_a_denied_action", "runtime-policy", func(b *broken) {
		d := b.last("action.decided", op("egress.unmatched"))
		b.add("action.outcome", d.Task, agent, "sallyport", map[string]any{"action": in(d.body, "action")["id"], "decided": b.at(d), "outcome": map[string]any{"state": "done"}})
	}},
	{"outcome_names_another_decision", "runtime-policy", func(b *broken) {
		r := b.last("action.outcome")
		r.as, r.body["decided"] = true, 3
	}},
	{"outcome_not_on_record", "runtime-policy", func(b *broken) { b.dropAt(b.last("action.outcome")) }},
	{"nothing_was_ever_refused", "runtime-policy", func(b *broken) {
		b.drop(func(r *rec) bool { return r.Type == "action.decided" && op("egress.unmatched")(r) })
	}},
	{"model_called_elsewhere", "inference-location", func(b *broken) {
		in(b.last("action.decided", op("inference.messages")).body, "action", "params")["endpoint"] = "https://evil.example/v1/messages"
	}},
	{"model_never_called", "inference-location", func(b *broken) {
		b.drop(func(r *rec) bool { return r.Type == "action.decided" && op("inference.messages")(r) })
	}},
	{"agent_never_declared", "owner-environment", func(b *broken) { b.dropType("tenant.created") }},
	{"record_that_cannot_be_read", "logs", func(b *broken) {
		r := b.last("action.outcome")
		r.as, r.body["decided"] = true, "three"
	}},
	{"action_of_another_task", "logs", func(b *broken) { in(b.last("action.decided").body, "action")["task"] = "t-999" }},
	{"unknown_step_of_a_task", "logs", func(b *broken) {
		b.add("task.resurrected", b.last("task.opened").Task, agent, "sallyport", b.last("task.closed").body)
	}},
}

// task takes a field out of every record of the task in production.
func (b *broken) task(field string) {
	id := b.last("task.opened").Task
	for i := range b.recs {
		if b.recs[i].Task == id && strings.HasPrefix(b.recs[i].Type, "task.") {
			delete(b.recs[i].body, field)
		}
	}
}

func (b *broken) lapse() {
	b.add("certification.lapsed", "", agent, "sallyport", map[string]any{"id": b.w.Live.ID, "stage": "production", "boundary": b.w.Live.Boundary,
		"lapse": certify.Lapse{Code: "drift", Why: "model.id: model-7 → model-8", Changes: []boundary.Change{{Name: "model.id", Old: "model-7", New: "model-8"}}, At: time.Now()}})
}

func (b *broken) drift() {
	b.add("boundary.drift", "", agent, "sallyport", map[string]any{"agent": agent, "changes": []boundary.Change{{Name: "model.id", Old: "model-7", New: "model-8"}}})
}

// after are spoiled when all is hashed and signed.
var after = []one{
	{"record_changed_in_the_store", "logs", func(b *broken) {
		e := &b.entries[len(b.entries)/2]
		e.Raw = bytes.Replace(slices.Clone(e.Raw), []byte(`"sallyport"`), []byte(`"sallyporx"`), 1)
		e.Raw[len(e.Raw)-3] ^= 1
	}},
	{"record_shown_other_than_hashed", "logs", func(b *broken) {
		i := slices.IndexFunc(b.entries, func(e record.Entry) bool { return e.Type == "lease.revoked" })
		b.entries[i].Body = []byte(`{}`)
	}},
	{"type_shown_other_than_hashed", "logs", func(b *broken) {
		i := slices.IndexFunc(b.entries, func(e record.Entry) bool { return e.Type == "lease.revoking" })
		b.entries[i].Type = "lease.revoked"
	}},
	{"record_missing", "logs", func(b *broken) { b.entries = slices.Delete(b.entries, 5, 6) }},
	{"records_swapped", "logs", func(b *broken) { b.entries[5], b.entries[6] = b.entries[6], b.entries[5] }},
	{"end_cut_off", "logs", func(b *broken) { b.entries = b.entries[:len(b.entries)-2] }},
}

// weaker are the grades that the privileged tier does not take.
func weaker() (out []one) {
	for name, g := range map[string]boundary.Grade{
		"model.id": boundary.Declared, "model.requested": boundary.Declared, "model.endpoint": boundary.Declared, "prompt.system": boundary.Declared, "tools": boundary.Declared,
		"harness.binary": boundary.Observed, "harness.args": boundary.Observed, "browser.version": boundary.Observed, "browser.flags": boundary.Observed, "browser.kind": boundary.Declared,
		"connector.iam": boundary.Observed, "policy.company": boundary.Observed, "capability.reset-mfa": boundary.Declared, "suite.core": boundary.Observed, "containment": boundary.Declared,
	} {
		condition := "recertification"
		switch prefix, _, _ := strings.Cut(name, "."); prefix {
		case "model":
			condition = "inference-location"
		case "harness", "browser", "connector", "containment":
			condition = "owner-environment"
		}
		out = append(out, one{"grade_of_" + name, condition, func(b *broken) { b.fact(name, func(f *boundary.Fact) { f.Grade = g }) }})
	}
	slices.SortFunc(out, func(a, b one) int { return strings.Compare(a.name, b.name) })
	return out
}

func TestNoBrokenBoundaryIsReady(t *testing.T) {
	s := newStory(t)
	s.tell()
	whole := breakable(t, s)
	whole.close()
	if r := evaluate(t, whole, readiness.Options{}); !r.Ready {
		t.Fatalf("the story itself is not ready:\n%s", text(t, r))
	}
	n := 0
	try := func(o one, late bool) {
		n++
		t.Run(o.name, func(t *testing.T) {
			b := breakable(t, s)
			if !late {
				o.f(b)
			}
			b.close()
			src := readiness.Source(b)
			if late {
				cp := must(b.Checkpoint(t.Context()))(t)
				o.f(b)
				src = fixed{b, cp}
			}
			r := evaluate(t, src, readiness.Options{Now: b.now})
			if r.Ready || r.Decision != readiness.NotReady {
				t.Fatalf("it is READY:\n%s", text(t, r))
			}
			for _, c := range r.Conditions {
				if c.ID == o.condition && c.State == readiness.Pass {
					t.Errorf("%s passes:\n%s", c.ID, text(t, r))
				}
				if c.State != readiness.Pass && (c.Next == "" || c.Summary == "") {
					t.Errorf("%s says neither what is wrong nor what to do: %+v", c.ID, c)
				}
			}
		})
	}
	for _, list := range [][]one{declaredBreaks, logBreaks, recordBreaks, watchBreaks, auditBreaks, weaker()} {
		for _, o := range list {
			try(o, false)
		}
	}
	for _, o := range after {
		try(o, true)
	}
	if n < 60 {
		t.Errorf("only %d broken boundaries were tried", n)
	}
}

// fixed keeps the checkpoint that was made before the store was changed.
type fixed struct {
	*broken
	cp readiness.Checkpoint
}

func (f fixed) Checkpoint(context.Context) (readiness.Checkpoint, error) { return f.cp, nil }

// redundant are records whose absence takes nothing from what is proved: those
// around them say the same, or another one of their kind is left. That none was
// taken out is for the checkpoint to say.
func redundant(r rec) bool {
	switch r.Type {
	case "approval.requested", "hold.opened", "task.active", "task.closing", "lease.revoking":
		return true
	case "lease.issued": // what was revoked need never have been issued
		return true
	case "task.closed": // it may still be closing; see task_that_does_not_close
		return true
	case "action.decided":
		return op("egress.unmatched")(&r) // there is another refusal
	}
	return false
}

func TestEveryRecordCounts(t *testing.T) {
	s := newStory(t)
	s.tell()
	n := len(breakable(t, s).recs)
	for i := range n {
		b := breakable(t, s)
		gone := b.recs[i]
		b.recs = slices.Delete(b.recs, i, i+1)
		b.close()
		if r := evaluate(t, b, readiness.Options{}); r.Ready && !redundant(gone) {
			t.Errorf("record %d, %s, is not missed: %v", i, gone.Type, gone.body)
		}
	}
	for i := range n {
		b := breakable(t, s)
		r := &b.recs[i]
		if r.Type == "approval.requested" || r.Type == "hold.opened" {
			continue
		}
		for k := range r.body {
			r.body[k] = []any{map[string]any{"not": "this"}}
		}
		kind := r.Type
		b.close()
		if r := evaluate(t, b, readiness.Options{}); r.Ready {
			t.Errorf("record %d, %s, may say anything", i, kind)
		}
	}
}

func text(t *testing.T, r *readiness.Report) string {
	t.Helper()
	var b bytes.Buffer
	if err := r.Text(&b); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprint(&b)
}

// Tokens that a task exchanged for its identity are its identities too, and so are
// SVIDs of its workloads elsewhere. A part that was refused is no task.
func TestTokensOfTheTask(t *testing.T) {
	s := newStory(t)
	s.tell()
	s.record("task.refused", "t-1", "agent:"+agent, map[string]any{"v": 1, "chain": []string{"t-1"}, "agent": "other", "capability": "x", "code": "not_delegated", "why": "no"})
	b := breakable(t, s)
	mine := b.last("identity.issued")
	subject := mine.body["subject"].(string)
	b.token(func(m map[string]any) {
		m["kind"], m["attestedBy"], m["subject"] = "x509", "elsewhere", subject+"/workload/ci"
		m["selectors"] = []string{"launch:task:" + mine.Task, "elsewhere:issuer:https://ci.example"}
	})
	b.token(func(m map[string]any) { m["subject"] = subject })
	b.token(func(map[string]any) {})
	b.token(func(m map[string]any) {
		m["kind"], m["subject"] = "assertion", "spiffe://acme.example/agent/"+agent
	})
	b.close()
	if r := evaluate(t, b, readiness.Options{Now: b.now}); !r.Ready {
		t.Errorf("with tokens it is not ready:\n%s", text(t, r))
	}
}

// editScenario changes a result, and the digest by which the run names it.
func editScenario(b *broken, edit func(s map[string]any)) {
	all := b.last("certification.suite").body["scenarios"].([]any)
	edit(all[0].(map[string]any))
	d, err := canon.DigestOf(all)
	if err != nil {
		panic(err)
	}
	b.last("certification.run").body["suites"].([]any)[0].(map[string]any)["results"] = string(d)
}
