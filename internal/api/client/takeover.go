package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/sallyport-dev/sallyport/internal/api"
	"github.com/sallyport-dev/sallyport/internal/server"
)

// ActResult is what became of one action, in the computer surface's neutral form.
type ActResult struct {
	Type     string   `json:"type"`
	Status   string   `json:"status"` // done, or why not
	Actions  []string `json:"actions,omitempty"`
	Code     string   `json:"code,omitempty"`
	Layer    string   `json:"layer,omitempty"`
	Message  string   `json:"message,omitempty"`
	Next     string   `json:"next,omitempty"`
	Question string   `json:"question,omitempty"`
	Cursor   *struct {
		X int `json:"x"`
		Y int `json:"y"`
	} `json:"cursor,omitempty"`
	Image *struct {
		MediaType string `json:"mediaType"`
		Data      []byte `json:"data"`
	} `json:"image,omitempty"`
}

// Take takes a running session over.
func (c *Client) Take(ctx context.Context, id, reason string, d time.Duration) (server.TakeOver, error) {
	var out server.TakeOver
	return out, c.call(ctx, http.MethodPost, "tasks/"+seg(id)+"/take", nil, api.TakeRequest{Reason: reason, Seconds: int64(d / time.Second)}, &out)
}

// TakenOver says who has taken a session over; a Refusal not_taken if nobody has.
func (c *Client) TakenOver(ctx context.Context, id string) (server.TakeOver, error) {
	var out server.TakeOver
	return out, c.call(ctx, http.MethodGet, "tasks/"+seg(id)+"/take", nil, nil, &out)
}

// GiveBack gives a session back to its agent.
func (c *Client) GiveBack(ctx context.Context, id, reason string) (server.TakeOver, error) {
	var out server.TakeOver
	return out, c.call(ctx, http.MethodPost, "tasks/"+seg(id)+"/give-back", nil, api.GiveBackRequest{Reason: reason}, &out)
}

// Act does actions by hand, as {"actions": [...]}, in a session that was taken over.
func (c *Client) Act(ctx context.Context, id string, body []byte) ([]ActResult, error) {
	resp, err := c.send(ctx, http.MethodPost, "tasks/"+seg(id)+"/act", nil, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var out struct{ Results []ActResult }
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxAnswer)).Decode(&out); err != nil {
		return nil, fmt.Errorf("answer of the server: %w", err)
	}
	return out.Results, nil
}

// Screen is the picture that a person who has taken a session over sees, as PNG.
func (c *Client) Screen(ctx context.Context, id string) ([]byte, error) {
	all, err := c.Act(ctx, id, []byte(`{"actions":[{"type":"screenshot"}]}`))
	if err != nil {
		return nil, err
	}
	for _, r := range all {
		if r.Image != nil {
			return r.Image.Data, nil
		}
		if r.Code != "" {
			return nil, &Refusal{Status: http.StatusForbidden, Problem: server.Problem{Code: r.Code, Reason: r.Message, Next: r.Next}}
		}
	}
	return nil, errors.New("the server answered without a picture")
}
