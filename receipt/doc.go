// Package receipt verifies, offline and without trusting the operator, what
// Sallyport hands out: checkpoints, proofs, approvals, statements and bundles.
// It needs nothing of Sallyport but itself.
//
// # Bundles
//
// A bundle (bundle.sallyport) is one file of lines. Each line is one JSON
// object in RFC 8785 canonical form with a line feed after it, and its first
// or only member tells its kind. The kinds come in this order:
//
//	{"header":{...}}                   format, log, verifier key, checkpoint
//	{"record":{...}}                   a record, in a complete bundle
//	{"proof":["...",...],"record":{...}}  a record, in a selection
//	{"person":{"keys":[...],"name":"..."}}
//	{"key":{"name":"...","public":"..."}}   PKIX, base64
//	{"approval":{"name":"...","person":"...","signature":"...","statement":"..."}}
//	{"statement":{"envelope":"...","name":"..."}}  DSSE, base64
//	{"document":{"data":"...","digest":"...","name":"...","type":"..."}}
//	{"seal":"..."}
//
// A complete bundle has every record from 0 to the size of the checkpoint, and
// they give its root. A selection has an inclusion proof with each record
// (hashes from the leaf up, base64). Names rise strictly within a kind.
//
// The seal is an Ed25519 signature by the log's key over
//
//	"sallyport/bundle@v1\n" origin "\n" hex(SHA-256 of all lines before) "\n"
//
// so that no byte of the file can change. No origin starts with "sallyport/":
// a seal can never be read as a checkpoint, nor the other way round.
//
// What verification proves: the holder of the log's key vouched for the file,
// the records are in its log as of the checkpoint, the approvals were signed
// by the listed keys of the people named (SSH, FIDO included, or WebAuthn with
// its relying party and origins), the statements by a listed key. Of a statement that
// certifies an agent, Certification says which approvals and records are of it. That
// the listed keys are those people's is the log's word. That this is the right
// log is only as good as the verifier key given in Options: without one the
// report says so (Pinned).
package receipt
