package api

import (
	"context"
	"encoding/json"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/contain"
	"github.com/sallyport-dev/sallyport/internal/resource"
	"github.com/sallyport-dev/sallyport/internal/server"
)

const v1 = "/api/v1/"

// handler is everything that the socket serves.
func (a *api) handler() http.Handler {
	mux := http.NewServeMux()
	a.handle(mux, "POST "+v1+"apply", a.apply)
	a.handle(mux, "GET "+v1+"resources", a.resources)
	a.handle(mux, "GET "+v1+"resources/{kind}", a.resources)
	a.handle(mux, "GET "+v1+"resources/{kind}/{name}", a.resources)
	a.handle(mux, "GET "+v1+"changes/{kind}/{name}", a.changes)
	a.handle(mux, "GET "+v1+"changes/{kind}/{name}/{version}", a.changes)
	a.handle(mux, "POST "+v1+"tasks", a.openTask)
	a.handle(mux, "GET "+v1+"tasks", func(c *call) (any, error) { return a.s.Tasks(c.Context(), c.tenant) })
	a.handle(mux, "GET "+v1+"tasks/{id}", func(c *call) (any, error) { return a.s.Task(c.Context(), c.tenant, c.PathValue("id")) })
	a.handle(mux, "POST "+v1+"tasks/{id}/close", func(c *call) (any, error) {
		return a.s.CloseTask(detached(c), c.tenant, c.caller, c.PathValue("id"))
	})
	a.takeOverRoutes(mux)
	a.approvalRoutes(mux)
	a.handle(mux, "POST "+v1+"revoke", a.revoke)
	a.handle(mux, "POST "+v1+"certifications", a.certify)
	a.handle(mux, "GET "+v1+"certifications", func(c *call) (any, error) {
		return list(a.s.Certifications(c.Context(), c.tenant, c.URL.Query().Get("agent")))
	}, "agent")
	a.handle(mux, "PUT "+v1+"secrets/{name...}", a.putSecret)
	a.handle(mux, "GET "+v1+"keys", func(*call) (any, error) { return a.s.KeyRing(), nil })
	a.handle(mux, "GET "+v1+"secrets", func(c *call) (any, error) { return list(a.s.Secrets(c.Context(), c.tenant)) })
	a.handle(mux, "GET "+v1+"doctor", func(c *call) (any, error) {
		a.doctor.Lock()
		defer a.doctor.Unlock()
		return NewDoctor(contain.Doctor(c.Context())), nil
	})
	a.handle(mux, "GET "+v1+"leases", func(c *call) (any, error) { return list(a.s.Leases(c.Context(), c.tenant)) })
	a.handle(mux, "GET "+v1+"readiness/{agent}", func(c *call) (any, error) {
		return a.s.Readiness(c.Context(), c.tenant, c.PathValue("agent"), c.URL.Query().Get("probe") == "true")
	}, "probe")
	a.handle(mux, "GET "+v1+"boundary/{agent}", func(c *call) (any, error) {
		return a.s.Boundary(c.Context(), c.tenant, c.PathValue("agent"), c.URL.Query().Get("against"))
	}, "against")
	a.handle(mux, "GET "+v1+"behaviour/{agent}", func(c *call) (any, error) {
		return a.s.Behaviour(c.Context(), c.tenant, c.PathValue("agent"))
	})
	a.handle(mux, "POST "+v1+"behaviour/{agent}/canaries/{scenario}", func(c *call) (any, error) {
		return a.s.RunCanary(c.Context(), c.tenant, c.caller, c.PathValue("agent"), c.PathValue("scenario"))
	})
	a.handle(mux, "GET "+v1+"reconciliation", func(c *call) (any, error) { return list(a.s.Reconciliations(c.Context(), c.tenant)) })
	a.handle(mux, "POST "+v1+"reconciliation", func(c *call) (any, error) {
		return list(a.s.Reconcile(c.Context(), c.tenant, c.caller, c.URL.Query().Get("connector")))
	}, "connector")
	a.handle(mux, "GET "+v1+"identity", func(c *call) (any, error) { return a.s.Identity(c.Context(), c.tenant) })
	a.handle(mux, "POST "+v1+"identity/rotate", func(c *call) (any, error) { return a.s.RotateKeys(detached(c), c.tenant, c.caller) })
	a.handle(mux, "POST "+v1+"identity/refresh", func(c *call) (any, error) { return a.s.RefreshBundles(c.Context(), c.tenant, c.caller) })
	a.handle(mux, "POST "+v1+"identity/reinstate", func(c *call) (any, error) {
		var in ReinstateRequest
		if err := c.read(maxRequest, &in); err != nil {
			return nil, err
		}
		return a.s.Reinstate(detached(c), c.tenant, c.caller, in.Person, in.Reason, in.BreakGlass)
	})
	a.handle(mux, "GET "+v1+"separation", func(c *call) (any, error) { return list(a.s.Separation(c.tenant)) })
	a.handle(mux, "POST "+v1+"policy/replay", a.replay)
	a.handle(mux, "GET "+v1+"notify", func(c *call) (any, error) { return list(a.s.Notify(c.tenant)) })
	a.ledgerRoutes(mux)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		answer(w, http.StatusNotFound, notFound("no_such_route", "there is no "+r.Method+" "+r.URL.Path, "see the documentation of the API"))
	})
	return mux
}

// list keeps an empty list from being null.
func list[T any](v []T, err error) ([]T, error) {
	if v == nil {
		v = []T{}
	}
	return v, err
}

// detached is a context that outlives the caller: what ends authority or changes
// what is in force is finished, also when whoever asked for it went away.
func detached(c *call) context.Context { return context.WithoutCancel(c.Context()) }

