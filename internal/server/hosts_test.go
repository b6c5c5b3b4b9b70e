package server_test

import (
	"bytes"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/lease"
	"github.com/sallyport-dev/sallyport/internal/server"
	"github.com/sallyport-dev/sallyport/internal/task"
	"github.com/sallyport-dev/sallyport/test/rig"
	"github.com/sallyport-dev/sallyport/test/sshd"
)

// TestHost: a declared host is reached by the client's own means, with nothing but
// what is in its environment, and by nothing that is left when the task is killed.
//
// Threats: K6, K8 (lease, door)
func TestHost(t *testing.T) {
	if testing.Short() {
		t.Skip("starts an sshd")
	}
	d := sshd.Start(t)
	r := rig.New(t, rig.Options{Edit: func(files map[string][]byte) {
		rig.Replace("capability.yaml", "credentials: [iam-helpdesk, tickets-helpdesk]", "credentials: [build]")(files)
		files["credentials.yaml"] = append(files["credentials.yaml"], d.Source()...)
	}})
	if err := r.Server.PutSecret(t.Context(), "", rig.As("sven"), "ssh-ca", bytes.Clone(d.CA)); err != nil {
		t.Fatal(err)
	}
	r.Ready(t)
	x := r.OpenTask(t, rig.Intent(action.Sandbox, "jo", "4711"))
	out := &rig.Output{}
	script := `ssh -F "$SALLYPORT_SSH_CONFIG" build 'echo "in as $USER"; exec sleep 600'; echo "over $?"; ssh -F "$SALLYPORT_SSH_CONFIG" build echo again; sleep 600`
	before := d.Children()
	running, err := r.Server.RunScreenless(t.Context(), x.ID, server.Harness{Path: "/bin/sh", Args: []string{"-c", script}, Dir: t.TempDir(), Stdout: out, Stderr: out})
	if err != nil {
		t.Fatal(err)
	}
	rig.Await(t, "the session", func() bool {
		return strings.Contains(out.String(), "in as "+d.User) || strings.Contains(out.String(), "over")
	})
	if strings.Contains(out.String(), "over") {
		t.Fatal(out)
	}
	if _, err := r.Server.Revoke(t.Context(), "", rig.As("mara"), "task/"+x.ID, "acts strangely"); err != nil {
		t.Fatal(err)
	}
	if _, x, _ := running.Wait(t.Context()); x.State != task.Revoked {
		t.Errorf("the task is %s", x.State)
	}
	rig.Await(t, "the end at the host", func() bool { return d.Children() <= before })
	if strings.Contains(out.String(), "again") {
		t.Errorf("a session after the kill: %s", out)
	}
	all, err := r.Server.Leases(t.Context(), "")
	if err != nil || len(all) != 1 || all[0].State != lease.Revoked {
		t.Errorf("got %+v %v", all, err)
	}
	var ops []string
	for _, d := range r.Decisions(t, x.ID) {
		if a := d.Action; a.Surface == action.SSH && d.Decision.Verdict == action.Allow && a.App == "build" && a.Effect == action.Read && len(d.Decision.Policies) > 0 {
			ops = append(ops, a.Operation)
		}
	}
	if strings.Join(ops, " ") != "ssh.connect ssh.sign" {
		t.Errorf("on record: %q", ops)
	}
}
