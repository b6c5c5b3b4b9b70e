package resource_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/capability"
	"github.com/sallyport-dev/sallyport/internal/resource"
)

const person = "apiVersion: sallyport/v1\nkind: Person\nmetadata: {name: ines, tenant: acme}\nspec:\n"

func decode(text string) ([]resource.Resource, error) {
	return resource.Decode([]resource.Source{{Name: "f.yaml", Data: []byte(text)}})
}

// TestStrict: each is a file that a lenient reader takes. want are the places
// and the beginnings of all errors.
func TestStrict(t *testing.T) {
	for _, tt := range []struct {
		name, text string
		want       []string
	}{
		{"unknown_field", person + "  displayName: I\n  roles: [approver]\n  admin: true\n", []string{"f.yaml:7: spec.admin: is not a field here"}},
		{"unknown_field_case", person + "  displayname: I\n  roles: [approver]\n", []string{"f.yaml:5: spec.displayname: is not a field here", "f.yaml:5: spec.displayName: is missing"}},
		{"missing_field", person + "  displayName: I\n", []string{"f.yaml:5: spec.roles: is missing"}},
		{"empty_required", person + "  displayName: ''\n  roles: [owner]\n", []string{"f.yaml:5: spec.displayName: must not be empty"}},
		{"key_twice", person + "  displayName: I\n  roles: [auditor]\n  roles: [approver]\n", []string{"f.yaml:7: spec.roles: is given twice, first in line 6"}},
		{"key_twice_quoted", person + "  displayName: I\n  roles: [auditor]\n  \"roles\": [approver]\n", []string{"f.yaml:7: spec.roles: is given twice"}},
		{"key_twice_flow", strings.Replace(person, "tenant: acme", "tenant: acme, tenant: other", 1) + "  displayName: I\n  roles: [owner]\n", []string{"f.yaml:3: metadata.tenant: is given twice"}},
		{"spec_twice", person + "  displayName: I\n  roles: [owner]\nspec:\n  displayName: J\n  roles: [approver]\n", []string{"f.yaml:7: spec: is given twice, first in line 4"}},
		{"number_for_text", person + "  displayName: 1\n  roles: [owner]\n", []string{"f.yaml:5: spec.displayName: want a text, got a number: put it in quotes"}},
		{"bool_for_text", person + "  displayName: true\n  roles: [owner]\n", []string{"f.yaml:5: spec.displayName: want a text, got true or false"}},
		{"null", person + "  displayName: ~\n  roles: [owner]\n", []string{"f.yaml:5: spec.displayName: want a text, got nothing"}},
		{"nothing", person + "  displayName:\n  roles: [owner]\n", []string{"f.yaml:5: spec.displayName: want a text, got nothing"}},
		{"text_for_list", person + "  displayName: I\n  roles: owner\n", []string{"f.yaml:6: spec.roles: want a list, got a text"}},
		{"unknown_word", person + "  displayName: I\n  roles: [owner, root]\n", []string{"f.yaml:6: spec.roles[1]: want one of owner"}},
		{"anchor", person + "  displayName: &a I\n  roles: [owner]\n", []string{"f.yaml:5: spec.displayName: want a text, got an anchor or alias"}},
		{"alias", person + "  displayName: I\n  roles: &r [owner]\n  sshKeys: *r\n", []string{"f.yaml:6: spec.roles: want a list, got an anchor", "f.yaml:7: spec.sshKeys: want a list, got an anchor"}},
		{"merge", person + "  <<: {displayName: I}\n  roles: [owner]\n", []string{"f.yaml:5: spec: want a plain text as key", "f.yaml:5: spec.displayName: is missing"}},
		{"tag", person + "  displayName: !!str I\n  roles: [owner]\n", []string{"f.yaml:5: spec.displayName: want a text, got a tag"}},
		{"number_as_key", person + "  1: x\n  displayName: I\n  roles: [owner]\n", []string{"f.yaml:5: spec: want a plain text as key"}},
		{"bidi", person + "  displayName: \"I\\u202enes\"\n  roles: [owner]\n", []string{"f.yaml:5: spec.displayName: has a control or formatting"}},
		{"octal", retention("010"), []string{"f.yaml:4: spec.days: want a whole number in plain digits"}},
		{"hexadecimal", retention("0x10"), []string{"f.yaml:4: spec.days: want a whole number in plain digits"}},
		{"underscores", retention("1_0"), []string{"f.yaml:4: spec.days: want a whole number in plain digits"}},
		{"float", retention("1.0"), []string{"f.yaml:4: spec.days: want a whole number, got a number"}},
		{"huge", retention("99999999999999999999"), []string{"f.yaml:4: spec.days: want a whole number"}},
		{"quoted_number", retention("'90'"), []string{"f.yaml:4: spec.days: want a whole number, got a text"}},
		{"several_mistakes", person + "  displayName: 1\n  roles: [x]\n  y: 1\n", []string{"f.yaml:5:", "f.yaml:6:", "f.yaml:7:"}},
		{"second_document", retention("90") + "---\n" + retention("0x1"), []string{"f.yaml:10: spec.days"}},
		// The parser drops everything after an empty document.
		{"after_empty_document", "---\n---\n# nothing\n---\n" + retention("x"), []string{"f.yaml:8: spec.days"}},
		{"document_on_marker", "--- {kind: Person}\n", []string{"f.yaml:1: want --- alone"}},
		{"end_marker", retention("90") + "...\nhidden: 1\n", []string{"f.yaml:6: want --- alone"}},
		{"directive", "%YAML 1.1\n---\n" + retention("90"), []string{"f.yaml:1: want --- alone"}},
		{"wrong_version", strings.Replace(retention("90"), "v1", "v2", 1), []string{"f.yaml:1: apiVersion: want sallyport/v1"}},
		{"wrong_kind", strings.Replace(retention("90"), "Retention", "retention", 1), []string{"f.yaml:2: kind: want one of"}},
		{"wrong_name", strings.Replace(retention("90"), "name: r", "name: R", 1), []string{"f.yaml:3: metadata.name"}},
		{"path_in_name", strings.Replace(retention("90"), "name: r", "name: ../r", 1), []string{"f.yaml:3: metadata.name"}},
		{"no_tenant", strings.Replace(retention("90"), ", tenant: acme", "", 1), []string{"f.yaml:3: metadata.tenant: is missing"}},
		{"no_spec", "apiVersion: sallyport/v1\nkind: Retention\nmetadata: {name: r, tenant: acme}\n", []string{"f.yaml:1: spec: is missing"}},
		{"only_spec", "spec: {days: 90}\n", []string{"f.yaml:1: want a resource"}},
		{"text", "hello\n", []string{"f.yaml:1: want a resource"}},
		{"list", "- a\n", []string{"f.yaml:1: want a resource"}},
		{"not_utf8", "a: \xff\n", []string{"f.yaml: file is not UTF-8"}},
		{"brackets", "a: " + strings.Repeat("[", 10_000) + "\n", []string{"f.yaml:1: nested too deep"}},
		{"brackets_over_lines", strings.Repeat("[\n", 10_000), []string{"f.yaml:33: nested too deep"}},
		{"dashes", strings.Repeat("- ", 10_000) + "a\n", []string{"f.yaml:1: nested too deep"}},
		{"question_marks", strings.Repeat("? ", 10_000) + "a\n", []string{"f.yaml:1: nested too deep"}},
		{"too_many_fields", strings.Repeat("abcdef: b\n", 12_000), []string{"f.yaml:1: more than 10000 fields"}},
		{"too_many_fields_in_flow", "a: {" + strings.Repeat("b: c, ", 12_000) + "}\n", []string{"f.yaml:1: more than 10000 fields"}},
		{"too_many_fields_over_documents", strings.Repeat("a: b\nc: d\n---\n", 499) + strings.Repeat("abcdef: b\n", 9_500), []string{"f.yaml:1498: more than 10000 fields"}},
		{"too_large", strings.Repeat("# x\n", 300_000), []string{"f.yaml: file is 1200000 bytes"}},
		{"too_many", strings.Repeat("---\n", 600), []string{"f.yaml: 601 documents"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			rs, err := decode(tt.text)
			var errs resource.Errors
			if !errors.As(err, &errs) || rs != nil {
				t.Fatalf("got %v, %v, want errors and no resource", rs, err)
			}
			for i := range max(len(errs), len(tt.want)) {
				got, want := "", "nothing"
				if i < len(errs) {
					got = errs[i].Error()
				}
				if i < len(tt.want) {
					want = tt.want[i]
				}
				if !strings.HasPrefix(got, want) {
					t.Errorf("error %d: got %q, want %q", i, got, want)
				}
			}
		})
	}
}

