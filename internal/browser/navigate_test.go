package browser

import (
	"testing"
	"time"
)

// What is opened is what is shown when Navigate returns: not the document before it,
// which was still loading and came to its end meanwhile.
func TestNavigateWaitsForItsOwnDocument(t *testing.T) {
	w := open(t, Config{})
	w.load("start", "")
	w.set("/old", "<!doctype html><title>old</title><body onload=\"fetch('/loaded')\"><img src=/old.png>")
	w.set("/new", "<!doctype html><title>new</title><img src=/new.png>")
	endOld, answer, endNew := w.hold("/old.png"), w.hold("/new"), w.hold("/new.png")
	w.try("location='/old'")
	w.waitHit(t, "GET site.test/old.png")
	done := make(chan error, 1)
	go func() { done <- w.Navigate(t.Context(), "http://site.test/new") }()
	w.waitHit(t, "GET site.test/new")
	endOld()
	w.waitHit(t, "GET site.test/loaded")
	answer()
	w.waitHit(t, "GET site.test/new.png")
	select {
	case err := <-done:
		t.Errorf("it returned before its document had loaded: %v", err)
	case <-time.After(100 * time.Millisecond): // it waits, as it should
		endNew()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}
