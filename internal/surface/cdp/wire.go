package cdp

import (
	"slices"
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
)

const (
	layerForm     = action.LayerForm
	layerDispatch = action.LayerDispatch
	maxID         = 1<<53 - 1
)

// Codes of JSON-RPC 2.0 section 5.1, as Chromium uses them.
const (
	codeParse   = -32700
	codeRequest = -32600
	codeMethod  = -32601
	codeParams  = -32602
	codeServer  = -32000
)

// problem is the public text of a refusal. It quotes nothing that a page wrote.
type problem struct {
	Layer   action.Layer `json:"layer"`
	Code    string       `json:"code"`
	Message string       `json:"message"`
	Next    string       `json:"next,omitempty"`
	rpc     int          // code of the protocol; 0 is codeServer
	plain   bool         // Message is Chromium's own text, which drivers match
}

func (p *problem) text() string {
	if p.plain {
		return p.Message
	}
	t := "sallyport: denied by layer " + string(p.Layer) + " (" + p.Code + "): " + p.Message
	if p.Next != "" {
		t += ". Next: " + p.Next
	}
	return t
}

func refuse(code, message, next string) *problem {
	if next == "" {
		next = "see the method table of the profile, /json/protocol"
	}
	return &problem{Layer: layerForm, Code: code, Message: message, Next: next}
}

func plain(rpc int, message string) *problem {
	return &problem{Layer: layerForm, Code: "cdp_error", Message: message, rpc: rpc, plain: true}
}

// lax reads and writes what Chromium writes: page text may hold lone
// surrogates. Names stay exact and duplicates stay errors.
var lax = jsontext.AllowInvalidUTF8(true)

// request is one message of the client.
type request struct {
	id      int64
	session string
	method  string
	params  jsontext.Value // an object
}

// parseRequest reads a message strictly: one JSON object of at most maxFrame
// bytes, no member twice or unknown, a whole number as id. A refusal carries
// the id where there is one.
func parseRequest(b []byte) (request, *problem) {
	var doc struct {
		ID      jsontext.Value `json:"id"`
		Session *string        `json:"sessionId"`
		Method  string         `json:"method"`
		Params  jsontext.Value `json:"params"`
	}
	// Numbers need no canonical form here: an argument may be any double.
	if err := canon.Check(b, maxFrame); err != nil {
		return request{id: -1}, malformed("the message is not one strict JSON object", codeParse)
	}
	if err := json.Unmarshal(b, &doc, json.RejectUnknownMembers(true)); err != nil {
		return request{id: -1}, malformed("a message has id, method, params and sessionId, each once, and nothing else", codeRequest)
	}
	id, ok := wholeNumber(doc.ID)
	if !ok {
		return request{id: -1}, malformed("id is a whole number up to 2^53", codeRequest)
	}
	r := request{id: id, method: doc.Method, params: jsontext.Value(doc.Params)}
	if doc.Session != nil {
		if r.session = *doc.Session; r.session == "" {
			return r, malformed("sessionId is empty", codeRequest)
		}
	}
	if r.params == nil {
		r.params = jsontext.Value("{}")
	}
	if r.params[0] != '{' {
		return r, malformed("params is an object", codeRequest)
	}
	if domain, name, ok := strings.Cut(r.method, "."); !ok || domain == "" || name == "" || len(r.method) > 100 {
		return r, malformed("method is Domain.name", codeRequest)
	}
	return r, nil
}

func malformed(why string, rpc int) *problem {
	p := refuse("cdp_malformed", why, "send messages of the DevTools protocol")
	p.rpc = rpc
	return p
}

// wholeNumber reads digits alone: 1.0, 1e3 and -0 are other spellings.
func wholeNumber(v []byte) (int64, bool) {
	if len(v) == 0 || len(v) > 16 || len(v) > 1 && v[0] == '0' {
		return 0, false
	}
	n, err := strconv.ParseInt(string(v), 10, 64)
	return n, err == nil && n >= 0 && n <= maxID && v[0] != '-' && v[0] != '+'
}

// checkParams refuses a parameter that the rule does not name.
func checkParams(r rule, params []byte) *problem {
	var m map[string]jsontext.Value
	if err := json.Unmarshal(params, &m); err != nil {
		return malformed("params is an object", codeParams)
	}
	for name := range m {
		if !slices.Contains(r.params, name) {
			p := refuse("cdp_parameter", "a parameter of "+r.method+" is refused", "send only: "+strings.Join(r.params, ", "))
			p.rpc = codeParams
			return p
		}
	}
	return nil
}

// answer, failure and event are the messages to the client. raw is JSON; a
// browser writes lone surrogates as escapes, which are passed on as they are.

func answer(id int64, session string, raw []byte) []byte {
	return envelope(`{"id":`+strconv.FormatInt(id, 10)+`,"result":`, raw, session)
}

func failure(id int64, session string, raw []byte) []byte {
	head := `{"error":`
	if id >= 0 {
		head = `{"id":` + strconv.FormatInt(id, 10) + `,"error":`
	}
	return envelope(head, raw, session)
}

func event(method, session string, raw []byte) []byte {
	return envelope(`{"method":`+quote(method)+`,"params":`, raw, session)
}

func envelope(head string, raw []byte, session string) []byte {
	b := make([]byte, 0, len(head)+len(raw)+len(session)+20)
	b = append(append(b, head...), raw...)
	if session != "" {
		b = append(append(b, `,"sessionId":`...), quote(session)...)
	}
	return append(b, '}')
}

func quote(s string) string { return string(toJSON(s)) }

// toJSON encodes a value of our own making.
func toJSON(v any) []byte {
	b, err := json.Marshal(v, lax, json.Deterministic(true))
	if err != nil {
		panic("sallyport: internal error: " + err.Error())
	}
	return b
}

// asRPC is p as an error of the protocol.
func (p *problem) asRPC() []byte {
	code := p.rpc
	if code == 0 {
		code = codeServer
	}
	return toJSON(struct {
		Code    int    `json:"code"`
		Message string `json:"message"`
	}{code, p.text()})
}
