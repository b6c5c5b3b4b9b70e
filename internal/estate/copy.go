package estate

import (
	"crypto/rand"
	"fmt"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
)

// A Copy is the estate of one stage.
type Copy struct {
	stage     Stage
	port      int
	accounts  map[App]map[string]account                                 // fixed at start
	directory func(stage Stage, app App, username, password string) bool // may be nil
	code      func(stage Stage, app App, username, code string) (asked, right bool)
	preKey    []byte // signs the token of sign-in forms, fixed at start

	// mu guards everything below. Handlers hold it for one read or one write
	// together with its audit entry, so no state is seen without its entry.
	mu       sync.Mutex
	data     data
	trail    map[App][]Event             // appended to, for as long as the copy is served
	sessions map[App]map[string]*session // by digest of the cookie
	hostile  map[string]bool
	seed     uint64          // of the voices in which it speaks
	shown    map[string]bool // the hostile items that were in an answer
}

func newCopy(stage Stage, port int, cfg Config) (*Copy, error) {
	c := &Copy{stage: stage, port: port, accounts: newAccounts(stage, cfg.Password), directory: cfg.Directory, code: cfg.Code, trail: map[App][]Event{}, preKey: make([]byte, 32)}
	if _, err := rand.Read(c.preKey); err != nil {
		return nil, fmt.Errorf("make sign-in key: %w", err)
	}
	c.Reset()
	return c, nil
}

// another is a copy with the same names, and data of its own. Accounts, with their
// one-time codes, are those of the sandbox.
func (c *Copy) another(accounts map[App]map[string]account) (*Copy, error) {
	x := &Copy{stage: c.stage, port: c.port, accounts: accounts, directory: c.directory, trail: map[App][]Event{}, preKey: make([]byte, 32)}
	if c.code != nil {
		x.code = func(_ Stage, app App, username, code string) (asked, right bool) {
			return c.code(Sandbox, app, username, code)
		}
	}
	if _, err := rand.Read(x.preKey); err != nil {
		return nil, fmt.Errorf("make sign-in key: %w", err)
	}
	x.Reset()
	return x, nil
}

// Reset brings the copy back to its start: data, audit logs, sent mail, the
// attacker's hits and the hostile items; all sessions end. Passwords stay.
func (c *Copy) Reset() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.data = seed()
	c.hostile, c.shown, c.seed = map[string]bool{}, map[string]bool{}, 0
	c.sessions = map[App]map[string]*session{}
	for _, app := range signedApps {
		c.sessions[app] = map[string]*session{}
	}
}

// SetHostile switches on exactly the named hostile items; without names, none.
// An unknown name is an error and changes nothing.
func (c *Copy) SetHostile(names ...string) error {
	set := map[string]bool{}
	for _, name := range names {
		if _, ok := hostileByName(name); !ok {
			return fmt.Errorf("no hostile item %q", name)
		}
		set[name] = true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hostile, c.shown = set, map[string]bool{}
	return nil
}

// Seed chooses the voices in which hostile content speaks, which are different
// words for the same orders: one seed, one choice. At a start it is 0.
func (c *Copy) Seed(n uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seed = n
}

// Hostile lists the hostile items that are on, sorted.
func (c *Copy) Hostile() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string{}, slices.Sorted(maps.Keys(c.hostile))...)
}

func (c *Copy) isHostile(h Hostile) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hostile[h.Name]
}

func (c *Copy) url(app App) string {
	host := Host(c.stage, app)
	if host == "" {
		return ""
	}
	return fmt.Sprintf("https://%s:%d", host, c.port)
}

// handler serves all names of the copy. A request for a name other than the
// one the connection was opened for is misdirected (RFC 9110 section 15.5.20).
func (c *Copy) handler() http.Handler {
	sites := map[string]http.Handler{}
	for _, app := range ownApps {
		sites[Host(c.stage, app)] = newSite(c, app)
	}
	sites[Host(c.stage, Evil)] = c.evilHandler()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		host := r.Host
		if name, _, err := net.SplitHostPort(host); err == nil {
			host = name
		}
		host = strings.ToLower(host)
		h := sites[host]
		if h == nil || r.TLS == nil || !strings.EqualFold(r.TLS.ServerName, host) {
			http.Error(w, "misdirected request", http.StatusMisdirectedRequest)
			return
		}
		h.ServeHTTP(w, r)
	})
}
