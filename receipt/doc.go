// Package receipt verifies, offline and without trusting the operator, what
// Sallyport hands out: bundles of records, proofs, approvals, statements.
package receipt
