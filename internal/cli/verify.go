package cli

import (
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/receipt"
)

func verifyCommand(e *env) *cobra.Command {
	var key string
	cmd := &cobra.Command{
		Use:   "verify FILE",
		Short: "Check a bundle offline, without a server",
		Long: `Checks every byte of a bundle: the records against the signed checkpoint, the
approvals against the keys of their people, the statements against the tenant's
key. With --key it also checks that the log is the one that you know; without it,
the bundle is only consistent with the key that it names. Whose key is whose the log
says: compare the fingerprints of who approved.

Of every certification in it, it says what was certified, whether the approvals of
it are there, and whether the log has it as issued. Whether something ended it
later than the checkpoint, or in a record that a selection left out, no file can say.`,
		Example: "  sallyport verify bundle.sallyport --key \"$(cat log.key)\"",
		Args:    cobra.ExactArgs(1),
		RunE: func(_ *cobra.Command, args []string) error {
			f, err := os.Open(args[0])
			if err != nil {
				return usage("%v", err)
			}
			defer f.Close()
			r, err := receipt.Verify(f, receipt.Options{Key: key})
			if err != nil {
				return &exit{code: exitRefused, err: fmt.Errorf("%s is not valid: %s", args[0], plain(err.Error()))}
			}
			return e.print(r, func(w io.Writer) {
				fmt.Fprintf(w, "%s is valid\n", args[0])
				known := "yes, it is the one given with --key"
				if !r.Pinned {
					known = "not checked: give its verifier key with --key"
				}
				h := r.Header
				pairs(w, "tenant", h.Tenant, "log", h.Origin, "key", h.Key, "key is known", known, "complete", yesNo(h.Complete),
					"records", fmt.Sprintf("%d, %s to %s", r.Records, r.First, r.Last), "approvals", strconv.Itoa(len(r.Approvals)),
					"pictures", fmt.Sprintf("%d of %d that approvals name are in the records", r.Seen, r.Pictures),
					"statements", strconv.Itoa(len(r.Statements)), "documents", strconv.Itoa(len(r.Documents)))
				for _, c := range r.Certifications {
					fmt.Fprintln(w)
					certified(w, r, c)
				}
			})
		},
	}
	cmd.Flags().StringVar(&key, "key", "", "verifier key of the log, as published or kept by you (C2SP signed-note)")
	return cmd
}

func certified(w io.Writer, r receipt.Report, c receipt.Certification) {
	model := c.Model
	if model == "scripted" {
		model = "scripted: this says nothing about a real model"
	}
	var suites []string
	for _, s := range c.Suites {
		suites = append(suites, "suite", s.Name+" "+s.Digest)
		for _, x := range s.Rates {
			suites = append(suites, "", fmt.Sprintf("%s %d/%d, at least %s where %s is required", x.Kind, x.Passed, x.Trials, x.Lower, x.Required))
		}
		if x := s.FalseHolds; x != nil {
			suites = append(suites, "", fmt.Sprintf("people were asked for nothing in %d/%d, at most %s", x.Passed, x.Trials, x.Upper))
		}
	}
	expires := c.Expires
	if t, err := time.Parse(time.RFC3339, c.Expires); c.Result == "PASSED" && (err != nil || !time.Now().Before(t)) {
		expires += ", which is over"
	}
	approved := "none of it are in the file"
	if n := len(c.Approved); n > 0 {
		var by []string
		for i, p := range c.Approved {
			by = append(by, p+" with "+c.ApprovedBy[i])
		}
		approved = fmt.Sprintf("%s; %d of %d", strings.Join(by, ", "), n, c.Quorum)
	}
	in := "the file has no record that it was issued"
	if c.Issued >= 0 {
		in = fmt.Sprintf("issued by record %d of the log, which is under the checkpoint of %d records", c.Issued, r.Checkpoint.Size)
	}
	ended := "the file has no record of it"
	switch {
	case c.Ended >= 0:
		ended = fmt.Sprintf("by record %d: %s", c.Ended, c.Why)
	case r.Header.Complete && c.Issued >= 0:
		ended = "not by any record under the checkpoint"
	}
	level := "the file has no verification summary"
	if c.Level != "" {
		level = c.Level + ", says " + c.Verifier
	}
	all := append([]string{"certification", c.ID, "agent", c.Agent, "boundary", c.Boundary}, suites...)
	pairs(w, append(all, "not by", strings.Join(c.Left, ", "), "failed before", strings.Join(c.FailedBefore, ", "), "result", c.Result, "level", level,
		"model", model, "stage", c.Stage, "author", c.Author, "ran", c.Ran, "expires", expires, "approvals", approved, "log", in, "ended", ended, "signed by", strings.Join(c.Keys, ", "))...)
}

func yesNo(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}
