package browser

import (
	"context"
	"encoding/base64"
	"fmt"

	"github.com/go-json-experiment/json"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/gate"
)

// GroundNode says what a file input is: the node that a client knows by its
// backend number, on a page that it was told of.
func (c *Client) GroundNode(ctx context.Context, target string, backend int) (action.Element, action.Digest, any, error) {
	if err := c.front(target); err != nil {
		return action.Element{}, "", nil, err
	}
	g, err := c.b.settled(ctx, func(ctx context.Context, page *session) (Grounded, error) {
		p, err := c.b.node(ctx, page, backend)
		if err != nil {
			return Grounded{}, err
		}
		g, _, err := c.b.groundNode(ctx, page, p)
		return g, err
	})
	g.node = backend
	return grounding(g, target, err)
}

// node finds the frame of a node: only the world of its own frame can hold it.
func (b *Browser) node(ctx context.Context, page *session, backend int) (place, error) {
	p := place{session: page, backend: backend}
	var ta treeAnswer
	if err := b.conn.call(ctx, page.id, "Page.getFrameTree", nil, &ta); err != nil {
		return p, err
	}
	p.top, p.tree = ta.Tree.Frame, ta.Tree
	n := 0
	for id := range ta.Tree.ids() {
		if n++; n > maxFrames {
			break
		}
		p.frame, _ = ta.Tree.find(id)
		object, err := b.resolve(ctx, p, backend)
		if err == nil && object != "" {
			p.object = object
			return p, nil
		}
		if err != nil && !protocol(err) {
			return p, err
		}
	}
	return p, fmt.Errorf("%w: no such node on this page", ErrMoved)
}

func (b *Browser) groundNode(ctx context.Context, page *session, p place) (Grounded, place, error) {
	g := Grounded{Page: page.target}
	raw, err := b.on(ctx, p, "ground", nil)
	if err != nil {
		return g, p, err
	}
	g, p, err = b.grounded(g, p, raw)
	if g.Element.Uninspectable == "file_chooser" { // which does not come into it: nothing is pressed
		g.Element.Uninspectable = ""
	}
	return g, p, err
}

// Upload puts files into the file input that ref grounded: names and contents
// that the boundary holds, through the guard's world. The browser opens no
// file. Order and errors are those of Press.
func (c *Client) Upload(ctx context.Context, ref any, p gate.Permit, digest action.Digest, names []string, contents [][]byte) (state string, err error) {
	g, ok := ref.(Grounded)
	if !ok || g.node == 0 || len(names) != len(contents) {
		return action.Failed, ErrInput
	}
	return known(c.b.alone(ctx, func() error {
		if err := p.Consume(digest); err != nil {
			return err
		}
		return c.b.flying(ctx, g, func(f *flying) error {
			at, err := c.b.node(f.ctx, f.page, g.node)
			if err != nil {
				return err
			}
			now, at, err := c.b.groundNode(f.ctx, f.page, at)
			if err != nil {
				return err
			}
			if now.Fingerprint != g.Fingerprint {
				return ErrMoved
			}
			return f.give(at, names, contents)
		})
	}))
}

func (f *flying) give(p place, names []string, contents [][]byte) error {
	files := []obj{}
	for i, n := range names {
		files = append(files, obj{"name": n, "data": base64.StdEncoding.EncodeToString(contents[i])})
	}
	if err := f.ctx.Err(); err != nil {
		return err
	}
	r, err := f.b.conn.eval(f.ctx, p.session.id, "Runtime.callFunctionOn", obj{
		"functionDeclaration": "function(l){return globalThis[" + quote(f.b.guard.key) + "].give(this,l)}",
		"objectId":            p.object, "returnByValue": true, "arguments": []obj{{"value": files}}})
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotSeen, err)
	}
	var n int
	if json.Unmarshal(r.Value, &n) != nil || n != len(names) {
		return fmt.Errorf("%w: the element takes no such files", ErrInput)
	}
	return nil
}