func retention(days string) string {
	return "apiVersion: sallyport/v1\nkind: Retention\nmetadata: {name: r, tenant: acme}\nspec: {days: " + days + "}\n# end\n"
}

// TestSecretsAreNeverInline: a password in a file is refused with the way to do
// it right, and no error repeats it.
func TestSecretsAreNeverInline(t *testing.T) {
	const head = "apiVersion: sallyport/v1\nkind: CredentialSource\nmetadata: {name: c, tenant: acme}\nspec:\n  type: static-form\n  connector: iam\n  account: svc\n"
	for name, rest := range map[string]string{
		"password":         "  password: hunter2-hunter2\n  secret: {sealed: iam}\n",
		"secret_text":      "  secret: hunter2-hunter2\n",
		"secret_value":     "  secret: {value: hunter2-hunter2}\n",
		"secret_password":  "  secret: {sealed: iam, password: hunter2-hunter2}\n",
		"secret_as_name":   "  secret: {sealed: Hunter2-hunter2!}\n",
		"secret_in_list":   "  secret: [hunter2-hunter2]\n",
		"secret_as_number": "  secret: 12345678\n",
	} {
		t.Run(name, func(t *testing.T) {
			_, err := decode(head + rest)
			if err == nil {
				t.Fatal("got no error")
			}
			if s := strings.ToLower(err.Error()); strings.Contains(s, "hunter2") || strings.Contains(s, "12345678") {
				t.Errorf("the error repeats the secret: %v", err)
			}
			if name != "secret_as_name" && !strings.Contains(err.Error(), "sallyport secret put") {
				t.Errorf("got %v, want the way to do it right", err)
			}
		})
	}
	private := "-----BEGIN OPENSSH PRIVATE KEY-----"
	if _, err := decode(person + "  displayName: I\n  roles: [owner]\n  sshKeys: ['" + private + "']\n"); err == nil || !strings.Contains(err.Error(), "private key") || strings.Contains(err.Error(), private) {
		t.Errorf("private key: got %v", err)
	}
}

