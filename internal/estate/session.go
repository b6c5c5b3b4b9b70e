package estate

import (
	"cmp"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"net/http"
	"slices"
	"strings"
	"time"
)

const (
	sessionCookie = "__Host-session"
	preCookie     = "__Host-pre"
	sessionLife   = 8 * time.Hour
	maxLabel      = 200
)

// A session is found by the digest of its cookie; the cookie itself is not kept.
type session struct {
	Session
	csrf   string
	writes bool
}

func digest(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return string(sum[:])
}

func same(a, b string) bool { return subtle.ConstantTimeCompare([]byte(a), []byte(b)) == 1 }

// label makes a header of the client fit to be kept and shown.
func label(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < 0x20 || r > 0x7e {
			return -1
		}
		return r
	}, s)
	return s[:min(len(s), maxLabel)]
}

// current finds the live session of a request and notes that it was seen. The
// returned value is the handler's own.
func (c *Copy) current(app App, r *http.Request) (session, bool) {
	ck, err := r.Cookie(sessionCookie)
	if err != nil || ck.Value == "" {
		return session{}, false
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	s := c.sessions[app][digest(ck.Value)]
	if s == nil {
		return session{}, false
	}
	now := time.Now()
	if now.Sub(s.Created) > sessionLife {
		delete(c.sessions[app], digest(ck.Value))
		return session{}, false
	}
	s.LastSeen = now
	return *s, true
}

// sessionList lists live sessions, oldest first; of one account if named.
// c.mu is held.
func (c *Copy) sessionList(app App, account string, current *session) []Session {
	out := []Session{}
	for _, s := range c.sessions[app] {
		if account != "" && s.Account != account || time.Since(s.Created) > sessionLife {
			continue
		}
		v := s.Session
		v.Current = current != nil && current.ID == s.ID
		out = append(out, v)
	}
	slices.SortFunc(out, func(a, b Session) int {
		return cmp.Or(a.Created.Compare(b.Created), cmp.Compare(a.ID, b.ID))
	})
	return out
}

// endSession ends a session of an account by its public id. c.mu is held.
func (c *Copy) endSession(app App, account, id string) bool {
	for key, s := range c.sessions[app] {
		if s.ID == id && s.Account == account {
			delete(c.sessions[app], key)
			return true
		}
	}
	return false
}

// preToken binds the token of a sign-in form to the cookie that came with it.
func (c *Copy) preToken(app App, pre string) string {
	m := hmac.New(sha256.New, c.preKey)
	m.Write([]byte(string(app) + "\x00" + pre))
	return hex.EncodeToString(m.Sum(nil)[:16])
}

func (q *call) setCookie(name, value string, age int) {
	http.SetCookie(q.w, &http.Cookie{
		Name: name, Value: value, Path: "/", MaxAge: age,
		Secure: true, HttpOnly: true, SameSite: http.SameSiteLaxMode,
	})
}

type loginView struct {
	Token, Next, Username string
	Failed, Code          bool
}

// loginPage keeps the cookie it finds, so that two open sign-in pages work.
func loginPage(q *call) { q.showLogin(http.StatusOK, loginView{Next: q.r.URL.Query().Get("next")}) }

func (q *call) showLogin(status int, v loginView) {
	pre := ""
	if ck, err := q.r.Cookie(preCookie); err == nil && len(ck.Value) >= 20 {
		pre = ck.Value
	} else {
		pre = rand.Text()
		q.setCookie(preCookie, pre, 3600)
	}
	v.Token = q.copy.preToken(q.app, pre)
	v.Next, v.Code = localPath(v.Next), q.copy.code != nil
	q.page(status, "login", "login", "Sign in", v)
}

// localPath is s if it is a path on this origin, else "".
func localPath(s string) string {
	if !strings.HasPrefix(s, "/") || strings.HasPrefix(s, "//") || strings.ContainsAny(s, "\\\r\n\t") {
		return ""
	}
	return s
}

func login(q *call) {
	ck, err := q.r.Cookie(preCookie)
	if err != nil || !same(q.r.PostForm.Get("_csrf"), q.copy.preToken(q.app, ck.Value)) {
		q.refuse("csrf", http.StatusForbidden)
		return
	}
	name := q.r.PostForm.Get("username")
	a, known := q.copy.accounts[q.app][name]
	// The comparison runs for unknown names too, so both take the same time.
	ok := same(digest(q.r.PostForm.Get("password")), digest(a.password.s)) && known
	if !known && q.copy.directory != nil && q.copy.directory(q.copy.stage, q.app, name, q.r.PostForm.Get("password")) {
		a, ok = account{name: name, writes: true}, true
	}
	if ok && q.copy.code != nil {
		asked, right := q.copy.code(q.copy.stage, q.app, name, q.r.PostForm.Get("code"))
		ok = !asked || right
	}
	if !ok {
		q.audit("session.sign-in", label(name), "password")
		q.showLogin(http.StatusUnauthorized, loginView{Failed: true, Username: label(name), Next: q.r.PostForm.Get("next")})
		return
	}
	cookie, now := rand.Text()+rand.Text(), time.Now()
	s := &session{
		Session: Session{
			ID: "s-" + strings.ToLower(rand.Text()[:12]), Account: a.name,
			Created: now, LastSeen: now, UserAgent: label(q.r.UserAgent()),
		},
		csrf: rand.Text(), writes: a.writes,
	}
	q.session = *s
	q.copy.mu.Lock()
	q.copy.sessions[q.app][digest(cookie)] = s
	q.auditLocked("session.sign-in", a.name, "")
	q.copy.mu.Unlock()
	q.setCookie(sessionCookie, cookie, 0)
	q.setCookie(preCookie, "", -1)
	to := localPath(q.r.PostForm.Get("next"))
	if to == "" {
		to = "/"
	}
	q.to(to)
}

func logout(q *call) {
	q.copy.mu.Lock()
	q.copy.endSession(q.app, q.session.Account, q.session.ID)
	q.auditLocked("session.sign-out", q.session.Account, "")
	q.copy.mu.Unlock()
	q.setCookie(sessionCookie, "", -1)
	q.to("/login")
}

func (q *call) ownSessions() []Session {
	q.copy.mu.Lock()
	defer q.copy.mu.Unlock()
	return q.copy.sessionList(q.app, q.session.Account, &q.session)
}

func accountPage(q *call) { q.page(http.StatusOK, "account", "account", "My account", q.ownSessions()) }

func listSessions(q *call) { q.json(http.StatusOK, q.ownSessions()) }

func revokeSession(q *call) {
	id := q.r.PathValue("id")
	q.copy.mu.Lock()
	ok := q.copy.endSession(q.app, q.session.Account, id)
	if ok {
		q.auditLocked("session.revoke", id, "")
	}
	q.copy.mu.Unlock()
	if !ok {
		q.audit("session.revoke", label(id), "not-found")
		q.fail(http.StatusNotFound, "not-found")
		return
	}
	q.w.WriteHeader(http.StatusNoContent)
}
