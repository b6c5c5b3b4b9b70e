package resource_test

import (
	"os"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/resource"
)

// An operator, who chooses where a target is, names the secret of something else
// for it; or a source is given what is for a target.
//
// Threats: S6 (door)
func TestSecretsHaveTheirPlaces(t *testing.T) {
	b, err := os.ReadFile("testdata/valid.yaml")
	if err != nil {
		t.Fatal(err)
	}
	const tenant = "  retention: year\n"
	notify := func(of string) string {
		return tenant + "  notify:\n    - {name: siem, url: \"https://siem.example/x\", " + of + "}\n"
	}
	transmitters := func(name string) string {
		return tenant + "  transmitters:\n    - {issuer: \"https://idp.example\", audience: a, subjects: [email], authorization: {sealed: " + name + "}}\n"
	}
	for _, tt := range []struct{ name, old, new, want string }{
		{"header", tenant, notify("authorization: {sealed: model-key}"), "notify[0].authorization.sealed: want"},
		{"signature", tenant, notify("signature: {sealed: iam-svc}"), "notify[0].signature.sealed: want"},
		{"mail", tenant, notify("mail: {from: a@b.example, password: {sealed: iam-svc}}"), "notify[0].mail.password.sealed: want"},
		{"of signals", tenant, notify("authorization: {sealed: signals/idp}"), "notify[0].authorization.sealed: want"},
		{"own", tenant, notify("authorization: {sealed: notify/siem}"), ""},
		{"transmitter", tenant, transmitters("model-key"), "transmitters[0].authorization.sealed: want"},
		{"transmitter's own", tenant, transmitters("signals/idp"), ""},
		{"source", "{sealed: iam-svc}", "{sealed: notify/siem}", "spec.secret.sealed: is a name"},
		{"source, by its stage", "{sealed: iam-svc}", "{sealed: notify}", "spec.secret.sealed: is a name"},
		{"model", "{sealed: model-key}", "{sealed: signals/idp}", "spec.model.key.sealed: is a name"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			text := strings.Replace(string(b), tt.old, tt.new, 1)
			if tt.new == "" || text == string(b) {
				t.Fatal("nothing was changed")
			}
			all, err := decode(text)
			if err == nil {
				err = resource.Validate(all)
			}
			switch {
			case tt.want == "" && err != nil:
				t.Errorf("got %v, want nil", err)
			case tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)):
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}