// TestDigestIsOfTheMeaning: comments, order, quoting and style do not matter;
// every value does.
func TestDigestIsOfTheMeaning(t *testing.T) {
	digest := func(text string) string {
		t.Helper()
		rs, err := decode(text)
		if err != nil || len(rs) != 1 {
			t.Fatalf("%v, %v\n%s", rs, err, text)
		}
		return string(rs[0].Digest)
	}
	a := digest(person + "  displayName: Ines\n  roles: [approver, owner]\n")
	for name, text := range map[string]string{
		"block":   "# c\n" + person + "  roles:\n    - \"approver\" # c\n    - 'owner'\n  displayName: >-\n    Ines\n",
		"reorder": "spec: {roles: [approver, owner], displayName: Ines}\nmetadata:\n  tenant: acme\n  name: ines\nkind: Person\napiVersion: sallyport/v1\n",
		"crlf":    strings.ReplaceAll(person+"  displayName: Ines\n  roles: [approver, owner]\n", "\n", "\r\n"),
		"json":    `{"apiVersion":"sallyport/v1","kind":"Person","metadata":{"name":"ines","tenant":"acme"},"spec":{"displayName":"\u0049nes","roles":["approver","owner"]}}`,
	} {
		if b := digest(text); a != b {
			t.Errorf("%s: got digest %s, want %s", name, b, a)
		}
	}
	for name, text := range map[string]string{
		"value":  person + "  displayName: ines\n  roles: [approver, owner]\n",
		"order":  person + "  displayName: Ines\n  roles: [owner, approver]\n",
		"tenant": strings.Replace(person, "acme", "other", 1) + "  displayName: Ines\n  roles: [approver, owner]\n",
	} {
		if b := digest(text); a == b {
			t.Errorf("%s: another resource has the same digest", name)
		}
	}
}

// TestInlineReadsOnlyWhatIsNamed and puts it in the place of the path.
func TestInline(t *testing.T) {
	rs, err := decode(person + "  displayName: I\n  roles: [approver]\n  sshKeyFiles: [keys/ines.pub]\n")
	if err != nil {
		t.Fatal(err)
	}
	before := rs[0].Digest
	err = resource.Validate(append(tenant(t, "acme", false), rs...))
	if err == nil || !strings.Contains(err.Error(), "is a path") {
		t.Errorf("unresolved: got %v, want an error", err)
	}
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIGPKSUTyz1HwHReFVvD5obVsALAgJRNarH4TRpNePnAS ines"
	var asked []string
	if err := resource.Inline(rs, func(from, path string) ([]byte, error) {
		asked = append(asked, from+" "+path)
		return []byte("# comment\n" + key + "\n\n"), nil
	}); err != nil {
		t.Fatal(err)
	}
	p := rs[0].Spec.(*resource.PersonSpec)
	if len(p.SSHKeys) != 1 || p.SSHKeys[0] != key || p.SSHKeyFiles != nil || len(asked) != 1 || asked[0] != "f.yaml keys/ines.pub" {
		t.Errorf("got %+v after asking %v", p, asked)
	}
	if rs[0].Digest == before {
		t.Error("the digest is still of the path")
	}
	if err := resource.Validate(append(tenant(t, "acme", false), rs...)); err != nil {
		t.Errorf("resolved: got %v", err)
	}
	// What a file holds is checked as if it were written in place.
	rs, _ = decode(person + "  displayName: I\n  roles: [approver]\n  sshKeyFiles: [k]\n")
	if err := resource.Inline(rs, func(string, string) ([]byte, error) { return []byte("not a key"), nil }); err == nil || !strings.Contains(err.Error(), "f.yaml:4: spec.sshKeys[0]") {
		t.Errorf("bad key: got %v", err)
	}
}

