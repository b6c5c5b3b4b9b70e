// Command bench measures what the boundary costs and prints one table.
//
// Everything is measured in one run on the parts that a server runs: the SQLite
// store with its real durability, Merkle hashes, parsed policies, contained
// Chromium, and the two doors. Every number stands beside a baseline of the same
// run, taken in rounds that alternate with it, so that a busy machine slows down
// both; the figure of a comparison is the median over the rounds.
//
// The table says ok or over for every target. Nothing here is a test: a slow
// machine fails nothing.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"regexp"
	"runtime/debug"
	"runtime/pprof"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/contain"
	"github.com/sallyport-dev/sallyport/internal/server"
)

// bench is one run.
type bench struct {
	dir    string // scratch, on the file system that is measured
	rounds int
	scale  int // of how much a round measures, in percent
	rows   []row
	notes  []string
	facts  []fact
}

// section measures one subject and adds its rows and notes.
type section struct {
	name string
	run  func(*bench, context.Context) error
}

var sections = []section{
	{"decision", (*bench).decision}, {"policy", (*bench).policy}, {"doors", (*bench).doors}, {"protocol", (*bench).protocol},
	{"eight", (*bench).eight}, {"memory", (*bench).memory}, {"leases", (*bench).leases}, {"identity", (*bench).identity}, {"facts", (*bench).measuring},
}

func main() {
	contain.Main()
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(server.GCPercent) // what runs here runs in a server
	}
	if len(os.Args) == 3 && os.Args[1] == sessionsCommand {
		exit(sessions(os.Args[2]))
	}
	exit(run())
}

func exit(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func run() error {
	write := flag.String("write", "", "also write the table to this file, as Markdown")
	only := flag.String("run", "", "measure only the sections that this expression matches: decision, policy, doors, protocol, eight, memory, leases, identity, facts")
	dir := flag.String("dir", "", "folder for scratch files; its file system is what durable writes are measured on")
	b := &bench{}
	flag.IntVar(&b.rounds, "rounds", 15, "rounds of every comparison")
	flag.IntVar(&b.scale, "scale", 100, "how much a round measures, in percent")
	profile := flag.String("cpuprofile", "", "write a CPU profile of this process to this file")
	flag.Parse()
	if flag.NArg() > 0 || b.rounds < 1 || b.scale < 1 {
		return errors.New("want no arguments, at least one round, and a scale of at least 1")
	}
	if *write != "" && *only != "" {
		return errors.New("-write with -run would leave sections out of the page")
	}
	pick, err := regexp.Compile(*only)
	if err != nil {
		return err
	}
	if b.dir, err = os.MkdirTemp(*dir, "sallyport-bench-"); err != nil {
		return err
	}
	defer os.RemoveAll(b.dir)
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if *profile != "" {
		f, err := os.Create(*profile)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	if err := b.machine(); err != nil {
		return err
	}
	for _, s := range sections {
		if !pick.MatchString(s.name) {
			continue
		}
		fmt.Fprintf(os.Stderr, "measuring: %s\n", s.name)
		if err := s.run(b, ctx); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	b.machineAfter()
	page := b.page()
	fmt.Print(strings.TrimPrefix(page, header))
	if *write != "" {
		return os.WriteFile(*write, []byte(page), 0o644)
	}
	return nil
}

// n is how many of a round's operations to do at this scale.
func (b *bench) n(full int) int { return max(2, full*b.scale/100) }
