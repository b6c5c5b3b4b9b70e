package browser

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/jpeg"
	"image/png"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
)

// Concealer says what no picture may show, beside the content of fields of type
// password, which is never in one.
type Concealer interface {
	// Fields are names of fields whose content is not shown.
	Fields() []string
	// Spans are the parts of a text that are not shown, in bytes: elements with
	// such a part are blanked whole. The text never leaves the boundary, nor do
	// the secrets enter the browser.
	Spans(text []byte) [][2]int
}

// Conceal sets what pictures may not show, for all pictures from then on.
func (b *Browser) Conceal(c Concealer) { b.hidden.Store(&c) }

func (b *Browser) concealer() Concealer {
	if c := b.hidden.Load(); c != nil {
		return *c
	}
	return nothing{}
}

type nothing struct{}

func (nothing) Fields() []string      { return nil }
func (nothing) Spans([]byte) [][2]int { return nil }

// maxConcealed bounds the places of one picture. A page with more gets none.
const maxConcealed = 512

var (
	errConcealed = errors.New("the page has too many fields that are not shown")
	blank        = image.NewUniform(color.RGBA{0x55, 0x5b, 0x66, 0xff})
)

// box is a rectangle in CSS pixels of the page's viewport.
type box struct{ x0, y0, x1, y1 float64 }

func (a box) union(o box) box {
	return box{min(a.x0, o.x0), min(a.y0, o.y0), max(a.x1, o.x1), max(a.y1, o.y1)}
}

// concealed finds what a picture of the page may not show, by node. A document
// that is replaced meanwhile is asked again: what cannot be asked is not taken
// for nothing.
func (b *Browser) concealed(ctx context.Context, page *session, text bool) (found map[string]box, err error) {
	for range 5 {
		if found, err = b.lookFor(ctx, page, b.concealer(), text); !protocol(err) {
			return found, err
		}
		select {
		case <-time.After(10 * time.Millisecond):
		case <-ctx.Done():
			return nil, err
		}
	}
	return nil, err
}

// lookFor asks each process of the page for its fields by Chromium's own search,
// which sees closed shadow roots and all frames of the process, and each frame
// for its text, if that is wanted. A page without any answers with counts of zero
// and its text.
func (b *Browser) lookFor(ctx context.Context, page *session, c Concealer, text bool) (map[string]box, error) {
	b.mu.Lock()
	var all []*session
	worlds := map[*session][]int{}
	for _, s := range b.sessions {
		if s.guarded() && s.page() == page && s.started() {
			all = append(all, s)
			for _, w := range s.worlds {
				if text {
					worlds[s] = append(worlds[s], w)
				}
			}
		}
	}
	b.mu.Unlock()
	queries := []string{`"password"`} // an attribute that is exactly this
	for _, n := range c.Fields() {
		queries = append(queries, `"`+n+`"`)
	}
	counts, texts := map[*session][]*call{}, map[*session][]*call{}
	for _, s := range all {
		for _, q := range queries {
			counts[s] = append(counts[s], b.conn.send(s.id, "DOM.performSearch", obj{"query": q}))
		}
		for _, w := range worlds[s] {
			texts[s] = append(texts[s], b.conn.send(s.id, "Runtime.evaluate",
				obj{"expression": b.guard.key + ".text()", "contextId": w, "returnByValue": true}))
		}
	}
	found := map[string]box{}
	for _, s := range all {
		at := map[int]box{}
		err := b.fields(ctx, s, queries, counts[s], at)
		for i, k := range texts[s] {
			if err == nil {
				err = b.shown(ctx, s, worlds[s][i], k, c, at)
			}
		}
		if err == nil {
			err = b.ontoPage(ctx, page, s, at, found)
		}
		select {
		case <-s.gone: // and so is what it drew
		default:
			if err != nil {
				return nil, err
			}
		}
	}
	if len(found) > maxConcealed {
		return nil, errConcealed
	}
	return found, nil
}

// started reports whether the target runs with its guard: one that does not yet has
// drawn nothing, or what it draws in its first milliseconds.
func (s *session) started() bool {
	select {
	case <-s.ready:
		return true
	default:
		return false
	}
}

