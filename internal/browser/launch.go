package browser

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/contain"
)

//go:embed policy.json
var managedPolicy []byte

const (
	proxyAddr = "127.0.0.1:3128" // inside the browser's network namespace
	home      = "/home/agent"
	// launchLimit bounds the time from exec to a first page with its guard.
	launchLimit = 30 * time.Second
)

// flags are hygiene: only the namespace is a boundary. Both WebRTC switches are
// given because the headless shell and the full browser each obey one.
func flags(cfg Config) []string {
	f := []string{
		"--remote-debugging-pipe",
		"--user-data-dir=" + home + "/profile",
		"--window-size=" + strconv.Itoa(cfg.Width) + "," + strconv.Itoa(cfg.Height),
		"--force-device-scale-factor=1",
		"--hide-scrollbars=false",
		"--proxy-server=http://" + proxyAddr,
		"--proxy-bypass-list=<-loopback>",
		"--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
		"--disable-quic",
		"--webrtc-ip-handling-policy=disable_non_proxied_udp",
		"--force-webrtc-ip-handling-policy=disable_non_proxied_udp",
		"--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-default-apps",
		"--no-first-run", "--no-default-browser-check", "--disable-extensions", "--disable-breakpad", "--no-service-autorun",
		"--password-store=basic", "--use-mock-keychain", "--disable-gpu", "--lang=en-US",
		"--deny-permission-prompts",
		// A page kept back or made ahead of time would change places with the
		// current one behind the guard's picture of it.
		"--disable-features=MediaRouter,OptimizationHints,Translate,BackForwardCache,Prerender2,SpeculationRulesPrefetchFuture,DialMediaRouteProvider,AutofillServerCommunication",
	}
	if cfg.Kind == "full" {
		f = append(f, "--headless=new")
	}
	return append(f, "about:blank")
}

// environment is all that the browser sees of the outside: nothing of ours.
func environment() []string {
	return []string{"HOME=" + home, "XDG_CONFIG_HOME=" + home + "/.config", "XDG_CACHE_HOME=" + home + "/.cache",
		"PATH=/usr/bin:/bin", "LANG=C.UTF-8", "TZ=UTC"}
}

// whole is cfg with its defaults, checked.
func (cfg Config) whole() (Config, error) {
	if cfg.Kind == "" {
		cfg.Kind = "shell"
	}
	if cfg.Kind != "shell" && cfg.Kind != "full" {
		return cfg, fmt.Errorf("browser kind %q: want shell or full", cfg.Kind)
	}
	if cfg.Width == 0 && cfg.Height == 0 {
		cfg.Width, cfg.Height = 1280, 800
	}
	if cfg.Width < 320 || cfg.Height < 200 || cfg.Width > 4096 || cfg.Height > 4096 {
		return cfg, fmt.Errorf("browser screen %dx%d: want 320x200 to 4096x4096", cfg.Width, cfg.Height)
	}
	return cfg, nil
}

// Launch starts a contained Chromium and returns when its first page is there
// with the guard in it.
func Launch(ctx context.Context, cfg Config) (*Browser, error) {
	cfg, err := cfg.whole()
	if err != nil {
		return nil, err
	}
	if strings.ContainsAny(cfg.TrustSPKI, ", \t\n") {
		return nil, errors.New("browser: more than one trusted key")
	}
	ctx, cancel := context.WithTimeout(ctx, launchLimit)
	defer cancel()
	b := &Browser{cfg: cfg, guard: newGuardNames(), sessions: map[string]*session{}, change: make(chan struct{}),
		input: make(chan struct{}, 1), questions: map[string]*question{}}
	b.life, b.end = context.WithCancel(context.Background())
	if err := b.start(); err != nil {
		return nil, fmt.Errorf("launch %s browser: %w", cfg.Kind, err)
	}
	if err := b.attach(ctx); err != nil {
		b.Close()
		return nil, fmt.Errorf("launch %s browser: %w", cfg.Kind, err)
	}
	return b, nil
}

