package connector

import (
	"bytes"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/action"
)

// graphRequest is a GraphQL request as it was sent (GraphQL over HTTP,
// section 5).
type graphRequest struct {
	document  string
	operation string
	variables map[string]any // JSON, with numbers as json.Number
}

// reservedQuery are parameters in a URL that some servers prefer to the body.
func reservedQuery(name string) bool {
	return slices.Contains([]string{"query", "operationname", "variables", "extensions", "id", "documentid", "doc_id", "queryid"}, strings.ToLower(name))
}

func graphEnvelope(r action.Request, body []byte) (req graphRequest, ref *refusal) {
	if r.Method == "GET" {
		return graphURL(r, body)
	}
	pairs, ref := readPairs(r.Query)
	if ref != nil {
		return req, ref
	}
	for name := range pairs {
		if reservedQuery(name) {
			return req, refuse("graphql_envelope", "the URL carries a part of the GraphQL request")
		}
	}
	if len(body) > maxBody {
		return req, refuse("body_too_large", "the body is larger than is read")
	}
	media, params, ok := mediaType(r.BodyType)
	switch {
	case !ok:
		return req, refuse("content_type", "the content type cannot be read")
	case media != "application/json" && media != "application/graphql":
		return req, refuse("content_type", "the body is of another type than the operation's")
	case !inUTF8(params):
		return req, refuse("charset", "the content type has a parameter other than charset=utf-8")
	case media == "application/graphql":
		req.document = string(body)
		return req, nil
	}
	if bytes.HasPrefix(bytes.TrimLeft(body, " \t\r\n"), []byte("[")) {
		return req, refuse("graphql_batch", "the body is a batch of requests")
	}
	members, ref := decodeObject(body)
	if ref != nil {
		return req, ref
	}
	return graphMembers(members)
}

// graphURL reads a request in a query string (section 5.3).
func graphURL(r action.Request, body []byte) (graphRequest, *refusal) {
	if len(body) > 0 {
		return graphRequest{}, refuse("unexpected_body", "a GET has no body")
	}
	pairs, ref := readPairs(r.Query)
	if ref != nil {
		return graphRequest{}, ref
	}
	members := map[string]any{}
	for name, v := range pairs {
		members[name] = v.text
		if name == "variables" || name == "extensions" {
			object, ref := decodeObject([]byte(v.text))
			if ref != nil {
				return graphRequest{}, ref
			}
			members[name] = object
		}
	}
	return graphMembers(members)
}

func graphMembers(members map[string]any) (graphRequest, *refusal) {
	req := graphRequest{}
	envelope := refuse("graphql_envelope", "the request has a member that is not read, or of another type")
	for name, m := range members {
		ok := m == nil
		switch name {
		case "query":
			req.document, ok = m.(string)
		case "operationName":
			if m != nil {
				req.operation, ok = m.(string)
			}
		case "variables":
			if m != nil {
				req.variables, ok = m.(map[string]any)
			}
		case "extensions": // a persisted document takes the place of the one that is there
			if object, is := m.(map[string]any); is {
				ok = len(object) == 0
			}
		default:
			ok = false
		}
		if !ok {
			return req, envelope
		}
	}
	return req, nil
}