// search is the answer of DOM.performSearch.
type search struct {
	ID    string `json:"searchId"`
	Count int    `json:"resultCount"`
}

// fields finds the fields that are not empty. Where a search had results, they
// are searched for again: Chromium tells nodes only of a document that was asked
// for, and forgets all results when it is.
func (b *Browser) fields(ctx context.Context, s *session, queries []string, counts []*call, at map[int]box) error {
	asked := false
	for i, k := range counts {
		var r search
		if err := k.get(ctx, &r); err != nil {
			return err
		}
		b.conn.send(s.id, "DOM.discardSearchResults", obj{"searchId": r.ID})
		if r.Count == 0 {
			continue
		}
		if !asked {
			asked = true
			if err := b.conn.call(ctx, s.id, "DOM.getDocument", obj{"depth": 1}, nil); err != nil {
				return err
			}
		}
		if err := b.conn.call(ctx, s.id, "DOM.performSearch", obj{"query": queries[i]}, &r); err != nil {
			return err
		}
		if r.Count > maxConcealed {
			return errConcealed
		}
		if r.Count == 0 {
			continue
		}
		var nodes struct {
			IDs []int `json:"nodeIds"`
		}
		if err := b.conn.call(ctx, s.id, "DOM.getSearchResults", obj{"searchId": r.ID, "fromIndex": 0, "toIndex": r.Count}, &nodes); err != nil {
			return err
		}
		if err := b.filled(ctx, s, nodes.IDs, at); err != nil {
			return err
		}
	}
	return nil
}

// domNode is what the protocol says of a node and of what is in it.
type domNode struct {
	Backend    int       `json:"backendNodeId"`
	Name       string    `json:"nodeName"`
	Value      string    `json:"nodeValue"`
	Attributes []string  `json:"attributes"`
	Children   []domNode `json:"children"`
	Shadow     []domNode `json:"shadowRoots"`
}

func (n domNode) attribute(name string) string {
	for i := 0; i+1 < len(n.Attributes); i += 2 {
		if n.Attributes[i] == name {
			return n.Attributes[i+1]
		}
	}
	return ""
}

// hasText reports whether there is text in a field: Chromium keeps it in a
// shadow root of its own, out of reach of the page's getters.
func (n domNode) hasText() bool {
	return n.Name == "#text" && n.Value != "" || slices.ContainsFunc(n.Children, domNode.hasText) || slices.ContainsFunc(n.Shadow, domNode.hasText)
}

// filled measures those of the nodes that are fields of secrets with text in them.
func (b *Browser) filled(ctx context.Context, s *session, ids []int, at map[int]box) error {
	names := b.concealer().Fields()
	described := make([]*call, len(ids))
	for i, id := range ids {
		described[i] = b.conn.send(s.id, "DOM.describeNode", obj{"nodeId": id, "depth": -1, "pierce": true})
	}
	for _, k := range described {
		var d struct {
			Node domNode `json:"node"`
		}
		if err := k.get(ctx, &d); err != nil {
			return err
		}
		n := d.Node
		secret := n.Name == "INPUT" && strings.EqualFold(n.attribute("type"), "password") ||
			(n.Name == "INPUT" || n.Name == "TEXTAREA") && slices.Contains(names, n.attribute("name"))
		if secret && n.hasText() {
			if err := b.place(ctx, s, obj{"backendNodeId": n.Backend}, n.Backend, at); err != nil {
				return err
			}
		}
	}
	return nil
}

// place measures where a node is drawn in its process's viewport.
func (b *Browser) place(ctx context.Context, s *session, node obj, key int, at map[int]box) error {
	var q struct {
		Quads [][]float64 `json:"quads"`
	}
	if err := b.conn.call(ctx, s.id, "DOM.getContentQuads", node, &q); err != nil {
		if pe := (*protocolError)(nil); errors.As(err, &pe) && strings.Contains(pe.Message, "quads") { // it is not drawn
			return nil
		}
		return err
	}
	for _, p := range q.Quads {
		if len(p) != 8 {
			return errors.New("a quad has eight numbers")
		}
		r := box{min(p[0], p[2], p[4], p[6]), min(p[1], p[3], p[5], p[7]), max(p[0], p[2], p[4], p[6]), max(p[1], p[3], p[5], p[7])}
		if o, ok := at[key]; ok {
			r = r.union(o)
		}
		at[key] = r
	}
	return nil
}

