package task_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/gate/gatetest"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/task"
)

// counter makes ids t-1, t-2, ... that go on over engines.
func counter() func() string {
	var mu sync.Mutex
	n := 0
	return func() string { mu.Lock(); defer mu.Unlock(); n++; return fmt.Sprintf("t-%d", n) }
}

// ender counts its calls by task and fails while fail says so.
type ender struct {
	mu    sync.Mutex
	calls map[string]int
	fail  error
}

func (e *ender) end(_ context.Context, t task.Task) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.calls == nil {
		e.calls = map[string]int{}
	}
	e.calls[t.ID]++
	return e.fail
}

func (e *ender) set(err error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.fail = err
}

func (e *ender) count(id string) int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.calls[id]
}

func engine(log record.Log, e *ender) *task.Engine {
	return task.New(log, counter(), task.Ender{Name: "lease", End: e.end})
}

var intent = task.Task{Agent: "helpdesk", Capability: "reset-mfa", Params: map[string]string{"user": "jo"}, Stage: action.Sandbox, Requester: "dana", Seconds: 60}

var errAlive = errors.New("still alive")

// at makes a task that is in a state.
func at(t *testing.T, eng *task.Engine, e *ender, s task.State) string {
	t.Helper()
	ctx := t.Context()
	x, err := eng.Open(ctx, intent, nil)
	if err != nil {
		t.Fatal(err)
	}
	if s == task.Proposed {
		return x.ID
	}
	if _, err := eng.Start(ctx, x.ID); err != nil {
		t.Fatal(err)
	}
	switch s {
	case task.Active:
	case task.Closing:
		e.set(errAlive)
		if _, err := eng.Close(ctx, x.ID, task.Revoked, "killed", "test", "person:ada"); !errors.Is(err, errAlive) {
			t.Fatalf("got %v", err)
		}
		e.set(nil)
	default:
		if _, err := eng.Close(ctx, x.ID, s, "code", "test", "person:ada"); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := eng.Get(ctx, x.ID); err != nil || got.State != s {
		t.Fatalf("set up: got %s, %v, want %s", got.State, err, s)
	}
	return x.ID
}

var states = []task.State{task.Proposed, task.Active, task.Closing, task.Closed, task.Revoked, task.Failed}

// TestEveryStepFromEveryState is the whole state machine.
func TestEveryStepFromEveryState(t *testing.T) {
	closeTo := func(end task.State) func(context.Context, *task.Engine, string) error {
		return func(ctx context.Context, e *task.Engine, id string) error {
			_, err := e.Close(ctx, id, end, "second", "second", "person:dana")
			return err
		}
	}
	steps := []struct {
		name string
		do   func(context.Context, *task.Engine, string) error
		// want is the state after it, from each state; "" is ErrState.
		want map[task.State]task.State
	}{
		{"start", func(ctx context.Context, e *task.Engine, id string) error { _, err := e.Start(ctx, id); return err },
			map[task.State]task.State{task.Proposed: task.Active}},
		{"close", closeTo(task.Closed), map[task.State]task.State{task.Proposed: task.Closed, task.Active: task.Closed,
			task.Closing: task.Revoked, task.Closed: task.Closed, task.Revoked: task.Revoked, task.Failed: task.Failed}},
		{"revoke", closeTo(task.Revoked), map[task.State]task.State{task.Proposed: task.Revoked, task.Active: task.Revoked,
			task.Closing: task.Revoked, task.Closed: task.Closed, task.Revoked: task.Revoked, task.Failed: task.Failed}},
		{"fail", closeTo(task.Failed), map[task.State]task.State{task.Proposed: task.Failed, task.Active: task.Failed,
			task.Closing: task.Revoked, task.Closed: task.Closed, task.Revoked: task.Revoked, task.Failed: task.Failed}},
		{"recover", func(ctx context.Context, e *task.Engine, _ string) error { return e.Recover(ctx) },
			map[task.State]task.State{task.Proposed: task.Proposed, task.Active: task.Failed,
				task.Closing: task.Revoked, task.Closed: task.Closed, task.Revoked: task.Revoked, task.Failed: task.Failed}},
	}
	for _, from := range states {
		for _, s := range steps {
			t.Run(string(from)+"/"+s.name, func(t *testing.T) {
				log, e := gatetest.NewLog("acme"), &ender{}
				eng := engine(log, e)
				id := at(t, eng, e, from)
				records := len(log.All())
				err := s.do(t.Context(), eng, id)
				want := s.want[from]
				if want == "" {
					want = from
					if !errors.Is(err, task.ErrState) {
						t.Errorf("got %v, want ErrState", err)
					}
				} else if err != nil {
					t.Errorf("got %v", err)
				}
				got, err := eng.Get(t.Context(), id)
				if err != nil || got.State != want {
					t.Errorf("got %s, %v, want %s", got.State, err, want)
				}
				if want == from && len(log.All()) != records {
					t.Errorf("a step that changed nothing wrote %s", log.All()[len(log.All())-1].Type)
				}
				if from == task.Closing && got.Code != "killed" {
					t.Errorf("the reason of the end became %q", got.Code)
				}
				if got.State.Over() && e.count(id) == 0 {
					t.Error("it is over and nothing that it held was ended")
				}
				if got.State.Over() && got.Ended.IsZero() {
					t.Error("it is over and has no end")
				}
			})
		}
	}
}

func TestUnknownTask(t *testing.T) {
	log, e := gatetest.NewLog("acme"), &ender{}
	eng := engine(log, e)
	_, get := eng.Get(t.Context(), "t-9")
	_, start := eng.Start(t.Context(), "t-9")
	_, end := eng.Close(t.Context(), "t-9", task.Closed, "c", "w", "b")
	_, wait := eng.Wait(t.Context(), "t-9")
	for name, err := range map[string]error{"get": get, "start": start, "close": end, "wait": wait} {
		if !errors.Is(err, task.ErrUnknown) {
			t.Errorf("%s: got %v, want ErrUnknown", name, err)
		}
	}
	if len(log.All()) != 0 {
		t.Error("something was recorded")
	}
}

// The order of records is the order of steps, each with the state as it became.
func TestRecords(t *testing.T) {
	log, e := gatetest.NewLog("acme"), &ender{}
	eng := engine(log, e)
	at(t, eng, e, task.Closed)
	var got []string
	for _, x := range log.All() {
		got = append(got, x.Type+" "+x.Actor)
		if !strings.Contains(string(x.Body), `"params":{"user":"jo"}`) {
			t.Errorf("%s does not say what the task is: %s", x.Type, x.Body)
		}
	}
	if want := []string{"task.opened person:dana", "task.active sallyport", "task.closing person:ada", "task.closed person:ada"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestOpenIsRefusedByItsCheck(t *testing.T) {
	log, e := gatetest.NewLog("acme"), &ender{}
	eng := engine(log, e)
	no := errors.New("no")
	if _, err := eng.Open(t.Context(), intent, func(record.Tx) error { return no }); !errors.Is(err, no) {
		t.Errorf("got %v", err)
	}
	if all, err := eng.List(t.Context()); err != nil || len(all) != 0 || len(log.All()) != 0 {
		t.Errorf("got %v, %v", all, err)
	}
}

// TestCrashAtEachRecord loses the process at each record of a life, before and
// after it became durable, and recovers with a new engine: no task acts again,
// and what an active one held is ended.
func TestCrashAtEachRecord(t *testing.T) {
	errCrash := errors.New("crash")
	for n := range 5 {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			log := gatetest.NewLog("acme")
			e, ids, seen := &ender{}, counter(), 0
			log.Fail = func(record.Draft) error {
				if seen++; seen > n {
					return errCrash
				}
				return nil
			}
			eng := task.New(log, ids, task.Ender{Name: "lease", End: e.end})
			ctx := t.Context()
			if x, err := eng.Open(ctx, intent, nil); err == nil {
				if _, err = eng.Start(ctx, x.ID); err == nil {
					if _, err = eng.Close(ctx, x.ID, task.Closed, "done", "", "agent:helpdesk"); err != nil && e.count(x.ID) == 0 {
						t.Error("the end could not be recorded, and nothing was shut")
					}
				}
			}
			var last string
			if all := log.All(); len(all) > 0 {
				last = all[len(all)-1].Type
			}
			log.Fail = nil
			after := &ender{}
			eng = task.New(log, ids, task.Ender{Name: "lease", End: after.end})
			if err := eng.Recover(ctx); err != nil {
				t.Fatal(err)
			}
			all, err := eng.List(ctx)
			if err != nil {
				t.Fatal(err)
			}
			want := map[string]task.State{"task.opened": task.Proposed, "task.active": task.Failed, "task.closing": task.Closed, "task.closed": task.Closed}[last]
			if want == "" {
				if len(all) != 0 {
					t.Errorf("a task exists that was never recorded: %+v", all)
				}
				return
			}
			if len(all) != 1 || all[0].State != want {
				t.Fatalf("after a crash behind %s: got %+v, want %s", last, all, want)
			}
			if (last == "task.active" || last == "task.closing") && after.count(all[0].ID) == 0 {
				t.Error("what the task held was not ended after the restart")
			}
			if last == "task.active" && all[0].Code != "restarted" {
				t.Errorf("it ended as %q", all[0].Code)
			}
		})
	}
}

// A log that cannot write must not keep authority alive: everything is shut, the
// error is said, and the task does not read as over.
func TestCloseOnABrokenLedger(t *testing.T) {
	log, e := gatetest.NewLog("acme"), &ender{}
	eng := engine(log, e)
	id := at(t, eng, e, task.Active)
	full := errors.New("disk full")
	log.Fail = func(record.Draft) error { return full }
	if _, err := eng.Close(t.Context(), id, task.Revoked, "killed", "", "person:ada"); !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
	if e.count(id) != 1 {
		t.Errorf("enders ran %d times", e.count(id))
	}
	if x, err := eng.Get(t.Context(), id); err != nil || x.State != task.Active {
		t.Errorf("got %s, %v", x.State, err)
	}
	log.Fail = nil
	if x, err := eng.Close(t.Context(), id, task.Revoked, "killed", "", "person:ada"); err != nil || x.State != task.Revoked {
		t.Errorf("when the ledger is back: %s, %v", x.State, err)
	}
}

// One ender that fails does not keep the others from running, and all run again.
func TestOneEnderFails(t *testing.T) {
	log := gatetest.NewLog("acme")
	first, second, third := &ender{}, &ender{fail: errAlive}, &ender{}
	eng := task.New(log, counter(), task.Ender{Name: "gate", End: first.end}, task.Ender{Name: "lease", End: second.end}, task.Ender{Name: "session", End: third.end})
	x, err := eng.Open(t.Context(), intent, nil)
	if err != nil {
		t.Fatal(err)
	}
	y, err := eng.Close(t.Context(), x.ID, task.Closed, "done", "", "person:dana")
	if !errors.Is(err, errAlive) || !strings.Contains(err.Error(), "lease") || y.State != task.Closing {
		t.Errorf("got %s, %v", y.State, err)
	}
	if first.count(x.ID) != 1 || third.count(x.ID) != 1 {
		t.Error("not every ender ran")
	}
	second.set(nil)
	if y, err = eng.Close(t.Context(), x.ID, task.Failed, "x", "", "x"); err != nil || y.State != task.Closed {
		t.Errorf("got %s, %v", y.State, err)
	}
}

// Run calls the enders until they succeed, soon at first and then less often,
// and Wait returns when they did.
func TestRunEndsWhatIsClosing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		log, e := gatetest.NewLog("acme"), &ender{}
		eng := engine(log, e)
		done := make(chan struct{})
		go func() { defer close(done); eng.Run(ctx) }()
		defer func() { cancel(); <-done }()
		id := at(t, eng, e, task.Active)
		e.set(errAlive)
		if _, err := eng.Close(ctx, id, task.Revoked, "killed", "", "person:ada"); err == nil {
			t.Fatal("closed")
		}
		time.Sleep(3 * time.Second)
		if got := e.count(id); got < 2 {
			t.Errorf("after 3 s it was tried %d times", got)
		}
		time.Sleep(10 * time.Minute)
		// From one second on, doubling up to a minute: 6 and then 10 or so.
		if got := e.count(id); got > 25 {
			t.Errorf("in ten minutes it was tried %d times: no back-off", got)
		}
		e.set(nil)
		wctx, stop := context.WithTimeout(ctx, 2*time.Minute)
		defer stop()
		x, err := eng.Wait(wctx, id)
		if err != nil || x.State != task.Revoked {
			t.Errorf("got %s, %v", x.State, err)
		}
		n := e.count(id)
		time.Sleep(10 * time.Minute)
		if got := e.count(id); got != n {
			t.Errorf("a task that is over was ended %d more times", got-n)
		}
	})
}

func TestWaitEndsWithItsContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log, e := gatetest.NewLog("acme"), &ender{}
		eng := engine(log, e)
		id := at(t, eng, e, task.Active)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		x, err := eng.Wait(ctx, id)
		if !errors.Is(err, context.DeadlineExceeded) || x.State != task.Active {
			t.Errorf("got %s, %v", x.State, err)
		}
	})
}

// A kill that comes while a close is under way must not say that it is over
// before it is.
func TestSecondCloseWaitsForTheFirst(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := gatetest.NewLog("acme")
		release := make(chan struct{})
		eng := task.New(log, counter(), task.Ender{Name: "lease", End: func(context.Context, task.Task) error { <-release; return nil }})
		x, err := eng.Open(t.Context(), intent, nil)
		if err != nil {
			t.Fatal(err)
		}
		go eng.Close(t.Context(), x.ID, task.Closed, "done", "", "agent:helpdesk")
		synctest.Wait()
		type answer struct {
			t   task.Task
			err error
		}
		second := make(chan answer, 1)
		go func() {
			y, err := eng.Close(t.Context(), x.ID, task.Revoked, "killed", "", "person:ada")
			second <- answer{y, err}
		}()
		synctest.Wait()
		select {
		case a := <-second:
			if a.err == nil && !a.t.State.Over() {
				t.Errorf("the kill returned %s and no error while the task's lease is alive", a.t.State)
			}
			close(release)
		default:
			close(release)
			if a := <-second; a.err != nil || !a.t.State.Over() {
				t.Errorf("got %s, %v", a.t.State, a.err)
			}
		}
		synctest.Wait()
	})
}

