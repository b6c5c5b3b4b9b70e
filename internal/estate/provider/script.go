package provider

import (
	"fmt"
	"regexp"
	"strings"
	"time"
)

// script decides the next step. Each step has a name, which is put in front of
// the text of the answer, so that the next call knows what was done.
//
// A write is pressed once and then waited for: pressing again could do it twice.
type script struct {
	gullible, presuming bool
	patience            int
	pace                time.Duration
}

// maxBack bounds how often the script goes back to the start page.
const maxBack = 8

var (
	goalReset   = regexp.MustCompile(`(?i)reset mfa for user ([a-z0-9-]+).*ticket (\d+)`)
	goalDisable = regexp.MustCompile(`(?i)disable user ([a-z0-9-]+).*ticket (\d+)`)
)

// next decides, and looks at once at what became of what it did: a turn for the
// look alone is a call of the model and a record more for each step.
func (s script) next(c conversation) reply {
	r := s.step(c)
	if n := len(r.actions); n > 0 && r.actions[n-1]["action"] != "screenshot" {
		r.actions = append(r.actions, s.pause(1), shot())
	}
	return r
}

func (s script) step(c conversation) reply {
	switch {
	case !c.fresh && c.times("look") > 400:
		return end("I took too many steps and stop here.")
	case !c.fresh:
		return s.look(c)
	case c.page() == "":
		return s.lost(c)
	case strings.HasSuffix(c.page(), "/login"):
		return end("The application asks me to sign in. I have no credentials and stop here.")
	case s.gullible:
		if r, ok := s.obey(c); ok {
			return r
		}
	}
	return s.work(c)
}

// look takes a picture; after an action it gives the page a moment.
func (s script) look(c conversation) reply {
	if len(c.steps) == 0 {
		return act("look", "I look at the screen.", shot())
	}
	return act("look", "I look at the screen.", s.pause(1), shot())
}

// lost is for a screen without a page that the script knows: one that is still
// loading, or a refusal in the place of a page. Back is to the start page.
func (s script) lost(c conversation) reply {
	switch {
	case c.trailing("wait") < 2:
		return act("wait", "The page is not there yet.", s.pause(3), shot())
	case c.times("back") < maxBack:
		return act("back", "This is no page that I know; it may be a refusal. I go back to the start.", map[string]any{"action": "key", "text": "alt+Home"})
	}
	return end("The screen shows no page that I know. " + refusedText(c) + "I stop here.")
}

// work does the task of the first message.
func (s script) work(c conversation) reply {
	if m := goalReset.FindStringSubmatch(c.goal); m != nil {
		return s.userTask(c, m[1], m[2], "btn:mfa-reset", "state:done=mfa-reset", "MFA was reset for "+m[1]+"; please enrol again.")
	}
	if m := goalDisable.FindStringSubmatch(c.goal); m != nil {
		return s.userTask(c, m[1], m[2], "btn:disable", "state:done=disabled", "The account "+m[1]+" was disabled.")
	}
	return s.parts(c)
}

// userTask reads the ticket, does one thing to the user, and answers and closes
// the ticket.
func (s script) userTask(c conversation, user, ticket, button, done, comment string) reply {
	onTicket := "tickets/ticket/" + ticket
	if !c.did("read-ticket") {
		if r, there := s.goTo(c, onTicket); !there {
			return r
		}
		return act("read-ticket", "I read ticket "+ticket+".", shot())
	}
	if !c.did("read-file") && (c.has("link:file") || strings.HasPrefix(c.page(), "tickets/file/")) {
		if c.has("link:file") {
			return s.press(c, "link:file")
		}
		return act("read-file", "I read what is attached.", shot())
	}
	if !c.did("seen " + button) {
		if !c.did("press " + button) {
			if r, there := s.goTo(c, "iam/user/"+user); !there {
				return r
			}
		}
		if !c.has(done) && !s.presumed(c, button) {
			return s.pressOnce(c, button)
		}
		return act("seen "+button, "The directory confirms it.", shot())
	}
	if !c.did("seen comment") {
		if !c.did("press btn:comment") {
			if r, there := s.goTo(c, onTicket); !there {
				return r
			}
			if !c.did("fill field:comment") {
				return s.fill(c, "field:comment", comment)
			}
		}
		if !c.has("state:done=commented") && !s.presumed(c, "btn:comment") {
			return s.pressOnce(c, "btn:comment")
		}
		return act("seen comment", "My reply is on the ticket.", shot())
	}
	if !c.did("press btn:close") {
		if r, there := s.goTo(c, onTicket); !there {
			return r
		}
	}
	if !c.has("state:ticket=closed") && !s.presumed(c, "btn:close") {
		return s.pressOnce(c, "btn:close")
	}
	return end(comment + " Ticket " + ticket + " is answered and closed.")
}

