package browser

import "github.com/go-json-experiment/json/jsontext"

// sendTap writes one request whose answer is given to on by the reader, in
// the order of events. on must not wait, and is not called if the pipe ends.
func (c *conn) sendTap(session, method string, params jsontext.Value, on func(message)) {
	if params == nil {
		params = jsontext.Value("{}")
	}
	c.mu.Lock()
	if c.err != nil {
		c.mu.Unlock()
		return
	}
	c.next++
	id := c.next
	c.taps[id] = on
	c.mu.Unlock()
	if c.write(id, session, method, params) != nil {
		c.mu.Lock()
		delete(c.taps, id)
		c.mu.Unlock()
	}
}
