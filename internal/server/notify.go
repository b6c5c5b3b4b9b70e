package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/notify"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/resource"
)

// declaredOnly stands for a secret that is declared, where none is opened.
func declaredOnly(ref *resource.SecretRef) notify.Secret {
	if ref == nil {
		return nil
	}
	return func(context.Context) ([]byte, error) { return nil, errors.New("not opened here") }
}

// targets reads who is told what happens here; sealed opens what is sealed.
func targets(all []resource.TargetSpec, sealed func(*resource.SecretRef) notify.Secret) ([]notify.Target, error) {
	var out []notify.Target
	for i, o := range all {
		x := notify.Target{Name: o.Name, URL: o.URL, Events: o.Events, Local: o.Local, Roots: o.CA, Signature: sealed(o.Signature), Authorization: sealed(o.Authorization)}
		if m := o.Mail; m != nil {
			x.From, x.To, x.Username, x.Password = m.From, m.To, m.Username, sealed(m.Password)
		}
		if field, problem := x.Check(); field != "" {
			return nil, fmt.Errorf("tenant: spec.notify[%d].%s: %s", i, field, problem)
		}
		out = append(out, x)
	}
	return out, nil
}

// sealed opens a secret of a target when it is needed.
func (t *tenant) sealed(ref *resource.SecretRef) notify.Secret {
	if ref == nil {
		return nil
	}
	return func(context.Context) ([]byte, error) {
		t.mu.RLock()
		b := t.forTargets[ref.Sealed]
		t.mu.RUnlock()
		if b == nil {
			return nil, fmt.Errorf("no secret %q is stored: sallyport secret put %[1]s", ref.Sealed)
		}
		return t.seal.Open(kindSecret+"/"+ref.Sealed, b)
	}
}

// ofTargets are the secrets of targets in the store, sealed.
func ofTargets(tx record.Tx) (map[string][]byte, error) {
	out := map[string][]byte{}
	err := tx.List(kindSecret, func(name string, raw []byte) error {
		if !ofTarget(name) {
			return nil
		}
		var x Secret
		err := json.Unmarshal(raw, &x)
		out[name] = x.Sealed
		return err
	})
	return out, err
}

func ofTarget(secret string) bool { return strings.HasPrefix(secret, resource.PlaceNotify+"/") }

// tell makes the tenant's notifier.
func (t *tenant) tell() *notify.Notifier {
	return &notify.Notifier{
		Log:    t.log,
		Head:   func(ctx context.Context) (int64, error) { h, err := t.log.Head(ctx); return h.Size, err },
		Source: t.issuer.URL(),
		Targets: func() []notify.Target {
			out, _ := targets(t.current().notify, t.sealed) // checked when it was declared
			return out
		},
		Owned: func(person string) (out []string) {
			w := t.current()
			for _, name := range slices.Sorted(maps.Keys(w.agents)) {
				if a := w.agents[name]; a.owner == person || a.deputy == person {
					out = append(out, name)
				}
			}
			return out
		},
		Approvers: func(ctx context.Context, id string) (out []string, err error) {
			names, err := t.approvals.Asked(ctx, id)
			people := t.current().people
			for _, n := range names {
				if p := people[n]; p != nil && p.Email != "" {
					out = append(out, p.Email)
				}
			}
			slices.Sort(out)
			return slices.Compact(out), err
		},
		Stopped: t.srv.Err,
	}
}

// Notify says how telling each target of a tenant goes.
func (s *Server) Notify(tenantName string) ([]notify.Standing, error) {
	t, err := s.tenant(tenantName)
	if err != nil {
		return nil, err
	}
	return t.teller.Standings(), nil
}

// LateTargets counts those that have not got an event for a day.
func (s *Server) LateTargets() (n int) {
	for _, t := range s.all() {
		for _, x := range t.teller.Standings() {
			if x.Late {
				n++
			}
		}
	}
	return n
}
