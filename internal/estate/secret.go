package estate

import (
	"crypto/rand"
	"fmt"
	"io"
)

// The accounts of every application of the company.
const (
	// ServiceAccount may do everything, on purpose: see the package comment.
	ServiceAccount = "svc-helpdesk"
	// ReadOnlyAccount may read everything and write nothing.
	ReadOnlyAccount = "auditor"
)

// Credentials sign in to one application of one copy.
type Credentials struct {
	Username string
	Password Password
}

// A Password prints as a label. It cannot be compared with ==.
type Password struct {
	_ [0]func()
	s string
}

// Reveal gives the password itself, for the one place that types it in.
func (p Password) Reveal() string { return p.s }

// Format writes the label for every verb.
func (Password) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "[secret]") }

// MarshalText gives the label.
func (Password) MarshalText() ([]byte, error) { return []byte("[secret]"), nil }

// newPassword has a prefix by which scanners find a leak.
func newPassword() Password { return Password{s: "bwi-pass-" + rand.Text()} }

type account struct {
	name     string
	password Password
	writes   bool
}

func newAccounts(stage Stage, choose func(Stage, App, string) string) map[App]map[string]account {
	all := map[App]map[string]account{}
	for _, app := range ownApps {
		all[app] = map[string]account{}
		for _, name := range []string{ServiceAccount, ReadOnlyAccount} {
			a := account{name: name, password: newPassword(), writes: name == ServiceAccount}
			if choose != nil {
				if p := choose(stage, app, name); p != "" {
					a.password = Password{s: p}
				}
			}
			all[app][name] = a
		}
	}
	return all
}
