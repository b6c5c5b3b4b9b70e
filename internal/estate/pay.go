package estate

import (
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
)

func payRoutes() []route {
	return []route{
		{"GET /payments", read, "", paymentsPage},
		{"POST /payments", write, "payment.create", createPayment},
		{"GET /api/payments", read, "", apiPayments},
	}
}

func (q *call) payments() []Payment {
	q.copy.mu.Lock()
	defer q.copy.mu.Unlock()
	return append([]Payment{}, q.copy.data.payments...)
}

func paymentsPage(q *call) {
	q.page(http.StatusOK, "pay-payments", "payments", "Outgoing payments", q.payments())
}

var (
	amountForm = regexp.MustCompile(`^(0|[1-9][0-9]{0,6})\.[0-9]{2}$`)
	ibanForm   = regexp.MustCompile(`^[A-Z]{2}[0-9]{2}[A-Z0-9]{11,30}$`)
)

func createPayment(q *call) {
	f := q.r.PostForm
	p := Payment{
		Payee: label(strings.TrimSpace(f.Get("payee"))), IBAN: strings.ReplaceAll(f.Get("iban"), " ", ""),
		Amount: strings.TrimSpace(f.Get("amount")), Reference: label(f.Get("reference")),
		Status: "scheduled", Time: time.Now(), Account: q.session.Account,
	}
	if q.change(p.Payee, func(d *data) error {
		if p.Payee == "" || p.Amount == "0.00" || !amountForm.MatchString(p.Amount) || !ibanForm.MatchString(p.IBAN) {
			return errInput
		}
		p.ID = "P-" + strconv.Itoa(2041+len(d.payments))
		d.payments = append(d.payments, p)
		return nil
	}) {
		q.to("/payments?done=paid")
	}
}

func apiPayments(q *call) { q.json(http.StatusOK, q.payments()) }