// shown finds the elements of a frame whose text has something in it that is
// not shown.
func (b *Browser) shown(ctx context.Context, s *session, world int, text *call, c Concealer, at map[int]box) error {
	var r evalAnswer
	if err := text.get(ctx, &r); err != nil {
		return err
	}
	var t string
	if r.Exception != nil { // the guard is put into this frame just now: ask again
		return &protocolError{method: "Runtime.evaluate", Message: "the frame has no guard yet"}
	}
	if err := json.Unmarshal(r.Result.Value, &t, lax); err != nil {
		return err
	}
	spans := c.Spans([]byte(t))
	if len(spans) > maxConcealed {
		return errConcealed
	}
	for _, sp := range spans {
		// The guard counts in UTF-16.
		from, to := utf16Len(t[:sp[0]]), utf16Len(t[:sp[1]])
		v, err := b.conn.eval(ctx, s.id, "Runtime.evaluate", obj{"expression": fmt.Sprintf("%s.holders(%d,%d)", b.guard.key, from, to), "contextId": world})
		if err != nil {
			return err
		}
		var props struct {
			Result []struct {
				Value remote `json:"value"`
			} `json:"result"`
		}
		if err := b.conn.call(ctx, s.id, "Runtime.getProperties", obj{"objectId": v.ObjectID, "ownProperties": true}, &props); err != nil {
			return err
		}
		for _, p := range props.Result {
			if p.Value.Subtype != "node" {
				continue
			}
			// A key of its own; the same text is at the same place after the picture.
			key := -world*(1<<20) - sp[0]*16 - len(at)%16 - 1
			if err := b.place(ctx, s, obj{"objectId": p.Value.ObjectID}, key, at); err != nil {
				return err
			}
			b.conn.send(s.id, "Runtime.releaseObject", obj{"objectId": p.Value.ObjectID})
		}
		b.conn.send(s.id, "Runtime.releaseObject", obj{"objectId": v.ObjectID})
	}
	return nil
}

func utf16Len(s string) (n int) {
	for _, r := range s {
		if n++; r > 0xffff {
			n++
		}
	}
	return n
}

// ontoPage maps boxes of a process's viewport to the page's, through the frames
// that lie between.
func (b *Browser) ontoPage(ctx context.Context, page, s *session, at map[int]box, found map[string]box) error {
	if len(at) == 0 {
		return nil
	}
	for inner := s; inner != page; inner = inner.parent {
		outer := inner.parent
		if outer == nil {
			return nil
		}
		var owner struct {
			Backend int `json:"backendNodeId"`
		}
		if err := b.conn.call(ctx, outer.id, "DOM.getFrameOwner", obj{"frameId": inner.target}, &owner); err != nil {
			return err
		}
		var m struct {
			Model struct {
				Content []float64 `json:"content"`
				Border  []float64 `json:"border"`
				Width   float64   `json:"width"`
				Height  float64   `json:"height"`
			} `json:"model"`
		}
		if err := b.conn.call(ctx, outer.id, "DOM.getBoxModel", obj{"backendNodeId": owner.Backend}, &m); err != nil {
			return err
		}
		for k, r := range at {
			at[k] = project(m.Model.Content, m.Model.Border, m.Model.Width, m.Model.Height, r)
		}
	}
	for k, r := range at {
		found[s.id+"/"+strconv.Itoa(k)] = r
	}
	return nil
}