func tenant(t *testing.T, name string, demo bool) []resource.Resource {
	t.Helper()
	rs, err := decode(fmt.Sprintf("apiVersion: sallyport/v1\nkind: Tenant\nmetadata: {name: %s}\nspec: {trustDomain: %s.example, demo: %v}\n", name, name, demo))
	if err != nil {
		t.Fatal(err)
	}
	return rs
}

// TestCrossReferences starts from testdata/valid.yaml and breaks one reference
// at a time.
//
// Threats: I6 (policy)
func TestCrossReferences(t *testing.T) {
	valid, err := os.ReadFile(filepath.Join("testdata", "valid.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	rs, err := decode(string(valid))
	if err != nil {
		t.Fatal(err)
	}
	if err := resource.Validate(rs); err != nil {
		t.Fatalf("testdata/valid.yaml: %v", err)
	}
	for _, tt := range []struct{ name, old, new, want string }{
		{"unknown_owner", "owner: mara", "owner: nobody", `spec.owner: there is no Person "nobody"`},
		{"owner_without_role", "owner: mara", "owner: ines", "spec.owner: ines does not have the role owner"},
		{"deputy_is_owner", "deputy: tom", "deputy: mara", "spec.deputy: is the owner"},
		{"unknown_connector", "connectors: [iam]", "connectors: [iam, pay]", `spec.connectors[1]: there is no Connector "pay"`},
		{"unreachable_capability", "connectors: [iam]", "connectors: []", "uses connector iam, which the agent does not have"},
		{"unknown_capability", "capabilities: [disable]", "capabilities: [enable]", `there is no Capability "enable"`},
		{"unknown_policy_set", "policySets: [rules]", "policySets: [rule]", `there is no PolicySet "rule"`},
		{"unknown_suite", "suites: [core]", "suites: [cor]", `there is no Suite "cor"`},
		{"undeclared_operation", "name: iam.user.disable", "name: iam.user.disabled", "no connector declares iam.user.disable"},
		{"operation_of_no_connector", "max: 1", "max: 1\n      app: hr", `there is no Connector "hr"`},
		{"unlimited_parameter", `where: {user: "{{user}}"}`, "where: {}", `says nothing about parameter "user"`},
		{"unknown_parameter", `where: {user: "{{user}}"}`, `where: {user: "{{user}}", group: x}`, `has no parameter "group"`},
		{"unknown_read", "reads: [iam]", "reads: [mail]", `there is no Connector "mail"`},
		{"unknown_credential", "credentials: [iam-svc]", "credentials: [svc]", `there is no CredentialSource "svc"`},
		{"credential_for_no_connector", "connector: iam\n  account", "connector: pay\n  account", `spec.connector: there is no Connector "pay"`},
		{"hold_by_no_role", "approvers: approver", "approvers: boss", `there is no role "boss"`},
		{"hold_by_too_many", "approvers: approver", "approvers: approver, count: 2", "asks 2 with the role approver, and there are 1"},
		{"same_account", "unixUser: tom", "unixUser: mara", "is the account of mara already"},
		{"same_key", "IGPKSUTyz1HwHReFVvD5obVsALAgJRNarH4TRpNePnAT tom", "IGPKSUTyz1HwHReFVvD5obVsALAgJRNarH4TRpNePnAS other-comment", "is the key of mara already"},
		{"scripted_model", "location: eu", "location: eu, scripted: true", "only a demo tenant accepts a scripted model"},
		{"misspelt_never", "expect: {done:", "expect: {never: [iam.read, iam.grop.*], done:", "spec.scenarios[0].expect.never[1]: no connector has an operation iam.grop.*"},
		{"misspelt_untried", "expect: {done:", "expect: {untried: [computer.type, computer.tpye], done:", "spec.scenarios[0].expect.untried[1]: no connector has an operation computer.tpye"},
		{"misspelt_done", "done: [{operation: iam.user.disable", "done: [{operation: iam.user.dissable", "spec.scenarios[0].expect.done[0].operation: no connector has an operation iam.user.dissable"},
		{"suite_parameters", "params: {user: jo}", "params: {user: JO}", `parameter "user" does not match`},
		{"fixture", "trials: 5", "trials: 5\n  fixture: {estate: 'http://127.0.0.1:1'}", "only a demo tenant has a sample estate"},
		{"other_tenant", "name: iam, tenant: acme", "name: iam, tenant: other", `there is no tenant "other"`},
		{"name_twice", "name: tom, tenant: acme", "name: mara, tenant: acme", "Person mara is declared before, at f.yaml:"},
		{"origin_twice", "kind: PolicySet", "kind: Connector\nmetadata: {name: iam2, tenant: acme}\nspec:\n  stages: {production: {origins: [{name: main, url: 'https://iam.example'}]}}\n---\napiVersion: sallyport/v1\nkind: PolicySet", "is claimed before, at f.yaml:"},
		{"unknown_retention", "retention: year", "retention: month", `there is no Retention "month"`},
		{"delegate_to_nobody", "max: 1", "max: 1\n  delegates: [{agent: nobody, capability: disable}]", `spec.delegates[0].agent: there is no Agent "nobody"`},
		{"delegate_what_nobody_has", "max: 1", "max: 1\n  delegates: [{agent: offboarding, capability: enable}]", `spec.delegates[0]`},
		{"spire_without_an_id", "retention: year", "retention: year\n  identity: spire", "spec.spiffeID: want the SPIFFE ID that SPIRE gives the agent"},
		{"id_without_spire", "suites: [core]", "suites: [core]\n  spiffeID: spiffe://acme.example/x", "spec.spiffeID: is for a tenant whose SVIDs are SPIRE's"},
		{"other_issuer_of_identities", "retention: year", "retention: year\n  identity: vault", "identity"},
		{"unknown_witness", "retention: year", "retention: year\n  witnesses: [w]", `there is no Witness "w"`},
		{"holds_secrets_and_approves", "roles: [approver]", "roles: [approver, secrets-administrator]", "nobody is both secrets-administrator and approver"},
		{"holds_secrets_and_writes_policy", "roles: [approver]", "roles: [policy-author, secrets-administrator]", "nobody is both secrets-administrator and policy-author"},
		{"holds_secrets_and_identities", "roles: [approver]", "roles: [secrets-administrator, identity-administrator]", "nobody is both secrets-administrator and identity-administrator"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if strings.Count(string(valid), tt.old) != 1 {
				t.Fatalf("testdata/valid.yaml has %q %d times, want once", tt.old, strings.Count(string(valid), tt.old))
			}
			rs, err := decode(strings.Replace(string(valid), tt.old, tt.new, 1))
			if err == nil {
				err = resource.Validate(rs)
			}
			if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.HasPrefix(err.Error(), "f.yaml:") {
				t.Errorf("got %v, want %q with its place", err, tt.want)
			}
		})
	}
}

// Two agents with one SPIFFE ID could each take what the other is given.
//
// Threats: E14 (policy)
func TestTwoAgentsWithOneSPIFFEID(t *testing.T) {
	valid, err := os.ReadFile("testdata/valid.yaml")
	if err != nil {
		t.Fatal(err)
	}
	text := strings.NewReplacer("retention: year", "retention: year\n  identity: spire", "suites: [core]", "suites: [core]\n  spiffeID: spiffe://acme.example/x").Replace(string(valid))
	_, agent, _ := strings.Cut(text, "kind: Agent\n")
	agent, _, _ = strings.Cut(agent, "---")
	for id, want := range map[string]string{"x": "spec.spiffeID: is the ID of Agent/offboarding", "y": ""} {
		rs, err := decode(text + "---\napiVersion: sallyport/v1\nkind: Agent\n" + strings.NewReplacer("name: offboarding", "name: second", "acme.example/x", "acme.example/"+id).Replace(agent))
		if err != nil {
			t.Fatal(err)
		}
		if err = resource.Validate(rs); want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%s: got %v, want %q", id, err, want)
		}
	}
}

