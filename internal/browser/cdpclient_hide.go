package browser

import (
	"strconv"
	"strings"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// noContext is Chromium's own text: clients know by it that a document was
// replaced under them, and try again.
const noContext = "Cannot find context with specified id"

// handles are the members of a request that lead to a context or an object.
type handles struct {
	Context   *int64  `json:"contextId"`
	Execution *int64  `json:"executionContextId"`
	Unique    *string `json:"uniqueContextId"`
	World     *string `json:"worldName"`
	Named     *string `json:"executionContextName"`
	Binding   *string `json:"name"`
	Object    *string `json:"objectId"`
	Promise   *string `json:"promiseObjectId"`
	Error     *string `json:"errorObjectId"`
	Prototype *string `json:"prototypeObjectId"`
	Arguments []struct {
		Object *string `json:"objectId"`
	} `json:"arguments"`
}

// refuse says why a request of the client may not reach its session: it names
// the guard's world, or a handle that the session was not given. Needs
// Client.mu. Page.removeScriptToEvaluateOnNewDocument and the like need no
// rule: the browser keeps identifiers of each session apart.
func (cs *clientSession) refuse(method string, params []byte, g guardNames) string {
	var h handles
	if err := json.Unmarshal(params, &h, lax); err != nil {
		return "Invalid parameters"
	}
	for _, id := range []*int64{h.Context, h.Execution} {
		if id != nil && !cs.contexts[*id] {
			return noContext
		}
	}
	if h.Unique != nil && !cs.unique[*h.Unique] {
		return "uniqueContextId not found"
	}
	for _, n := range []*string{h.World, h.Named} {
		if n != nil && *n == g.world {
			return "this world belongs to the boundary"
		}
	}
	if strings.HasSuffix(method, "Binding") && h.Binding != nil && *h.Binding == g.report {
		return "this name belongs to the boundary"
	}
	objects := []*string{h.Object, h.Promise, h.Error, h.Prototype}
	for _, a := range h.Arguments {
		objects = append(objects, a.Object)
	}
	for _, o := range objects {
		if o != nil && !cs.owns(*o) {
			return "Could not find object with given id"
		}
	}
	return ""
}

// owns reports whether an object handle ("isolate.context.n") is of a context
// that the session was told of, or of which it was given an object.
func (cs *clientSession) owns(object string) bool {
	parts := strings.Split(object, ".")
	if len(parts) != 3 {
		return false
	}
	if cs.objects[parts[0]+"."+parts[1]] {
		return true
	}
	id, err := strconv.ParseInt(parts[1], 10, 64)
	return err == nil && strconv.FormatInt(id, 10) == parts[1] && cs.contexts[id]
}

// visible reports whether an event may reach the client, and keeps account of
// the contexts that it was told of.
func (c *Client) visible(cs *clientSession, m message) bool {
	switch m.method {
	case "Runtime.executionContextCreated":
		var p struct {
			Context struct {
				ID     int64  `json:"id"`
				Unique string `json:"uniqueId"`
				Name   string `json:"name"`
			} `json:"context"`
		}
		if json.Unmarshal(m.params, &p, lax) != nil || p.Context.Name == c.b.guard.world {
			return false
		}
		c.mu.Lock()
		cs.contexts[p.Context.ID] = true
		cs.unique[p.Context.Unique] = true
		c.mu.Unlock()
	case "Runtime.executionContextDestroyed":
		var p struct {
			ID     int64  `json:"executionContextId"`
			Unique string `json:"executionContextUniqueId"`
		}
		if json.Unmarshal(m.params, &p, lax) != nil {
			return false
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		if !cs.contexts[p.ID] {
			return false
		}
		delete(cs.contexts, p.ID)
		delete(cs.unique, p.Unique)
	case "Runtime.executionContextsCleared":
		c.mu.Lock()
		clear(cs.contexts)
		clear(cs.unique)
		c.mu.Unlock()
	case "Runtime.bindingCalled", "Runtime.consoleAPICalled":
		var p struct {
			Name string `json:"name"`
			ID   int64  `json:"executionContextId"`
		}
		if json.Unmarshal(m.params, &p, lax) != nil || p.Name == c.b.guard.report {
			return false
		}
		return c.knows(cs, p.ID)
	case "Runtime.exceptionThrown":
		var p struct {
			Details struct {
				ID *int64 `json:"executionContextId"`
			} `json:"exceptionDetails"`
		}
		if json.Unmarshal(m.params, &p, lax) != nil {
			return false
		}
		return p.Details.ID == nil || c.knows(cs, *p.Details.ID)
	}
	return true
}

func (c *Client) knows(cs *clientSession, context int64) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return cs.contexts[context]
}

// learn adds what a session without Runtime.enable is not told of by an event:
// a world that the client made, and where an object is that it was given. Those
// are in no world of the guard's, since the request named none that is.
func (c *Client) learn(session int, result jsontext.Value) {
	var r struct {
		ID     int64  `json:"executionContextId"`
		Result remote `json:"result"`
		Object remote `json:"object"`
	}
	if json.Unmarshal(result, &r, lax) != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	cs := c.byID[session]
	if cs == nil {
		return
	}
	if r.ID != 0 {
		cs.contexts[r.ID] = true
	}
	// An isolate has a random name of its own, which no later process has again;
	// numbers of contexts begin anew in each.
	if i := strings.LastIndexByte(r.Result.ObjectID+r.Object.ObjectID, '.'); i > 0 {
		if len(cs.objects) >= maxAttached {
			clear(cs.objects)
		}
		cs.objects[(r.Result.ObjectID + r.Object.ObjectID)[:i]] = true
	}
}

// forget takes contexts out that are gone, one or all, in sessions that are not
// told so themselves: a number may be the guard's next.
func (c *Client) forget(target string, id int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, cs := range c.byID {
		switch {
		case cs.target != target || cs.told:
		case id == 0:
			clear(cs.contexts)
		default:
			delete(cs.contexts, id)
		}
	}
}
