// Package egress is door 2: the only way out of the browser and of the agent
// harness's own HTTP client. It is a forward proxy that reads every request
// whole, brings it into one canonical form, asks the gate, and sends exactly
// what was decided.
//
// The order for one request:
//
//  1. strict reading: what two parsers could read differently is refused, and
//     a compressed body is decided on and sent as what it decompresses to
//  2. recognition: a connector says which operation of which application it is
//  3. outgoing request: built once from the canonical form; its digest is the
//     action's digest
//  4. gate: decides, records, and gives a permit
//  5. dispatch: the digest is computed again over the outgoing request, the
//     permit is consumed, cookies are added, secrets are put in the place of their
//     placeholders, credentials into their fields, the request is sent once
//  6. response: the boundary keeps its cookies, known secrets are replaced
//
// Invariants:
//   - Nothing is sent, and no name is resolved, for an origin that no connector
//     of the stage owns, whatever the gate says.
//   - Method, origin, path, query, headers and body that the origin receives are
//     those of the digest, plus what the Injector adds, and with a secret in each
//     slot of the body that recognition found (Recognized.Secrets) and a credential in
//     each header field that it names (Recognized.Takes). A placeholder in any other
//     place of any request is refused, in whatever encoding.
//   - A credential is sent at the origin that it was recognised for and leased for, and
//     nowhere else: a redirect is another request, decided anew, without it. A client
//     certificate has connections of its own.
//   - The page and the harness never see a credential that the Injector added:
//     Set-Cookie of a brokered origin stays here and reflections are replaced.
//   - Every address that is dialled was checked after it was resolved and is not
//     resolved again in between.
//   - When the action's context ends, both sockets of it are closed.
//   - An answer, and all answers of a session, have an end: behind it the client
//     sees a broken connection, never a whole answer.
//
// Header policy. Removed before deciding, always: hop-by-hop fields, Proxy-*,
// Sallyport-* and X-Sallyport-*, fields with an underscore in their name, fields
// by which a client speaks for an intermediary (Forwarded, X-Forwarded-*,
// X-Real-Ip, Via), fields that override the method or the target, or choose the
// operation (recorded in the parameter "stripped", which no grant names), Expect, Trailer, and Accept-Encoding (replaced).
// Of a harness's own Prefer the preference wait is removed (and obeyed: RFC 7240).
// Removed on a brokered origin: Cookie, Authorization, and Range and If-Range,
// by which a reflected secret could be read in pieces. Refused: what a client sends
// in a field that takes a credential, unless it is the placeholder. Everything else is sent
// and is part of the digest.
//
// What is not sent as it came: an empty query loses its "?", a host its trailing
// dot and default port, a body its Content-Encoding and its chunks and trailers;
// a fragment is refused.
//
// Not trusted: everything the client sends, Sec-Fetch-* included, and everything
// an origin answers. A crash cuts the connections and leaves nothing on disk:
// the authority's keys, the leaf key and the pools live in memory only.
package egress
