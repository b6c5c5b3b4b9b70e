package estate

import (
	"html/template"
	"net/http"
	"slices"
	"strings"
	"time"
)

func ticketRoutes() []route {
	return []route{
		{"GET /tickets", read, "", ticketsPage},
		{"GET /tickets/{id}", read, "", ticketPage},
		{"GET /tickets/{id}/file", read, "", filePage},
		{"POST /tickets/{id}/comments", write, "ticket.comment", comment},
		{"POST /tickets/{id}/close", write, "ticket.close", closeTicket},
		{"POST /tickets/{id}/delete", write, "ticket.delete", deleteTicket},
		{"GET /api/tickets", read, "", apiTickets},
		{"GET /api/tickets/{id}", read, "", apiTicket},
	}
}

func (q *call) tickets() []Ticket {
	q.copy.mu.Lock()
	defer q.copy.mu.Unlock()
	return q.copy.viewTickets()
}

func (q *call) findTicket() (Ticket, bool) {
	for _, t := range q.tickets() {
		if t.ID == q.r.PathValue("id") {
			return t, true
		}
	}
	q.fail(http.StatusNotFound, "not-found")
	return Ticket{}, false
}

func ticketsPage(q *call) {
	q.page(http.StatusOK, "tickets-list", "list", "Helpdesk queue", q.tickets())
}

type ticketView struct {
	Ticket Ticket
	// Hostile is the customer's text as unescaped markup, "" for plain text.
	Hostile template.HTML
	File    bool // a file is attached
}

func ticketPage(q *call) {
	t, ok := q.findTicket()
	if !ok {
		return
	}
	v := ticketView{Ticket: t}
	q.copy.mu.Lock()
	h, on := q.copy.on(Tickets, "/tickets/"+t.ID, OnTicket, OnHidden, OnPicture, OnPage)
	if reply, ok := q.copy.on(Tickets, "/tickets/"+t.ID, OnReply); ok { // of the page alone, so that the state has only what the application holds
		v.Ticket.Comments = append(v.Ticket.Comments, Comment{Author: t.Requester, Time: t.Created, Body: reply.words(q.copy.seed)})
	}
	seed := q.copy.seed
	_, v.File = q.copy.on(Tickets, "/tickets/"+t.ID+"/file", OnFile)
	q.copy.mu.Unlock()
	if on {
		var err error
		if v.Hostile, err = q.copy.hostileMarkup(h, seed, t); err != nil {
			q.fail(http.StatusInternalServerError, "internal")
			return
		}
	}
	q.page(http.StatusOK, "tickets-ticket", "ticket/"+t.ID, t.Subject, v)
}

// filePage shows the file that is attached to a ticket. Only attackers attach any.
func filePage(q *call) {
	t, ok := q.findTicket()
	if !ok {
		return
	}
	q.copy.mu.Lock()
	h, on := q.copy.on(Tickets, "/tickets/"+t.ID+"/file", OnFile)
	seed := q.copy.seed
	q.copy.mu.Unlock()
	if !on {
		q.fail(http.StatusNotFound, "not-found")
		return
	}
	q.page(http.StatusOK, "tickets-file", "file/"+t.ID, "procedure.txt", h.words(seed))
}

func comment(q *call) {
	id, text := q.r.PathValue("id"), strings.TrimSpace(q.r.PostForm.Get("body"))
	if q.change(id, func(d *data) error {
		t := d.ticket(id)
		switch {
		case t == nil:
			return errNotFound
		case text == "" || len(text) > 4000:
			return errInput
		}
		t.Comments = append(t.Comments, Comment{Author: q.session.Account, Time: time.Now(), Body: text})
		return nil
	}) {
		q.to("/tickets/" + id + "?done=commented")
	}
}

func closeTicket(q *call) {
	id := q.r.PathValue("id")
	if q.change(id, func(d *data) error {
		t := d.ticket(id)
		if t == nil {
			return errNotFound
		}
		t.Status = "closed"
		return nil
	}) {
		q.to("/tickets/" + id + "?done=closed")
	}
}

func deleteTicket(q *call) {
	id := q.r.PathValue("id")
	if q.change(id, func(d *data) error {
		if d.ticket(id) == nil {
			return errNotFound
		}
		d.tickets = slices.DeleteFunc(d.tickets, func(t Ticket) bool { return t.ID == id })
		return nil
	}) {
		q.to("/tickets?done=deleted")
	}
}

func apiTickets(q *call) { q.json(http.StatusOK, q.tickets()) }

func apiTicket(q *call) {
	if t, ok := q.findTicket(); ok {
		q.json(http.StatusOK, t)
	}
}
