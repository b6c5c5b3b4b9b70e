package inference

import (
	"bytes"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
)

// refusal is an answer in the provider's own shape.
type refusal struct {
	status  int
	kind    string // the provider's error type
	code    string // ours, stable
	message string
}

func bad(code, format string, args ...any) *refusal {
	return &refusal{http.StatusBadRequest, "invalid_request_error", code, fmt.Sprintf(format, args...)}
}

// message is the Messages API request. The list is closed: mcp_servers,
// container, service_tier and everything newer are refused as unknown.
type message struct {
	Model         string         `json:"model"`
	Messages      jsontext.Value `json:"messages"`
	System        jsontext.Value `json:"system"`
	Tools         jsontext.Value `json:"tools"`
	ToolChoice    jsontext.Value `json:"tool_choice"`
	MaxTokens     int64          `json:"max_tokens"`
	Metadata      jsontext.Value `json:"metadata"`
	StopSequences jsontext.Value `json:"stop_sequences"`
	Stream        bool           `json:"stream"`
	Temperature   jsontext.Value `json:"temperature"`
	TopP          jsontext.Value `json:"top_p"`
	TopK          jsontext.Value `json:"top_k"`
	Thinking      jsontext.Value `json:"thinking"`
	OutputConfig  jsontext.Value `json:"output_config"`
	InferenceGeo  jsontext.Value `json:"inference_geo"`
}

// measured is a request that was read.
type measured struct {
	Measurement
	url       string // where it is sent: the endpoint and the query
	stream    bool
	maxTokens int64
}

func readMessage(body []byte, limit int, given func(name, description string, schema []byte) bool) (measured, *refusal) {
	var m message
	switch err := canon.Unmarshal(body, limit, &m); {
	case errors.Is(err, canon.ErrTooLarge):
		return measured{}, &refusal{http.StatusRequestEntityTooLarge, "request_too_large", "too_large", fmt.Sprintf("the request is larger than %d bytes", limit)}
	case err != nil:
		return measured{}, bad("malformed_json", "the body is not one strict Messages API document: no duplicate members, and only model, messages, system, tools, tool_choice, max_tokens, metadata, stop_sequences, stream, temperature, top_p, top_k, thinking, output_config and inference_geo")
	}
	if m.Model == "" || len(m.Messages) == 0 || m.MaxTokens < 1 {
		return measured{}, bad("missing_member", "model, messages and max_tokens are needed")
	}
	out := measured{stream: m.Stream, maxTokens: m.MaxTokens}
	out.Phase, out.Model, out.RequestedModel = AtRequest, plain(m.Model), plain(m.Model)
	var why *refusal
	if out.SystemDigest, why = systemDigest(m.System); why != nil {
		return measured{}, why
	}
	if out.ToolsDigest, why = toolsDigest(m.Tools, given); why != nil {
		return measured{}, why
	}
	if why := checkContent(m.Messages); why != nil {
		return measured{}, why
	}
	if out.Sampling, why = m.sampling(); why != nil {
		return measured{}, why
	}
	return out, nil
}

// sampling is what changes how the model answers, beside prompt and tools.
func (m message) sampling() (map[string]string, *refusal) {
	out := map[string]string{"max_tokens": strconv.FormatInt(m.MaxTokens, 10)}
	for name, v := range map[string]jsontext.Value{"temperature": m.Temperature, "top_p": m.TopP, "top_k": m.TopK, "thinking": m.Thinking,
		"tool_choice": m.ToolChoice, "stop_sequences": m.StopSequences, "output_config": m.OutputConfig, "inference_geo": m.InferenceGeo} {
		if len(v) == 0 || string(v) == "null" {
			continue
		}
		if v = v.Clone(); v.Canonicalize() != nil {
			return nil, bad("malformed_json", "the sampling parameters have no canonical form")
		}
		out[name] = string(v)
	}
	return out, nil
}

// SamplingText is the sampling parameters but for some, as one canonical JSON
// object, or as its digest where it is not short and plain: people read it, and the
// harness wrote it.
func (m Measurement) SamplingText(but ...string) string {
	rest := map[string]jsontext.Value{}
	for name, v := range m.Sampling {
		if !slices.Contains(but, name) {
			rest[name] = jsontext.Value(v)
		}
	}
	b, err := json.Marshal(rest, json.Deterministic(true))
	if err != nil {
		panic("sallyport: internal error: " + err.Error()) // of canonical values
	}
	if len(b) > 200 || bytes.ContainsFunc(b, func(r rune) bool { return r < ' ' || r > '~' }) {
		return string(canon.Digest(b))
	}
	return string(b)
}

// systemDigest is over the text alone; see the package comment.
func systemDigest(raw jsontext.Value) (action.Digest, *refusal) {
	text := ""
	if len(raw) > 0 && string(raw) != "null" && json.Unmarshal(raw, &text) != nil {
		var blocks []struct {
			Type string `json:"type"`
			Text string `json:"text"`
		}
		if err := json.Unmarshal(raw, &blocks); err != nil {
			return "", bad("bad_system", "system is a string or text blocks")
		}
		var parts []string
		for _, b := range blocks {
			if b.Type != "text" {
				return "", bad("bad_system", "system blocks are text")
			}
			parts = append(parts, b.Text)
		}
		text = strings.Join(parts, "\n")
	}
	return canon.Digest([]byte(text)), nil
}

