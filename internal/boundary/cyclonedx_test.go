package boundary_test

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/sallyport-dev/sallyport/internal/boundary"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/test/peer"
)

// full has a fact of every kind.
func full(t *testing.T) boundary.Manifest {
	t.Helper()
	d := func(s string) string { return string(canon.Digest([]byte(s))) }
	facts := []boundary.Fact{
		fact("model.id", "m-1-20260101", boundary.Observed), fact("model.requested", "m-1", boundary.Observed), fact("model.provider", "acme", boundary.Declared),
		fact("model.endpoint", "https://api.acme.example/v1/messages", boundary.Pinned), fact("model.sampling", d("sampling"), boundary.Observed),
		fact("prompt.system", d("prompt"), boundary.Observed), fact("tools", d("tools"), boundary.Observed),
		fact("harness.name", "reference", boundary.Declared), fact("harness.binary", d("harness"), boundary.Pinned), fact("harness.args", d("args"), boundary.Pinned),
		fact("browser.kind", "chromium", boundary.Pinned), fact("browser.version", "141.0", boundary.Pinned), fact("browser.flags", d("flags"), boundary.Pinned),
		fact("connector.iam", d("iam"), boundary.Pinned), fact("capability.reset", d("reset"), boundary.Pinned), fact("credential.iam", d("credential"), boundary.Pinned),
		fact("policy.company", d("company"), boundary.Pinned), fact("policy.shipped", d("shipped"), boundary.Pinned), fact("suite.core", d("core"), boundary.Pinned),
		fact("containment", "contained", boundary.Pinned), fact("sallyport.binary", d("sallyport"), boundary.Pinned),
		fact("identity.workload.0", `{"claim":"\u202e<&>"}`, boundary.Pinned),
	}
	for i := range facts {
		facts[i].Source, facts[i].Owner = "test", "owner"
	}
	return manifest(t, facts...)
}

// TestCycloneDX: a bill of materials is valid by the official schema, CycloneDX'
// own library reads it as it is meant, and every fact is in it.
func TestCycloneDX(t *testing.T) {
	if testing.Short() {
		t.Skip("builds CycloneDX' library")
	}
	m := full(t)
	b, err := m.CycloneDX(time.Unix(2, 0))
	if err != nil {
		t.Fatal(err)
	}
	empty, err := manifest(t).CycloneDX(time.Unix(2, 0))
	if err != nil {
		t.Fatal(err)
	}
	schema := official(t)
	for _, bill := range [][]byte{b, empty} {
		if err := schema.Validate(parsed(t, bill)); err != nil {
			t.Errorf("%v\n%s", err, bill)
		}
	}
	// The schema is one that refuses.
	for _, bad := range [][2]string{{`"machine-learning-model"`, `"model"`}, {`"1.7"`, `1.7`}, {`"SHA-256"`, `"sha256"`}, {`urn:uuid:`, `uuid:`}, {`"1970-`, `"70-`}, {`"dependsOn"`, `"on"`}} {
		changed := bytes.Replace(b, []byte(bad[0]), []byte(bad[1]), 1)
		if bytes.Equal(changed, b) || schema.Validate(parsed(t, changed)) == nil {
			t.Errorf("%s is not there, or %s is valid too", bad[0], bad[1])
		}
	}
	for _, f := range m.Facts {
		for name, value := range map[string]string{"": f.Value, ":grade": string(f.Grade), ":source": f.Source, ":owner": f.Owner} {
			want, err := json.Marshal(map[string]string{"name": "sallyport:" + f.Name + name, "value": value})
			if err != nil {
				t.Fatal(err)
			}
			if n := bytes.Count(compact(t, b), want); n != 1 {
				t.Errorf("%s is there %d times", want, n)
			}
		}
	}
	want := "1.7 application agent/helpdesk " + string(m.Digest()) + `
application chromium 141.0
data capability.reset SHA-256:` + hex8("reset") + `
data connector.iam SHA-256:` + hex8("iam") + `
data credential.iam SHA-256:` + hex8("credential") + `
application reference SHA-256:` + hex8("harness") + `
machine-learning-model m-1 m-1-20260101 of acme
data policy.company SHA-256:` + hex8("company") + `
data policy.shipped SHA-256:` + hex8("shipped") + `
data prompt.system SHA-256:` + hex8("prompt") + `
application sallyport SHA-256:` + hex8("sallyport") + `
data suite.core SHA-256:` + hex8("core") + `
data tools SHA-256:` + hex8("tools") + "\n"
	if got := understood(t, b); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

func hex8(s string) string { return string(canon.Digest([]byte(s)))[len("sha256:"):][:8] }

func compact(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	if err := json.Compact(&out, b); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func parsed(t *testing.T, b []byte) any {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// understood is what the library makes of a bill.
func understood(t *testing.T, bill []byte) string {
	t.Helper()
	c := exec.CommandContext(t.Context(), peer.Build(t, "cyclonedx"))
	c.Stdin = bytes.NewReader(bill)
	out, err := c.CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	return string(out)
}

// official is the schema of CycloneDX 1.7, from the library's module. Of what it
// refers to, the module lacks the names of algorithms, which no bill of ours has:
// one that had would be refused.
func official(t *testing.T) *jsonschema.Schema {
	t.Helper()
	peer.Go(t, "cyclonedx", "mod", "download", "github.com/CycloneDX/cyclonedx-go")
	dir := filepath.Join(peer.Go(t, "cyclonedx", "list", "-m", "-f", "{{.Dir}}", "github.com/CycloneDX/cyclonedx-go"), "schema")
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	const at = "http://cyclonedx.org/schema/"
	for name, file := range map[string]string{"bom-1.7.schema.json": "bom-1.7.schema.json", "spdx.schema.json": "spdx.schema.json", "jsf-0.82.schema.json": "jsf-0.82.schemax.json"} {
		b, err := os.ReadFile(filepath.Join(dir, file))
		if err != nil {
			t.Fatal(err)
		}
		if err := c.AddResource(at+name, parsed(t, b)); err != nil {
			t.Fatal(err)
		}
	}
	none := parsed(t, []byte(`{"definitions":{"algorithmFamiliesEnum":false,"ellipticCurvesEnum":false}}`))
	if err := c.AddResource(at+"cryptography-defs.schema.json", none); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile(at + "bom-1.7.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return s
}