// start executes Chromium. Order: policy file, pipes, process; the ends that
// belong to the browser are closed here as soon as it has them.
func (b *Browser) start() error {
	bin, err := contain.FindChromium(b.cfg.Kind)
	if err != nil {
		return err
	}
	args := flags(b.cfg)
	if b.flags, err = canon.DigestOf(args); err != nil {
		return err
	}
	if b.cfg.TrustSPKI != "" {
		args = append([]string{"--ignore-certificate-errors-spki-list=" + b.cfg.TrustSPKI}, args...)
	}
	mounts := contain.SystemMounts()
	b.clean = func() {}
	if b.cfg.Kind == "full" {
		m, clean, err := policyMount()
		if err != nil {
			return err
		}
		b.clean, mounts = clean, append(mounts, m)
	}
	inR, inW, err := os.Pipe() // the browser reads fd 3
	if err != nil {
		b.clean()
		return err
	}
	outR, outW, err := os.Pipe() // and writes fd 4
	if err != nil {
		b.clean()
		return errors.Join(err, inR.Close(), inW.Close())
	}
	stderr := &tail{limit: 4 << 10}
	b.proc, err = contain.Start(b.life, contain.Spec{ // whose context ends the process, not only the start
		Path: bin, Args: args, Env: environment(), Listen: []string{proxyAddr}, Mounts: mounts,
		Files: []*os.File{inR, outW}, Stdout: io.Discard, Stderr: stderr, NestedUserNS: true,
	})
	inR.Close()
	outW.Close()
	if err != nil {
		b.clean()
		return errors.Join(err, inW.Close(), outR.Close())
	}
	b.conn = newConn(outR, inW, b.event, func() error {
		select { // the reason is on its way
		case <-b.proc.Done():
			return fmt.Errorf("%w: the browser has ended: %s", errClosed, stderr)
		case <-time.After(2 * time.Second):
			return errClosed
		}
	})
	go func() { // no pipe, no browser
		<-b.conn.done
		b.proc.Kill()
	}()
	return nil
}

// attach takes hold of everything that exists or will exist before any page
// can run, then waits for the first page.
func (b *Browser) attach(ctx context.Context) error {
	var err error
	if b.version, err = b.product(ctx); err != nil {
		return err
	}
	if err := b.conn.call(ctx, "", "Browser.setDownloadBehavior", obj{"behavior": "deny", "eventsEnabled": true}, nil); err != nil {
		return err
	}
	if err := b.conn.call(ctx, "", "Target.setAutoAttach", autoAttach, nil); err != nil {
		return err
	}
	if err := b.await(ctx, func() bool { return len(b.pages) > 0 }); err != nil {
		return err
	}
	_, err = b.current(ctx)
	return err
}

// product is the version that the browser says it is.
func (b *Browser) product(ctx context.Context) (string, error) {
	var v struct {
		Product string `json:"product"`
	}
	err := b.conn.call(ctx, "", "Browser.getVersion", nil, &v)
	return v.Product, err
}

// policyMount writes the managed policy for the full browser where the
// contained process can read it.
func policyMount() (contain.Mount, func(), error) {
	dir, err := os.MkdirTemp("", "sallyport-policy-")
	if err != nil {
		return contain.Mount{}, nil, err
	}
	clean := func() { os.RemoveAll(dir) }
	managed := filepath.Join(dir, "managed")
	err = errors.Join(os.Chmod(dir, 0o755), os.Mkdir(managed, 0o755),
		os.WriteFile(filepath.Join(managed, "sallyport.json"), managedPolicy, 0o644))
	if err != nil {
		clean()
		return contain.Mount{}, nil, err
	}
	return contain.Mount{Source: dir, Target: "/etc/chromium/policies"}, clean, nil
}

// PolicyDigest is the digest of the managed policy given to a full browser.
func PolicyDigest() action.Digest { return canon.Digest(managedPolicy) }

// tail keeps the last bytes written to it, for the one error that needs them.
type tail struct {
	mu    sync.Mutex
	limit int
	b     []byte
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.b = append(t.b, p...)
	if n := len(t.b) - t.limit; n > 0 {
		t.b = append(t.b[:0], t.b[n:]...)
	}
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return strings.TrimSpace(string(t.b))
}