func (a *api) apply(c *call) (any, error) {
	var in ApplyRequest
	if err := c.read(maxApply, &in); err != nil {
		return nil, err
	}
	all, err := received(in.Resources)
	if err != nil {
		return nil, err
	}
	done, err := a.s.ApplyFrom(detached(c), c.caller, all, in.Claimed)
	return ApplyResponse{done}, err
}

func received(in []canon.Value) ([]resource.Resource, error) {
	docs := make([][]byte, len(in))
	for i, r := range in {
		docs[i] = r
	}
	all, err := resource.Receive(docs)
	if err != nil {
		return nil, invalid("invalid_resources", err.Error(), "correct the files and apply again; nothing was applied")
	}
	return all, nil
}

// replay decides again what is on record. One at a time is enough.
func (a *api) replay(c *call) (any, error) {
	var in ReplayRequest
	if err := c.read(maxApply, &in); err != nil {
		return nil, err
	}
	all, err := received(in.Resources)
	if err != nil {
		return nil, err
	}
	a.replaying.Lock()
	defer a.replaying.Unlock()
	return a.s.Replay(c.Context(), c.tenant, c.caller, all, in.Filter)
}

func (a *api) resources(c *call) (any, error) {
	kind := c.PathValue("kind")
	if kind != "" {
		if kind = Kind(kind); kind == "" {
			return nil, invalid("unknown_kind", "there is no such kind", "use one of "+strings.Join(resource.Kinds(), ", "))
		}
	}
	out, err := a.s.Resources(c.tenant, kind, c.PathValue("name"))
	if out == nil {
		out = []json.RawMessage{}
	}
	return out, err
}

// changes lists the versions of a resource, or shows one.
func (a *api) changes(c *call) (any, error) {
	kind := Kind(c.PathValue("kind"))
	if kind == "" {
		return nil, invalid("unknown_kind", "there is no such kind", "use one of "+strings.Join(resource.Kinds(), ", "))
	}
	if c.PathValue("version") == "" {
		return list(a.s.Changes(c.Context(), c.tenant, kind, c.PathValue("name")))
	}
	n, err := strconv.Atoi(c.PathValue("version"))
	if err != nil || n < 1 {
		return nil, invalid("invalid_version", "a version is a number from 1 on", "see: sallyport get changes "+kind+"/"+c.PathValue("name"))
	}
	return a.s.Version(c.Context(), c.tenant, kind, c.PathValue("name"), n)
}

// Kind is the kind that a person means, in any case and in plural, or "".
func Kind(s string) string {
	s = strings.ToLower(s)
	for _, k := range resource.Kinds() {
		l := strings.ToLower(k)
		plural := l + "s"
		if strings.HasSuffix(l, "y") {
			plural = l[:len(l)-1] + "ies"
		}
		if slices.Contains([]string{l, plural, l + "es"}, s) || k == resource.KindPerson && s == "people" {
			return k
		}
	}
	return ""
}

func (a *api) openTask(c *call) (any, error) {
	var in server.Intent
	if err := c.read(maxRequest, &in); err != nil {
		return nil, err
	}
	return a.s.OpenTask(c.Context(), c.tenant, c.caller, in)
}

// revoke answers when everything in the scope is ended, or says what is not.
// The fence stands either way.
func (a *api) revoke(c *call) (any, error) {
	var in RevokeRequest
	if err := c.read(maxRequest, &in); err != nil {
		return nil, err
	}
	ended, err := a.s.Revoke(detached(c), c.tenant, c.caller, in.Scope, in.Reason)
	var open []string
	for _, x := range ended {
		if !x.State.Over() {
			open = append(open, x.ID)
		}
	}
	if err != nil && len(open) > 0 {
		a.log.Error("revocation is not finished", "scope", in.Scope, "tasks", open, "err", err)
		return nil, &status{http.StatusInternalServerError, &server.Problem{Code: "revocation_unfinished",
			Reason: "nothing of the scope is dispatched any more, but these tasks are still ending: " + strings.Join(open, ", "),
			Next:   "it goes on by itself; see: sallyport task show ID"}}
	}
	return list(ended, err)
}

func (a *api) putSecret(c *call) (any, error) {
	b, err := c.body(maxSecret)
	if err != nil {
		return nil, err
	}
	name := c.PathValue("name")
	return map[string]string{"name": name}, a.s.PutSecret(c.Context(), c.tenant, c.caller, name, b)
}

// progressLimit is how long who runs a certification may take to read a line of it: trials
// wait for that, and canaries for trials.
const progressLimit = 10 * time.Second

// certify streams progress. The status is decided by what comes first: a
// refusal before the first trial is an ordinary one.
func (a *api) certify(c *call) (any, error) {
	var in CertifyRequest
	if err := c.read(maxRequest, &in); err != nil {
		return nil, err
	}
	begun := false
	rc := http.NewResponseController(c.w)
	send := func(l CertifyLine) {
		if !begun {
			c.w.Header().Set("Content-Type", "application/x-ndjson")
			c.w.Header().Set("Cache-Control", "no-store")
			begun = true
		}
		_ = rc.SetWriteDeadline(time.Now().Add(progressLimit)) // a writer without deadlines has nobody behind it
		e := json.NewEncoder(c.w)
		e.SetEscapeHTML(false)
		e.Encode(l)
		rc.Flush()
	}
	cert, err := a.s.Certify(c.Context(), c.tenant, c.caller, in.Agent, in.Suite, in.Changed, func(s string) { send(CertifyLine{Progress: s}) })
	switch {
	case err != nil && !begun:
		return nil, err
	case err != nil:
		p, _ := a.problem(c.Context(), "certify", err)
		send(CertifyLine{Problem: p})
	default:
		send(CertifyLine{Certification: &cert})
	}
	return written, nil
}
