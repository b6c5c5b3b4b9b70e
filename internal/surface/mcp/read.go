package mcp

import (
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/surface/local"
)

// Versions of the protocol. stateless has neither sessions nor initialize.
const (
	stateless = "2026-07-28"
	latest    = "2025-11-25" // with initialize
)

var initialized = []string{latest, "2025-06-18"}

// Codes of JSON-RPC errors: its own, and those of the protocol.
const (
	codeInvalidRequest = -32600
	codeNoMethod       = -32601
	codeInvalidParams  = -32602
	codeDenied         = -32000
	codeMismatch       = -32020
	codeVersion        = -32022
)

const (
	maxRequest   = 1 << 20  // bytes; what a connector reads at most
	maxArguments = 64 << 10 // bytes: they are decided as parameters, and a record has no more
	maxID        = 128      // bytes
)

const (
	metaVersion      = "io.modelcontextprotocol/protocolVersion"
	metaServer       = "io.modelcontextprotocol/serverInfo"
	metaClient       = "io.modelcontextprotocol/clientInfo"
	metaCapabilities = "io.modelcontextprotocol/clientCapabilities"
)

// refusal is an answer that is no result. code is ours, stable.
type refusal struct {
	status  int
	rpc     int
	code    string
	message string
}

func bad(code, format string, args ...any) *refusal {
	return &refusal{http.StatusBadRequest, codeInvalidRequest, code, fmt.Sprintf(format, args...)}
}

// message is one JSON-RPC request or notification. The list is closed: a response or
// a batch is none.
type message struct {
	JSONRPC string      `json:"jsonrpc"`
	ID      canon.Value `json:"id"`
	Method  string      `json:"method"`
	Params  canon.Value `json:"params"`
}

// params are those of every method that is served. What a method does not take it
// refuses.
type params struct {
	Name            *string                `json:"name"`
	Arguments       canon.Value            `json:"arguments"`
	Cursor          string                 `json:"cursor"`
	ProtocolVersion string                 `json:"protocolVersion"`
	Capabilities    canon.Value            `json:"capabilities"`
	ClientInfo      canon.Value            `json:"clientInfo"`
	RequestID       canon.Value            `json:"requestId"`
	Reason          string                 `json:"reason"`
	Meta            map[string]canon.Value `json:"_meta"`
}

// request is a message that was read, with one meaning.
type request struct {
	message
	params
	raw    []byte
	modern bool // of the version without sessions
}

func (r *request) notification() bool { return len(r.ID) == 0 }

// methods that are served, and what else than _meta their params have.
var methods = map[string][]string{
	"initialize": {"protocolVersion", "capabilities", "clientInfo"}, "ping": {}, "server/discover": {}, "tools/list": {"cursor"}, "tools/call": {"name", "arguments"},
	"notifications/initialized": {}, "notifications/cancelled": {"requestId", "reason"},
}

// read brings a request into one form.
func (s *Door) read(w http.ResponseWriter, r *http.Request) (*request, *refusal) {
	q := &request{raw: []byte(r.Method + " " + r.URL.Path)}
	if r.URL.IsAbs() || r.URL.Host != "" {
		return q, bad("absolute_request", "this endpoint is not a proxy")
	}
	if why := local.Refuse(r); why != nil {
		return q, &refusal{http.StatusForbidden, codeInvalidRequest, why.Code, why.Message}
	}
	switch {
	case r.URL.Path != Path || r.URL.RawQuery != "":
		return q, &refusal{http.StatusNotFound, codeInvalidRequest, "unknown_path", "only POST " + Path + " is served here"}
	case r.Method != http.MethodPost:
		return q, &refusal{http.StatusMethodNotAllowed, codeInvalidRequest, "wrong_method", "only POST is served here: there are no streams to open and no sessions to end"}
	case len(r.Header.Values("Mcp-Session-Id")) > 0:
		return q, &refusal{http.StatusNotFound, codeInvalidRequest, "unknown_session", "there are no sessions here"}
	case len(r.Header.Values("Last-Event-Id")) > 0:
		return q, bad("no_resumption", "there are no streams to resume")
	case r.Header.Get("Content-Encoding") != "":
		return q, bad("bad_encoding", "the body must not be encoded")
	}
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != "application/json" {
		return q, &refusal{http.StatusUnsupportedMediaType, codeInvalidRequest, "wrong_type", "the body must be application/json"}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxRequest))
	if big := (*http.MaxBytesError)(nil); errors.As(err, &big) {
		return q, &refusal{http.StatusRequestEntityTooLarge, codeInvalidRequest, "too_large", fmt.Sprintf("the request is larger than %d bytes", maxRequest)}
	}
	if err != nil {
		return q, bad("unreadable", "the body could not be read")
	}
	q.raw = body
	if why := q.parse(); why != nil {
		return q, why
	}
	return q, q.headers(r.Header)
}

