package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/api/client"
	"github.com/sallyport-dev/sallyport/internal/certify"
	"github.com/sallyport-dev/sallyport/internal/ledger"
	"github.com/sallyport-dev/sallyport/internal/seal"
	"github.com/sallyport-dev/sallyport/internal/server"
	"github.com/sallyport-dev/sallyport/internal/store"
)

func ledgerCommand(e *env) *cobra.Command {
	cmd := &cobra.Command{Use: "ledger", Short: "Read, verify and export the log",
		Long:    "Works against the server, and on what a stopped one left in --data (and --store, if it has one), which it only reads.",
		Example: "  sallyport ledger list --task t-01k...\n  sallyport ledger verify"}
	e.storeFlag(cmd)
	cmd.AddCommand(ledgerList(e), ledgerShow(e), ledgerVerify(e), ledgerProve(e), ledgerExport(e))
	return cmd
}

// reader is a log, of a server or of a folder.
type reader interface {
	Records(ctx context.Context, f api.Filter, kind string) (api.Records, error)
	Record(ctx context.Context, seq int64) (json.RawMessage, error)
	VerifyLedger(ctx context.Context) (api.Verified, error)
	Prove(ctx context.Context, seq int64) (api.Proof, error)
	Export(ctx context.Context, w io.Writer, in api.Export) error
}

// withLog runs f over the log: the server's, or if none answers and none was
// named, the one in the data folder.
func (e *env) withLog(ctx context.Context, f func(reader) error) error {
	c, err := e.client()
	if err != nil {
		return err
	}
	err = f(c)
	var gone *client.Unreachable
	if !errors.As(err, &gone) || e.server != "" {
		return err
	}
	if !e.keysThere() {
		return err // there is no folder to read either
	}
	return e.stopped(ctx, func(log *ledger.Log, _ *seal.Root) error { return f(folder{log}) })
}

// stopped runs f over the log in the data folder of a stopped server.
func (e *env) stopped(ctx context.Context, f func(*ledger.Log, *seal.Root) error) (err error) {
	root, err := e.openRoot(ctx)
	if err != nil {
		return err
	}
	st, err := e.openReadOnly(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, st.Close()) }()
	l, err := ledger.OpenReadOnly(ctx, st, root)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, l.Close()) }()
	name := e.tenant
	if name == "" {
		all, err := l.Tenants(ctx)
		if err != nil {
			return err
		}
		if len(all) != 1 {
			return usage("there are %d tenants: name one with --tenant: %s", len(all), strings.Join(all, ", "))
		}
		name = all[0]
	}
	log, err := l.Tenant(ctx, name)
	if err != nil {
		return err
	}
	return f(log, root)
}

// storeFlag adds --store and --kek to a command that reads what a stopped server left.
func (e *env) storeFlag(cmd *cobra.Command) {
	e.kek.addTo(cmd)
	cmd.PersistentFlags().StringVar(&e.store, "store", "", "postgres://... of a stopped server that keeps its log there")
}

type readStore interface {
	ledger.Store
	Close() error
}

func (e *env) openReadOnly(ctx context.Context) (readStore, error) {
	if e.store != "" {
		return store.OpenPostgresReadOnly(ctx, e.store)
	}
	st, err := store.OpenSQLiteReadOnly(e.data)
	switch {
	case errors.Is(err, store.ErrInUse):
		return nil, fmt.Errorf("%s is in use, but its server does not answer", e.data)
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w: name the database with --store if the log is in one", err)
	case err != nil:
		return nil, err
	}
	return st, nil
}

// folder is the log in a data folder, as a reader.
type folder struct{ log *ledger.Log }

func (d folder) Records(ctx context.Context, f api.Filter, kind string) (api.Records, error) {
	if kind != "" {
		f.Types = func(s string) bool { return s == kind }
	}
	return api.ReadRecords(ctx, d.log, f)
}

func (d folder) Record(ctx context.Context, seq int64) (json.RawMessage, error) {
	v, err := api.ReadRecord(ctx, d.log, seq)
	return json.RawMessage(v), err
}

func (d folder) VerifyLedger(ctx context.Context) (api.Verified, error) {
	return api.Verify(ctx, d.log)
}

func (d folder) Prove(ctx context.Context, seq int64) (api.Proof, error) {
	return api.Prove(ctx, d.log, seq)
}

func (d folder) Export(ctx context.Context, w io.Writer, in api.Export) error {
	return api.WriteBundle(ctx, d.log, w, in)
}

// entry is what a table shows of a record. Bodies differ by type: each part is
// looked for by itself.
type entry struct {
	Seq               int64
	Time              time.Time
	Type, Task, Actor string
	Evidence          []json.RawMessage
	Body              map[string]json.RawMessage
}

// part reads one part of the body, if it has this form.
func part[T any](x entry, name string) (v T) {
	if json.Unmarshal(x.Body[name], &v) != nil {
		var zero T
		return zero
	}
	return v
}

type operated struct {
	Operation string
	Params    map[string]string
	Kind      string
	Subject   string
}

