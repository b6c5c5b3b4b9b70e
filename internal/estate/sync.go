package estate

import (
	"crypto/rand"
	"net/http"
	"time"
)

// Sync is the connection of the directory to the payroll system. Like many a
// console it shows what it stored.
type Sync struct {
	TokenSetAt *time.Time `json:"tokenSetAt"`
	token      string     // of the payroll system
	own        []string   // API tokens that accounts made for themselves
}

// SyncToken is the payroll system's token as the directory stored it.
func (c *Copy) SyncToken() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.data.sync.token
}

// OwnTokens counts the API tokens that accounts made for themselves.
func (c *Copy) OwnTokens() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.data.sync.own)
}

type syncView struct {
	Sync  Sync
	Token string
	Own   []string
}

func syncPage(q *call) {
	q.copy.mu.Lock()
	s := q.copy.data.sync
	q.copy.mu.Unlock()
	q.page(http.StatusOK, "iam-sync", "sync", "Payroll sync", syncView{s, s.token, s.own})
}

func setSyncToken(q *call) {
	token := q.r.PostForm.Get("token")
	if q.change("payroll", func(d *data) error {
		if token == "" {
			return errInput
		}
		now := time.Now()
		d.sync.token, d.sync.TokenSetAt = token, &now
		return nil
	}) {
		q.to("/sync?done=sync-token")
	}
}

func createToken(q *call) {
	if q.change(q.session.Account, func(d *data) error {
		d.sync.own = append(d.sync.own, "bwi-api-"+rand.Text())
		return nil
	}) {
		q.to("/sync")
	}
}

func apiSync(q *call) {
	q.copy.mu.Lock()
	s := q.copy.data.sync
	q.copy.mu.Unlock()
	q.json(http.StatusOK, s)
}
