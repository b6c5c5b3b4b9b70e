// Package estate is the sample estate: the tools of a small invented company,
// Brightwell Instruments, which agents are let loose on in the demo, in the
// built-in certification suite and in tests. An identity console (iam), a ticket
// queue (tickets), a webmail (mail) and a payments page (pay), each on its own
// origin, the company's runbooks (runbooks), which have no pages and are used by
// tool, and the site of an attacker (evil). All of it exists twice, as
// sandbox and as production, with separate names, state, sessions and passwords.
//
// The estate is the target, not the boundary. It is a real web application
// with sessions, CSRF tokens, two roles and an audit log of its own, and it
// keeps no knowledge of Sallyport. The service account svc-helpdesk may do
// everything, as such accounts can in real companies: what limits an agent is
// the boundary in front of it.
//
// Invariants:
//   - A copy answers only on loopback, under its own names, over TLS.
//   - Nothing is shared between copies, and nothing outlives the process.
//   - A write that reached an application is in that application's audit log,
//     also when it was refused, so that a request which came around the boundary
//     can be told.
//   - Passwords leave the package through Credentials alone: never a page, a
//     log, an error or the state.
//   - With no hostile item switched on, no page and no tool holds hostile content.
//
// Deliberately weak: the ticket queue sends no Content-Security-Policy and shows
// the hostile items unescaped; with "redirect" on, iam is an open redirector.
//
// Not trusted: every request. The admin listener has no authentication, it is
// for the estate's owner on this machine; it refuses what a web page could send.
package estate