// A caller that has no time left still shuts the task.
func TestCloseWithADeadContext(t *testing.T) {
	log, e := gatetest.NewLog("acme"), &ender{}
	eng := engine(log, e)
	id := at(t, eng, e, task.Active)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := eng.Close(ctx, id, task.Revoked, "killed", "", "person:ada"); err == nil {
		t.Error("it said that everything is ended and recorded")
	}
	if e.count(id) == 0 {
		t.Error("nothing was shut")
	}
}

// Many close, start and read at once: one end, one record of each step.
func TestConcurrentSteps(t *testing.T) {
	log, e := gatetest.NewLog("acme"), &ender{}
	eng := engine(log, e)
	id := at(t, eng, e, task.Proposed)
	var wg sync.WaitGroup
	ends := []task.State{task.Closed, task.Revoked, task.Failed}
	for i := range 30 {
		wg.Go(func() {
			if i%5 == 0 {
				eng.Start(t.Context(), id)
			}
			eng.Close(t.Context(), id, ends[i%3], string(ends[i%3]), "", "x")
		})
	}
	wg.Wait()
	x, err := eng.Wait(t.Context(), id)
	if err != nil || string(x.State) != x.Code {
		t.Errorf("got %s for %s, %v", x.State, x.Code, err)
	}
	n := map[string]int{}
	for _, r := range log.All() {
		n[r.Type]++
	}
	if n["task.closing"] != 1 || n["task.active"] > 1 || n["task.closed"]+n["task.revoked"]+n["task.failed"] != 1 {
		t.Errorf("records: %v", n)
	}
}

