package provider

import (
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"unicode/utf8"
)

// The Messages API, as far as the script needs it.

type request struct {
	Model     string    `json:"model"`
	MaxTokens int       `json:"max_tokens"`
	Stream    bool      `json:"stream"`
	Tools     []tool    `json:"tools"`
	Messages  []message `json:"messages"`
}

type tool struct {
	Type        string `json:"type"`
	Name        string `json:"name"`
	Description string `json:"description"`
}

type message struct {
	Role    string          `json:"role"`
	Content json.RawMessage `json:"content"`
}

type block struct {
	Type      string          `json:"type"`
	Text      string          `json:"text"`
	ID        string          `json:"id"`
	Name      string          `json:"name"`
	ToolUseID string          `json:"tool_use_id"`
	IsError   bool            `json:"is_error"`
	Content   json.RawMessage `json:"content"`
	Source    struct {
		Type      string `json:"type"`
		MediaType string `json:"media_type"`
		Data      []byte `json:"data"`
	} `json:"source"`
}

// blocks reads content that is a string or an array of blocks.
func blocks(raw json.RawMessage) ([]block, error) {
	var text string
	if len(raw) == 0 {
		return nil, nil
	}
	if json.Unmarshal(raw, &text) == nil {
		return []block{{Type: "text", Text: text}}, nil
	}
	var out []block
	if err := json.Unmarshal(raw, &out); err != nil {
		return nil, fmt.Errorf("messages: content is neither a string nor an array of blocks")
	}
	return out, nil
}

// reply is what the script decided: a text, and a call of another tool, actions or the
// end.
type reply struct {
	text    string
	tool    string           // called before the actions; "" is none
	input   map[string]any   // of it
	actions []map[string]any // inputs of the computer tool
}

// answer is a whole message of the provider.
type answer struct {
	ID         string         `json:"id"`
	Type       string         `json:"type"`
	Role       string         `json:"role"`
	Model      string         `json:"model"`
	Content    []any          `json:"content"`
	StopReason *string        `json:"stop_reason"`
	StopSeq    *string        `json:"stop_sequence"`
	Usage      map[string]int `json:"usage"`
}

type textBlock struct {
	Type string `json:"type"`
	Text string `json:"text"`
}

type useBlock struct {
	Type  string         `json:"type"`
	ID    string         `json:"id"`
	Name  string         `json:"name"`
	Input map[string]any `json:"input"`
}

func compose(model string, turn int, r reply) answer {
	stop := "end_turn"
	m := answer{ID: fmt.Sprintf("msg_script_%d", turn), Type: "message", Role: "assistant", Model: model,
		Content: []any{textBlock{"text", r.text}}, StopReason: &stop, Usage: map[string]int{"input_tokens": 1, "output_tokens": 1}}
	if r.tool != "" {
		stop = "tool_use"
		m.Content = append(m.Content, useBlock{"tool_use", fmt.Sprintf("toolu_script_%d_tool", turn), r.tool, r.input})
	}
	for i, in := range r.actions {
		stop = "tool_use"
		m.Content = append(m.Content, useBlock{"tool_use", fmt.Sprintf("toolu_script_%d_%d", turn, i), "computer", in})
	}
	return m
}

func fail(w http.ResponseWriter, status int, kind, text string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	writeJSON(w, map[string]any{"type": "error", "error": map[string]string{"type": kind, "message": text}})
}

func writeJSON(w http.ResponseWriter, v any) {
	// The only error left is a client that went away.
	_ = json.NewEncoder(w).Encode(v)
}

func writeWhole(w http.ResponseWriter, m answer) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Request-Id", "req_"+m.ID)
	writeJSON(w, m)
}

// writeStream sends the events of a streamed message in the documented order.
func writeStream(w http.ResponseWriter, m answer) {
	w.Header().Set("Content-Type", "text/event-stream; charset=utf-8")
	w.Header().Set("Request-Id", "req_"+m.ID)
	rc := http.NewResponseController(w)
	send := func(kind string, fields map[string]any) {
		fields["type"] = kind
		b, err := json.Marshal(fields)
		if err != nil {
			panic("sallyport: internal error: " + err.Error())
		}
		_, _ = fmt.Fprintf(w, "event: %s\ndata: %s\n\n", kind, b)
		_ = rc.Flush()
	}
	start := m
	start.Content, start.StopReason = []any{}, nil
	send("message_start", map[string]any{"message": start})
	send("ping", map[string]any{})
	for i, c := range m.Content {
		switch b := c.(type) {
		case textBlock:
			send("content_block_start", map[string]any{"index": i, "content_block": textBlock{"text", ""}})
			for _, part := range strings.SplitAfter(b.Text, " ") {
				send("content_block_delta", map[string]any{"index": i, "delta": map[string]any{"type": "text_delta", "text": part}})
			}
		case useBlock:
			in, err := json.Marshal(b.Input)
			if err != nil {
				panic("sallyport: internal error: " + err.Error())
			}
			b.Input = map[string]any{}
			send("content_block_start", map[string]any{"index": i, "content_block": b})
			half := len(in) / 2
			for half > 0 && !utf8.RuneStart(in[half]) { // a text has whole characters
				half--
			}
			for _, part := range []string{"", string(in[:half]), string(in[half:])} {
				send("content_block_delta", map[string]any{"index": i, "delta": map[string]any{"type": "input_json_delta", "partial_json": part}})
			}
		}
		send("content_block_stop", map[string]any{"index": i})
	}
	send("message_delta", map[string]any{"delta": map[string]any{"stop_reason": m.StopReason, "stop_sequence": nil}, "usage": m.Usage})
	send("message_stop", map[string]any{})
}