// parse reads the body.
func (q *request) parse() *refusal {
	if err := canon.Unmarshal(q.raw, maxRequest, &q.message); err != nil || q.JSONRPC != "2.0" || q.Method == "" {
		q.ID = nil
		return bad("malformed_json", "the body is not one strict JSON-RPC 2.0 request: no batch, no response, no duplicate members, and only jsonrpc, id, method and params")
	}
	if k := q.ID.Kind(); len(q.ID) > maxID || len(q.ID) > 0 && k != '"' && k != '0' {
		q.ID = nil
		return bad("bad_id", "an id is a string or a number")
	}
	if q.notification() != strings.HasPrefix(q.Method, "notifications/") {
		return bad("bad_id", "requests have an id, and notifications have none")
	}
	takes, known := methods[q.Method]
	if !known {
		return &refusal{http.StatusOK, codeNoMethod, "unknown_method", "this door has tools and nothing else"}
	}
	if len(q.Params) == 0 {
		return nil
	}
	var has map[string]canon.Value
	if canon.Unmarshal(q.Params, maxRequest, &q.params) != nil || canon.Unmarshal(q.Params, maxRequest, &has) != nil {
		return &refusal{http.StatusOK, codeInvalidParams, "bad_params", "params is not an object of the members that are served"}
	}
	for name := range has {
		if name != "_meta" && !slices.Contains(takes, name) {
			return &refusal{http.StatusOK, codeInvalidParams, "bad_params", q.Method + " takes " + strings.Join(takes, " and ") + " and _meta alone"}
		}
	}
	return nil
}

// headers holds the header fields against the body: a proxy before, or a server
// behind, may go by either.
func (q *request) headers(h http.Header) *refusal {
	says := ""
	if raw, ok := q.Meta[metaVersion]; ok && canon.Unmarshal(raw, maxRequest, &says) != nil {
		return bad("bad_version", "%s is a string", metaVersion)
	}
	version, one := single(h, "Mcp-Protocol-Version")
	q.modern = says == stateless || version == stateless
	switch {
	case !one, q.modern && !q.notification() && says != version, says != "" && says != version:
		return &refusal{http.StatusBadRequest, codeMismatch, "header_mismatch", "MCP-Protocol-Version is not what the body says"}
	case version != "" && version != stateless && !slices.Contains(initialized, version):
		return &refusal{http.StatusBadRequest, codeVersion, "unknown_version", "this version of the protocol is not spoken"}
	case q.Method == "initialize" && q.modern, q.Method == "server/discover" && !q.modern:
		return &refusal{http.StatusOK, codeNoMethod, "unknown_method", "the version of the protocol has no such method"}
	}
	name := ""
	if q.Name != nil {
		name = *q.Name
	}
	for field, want := range map[string]string{"Mcp-Method": q.Method, "Mcp-Name": name} {
		got, one := single(h, field)
		missing := got == "" && want != "" && q.modern && !q.notification()
		if !one || got != "" && got != want || missing {
			return &refusal{http.StatusBadRequest, codeMismatch, "header_mismatch", field + " is not what the body says"}
		}
	}
	for field := range h {
		if strings.HasPrefix(field, "Mcp-Param-") {
			return &refusal{http.StatusBadRequest, codeMismatch, "header_mismatch", "no tool here has an argument in a header field"}
		}
	}
	return nil
}

// single is the value of a field that may be there once.
func single(h http.Header, field string) (string, bool) {
	v := h.Values(field)
	if len(v) == 0 {
		return "", true
	}
	return v[0], len(v) == 1
}
