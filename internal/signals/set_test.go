package signals_test

import (
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/signals"
)

// caepExample is the first example of CAEP 1.0 section 3.3.2, with its extra claims.
const caepExample = `{"iss":"https://idp.example.com/3456789/","jti":"07efd930f0977e4fcc1149a733ce7f78","iat":1615305159,"aud":"https://sp.example2.net/caep","txn":"8675309",
"sub_id":{"format":"iss_sub","iss":"https://idp.example.com/3456789/","sub":"jane.smith@example.com"},
"events":{"https://schemas.openid.net/secevent/caep/event-type/credential-change":{"credential_type":"fido2-roaming","change_type":"create",
"fido2_aaguid":"accced6a-63f5-490a-9eea-e59bc1896cfc","initiating_entity":"user","reason_admin":{"en":"User self-enrollment"},"event_timestamp":1615304991}}}`

func claims(t testing.TB, doc string) map[string]canon.Value {
	t.Helper()
	var c map[string]canon.Value
	if err := canon.Unmarshal([]byte(doc), 64<<10, &c); err != nil {
		t.Fatal(err)
	}
	return c
}

// What is read of tokens: the specifications' examples whole, and nothing that
// could be another kind of token, or about two things at once.
//
// Threats: S1 (door)
func TestReadSET(t *testing.T) {
	s, err := signals.ReadSET(claims(t, caepExample))
	if err != nil {
		t.Fatal(err)
	}
	if s.ID != "07efd930f0977e4fcc1149a733ce7f78" || s.Type != signals.CredentialChange || s.Txn != "8675309" || s.IssuedAt.Unix() != 1615305159 ||
		!slices.Equal(s.Subjects, []signals.Subject{{Format: "iss_sub", Issuer: "https://idp.example.com/3456789/", ID: "jane.smith@example.com"}}) {
		t.Errorf("got %+v", s)
	}
	change := func(old, text string) string {
		if !strings.Contains(caepExample, old) {
			t.Fatal(old)
		}
		return strings.Replace(caepExample, old, text, 1)
	}
	subject := `{"format":"iss_sub","iss":"https://idp.example.com/3456789/","sub":"jane.smith@example.com"}`
	for _, c := range []struct {
		name, doc string
		subjects  []signals.Subject // nil: refused
	}{
		{"complex", change(subject, `{"format":"complex","user":{"format":"email","email":"a@b.example"},"device":{"format":"opaque","id":"7"}}`), []signals.Subject{{Format: "email", ID: "a@b.example"}}},
		{"complex_of_a_device", change(subject, `{"format":"complex","device":{"format":"opaque","id":"7"}}`), []signals.Subject{{Format: "complex"}}},
		{"aliases", change(subject, `{"format":"aliases","identifiers":[{"format":"email","email":"a@b.example"},{"format":"opaque","id":"7"}]}`),
			[]signals.Subject{{Format: "email", ID: "a@b.example"}, {Format: "opaque", ID: "7"}}},
		{"format_of_others", change(subject, `{"format":"did","url":"did:example:1"}`), []signals.Subject{{Format: "did"}}},
		{"subject_in_the_event", strings.Replace(change(`"sub_id":`+subject+`,`, ""), `"credential_type"`, `"subject":`+subject+`,"credential_type"`, 1),
			[]signals.Subject{{Format: "iss_sub", Issuer: "https://idp.example.com/3456789/", ID: "jane.smith@example.com"}}},
		{"sub", change(`"txn"`, `"sub":"jane","txn"`), nil},
		{"exp", change(`"txn"`, `"exp":1915305159,"txn"`), nil},
		{"two_events", change(`"events":{`, `"events":{"https://schemas.openid.net/secevent/caep/event-type/session-revoked":{},`), nil},
		{"no_event", change(`"events":{`, `"other":{`), nil},
		{"event_is_text", `{"iss":"i","jti":"j","iat":1,"aud":"a","sub_id":{"format":"opaque","id":"1"},"events":{"x":"y"}}`, nil},
		{"no_jti", change(`"jti":"07efd930f0977e4fcc1149a733ce7f78",`, ""), nil},
		{"jti_is_a_number", change(`"07efd930f0977e4fcc1149a733ce7f78"`, "7"), nil},
		{"iat_is_text", change("1615305159", `"1615305159"`), nil},
		{"iat_is_a_fraction", change("1615305159", `1615305159.5`), nil},
		{"no_audience", change(`"aud":"https://sp.example2.net/caep",`, ""), nil},
		{"no_subject", change(`"sub_id":`+subject+`,`, ""), nil},
		{"subject_without_its_id", change(subject, `{"format":"email"}`), nil},
		{"subject_is_a_list", change(subject, `[`+subject+`]`), nil},
		{"aliases_of_aliases_of_aliases", change(subject, `{"format":"aliases","identifiers":[{"format":"aliases","identifiers":[{"format":"aliases","identifiers":[{"format":"aliases","identifiers":[]}]}]}]}`), nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			s, err := signals.ReadSET(claims(t, c.doc))
			var no *signals.Rejection
			if c.subjects == nil {
				if !errors.As(err, &no) || no.Code != "invalid_request" {
					t.Errorf("got %+v, %v, want it refused", s, err)
				}
			} else if err != nil || !slices.Equal(s.Subjects, c.subjects) {
				t.Errorf("got %+v, %v, want %+v", s.Subjects, err, c.subjects)
			}
		})
	}
}

// What is read has what decides in it, and reads the same again from what was read.
func FuzzReadSET(f *testing.F) {
	f.Add([]byte(caepExample))
	f.Add([]byte(`{"iss":"i","jti":"j","iat":1,"aud":["a"],"sub_id":{"format":"complex","user":{"format":"email","email":"a@b"}},"events":{"e":{}}}`))
	f.Add([]byte(`{"iss":"i","jti":"j","iat":1,"aud":"a","sub_id":{"format":"aliases","identifiers":[{"format":"opaque","id":"1"}]},"events":{"e":{"reason_admin":{"en":"x"}}}}`))
	f.Fuzz(func(t *testing.T, doc []byte) {
		var c map[string]canon.Value
		if canon.Unmarshal(doc, 64<<10, &c) != nil {
			return
		}
		s, err := signals.ReadSET(c)
		if err != nil {
			return
		}
		if s.ID == "" || len(s.Audience) == 0 || s.Event == nil || len(s.Subjects) == 0 || c["exp"] != nil || c["sub"] != nil {
			t.Fatalf("taken: %+v", s)
		}
		b, err := json.Marshal(map[string]any{"iss": s.Issuer, "jti": s.ID, "iat": s.IssuedAt.Unix(), "aud": s.Audience, "events": map[string]any{s.Type: s.Event}, "sub_id": c["sub_id"]})
		if err != nil {
			t.Fatal(err)
		}
		var again map[string]canon.Value
		if err := canon.Unmarshal(b, 128<<10, &again); err != nil {
			return // a number or text that our own writer spells otherwise
		}
		if c["sub_id"] == nil {
			delete(again, "sub_id")
		}
		r, err := signals.ReadSET(again)
		if err != nil || r.ID != s.ID || r.Type != s.Type || !slices.Equal(r.Subjects, s.Subjects) || !slices.Equal(r.Audience, s.Audience) {
			t.Fatalf("read again: %+v, %v, was %+v", r, err, s)
		}
	})
}
