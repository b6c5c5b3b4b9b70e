package signals

import (
	"encoding/json"
	"strconv"

	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/record"
)

// supported are the events that this transmitter sends.
var supported = []string{SessionRevoked, CredentialChange, RiskLevelChange}

// outgoing is one event of a stream, as it follows from one record.
type outgoing struct {
	seq    int64
	jti    string
	event  string
	agent  string // whom it is about, and task
	task   string
	claims map[string]any // without iat, and without the subject that these two are
}

// derive makes the event of a record for a stream, if it has one:
//
//	task.closing of a task that ran   session-revoked of the task's SPIFFE ID
//	lease.revoked, identity.revoked   credential-change, revoke, of the task's
//	certification.lapsed, .issued     risk-level-change of the agent's
//	stream.verify of this stream      verification
//
// The same record always gives the same event, under the same jti; only iat says
// when it was sent. Nothing that a
// person, a page or a model wrote is in it: of reasons only the code.
func (s *Sender) derive(st Stream, e record.Entry) (outgoing, bool) {
	var b struct {
		ID, State, Code, Stream, Source string
		VerifyState                     string `json:"verify"`
		Started                         string
		Lapse                           struct{ Code string }
	}
	at := map[string]any{"event_timestamp": e.Time.Unix()}
	o := outgoing{seq: e.Seq, agent: e.Agent, task: e.Task}
	var payload, subject map[string]any
	switch e.Type {
	case "task.closing", "lease.revoked", "identity.revoked", "certification.lapsed", "certification.issued", "stream.verify":
		if json.Unmarshal(e.Body, &b) != nil {
			return o, false
		}
	}
	switch e.Type {
	case "task.closing":
		if b.Started == "" { // it never had anything
			return o, false
		}
		o.event, payload = SessionRevoked, map[string]any{"initiating_entity": "policy", "reason_admin": map[string]any{"en": b.Code}}
	case "lease.revoked":
		o.event, payload = CredentialChange, map[string]any{"credential_type": "lease", "change_type": "revoke", "friendly_name": b.Source, "initiating_entity": "policy"}
	case "identity.revoked":
		o.event, payload = CredentialChange, map[string]any{"credential_type": "token", "change_type": "revoke", "initiating_entity": "user"}
	case "certification.lapsed":
		o.event, payload = RiskLevelChange, map[string]any{"principal": "USER", "current_level": "HIGH", "previous_level": "LOW",
			"risk_reason": "certification lapsed: " + b.Lapse.Code, "initiating_entity": "policy"}
	case "certification.issued":
		o.event, payload = RiskLevelChange, map[string]any{"principal": "USER", "current_level": "LOW", "risk_reason": "certified", "initiating_entity": "policy"}
	case "stream.verify":
		if b.Stream != st.ID {
			return o, false
		}
		o.event, payload, subject = Verification, map[string]any{}, map[string]any{"format": "opaque", "id": st.ID}
		if b.VerifyState != "" {
			payload["state"] = b.VerifyState
		}
		at = nil
	default:
		return o, false
	}
	if o.event != Verification && !st.wants(o.event) {
		return o, false
	}
	for k, v := range at {
		payload[k] = v
	}
	seq := strconv.FormatInt(e.Seq, 10)
	// The record's digest tells apart those of one number before and after an older
	// ledger was restored.
	o.jti = string(canon.Digest([]byte(s.URL + "\x00" + st.ID + "\x00" + seq + "\x00" + string(canon.Digest(e.Raw)))))[len("sha256:"):][:40]
	txn := seq
	if e.Task != "" {
		txn = e.Task // what ended together says so
	}
	o.claims = map[string]any{"iss": s.URL, "jti": o.jti, "aud": st.Receiver, "txn": txn, "events": map[string]any{o.event: payload}}
	if subject != nil {
		o.claims["sub_id"] = subject
	}
	return o, true
}
