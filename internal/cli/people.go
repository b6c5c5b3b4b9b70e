package cli

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/crypto/ssh"

	"github.com/sallyport-dev/sallyport/internal/approval"
)

func approvalsCommand(e *env) *cobra.Command {
	var state string
	var people bool
	cmd := &cobra.Command{
		Use: "approvals [ID]", Short: "What waits for people; with an ID, exactly what would be signed",
		Example: "  sallyport approvals\n  sallyport approvals --people", Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := e.client()
			if err != nil {
				return err
			}
			if people {
				if len(args) > 0 {
					return usage("--people is of all approvals, not of one")
				}
				q, err := c.ApprovalQuality(cmd.Context())
				if err != nil {
					return err
				}
				return e.print(q, func(w io.Writer) { quality(w, q) })
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
						fmt.Fprintf(w, " by %s", plain(a.Approval.By))
					}
					if a.Approval.Reason != "" {
						fmt.Fprintf(w, ": %s", plain(a.Approval.Reason))
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
					rows = append(rows, []string{a.ID(), string(s.Kind), what(s), s.Role, strconv.Itoa(len(a.Signatures)) + "/" + strconv.Itoa(s.Quorum), a.Requester, open(a), until(s.Expires)})
				}
				table(w, []string{"ID", "KIND", "SUBJECT", "ROLE", "SIGNED", "REQUESTER", "OPEN FOR", "EXPIRES"}, rows)
			})
		},
	}
	cmd.Flags().StringVar(&state, "state", string(approval.Pending), "pending, granted, used, rejected or expired")
	cmd.Flags().BoolVar(&people, "people", false, "how people decide: how often, and how soon after they were asked")
	return cmd
}

// quality shows how people decide.
func quality(w io.Writer, q approval.Quality) {
	fmt.Fprintf(w, "%d open, the oldest for %s\n", q.Open, millis(q.OldestMillis))
	var rows [][]string
	for _, p := range q.People {
		rows = append(rows, []string{p.Person, strconv.Itoa(p.Signed), strconv.Itoa(p.Rejected), millis(p.MedianMillis), millis(p.FastestMillis), strconv.Itoa(p.Hasty)})
	}
	table(w, []string{"PERSON", "SIGNED", "REJECTED", "MEDIAN", "FASTEST", "WITHIN " + millis(approval.HastyMillis)}, rows)
}

func millis(n int64) string {
	return (time.Duration(n) * time.Millisecond).Round(100 * time.Millisecond).String()
}

// open is how long people have, or had, the question.
func open(a approval.Approval) string {
	d := time.Duration(a.TookMillis) * time.Millisecond
	if a.State == approval.Pending {
		d = time.Since(a.Requested)
	}
	return max(0, d).Round(time.Second).String()
}

func what(s approval.Statement) string {
	if s.Kind == approval.Action {
		return strings.TrimSpace(s.Operation + " " + paramsOf(s.Params))
	}
	return s.Subject
}

func approveCommand(e *env) *cobra.Command {
	var key, assertion string
	var yes bool
	cmd := &cobra.Command{
		Use:   "approve ID",
		Short: "Read, sign and send an approval",
		Long: `Shows what would be approved, asks, and signs it with an SSH key of yours
(Ed25519 or ECDSA, FIDO keys included, through ssh-agent). Without --as you are the
person whose key it is.

With a passkey it is signed in a browser: what to ask it for is in "passkeys" of
sallyport approvals ID -o json, and --assertion takes what it gave
(PublicKeyCredential.toJSON()).`,
		Example: `  sallyport approve k2f3... --as ines --key ~/.ssh/id_ed25519
  sallyport approve k2f3... --as ines --assertion answer.json`,
		Args: cobra.ExactArgs(1),
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
			if key != "" && assertion != "" {
				return usage("give --key or --assertion, not both")
			}
			var signer ssh.Signer
			var answer []byte
			var person string
			if assertion != "" {
				answer, person, err = e.assertion(cmd.Context(), c, assertion)
			} else {
				signer, person, err = e.signer(cmd.Context(), c, key)
			}
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
			var out approval.Approval
			if answer != nil {
				out, err = c.As(person).ApproveByPasskey(cmd.Context(), st.Nonce, answer)
			} else {
				out, err = c.As(person).Approve(cmd.Context(), a, signer)
			}
			if err != nil {
				return err
			}
			return e.print(out, func(w io.Writer) {
				fmt.Fprintf(w, "signed as %s; %d of %d; the approval is %s\n", person, len(out.Signatures), out.Statement.Quorum, out.State)
			})
		},
	}
	cmd.Flags().StringVar(&key, "key", "", "private key file, or a .pub file whose key ssh-agent has; default: a key of yours in ssh-agent")
	cmd.Flags().StringVar(&assertion, "assertion", "", "file with what a browser gave for a passkey of yours, instead of --key")
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
