package estate

import (
	"net/http"
	"strconv"
	"strings"
	"time"
)

// An Event is a line of the audit log as programs read it. The log is of the
// application and not of its data: a reset of the copy leaves it as it is.
type Event struct {
	ID      int               `json:"id"` // from 1, without gaps
	Time    time.Time         `json:"time"`
	Account string            `json:"account"`
	Action  string            `json:"action"`
	Objects map[string]string `json:"objects"` // by kind: user, group, ticket
	Outcome string            `json:"outcome"`
	// UserAgent of the request: of a sign-in that of its session.
	UserAgent string `json:"userAgent"`
}

// eventPage is how many events one answer has.
const eventPage = 100

// objectKinds say what the parts of a target are, by the first word of the action.
var objectKinds = map[string][]string{"user": {"user"}, "group": {"group", "user"}, "ticket": {"ticket"}, "runbook": {"runbook"}}

func eventOf(e AuditEntry) Event {
	v := Event{Time: e.Time, Account: e.Account, Action: e.Action, Objects: map[string]string{}, Outcome: e.Outcome, UserAgent: e.UserAgent}
	first, _, _ := strings.Cut(e.Action, ".")
	kinds := objectKinds[first]
	for i, part := range strings.SplitN(e.Target, "/", max(1, len(kinds))) {
		if i < len(kinds) {
			v.Objects[kinds[i]] = part
		}
	}
	return v
}

// apiEvents gives the auditor, who signs in with each request (RFC 7617), the events
// after the one that is named, oldest first.
func apiEvents(q *call) {
	name, password, _ := q.r.BasicAuth()
	a := q.copy.accounts[q.app][ReadOnlyAccount]
	if name != a.name || !same(digest(password), digest(a.password.s)) {
		q.fail(http.StatusUnauthorized, "unauthenticated")
		return
	}
	after, err := 0, error(nil)
	if text := q.r.URL.Query().Get("after"); text != "" {
		after, err = strconv.Atoi(text)
	}
	if err != nil || after < 0 {
		q.fail(http.StatusBadRequest, "input")
		return
	}
	q.copy.mu.Lock()
	all := q.copy.trail[q.app]
	out := []Event{}
	for i := after; i < len(all) && len(out) < eventPage; i++ {
		e := all[i]
		e.ID = i + 1
		out = append(out, e)
	}
	q.copy.mu.Unlock()
	q.json(http.StatusOK, map[string]any{"events": out})
}
