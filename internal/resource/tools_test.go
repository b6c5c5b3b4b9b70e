package resource_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/resource"
)

// shadowing is a capability over two servers of tools.
const shadowing = `apiVersion: sallyport/v1
kind: Tenant
metadata: {name: acme}
spec: {trustDomain: acme.example}
---
apiVersion: sallyport/v1
kind: Connector
metadata: {name: mail, tenant: acme}
spec:
  stages: {sandbox: {origins: [{name: main, url: "https://mail.example"}]}}
  mcp: {path: /mcp}
  operations: [{name: mail.send, kind: tool, tool: send_mail, effect: write}]
---
apiVersion: sallyport/v1
kind: Connector
metadata: {name: notes, tenant: acme}
spec:
  stages: {sandbox: {origins: [{name: main, url: "https://notes.example"}]}}
  mcp: {path: /mcp}
  operations: [{name: notes.note.read, kind: tool, tool: read, effect: read}, {name: notes.send, kind: tool, tool: share, effect: write}]
---
apiVersion: sallyport/v1
kind: Capability
metadata: {name: work, tenant: acme}
spec:
  description: Work.
  version: "1"
  stages: [sandbox]
  operations: [{operation: mail.send, max: 1}, {operation: notes.note.read, max: 1}]
  budgets: {actions: 10, seconds: 60}
`

// A server cannot put itself in the place of another: tools of one task have names that
// nobody takes for one another, whether the task has the tool or only its server.
//
// Threats: G2 (policy)
func TestToolShadowing(t *testing.T) {
	for _, tt := range []struct{ name, tool, want string }{
		{"apart", "share", ""},
		{"same", "send_mail", "tool send_mail of connector notes could be taken for tool send_mail of connector mail"},
		{"case", "Send_Mail", "tool Send_Mail of connector notes could be taken for tool send_mail of connector mail"},
		{"separator", "send-mail", "could be taken for"},
		{"run_together", "sendmail", "could be taken for"},
		{"homoglyph", "send_m\\u0430il", "want the name of a tool"},
		{"of_another_world", "mail/send_mail", "want the name of a tool"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := strings.Replace(shadowing, "tool: share", `tool: "`+tt.tool+`"`, 1)
			all, err := decode(text)
			if err == nil {
				err = resource.Validate(all)
			}
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

// Each tool is facts of the boundary, which have to fit a record.
func TestTooManyTools(t *testing.T) {
	var ops []string
	for i := range 33 {
		ops = append(ops, fmt.Sprintf("{name: notes.n%d, kind: tool, tool: n%d, effect: write}", i, i))
	}
	for n, want := range map[int]string{32: "", 33: "spec.connectors: they declare 33 tools, and an agent has at most 32"} {
		_, rest, _ := strings.Cut(shadowing, "operations: [{name: notes.note.read")
		_, rest, _ = strings.Cut(rest, "\n")
		head, _, _ := strings.Cut(shadowing, "operations: [{name: notes.note.read")
		all, err := decode(head + "operations: [" + strings.Join(ops[:n], ", ") + "]\n" + rest + `---
apiVersion: sallyport/v1
kind: Agent
metadata: {name: clerk, tenant: acme}
spec:
  owner: ann
  deputy: bob
  purpose: Notes.
  reviewBy: 2027-01-01
  model: {provider: anthropic, endpoint: "https://model.example", id: m, location: here, key: {sealed: key}}
  harness: {name: h}
  browser: {kind: shell}
  connectors: [notes]
  capabilities: [work]
  policySets: [p]
  suites: [s]
`)
		if err != nil {
			t.Fatal(err)
		}
		err = resource.Validate(all)
		if has := err != nil && strings.Contains(err.Error(), "tools, and an agent"); has != (want != "") || has && !strings.Contains(err.Error(), want) {
			t.Errorf("%d tools: got %v, want %q", n, err, want)
		}
	}
}
