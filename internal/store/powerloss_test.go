package store

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/ledger"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/seal"
	"github.com/sallyport-dev/sallyport/internal/store/pgtest"
)

const (
	childDir    = "SALLYPORT_TEST_APPEND_IN"
	childParams = "SALLYPORT_TEST_PARAMS"
	// A small log is copied into the database often, so that the power goes off
	// in the middle of that too.
	smallLog = 20
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(childDir); dir != "" {
		if err := appendForEver(dir, os.Getenv(childParams)); err != nil {
			fmt.Println("end", strings.ReplaceAll(err.Error(), "\n", " "))
		}
		return
	}
	code := m.Run()
	pgtest.Stop()
	os.Exit(code)
}

func testRoot() *seal.Root {
	root, err := seal.NewRoot(make([]byte, seal.KeySize))
	if err != nil {
		panic(err)
	}
	return root
}

func openLog(ctx context.Context, s ledger.Store) (*ledger.Ledger, *ledger.Log, error) {
	l, err := ledger.Open(ctx, s, testRoot())
	if err != nil {
		return nil, nil, err
	}
	log, err := l.Tenant(ctx, "acme")
	if errors.Is(err, record.ErrNotFound) {
		log, err = l.Create(ctx, "acme", "acme.example/log")
	}
	return l, log, err
}

// appendForEver writes "ok SEQ" for each record it was told is kept, "no" for
// each that was refused, and returns when the ledger has stopped.
func appendForEver(dir, params string) error {
	ctx := context.Background()
	s, err := openSQLite(dir, params, smallLog)
	if err != nil {
		return err
	}
	_, log, err := openLog(ctx, s)
	if err != nil {
		return err
	}
	var mu sync.Mutex
	end := make(chan error, 4)
	for range 4 {
		go func() {
			for i := 0; ; i++ {
				d := record.Draft{Type: "test.lost", Task: "t", Body: map[string]int{"i": i},
					Change: func(tx record.Tx) error { return tx.Put("last", "i", i) }}
				if i%4 == 0 {
					d.Blobs = []record.Blob{{Name: "b", Data: make([]byte, 3000)}}
				}
				e, err := log.Append(ctx, d)
				if errors.Is(err, ledger.ErrStopped) {
					end <- err
					return
				}
				mu.Lock()
				if err == nil {
					fmt.Println("ok", e.Seq)
				} else {
					fmt.Println("no", strings.ReplaceAll(err.Error(), "\n", " "))
				}
				mu.Unlock()
			}
		}()
	}
	return <-end
}

// appender is a child process on a folder.
type appender struct {
	cmd *exec.Cmd
	in  *bufio.Scanner
}

func startAppender(t *testing.T, dir, params string) *appender {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), childDir+"="+dir, childParams+"="+params)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return &appender{cmd, bufio.NewScanner(out)}
}

// next returns the next answer of the child.
func (a *appender) next() (verb, rest string, ok bool) {
	if !a.in.Scan() {
		return "", "", false
	}
	verb, rest, _ = strings.Cut(a.in.Text(), " ")
	return verb, rest, true
}

// stop kills the child and returns the highest position it was told of.
func (a *appender) stop(acked int64) int64 {
	a.cmd.Process.Kill()
	for {
		verb, rest, ok := a.next()
		if !ok {
			break
		}
		acked = seqOf(verb, rest, acked)
	}
	a.cmd.Wait()
	return acked
}

func seqOf(verb, rest string, acked int64) int64 {
	var seq int64
	if _, err := fmt.Sscan(rest, &seq); err == nil && verb == "ok" {
		return max(acked, seq)
	}
	return acked
}

// survives opens what is left and reports how acknowledged records were lost.
func survives(t *testing.T, dir string, acked int64, kept []byte) (_ []byte, err error) {
	s, err := OpenSQLite(dir)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, s.Close()) }()
	l, log, err := openLog(t.Context(), s)
	if err != nil {
		return nil, err
	}
	defer l.Close()
	h, err := log.Head(t.Context())
	if err != nil {
		return nil, err
	}
	if h.Size <= acked {
		return nil, fmt.Errorf("record %d was acknowledged, %d are left", acked, h.Size)
	}
	var checkpoints [][]byte
	if kept != nil {
		checkpoints = append(checkpoints, kept)
	}
	rep, err := log.Verify(t.Context(), checkpoints...)
	if err != nil {
		return nil, err
	}
	if !rep.OK() {
		return nil, fmt.Errorf("%v", rep.Problems)
	}
	return log.CheckpointNow(t.Context())
}

