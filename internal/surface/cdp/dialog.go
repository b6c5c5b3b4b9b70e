package cdp

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"unicode/utf8"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/record"
)

const maxPrompt = 4 << 10

// dialog answers a question of the page. To dismiss it needs nobody, and to
// accept an alert says nothing more than that. To accept any other is an input
// with a decision of its own, computer.accept_dialog: in no capability unless it
// is named there. The page stands still meanwhile, and with it every input that
// waits for it, so that the decision is not made at their turn.
func dialog(c *client, r request, s *session) {
	var p struct {
		Accept bool   `json:"accept"`
		Text   string `json:"promptText"`
	}
	page := c.pageOf(s)
	if !into(r.params, &p) || page == nil || len(p.Text) > maxPrompt {
		c.fail(r, plain(codeParams, "Invalid parameters"))
		return
	}
	if p.Accept && c.dialogs[s] == "alert" {
		c.done(r, nil)
		return
	}
	e, kind, message, ref, open := c.up.TakeDialog(page.id)
	switch {
	case !open && p.Accept:
		c.fail(r, refuse("cdp_dialog", "the dialog was dismissed already", "answer a dialog as it opens"))
	case !open:
		c.done(r, nil)
	default:
		go func() {
			if !p.Accept {
				c.up.DismissDialog(ref)
				c.post(func() { c.done(r, nil) })
				return
			}
			why := c.accept(e, kind, message, p.Text, page.id, ref)
			c.post(func() {
				if why != nil {
					c.fail(r, why)
					return
				}
				c.done(r, nil)
			})
		}()
	}
}

// accept asks the gate, and says yes if it may. Whatever else comes of it, the
// dialog is dismissed: a page is not left standing.
func (c *client) accept(e action.Element, kind, message, text, page string, ref any) *problem {
	a := c.hands.action("accept_dialog", action.Read)
	a.Element, a.App = &e, c.s.c.AppOf(e.FrameOrigin)
	// The words are the page's. They are quoted for who decides, and are no ground.
	a.Params["dialog"], a.Params["pageSays"] = kind, strconv.QuoteToASCII(readable(message, 200))
	var blobs []record.Blob
	if text != "" {
		a.Params["textLength"] = strconv.Itoa(utf8.RuneCountInString(text))
		blobs = append(blobs, record.Blob{Name: "typed-text", Type: "text/plain; charset=utf-8", Data: []byte(text)})
	}
	m := hmac.New(sha256.New, c.s.key)
	m.Write([]byte(message + "\x00" + text))
	d, err := canon.DigestOf(form{Task: c.s.c.Task, Operation: a.Operation, Page: page, Kind: kind, Keyed: hex.EncodeToString(m.Sum(nil)), Target: e})
	if err != nil {
		c.up.DismissDialog(ref)
		return refuse("cdp_dialog", "the dialog has no canonical form", "act on the page itself")
	}
	a.Digest = d
	answered := false
	res := c.s.c.Gate.Act(c.ctx, a, blobs, func(ctx context.Context, p gate.Permit) action.Outcome {
		id := p.Action().ID
		c.s.c.Journal.Note(id, "click", "", e)
		state, err := c.up.AcceptDialog(ctx, ref, p, d, text)
		answered = state != action.Failed
		if err != nil && !answered {
			c.s.c.Journal.Forget(id)
			return action.Outcome{State: action.Failed, Detail: "the dialog was not accepted"}
		}
		if err != nil {
			return action.Outcome{State: action.Unknown, Detail: "the browser did not confirm the answer"}
		}
		return action.Outcome{State: action.Done}
	})
	if !answered {
		c.up.DismissDialog(ref)
	}
	return outcome(res)
}
