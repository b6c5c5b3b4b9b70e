package cdp

import (
	"github.com/go-json-experiment/json/jsontext"
)

// answers are the methods that are answered or changed here. Whatever the table
// calls rewrite has one; a test holds them to it.
var answers = map[string]func(*client, request, *session){
	"Browser.getWindowForTarget": func(c *client, r request, s *session) {
		c.done(r, toJSON(map[string]any{"windowId": 1, "bounds": c.bounds()}))
	},
	"Browser.getWindowBounds": func(c *client, r request, s *session) { c.done(r, toJSON(map[string]any{"bounds": c.bounds()})) },
	"Browser.close": func(c *client, r request, s *session) {
		c.done(r, nil)
		c.out.finish()
	},
	"Browser.setWindowBounds": nothing, "Browser.setContentsSize": nothing, "Page.setDownloadBehavior": nothing,
	"Browser.setDownloadBehavior": func(c *client, r request, s *session) {
		var p struct {
			Events bool `json:"eventsEnabled"`
		}
		into(r.params, &p)
		c.downloads = p.Events
		c.done(r, nil)
	},
	"Emulation.setDeviceMetricsOverride": nothing, "Emulation.clearDeviceMetricsOverride": nothing, "Emulation.setFocusEmulationEnabled": nothing,
	"Emulation.setTouchEmulationEnabled": nothing, "Emulation.setEmitTouchEventsForMouse": nothing, "Page.setFontFamilies": nothing,
	"Input.cancelDragging": nothing,
	"Input.setInterceptDrags": func(c *client, r request, s *session) {
		var p struct {
			Enabled bool `json:"enabled"`
		}
		if !into(r.params, &p) || s == nil {
			c.fail(r, plain(codeParams, "Invalid parameters"))
			return
		}
		s.drags = p.Enabled
		c.done(r, nil)
	},
	"Page.setInterceptFileChooserDialog": func(c *client, r request, s *session) {
		c.forward(r, s, without(r.params, "cancel"), nil)
	},
	"DOMSnapshot.captureSnapshot": func(c *client, r request, s *session) { c.forward(r, s, r.params, withoutPasswords) },
	"Audits.enable":               nothing, "Audits.disable": nothing, "WebMCP.enable": nothing, "WebMCP.disable": nothing,
	"Network.enable": func(c *client, r request, s *session) {
		// Without buffers no body can be asked for, whoever asks.
		c.forward(r, s, jsontext.Value(`{"maxTotalBufferSize":0,"maxResourceBufferSize":0,"maxPostDataSize":0}`), nil)
	},
	"Page.captureScreenshot":                screenshot,
	"Page.navigate":                         navigate,
	"Page.addScriptToEvaluateOnNewDocument": addScript,
	"Page.createIsolatedWorld": func(c *client, r request, s *session) {
		c.forward(r, s, without(r.params, "grantUniveralAccess"), nil)
	},
	"Page.bringToFront":     func(c *client, r request, s *session) { c.front(r, c.pageOf(s)) },
	"Target.activateTarget": func(c *client, r request, s *session) { c.front(r, c.find(c.targetID(r))) },
	"Page.close":            func(c *client, r request, s *session) { c.closePage(r, c.pageOf(s), nil) },
	"Target.closeTarget": func(c *client, r request, s *session) {
		c.closePage(r, c.find(c.targetID(r)), []byte(`{"success":true}`))
	},
	"Page.handleJavaScriptDialog": dialog,
	"Runtime.evaluate":            evaluate,
	"Runtime.callFunctionOn":      evaluate,
	"Runtime.runIfWaitingForDebugger": func(c *client, r request, s *session) {
		if s != nil && s.target.waiting {
			s.target.waiting = false
			c.up.Resume(s.target.id)
		}
		c.done(r, nil)
	},
	"Target.attachToTarget": attachTo,
	"Target.attachToBrowserTarget": func(c *client, r request, s *session) {
		// The same view once more, by another name: Playwright's own sessions
		// are made from one.
		c.attach(c.self, s, false, func(n *session) {
			if n == nil {
				c.fail(r, refuse("cdp_limit", "there are too many sessions", "detach one"))
				return
			}
			c.done(r, toJSON(map[string]string{"sessionId": n.id}))
		})
	},
	"Emulation.setUserAgentOverride": language,
	"Network.setUserAgentOverride":   language,
	"Target.detachFromTarget":        detachFrom,
	"Target.createBrowserContext":    createContext,
	"Target.disposeBrowserContext":   disposeContext,
	"Target.getBrowserContexts": func(c *client, r request, s *session) {
		out := map[string]any{"browserContextIds": sortedKeys(c.made)}
		if d := c.defaultContext(); d != "" {
			out["defaultBrowserContextId"] = d
		}
		c.done(r, toJSON(out))
	},
	"Target.createTarget":       createTarget,
	"Target.getTargetInfo":      targetInfo,
	"Target.getTargets":         getTargets,
	"Target.setAutoAttach":      setAutoAttach,
	"Target.setDiscoverTargets": setDiscover,
}

