package server_test

import (
	"bytes"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"testing"

	"github.com/go-ldap/ldap/v3"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/estate"
	"github.com/sallyport-dev/sallyport/internal/lease/leasetest"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// TestAccountOfADirectory: a task of a capability that lists a directory gets an
// account of its own; the boundary signs in with it to a real application that
// asks the directory, by a bind and by the group, and puts the session into its
// requests; neither the account nor the session outlives the task.
//
// Threats: K4, K9 (lease)
func TestAccountOfADirectory(t *testing.T) {
	if testing.Short() {
		t.Skip("starts an LDAP server")
	}
	d := leasetest.StartLDAP(t)
	socket := filepath.Join(filepath.Dir(d.Socket), "wire")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	wire := leasetest.NewWire(t, l, "unix", d.Socket)
	var used []string // passwords that the application was shown
	r := rig.New(t, rig.Options{
		Edit: func(files map[string][]byte) {
			rig.Replace("capability.yaml", "credentials: [iam-helpdesk, tickets-helpdesk]", "credentials: [iam-account]")(files)
			files["credentials.yaml"] = append(files["credentials.yaml"], leasetest.AccountSource(d.URL(socket))...)
		},
		Directory: func(_ estate.Stage, _ estate.App, name, password string) bool {
			dn := "uid=" + ldap.EscapeDN(name) + "," + leasetest.Tasks
			c, err := d.Bind(dn, password)
			if err != nil {
				return false
			}
			c.Close()
			used = append(used, password)
			return len(d.Find("(&(objectClass=groupOfNames)(member="+ldap.EscapeFilter(dn)+"))")) == 1
		}})
	if err := r.Server.PutSecret(t.Context(), "", rig.As("sven"), "directory-admin", []byte(leasetest.AdminPassword)); err != nil {
		t.Fatal(err)
	}
	r.Ready(t)
	iam := r.Estate.URL(estate.Sandbox, estate.IAM)
	status := func(inject func(*http.Request) error) int {
		t.Helper()
		q, err := http.NewRequestWithContext(t.Context(), http.MethodGet, iam+"/account/sessions", nil)
		if err != nil {
			t.Fatal(err)
		}
		if inject != nil {
			if err := inject(q); err != nil {
				return 0
			}
		}
		c := r.Estate.HTTPClient()
		c.Jar = nil
		a, err := c.Do(q)
		if err != nil {
			t.Fatal(err)
		}
		a.Body.Close()
		return a.StatusCode
	}
	gone := func() {
		t.Helper()
		if got := d.Find("(|(uid=sallyport-*)(memberUid=*))"); len(got) > 0 {
			t.Errorf("the directory holds %q", got)
		}
		r.NoSessions(t, action.Sandbox)
		for _, e := range r.Records(t, 0) {
			for _, p := range used {
				if bytes.Contains(e.Body, []byte(p)) {
					t.Errorf("the password is in record %s", e.Type)
				}
			}
		}
	}
	open := func() string { return r.OpenTask(t, rig.Intent(action.Sandbox, "jo", "4711")).ID }
	kill := func(id string) error {
		_, err := r.Server.Revoke(t.Context(), "", rig.As("ada"), "task/"+id, "test")
		return err
	}

	t.Run("lives_and_ends", func(t *testing.T) {
		id := open()
		inject, replaced, err := r.Server.StartLeases(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if got := status(inject); got != http.StatusOK {
			t.Errorf("the application answers %d to the task", got)
		}
		if len(used) != 1 || !replaced("it is "+used[0]) {
			t.Errorf("the application was shown %d passwords, or may show one to the agent", len(used))
		}
		if got := d.Find("(uid=sallyport-*)"); len(got) != 1 || !strings.HasSuffix(got[0], leasetest.Tasks) {
			t.Errorf("the directory holds %q", got)
		}
		if err := kill(id); err != nil {
			t.Fatal(err)
		}
		if got := status(inject); got != 0 {
			t.Errorf("the ended task's request was answered %d", got)
		}
		gone()
	})

	t.Run("directory_down_at_issue", func(t *testing.T) {
		wire.Down()
		id := open()
		_, _, err := r.Server.StartLeases(t.Context(), id)
		wire.Restore()
		if err == nil || !strings.Contains(err.Error(), "iam-account") {
			t.Errorf("got %v", err)
		}
		gone()
	})

	t.Run("directory_down_at_the_end", func(t *testing.T) {
		id := open()
		if _, _, err := r.Server.StartLeases(t.Context(), id); err != nil {
			t.Fatal(err)
		}
		wire.Down()
		if err := kill(id); err == nil {
			t.Error("an end was confirmed while the directory was away")
		}
		r.NoSessions(t, action.Sandbox) // the application's part does not wait
		wire.Restore()
		rig.Await(t, "the account to end", func() bool { return len(d.Find("(uid=sallyport-*)")) == 0 })
		rig.Await(t, "the lease to be confirmed", func() bool {
			ls, err := r.Server.Leases(t.Context(), "")
			if err != nil {
				t.Fatal(err)
			}
			for _, l := range ls {
				if l.Task == id && l.State != "revoked" {
					return false
				}
			}
			return true
		})
		gone()
	})
}
