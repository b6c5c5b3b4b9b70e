package api

import (
	"encoding/json"
	"net/http"
	"time"
)

// TakeRequest is the body of POST tasks/ID/take.
type TakeRequest struct {
	Reason  string `json:"reason"`
	Seconds int64  `json:"seconds,omitempty"` // how long; 0 is the server's choice
}

// GiveBackRequest is the body of POST tasks/ID/give-back.
type GiveBackRequest struct {
	Reason string `json:"reason,omitempty"`
}

// takeOverRoutes are for a person who takes a session over. What they do comes in
// the neutral form of the computer surface, and is answered in it.
func (a *api) takeOverRoutes(mux *http.ServeMux) {
	a.handle(mux, "GET "+v1+"tasks/{id}/take", func(c *call) (any, error) { return a.s.TakenOver(c.tenant, c.PathValue("id")) })
	a.handle(mux, "POST "+v1+"tasks/{id}/take", func(c *call) (any, error) {
		var in TakeRequest
		if err := c.read(maxRequest, &in); err != nil {
			return nil, err
		}
		return a.s.Take(detached(c), c.tenant, c.caller, c.PathValue("id"), in.Reason, time.Duration(in.Seconds)*time.Second)
	})
	a.handle(mux, "POST "+v1+"tasks/{id}/give-back", func(c *call) (any, error) {
		var in GiveBackRequest
		if err := c.read(maxRequest, &in); err != nil {
			return nil, err
		}
		return a.s.GiveBack(detached(c), c.tenant, c.caller, c.PathValue("id"), in.Reason)
	})
	a.handle(mux, "POST "+v1+"tasks/{id}/act", func(c *call) (any, error) {
		b, err := c.body(maxRequest)
		if err != nil {
			return nil, err
		}
		out, err := a.s.ActInPerson(c.Context(), c.tenant, c.caller, c.PathValue("id"), b)
		return json.RawMessage(out), err
	})
}