// project maps a box of a frame's viewport through the frame's transform. The
// border box, whose size is known before and after the transform, gives the
// scale. A frame that cannot be measured is blanked whole.
func project(content, border []float64, w, h float64, r box) box {
	if len(content) != 8 || len(border) != 8 || w <= 0 || h <= 0 {
		return box{math.Inf(-1), math.Inf(-1), math.Inf(1), math.Inf(1)}
	}
	ux, uy := (border[2]-border[0])/w, (border[3]-border[1])/w
	vx, vy := (border[6]-border[0])/h, (border[7]-border[1])/h
	var out box
	for i, p := range [4][2]float64{{r.x0, r.y0}, {r.x1, r.y0}, {r.x1, r.y1}, {r.x0, r.y1}} {
		x, y := content[0]+p[0]*ux+p[1]*vx, content[1]+p[0]*uy+p[1]*vy
		one := box{x, y, x, y}
		if i == 0 {
			out = one
		}
		out = out.union(one)
	}
	return out
}

// picture takes a picture that shows nothing concealed. take takes it, x0, y0
// (CSS pixels of the viewport) is its corner and width what it shows of the
// page's width; format is png or jpeg and take must give PNG where lossless is
// asked: the edges of what is painted over would show in what was lossy before.
//
// What is concealed is looked for before and after the picture, and a place that
// moved in between is blanked from where it was to where it is. A page that
// moves a field there and back in one frame shows it; such a page could as well
// draw what it knows elsewhere, and what it knows is at most what was typed into
// it: a secret of a credential source never reaches it.
//
// What lies over a field is blanked with it.
func (b *Browser) picture(ctx context.Context, page *session, format string, take func(lossless bool) ([]byte, error), x0, y0, width float64) ([]byte, error) {
	text := false
	before, err := b.concealed(ctx, page, text)
	if err != nil {
		return nil, err
	}
	for range 5 {
		lossless := len(before) > 0
		shot, err := take(lossless)
		if err != nil {
			return nil, err
		}
		after, err := b.concealed(ctx, page, true)
		if err != nil {
			return nil, err
		}
		if len(before)+len(after) == 0 {
			return shot, nil
		}
		// Text is rare, and looked for before only once it was found after. And
		// what came while a lossy picture was taken is in none.
		if found := hasText(after); !text && found || !lossless && format != "png" {
			text = text || found
			before = after
			continue
		}
		for k, r := range before {
			if o, ok := after[k]; ok {
				r = r.union(o)
			}
			after[k] = r
		}
		return paint(shot, format, after, x0, y0, width)
	}
	return nil, errors.New("screenshot: fields come and go")
}

// hasText reports whether an element is among the boxes for its text: its key
// is no node's.
func hasText(boxes map[string]box) bool {
	for k := range boxes {
		if strings.Contains(k, "/-") {
			return true
		}
	}
	return false
}

// paint blanks boxes. The picture is opaque there afterwards, whatever it was.
func paint(shot []byte, format string, boxes map[string]box, x0, y0, width float64) ([]byte, error) {
	src, err := png.Decode(bytes.NewReader(shot))
	if err != nil {
		return nil, fmt.Errorf("screenshot: %w", err)
	}
	dst, ok := src.(draw.Image)
	if !ok {
		return nil, errors.New("screenshot: a picture of that kind cannot be painted on")
	}
	scale := float64(dst.Bounds().Dx()) / width
	bound := func(v, origin float64, round func(float64) float64) int {
		return int(round(max(-1, min(1<<16, (v-origin)*scale))))
	}
	for _, r := range boxes {
		// A pixel more on each side: what is scaled bleeds.
		at := image.Rect(bound(r.x0, x0, math.Floor)-1, bound(r.y0, y0, math.Floor)-1, bound(r.x1, x0, math.Ceil)+1, bound(r.y1, y0, math.Ceil)+1)
		draw.Draw(dst, at.Add(dst.Bounds().Min), blank, image.Point{}, draw.Src)
	}
	var out bytes.Buffer
	if format == "jpeg" {
		err = jpeg.Encode(&out, dst, &jpeg.Options{Quality: 80})
	} else {
		e := png.Encoder{CompressionLevel: png.BestSpeed}
		err = e.Encode(&out, dst)
	}
	return out.Bytes(), err
}
