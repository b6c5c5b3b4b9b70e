package estate

import (
	"maps"
	"slices"
	"strings"
	"time"
)

// A User is a person or service account in the directory of iam.
type User struct {
	ID         string     `json:"id"`
	Name       string     `json:"name"`
	Email      string     `json:"email"`
	Title      string     `json:"title"`
	Department string     `json:"department"`
	Status     string     `json:"status"` // "active" or "disabled"
	MFA        string     `json:"mfa"`    // "enrolled" or "reset-required"
	MFAResetAt *time.Time `json:"mfaResetAt"`
	Devices    []Device   `json:"devices"`
	Groups     []string   `json:"groups"` // ids, derived from the groups
}

// A Device is a second factor of a user. A reset removes all of them.
type Device struct {
	Name  string `json:"name"`
	Kind  string `json:"kind"`
	Added string `json:"added"`
}

// A Group of the directory.
type Group struct {
	ID          string   `json:"id"`
	Name        string   `json:"name"`
	Description string   `json:"description"`
	Members     []string `json:"members"` // user ids, in order of joining
}

// A Ticket of the queue. Subject, Body and the name come from the customer.
type Ticket struct {
	ID        string    `json:"id"`
	Subject   string    `json:"subject"`
	Requester string    `json:"requester"`
	User      string    `json:"user"` // the requester's id in iam
	Email     string    `json:"email"`
	Status    string    `json:"status"` // "open" or "closed"
	Priority  string    `json:"priority"`
	Created   time.Time `json:"created"`
	Body      string    `json:"body"`
	Comments  []Comment `json:"comments"`
}

// A Comment on a ticket.
type Comment struct {
	Author string    `json:"author"`
	Time   time.Time `json:"time"`
	Body   string    `json:"body"`
}

// A Message is a mail, in the inbox or sent. Nothing leaves the process.
type Message struct {
	ID      string    `json:"id"`
	From    string    `json:"from"`
	To      string    `json:"to"`
	Subject string    `json:"subject"`
	Body    string    `json:"body"`
	Time    time.Time `json:"time"`
	Account string    `json:"account,omitempty"` // who sent it, for sent mail
}

// A Payment of the payments page.
type Payment struct {
	ID        string    `json:"id"`
	Payee     string    `json:"payee"`
	IBAN      string    `json:"iban"`
	Amount    string    `json:"amount"` // euros, two decimals
	Reference string    `json:"reference"`
	Status    string    `json:"status"`
	Time      time.Time `json:"time"`
	Account   string    `json:"account"`
}

// A Runbook is how the company does something.
type Runbook struct {
	ID    string `json:"id"`
	Title string `json:"title"`
	Body  string `json:"body"`
	Notes []Note `json:"notes"`
}

// A Note is what somebody left on a runbook.
type Note struct {
	Author string    `json:"author"`
	Time   time.Time `json:"time"`
	Text   string    `json:"text"`
}

// A Hit is a request that reached the attacker's site.
type Hit struct {
	Time      time.Time `json:"time"`
	Method    string    `json:"method"`
	Path      string    `json:"path"`
	Query     string    `json:"query"`
	Body      string    `json:"body"` // the first 64 KiB
	Origin    string    `json:"origin"`
	UserAgent string    `json:"userAgent"`
}

// An AuditEntry is a line of an application's own audit log: sign-ins and
// every write, done or refused. Reads are not logged.
type AuditEntry struct {
	ID        int       `json:"id"`
	Time      time.Time `json:"time"`
	Account   string    `json:"account"`
	Session   string    `json:"session"` // public id of the session, "" without one
	UserAgent string    `json:"userAgent"`
	RequestID string    `json:"requestId"` // X-Request-Id of the request
	Action    string    `json:"action"`    // e.g. "user.mfa.reset"
	Target    string    `json:"target"`    // e.g. "jo", "finance/jo", "4711"
	Outcome   string    `json:"outcome"`   // "ok" or "refused"
	Reason    string    `json:"reason"`    // why refused: "csrf", "origin", "role", "input", "not-found", "password"
}

// A Session is a signed-in session, named by a public id that opens nothing.
type Session struct {
	ID        string    `json:"id"`
	Account   string    `json:"account"`
	Created   time.Time `json:"created"`
	LastSeen  time.Time `json:"lastSeen"`
	UserAgent string    `json:"userAgent"`
	Current   bool      `json:"current"` // the session that asks; false in State
}

// State is everything a copy knows, for assertions. It holds no secret.
type State struct {
	Stage    Stage                `json:"stage"`
	Hostile  []string             `json:"hostile"`
	Shown    []string             `json:"shown"` // hostile items that were in an answer to somebody signed in
	Users    []User               `json:"users"`
	Groups   []Group              `json:"groups"`
	Tickets  []Ticket             `json:"tickets"`
	Sent     []Message            `json:"sent"`
	Payments []Payment            `json:"payments"`
	Runbooks []Runbook            `json:"runbooks"`
	Tokens   int                  `json:"tokens"`   // that accounts made for themselves
	Sessions map[App][]Session    `json:"sessions"` // alive, oldest first
	Evil     []Hit                `json:"evil"`
	Audit    map[App][]AuditEntry `json:"audit"`
}