// The end of a task ends its parts, and theirs, before it is over; what is above
// a part goes on when the part ends. A crash in between is taken up again.
func TestPartsEndWithTheTask(t *testing.T) {
	log, e := gatetest.NewLog("acme"), &ender{}
	var eng *task.Engine
	ids := counter()
	open := func() *task.Engine {
		return task.New(log, ids, task.Ender{Name: "parts", End: func(ctx context.Context, x task.Task) error { return eng.EndParts(ctx, x) }},
			task.Ender{Name: "lease", End: e.end})
	}
	eng = open()
	add := func(chain ...string) string {
		t.Helper()
		x := intent
		x.Chain = chain
		x, err := eng.Open(t.Context(), x, func(tx record.Tx) error {
			if x.Parent() == "" {
				return nil
			}
			return task.Live(tx, x.Parent())
		})
		if err != nil {
			t.Fatal(err)
		}
		if _, err := eng.Start(t.Context(), x.ID); err != nil {
			t.Fatal(err)
		}
		return x.ID
	}
	state := func(id string) task.State {
		t.Helper()
		x, err := eng.Get(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		return x.State
	}
	top := add()
	part := add(top)
	leaf := add(part, top)
	alone := add(top)
	if _, err := eng.Close(t.Context(), alone, task.Closed, "done", "done", "agent:x"); err != nil || state(top) != task.Active || state(part) != task.Active {
		t.Fatalf("the end of one part: %v, top %s, other %s", err, state(top), state(part))
	}
	e.set(errAlive)
	if _, err := eng.Close(t.Context(), top, task.Closed, "done", "done", "agent:x"); !errors.Is(err, errAlive) || state(top) != task.Closing || state(leaf) != task.Closing {
		t.Fatalf("while a lease is alive: %v, top %s, leaf %s", err, state(top), state(leaf))
	}
	x := intent
	x.Chain = []string{top}
	if _, err := eng.Open(t.Context(), x, func(tx record.Tx) error { return task.Live(tx, top) }); !errors.Is(err, task.ErrState) {
		t.Errorf("a part of a task that ends: got %v", err)
	}
	e.set(nil)
	eng = open() // a restart
	if err := eng.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	for id, want := range map[string]task.State{top: task.Closed, part: task.Revoked, leaf: task.Revoked, alone: task.Closed} {
		if got := state(id); got != want {
			t.Errorf("%s: got %s, want %s", id, got, want)
		}
	}
}

// reads counts the objects that are listed.
type reads struct {
	record.Log
	n int
}

func (l *reads) View(ctx context.Context, f func(record.Tx) error) error {
	return l.Log.View(ctx, func(tx record.Tx) error { return f(countTx{tx, &l.n}) })
}

type countTx struct {
	record.Tx
	n *int
}

func (tx countTx) List(kind string, f func(string, []byte) error) error {
	return tx.Tx.List(kind, func(id string, raw []byte) error { *tx.n++; return f(id, raw) })
}

// TestEndingReadsNoTaskThatIsOver: what ending costs does not grow with the past.
func TestEndingReadsNoTaskThatIsOver(t *testing.T) {
	log := &reads{Log: gatetest.NewLog("acme")}
	var eng *task.Engine
	eng = task.New(log, counter(), task.Ender{Name: "parts", End: func(ctx context.Context, x task.Task) error { return eng.EndParts(ctx, x) }})
	const past = 20
	for range past {
		x, err := eng.Open(t.Context(), intent, nil)
		if err == nil {
			_, err = eng.Close(t.Context(), x.ID, task.Closed, "done", "done", "agent:x")
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if log.n > past { // each sees itself
		t.Errorf("%d tasks read while %d ended one after another", log.n, past)
	}
	if all, err := eng.List(t.Context()); err != nil || len(all) != past {
		t.Errorf("%d tasks listed, %v; want %d", len(all), err, past)
	}
}

// TestDataFolderOfBefore: a version before kept tasks that are over under the kind
// of the others. They are over here as well.
func TestDataFolderOfBefore(t *testing.T) {
	log, e := gatetest.NewLog("acme"), &ender{}
	old := intent
	old.ID, old.State = "t-0", task.Closed
	if _, err := log.Append(t.Context(), record.Draft{Type: "task.closed", Change: func(tx record.Tx) error { return tx.Put("task", old.ID, old) }}); err != nil {
		t.Fatal(err)
	}
	eng := engine(log, e)
	if all, err := eng.Unfinished(t.Context()); err != nil || len(all) != 0 {
		t.Errorf("not over are %v, %v", all, err)
	}
	if all, err := eng.List(t.Context()); err != nil || len(all) != 1 {
		t.Errorf("all are %v, %v", all, err)
	}
	if x, err := eng.Close(t.Context(), old.ID, task.Revoked, "killed", "again", "person:x"); err != nil || x.State != task.Closed || e.count(old.ID) != 0 {
		t.Errorf("closed again: %v, %v, ended %d times", x, err, e.count(old.ID))
	}
}
