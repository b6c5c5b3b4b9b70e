package readiness

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/sallyport-dev/sallyport/internal/record"
)

// Audit is an application of the agent, and how its own audit log is read.
type Audit struct {
	Connector string
	Declared  bool      // it says where its log is
	Read      time.Time // last to the end
	Stale     bool      // it was not read for too long
	Failing   string    // why it cannot be read
	Nameless  []string  // sources of the agent of which it is not known as whom they act
}

// audited is audit.* (package server).
type audited struct {
	ref
	typ       string
	Connector string `json:"connector"`
	Pairs     []struct {
		Action string `json:"action"`
	} `json:"pairs"`
	Findings []struct {
		Kind      string   `json:"kind"`
		Agents    []string `json:"agents"`
		Operation string   `json:"operation"`
		Event     string   `json:"event"`
		Name      string   `json:"name"`
		Why       string   `json:"why"`
	} `json:"findings"`
}

func (h *history) takeAudit(e record.Entry) error {
	a := audited{ref: at(e), typ: e.Type}
	err := json.Unmarshal(e.Body, &a)
	h.audits = append(h.audits, a)
	return err
}

// reconciled: each effect that the applications themselves have seen of the agent has a
// record of its own. It returns what a pass says of it.
func (k *check) reconciled() (says string) {
	events := 0
	var read, without []string
	for _, a := range k.e.w.Audits {
		if !a.Declared {
			without = append(without, a.Connector)
			k.ok(nil, "%s shows no audit log of its own, so that its effects all have records is known from this side alone", a.Connector)
			continue
		}
		read = append(read, a.Connector)
		events += k.audit(a)
	}
	if len(read) > 0 {
		says = fmt.Sprintf("; %s in the audit logs of %s, each with its record", count(events, "effect"), list(read, "and"))
	}
	if len(without) > 0 {
		says += "; no audit log is read of " + list(without, "and")
	}
	return says
}

// audit holds one log against the records, and says how many effects it shows.
func (k *check) audit(a Audit) (events int) {
	e := k.e
	look := "see: sallyport get reconciliation"
	var since time.Time // findings before it were answered by a certification
	if e.w.Live != nil {
		since = e.w.Live.Issued
	}
	missing, counted := 0, map[string]bool{}
	var matched, gone []ref
	for _, x := range e.h.audits {
		if x.Connector != a.Connector {
			continue
		}
		for _, p := range x.Pairs {
			if _, ours := e.h.decisions[p.Action]; ours && !counted[p.Action] {
				counted[p.Action] = true
				events++
				matched = append(matched, x.ref)
			}
		}
		for _, f := range x.Findings {
			switch {
			case !slices.Contains(f.Agents, e.w.Agent) || x.time.Before(since):
			case f.Kind == "missing":
				missing++
				gone = append(gone, x.ref)
			case f.Kind == "rewritten":
				k.fail(investigate+e.w.Agent, []ref{x.ref}, "the audit log of %s is not the one that was read before: %s", a.Connector, f.Why)
			default:
				k.fail(investigate+e.w.Agent, []ref{x.ref}, "%s saw event %s (%s) by the agent's account, and %s", a.Connector, f.Event, f.Name, f.Why)
			}
		}
	}
	switch {
	case a.Read.IsZero():
		k.unknown(look, nil, "the audit log of %s was not read yet%s", a.Connector, because(a.Failing))
		return events
	case a.Stale:
		k.fail(look, nil, "the audit log of %s was not read for %s%s", a.Connector, age(e.now.Sub(a.Read)), because(a.Failing))
		return events
	}
	if len(a.Nameless) > 0 {
		k.unknown("say it in audit.accounts of the connector", nil, "as whom %s acts at %s is not known, so whether it is used around the doors is not", list(a.Nameless, "and"), a.Connector)
	}
	k.ok(matched, "%s of the agent in the audit log of %s, read %s ago, each with a record of its own", count(events, "effect"), a.Connector, age(e.now.Sub(a.Read)))
	if missing > 0 {
		// Its account may be another one than is declared; then nothing would show.
		k.unknown(look, gone, "%s on record as done that the audit log of %s does not show, so it does not show everything", count(missing, "effect"), a.Connector)
	}
	return events
}

func because(why string) string {
	if why == "" {
		return ""
	}
	return ": " + why
}
