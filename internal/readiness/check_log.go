package readiness

func checkLog(k *check) {
	e, c := k.e, k.e.checked
	const next = "stop the server and run: sallyport ledger verify"
	for _, p := range c.problems {
		k.fail(next, nil, "%s", p)
	}
	if !c.verified {
		k.unknown(next, nil, "the log was not verified")
	}
	for i, b := range e.h.bad {
		k.unknown(next, e.h.badAt[i:i+1], "a record about this agent cannot be read: %s", b)
	}
	switch {
	case c.size == 0:
		k.fail(next, nil, "no signed checkpoint of this log was verified")
	case !c.covers:
		k.fail(next, nil, "the checkpoint is over %d records, and %d were read", c.size, e.h.size)
	case c.open && c.fetched.Sub(c.oldest.time) > behind:
		k.fail("restore the ledger's signer", []ref{c.oldest}, "the checkpoint is %s behind: record %d is not covered", age(c.fetched.Sub(c.oldest.time)), c.oldest.seq)
	default:
		k.ok([]ref{e.h.first, c.at}, "records 0 to %d were hashed again and give the root that %s signed", c.size-1, c.Origin)
	}
	const declare = "declare a Retention and name it in the Tenant"
	switch {
	case e.w.Retention == "":
		k.fail(declare, nil, "no retention is named: nobody decided how long payloads are kept")
	case e.w.RetentionDays <= 0 && !e.w.LegalHold:
		k.fail(declare, nil, "retention %s keeps nothing", e.w.Retention)
	case e.w.LegalHold:
		k.ok(e.h.declared("Retention/"+e.w.Retention), "payloads are under legal hold (retention %s); records are kept for ever", e.w.Retention)
	default:
		k.ok(e.h.declared("Retention/"+e.w.Retention), "payloads are kept for %s (retention %s); records are kept for ever", count(e.w.RetentionDays, "day"), e.w.Retention)
	}
	k.pass("all %d records verify under a signed checkpoint, and retention %s is named", c.size, e.w.Retention)
}

// declared is where the newest version of a resource is on record.
func (h *history) declared(id string) []ref {
	all := h.applied[id]
	if len(all) == 0 {
		return nil
	}
	return []ref{all[len(all)-1].ref}
}
