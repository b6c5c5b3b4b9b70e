// Package signals tells others what ends here, and hears from others what ended
// there: security event tokens (RFC 8417) by the OpenID Shared Signals Framework
// 1.0, with the events of CAEP 1.0 and RISC 1.0.
//
// Invariants:
//   - An event that is received only takes authority away. What it barred is
//     given back by a person, never by an event.
//   - What an event ends is not dispatched any more before its record is written,
//     and its record is durable before the transmitter is told that it arrived.
//   - An event that takes something does so once: its issuer and jti are kept in
//     the transaction of its record for as long as it could be sent again.
//   - Events are taken one after the other, so that what they bar is the same in
//     memory and in the store.
//   - What is sent is derived from durable records, by a cursor that moves only
//     when the receiver has said that it has the event. A crash loses none and
//     may send one again, under the same jti.
//   - A receiver sees its own stream, and the boundary calls no other address
//     than the tenant declares for it.
//
// Order of a received event: form, signature and claims; the fence of the tasks
// that it ends, in memory; the record signal.received with the jti and the bar;
// the end of the tasks; the answer. A crash before the record leaves nothing, and
// the transmitter sends it again; after it, no task runs, and none that the bar
// covers can start.
//
// Not trusted: who delivers, and everything in a token until its signature is
// verified; of a verified one, anything but who ends.
package signals

import (
	"time"
)

// Types of events.
const (
	caep = "https://schemas.openid.net/secevent/caep/event-type/"
	risc = "https://schemas.openid.net/secevent/risc/event-type/"
	ssf  = "https://schemas.openid.net/secevent/ssf/event-type/"

	SessionRevoked   = caep + "session-revoked"
	CredentialChange = caep + "credential-change"
	RiskLevelChange  = caep + "risk-level-change"
	AccountDisabled  = risc + "account-disabled"
	Verification     = ssf + "verification"
)

// Limits of what is received.
const (
	// MaxAge is how old an event may be when it arrives, and how long its jti is
	// kept at least.
	MaxAge   = 24 * time.Hour
	skew     = 5 * time.Minute
	maxSET   = 64 << 10
	maxID    = 256 // bytes of a jti or a subject
	maxNames = 32  // audiences, identifiers of one subject
)

// effect is what an event about a person does here.
type effect string

const (
	// ends: their tasks end, and what they were asked before is not theirs to
	// answer any more. They go on with what is new.
	ends effect = "ends"
	// locks: as ends, and they are nobody here until a person reinstates them.
	locks effect = "locks"
	// noted: on record, and nothing else.
	noted effect = "noted"
)

// effects by type. Types that are not here are noted.
var effects = map[string]effect{
	SessionRevoked:                  ends,
	CredentialChange:                ends, // but not of one that was added
	risc + "sessions-revoked":       ends,
	risc + "credential-compromise":  locks,
	AccountDisabled:                 locks,
	risc + "account-purged":         locks,
	caep + "token-claims-change":    noted,
	RiskLevelChange:                 noted,
	caep + "assurance-level-change": noted,
	Verification:                    noted,
}

// effect of an event.
func (s SET) effect() effect {
	e, ok := effects[s.Type]
	if !ok || s.Type == CredentialChange && s.member("change_type") == "create" {
		return noted
	}
	return e
}
