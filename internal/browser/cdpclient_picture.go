package browser

import (
	"bytes"
	"context"
	"encoding/base64"
	"errors"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
)

// screenshot answers the client's own Page.captureScreenshot with a picture that
// shows nothing concealed. Where nothing is, the client's request goes through
// as it is. done is called from a goroutine of its own.
func (c *Client) screenshot(cs *clientSession, params []byte, done func(result, fault []byte)) {
	go func() {
		ctx, cancel := context.WithTimeout(c.b.life, 2*stepLimit)
		defer cancel()
		shot, err := c.capture(ctx, cs, params)
		if err == nil {
			result, _ := json.Marshal(obj{"data": base64.StdEncoding.EncodeToString(shot)}) // strings always marshal
			done(result, nil)
			return
		}
		code, text := -32000, err.Error()
		if pe := (*protocolError)(nil); errors.As(err, &pe) {
			code, text = pe.Code, pe.Message
		}
		fault, _ := json.Marshal(obj{"code": code, "message": clip(text, 300)})
		done(nil, fault)
	}()
}

func (c *Client) capture(ctx context.Context, cs *clientSession, params []byte) ([]byte, error) {
	var p struct {
		Format string `json:"format"`
		Clip   *struct {
			X     float64 `json:"x"`
			Y     float64 `json:"y"`
			Width float64 `json:"width"`
		} `json:"clip"`
		Beyond bool `json:"captureBeyondViewport"`
	}
	all := map[string]jsontext.Value{}
	if err := json.Unmarshal(params, &all, lax); err != nil {
		return nil, &protocolError{Code: -32602, Message: "Invalid parameters"}
	}
	if err := json.Unmarshal(params, &p, lax); err != nil {
		return nil, &protocolError{Code: -32602, Message: "Invalid parameters"}
	}
	x0, y0, width := 0.0, 0.0, float64(c.b.cfg.Width)
	if p.Clip != nil { // counted from the document's origin
		var lm struct {
			Viewport struct {
				X float64 `json:"pageX"`
				Y float64 `json:"pageY"`
			} `json:"cssVisualViewport"`
		}
		if err := c.b.conn.call(ctx, cs.s.id, "Page.getLayoutMetrics", nil, &lm); err != nil {
			return nil, err
		}
		x0, y0, width = p.Clip.X-lm.Viewport.X, p.Clip.Y-lm.Viewport.Y, p.Clip.Width
	}
	take := func(lossless bool) ([]byte, error) {
		if lossless {
			switch {
			case p.Beyond: // the page is laid out anew for it, so that places are others
				return nil, errors.New("the page has something that is not shown in pictures: take the viewport alone (captureBeyondViewport)")
			case p.Format != "" && p.Format != "png" && p.Format != "jpeg":
				return nil, errors.New("the page has something that is not shown in pictures: take png or jpeg")
			}
			all["format"] = jsontext.Value(`"png"`)
			delete(all, "quality")
		}
		raw, err := c.b.conn.send(cs.real, "Page.captureScreenshot", all).raw(ctx)
		if err != nil {
			return nil, err
		}
		return pictureIn(raw)
	}
	format := p.Format
	if format == "" {
		format = "png"
	}
	return c.b.picture(ctx, cs.s.page(), format, take, x0, y0, width)
}

// pictureIn decodes a picture straight out of the answer: base64 needs no
// unescaping.
func pictureIn(raw []byte) ([]byte, error) {
	_, rest, ok := bytes.Cut(raw, []byte(`"data":"`))
	end := bytes.IndexByte(rest, '"')
	if !ok || end < 0 {
		return nil, errors.New("screenshot: answer without data")
	}
	shot := make([]byte, base64.StdEncoding.DecodedLen(end))
	n, err := base64.StdEncoding.Decode(shot, rest[:end])
	return shot[:n], err
}