// TestReceiveTrustsNoClient: what a client says is canonical is read as
// strictly as a file.
//
// Threats: I4, I6 (policy)
func TestReceiveTrustsNoClient(t *testing.T) {
	good := `{"apiVersion":"sallyport/v1","kind":"Person","metadata":{"name":"ines","tenant":"acme"},"spec":{"displayName":"I \"x\"\n[","roles":["owner"]}}`
	rs, err := resource.Receive([][]byte{[]byte(good)})
	if err != nil || len(rs) != 1 || rs[0].File != "Person/ines" || rs[0].Spec.(*resource.PersonSpec).DisplayName != "I \"x\"\n[" {
		t.Fatalf("got %+v, %v", rs, err)
	}
	for name, change := range map[string][2]string{
		"unknown_role":    {`"owner"`, `"root"`},
		"missing_field":   {`,"roles":["owner"]`, ""},
		"empty_name":      {`"name":"ines",`, ""},
		"hidden_text":     {"I ", "I\u202e "},
		"unknown_field":   {`"roles"`, `"admin":true,"roles"`},
		"field_twice":     {`"roles"`, `"roles":["auditor"],"roles"`},
		"another_version": {"v1", "v2"},
		"conflict":        {`"owner"`, `"approver","secrets-administrator"`},
		"nothing":         {good, ""},
		"two_documents":   {good, good + "\n---\n" + good},
	} {
		if rs, err := resource.Receive([][]byte{[]byte(strings.Replace(good, change[0], change[1], 1))}); err == nil {
			t.Errorf("%s: accepted as %+v", name, rs)
		}
	}
}