// nothing answers without effect.
func nothing(c *client, r request, _ *session) { c.done(r, nil) }

func (c *client) rewrite(r request, s *session) {
	if f := answers[r.method]; f != nil {
		f(c, r, s)
		return
	}
	c.fail(r, refuse("cdp_denied_method", r.method+" has no answer", ""))
}

func (c *client) bounds() map[string]any {
	return map[string]any{"left": 0, "top": 0, "width": c.s.c.Width, "height": c.s.c.Height, "windowState": "normal"}
}

// pageOf is the page that a session belongs to.
func (c *client) pageOf(s *session) *target {
	if s == nil {
		return nil
	}
	t := s.target
	if t.page != nil {
		return t.page
	}
	for t != nil && t.kind != "page" {
		t = c.targets[t.parent]
	}
	return t
}

func (c *client) targetID(r request) string {
	var p struct {
		ID string `json:"targetId"`
	}
	into(r.params, &p)
	return p.ID
}

func noTarget() *problem { return plain(codeParams, "No target with given id found") }

func (c *client) front(r request, t *target) {
	if t != nil && t.page != nil {
		t = t.page
	}
	if t == nil || t.kind != "page" || c.up.Front(t.id) != nil {
		c.fail(r, noTarget())
		return
	}
	c.done(r, nil)
}

func (c *client) closePage(r request, t *target, result []byte) {
	if t != nil && t.page != nil {
		t = t.page
	}
	if t == nil || t.kind != "page" {
		c.fail(r, noTarget())
		return
	}
	c.up.Send(0, "Target.closeTarget", toJSON(map[string]string{"targetId": t.id}), func(_, fault []byte) {
		c.post(func() {
			if fault != nil {
				c.fail(r, noTarget())
				return
			}
			c.done(r, result)
		})
	})
}

// screenshot takes the picture, has it recorded as evidence of a decision, and
// only then lets it out.
func screenshot(c *client, r request, s *session) {
	var p struct {
		Format string `json:"format"`
	}
	page := c.pageOf(s)
	if !into(r.params, &p) || page == nil || s.number == 0 {
		c.fail(r, plain(codeParams, "Invalid parameters"))
		return
	}
	if p.Format == "" {
		p.Format = "png"
	}
	c.up.Send(s.number, r.method, r.params, func(result, fault []byte) {
		if fault != nil {
			c.post(func() { c.fault(r, fault) })
			return
		}
		c.hands.picture("image/"+p.Format, result, func(why *problem) {
			c.post(func() {
				if why != nil {
					c.fail(r, why)
					return
				}
				c.done(r, result)
			})
		})
	})
}

func navigate(c *client, r request, s *session) {
	var p struct {
		URL string `json:"url"`
	}
	if !into(r.params, &p) || p.URL == "" || !address(p.URL) {
		why := refuse("cdp_address", "only http and https addresses are opened", "navigate to an address of an application of the task")
		c.record(why, r.method, []byte(r.method))
		c.fail(r, why)
		return
	}
	c.forward(r, s, r.params, nil)
}

// language lets a client choose the language that pages are asked for in, and
// nothing else of what the browser says it is.
func language(c *client, r request, s *session) {
	var p struct {
		Agent    string `json:"userAgent"`
		Language string `json:"acceptLanguage"`
	}
	if !into(r.params, &p) || p.Agent != "" {
		why := refuse("cdp_denied_method", "requests must say what browser they are of", "leave the user agent as it is")
		c.record(why, r.method, []byte(r.method))
		c.fail(r, why)
		return
	}
	c.forward(r, s, toJSON(map[string]string{"userAgent": "", "acceptLanguage": p.Language}), nil)
}
