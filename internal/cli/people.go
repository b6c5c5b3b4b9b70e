package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"
	"golang.org/x/crypto/ssh/agent"
	"golang.org/x/term"

	"github.com/sallyport-dev/sallyport/internal/api/client"
	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/resource"
)

func approvalsCommand(e *env) *cobra.Command {
	var state string
	cmd := &cobra.Command{
		Use: "approvals [ID]", Short: "What waits for people; with an ID, exactly what would be signed",
		Example: "  sallyport approvals", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := e.client()
			if err != nil {
				return err
			}
			if len(args) == 1 {
				a, err := c.Approval(cmd.Context(), args[0])
				if err != nil {
					return err
				}
				st, err := approval.ParseStatement(a.Bytes)
				if err != nil {
					return err
				}
				return e.print(a, func(w io.Writer) {
					io.WriteString(w, approval.Render(st))
					fmt.Fprintf(w, "State: %s", a.Approval.State)
					for _, s := range a.Approval.Signatures {
						fmt.Fprintf(w, ", signed by %s", plain(s.Person))
					}
					if a.Approval.By != "" {
						fmt.Fprintf(w, " by %s: %s", plain(a.Approval.By), plain(a.Approval.Reason))
					}
					fmt.Fprintln(w)
				})
			}
			all, err := c.Approvals(cmd.Context(), approval.State(state))
			if err != nil {
				return err
			}
			return e.print(all, func(w io.Writer) {
				if len(all) == 0 {
					fmt.Fprintf(w, "no approval is %s\n", state)
					return
				}
				var rows [][]string
				for _, a := range all {
					s := a.Statement
					rows = append(rows, []string{a.ID(), string(s.Kind), what(s), s.Role, strconv.Itoa(len(a.Signatures)) + "/" + strconv.Itoa(s.Quorum), a.Requester, until(s.Expires)})
				}
				table(w, []string{"ID", "KIND", "SUBJECT", "ROLE", "SIGNED", "REQUESTER", "EXPIRES"}, rows)
			})
		},
	}
	cmd.Flags().StringVar(&state, "state", string(approval.Pending), "pending, granted, used, rejected or expired")
	return cmd
}

func what(s approval.Statement) string {
	if s.Kind == approval.Action {
		return strings.TrimSpace(s.Operation + " " + paramsOf(s.Params))
	}
	return s.Subject
}

func approveCommand(e *env) *cobra.Command {
	var key string
	var yes bool
	cmd := &cobra.Command{
		Use:   "approve ID",
		Short: "Read, sign and send an approval",
		Long: `Shows what would be approved, asks, and signs it with an SSH key of yours
(Ed25519 or ECDSA, FIDO keys included, through ssh-agent). Without --as you are the
person whose key it is.`,
		Example: "  sallyport approve k2f3... --as ines --key ~/.ssh/id_ed25519",
		Args:    cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := e.client()
			if err != nil {
				return err
			}
			a, err := c.Approval(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			st, err := approval.ParseStatement(a.Bytes)
			if err != nil {
				return err
			}
			signer, person, err := e.signer(cmd.Context(), c, key)
			if err != nil {
				return err
			}
			w := e.out
			if e.output == "json" {
				w = e.err
			}
			io.WriteString(w, approval.Render(st))
			if !yes {
				if err := e.confirm("Sign this as " + person + "? Type yes: "); err != nil {
					return err
				}
			}
			out, err := c.As(person).Approve(cmd.Context(), a, signer)
			if err != nil {
				return err
			}
			return e.print(out, func(w io.Writer) {
				fmt.Fprintf(w, "signed as %s; %d of %d; the approval is %s\n", person, len(out.Signatures), out.Statement.Quorum, out.State)
			})
		},
	}
	cmd.Flags().StringVar(&key, "key", "", "private key file, or a .pub file whose key ssh-agent has; default: a key of yours in ssh-agent")
	cmd.Flags().BoolVar(&yes, "yes", false, "sign without asking")
	return cmd
}

func (e *env) confirm(question string) error {
	if !terminal(e.in) {
		return usage("this is not a terminal, so nobody can be asked; read it, then add --yes")
	}
	fmt.Fprint(e.err, question)
	line, err := bufio.NewReader(e.in).ReadString('\n')
	if err != nil || strings.TrimSpace(line) != "yes" {
		return &exit{exitRefused, errors.New("nothing was signed")}
	}
	return nil
}

func rejectCommand(e *env) *cobra.Command {
	var reason string
	cmd := &cobra.Command{
		Use: "reject ID --reason WHY", Short: "Close an approval with no",
		Example: `  sallyport reject k2f3... --as ines --reason "Jo did not ask for this"`, Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if reason == "" {
				return usage("--reason is needed")
			}
			c, err := e.client()
			if err != nil {
				return err
			}
			a, err := c.Reject(cmd.Context(), args[0], reason)
			if err != nil {
				return err
			}
			return e.print(a, func(w io.Writer) { fmt.Fprintf(w, "the approval is %s\n", a.State) })
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "why not")
	return cmd
}

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
