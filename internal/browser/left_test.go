package browser

import (
	"context"
	"errors"
	"testing"
	"time"
)

// A pop-up that could not be opened does not keep what its opener shows out of
// reach: it can be looked at, and the next input closes it and goes nowhere.
//
// Threats: T6, T49 (browser)
func TestPopupThatCouldNotBeOpened(t *testing.T) {
	w := open(t, Config{})
	pages := func(n int, then func(s *session) bool) {
		w.t.Helper()
		ctx, cancel := context.WithTimeout(w.t.Context(), 10*time.Second)
		defer cancel()
		if err := w.await(ctx, func() bool { return len(w.Browser.pages) == n && (then == nil || then(w.Browser.pages[n-1])) }); err != nil {
			w.t.Fatalf("waited for %d pages: %v", n, err)
		}
	}
	for name, script := range map[string]string{
		"refused":       `open('/refused')`,
		"noopener":      `open('http://elsewhere.test/refused','_blank','noopener')`,
		"cut":           `open('/cut')`,
		"good_then_cut": `(p=>setTimeout(()=>p.location='/cut',200))(open('/listen'))`,
		"crashed":       `open('http://elsewhere.test/listen','_blank','noopener')`,
	} {
		t.Run(name, func(t *testing.T) {
			w.t = t
			w.set("/listen", listening)
			w.load("opener", twoButtons)
			w.eval(script + ";1")
			pages(2, nil)
			if name == "crashed" {
				waitURL(w, "http://elsewhere.test/listen")
				w.until("document.readyState==='complete'")
				page, err := w.current(t.Context())
				if err != nil {
					t.Fatal(err)
				}
				w.conn.send(page.id, "Page.crash", nil)
				pages(2, func(s *session) bool { return s.crashed })
			} else {
				pages(2, func(s *session) bool { return s.refused })
				if _, err := w.Screenshot(t.Context()); err != nil {
					t.Errorf("it cannot be looked at: %v", err)
				}
			}
			if _, err := w.Ground(t.Context(), 100, 50); !errors.Is(err, ErrLeft) {
				t.Errorf("got %v, want ErrLeft", err)
			}
			pages(1, nil)
			w.must(w.ground(100, 50), Click{})
			if got := w.eval("String(window.clicks)"); got != "1" {
				t.Errorf("the opener got %s clicks", got)
			}
		})
	}
	w.t = t
	// One that opened stays, and so does the only page, whatever it shows.
	w.load("opener", twoButtons)
	w.eval("open('/listen');1")
	pages(2, nil)
	w.ground(100, 50)
	pages(2, nil)
	w.closePopups()
	w.Navigate(t.Context(), "http://site.test/refused")
	if _, err := w.Ground(t.Context(), 100, 50); err != nil {
		t.Errorf("the only page: %v", err)
	}
	w.load("opener", twoButtons)
	for range 2 {
		w.eval("open('/refused');1")
	}
	pages(3, func(s *session) bool { return s.refused && w.Browser.pages[1].refused })
	if err := w.Navigate(t.Context(), "http://site.test/opener"); err != nil { // the way home closes one, too
		t.Fatal(err)
	}
	pages(2, nil)
}
