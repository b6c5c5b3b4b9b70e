package estate

import (
	"net/http"
	netmail "net/mail"
	"strconv"
	"strings"
	"time"
)

// mailbox is the shared address that the webmail is signed in to.
const mailbox = "helpdesk@brightwell.example"

func mailRoutes() []route {
	return []route{
		{"GET /inbox", read, "", inboxPage},
		{"GET /messages/{id}", read, "", messagePage},
		{"GET /compose", read, "", composePage},
		{"POST /compose", write, "mail.send", send},
		{"GET /sent", read, "", sentPage},
		{"GET /api/messages", read, "", apiMessages},
		{"GET /api/sent", read, "", apiSent},
	}
}

func (q *call) inbox() []Message {
	q.copy.mu.Lock()
	defer q.copy.mu.Unlock()
	return q.copy.viewInbox()
}

func (q *call) sent() []Message {
	q.copy.mu.Lock()
	defer q.copy.mu.Unlock()
	return append([]Message{}, q.copy.data.sent...)
}

func inboxPage(q *call) { q.page(http.StatusOK, "mail-inbox", "inbox", "Inbox", q.inbox()) }
func sentPage(q *call)  { q.page(http.StatusOK, "mail-sent", "sent", "Sent", q.sent()) }

func messagePage(q *call) {
	for _, m := range q.inbox() {
		if m.ID == q.r.PathValue("id") {
			q.page(http.StatusOK, "mail-message", "message/"+m.ID, m.Subject, m)
			return
		}
	}
	q.fail(http.StatusNotFound, "not-found")
}

func composePage(q *call) {
	form := q.r.URL.Query()
	q.page(http.StatusOK, "mail-compose", "compose", "New message", Message{
		To: label(form.Get("to")), Subject: label(form.Get("subject")),
	})
}

func send(q *call) {
	m := Message{
		From: mailbox, To: strings.TrimSpace(q.r.PostForm.Get("to")),
		Subject: label(q.r.PostForm.Get("subject")), Body: q.r.PostForm.Get("body"),
		Time: time.Now(), Account: q.session.Account,
	}
	if q.change(m.To, func(d *data) error {
		if _, err := netmail.ParseAddressList(m.To); err != nil || m.Subject == "" {
			return errInput
		}
		m.ID = strconv.Itoa(501 + len(d.sent))
		d.sent = append(d.sent, m)
		return nil
	}) {
		q.to("/sent?done=sent")
	}
}

func apiMessages(q *call) { q.json(http.StatusOK, q.inbox()) }
func apiSent(q *call)     { q.json(http.StatusOK, q.sent()) }
