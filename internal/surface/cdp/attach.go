package cdp

func attachTo(c *client, r request, s *session) {
	var p struct {
		ID      string `json:"targetId"`
		Flatten bool   `json:"flatten"`
	}
	if !into(r.params, &p) || !p.Flatten {
		c.fail(r, refuse("cdp_parameter", "only flat sessions exist", "send flatten: true"))
		return
	}
	t := c.find(p.ID)
	if t == nil {
		c.fail(r, noTarget())
		return
	}
	c.attach(t, s, false, func(n *session) {
		if n == nil {
			c.fail(r, noTarget())
			return
		}
		c.done(r, toJSON(map[string]string{"sessionId": n.id}))
	})
}

func detachFrom(c *client, r request, _ *session) {
	var p struct {
		Session string `json:"sessionId"`
	}
	var s *session
	if into(r.params, &p) {
		s = c.sessions[p.Session]
	}
	if s == nil {
		c.fail(r, plain(codeParams, "No session with given id"))
		return
	}
	if s.target.waiting { // whoever leaves does not keep a target from running
		s.target.waiting = false
		c.up.Resume(s.target.id)
	}
	if s.number != 0 {
		c.up.Detach(s.number)
	}
	c.drop(s)
	c.done(r, nil)
}

// defaultContext is our name of the context that no client made.
func (c *client) defaultContext() string {
	for _, id := range c.order {
		if a, _ := c.targets[id].info["browserContextId"].(string); a != "" && !c.made[a] {
			return a
		}
	}
	return ""
}

func createContext(c *client, r request, _ *session) {
	if len(c.made) >= maxContexts {
		c.fail(r, refuse("cdp_limit", "there are too many contexts", "dispose of one"))
		return
	}
	c.up.Send(0, r.method, []byte(`{"disposeOnDetach":true}`), func(result, fault []byte) {
		c.post(func() {
			var p struct {
				ID string `json:"browserContextId"`
			}
			if fault != nil || !into(result, &p) || p.ID == "" {
				c.fail(r, plain(codeServer, "no context could be made"))
				return
			}
			a := c.aliasOf(p.ID)
			c.made[a] = true
			c.done(r, toJSON(map[string]string{"browserContextId": a}))
		})
	})
}

func disposeContext(c *client, r request, _ *session) {
	var p struct {
		ID string `json:"browserContextId"`
	}
	if !into(r.params, &p) || !c.made[p.ID] {
		c.fail(r, plain(codeParams, "Failed to find context with id"))
		return
	}
	c.up.Send(0, r.method, toJSON(map[string]string{"browserContextId": c.contexts[p.ID]}), func(_, fault []byte) {
		c.post(func() {
			if fault != nil {
				c.fail(r, plain(codeParams, "Failed to find context with id"))
				return
			}
			delete(c.made, p.ID)
			c.done(r, nil)
		})
	})
}

// createTarget answers once the new page was told of, as Chromium does:
// clients look for its session when the answer comes.
func createTarget(c *client, r request, _ *session) {
	var p struct {
		URL     string `json:"url"`
		Context string `json:"browserContextId"`
	}
	if !into(r.params, &p) || !address(p.URL) {
		c.fail(r, refuse("cdp_address", "only http and https addresses are opened", "navigate to an address of an application of the task"))
		return
	}
	if c.pages() >= maxPages {
		c.fail(r, refuse("cdp_limit", "there are too many pages", "close one"))
		return
	}
	q := map[string]string{"url": p.URL}
	if p.Context != "" {
		if q["browserContextId"] = c.contexts[p.Context]; q["browserContextId"] == "" {
			c.fail(r, plain(codeParams, "Failed to find browser context with id "))
			return
		}
	}
	c.up.Send(0, r.method, toJSON(q), func(result, fault []byte) {
		c.post(func() {
			var p struct {
				ID string `json:"targetId"`
			}
			if fault != nil || !into(result, &p) || p.ID == "" {
				c.fail(r, plain(codeServer, "no page could be opened"))
				return
			}
			c.whenMet(p.ID, func() { c.whenAttached(p.ID, func() { c.done(r, toJSON(map[string]string{"targetId": p.ID})) }) })
		})
	})
}

// whenMet runs f once the target was told of, or is gone again.
func (c *client) whenMet(id string, f func()) {
	if c.targets[id] != nil {
		f()
		return
	}
	c.expect[id] = append(c.expect[id], f)
}

