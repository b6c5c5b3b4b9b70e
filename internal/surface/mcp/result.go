package mcp

import (
	"encoding/base64"
	"errors"
	"slices"
	"strconv"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/canon"
)

const (
	maxError = 500 // bytes of a server's own words in an error
	maxParts = 256 // of one result
)

var (
	errInput = errors.New("it wants more input than the call, which nobody here gives")
	errParts = errors.New("its answer has too many parts")
)

var pictures = []string{"image/png", "image/jpeg", "image/gif", "image/webp"}

// pass makes what is passed on of a result: text, pictures and structured content, with
// no secret in it. What else is in it is left out and said; note says it on record.
func pass(raw []byte, redact func([]byte) []byte) (result map[string]any, note string, err error) {
	var r struct {
		Type       string        `json:"resultType"`
		Content    []canon.Value `json:"content"`
		Structured canon.Value   `json:"structuredContent"`
		IsError    bool          `json:"isError"`
	}
	if canon.UnmarshalOpen(redact(raw), maxAnswer, &r) != nil {
		return nil, "", errUnread
	}
	if r.Type != "" && r.Type != "complete" {
		return nil, "", errInput
	}
	if r.Content == nil && len(r.Structured) == 0 { // a task that goes on, perhaps
		return nil, "", errUnread
	}
	if len(r.Content) > maxParts {
		return nil, "", errParts
	}
	content, left := []any{}, 0
	for _, raw := range r.Content {
		part, ok := passPart(raw)
		if !ok {
			left++
			part = text("[sallyport: a part of the answer that is neither text nor a picture was left out]")
		}
		content = append(content, part)
	}
	result = map[string]any{"content": content}
	if len(r.Structured) > 0 {
		if r.Structured.Kind() != '{' {
			return nil, "", errUnread
		}
		result["structuredContent"] = r.Structured
	}
	if r.IsError {
		result["isError"] = true
	}
	if left > 0 {
		note = strconv.Itoa(left) + " parts of the answer were left out"
	}
	return result, note, nil
}

func passPart(raw canon.Value) (map[string]any, bool) {
	var p struct {
		Type string `json:"type"`
		Text string `json:"text"`
		Data string `json:"data"`
		Mime string `json:"mimeType"`
	}
	if canon.UnmarshalOpen(raw, maxAnswer, &p) != nil {
		return nil, false
	}
	switch p.Type {
	case "text":
		return text(p.Text), true
	case "image":
		if _, err := base64.StdEncoding.DecodeString(p.Data); err != nil || !slices.Contains(pictures, p.Mime) {
			return nil, false
		}
		return map[string]any{"type": "image", "data": p.Data, "mimeType": p.Mime}, true
	}
	return nil, false
}

func text(s string) map[string]any { return map[string]any{"type": "text", "text": s} }

// refused is a server's error as a result, so that the model reads it.
func refused(e *rpcError, redact func([]byte) []byte) map[string]any {
	words := string(redact([]byte(e.Message)))
	if len(words) > maxError {
		words = words[:maxError]
	}
	return map[string]any{"isError": true, "content": []any{text("the server refused the call with error " + strconv.Itoa(e.Code) + ": " + strings.ToValidUTF8(words, ""))}}
}
