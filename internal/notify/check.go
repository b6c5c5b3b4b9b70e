package notify

import (
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// Check returns the field of a target that is wrong, and what is, or nothing.
func (t Target) Check() (field, problem string) {
	u, err := url.Parse(t.URL)
	if err != nil || u.Hostname() == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" || u.String() != t.URL ||
		!slices.Contains([]string{"https", "smtp", "smtps"}, u.Scheme) || u.Scheme != "https" && u.Path != "" {
		return "url", "want https://host/path, smtp://host or smtps://host"
	}
	for i, p := range t.Events {
		if !slices.ContainsFunc(Types(), func(typ string) bool { return matches(p, typ) }) {
			return fmt.Sprintf("events[%d]", i), "there is no such type: want one of " + strings.Join(Types(), ", ") + ", or the beginning of some and *"
		}
	}
	if u.Scheme == "https" {
		if t.From != "" || len(t.To) > 0 || t.Username != "" || t.Password != nil {
			return "mail", "is for smtp:// and smtps://"
		}
		return "", ""
	}
	return t.checkMail()
}

func (t Target) checkMail() (field, problem string) {
	if t.Signature != nil || t.Authorization != nil {
		return "url", "a mail server takes neither signature nor authorization; want https://host/path, or mail.password"
	}
	if !address.MatchString(t.From) {
		return "mail.from", "want name@domain, in ASCII"
	}
	for i, a := range t.To {
		if !address.MatchString(a) {
			return fmt.Sprintf("mail.to[%d]", i), "want name@domain, in ASCII"
		}
	}
	if len(t.To) == 0 && slices.ContainsFunc(Types(), func(typ string) bool { return typ != prefix+asked && t.wants(typ) }) {
		return "mail.to", "want who gets these events; without it events is [" + prefix + asked + "] alone, which goes to the approvers"
	}
	if (t.Username == "") != (t.Password == nil) {
		return "mail.password", "want username and password, or neither"
	}
	return "", ""
}