// whenAttached runs f when the sessions are there that the client's standing
// orders make of a new page: an answer of the browser comes behind them.
func (c *client) whenAttached(id string, f func()) {
	if t := c.targets[id]; t == nil || !c.root.on {
		f()
		return
	}
	c.up.Send(0, "Target.getTargetInfo", toJSON(map[string]string{"targetId": id}), func(_, _ []byte) { c.post(f) })
}

func targetInfo(c *client, r request, s *session) {
	id := c.targetID(r)
	if id == "" {
		t := c.self
		if s != nil {
			t = s.target
		}
		c.done(r, toJSON(map[string]any{"targetInfo": c.infoOf(t)}))
		return
	}
	t := c.find(id)
	if t == nil {
		c.fail(r, noTarget())
		return
	}
	c.done(r, toJSON(map[string]any{"targetInfo": c.infoOf(t)}))
}

func getTargets(c *client, r request, _ *session) {
	var p struct {
		Filter filter `json:"filter"`
	}
	if !into(r.params, &p) {
		c.fail(r, plain(codeParams, "Invalid parameters"))
		return
	}
	if p.Filter == nil {
		p.Filter = defaultFilter
	}
	infos := []any{}
	for _, id := range c.order {
		t := c.targets[id]
		for _, x := range []*target{t.tab, t} {
			if x != nil && p.Filter.wants(x.kind) {
				infos = append(infos, c.infoOf(x))
			}
		}
	}
	c.done(r, toJSON(map[string]any{"targetInfos": infos}))
}

func setDiscover(c *client, r request, _ *session) {
	var p struct {
		Discover bool   `json:"discover"`
		Filter   filter `json:"filter"`
	}
	if !into(r.params, &p) {
		c.fail(r, plain(codeParams, "Invalid parameters"))
		return
	}
	if !p.Discover {
		c.discover = nil
		c.done(r, nil)
		return
	}
	if p.Filter == nil {
		p.Filter = defaultFilter
	}
	c.discover = &p.Filter
	if p.Filter.wants("browser") {
		c.emit(nil, "Target.targetCreated", toJSON(map[string]any{"targetInfo": c.infoOf(c.self)}))
	}
	for _, id := range c.order {
		t := c.targets[id]
		for _, x := range []*target{t.tab, t} {
			if x != nil {
				c.tell(x, "Target.targetCreated", map[string]any{"targetInfo": c.infoOf(x)})
			}
		}
	}
	c.done(r, nil)
}

// setAutoAttach attaches to what is there and answers behind the last of it.
func setAutoAttach(c *client, r request, s *session) {
	var p struct {
		On      bool   `json:"autoAttach"`
		Wait    bool   `json:"waitForDebuggerOnStart"`
		Flatten bool   `json:"flatten"`
		Filter  filter `json:"filter"`
	}
	if !into(r.params, &p) || p.On && !p.Flatten {
		c.fail(r, refuse("cdp_parameter", "only flat sessions exist", "send flatten: true"))
		return
	}
	if p.Filter == nil {
		p.Filter = defaultFilter
	}
	a := autoAttach{p.On, p.Wait, p.Filter}
	if s == nil {
		c.root = a
	} else {
		s.auto = a
	}
	var todo []*target
	if a.on {
		todo = c.under(s, a)
	}
	left := len(todo) + 1
	step := func(*session) {
		if left--; left == 0 {
			c.done(r, nil)
		}
	}
	for _, t := range todo {
		c.attach(t, s, t.waiting && a.wait, step)
	}
	step(nil)
}

// under are the targets that a session attaches to by itself and has not yet.
func (c *client) under(s *session, a autoAttach) []*target {
	var out []*target
	add := func(t *target) {
		if t == nil || !a.filter.wants(t.kind) {
			return
		}
		for _, o := range c.sessionsOf(t) {
			if o.parent == s {
				return
			}
		}
		out = append(out, t)
	}
	for _, id := range c.order {
		t := c.targets[id]
		top := t.kind == "page" || t.kind == "service_worker" || t.kind == "shared_worker"
		switch {
		case (s == nil || s.target == c.self) && top:
			add(t.tab)
			add(t)
		case s != nil && s.target.page == t:
			add(t)
		case s != nil && !top && t.parent == s.target.id:
			add(t)
		}
	}
	return out
}
