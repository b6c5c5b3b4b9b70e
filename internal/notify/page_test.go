package notify_test

import (
	"bytes"
	"encoding/json"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/api/apitest"
	"github.com/sallyport-dev/sallyport/internal/cli"
	"github.com/sallyport-dev/sallyport/internal/resource"
	"github.com/sallyport-dev/sallyport/internal/server"
)

func TestMain(m *testing.M) {
	apitest.Main()
	os.Exit(m.Run())
}

// page are the named blocks of docs/operate.md.
func page(t *testing.T) map[string]string {
	t.Helper()
	b, err := os.ReadFile("../../docs/operate.md")
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]string{}
	for _, m := range regexp.MustCompile("(?ms)^<!-- block: (told-[a-z-]+) -->\n```[a-z]+\n(.*?)^```").FindAllStringSubmatch(string(b), -1) {
		out[m[1]] = m[2]
	}
	return out
}

// What docs/operate.md says in "Who is told" is what works, on a whole server: the
// approver who may answer gets the question as a mail, and not who may not; a webhook
// hears of a kill.
func TestPage(t *testing.T) {
	t.Parallel()
	if testing.Short() {
		t.Skip("starts a server and node")
	}
	p, r, blocks := newPeer(t), apitest.Start(t), page(t)
	// The page's files are beside the resources; its servers are the peer's.
	yaml := strings.NewReplacer("url: https://siem.example/hooks/sallyport", "url: "+p.url+"/hook\n      local: true\n      caFile: peer.pem",
		"url: smtp://mail.example:587", "url: smtp://127.0.0.1:"+p.startTLS+"\n      local: true\n      caFile: peer.pem").Replace(blocks["told-tenant"])
	file := filepath.Join(r.Files, "tenant.yaml")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	const after = "  reviewers: [lin]\n"
	for name, text := range map[string]string{"tenant.yaml": strings.Replace(string(b), after, after+yaml, 1), "peer.pem": p.roots, "whsec.txt": whsec + "\n", "password.txt": password + "\n"} {
		if err := os.WriteFile(filepath.Join(r.Files, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	run := func(line string) (string, int) {
		t.Helper()
		line, in, _ := strings.Cut(line, " < ")
		var stdin []byte
		if in != "" {
			if stdin, err = os.ReadFile(filepath.Join(r.Files, in)); err != nil {
				t.Fatal(err)
			}
		}
		var out bytes.Buffer
		exit := cli.Run(t.Context(), append(strings.Fields(line)[1:], "--data", r.Data), bytes.NewReader(stdin), &out, &out)
		return out.String(), exit
	}
	r.Apply(t)
	for line := range strings.Lines(blocks["told-secrets"]) {
		if out, exit := run(strings.TrimSpace(line)); exit != 0 {
			t.Fatalf("%s: %s", line, out)
		}
	}
	r.ApproveAll(t, "ines")
	await(t, "both targets", func() bool {
		all, err := r.As("lin").Records(t.Context(), api.Filter{Limit: 10}, "notify.started")
		return err == nil && len(all.Records) == 2
	})

	x, err := r.As("dana").OpenTask(t.Context(), server.Intent{Capability: "reset-mfa", Stage: "sandbox", Params: map[string]string{"user": "jo", "ticket": "4711"}})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.As("mara").Revoke(t.Context(), "task/"+x.ID, "test"); err != nil {
		t.Fatal(err)
	}
	people, err := resource.Decode([]resource.Source{{Name: "p.yaml", Data: mustRead(t, filepath.Join(r.Files, "people.yaml"))}})
	if err == nil {
		err = resource.Inline(people, func(_, path string) ([]byte, error) { return os.ReadFile(filepath.Join(r.Files, path)) })
	}
	if err != nil {
		t.Fatal(err)
	}
	for i := range people {
		if s, ok := people[i].Spec.(*resource.PersonSpec); ok && people[i].Metadata.Name == "ines" {
			s.Roles = append(s.Roles, resource.RoleAuditor) // which others than ines approve
			people = people[i : i+1]
			break
		}
	}
	if _, err := r.As("kofi").Apply(t.Context(), people); err != nil {
		t.Fatal(err)
	}
	// What was asked at first may have been asked before the target was there.
	other := func(m mailed) bool { return strings.Join(m.To, " ") == "felix@brightwell.example" }
	var h heard
	await(t, "the kill and the question", func() bool { h = p.got(); return len(h.Events) > 0 && slices.ContainsFunc(h.Mails, other) })
	if v := h.Events[0].Event; v["type"] != "dev.sallyport.task.revoked" || v["subject"] != "task/"+x.ID || !strings.HasSuffix(v["source"].(string), "/t/brightwell") {
		t.Errorf("got %v", v)
	}
	_, text := h.Mails[slices.IndexFunc(h.Mails, other)].parse(t)
	if !strings.Contains(text, "dev.sallyport.approval.requested") || !strings.Contains(text, "sallyport approve ") {
		t.Errorf("got %s", text)
	}
	if out, exit := run(blocks["told-get"]); exit != 0 || !strings.Contains(out, "siem") || !strings.Contains(out, "smtp://127.0.0.1") {
		t.Errorf("exit %d: %s", exit, out)
	}
	resp, err := http.Get("http://" + r.Faces.Addr() + "/readyz")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var ready struct{ LateTargets *int }
	if err := json.NewDecoder(resp.Body).Decode(&ready); err != nil || ready.LateTargets == nil || *ready.LateTargets != 0 {
		t.Errorf("readyz: got %v, %v", ready.LateTargets, err)
	}
}

func mustRead(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
