package separation_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/separation"
)

func apart() separation.Estate {
	return separation.Estate{People: []separation.Person{
		{Name: "kofi", Roles: []string{"identity-administrator"}, Account: "kofi", Mail: "kofi@acme.example"},
		{Name: "sven", Roles: []string{"secrets-administrator"}, Account: "sven", Mail: "sven@acme.example", Keys: []string{"k1"}},
		{Name: "noor", Roles: []string{"policy-author"}, Mail: "noor@acme.example"},
		{Name: "ines", Roles: []string{"approver"}, Account: "ines", Mail: "ines@acme.example", Keys: []string{"k2"}},
		{Name: "felix", Roles: []string{"approver"}, Mail: "felix@acme.example", Keys: []string{"k3"}},
		{Name: "mara", Roles: []string{"owner"}, Mail: "mara@acme.example"},
		{Name: "tom", Roles: []string{"owner"}},
		{Name: "dana", Roles: []string{"requester"}},
	}, Systems: []separation.System{{Name: "CredentialSource/host", Account: "deploy"}, {Name: "CredentialSource/db"}},
		Agents:  []separation.Agent{{Name: "helpdesk", Owner: "mara", Deputy: "tom", Systems: []string{"CredentialSource/host"}}},
		Quorums: []separation.Quorum{{What: "Capability/wipe", Role: "approver", People: 2}}, Server: "sallyport"}
}

// An estate in which everybody is who they seem has one kind of chain: who says
// which roles people have, and it is guarded.
func TestApart(t *testing.T) {
	for _, f := range separation.Analyse(apart()) {
		if f.Open() || f.Code != "gives-itself" || !slices.Equal(f.People, []string{"kofi"}) || !slices.Equal(f.Guard, []string{"felix", "ines"}) {
			t.Errorf("got %s: %s", f.Code, f)
		}
	}
}

// Where nobody could approve what kofi would gain, the apply is refused: it is no
// way, and least of all one that he could go alone.
func TestNobodyCouldApprove(t *testing.T) {
	e := apart()
	e.People[3].Roles, e.People[4].Keys = []string{"auditor"}, nil
	if found := separation.Analyse(e); len(found) > 0 {
		t.Errorf("got %v", found)
	}
}

// The shapes in which separation was lost elsewhere, each built into an estate
// where nothing else is wrong. The path must name what a reader has to look at.
//
// Threats: R1, R2, R3 (policy)
func TestPaths(t *testing.T) {
	for _, c := range []struct {
		name   string
		change func(*separation.Estate)
		code   string
		people []string
		path   []string // pieces, in order
		guard  []string
	}{
		// Azure Key Vault's access policies: a contributor, who could read no secret,
		// could edit the list of who may.
		{"who_may_say_who_reads_secrets", func(*separation.Estate) {}, "gives-itself", []string{"kofi"},
			[]string{"kofi has the role identity-administrator", "Person/kofi", "secrets-administrator"}, []string{"felix", "ines"}},
		{"an_approver_without_a_key_guards_nothing", func(e *separation.Estate) { e.People[4].Keys = nil },
			"gives-itself", []string{"kofi"}, []string{"identity-administrator", "secrets-administrator"}, []string{"ines"}},
		{"two_roles", func(e *separation.Estate) { e.People[0].Roles = append(e.People[0].Roles, "secrets-administrator") },
			"both-powers", []string{"kofi"}, []string{"identity-administrator", "secrets-administrator"}, nil},
		{"second_name_with_the_same_mail", func(e *separation.Estate) { e.People[4].Mail = "Kofi+2@ACME.example" },
			"both-powers", []string{"kofi", "felix"}, []string{"mailbox kofi@acme.example", "identity-administrator", "approver"}, nil},
		{"second_name_is_listed", func(e *separation.Estate) { e.People[4].Mail = "ines@acme.example" },
			"two-names", []string{"ines", "felix"}, []string{"ines and felix have the same mailbox"}, nil},
		{"same_key", func(e *separation.Estate) { e.People[3].Keys = []string{"k1"} },
			"both-powers", []string{"sven", "ines"}, []string{"same key k1", "approver", "secrets-administrator"}, nil},
		{"same_subject_at_the_identity_provider", func(e *separation.Estate) {
			e.People[2].Subjects, e.People[3].Subjects = []string{"https://idp 7"}, []string{"https://idp 7"}
		}, "both-powers", []string{"noor", "ines"}, []string{"subject https://idp 7", "policy-author", "approver"}, nil},
		{"three_names_in_a_chain", func(e *separation.Estate) {
			e.People[3].Mail, e.People[3].Keys, e.People[1].Keys = "felix@acme.example", []string{"k9"}, []string{"k9"}
		}, "both-powers", []string{"sven", "ines", "felix"}, []string{"key k9", "mailbox felix", "approver", "secrets-administrator"}, nil},
		{"quorum_of_one_person", func(e *separation.Estate) { e.People[4].Account = "ines" },
			"quorum", []string{"ines", "felix"}, []string{"account ines", "Capability/wipe asks 2"}, nil},
		{"database_administrator", func(e *separation.Estate) {
			e.Systems[1].Roles = []separation.SystemRole{{Person: "noor", Role: "DBA", Can: []separation.Power{separation.Secrets}}}
		}, "both-powers", []string{"noor"}, []string{"policy-author", "noor is DBA of CredentialSource/db"}, nil},
		{"agent_acts_as_an_approver", func(e *separation.Estate) { e.Systems[0].Account = "ines" },
			"controls-approver", []string{"mara"}, []string{"mara answers for agent helpdesk", "CredentialSource/host as ines", "account of ines"}, nil},
		{"approver_has_the_servers_account", func(e *separation.Estate) { e.Server = "ines" },
			"both-powers", []string{"ines"}, []string{"role approver", "ines, who can open the sealed secrets"}, nil},
		{"root_writes_rules", func(e *separation.Estate) { e.People[2].Account = "root" },
			"both-powers", []string{"noor"}, []string{"policy-author", "root, who can open"}, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			e := apart()
			c.change(&e)
			all := separation.Analyse(e)
			if !slices.ContainsFunc(all, func(f separation.Finding) bool {
				if f.Code != c.code || !slices.Equal(f.People, c.people) || !slices.Equal(f.Guard, c.guard) {
					return false
				}
				rest := strings.Join(f.Path, "; ")
				for _, piece := range c.path {
					_, after, ok := strings.Cut(rest, piece)
					if !ok {
						return false
					}
					rest = after
				}
				return true
			}) {
				t.Errorf("no %s of %v over %v; found:", c.code, c.people, c.path)
				for _, f := range all {
					t.Log(f.Code, f)
				}
			}
		})
	}
}
