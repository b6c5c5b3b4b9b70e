package server

import (
	"context"
	"encoding/json"
	"strconv"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/certify"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/resource"
	"github.com/sallyport-dev/sallyport/internal/watch"
)

// Behaviour is how an agent behaves in production under the certification in force,
// for people. Nothing is decided by it.
type Behaviour struct {
	Agent         string                `json:"agent"`
	Certification string                `json:"certification,omitempty"` // in force
	Issued        time.Time             `json:"issued,omitzero"`
	OnChange      resource.OnChange     `json:"onChange"`
	Canary        *resource.Canary      `json:"canary,omitempty"`
	Canaries      []CanaryStanding      `json:"canaries"`
	Capabilities  []CapabilityBehaviour `json:"capabilities"`
}

// CanaryStanding is how one canary goes.
type CanaryStanding struct {
	watch.Canary
	Running string    `json:"running,omitempty"` // the task
	Next    time.Time `json:"next,omitzero"`
}

// CapabilityBehaviour are the rates of one capability.
type CapabilityBehaviour struct {
	Capability string         `json:"capability"`
	Trials     int            `json:"trials"`
	Tasks      int            `json:"tasks"`
	Rates      []RateStanding `json:"rates"`
	Changed    *watch.Change  `json:"changed,omitempty"`
	Text       string         `json:"text,omitempty"` // of the change
}

// RateStanding is one rate with the 95 % intervals of its shares (Wilson).
type RateStanding struct {
	watch.Rate
	TrialsLower string `json:"trialsLower"`
	TrialsUpper string `json:"trialsUpper"`
	TasksLower  string `json:"tasksLower"`
	TasksUpper  string `json:"tasksUpper"`
}

// Good says that nothing speaks against the agent.
func (b *Behaviour) Good() bool {
	for _, c := range b.Canaries {
		if c.Result != "" && c.Result != watch.Passed {
			return false
		}
	}
	for _, c := range b.Capabilities {
		if c.Changed != nil {
			return false
		}
	}
	return true
}

// Behaviour shows how an agent behaves in production.
func (s *Server) Behaviour(ctx context.Context, tenantName, agentName string) (*Behaviour, error) {
	t, err := s.tenant(tenantName)
	if err != nil {
		return nil, err
	}
	a := t.current().agents[agentName]
	if a == nil {
		return nil, problem(NotFound, "no_such_agent", "there is no agent "+strconv.Quote(agentName), "see: sallyport get Agent")
	}
	b := &Behaviour{Agent: agentName, OnChange: resource.OnChangeAlarm, Canaries: []CanaryStanding{}, Capabilities: []CapabilityBehaviour{}}
	if x := a.spec.Watch; x != nil {
		if b.Canary = x.Canary; x.OnChange != "" {
			b.OnChange = x.OnChange
		}
	}
	c, err := t.certs.Live(agentName, action.Production)
	if err != nil {
		return b, nil // nothing is in production
	}
	b.Certification, b.Issued = c.ID, c.Issued
	if err := t.canariesNow(ctx, c, b); err != nil {
		return nil, err
	}
	return b, t.ratesNow(ctx, c, b)
}

func (t *tenant) canariesNow(ctx context.Context, c certify.Certification, b *Behaviour) error {
	if b.Canary == nil {
		return nil
	}
	state, err := t.canaryState(ctx, c)
	if err != nil {
		return err
	}
	for _, name := range b.Canary.Scenarios {
		k, ok := state.Scenarios[name]
		if !ok {
			k.Scenario = name
		}
		x := CanaryStanding{Canary: k, Next: k.Due(time.Now(), c.Issued, b.Canary.Every())}
		if state.Scenario == name {
			x.Running = state.Task
		}
		b.Canaries = append(b.Canaries, x)
	}
	return nil
}

func (t *tenant) ratesNow(ctx context.Context, c certify.Certification, b *Behaviour) error {
	return t.log.View(ctx, func(tx record.Tx) error {
		b.Capabilities = []CapabilityBehaviour{}
		return tx.List(kindBehaviour, func(_ string, raw []byte) error {
			var s watch.State
			if err := json.Unmarshal(raw, &s); err != nil {
				return err
			}
			if s.Agent != c.Agent || s.Certification != c.ID {
				return nil
			}
			x := CapabilityBehaviour{Capability: s.Capability, Trials: s.Trials, Tasks: s.Tasks, Changed: s.Changed}
			if s.Changed != nil {
				x.Text = s.Changed.Text()
			}
			for _, r := range s.Rates() {
				y := RateStanding{Rate: r}
				y.TrialsLower, y.TrialsUpper = certify.Wilson(r.Trials.With, r.Trials.Tasks)
				y.TasksLower, y.TasksUpper = certify.Wilson(r.Tasks.With, r.Tasks.Tasks)
				x.Rates = append(x.Rates, y)
			}
			b.Capabilities = append(b.Capabilities, x)
			return nil
		})
	})
}

// RunCanary runs one canary of an agent now, and returns what came of it.
func (s *Server) RunCanary(ctx context.Context, tenantName string, c Caller, agentName, scenario string) (watch.Canary, error) {
	var none watch.Canary
	t, err := s.tenant(tenantName)
	if err != nil {
		return none, err
	}
	if _, err := t.require(c, "run a canary", resource.RoleOwner, resource.RolePolicy, resource.RoleOperations); err != nil {
		return none, err
	}
	if t.current().agents[agentName] == nil {
		return none, problem(NotFound, "no_such_agent", "there is no agent "+strconv.Quote(agentName), "see: sallyport get Agent")
	}
	return t.runCanary(ctx, agentName, scenario, false)
}
