// Package browser runs one managed Chromium for one session, and is the input
// door of it: it says what an input would hit, and makes sure that it hits
// that or nothing.
//
// Invariants:
//   - Input leaves only through Press, and through Mouse, Key, Type and
//     Upload of the one Client, each of which uses up a permit of the gate
//     before the first event, and one action is in flight at a time. A dialog is
//     accepted with a permit too, while the input that raised it is in flight.
//   - Every document has a guard before its first script runs. A target whose
//     guard could not be put in place takes no input.
//   - The guard lets trusted input through only to the element that was
//     decided on, with the facts that were decided on. No confirmation by the
//     guard is an error, never a success.
//   - No DevTools port exists: the protocol runs over two inherited pipes.
//     Anything unexpected on them closes the browser.
//   - Dialogs are dismissed unless a client of the protocol has a permit to
//     accept one; downloads are denied, file choosers never answered.
//
// Not trusted: pages. Names, roles and text of elements are theirs. A page can
// act without any input (its own scripts), which this door does not see: the
// egress door decides on every request. A page that attacks its own guard by
// document.open(), or writes into a window that it has just opened before the
// guard is there, gains only what its script could do anyway; a frame of another
// origin in another process keeps its guard.
//
// The page shown is the one opened last: a tab or window that a page opens
// becomes the current page, and when it closes the one before it is current
// again. A pop-up over the limit of eight is closed as it opens. One that shows
// a refusal of the egress door, an error, or nothing since it crashed, can be
// looked at, and is closed at the next input, which goes nowhere (ErrLeft).
package browser

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/contain"
)

// stepLimit bounds one step with the browser; a renderer that does not answer
// for so long is treated as gone.
const stepLimit = 15 * time.Second

// Config says which Chromium to run. The zero value is the headless shell at
// 1280 x 800.
type Config struct {
	Kind          string // "shell" (default) or "full"
	Width, Height int    // of the screen in CSS pixels; default 1280 x 800
	// TrustSPKI is the base64 SHA-256 of the one public key whose
	// certificates the browser accepts without a known issuer: the egress
	// proxy's. It weakens nothing else.
	TrustSPKI string
}

// Browser is one running Chromium. Methods may be called concurrently.
type Browser struct {
	cfg     Config
	conn    *conn
	proc    *contain.Process
	guard   guardNames
	flags   action.Digest
	version string
	life    context.Context // ends with Close
	end     context.CancelFunc
	clean   func()

	input chan struct{} // capacity 1: the one action in flight

	client atomic.Pointer[Client] // of the protocol, or nil
	hidden atomic.Pointer[Concealer]

	mu       sync.Mutex // guards the fields below; never held while waiting
	sessions map[string]*session
	pages    []*session // in order of opening; the last is shown
	change   chan struct{}
	dialog   Dialog
	// questions are the dialogs that wait for a client, by page.
	questions map[string]*question
	flight    *flight
	drag      *dragData
	sent      []sent // oldest first
}

// ProxyListener is the listener inside the browser's network namespace at
// 127.0.0.1:3128, the only way out of it. The egress proxy serves it.
func (b *Browser) ProxyListener() net.Listener { return b.proc.Listeners()[0] }

// Facts are what the boundary's manifest says of this browser: the product
// version that it reports, the digest of its flags (without the proxy's key,
// which is new in every session), and its kind.
func (b *Browser) Facts() (version string, flags action.Digest, kind string) {
	return b.version, b.flags, b.cfg.Kind
}

// Done is closed when the browser has ended, for whatever reason.
func (b *Browser) Done() <-chan struct{} { return b.conn.done }

// Process is the contained process, for the boundary's measurements.
func (b *Browser) Process() *contain.Process { return b.proc }

// Close ends the browser and everything in it. What is in flight fails.
func (b *Browser) Close() error {
	b.end()
	b.conn.close(errClosed)
	b.proc.Kill()
	b.clean()
	return nil
}

// Navigate opens an http or https address in the current page and waits until
// its document has loaded. It is the boundary's own step (a start page); an
// agent navigates by links, or by an action that was decided.
func (b *Browser) Navigate(ctx context.Context, raw string) error {
	if err := CheckURL(raw); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 2*stepLimit)
	defer cancel()
	if err := b.leave(ctx); err != nil && !errors.Is(err, ErrLeft) {
		return err
	}
	page, err := b.current(ctx)
	if errors.Is(err, ErrNoPage) {
		if err = b.conn.call(ctx, "", "Target.createTarget", obj{"url": "about:blank"}, nil); err != nil {
			return err
		}
		if err = b.await(ctx, func() bool { return len(b.pages) > 0 }); err != nil {
			return err
		}
		page, err = b.current(ctx)
	}
	if err != nil && !errors.Is(err, ErrCrashed) {
		return err
	}
	b.mu.Lock()
	crashes := page.crashes
	b.mu.Unlock()
	var r struct {
		Error    string `json:"errorText"`
		Loader   string `json:"loaderId"`
		Download bool   `json:"isDownload"`
	}
	if err := b.conn.call(ctx, page.id, "Page.navigate", obj{"url": raw}, &r); err != nil {
		return err
	}
	switch {
	case r.Download:
		return errors.New("navigate: the answer is a download, which is denied")
	case r.Error != "":
		return fmt.Errorf("navigate: %s", clip(r.Error, 200))
	case r.Loader == "": // within the document: nothing loads
		return nil
	}
	return b.await(ctx, func() bool { return page.hasLoaded(r.Loader) || page.crashes > crashes || b.sessions[page.id] == nil })
}

// CheckURL accepts exactly the addresses that Navigate opens: absolute, http
// or https, a host, no user information, no control character.
func CheckURL(raw string) error {
	for _, r := range raw {
		if r <= ' ' || r == 0x7f || r == '\\' {
			return fmt.Errorf("%w: control character, blank or backslash", ErrURL)
		}
	}
	u, err := url.Parse(raw)
	if err != nil {
		return fmt.Errorf("%w: not an address", ErrURL)
	}
	if u.Scheme != "http" && u.Scheme != "https" || u.Hostname() == "" || u.Opaque != "" || u.User != nil {
		return ErrURL
	}
	return nil
}

// CurrentURL is the address of the current page's document.
func (b *Browser) CurrentURL(ctx context.Context) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, stepLimit)
	defer cancel()
	page, err := b.current(ctx)
	if err != nil {
		return "", err
	}
	var ta treeAnswer
	if err := b.conn.call(ctx, page.id, "Page.getFrameTree", nil, &ta); err != nil {
		return "", err
	}
	return ta.Tree.Frame.URL, nil
}
