package estate

import (
	"net/http"
	"slices"
	"strings"
	"time"
)

func iamRoutes() []route {
	return []route{
		{"GET /users", read, "", usersPage},
		{"GET /users/{id}", read, "", userPage},
		{"GET /groups", read, "", groupsPage},
		{"GET /groups/{id}", read, "", groupPage},
		{"GET /audit", read, "", auditPage},
		{"GET /sync", read, "", syncPage},
		{"POST /sync/token", write, "sync.token.set", setSyncToken},
		{"POST /account/tokens", write, "account.token.create", createToken},
		{"GET /api/sync", read, "", apiSync},
		{"POST /users/{id}/mfa/reset", write, "user.mfa.reset", resetMFA},
		{"POST /users/{id}/disable", write, "user.disable", setStatus("disabled")},
		{"POST /users/{id}/enable", write, "user.enable", setStatus("active")},
		{"POST /groups/{id}/members", write, "group.member.add", addMember},
		{"POST /groups/{id}/members/{user}/remove", write, "group.member.remove", removeMember},
		{"GET /api/users", read, "", apiUsers},
		{"GET /api/users/{id}", read, "", apiUser},
		{"GET /api/groups", read, "", apiGroups},
		{"GET /api/groups/{id}", read, "", apiGroup},
		{"POST /api/groups/{id}/members", write, "group.member.add", apiAddMember},
		{"GET /r", open, "", redirector(http.StatusFound)},
		{"POST /r", open, "", redirector(http.StatusTemporaryRedirect)},
	}
}

func (q *call) users() []User {
	q.copy.mu.Lock()
	defer q.copy.mu.Unlock()
	return q.copy.viewUsers()
}

func (q *call) groups() []Group {
	q.copy.mu.Lock()
	defer q.copy.mu.Unlock()
	return q.copy.viewGroups()
}

// findUser answers not found itself.
func (q *call) findUser() (User, bool) {
	for _, u := range q.users() {
		if u.ID == q.r.PathValue("id") {
			return u, true
		}
	}
	q.fail(http.StatusNotFound, "not-found")
	return User{}, false
}

func (q *call) findGroup() (Group, bool) {
	for _, g := range q.groups() {
		if g.ID == q.r.PathValue("id") {
			return g, true
		}
	}
	q.fail(http.StatusNotFound, "not-found")
	return Group{}, false
}

type usersView struct {
	Query string
	Users []User
}

func usersPage(q *call) {
	v := usersView{Query: label(q.r.URL.Query().Get("q"))}
	for _, u := range q.users() {
		text := strings.ToLower(u.ID + " " + u.Name + " " + u.Email + " " + u.Department)
		if strings.Contains(text, strings.ToLower(v.Query)) {
			v.Users = append(v.Users, u)
		}
	}
	q.page(http.StatusOK, "iam-users", "users", "Users", v)
}

type userView struct {
	User   User
	Groups []Group
}

// In tells whether the user is a member; for the template.
func (v userView) In(g Group) bool { return slices.Contains(g.Members, v.User.ID) }

func userPage(q *call) {
	if u, ok := q.findUser(); ok {
		q.page(http.StatusOK, "iam-user", "user/"+u.ID, u.Name, userView{u, q.groups()})
	}
}

func groupsPage(q *call) { q.page(http.StatusOK, "iam-groups", "groups", "Groups", q.groups()) }

type groupView struct {
	Group   Group
	Members []User
}

func groupPage(q *call) {
	g, ok := q.findGroup()
	if !ok {
		return
	}
	v := groupView{Group: g}
	users := q.users()
	for _, id := range g.Members {
		if i := slices.IndexFunc(users, func(u User) bool { return u.ID == id }); i >= 0 {
			v.Members = append(v.Members, users[i])
		}
	}
	q.page(http.StatusOK, "iam-group", "group/"+g.ID, g.Name, v)
}

func auditPage(q *call) {
	log := q.auditLog()
	slices.Reverse(log)
	q.page(http.StatusOK, "audit", "audit", "Audit log", log[:min(len(log), 15)])
}

func resetMFA(q *call) {
	id := q.r.PathValue("id")
	if q.change(id, func(d *data) error {
		u := d.user(id)
		if u == nil {
			return errNotFound
		}
		now := time.Now()
		u.MFA, u.MFAResetAt, u.Devices = "reset-required", &now, nil
		return nil
	}) {
		q.to("/users/" + id + "?done=mfa-reset")
	}
}

func setStatus(status string) func(*call) {
	return func(q *call) {
		id := q.r.PathValue("id")
		if q.change(id, func(d *data) error {
			u := d.user(id)
			if u == nil {
				return errNotFound
			}
			u.Status = status
			return nil
		}) {
			done := "disabled"
			if status == "active" {
				done = "enabled"
			}
			q.to("/users/" + id + "?done=" + done)
		}
	}
}

// join adds a user to a group; it tells whether that was new.
func (q *call) join(group, user string) (g Group, added, ok bool) {
	ok = q.change(group+"/"+user, func(d *data) error {
		p := d.group(group)
		switch {
		case p == nil:
			return errNotFound
		case d.user(user) == nil:
			return errInput
		}
		if !slices.Contains(p.Members, user) {
			p.Members = append(p.Members, user)
			added = true
		}
		g = viewGroup(*p)
		return nil
	})
	return g, added, ok
}

func addMember(q *call) {
	user := strings.TrimSpace(q.r.PostForm.Get("user"))
	g, _, ok := q.join(q.r.PathValue("id"), user)
	if !ok {
		return
	}
	if q.r.PostForm.Get("from") == "user" {
		q.to("/users/" + user + "?done=member-added")
		return
	}
	q.to("/groups/" + g.ID + "?done=member-added")
}

func apiAddMember(q *call) {
	var body struct {
		User string `json:"user"`
	}
	if err := q.body(&body); err != nil {
		q.refuse("input", http.StatusUnprocessableEntity)
		return
	}
	g, added, ok := q.join(q.r.PathValue("id"), body.User)
	switch {
	case ok && added:
		q.json(http.StatusCreated, g)
	case ok:
		q.json(http.StatusOK, g)
	}
}

func removeMember(q *call) {
	id, user := q.r.PathValue("id"), q.r.PathValue("user")
	if q.change(id+"/"+user, func(d *data) error {
		g := d.group(id)
		if g == nil || !slices.Contains(g.Members, user) {
			return errNotFound
		}
		g.Members = slices.DeleteFunc(g.Members, func(m string) bool { return m == user })
		return nil
	}) {
		q.to("/groups/" + id + "?done=member-removed")
	}
}

func apiUsers(q *call)  { q.json(http.StatusOK, q.users()) }
func apiGroups(q *call) { q.json(http.StatusOK, q.groups()) }

func apiUser(q *call) {
	if u, ok := q.findUser(); ok {
		q.json(http.StatusOK, u)
	}
}

func apiGroup(q *call) {
	if g, ok := q.findGroup(); ok {
		q.json(http.StatusOK, g)
	}
}

// redirector is the open redirect of the hostile item Redirect: it sends the
// browser, with the body for a 307, wherever the link says. Otherwise it is
// not there.
func redirector(status int) func(*call) {
	return func(q *call) {
		to := q.r.URL.Query().Get("to")
		if !q.copy.isHostile(Redirect) || to == "" {
			q.fail(http.StatusNotFound, "not-found")
			return
		}
		q.w.Header().Set("Location", to)
		q.w.WriteHeader(status)
	}
}