func (o operated) String() string {
	p := map[string]string{}
	for k, v := range o.Params {
		if !strings.HasPrefix(v, "sha256:") {
			p[k] = v
		}
	}
	name := o.Operation
	if name == "" {
		name = strings.TrimSpace(o.Kind + " " + o.Subject)
	}
	return strings.TrimSpace(name + " " + paramsOf(p))
}

// whatLimit bounds a summary, in characters.
const whatLimit = 100

func (x entry) summary() string {
	var parts []string
	add := func(s ...string) { parts = append(parts, s...) }
	if d := part[struct{ Verdict, Code string }](x, "decision"); d.Verdict != "" {
		add(d.Verdict, part[operated](x, "action").String(), "("+d.Code+")")
	}
	if w := part[struct{ Verdict, Approvers string }](x, "would"); w.Verdict != "" {
		add(strings.TrimSpace("but for that: " + w.Verdict + " " + w.Approvers))
	}
	if o := part[struct{ State, ReadBack, Detail string }](x, "outcome"); o.State != "" {
		add(o.State, o.Detail)
		if o.ReadBack != "" {
			add("read back: " + o.ReadBack)
		}
	}
	if st := part[operated](x, "statement"); st.Kind != "" {
		add(st.String())
	}
	for _, name := range []string{"name", "scenario", "scope", "capability", "connector", "tool", "item", "source", "audience"} {
		add(part[string](x, name))
	}
	for _, f := range part[[]server.AuditFinding](x, "findings") {
		add(f.Kind, f.Event, cmp.Or(f.Operation, f.Name), paramsOf(f.Params), f.Why)
	}
	for _, r := range part[[]struct{ Kind, Name string }](x, "resources") {
		add(r.Kind + "/" + r.Name)
	}
	if strings.HasPrefix(x.Type, "certification.") {
		add(part[string](x, "id"), part[string](x, "state"))
	}
	lapse := part[certify.Lapse](x, "lapse")
	add(lapse.Code)
	changes := lapse.Changes
	if len(changes) == 0 && json.Unmarshal(x.Body["changes"], &changes) != nil {
		changes = nil
	}
	if len(changes) == 0 {
		add(lapse.Why)
	}
	for _, c := range changes {
		c.Old, c.New = brief(c.Old), brief(c.New)
		add(c.String())
	}
	add(part[[]string](x, "violations")...)
	add(part[[]string](x, "misses")...)
	add(paramsOf(part[map[string]string](x, "params")))
	for _, name := range []string{"code", "why", "reason"} {
		add(part[string](x, name))
	}
	if chain := part[[]string](x, "chain"); len(chain) > 0 {
		add("part of " + strings.Join(chain, " of "))
	}
	parts = slices.DeleteFunc(parts, func(s string) bool { return s == "" })
	r := []rune(strings.Join(parts, " "))
	if len(r) > whatLimit {
		r = append(r[:whatLimit-1], '…')
	}
	return string(r)
}

// brief is a value of a fact with its digest cut short.
func brief(v string) string {
	if i := strings.Index(v, "sha256:"); i >= 0 && len(v) > i+19 {
		return v[:i+19] + "…"
	}
	return v
}

func ledgerList(e *env) *cobra.Command {
	var f api.Filter
	var kind string
	var from int64
	cmd := &cobra.Command{Use: "list", Short: "List records, the newest last", Example: "  sallyport ledger list --type action.decided --limit 20", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f.From, f.Last = max(from, 0), from < 0
			return e.withLog(cmd.Context(), func(l reader) error {
				page, err := l.Records(cmd.Context(), f, kind)
				if err != nil {
					return err
				}
				return e.print(page, func(w io.Writer) { recordTable(w, page) })
			})
		}}
	fl := cmd.Flags()
	fl.Int64Var(&from, "from", -1, "first record; default: as many as fit before the end")
	fl.Int64Var(&f.Limit, "limit", 50, "how many, at most 1000")
	fl.StringVar(&f.Task, "task", "", "of one task")
	fl.StringVar(&kind, "type", "", "of one type, e.g. action.decided")
	return cmd
}

func recordTable(w io.Writer, page api.Records) {
	var rows [][]string
	for _, raw := range page.Records {
		var x entry
		if err := json.Unmarshal(raw, &x); err != nil {
			x.Type = "(unreadable here: see ledger show)"
		}
		evidence := ""
		if n := len(x.Evidence); n > 0 {
			evidence = strconv.Itoa(n)
		}
		rows = append(rows, []string{strconv.FormatInt(x.Seq, 10), x.Time.Local().Format("01-02 15:04:05.000"), x.Type, x.Task, x.Actor, evidence, x.summary()})
	}
	table(w, []string{"SEQ", "TIME", "TYPE", "TASK", "ACTOR", "EVIDENCE", "WHAT"}, rows)
	fmt.Fprintf(w, "\n%d of %d records of tenant %s\n", len(page.Records), page.Size, page.Tenant)
}

