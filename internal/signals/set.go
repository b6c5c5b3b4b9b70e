package signals

import (
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/sallyport-dev/sallyport/internal/canon"
)

// SET is what a security event token says, whose signature was verified.
type SET struct {
	Issuer   string
	ID       string // jti
	Audience []string
	IssuedAt time.Time
	Txn      string
	Type     string
	Event    map[string]canon.Value
	Subjects []Subject // identifiers of the one subject
}

// Subject is a subject identifier (RFC 9493): of the formats that can name a
// person here. Of others only the format is kept.
type Subject struct {
	Format string
	Issuer string // of iss_sub
	ID     string // e-mail address, subject, or opaque id
}

// Rejection is why a token is not taken, as RFC 8935 section 2.4 names it.
type Rejection struct {
	Code        string // invalid_request, invalid_key, invalid_issuer, invalid_audience, authentication_failed, access_denied
	Description string
}

func (r *Rejection) Error() string { return r.Code + ": " + r.Description }

func reject(code, format string, args ...any) error {
	return &Rejection{code, fmt.Sprintf(format, args...)}
}

// ReadSET reads claims whose signature was verified. Members that it does not
// know are left out, as SSF 1.0 section 4.2.4 asks; what could make another kind
// of token of it is refused.
func ReadSET(c map[string]canon.Value) (SET, error) {
	bad := func(format string, args ...any) (SET, error) {
		return SET{}, reject("invalid_request", format, args...)
	}
	for _, name := range []string{"sub", "exp", "nbf"} { // SSF 1.0 section 4.1.3
		if c[name] != nil {
			return bad("a security event has no %s", name)
		}
	}
	var s SET
	var iat int64
	var ok [3]bool
	s.Issuer, ok[0] = text(c["iss"])
	s.ID, ok[1] = text(c["jti"])
	ok[2] = c["iat"] != nil && canon.Unmarshal(c["iat"], 32, &iat) == nil && iat > 0 && iat < 1<<40
	if !ok[0] || !ok[1] || !ok[2] || s.ID == "" || len(s.ID) > maxID {
		return bad("want iss, jti and iat")
	}
	s.IssuedAt = time.Unix(iat, 0).UTC()
	if s.Audience = texts(c["aud"]); len(s.Audience) == 0 {
		return bad("want aud")
	}
	if v := c["txn"]; v != nil {
		if s.Txn, ok[0] = text(v); !ok[0] || len(s.Txn) > maxID {
			return bad("txn is no short text")
		}
	}
	var events map[string]canon.Value
	if c["events"] == nil || canon.Unmarshal(c["events"], maxSET, &events) != nil || len(events) != 1 {
		return bad("want exactly one event")
	}
	for s.Type = range maps.Keys(events) {
		if len(s.Type) > maxID || canon.Unmarshal(events[s.Type], maxSET, &s.Event) != nil || s.Event == nil {
			return bad("the event is not an object")
		}
	}
	who := c["sub_id"]
	if who == nil {
		who = s.Event["subject"] // of CAEP and RISC before SSF 1.0
	}
	var err error
	s.Subjects, err = readSubject(who, 0)
	return s, err
}

// readSubject reads a subject: simple, or complex, of which the user is who
// something ends for (SSF 1.0 section 3.3), or several names of one (aliases).
func readSubject(v canon.Value, depth int) ([]Subject, error) {
	var m map[string]canon.Value
	if v == nil || depth > 2 || canon.Unmarshal(v, maxSET, &m) != nil {
		return nil, reject("invalid_request", "want sub_id, a subject identifier")
	}
	format, ok := text(m["format"])
	if !ok && m["user"] != nil {
		format = "complex"
	}
	s := Subject{Format: format}
	need := func(name string, to *string) error {
		var ok bool
		if *to, ok = text(m[name]); !ok || *to == "" || len(*to) > maxID {
			return reject("invalid_request", "the subject identifier has no %s", name)
		}
		return nil
	}
	var err error
	switch format {
	case "":
		return nil, reject("invalid_request", "the subject identifier has no format")
	case "complex":
		if m["user"] == nil {
			return []Subject{s}, nil
		}
		return readSubject(m["user"], depth+1)
	case "aliases":
		var all []canon.Value
		if m["identifiers"] == nil || canon.Unmarshal(m["identifiers"], maxSET, &all) != nil || len(all) == 0 || len(all) > maxNames {
			return nil, reject("invalid_request", "the subject has no identifiers")
		}
		var out []Subject
		for _, x := range all {
			one, err := readSubject(x, depth+1)
			if err != nil {
				return nil, err
			}
			out = append(out, one...)
		}
		return out, nil
	case "email":
		err = need("email", &s.ID)
	case "iss_sub":
		if err = need("iss", &s.Issuer); err == nil {
			err = need("sub", &s.ID)
		}
	case "opaque":
		err = need("id", &s.ID)
	}
	return []Subject{s}, err
}

// member is a text of the event, or empty.
func (s SET) member(name string) string {
	t, _ := text(s.Event[name])
	return t
}

func text(v canon.Value) (string, bool) {
	var s string
	if len(v) == 0 || v[0] != '"' || canon.Unmarshal(v, maxSET, &s) != nil {
		return "", false
	}
	return s, true
}

// texts is a string, or an array of strings; nil if it is neither.
func texts(v canon.Value) []string {
	if s, ok := text(v); ok {
		return []string{s}
	}
	var out []string
	if len(v) == 0 || canon.Unmarshal(v, maxSET, &out) != nil || len(out) > maxNames || slices.Contains(out, "") {
		return nil
	}
	return out
}
