package browser

import (
	"context"
	"iter"
	"math"
	"slices"
	"strings"

	"github.com/go-json-experiment/json"
)

type frameInfo struct {
	ID     string `json:"id"`
	Loader string `json:"loaderId"`
	URL    string `json:"url"`
	Origin string `json:"securityOrigin"`
}

type frameTree struct {
	Frame    frameInfo   `json:"frame"`
	Children []frameTree `json:"childFrames"`
}

func (t *frameTree) find(id string) (frameInfo, bool) {
	if t.Frame.ID == id {
		return t.Frame, true
	}
	for i := range t.Children {
		if f, ok := t.Children[i].find(id); ok {
			return f, true
		}
	}
	return frameInfo{}, false
}

// ids are all frames of the tree.
func (t *frameTree) ids() iter.Seq[string] {
	return func(yield func(string) bool) { t.each(yield) }
}

func (t *frameTree) each(yield func(string) bool) bool {
	if !yield(t.Frame.ID) {
		return false
	}
	for i := range t.Children {
		if !t.Children[i].each(yield) {
			return false
		}
	}
	return true
}

// parent is the frame that holds the frame id, in the same process.
func (t *frameTree) parent(id string) (frameInfo, bool) {
	for i := range t.Children {
		if t.Children[i].Frame.ID == id {
			return t.Frame, true
		}
		if f, ok := t.Children[i].parent(id); ok {
			return f, true
		}
	}
	return frameInfo{}, false
}

// origins are those of the frames from the root down to the frame id. A document
// that the frame above it made has none that the browser tells: its address
// stands there.
func (t *frameTree) origins(id string) []string {
	o := t.Frame.origin()
	if strings.HasPrefix(t.Frame.URL, "about:") {
		o = clip(t.Frame.URL, 40)
	}
	if t.Frame.ID == id {
		return []string{o}
	}
	for i := range t.Children {
		if below := t.Children[i].origins(id); below != nil {
			return append([]string{o}, below...)
		}
	}
	return nil
}

// frames is the way to a frame in the page, as action.Element says it; origin is
// the last of them.
func (p place) frames(origin string) string {
	path := append(slices.Clone(p.above), p.tree.origins(p.frame.ID)...)
	if len(path) < 2 {
		return ""
	}
	path[len(path)-1] = origin
	return strings.Join(path, " ")
}

// origin is the frame's origin in the form of action.Element: "null" is opaque.
func (f frameInfo) origin() string {
	if f.Origin == "" || f.Origin == "://" {
		return "null"
	}
	return f.Origin
}

type treeAnswer struct {
	Tree frameTree `json:"frameTree"`
}

// intoFrame maps a point of the session's viewport into the frame drawn at the
// found node, undoing its transform.
func (b *Browser) intoFrame(ctx context.Context, p place, x, y float64) (float64, float64, string, error) {
	var m struct {
		Model struct {
			Content []float64 `json:"content"`
		} `json:"model"`
	}
	if err := b.conn.call(ctx, p.session.id, "DOM.getBoxModel", obj{"backendNodeId": p.backend}, &m); err != nil {
		return 0, 0, "", err
	}
	object, err := b.resolve(ctx, p, p.backend)
	if err != nil {
		return 0, 0, "", err
	}
	p.object = object
	raw, err := b.on(ctx, p, "size", nil)
	if err != nil {
		return 0, 0, "", err
	}
	var s [4]float64 // paddings, then client size
	if err := json.Unmarshal(raw, &s); err != nil {
		return 0, 0, "", err
	}
	x, y, ok := unproject(m.Model.Content, s[2]-s[0], s[3]-s[1], x, y)
	if !ok {
		return 0, 0, "frame_transformed", nil
	}
	return x, y, "", nil
}

// unproject maps a point through the inverse of the affine map that takes the
// rectangle w x h to the quad q (clockwise from the top left corner). A quad
// that is no parallelogram (perspective) has no such map.
func unproject(q []float64, w, h, x, y float64) (float64, float64, bool) {
	if len(q) != 8 || w <= 0 || h <= 0 {
		return 0, 0, false
	}
	const slack = 0.5
	if math.Abs(q[0]+q[4]-q[2]-q[6]) > slack || math.Abs(q[1]+q[5]-q[3]-q[7]) > slack {
		return 0, 0, false
	}
	ax, ay, bx, by := q[2]-q[0], q[3]-q[1], q[6]-q[0], q[7]-q[1]
	det := ax*by - ay*bx
	if math.Abs(det) < 1 {
		return 0, 0, false
	}
	dx, dy := x-q[0], y-q[1]
	return (dx*by - dy*bx) / det * w, (ax*dy - ay*dx) / det * h, true
}
