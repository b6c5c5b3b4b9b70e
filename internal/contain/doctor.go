package contain

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Grade says what this machine's containment is worth.
type Grade string

const (
	Contained Grade = "contained" // every attempt was stopped, and the browser keeps its own sandbox
	Partial   Grade = "partial"   // processes are contained, but something needed is missing
	None      Grade = "none"      // do not serve
)

// Report is what this machine can contain and enforce. Everything in it was
// tried now; nothing is inferred from versions.
type Report struct {
	Grade    Grade
	Checks   []Check
	Findings []Finding // of the self-test
}

// Check is one fact of a Report.
type Check struct {
	Name   string
	OK     bool
	Needed bool   // not OK lowers the grade
	Detail string // what was found
	Do     string // what to do about it, when not OK
}

// Doctor examines this machine. It takes a few seconds, as it starts the
// browsers it finds.
func Doctor(ctx context.Context) Report {
	var r Report
	r.Checks = append(r.Checks, kernelCheck())
	c, fs := selfTestCheck(ctx)
	r.Checks, r.Findings = append(r.Checks, c), fs
	if !c.OK {
		r.Grade = None
		return r
	}
	r.Checks = append(r.Checks, separationCheck(), memoryCheck())
	r.Checks = append(r.Checks, browserChecks(ctx)...)
	r.Grade = Contained
	for _, c := range r.Checks {
		if c.Needed && !c.OK {
			r.Grade = Partial
		}
	}
	return r
}

func kernelCheck() Check {
	var u unix.Utsname
	unix.Uname(&u)
	return Check{Name: "kernel", OK: true, Detail: fmt.Sprintf("Linux %s %s", unix.ByteSliceToString(u.Release[:]), runtime.GOARCH)}
}

func selfTestCheck(ctx context.Context) (Check, []Finding) {
	c := Check{Name: "namespaces", Needed: true}
	fs, err := SelfTest(ctx)
	switch {
	case errors.Is(err, ErrBypass):
		c.Name, c.Detail, c.Do = "self-test", err.Error(), "do not serve on this machine; report it with the output of doctor"
	case err != nil:
		c.Detail, c.Do = err.Error(), namespaceObstacle()
		if c.Do == "" {
			c.Do = "Sallyport needs Linux 5.12 with user, network, mount, PID, IPC and UTS namespaces, and seccomp"
		}
	default:
		c.OK = true
		c.Detail = fmt.Sprintf("user, network, mount, PID, IPC and UTS namespaces, no_new_privs, seccomp; %d of %d checks of the self-test hold", len(fs), len(fs))
	}
	return c, fs
}

func separationCheck() Check {
	c := Check{Name: "host users", OK: os.Geteuid() == 0}
	if c.OK {
		c.Detail = "every contained process has a host uid of its own"
		return c
	}
	c.Detail = fmt.Sprintf("contained processes share host uid %d with this server; what keeps them apart is namespaces alone", os.Getuid())
	c.Do = "run the server as root for a second wall between them"
	return c
}

func memoryCheck() Check {
	return Check{
		Name: "memory limit", Detail: "enforced for each process (RLIMIT_DATA), not for their sum; processes are limited in number by RLIMIT_NPROC",
		Do: "bound the server as a whole (systemd MemoryMax=), which bounds the sum of what it contains",
	}
}

// browserChecks want one browser with a working sandbox; which kind is the
// operator's choice.
func browserChecks(ctx context.Context) []Check {
	var out []Check
	found := false
	for _, kind := range []string{"shell", "full"} {
		c := browserCheck(ctx, kind)
		found = found || c.OK
		out = append(out, c)
	}
	if !found {
		for i := range out {
			out[i].Needed = true
		}
	}
	return out
}

func browserCheck(ctx context.Context, kind string) Check {
	c := Check{Name: "chromium " + kind}
	exe, err := FindChromium(kind)
	if err != nil {
		c.Detail = err.Error()
		c.Do = "install the distribution's chromium package (on Debian also chromium-headless-shell), or set SALLYPORT_CHROMIUM"
		return c
	}
	version, err := runBrowser(ctx, exe, "--version")
	if err != nil {
		c.Detail, c.Do = exe+": "+err.Error(), "check that the file is complete and readable by all users"
		return c
	}
	version = strings.TrimSpace(version)
	// Without --no-sandbox it refuses to start when its sandbox does not work.
	const page = "<p>sandboxed</p>"
	dom, err := runBrowser(ctx, exe, "--headless=new", "--disable-gpu", "--no-first-run", "--disable-background-networking",
		"--user-data-dir=/tmp/profile", "--dump-dom", "data:text/html,"+page)
	if err != nil || !strings.Contains(dom, page) {
		c.Detail = fmt.Sprintf("%s (%s) does not run with its own sandbox: %v", exe, version, err)
		if c.Do = namespaceObstacle(); c.Do == "" {
			c.Do = "run the binary by hand to see what its sandbox misses; never add --no-sandbox"
		}
		return c
	}
	c.OK, c.Detail = true, fmt.Sprintf("%s (%s), its own sandbox works", exe, version)
	return c
}

func runBrowser(ctx context.Context, exe string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	var out, log bytes.Buffer
	p, err := Start(ctx, Spec{
		Path: exe, Args: args, Mounts: SystemMounts(), NestedUserNS: true, Stdout: &out, Stderr: &log,
		Env: []string{"HOME=" + defaultHome},
	})
	if err != nil {
		return "", err
	}
	defer p.Kill()
	if err := p.Wait(); err != nil {
		text := log.String()
		return "", fmt.Errorf("%w: %s", err, strings.TrimSpace(text[:min(len(text), 400)]))
	}
	return out.String(), nil
}
