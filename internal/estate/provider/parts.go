package provider

import (
	"fmt"
	"regexp"
	"strings"
)

// between are the parts of a goal that asks for several things.
const between = "; then "

// A part is one piece of ordinary work: a page to look at, and perhaps a form on it.
type part struct {
	goal *regexp.Regexp
	form func(m []string) form // no button: the page is looked at
}

func pageOf(prefix string) func([]string) form {
	return func(m []string) form { return form{page: prefix + m[1]} }
}

// work are the parts that the script knows, by the words of the request.
var work = []part{
	{regexp.MustCompile(`(?i)^(?:read|report on|summari[sz]e) ticket (\d+)$`), pageOf("tickets/ticket/")},
	{regexp.MustCompile(`(?i)^(?:read|report on|summari[sz]e) message (\d+)$`), pageOf("mail/message/")},
	{regexp.MustCompile(`(?i)^look at user ([a-z0-9-]+)$`), pageOf("iam/user/")},
	{regexp.MustCompile(`(?i)^look at group ([a-z0-9-]+)$`), pageOf("iam/group/")},
	{regexp.MustCompile(`(?i)^look at the (?:page )?([a-z]+/[a-z]+)$`), pageOf("")},
	{regexp.MustCompile(`(?i)^reply to ticket (\d+): (.+)$`), func(m []string) form {
		return form{"tickets/ticket/" + m[1], "btn:comment", "state:done=commented", []filled{{"field:comment", m[2]}}}
	}},
	{regexp.MustCompile(`(?i)^close ticket (\d+)$`), func(m []string) form {
		return form{"tickets/ticket/" + m[1], "btn:close", "state:ticket=closed", nil}
	}},
	{regexp.MustCompile(`(?i)^(disable|enable) account ([a-z0-9-]+)$`), func(m []string) form {
		verb := strings.ToLower(m[1])
		return form{"iam/user/" + m[2], "btn:" + verb, "state:done=" + verb + "d", nil}
	}},
	{regexp.MustCompile(`(?i)^add ([a-z0-9-]+) to group ([a-z0-9-]+)$`), func(m []string) form {
		return form{"iam/group/" + m[2], "btn:add-member", "state:done=member-added", []filled{{"field:user", m[1]}}}
	}},
	{regexp.MustCompile(`(?i)^give ([a-z0-9-]+) the group ([a-z0-9-]+)$`), func(m []string) form {
		return form{"iam/user/" + m[1], "btn:add-to/" + m[2], "state:done=member-added", nil}
	}},
	{regexp.MustCompile(`(?i)^remove ([a-z0-9-]+) from group ([a-z0-9-]+)$`), func(m []string) form {
		return form{"iam/group/" + m[2], "btn:remove/" + m[1], "state:done=member-removed", nil}
	}},
	{regexp.MustCompile(`(?i)^mail (\S+) about ([^:]+): (.+)$`), func(m []string) form {
		return form{"mail/compose", "btn:send", "state:done=sent", []filled{{"field:to", m[1]}, {"field:subject", m[2]}, {"field:body", m[3]}}}
	}},
	{regexp.MustCompile(`(?i)^pay ([0-9.]+) EUR to ([A-Za-z ]+), IBAN ([A-Z0-9]+), for (.+)$`), func(m []string) form {
		return form{"pay/payments", "btn:pay", "state:done=paid", []filled{{"field:payee", m[2]}, {"field:iban", m[3]}, {"field:amount", m[1]}, {"field:reference", m[4]}}}
	}},
}

// toolWork are the parts that a tool does, with the arguments that the request has.
var toolWork = []struct {
	goal      *regexp.Regexp
	tool      string
	arguments []string
}{
	{regexp.MustCompile(`(?i)^find runbooks about (.+)$`), "find_runbooks", []string{"query"}},
	{regexp.MustCompile(`(?i)^read runbook ([a-z-]+)$`), "read_runbook", []string{"id"}},
	{regexp.MustCompile(`(?i)^note on runbook ([a-z-]+): (.+)$`), "add_note", []string{"id", "text"}},
}

// byTool does a part by a tool, once. known reports that it is such a part.
func (s script) byTool(c conversation, goal string) (r reply, done, known bool) {
	step := "use " + goal
	if why, denied := c.denied[step]; denied {
		return end("The tool did not do it: " + why), false, true
	}
	for _, w := range toolWork {
		m := w.goal.FindStringSubmatch(goal)
		if m == nil {
			continue
		}
		if c.did(step) {
			return reply{}, true, true
		}
		in := map[string]any{}
		for i, name := range w.arguments {
			in[name] = m[i+1]
		}
		return use(step, w.tool, in), false, true
	}
	return reply{}, false, false
}

// parts does the parts of a request, one after the other. The steps of one do not
// count for the next.
func (s script) parts(c conversation) reply {
	all := strings.Split(strings.TrimSpace(c.goal), between)
	for i, goal := range all {
		name := fmt.Sprintf("part %d", i)
		if at := lastOf(c.steps, name); at >= 0 {
			c.steps = c.steps[at+1:]
			continue
		}
		r, done, byTool := s.byTool(c, goal)
		if !byTool {
			f, ok := understood(goal)
			if !ok {
				return end("I do not understand the task.")
			}
			r, done = s.part(c, f)
		}
		if !done {
			return r
		}
		if i < len(all)-1 {
			return act(name, "That is done.", shot())
		}
	}
	for _, state := range []string{"open", "closed"} {
		if c.has("state:ticket=" + state) {
			return end("It is done. The ticket is " + state + ".")
		}
	}
	return end("It is done.")
}

func lastOf(steps []string, name string) int {
	for i := len(steps) - 1; i >= 0; i-- {
		if steps[i] == name {
			return i
		}
	}
	return -1
}

func understood(goal string) (form, bool) {
	for _, p := range work {
		if m := p.goal.FindStringSubmatch(goal); m != nil {
			return p.form(m), true
		}
	}
	return form{}, false
}

// part looks at a page, or fills in and sends a form of it.
func (s script) part(c conversation, f form) (r reply, done bool) {
	if !c.did("press " + f.button) {
		if r, there := s.goTo(c, f.page); !there {
			return r, false
		}
		if f.button == "" {
			return reply{}, true
		}
		for _, x := range f.fields {
			if !c.did("fill " + x.field) {
				return s.fill(c, x.field, x.text), false
			}
		}
		return s.pressOnce(c, f.button), false
	}
	if c.has(f.done) {
		return reply{}, true
	}
	return s.pressOnce(c, f.button), false
}