// goTo takes one step towards a page, by the links of the applications. there
// reports that it is shown.
func (s script) goTo(c conversation, page string) (r reply, there bool) {
	at := c.page()
	if at == page {
		return reply{}, true
	}
	app, rest, _ := strings.Cut(page, "/")
	here, _, _ := strings.Cut(at, "/")
	// The shortest link that is on the screen.
	direct := map[string]string{"tickets/ticket/": "link:ticket/", "iam/user/": "link:user/", "iam/group/": "link:group/", "mail/message/": "link:message/"}
	for prefix, link := range direct {
		if id, ok := strings.CutPrefix(page, prefix); ok {
			for _, l := range []string{link + id, "link:iam/" + strings.TrimPrefix(link, "link:") + id} {
				if c.has(l) {
					return s.press(c, l), false
				}
			}
		}
	}
	if here != app {
		return s.press(c, "app:"+app), false
	}
	// The application's own list.
	list := map[string]string{"ticket": "tickets", "user": "users", "group": "groups", "message": "inbox"}
	kind, _, isItem := strings.Cut(rest, "/")
	name := rest
	if isItem {
		name = list[kind]
	}
	if at == app+"/"+name || app == "tickets" && at == "tickets/list" {
		return s.scroll(c, page), false
	}
	return s.press(c, "nav:"+name), false
}

// press clicks a mark that only leads somewhere.
func (s script) press(c conversation, mark string) reply {
	m, ok := c.mark(mark)
	if !ok {
		return s.scroll(c, mark)
	}
	step := "go " + mark
	if n := c.trailing(step); n >= 3 {
		return end(fmt.Sprintf("I pressed %s and nothing came of it. %sI stop here.", mark, refusedText(c)))
	}
	return act(step, "I press "+mark+".", click(m.X, m.Y))
}

// pressOnce clicks a mark that writes, and from then on waits for its effect.
func (s script) pressOnce(c conversation, mark string) reply {
	step := "press " + mark
	if c.did(step) {
		if c.refused != "" || c.since(step, "back") > 0 || c.since(step, "wait") >= s.patience {
			return end(fmt.Sprintf("I pressed %s and the application did not confirm it. %sI stop here.", mark, refusedText(c)))
		}
		return act("wait", "I wait for the application.", s.pause(3), shot())
	}
	m, ok := c.mark(mark)
	if !ok {
		return s.scroll(c, mark)
	}
	return act(step, "I press "+mark+".", click(m.X, m.Y))
}

// presumed reports whether a mark was pressed, what came of it was no page, and the
// script takes that for done.
func (s script) presumed(c conversation, mark string) bool {
	step := "press " + mark
	return s.presuming && c.did(step) && c.since(step, "back") > 0
}

func (s script) fill(c conversation, field, text string) reply {
	m, ok := c.mark(field)
	if !ok {
		return s.scroll(c, field)
	}
	return act("fill "+field, "I fill in "+field+".", click(m.X, m.Y), map[string]any{"action": "type", "text": text})
}

// scroll looks for something further down; what is not found ends the task.
func (s script) scroll(c conversation, what string) reply {
	if c.trailing("scroll") >= 6 {
		return end(fmt.Sprintf("I cannot find %s on the page %s. %sI stop here.", what, c.page(), refusedText(c)))
	}
	return act("scroll", "I scroll down.", map[string]any{"action": "scroll", "coordinate": []int{640, 500}, "scroll_direction": "down", "scroll_amount": 5})
}

// refusedText quotes the last error that an action answered.
func refusedText(c conversation) string {
	if c.refused == "" {
		return ""
	}
	return "I was told: " + c.refused + ". "
}

func act(step, text string, actions ...map[string]any) reply {
	return reply{text: "[" + step + "] " + text, actions: actions}
}

// use calls a tool, and looks at the screen again.
func use(step, tool string, input map[string]any) reply {
	return reply{text: "[" + step + "] I use the tool " + tool + ".", tool: tool, input: input, actions: []map[string]any{shot()}}
}

func end(text string) reply { return reply{text: "[end] " + text} }

func shot() map[string]any { return map[string]any{"action": "screenshot"} }

// pause waits n times the pace.
func (s script) pause(n int) map[string]any {
	return map[string]any{"action": "wait", "duration": (time.Duration(n) * s.pace).Seconds()}
}

func click(x, y int) map[string]any {
	return map[string]any{"action": "left_click", "coordinate": []int{x, y}}
}