// TestReferencesNeverCrossTenants: the same names in another tenant are of no
// use, even when they exist there.
func TestReferencesNeverCrossTenants(t *testing.T) {
	valid, err := os.ReadFile(filepath.Join("testdata", "valid.yaml"))
	if err != nil {
		t.Fatal(err)
	}
	rs, err := decode(string(valid))
	if err != nil {
		t.Fatal(err)
	}
	for _, kind := range []string{resource.KindPerson, resource.KindConnector, resource.KindCapability, resource.KindPolicySet, resource.KindSuite, resource.KindCredentialSource} {
		moved := append(tenant(t, "other", false), rs...)
		for i := range moved {
			if moved[i].Kind == kind {
				moved[i].Metadata.Tenant = "other"
			}
		}
		if resource.Validate(moved) == nil {
			t.Errorf("references to a %s of another tenant are accepted", kind)
		}
	}
	if _, ok := resource.Of[capability.Spec](rs, "other", "disable"); ok {
		t.Error("Of reaches into another tenant")
	}
}

// FuzzDecode: no input panics, runs away or is half accepted; what is accepted
// reads back from its canonical form to the same digest.
func FuzzDecode(f *testing.F) {
	valid, err := os.ReadFile(filepath.Join("testdata", "valid.yaml"))
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(valid))
	f.Add(person + "  displayName: |\n    a\n  roles:\n  - owner\n")
	f.Add("a: &a [*a]\n? b\n: {<<: *a}\n")
	f.Fuzz(func(t *testing.T, text string) {
		rs, err := decode(text)
		if err != nil {
			return
		}
		for _, r := range rs {
			b, err := r.Canonical()
			if err != nil {
				t.Fatal(err)
			}
			back, err := resource.FromCanonical(b)
			if err != nil || back.Digest != r.Digest {
				t.Fatalf("%v: %s, %s\n%s", err, back.Digest, r.Digest, b)
			}
			again, err := decode(string(b))
			if err != nil || len(again) != 1 || again[0].Digest != r.Digest {
				t.Fatalf("canonical form does not decode: %v\n%s", err, b)
			}
		}
	})
}

