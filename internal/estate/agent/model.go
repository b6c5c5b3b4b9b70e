package agent

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
)

// block is one content block of the Messages API. It is kept as it came, so
// that what the loop does not know (thinking, signatures) goes back unchanged.
type block map[string]any

type message struct {
	Role    string  `json:"role"`
	Content []block `json:"content"`
}

type answer struct {
	Model      string  `json:"model"`
	Content    []block `json:"content"`
	StopReason string  `json:"stop_reason"`
}

// ModelError is an error in the provider's shape: of the provider, or of the
// boundary in front of it.
type ModelError struct {
	Status  int
	Kind    string
	Message string
}

func (e *ModelError) Error() string { return fmt.Sprintf("model: %s: %s", e.Kind, e.Message) }

const maxTokens = 4096

// retries bound how often a call is made again whose answer was an error of the
// provider, or not whole. Nothing has been done of it: calls of tools are executed
// when the answer is there.
const retries = 2

func (a *agent) askAgain(ctx context.Context) (m answer, err error) {
	for range retries + 1 {
		m, err = a.ask(ctx)
		var of *ModelError
		if err == nil || ctx.Err() != nil || errors.As(err, &of) && of.Kind != "overloaded_error" && of.Kind != "api_error" {
			return m, err
		}
		a.printf("again: %v", err)
	}
	return m, err
}

func (a *agent) ask(ctx context.Context) (answer, error) {
	body, err := json.Marshal(map[string]any{"model": a.o.Model, "max_tokens": maxTokens, "system": prompt, "tools": a.tools,
		"messages": a.messages, "stream": !a.o.NoStream})
	if err != nil {
		return answer{}, fmt.Errorf("model: %w", err)
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, a.model+"/v1/messages?beta=true", bytes.NewReader(body))
	if err != nil {
		return answer{}, fmt.Errorf("model: %w", err)
	}
	key := a.o.Getenv("ANTHROPIC_API_KEY")
	if key == "" {
		key = "placeholder"
	}
	req.Header = http.Header{"Content-Type": {"application/json"}, "X-Api-Key": {key}, "Anthropic-Version": {version}, "Anthropic-Beta": {beta}}
	resp, err := a.client.Do(req)
	if err != nil {
		return answer{}, fmt.Errorf("model: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		b, err := io.ReadAll(io.LimitReader(resp.Body, 1<<20))
		if err != nil {
			return answer{}, fmt.Errorf("model: %w", err)
		}
		return answer{}, modelError(resp.StatusCode, b)
	}
	if a.o.NoStream {
		var m answer
		if err := json.NewDecoder(resp.Body).Decode(&m); err != nil {
			return answer{}, fmt.Errorf("model: read the answer: %w", err)
		}
		return m, nil
	}
	return readStream(resp.Body)
}

func modelError(status int, b []byte) error {
	var e struct {
		Error struct{ Type, Message string } `json:"error"`
	}
	if json.Unmarshal(b, &e) != nil || e.Error.Type == "" {
		return &ModelError{status, "api_error", fmt.Sprintf("status %d", status)}
	}
	return &ModelError{status, e.Error.Type, e.Error.Message}
}

// streamEvent holds the members of all events that the loop reads.
type streamEvent struct {
	Type         string `json:"type"`
	Index        int    `json:"index"`
	Message      answer `json:"message"`
	ContentBlock block  `json:"content_block"`
	Delta        struct {
		Type        string `json:"type"`
		Text        string `json:"text"`
		PartialJSON string `json:"partial_json"`
		Thinking    string `json:"thinking"`
		Signature   string `json:"signature"`
		StopReason  string `json:"stop_reason"`
	} `json:"delta"`
}

// readStream puts a streamed message together.
func readStream(r io.Reader) (answer, error) {
	var m answer
	inputs := map[int]*strings.Builder{}
	br := bufio.NewReaderSize(r, 64<<10)
	for {
		line, err := br.ReadBytes('\n')
		if err != nil {
			return m, fmt.Errorf("model: the stream was cut: %w", err)
		}
		data, ok := bytes.CutPrefix(bytes.TrimSpace(line), []byte("data:"))
		if !ok {
			continue
		}
		var e streamEvent
		if err := json.Unmarshal(data, &e); err != nil {
			return m, fmt.Errorf("model: read an event: %w", err)
		}
		switch e.Type {
		case "error":
			return m, modelError(http.StatusOK, data)
		case "message_start":
			m = e.Message
		case "content_block_start":
			if e.Index != len(m.Content) {
				return m, errors.New("model: a content block is missing in the stream")
			}
			m.Content = append(m.Content, e.ContentBlock)
		case "content_block_delta":
			if e.Index < 0 || e.Index >= len(m.Content) {
				return m, errors.New("model: a delta without its content block")
			}
			b := m.Content[e.Index]
			switch e.Delta.Type {
			case "text_delta":
				b["text"] = text(b["text"]) + e.Delta.Text
			case "thinking_delta":
				b["thinking"] = text(b["thinking"]) + e.Delta.Thinking
			case "signature_delta":
				b["signature"] = text(b["signature"]) + e.Delta.Signature
			case "input_json_delta":
				if inputs[e.Index] == nil {
					inputs[e.Index] = &strings.Builder{}
				}
				inputs[e.Index].WriteString(e.Delta.PartialJSON)
			}
		case "content_block_stop":
			if s := inputs[e.Index]; s != nil && s.Len() > 0 && e.Index < len(m.Content) {
				m.Content[e.Index]["input"] = json.RawMessage(s.String())
			}
		case "message_delta":
			m.StopReason = e.Delta.StopReason
		case "message_stop":
			return m, nil
		}
	}
}

func text(v any) string {
	s, _ := v.(string)
	return s
}
