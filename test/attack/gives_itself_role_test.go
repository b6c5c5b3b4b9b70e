package attack

import (
	"slices"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/resource"
	"github.com/sallyport-dev/sallyport/internal/separation"
	"github.com/sallyport-dev/sallyport/internal/server"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// Who may say which roles people have makes itself, or a second name of its own,
// a reader of secrets: with the access policies of Azure Key Vault a contributor
// could, alone. Here the change waits for somebody else, nothing is gained
// meanwhile, and the way is listed by name.
//
// Threats: R1 (approval)
func TestConfigurationGrantsItselfSecrets(t *testing.T) {
	r := rig.New(t, rig.Options{})
	ctx := t.Context()
	const kofi = "roles: [identity-administrator]\n  sshKeyFiles: [keys/kofi.pub]"
	apply := func(as, roles string) ([]server.Applied, error) {
		t.Helper()
		all, err := r.Resources(rig.Replace("people.yaml", kofi, roles))
		if err != nil {
			t.Fatal(err)
		}
		return r.Server.Apply(ctx, rig.As(as), all)
	}
	// Both at once is refused as it is read.
	if _, err := r.Resources(rig.Replace("people.yaml", "roles: [identity-administrator]", "roles: [identity-administrator, secrets-administrator]")); err == nil {
		t.Error("one person was declared with both roles")
	}
	second := kofi + "\n---\napiVersion: sallyport/v1\nkind: Person\nmetadata: {name: kofi-too, tenant: brightwell}\n" +
		"spec:\n  displayName: Kofi Again\n  email: kofi+too@brightwell.example\n  roles: [secrets-administrator]"
	done, err := apply("kofi", second)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(done, func(d server.Applied) bool { return d.Name == "kofi-too" })
	if i < 0 || done[i].Change != "proposed" || done[i].Pending == "" {
		t.Fatalf("got %+v, want a proposal that waits", done)
	}
	refusedWith(t, r.Server.PutSecret(ctx, "", rig.As("kofi-too"), "x", []byte("mine")), "person_unknown")
	refusedWith(t, r.Server.PutSecret(ctx, "", rig.As("kofi"), "x", []byte("mine")), "role_missing")
	a, err := r.Server.Approval(ctx, "", done[i].Pending)
	if err != nil {
		t.Fatal(err)
	}
	refusedWith(t, r.Sign(ctx, a, "kofi"), "excluded")
	found, err := r.Server.Separation("")
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(found, func(f separation.Finding) bool {
		return f.Code == "gives-itself" && slices.Equal(f.People, []string{"kofi"}) && slices.Contains(f.Powers, separation.Secrets) &&
			slices.Equal(f.Guard, []string{"felix", "ines"})
	}) {
		t.Errorf("the way is not listed: %v", found)
	}
	// Somebody else is shown what it is, and may say yes. Then it is in force, and
	// the two names with one mailbox are listed as what nobody guards any more.
	if a.Statement.Details["gains.1"] != "role secrets-administrator" || a.Statement.Details["author"] != "kofi" {
		t.Errorf("the question says %v", a.Statement.Details)
	}
	if err := r.Sign(ctx, a, "ines"); err != nil {
		t.Fatal(err)
	}
	if err := r.Server.PutSecret(ctx, "", rig.As("kofi-too"), "x", []byte("mine")); err != nil {
		t.Error(err)
	}
	if found, _ = r.Server.Separation(""); len(found) == 0 || !found[0].Open() || found[0].Code != "both-powers" || !slices.Equal(found[0].People, []string{"kofi", "kofi-too"}) {
		t.Errorf("two names of one person reach both, and it says %v", found)
	}
	people, err := r.Server.Resources("", resource.KindPerson, "kofi-too")
	if err != nil || len(people) != 1 {
		t.Errorf("got %s, %v", people, err)
	}
}