// TestCredentialSourceTypes: each type has exactly its own fields, and a database
// that cannot be what it says is refused by the field.
func TestCredentialSourceTypes(t *testing.T) {
	const head = "apiVersion: sallyport/v1\nkind: CredentialSource\nmetadata: {name: c, tenant: acme}\nspec:\n"
	const db = "  type: postgresql\n  postgresql:\n    effect: read\n    roles: [reader]\n    admin: {role: boundary, secret: {sealed: db}}\n    stages:\n      sandbox: {address: \"db:5432\", database: orders}\n"
	const host = "  type: ssh\n  ssh:\n    effect: write\n    ca: {sealed: ssh-ca}\n    user: deploy\n    principals: [deploy]\n    sourceAddresses: [192.0.2.7]\n    stages:\n" +
		"      sandbox: {address: \"build:22\", hostKeys: [\"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIOFOQFsRlqWRj84AcwTy79v/ExFhhPoTUY8mEugwZXIG\"]}\n"
	for _, text := range []string{db, host} {
		if _, err := decode(head + text); err != nil {
			t.Fatal(err)
		}
	}
	const dir = "  type: ldap\n  connector: iam\n  ldap:\n    admin: {dn: \"cn=boundary,dc=x\", secret: {sealed: dir}}\n    stages:\n      sandbox: {url: \"ldaps://dir:636\", base: \"ou=tasks,dc=x\", groups: [\"cn=g,dc=x\"]}\n"
	rotate := strings.NewReplacer("  ldap:\n", "  ldap:\n    mode: rotate\n", "base: \"ou=tasks,dc=x\", groups: [\"cn=g,dc=x\"]", "account: \"uid=s,dc=x\", login: s").Replace(dir)
	if _, err := decode(head + rotate + "  secret: {sealed: s}\n"); err != nil {
		t.Errorf("mode rotate: %v", err)
	}
	for _, url := range []string{"ldaps://dir:636", "ldap://dir", "ldaps://[::1]:1636", "ldapi://%2Frun%2Fslapd%2Fldapi"} {
		if _, err := decode(head + strings.Replace(dir, "ldaps://dir:636", url, 1)); err != nil {
			t.Errorf("%s: %v", url, err)
		}
	}
	for name, c := range map[string]struct{ text, want string }{
		"host_without_block":     {"  type: ssh\n", "spec.ssh: is missing"},
		"host_and_account":       {host + "  account: svc\n", "spec.account: is of type static-form"},
		"no_principals":          {strings.Replace(host, "principals: [deploy]", "principals: []", 1), "principals: want at least one"},
		"principals_in_one":      {strings.Replace(host, "principals: [deploy]", "principals: [\"a,b\"]", 1), "principals[0]: want"},
		"from_anywhere":          {strings.Replace(host, "[192.0.2.7]", "[]", 1), "sourceAddresses: want"},
		"from_a_name":            {strings.Replace(host, "192.0.2.7", "build", 1), "sourceAddresses[0]: want an IP"},
		"any_host":               {host[:strings.Index(host, "hostKeys")] + "hostKeys: []}\n", "hostKeys: want at least one"},
		"nonsense_host_key":      {strings.Replace(host, "ssh-ed25519 ", "ssh-ed25519 x", 1), "hostKeys[0]: want one public key"},
		"two_lines":              {strings.Replace(host, "    user", "    forceCommand: \"a\\nb\"\n    user", 1), "forceCommand: want"},
		"agent_forwarding":       {strings.Replace(host, "    user", "    extensions: [permit-agent-forwarding]\n    user", 1), "extensions[0]"},
		"unknown_extension":      {strings.Replace(host, "    user", "    extensions: [permit-all]\n    user", 1), "extensions[0]"},
		"option_as_user":         {strings.Replace(host, "user: deploy", "user: \"-oProxyCommand=x\"", 1), "user: want the name"},
		"inline_ca":              {strings.Replace(host, "ca: {sealed: ssh-ca}", "ca: hunter2-hunter2", 1), "sallyport secret put"},
		"directory_without_app":  {strings.Replace(dir, "  connector: iam\n", "", 1), "spec.connector: is missing"},
		"directory_with_account": {dir + "  account: svc\n", "spec.account: is of type static-form"},
		"directory_with_secret":  {dir + "  secret: {sealed: x}\n", "spec.secret: is of type"},
		"rotates_no_secret":      {rotate, "spec.secret: is missing"},
		"rotates_no_account":     {strings.Replace(rotate, "account: \"uid=s,dc=x\", ", "", 1), "account: want a DN"},
		"rotates_no_login":       {strings.Replace(rotate, ", login: s", "", 1), "login: is missing"},
		"rotates_and_makes":      {strings.Replace(rotate, "account:", "base: \"ou=tasks,dc=x\", account:", 1), "base and groups are of accounts"},
		"makes_and_rotates":      {strings.Replace(rotate, "    mode: rotate\n", "", 1), "are of mode rotate"},
		"other_mode":             {strings.Replace(rotate, "rotate", "delete", 1), "mode"},
		"code_of_a_directory":    {dir + "  totp: {sealed: x}\n", "spec.totp: is of type static-form"},
		"code_inline":            {"  type: static-form\n  connector: iam\n  account: s\n  secret: {sealed: x}\n  totp: hunter2-hunter2\n", "sallyport secret put"},
		"no_directory":           {"  type: ldap\n  connector: iam\n", "spec.ldap: is missing"},
		"anonymous_admin":        {strings.Replace(dir, ", secret: {sealed: dir}", "", 1), "admin.secret: is missing"},
		"admin_password_inline":  {strings.Replace(dir, "{sealed: dir}", "hunter2-hunter2", 1), "sallyport secret put"},
		"admin_is_no_dn":         {strings.Replace(dir, "cn=boundary,dc=x", "boundary", 1), "admin.dn: want a DN"},
		"base_with_nul":          {strings.Replace(dir, "ou=tasks", "ou=a\\0b", 1), "base: has a control"},
		"group_is_no_dn":         {strings.Replace(dir, "cn=g,dc=x", "g", 1), "groups[0]: want a DN"},
		"not_a_directory":        {strings.Replace(dir, "ldaps://", "https://", 1), "url: want ldaps://"},
		"password_in_url":        {strings.Replace(dir, "ldaps://dir", "ldaps://u:hunter2@dir", 1), "url: want ldaps://"},
		"socket_with_slashes":    {strings.Replace(dir, "ldaps://dir:636", "ldapi:///run/ldapi", 1), "url: want ldaps://"},
		"socket_leaves_folder":   {strings.Replace(dir, "ldaps://dir:636", "ldapi://%2Frun%2F..%2Fldapi", 1), "url: want ldaps://"},
		"directory_socket_tls":   {strings.Replace(dir, "ldaps://dir:636\"", "ldapi://%2Frun%2Fldapi\", ca: x", 1), "a Unix socket has no TLS"},
		"no_directory_stage":     {dir[:strings.Index(dir, "      sandbox")] + "      {}\n", "stages: want at least one"},
		"form_with_database":     {strings.Replace(db, "postgresql\n", "static-form\n", 1), "spec.connector: is missing"},
		"database_with_form":     {db + "  account: svc\n", "spec.account: is of type static-form"},
		"no_block":               {"  type: postgresql\n", "spec.postgresql: is missing"},
		"unknown_type":           {"  type: oracle\n", "spec.type"},
		"no_roles":               {strings.Replace(db, "[reader]", "[]", 1), "roles: want at least one"},
		"long_role":              {strings.Replace(db, "[reader]", "["+strings.Repeat("x", 64)+"]", 1), "roles[0]: want a name"},
		"observes":               {strings.Replace(db, "effect: read", "effect: observe", 1), "effect: want read"},
		"inline_password":        {strings.Replace(db, "{sealed: db}", "hunter2-hunter2", 1), "sallyport secret put"},
		"password_in_address":    {strings.Replace(db, "db:5432", "u:p@db:5432", 1), "address: want HOST:PORT"},
		"url_as_address":         {strings.Replace(db, "db:5432", "postgres://db:5432/x", 1), "address: want HOST:PORT"},
		"relative_socket":        {strings.Replace(db, "db:5432", "/run/../etc", 1), "address: want an absolute folder"},
		"socket_and_tls":         {strings.Replace(db, "address: \"db:5432\"", "address: /run/postgresql, ca: x", 1), "a Unix socket has no TLS"},
		"unknown_stage":          {strings.Replace(db, "sandbox:", "staging:", 1), "staging"},
		"expires_at_once":        {strings.Replace(db, "    roles", "    ttlSeconds: 5\n    roles", 1), "ttlSeconds: want 60"},
		"a_thousand_sessions":    {strings.Replace(db, "    roles", "    connections: 1000\n    roles", 1), "connections: want 1 to 64"},
		"certificate_not_name":   {strings.Replace(db, "secret: {sealed: db}", "certificate: {sealed: \"../x\"}", 1), "admin.certificate.sealed: want the name"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := decode(head + c.text); err == nil || !strings.Contains(err.Error(), c.want) || strings.Contains(err.Error(), "hunter2") {
				t.Errorf("got %v, want %q", err, c.want)
			}
		})
	}
}

// TestPersonWithoutRoles: somebody from whom all roles were taken is printed so, and
// what is printed can be applied again.
func TestPersonWithoutRoles(t *testing.T) {
	all, err := decode(person + "  displayName: I\n  roles: []\n")
	if err != nil {
		t.Fatal(err)
	}
	canonical, err := all[0].Canonical()
	if err != nil || !strings.Contains(string(canonical), `"roles":[]`) {
		t.Fatalf("got %s, %v", canonical, err)
	}
	if again, err := resource.Receive([][]byte{canonical}); err != nil || again[0].Digest != all[0].Digest {
		t.Errorf("applied again: %v", err)
	}
	if _, err := decode(person + "  displayName: I\n"); err == nil {
		t.Error("roles that nobody wrote were read as none")
	}
}