// data is the business state of a copy, guarded by Copy.mu.
type data struct {
	users    []User
	groups   []Group
	tickets  []Ticket
	inbox    []Message
	sent     []Message
	payments []Payment
	runbooks []Runbook
	evil     []Hit
	sync     Sync
	audit    map[App][]AuditEntry
}

func (d *data) user(id string) *User {
	for i := range d.users {
		if d.users[i].ID == id {
			return &d.users[i]
		}
	}
	return nil
}

func (d *data) group(id string) *Group {
	for i := range d.groups {
		if d.groups[i].ID == id {
			return &d.groups[i]
		}
	}
	return nil
}

func (d *data) ticket(id string) *Ticket {
	for i := range d.tickets {
		if d.tickets[i].ID == id {
			return &d.tickets[i]
		}
	}
	return nil
}

func (d *data) runbook(id string) *Runbook {
	for i := range d.runbooks {
		if d.runbooks[i].ID == id {
			return &d.runbooks[i]
		}
	}
	return nil
}

// Views: what pages, APIs and State show. They share no memory with data, and
// they put in the hostile texts that are switched on.

func (c *Copy) viewUser(u User) User {
	u.Devices = append([]Device{}, u.Devices...)
	u.Groups = []string{}
	for _, g := range c.data.groups {
		if slices.Contains(g.Members, u.ID) {
			u.Groups = append(u.Groups, g.ID)
		}
	}
	switch h, _ := c.on(IAM, "/users/"+u.ID, OnDirectory); {
	case h == IAMDisplayName:
		u.Name = displayNameText
	case strings.HasPrefix(h.Name, "device-"):
		u.Devices = append(u.Devices, Device{h.words(c.seed), "Security key", "today"})
	case h.Name != "":
		u.Title = h.words(c.seed)
	}
	return u
}

func (c *Copy) viewUsers() []User {
	out := []User{}
	for _, u := range c.data.users {
		out = append(out, c.viewUser(u))
	}
	return out
}

func viewGroup(g Group) Group {
	g.Members = append([]string{}, g.Members...)
	return g
}

func (c *Copy) viewGroups() []Group {
	out := []Group{}
	for _, g := range c.data.groups {
		out = append(out, viewGroup(g))
	}
	return out
}

func (c *Copy) viewTicket(t Ticket) Ticket {
	t.Comments = append([]Comment{}, t.Comments...)
	if h, ok := c.on(Tickets, "/tickets/"+t.ID, OnTicket, OnHidden, OnPicture, OnPage); ok {
		t.Body = hostileText(h, c.seed, t.Body)
	}
	if h, ok := c.on(Tickets, "/tickets/"+t.ID, OnSubject); ok {
		t.Subject += " (" + h.words(c.seed) + ")"
	}
	return t
}

func (c *Copy) viewTickets() []Ticket {
	out := []Ticket{}
	for _, t := range c.data.tickets {
		out = append(out, c.viewTicket(t))
	}
	return out
}

func (c *Copy) viewMessage(m Message) Message {
	if h, ok := c.on(Mail, "/messages/"+m.ID, OnMail); ok {
		m.Body = hostileText(h, c.seed, m.Body)
	}
	return m
}

func (c *Copy) viewInbox() []Message {
	out := []Message{}
	for _, m := range c.data.inbox {
		out = append(out, c.viewMessage(m))
	}
	return out
}

// State is a snapshot that shares no memory with the copy.
func (c *Copy) State() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	s := State{
		Stage:    c.stage,
		Hostile:  slices.Sorted(maps.Keys(c.hostile)),
		Shown:    slices.Sorted(maps.Keys(c.shown)),
		Users:    c.viewUsers(),
		Groups:   c.viewGroups(),
		Tickets:  c.viewTickets(),
		Sent:     append([]Message{}, c.data.sent...),
		Payments: append([]Payment{}, c.data.payments...),
		Runbooks: []Runbook{},
		Tokens:   len(c.data.sync.own),
		Evil:     append([]Hit{}, c.data.evil...),
		Sessions: map[App][]Session{},
		Audit:    map[App][]AuditEntry{},
	}
	if s.Hostile == nil {
		s.Hostile = []string{}
	}
	if s.Shown == nil {
		s.Shown = []string{}
	}
	for _, r := range c.data.runbooks {
		r.Notes = append([]Note{}, r.Notes...)
		s.Runbooks = append(s.Runbooks, r)
	}
	for _, app := range signedApps {
		s.Sessions[app] = c.sessionList(app, "", nil)
	}
	for _, app := range ownApps {
		s.Audit[app] = append([]AuditEntry{}, c.data.audit[app]...)
	}
	return s
}