// clientTools are the prefixes of tool types that the harness executes itself,
// through the doors. Every other type runs on the provider's side.
var clientTools = []string{"computer_", "bash_", "text_editor_", "memory_"}

func toolsDigest(raw jsontext.Value, given func(name, description string, schema []byte) bool) (action.Digest, *refusal) {
	var tools []map[string]jsontext.Value
	if len(raw) > 0 && json.Unmarshal(raw, &tools) != nil {
		return "", bad("bad_tools", "tools is an array of objects")
	}
	list := make([]map[string]jsontext.Value, 0, len(tools))
	for _, t := range tools {
		kind := ""
		if k, ok := t["type"]; ok && json.Unmarshal(k, &kind) != nil {
			return "", bad("bad_tools", "the type of a tool is a string")
		}
		if kind != "" && kind != "custom" && !slices.ContainsFunc(clientTools, func(p string) bool { return strings.HasPrefix(kind, p) }) {
			return "", bad("server_tool", "tools that the provider executes are refused: they would act past the boundary")
		}
		if _, ok := t["allowed_callers"]; ok {
			return "", bad("server_tool", "allowed_callers is refused: code on the provider's side would drive the tool")
		}
		delete(t, "cache_control")
		if given != nil && plainTool(t, given) {
			continue
		}
		list = append(list, t)
	}
	d, err := digestRaw(list)
	if err != nil {
		return "", bad("bad_tools", "the tools have no canonical form")
	}
	return d, nil
}

// plainTool reports whether a tool is nothing but a definition that was given.
func plainTool(t map[string]jsontext.Value, given func(name, description string, schema []byte) bool) bool {
	var kind, name, description string
	for member, into := range map[string]*string{"type": &kind, "name": &name, "description": &description} {
		if v, ok := t[member]; ok && json.Unmarshal(v, into) != nil {
			return false
		}
	}
	for member := range t {
		if !slices.Contains([]string{"type", "name", "description", "input_schema"}, member) {
			return false
		}
	}
	return (kind == "" || kind == "custom") && given(name, description, t["input_schema"])
}

func digestRaw(v any) (action.Digest, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	val := jsontext.Value(b)
	if err := val.Canonicalize(); err != nil {
		return "", err
	}
	return canon.Digest(val), nil
}

// blockTypes are the content blocks that may be sent. All of them carry their
// content; none makes the provider act.
var blockTypes = []string{"text", "image", "document", "tool_use", "tool_result", "thinking", "redacted_thinking", "search_result"}

type block struct {
	Type    string         `json:"type"`
	Content jsontext.Value `json:"content"`
	Source  jsontext.Value `json:"source"`
}

// checkContent walks the messages. A source by URL or file id would make the
// provider fetch something: a way out of the boundary for whatever the URL says.
func checkContent(raw jsontext.Value) *refusal {
	var messages []struct {
		Role    string         `json:"role"`
		Content jsontext.Value `json:"content"`
	}
	if json.Unmarshal(raw, &messages) != nil || len(messages) == 0 {
		return bad("bad_messages", "messages is a non-empty array")
	}
	for _, m := range messages {
		if m.Role != "user" && m.Role != "assistant" {
			return bad("bad_messages", "the role of a message is user or assistant")
		}
		if why := checkBlocks(m.Content); why != nil {
			return why
		}
	}
	return nil
}

func checkBlocks(raw jsontext.Value) *refusal {
	var text string
	if len(raw) == 0 || json.Unmarshal(raw, &text) == nil {
		return nil
	}
	var blocks []block
	if json.Unmarshal(raw, &blocks) != nil {
		return bad("bad_messages", "content is a string or an array of blocks")
	}
	for _, b := range blocks {
		if !slices.Contains(blockTypes, b.Type) {
			return bad("bad_block", "the content block is not of a known type")
		}
		if b.Type == "search_result" {
			// Its source is a plain string that is only shown.
			if why := checkBlocks(b.Content); why != nil {
				return why
			}
			continue
		}
		if len(b.Source) > 0 {
			var s struct {
				Type    string         `json:"type"`
				Content jsontext.Value `json:"content"`
			}
			if json.Unmarshal(b.Source, &s) != nil || s.Type != "base64" && s.Type != "text" && s.Type != "content" {
				return bad("remote_source", "content sources are base64, text or content: the provider fetches nothing")
			}
			if why := checkBlocks(s.Content); why != nil {
				return why
			}
		}
		if b.Type == "tool_result" {
			if why := checkBlocks(b.Content); why != nil {
				return why
			}
		}
	}
	return nil
}

// list is words of an allow-list as canonical JSON.
func list(words []string) string {
	b, err := canon.Marshal(words)
	if err != nil {
		panic("sallyport: internal error: " + err.Error())
	}
	return string(b)
}

// readBetas checks anthropic-beta against the allow-list. Betas change what the
// provider does, so an unknown one is refused rather than dropped.
func readBetas(h http.Header, allowed []string) ([]string, *refusal) {
	var out []string
	for _, line := range h.Values("Anthropic-Beta") {
		for b := range strings.SplitSeq(line, ",") {
			if b = strings.TrimSpace(b); b == "" || slices.Contains(out, b) {
				continue
			}
			if !slices.Contains(allowed, b) {
				return nil, bad("unknown_beta", "an anthropic-beta value is not on this agent's list")
			}
			out = append(out, b)
		}
	}
	slices.Sort(out)
	return out, nil
}
