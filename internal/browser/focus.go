package browser

import (
	"context"
	"slices"
)

// groundFocus follows the focus: the active element of the page, into the
// frame it owns, into shadow roots, closed ones too.
func (b *Browser) groundFocus(ctx context.Context, page *session, spec *armSpec) (Grounded, place, error) {
	g := Grounded{Keyboard: true, Page: page.target}
	p, why, err := b.locateFocus(ctx, page)
	if err != nil {
		return g, p, err
	}
	if why != "" {
		return b.blind(g, p, why)
	}
	raw, err := b.on(ctx, p, "groundFocus", spec)
	b.conn.send(p.session.id, "Runtime.releaseObject", obj{"objectId": p.object})
	if err != nil {
		return g, p, err
	}
	return b.grounded(g, p, raw)
}

func (b *Browser) locateFocus(ctx context.Context, page *session) (place, string, error) {
	p := place{session: page}
	var ta treeAnswer
	if err := b.conn.call(ctx, page.id, "Page.getFrameTree", nil, &ta); err != nil {
		return p, "", err
	}
	p.top, p.frame, p.tree = ta.Tree.Frame, ta.Tree.Frame, ta.Tree
	for range maxHops {
		r, err := b.inWorld(ctx, p.session.id, p.frame.ID, "active()")
		if err != nil {
			return p, "", err
		}
		if r.ObjectID == "" {
			return p, "no_element", nil
		}
		p.object = r.ObjectID
		frame, err := b.throughShadow(ctx, &p)
		if err != nil || frame == "" {
			return p, "", err
		}
		child := b.frameSession(page, frame)
		if child == nil {
			f, ok := ta.Tree.find(frame)
			if !ok {
				return p, "frame_without_session", nil
			}
			p.frame = f
			continue
		}
		if err := b.usable(ctx, child); err != nil {
			return p, "", err
		}
		p.above, p.session, ta = append(p.above, ta.Tree.origins(p.frame.ID)...), child, treeAnswer{}
		if err := b.conn.call(ctx, child.id, "Page.getFrameTree", nil, &ta); err != nil {
			return p, "", err
		}
		p.frame, p.tree = ta.Tree.Frame, ta.Tree
	}
	return p, "frames_too_deep", nil
}

// throughShadow moves p.object to the active element of its innermost shadow
// root, and returns the frame that the element owns, if it owns one.
func (b *Browser) throughShadow(ctx context.Context, p *place) (string, error) {
	for range maxHops {
		var d described
		if err := b.conn.call(ctx, p.session.id, "DOM.describeNode", obj{"objectId": p.object}, &d); err != nil {
			return "", err
		}
		if n := d.Node.FrameID; n != "" && n != p.frame.ID && slices.Contains([]string{"IFRAME", "FRAME", "FENCEDFRAME", "OBJECT", "EMBED"}, d.Node.Name) {
			return n, nil
		}
		i := slices.IndexFunc(d.Node.Shadow, func(s struct {
			Backend int    `json:"backendNodeId"`
			Type    string `json:"shadowRootType"`
		}) bool {
			return s.Type == "open" || s.Type == "closed"
		})
		if i < 0 {
			return "", nil
		}
		root, err := b.resolve(ctx, *p, d.Node.Shadow[i].Backend)
		if err != nil {
			return "", err
		}
		inner, err := b.conn.eval(ctx, p.session.id, "Runtime.callFunctionOn", obj{
			"functionDeclaration": "function(){return globalThis[" + quote(b.guard.key) + "].active(this)}", "objectId": root})
		if err != nil {
			return "", err
		}
		if inner.ObjectID == "" {
			return "", nil
		}
		p.object = inner.ObjectID
	}
	return "", nil
}
