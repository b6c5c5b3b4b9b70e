package cdp

import (
	"bytes"
	"encoding/base64"
	"net/url"
	"strings"

	"github.com/go-json-experiment/json"
)

// events are what a client hears of its sessions; every other event of the
// browser is dropped before it is kept for the client. The events of Target are made here.
var events = map[string]bool{}

func init() {
	for _, n := range strings.Fields(`
Browser.downloadProgress Browser.downloadWillBegin Input.dragIntercepted Page.fileChooserOpened
Accessibility.loadComplete Accessibility.nodesUpdated
DOM.attributeModified DOM.attributeRemoved DOM.characterDataModified DOM.childNodeCountUpdated DOM.childNodeInserted DOM.childNodeRemoved
DOM.documentUpdated DOM.setChildNodes DOM.shadowRootPopped DOM.shadowRootPushed DOM.pseudoElementAdded DOM.pseudoElementRemoved DOM.topLayerElementsUpdated
Inspector.targetCrashed Inspector.targetReloadedAfterCrash Inspector.workerScriptLoaded
Log.entryAdded
Network.dataReceived Network.loadingFailed Network.loadingFinished Network.requestServedFromCache Network.requestWillBeSent
Network.resourceChangedPriority Network.responseReceived Network.webSocketClosed Network.webSocketCreated Network.webSocketFrameError
Network.webSocketHandshakeResponseReceived Network.webSocketWillSendHandshakeRequest
Page.documentOpened Page.domContentEventFired Page.frameAttached Page.frameClearedScheduledNavigation Page.frameDetached Page.frameNavigated
Page.frameRequestedNavigation Page.frameResized Page.frameScheduledNavigation Page.frameStartedLoading Page.frameStartedNavigating Page.frameStoppedLoading
Page.frameSubtreeWillBeDetached Page.javascriptDialogClosed Page.javascriptDialogOpening Page.lifecycleEvent Page.loadEventFired
Page.navigatedWithinDocument Page.windowOpen
Performance.metrics
Runtime.bindingCalled Runtime.consoleAPICalled Runtime.exceptionRevoked Runtime.exceptionThrown Runtime.executionContextCreated
Runtime.executionContextDestroyed Runtime.executionContextsCleared`) {
		events[n] = true
	}
}

func (c *client) onEvent(n int, method string, params []byte) {
	s := c.byNumber[n]
	if n == 0 && c.downloads && strings.HasPrefix(method, "Browser.download") {
		c.emit(nil, method, params) // of what the browser then cancels
		return
	}
	if s == nil || method == "Input.dragIntercepted" && !s.drags {
		return
	}
	switch {
	case method == "Page.javascriptDialogOpening":
		var p struct {
			Type string `json:"type"`
		}
		json.Unmarshal(params, &p, lax)
		c.dialogs[s] = p.Type
	case strings.HasPrefix(method, "Network."):
		var ok bool
		if params, ok = cleanNetwork(params); !ok {
			return
		}
	}
	c.emit(s, method, params)
}

// secretHeaders carry credentials, or the boundary's own marks.
var secretHeaders = map[string]bool{"cookie": true, "set-cookie": true, "set-cookie2": true, "authorization": true,
	"proxy-authorization": true, "proxy-authenticate": true, "www-authenticate": true, "authentication-info": true, "x-csrf-token": true, "x-api-key": true}

// dropped are members of network events that hold bodies, cookies, or headers
// in a form that is not looked into.
var dropped = map[string]bool{"postData": true, "postDataEntries": true, "hasPostData": true, "headersText": true, "requestHeadersText": true,
	"associatedCookies": true, "blockedCookies": true, "exemptedCookies": true, "data": true, "payloadData": true}

// cleanNetwork takes credentials and bodies out of an event. Since the events
// with raw headers are not passed on, it also says that there are none.
func cleanNetwork(params []byte) ([]byte, bool) {
	var doc map[string]any
	if json.Unmarshal(params, &doc, lax) != nil {
		return nil, false
	}
	clean(doc)
	b, err := json.Marshal(doc, lax, json.Deterministic(true))
	return b, err == nil
}

func clean(v any) {
	switch v := v.(type) {
	case []any:
		for _, e := range v {
			clean(e)
		}
	case map[string]any:
		for name, e := range v {
			switch {
			case dropped[name]:
				delete(v, name)
			case name == "hasExtraInfo" || name == "redirectHasExtraInfo":
				v[name] = false
			case name == "headers" || name == "requestHeaders" || name == "refererHeaders":
				h, _ := e.(map[string]any)
				for k := range h {
					if secretHeaders[strings.ToLower(k)] {
						delete(h, k)
					}
				}
			default:
				clean(e)
			}
		}
	}
}

// redacted stands in the place of a secret.
const redacted = "[sallyport:redacted]"

// redact takes secrets out of a message: as they are, as JSON has them, as a
// URL has them, and in base64. A value of less than 6 bytes is not looked for.
func redact(b []byte, secrets []string) []byte {
	for _, s := range secrets {
		if len(s) < 6 {
			continue
		}
		escaped := quote(s)
		for _, form := range []string{s, escaped[1 : len(escaped)-1], url.QueryEscape(s), url.PathEscape(s),
			base64.StdEncoding.EncodeToString([]byte(s)), base64.URLEncoding.EncodeToString([]byte(s))} {
			// What could break the message as JSON is only in its other forms.
			if form == s && form != escaped[1:len(escaped)-1] {
				continue
			}
			if bytes.Contains(b, []byte(form)) {
				b = bytes.ReplaceAll(b, []byte(form), []byte(redacted))
			}
		}
	}
	return b
}