// powerLoss cuts the power in each of the rounds at a moment of chance, and
// returns the first loss.
func powerLoss(t *testing.T, params string, rounds int, seed uint64) error {
	rnd := rand.New(rand.NewPCG(seed, 1))
	image := map[string][]byte{}
	acked := int64(-1)
	var kept []byte
	for round := range rounds {
		r, dir, unmount := mount(t, image)
		a := startAppender(t, dir, params)
		wait := time.Duration(rnd.IntN(80_000)) * time.Microsecond
		var left map[string][]byte
		cut := make(chan struct{})
		for first := true; ; first = false {
			verb, rest, ok := a.next()
			if !ok || verb == "end" {
				break
			}
			acked = seqOf(verb, rest, acked)
			if first {
				time.AfterFunc(wait, func() {
					defer close(cut)
					left = r.image(rnd)
					a.cmd.Process.Kill()
				})
			}
		}
		select {
		case <-cut:
		case <-time.After(30 * time.Second):
			return fmt.Errorf("round %d: the child ended by itself: %s", round, a.in.Text())
		}
		acked = a.stop(acked)
		unmount()
		real := folder(t, left)
		var err error
		if kept, err = survives(t, real, acked, kept); err != nil {
			return fmt.Errorf("round %d, after record %d: %w", round, acked, err)
		}
		image = readFolder(t, real)
	}
	t.Logf("%d rounds, %d records acknowledged", rounds, acked+1)
	return nil
}

// TestPowerLossLosesNothingAcknowledged. A kill cannot find a missing sync,
// since the kernel still writes what it was given; this can.
func TestPowerLossLosesNothingAcknowledged(t *testing.T) {
	if testing.Short() {
		t.Skip("mounts a file system")
	}
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	if err := powerLoss(t, writerParams, 50, seed); err != nil {
		t.Error(err)
	}
}

// TestPowerLossSeesMissingSync plants the fault that the test above is for.
func TestPowerLossSeesMissingSync(t *testing.T) {
	if testing.Short() {
		t.Skip("mounts a file system")
	}
	for _, level := range []string{"OFF", "NORMAL"} {
		params := strings.Replace(writerParams, "synchronous(FULL)", "synchronous("+level+")", 1)
		if params == writerParams {
			t.Fatal("synchronous(FULL) is not in the parameters")
		}
		if err := powerLoss(t, params, 15, 1); err == nil {
			t.Errorf("synchronous=%s: nothing was lost: the test above proves nothing", level)
		} else {
			t.Logf("synchronous=%s, as it should be: %v", level, err)
		}
	}
}

// TestFullDisk: nothing is acknowledged that did not fit, and the ledger goes
// on by itself when there is room again.
//
// Threats: T55 (ledger)
func TestFullDisk(t *testing.T) {
	if testing.Short() {
		t.Skip("mounts a file system")
	}
	r, dir, unmount := mount(t, nil)
	a := startAppender(t, dir, writerParams)
	acked, refused, after := int64(-1), 0, 0
	for after < 50 {
		verb, rest, ok := a.next()
		if !ok || verb == "end" {
			t.Fatalf("the child ended: %s", a.in.Text())
		}
		acked = seqOf(verb, rest, acked)
		switch {
		case refused == 0 && acked >= 50:
			r.setFault(func(op, _ string) syscall.Errno {
				if op == "write" {
					return syscall.ENOSPC
				}
				return 0
			})
			fallthrough
		case refused < 20:
			if verb == "no" {
				refused++
			}
			if refused == 20 {
				r.setFault(nil)
			}
		case verb == "ok":
			after++
		}
	}
	acked = a.stop(acked)
	image := r.image(rand.New(rand.NewPCG(1, 1)))
	unmount()
	if _, err := survives(t, folder(t, image), acked, nil); err != nil {
		t.Error(err)
	}
}

// TestFailedSyncPoisons: after a failed sync the kernel may hold pages for
// clean that are not on the disk. Nothing is written any more, and the folder
// is refused until it is cleared. So after that of a commit, and after that of
// copying the log into the database, which no caller waits for.
//
// Threats: T55 (ledger)
func TestFailedSyncPoisons(t *testing.T) {
	if testing.Short() {
		t.Skip("mounts a file system")
	}
	for _, file := range []string{DatabaseName + "-wal", DatabaseName} {
		t.Run(file, func(t *testing.T) { failedSyncPoisons(t, file) })
	}
}

func failedSyncPoisons(t *testing.T, file string) {
	r, dir, unmount := mount(t, nil)
	a := startAppender(t, dir, writerParams)
	acked := int64(-1)
	once := sync.Once{}
	for {
		verb, rest, ok := a.next()
		if !ok {
			t.Fatal("the child did not say that the ledger stopped")
		}
		if verb == "end" {
			if !strings.Contains(rest, ledger.ErrStopped.Error()) {
				t.Errorf("got %q, want %q", rest, ledger.ErrStopped)
			}
			break
		}
		if acked = seqOf(verb, rest, acked); acked < 20 {
			continue
		}
		once.Do(func() {
			failed := false // and then it succeeds
			r.setFault(func(op, name string) syscall.Errno {
				if op == "fsync" && name == file && !failed {
					failed = true
					return syscall.EIO
				}
				return 0
			})
		})
	}
	acked = a.stop(acked)
	image := r.image(rand.New(rand.NewPCG(1, 1)))
	unmount()
	left := folder(t, image)
	if s, err := OpenSQLite(left); !errors.Is(err, ErrPoisoned) {
		t.Fatalf("got %v, %v; want %v", s, err, ErrPoisoned)
	}
	s, err := OpenSQLiteReadOnly(left)
	if err != nil {
		t.Fatalf("a poisoned store must be readable: %v", err)
	}
	s.Close()
	if err := ClearPoison(left); err != nil {
		t.Fatal(err)
	}
	if _, err := survives(t, left, acked, nil); err != nil {
		t.Error(err)
	}
}
