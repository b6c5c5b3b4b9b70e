// Package database is the door to a PostgreSQL database: an address in the agent's
// namespace at which it connects with no password, and behind which the boundary
// signs in as the role that was made for the task.
//
// The order for one connection:
//
//  1. strict reading of the startup message; what asks for another role, another
//     database or replication is refused and recorded
//  2. gate: database.connect on the credential source, with a digest over address,
//     role and session parameters; it decides, records and gives a permit
//  3. dispatch: digest again, permit, sign in upstream, then bytes both ways
//
// Invariants:
//   - The client never sees the password, nor a key by which the server would
//     cancel what is not its own.
//   - A connection lasts as long as its dispatch: when the task ends, both sockets
//     are closed and the statement that runs is cancelled before End returns.
//
// Not decided here: single statements. What a connection may do is bounded by the
// role's own privileges, which the declaration of the source names and people
// approved; the server's log has the statements, under a role that names the task.
//
// Not trusted: the client. After the sign-in its bytes are passed on as they are,
// so that the server alone reads them.
package database
