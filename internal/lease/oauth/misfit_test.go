package oauth_test

import (
	"context"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/gate/gatetest"
	"github.com/sallyport-dev/sallyport/internal/lease"
	"github.com/sallyport-dev/sallyport/internal/lease/leasetest"
	"github.com/sallyport-dev/sallyport/internal/lease/oauth"
)

// kept is a server, and keepers that share a ledger: each is a process of its own.
type kept struct {
	*hostile
	t      *testing.T
	log    *gatetest.Log
	ids    atomic.Int64
	passed time.Duration // on the source's clock
	life   time.Duration // that is declared
}

func newKept(t *testing.T, says string) *kept {
	k := &kept{hostile: newHostile(t), t: t, log: gatetest.NewLog("acme"), life: life}
	k.answer = func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, says) }
	return k
}

func (k *kept) keeper() *lease.Keeper {
	return lease.New(lease.Config{Log: k.log, Seal: leasetest.Plain{}, Prefix: leasetest.Prefix, IDs: func() string { return fmt.Sprintf("l-%d", k.ids.Add(1)) },
		Find: func(context.Context, lease.Lease) (lease.Source, error) {
			return k.source(k.t, func(c *oauth.Config) {
				c.Life, c.Now = k.life, func() time.Time { return time.Now().Add(k.passed) }
			}), nil
		}})
}

func issue(t *testing.T, k *lease.Keeper) (lease.Lease, error) {
	l, secret, err := k.Issue(t.Context(), lease.Request{Task: "t-1", Agent: "helper", Source: "s", Audience: "a", Until: time.Now().Add(time.Hour)})
	clear(secret)
	return l, err
}

// restart ends what is open in another process, and counts what is still open, and
// how much of it alarms.
func (k *kept) restart() (open, alarms int) {
	k.t.Helper()
	p := k.keeper()
	_ = p.Recover(k.t.Context()) // the reasons are in the leases
	left, err := p.Unconfirmed(k.t.Context())
	if err != nil {
		k.t.Fatal(err)
	}
	all, err := p.Open(k.t.Context())
	if err != nil {
		k.t.Fatal(err)
	}
	return len(all), len(left)
}

const tokenSays = `{"access_token": "` + token + `", "token_type": "Bearer", "expires_in": %s}`

// A token that is not what was asked for is not used. It lives, so its lease does: its
// text is kept, sealed, until it was ended with it, over a crash and for as long as it
// really lives, which may be longer than any that is taken.
//
// Threats: K23 (lease)
func TestMisfitStaysInSight(t *testing.T) {
	for name, tt := range map[string]struct {
		expires string
		blind   bool // there is no endpoint to end it or to ask
		dead    bool // introspection says inactive whatever is true
		over    bool // two hours later
	}{
		"longer":             {expires: "3600", blind: true, over: true},
		"too_long_to_count":  {expires: "9223372037", blind: true},
		"longer_than_a_word": {expires: "1e30", blind: true},
		"as_text":            {expires: `"30"`, blind: true},
		"does_not_say":       {expires: "null", blind: true},
		"in_the_past":        {expires: "-5", blind: true},
		"lives_on":           {expires: "3600"},
		"dead_from_birth":    {expires: "3600", dead: true, over: true},
	} {
		t.Run(name, func(t *testing.T) {
			k := newKept(t, fmt.Sprintf(tokenSays, tt.expires))
			k.lies, k.alive = true, !tt.dead
			if tt.blind {
				delete(k.meta, "introspection_endpoint")
				delete(k.meta, "revocation_endpoint")
			}
			if _, err := issue(t, k.keeper()); err == nil {
				t.Fatal("it is used")
			}
			for _, later := range []time.Duration{0, 5 * time.Minute} {
				k.passed = later
				if open, alarms := k.restart(); open != 1 || alarms != 1 {
					t.Errorf("%s later %d leases are open and %d alarm, while the token lives", later, open, alarms)
				}
			}
			if !tt.blind && !slices.Contains(k.ended, token) {
				t.Error("nobody asked for its end")
			}
			k.passed = 2 * time.Hour
			if open, _ := k.restart(); (open == 0) != tt.over {
				t.Errorf("after two hours %d leases are open", open)
			}
			if name == "lives_on" {
				k.lies = false // and the server ends it, by its text
				if open, _ := k.restart(); open != 0 {
					t.Errorf("%d leases are open once it is ended", open)
				}
			}
			for _, e := range k.log.All() {
				if strings.Contains(string(e.Body), token) {
					t.Errorf("the token is in record %s", e.Type)
				}
			}
		})
	}
}

// Where no endpoint ends a token or tells of it, each renewal leaves one that lives
// for a while. It is in sight until then, and no alarm that bars the agent from its
// next task. What a server with both does not end is one, and so are a token that
// lives for longer than what may be left to its time, and a revocation that fails.
//
// Threats: K23 (lease)
func TestShortTokenEndsByItself(t *testing.T) {
	for name, tt := range map[string]struct {
		without []string
		life    time.Duration
		broken  bool // its revocation, at first
		alarms  int
	}{
		"neither":          {[]string{"revocation_endpoint", "introspection_endpoint"}, life, false, 0},
		"no_revocation":    {[]string{"revocation_endpoint"}, life, false, 0},
		"no_introspection": {[]string{"introspection_endpoint"}, life, false, 0},
		"not_revoked":      {[]string{"introspection_endpoint"}, life, true, 1},
		"both":             {nil, life, false, 1},
		"long":             {[]string{"revocation_endpoint", "introspection_endpoint"}, time.Hour, false, 1},
	} {
		t.Run(name, func(t *testing.T) {
			k := newKept(t, fmt.Sprintf(tokenSays, "60"))
			k.life, k.lies, k.broken = tt.life, true, tt.broken
			for _, e := range tt.without {
				delete(k.meta, e)
			}
			p := k.keeper()
			l, err := issue(t, p)
			if err != nil {
				t.Fatal(err)
			}
			if err := p.EndOne(t.Context(), l.ID); (err != nil) != (tt.alarms > 0) {
				t.Errorf("got %v", err)
			}
			if open, alarms := k.restart(); open != 1 || alarms != tt.alarms {
				t.Errorf("%d leases are open and %d alarm, want one and %d", open, alarms, tt.alarms)
			}
			if k.broken = false; tt.broken {
				if open, alarms := k.restart(); open != 1 || alarms != 0 || !slices.Equal(k.ended, []string{token}) {
					t.Errorf("%d leases are open, %d alarm, and %q is ended, once it can be", open, alarms, k.ended)
				}
			}
			k.passed, k.alive = 66*time.Second, false
			if open, _ := k.restart(); open != 0 {
				t.Errorf("%d leases are open after its life", open)
			}
		})
	}
}

// A token whose answer was lost may live for as long as was declared when it was asked
// for, whatever is declared now.
//
// Threats: K23 (lease)
func TestLostTokenIsWaitedForAsDeclaredThen(t *testing.T) {
	k := newKept(t, "")
	k.answer = func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }
	k.life = time.Hour
	if _, err := issue(t, k.keeper()); err == nil {
		t.Fatal("a token of no answer")
	}
	k.life, k.passed = 10*time.Second, 30*time.Minute
	if open, _ := k.restart(); open != 1 {
		t.Errorf("%d leases are open while the token may live", open)
	}
	k.passed = 62 * time.Minute
	if open, _ := k.restart(); open != 0 {
		t.Errorf("%d leases are open after its life", open)
	}
}