func seqArg(s string) (int64, error) {
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n < 0 {
		return 0, usage("%q is no record: want its number, from 0 on", s)
	}
	return n, nil
}

func ledgerShow(e *env) *cobra.Command {
	payload := -1
	cmd := &cobra.Command{Use: "show SEQ", Short: "Show one record as it is hashed, or a payload of it",
		Example: "  sallyport ledger show 42\n  sallyport ledger show 42 --payload 0 --as lin > screenshot.png", Args: cobra.ExactArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			seq, err := seqArg(args[0])
			if err != nil {
				return err
			}
			if payload >= 0 {
				return e.showPayload(cmd.Context(), seq, payload)
			}
			return e.withLog(cmd.Context(), func(l reader) error {
				raw, err := l.Record(cmd.Context(), seq)
				if err != nil {
					return err
				}
				var terr error
				err = e.print(raw, func(w io.Writer) { terr = documents(w, []json.RawMessage{raw}) })
				return errors.Join(err, terr)
			})
		}}
	cmd.Flags().IntVar(&payload, "payload", -1, "write this piece of its evidence, from 0 on; takes the role auditor, and is recorded")
	return cmd
}

func (e *env) showPayload(ctx context.Context, seq int64, n int) error {
	if terminal(e.out) {
		return usage("a payload is not for a terminal: send it to a file")
	}
	c, err := e.client()
	if err != nil {
		return err
	}
	b, err := c.Payload(ctx, seq, n)
	if err != nil {
		return err
	}
	_, err = e.out.Write(b)
	return err
}

func ledgerVerify(e *env) *cobra.Command {
	return &cobra.Command{Use: "verify", Short: "Read the whole log again and hash it", Example: "  sallyport ledger verify", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return e.withLog(cmd.Context(), func(l reader) error {
				v, err := l.VerifyLedger(cmd.Context())
				if err != nil {
					return err
				}
				err = e.print(v, func(w io.Writer) {
					word := "ok"
					if !v.OK {
						word = "NOT OK"
					}
					pairs(w, "log", word, "tenant", v.Tenant, "records", strconv.FormatInt(v.Size, 10), "signed", strconv.FormatInt(v.Signed, 10), "root", v.Root,
						"payloads", strconv.Itoa(v.Payloads), "erased", strconv.Itoa(v.Erased), "key", v.Key)
					for _, p := range v.Problems {
						fmt.Fprintln(w, "problem:", plain(p))
					}
				})
				if err == nil && !v.OK {
					return &exit{code: exitRefused}
				}
				return err
			})
		}}
}

func ledgerProve(e *env) *cobra.Command {
	return &cobra.Command{Use: "prove SEQ", Short: "Prove that a record is in the log", Args: cobra.ExactArgs(1),
		Long:    "Prints a C2SP tlog-proof with its checkpoint; with -o json also the record and the log's key.",
		Example: "  sallyport ledger prove 42 > 42.proof",
		RunE: func(cmd *cobra.Command, args []string) error {
			seq, err := seqArg(args[0])
			if err != nil {
				return err
			}
			return e.withLog(cmd.Context(), func(l reader) error {
				p, err := l.Prove(cmd.Context(), seq)
				if err != nil {
					return err
				}
				return e.print(p, func(w io.Writer) { io.WriteString(w, p.Proof) })
			})
		}}
}

func ledgerExport(e *env) *cobra.Command {
	var in api.Export
	var file string
	cmd := &cobra.Command{Use: "export [-f FILE]", Short: "Write a bundle that verifies offline", Args: cobra.NoArgs,
		Example: "  sallyport ledger export -f bundle.sallyport",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return e.withLog(cmd.Context(), func(l reader) error { return e.export(cmd.Context(), l, file, in) })
		}}
	f := cmd.Flags()
	f.StringVarP(&file, "file", "f", "", "where to; default: standard output")
	f.StringVar(&in.Task, "task", "", "of one task only")
	f.Int64Var(&in.From, "from", 0, "from this record on")
	f.Int64Var(&in.To, "to", 0, "up to before this record")
	return cmd
}

// export writes a bundle to a file, or to standard output.
func (e *env) export(ctx context.Context, l reader, file string, in api.Export) error {
	if file != "" && file != "-" {
		return e.exportTo(ctx, l, file, in)
	}
	if terminal(e.out) {
		return usage("a bundle is not for a terminal: name a file with -f")
	}
	return l.Export(ctx, e.out, in)
}

// exportTo writes beside the file and moves it there when it is whole.
func (e *env) exportTo(ctx context.Context, l reader, file string, in api.Export) error {
	tmp, err := os.CreateTemp(filepath.Dir(file), filepath.Base(file)+".*")
	if err != nil {
		return usage("%v", err)
	}
	defer os.Remove(tmp.Name())
	if err := errors.Join(l.Export(ctx, tmp, in), tmp.Sync(), tmp.Close()); err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), file); err != nil {
		return err
	}
	return e.print(map[string]string{"file": file}, func(w io.Writer) { fmt.Fprintf(w, "%s is written; check it with: sallyport verify %s\n", file, file) })
}
