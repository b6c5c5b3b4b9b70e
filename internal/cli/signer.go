package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"

	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/term"

	"github.com/sallyport-dev/sallyport/internal/api/client"
	"github.com/sallyport-dev/sallyport/internal/resource"
)

// signer finds the key to sign with, and whose it is.
func (e *env) signer(ctx context.Context, c *client.Client, file string) (ssh.Signer, string, error) {
	people, err := keysOf(ctx, c)
	if err != nil {
		return nil, "", err
	}
	owner := func(k ssh.PublicKey) string { return people[string(k.Marshal())] }
	var signer ssh.Signer
	switch {
	case file != "" && !strings.HasSuffix(file, ".pub"):
		if signer, err = e.privateKey(file); err != nil {
			return nil, "", err
		}
	default:
		mine := func(k ssh.PublicKey) bool { return owner(k) != "" && (e.person == "" || owner(k) == e.person) }
		if file != "" {
			b, err := os.ReadFile(file)
			if err != nil {
				return nil, "", usage("--key: %v", err)
			}
			want, _, _, _, err := ssh.ParseAuthorizedKey(b)
			if err != nil {
				return nil, "", usage("--key: %s is not a public key", file)
			}
			mine = func(k ssh.PublicKey) bool { return bytes.Equal(k.Marshal(), want.Marshal()) }
		}
		if signer, err = agentKey(mine); err != nil {
			return nil, "", err
		}
	}
	person := e.person
	if person == "" {
		if person = owner(signer.PublicKey()); person == "" {
			return nil, "", usage("this key is no person's: name yourself with --as, or declare the key in a Person")
		}
	}
	return signer, person, nil
}

// assertion reads what a browser gave, and finds whose passkey it is.
func (e *env) assertion(ctx context.Context, c *client.Client, file string) ([]byte, string, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, "", usage("--assertion: %v", err)
	}
	var in struct {
		ID string `json:"id"`
	}
	if err := json.Unmarshal(b, &in); err != nil || in.ID == "" {
		return nil, "", usage("--assertion: %s is not what a browser gives for a passkey", file)
	}
	if e.person != "" {
		return b, e.person, nil
	}
	all, err := c.Resources(ctx, resource.KindPerson, "")
	if err != nil {
		return nil, "", err
	}
	for _, raw := range all {
		var p struct {
			Metadata resource.Metadata
			Spec     struct{ Passkeys []resource.Passkey }
		}
		if err := json.Unmarshal(raw, &p); err != nil {
			return nil, "", err
		}
		for _, k := range p.Spec.Passkeys {
			if k.ID == in.ID {
				return b, p.Metadata.Name, nil
			}
		}
	}
	return nil, "", usage("this passkey is no person's: name yourself with --as, or declare it in a Person")
}

// keysOf maps the keys of the tenant's people to their names.
func keysOf(ctx context.Context, c *client.Client) (map[string]string, error) {
	all, err := c.Resources(ctx, resource.KindPerson, "")
	if err != nil {
		return nil, err
	}
	out := map[string]string{}
	for _, raw := range all {
		var p struct {
			Metadata resource.Metadata
			Spec     struct{ SSHKeys []string }
		}
		if err := json.Unmarshal(raw, &p); err != nil {
			return nil, err
		}
		for _, line := range p.Spec.SSHKeys {
			if k, _, _, _, err := ssh.ParseAuthorizedKey([]byte(line)); err == nil {
				out[string(k.Marshal())] = p.Metadata.Name
			}
		}
	}
	return out, nil
}

func (e *env) privateKey(file string) (ssh.Signer, error) {
	b, err := os.ReadFile(file)
	if err != nil {
		return nil, usage("--key: %v", err)
	}
	defer clear(b)
	s, err := ssh.ParsePrivateKey(b)
	var locked *ssh.PassphraseMissingError
	if errors.As(err, &locked) && terminal(e.in) {
		fmt.Fprintf(e.err, "Passphrase of %s: ", file)
		pass, perr := term.ReadPassword(int(e.in.(*os.File).Fd()))
		fmt.Fprintln(e.err)
		if perr != nil {
			return nil, perr
		}
		defer clear(pass)
		s, err = ssh.ParsePrivateKeyWithPassphrase(b, pass)
	}
	if err != nil {
		return nil, usage("--key: %s: %v", file, err)
	}
	return s, nil
}

// agentKey finds a key in ssh-agent. The connection stays open: the signature is
// made through it.
func agentKey(mine func(ssh.PublicKey) bool) (ssh.Signer, error) {
	sock := os.Getenv("SSH_AUTH_SOCK")
	if sock == "" {
		return nil, usage("no ssh-agent runs (SSH_AUTH_SOCK); name a private key with --key")
	}
	conn, err := net.Dial("unix", sock)
	if err != nil {
		return nil, usage("ssh-agent: %v; name a private key with --key", err)
	}
	all, err := agent.NewClient(conn).Signers()
	if err != nil {
		return nil, fmt.Errorf("ssh-agent: %w", err)
	}
	i := slices.IndexFunc(all, func(s ssh.Signer) bool { return mine(s.PublicKey()) })
	if i < 0 {
		return nil, usage("ssh-agent has no key that fits; name a private key with --key")
	}
	return all[i], nil
}
