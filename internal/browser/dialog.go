package browser

import (
	"log/slog"

	"github.com/go-json-experiment/json"
)

// Dialog is an alert, confirm, prompt or beforeunload question of a page.
// Message is written by the page.
type Dialog struct {
	Kind    string // alert, confirm, prompt, beforeunload
	Message string // at most 500 bytes
	URL     string // of the frame that asked
	Count   int    // how many there were in this browser so far, this one included
}

// Dialog returns the last dialog, if there was one. Every dialog was dismissed
// as it opened: confirm answered no, a page that asked to stay stayed. Nothing
// in Sallyport ever accepts one.
func (b *Browser) Dialog() (Dialog, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.dialog, b.dialog.Count > 0
}

func (b *Browser) onDialog(m message) error {
	var p struct {
		URL     string `json:"url"`
		Message string `json:"message"`
		Type    string `json:"type"`
	}
	if err := json.Unmarshal(m.params, &p, lax); err != nil {
		return err
	}
	b.mu.Lock()
	b.dialog = Dialog{Kind: p.Type, Message: clip(p.Message, 500), URL: clip(p.URL, 2000), Count: b.dialog.Count + 1}
	b.changed()
	b.mu.Unlock()
	go func() {
		k := b.conn.send(m.session, "Page.handleJavaScriptDialog", obj{"accept": false})
		if err := k.get(b.life, nil); err != nil {
			slog.Debug("dismiss a dialog", "error", err)
		}
	}()
	return nil
}
