package benign

import (
	"bytes"
	"embed"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/estate"
	"github.com/sallyport-dev/sallyport/internal/server"
	"github.com/sallyport-dev/sallyport/test/rig"
)

//go:embed testdata
var testdata embed.FS

// add puts a resource file of this package beside those of the example.
func add(name string, replace ...string) func(map[string][]byte) {
	return func(files map[string][]byte) {
		b, err := fs.ReadFile(testdata, "testdata/"+name)
		if err != nil {
			panic(err) // it is in the binary
		}
		files[name] = []byte(strings.NewReplacer(replace...).Replace(string(b)))
	}
}

// desk is the sample tenant with an agent that works the whole service desk.
func desk(t *testing.T) *rig.Rig {
	t.Helper()
	r := rig.New(t, rig.Options{
		Edit: func(f map[string][]byte) {
			add("estate.yaml")(f)
			for _, name := range []string{"connectors", "credentials"} {
				f["desk-"+name+".yaml"] = bytes.ReplaceAll(f["desk/"+name+".yaml"], []byte("../"), nil)
			}
			rig.Replace("agent.yaml", "connectors: [iam, tickets]", "connectors: [iam, tickets, mail, pay]")(f)
			rig.Replace("agent.yaml", "capabilities: [reset-mfa]", "capabilities: [reset-mfa, triage, reply, directory, office, careless]")(f)
		},
	})
	r.Ready(t)
	return r
}

func intent(capability string) server.Intent {
	return server.Intent{Capability: capability, Stage: action.Sandbox, Params: map[string]string{}}
}

// triage only looks.
var triage = []workflow{
	wf("look at the queue", "press:app:tickets", "see:page:tickets/list").
		sees("link:ticket/4711", "link:ticket/4719").reads("/tickets"),
	wf("read a ticket", "press:app:tickets", "press:link:ticket/4711", "see:page:tickets/ticket/4711").
		sees("state:ticket=open", "state:comments=1").reads("/tickets/4711"),
	wf("go back to the queue and read the next", "press:app:tickets", "press:link:ticket/4712", "see:state:ticket=open", "press:nav:tickets",
		"press:link:ticket/4713", "see:page:tickets/ticket/4713").reads("/tickets/4712", "/tickets/4713"),
	wf("from a ticket to the person in the directory", "press:app:tickets", "press:link:ticket/4716", "press:link:iam/user/omar", "see:page:iam/user/omar").
		sees("state:mfa=enrolled", "state:account=active").reads("/tickets/4716", "/users/omar"),
	wf("search people", "press:field:search", "type:fischer\n", "gone:link:user/jo").
		sees("link:user/lena").reads("/users?q=fischer"),
	wf("search for nobody", "press:field:search", "type:zz top\n", "gone:link:user/jo").
		sees("page:iam/users").reads("/users?q=zz+top"),
	wf("search in another script", "press:field:search", "type:Łukasz 王\n", "gone:link:user/jo").
		sees("page:iam/users").reads("/users?q=%C5%81ukasz+%E7%8E%8B"),
	wf("search, change one's mind, search again", "press:field:search", "type:finance", "key:ctrl+a", "key:BackSpace", "type:sales\n", "gone:link:user/jo").
		sees("link:user/omar").reads("/users?q=sales"),
	wf("correct a typo with the arrow keys", "press:field:search", "type:marsch", "key:Left", "key:BackSpace", "key:Return", "gone:link:user/sam").
		sees("link:user/jo").reads("/users?q=marsh"),
	wf("replace a word by a double click", "press:field:search", "type:tom\n", "gone:link:user/jo", "double:field:search", "type:grace\n", "gone:link:user/tom").
		sees("link:user/grace").reads("/users?q=grace"),
	wf("open a person from what was found, by keyboard", "press:field:search", "type:priya\n", "gone:link:user/jo", "press:field:search", "key:Tab", "key:Return",
		"see:page:iam/user/priya").reads("/users/priya"),
	wf("look through the groups", "press:nav:groups", "press:link:group/finance", "see:page:iam/group/finance").
		sees("state:member=priya", "state:member=ana").reads("/groups", "/groups/finance"),
	wf("read the directory's audit log", "press:nav:audit", "see:page:iam/audit").reads("/audit"),
	wf("see who is signed in", "press:nav:account", "see:page:iam/account").reads("/account"),
	wf("scroll down a long page and up again", "press:link:user/jo", "see:page:iam/user/jo", "scroll:down 10", "scroll:up 10", "see:page:iam/user/jo").
		sees("btn:mfa-reset").reads("/users/jo"),
	wf("scroll by keys", "press:link:user/david", "see:page:iam/user/david", "key:Page_Down", "key:End", "key:ctrl+Home", "see:page:iam/user/david").reads("/users/david"),
	wf("zoom into a part of the picture", "press:link:user/kate", "see:page:iam/user/kate", "zoom:0,100,640,500", "zoom:600,200,1280,800").reads("/users/kate"),
	wf("point at things, press beside them", "hover:nav:groups", "hover:link:user/sam", "triple:page:iam/users", "right:page:iam/users", "key:Escape", "see:page:iam/users").
		sees("link:user/sam"),
	wf("mark text with the mouse", "press:link:user/ana", "see:page:iam/user/ana", "drag:page:iam/user/ana 200,60", "key:ctrl+c").reads("/users/ana"),
	wf("work through all four applications", "press:app:tickets", "see:page:tickets/list", "press:app:mail", "see:page:mail/inbox", "press:app:pay", "see:page:pay/payments",
		"press:app:iam", "see:page:iam/users").reads("/tickets", "/inbox", "/payments", "/users"),
	wf("read a mail", "press:app:mail", "press:link:message/103", "see:page:mail/message/103", "press:nav:inbox", "see:page:mail/inbox").reads("/messages/103", "/inbox"),
	wf("begin an answer and leave it", "press:app:mail", "press:link:message/105", "press:btn:answer", "press:field:body", "type:On my way.", "press:nav:sent", "see:page:mail/sent").
		sees("state:sent=0").reads("/sent"),
	wf("open a person in a tab of its own and return", "middle:link:user/tom", "see:page:iam/user/tom", "home:", "see:page:iam/users").
		sees("page:iam/users").reads("/users/tom", "/users"),
	wf("go home by keys", "press:link:user/omar", "see:page:iam/user/omar", "key:alt+Home", "see:page:iam/users").reads("/users/omar", "/users"),
	wf("mark text by hand", "hover:page:iam/users", `do:{"action":"left_mouse_down"}`, `do:{"action":"mouse_move","coordinate":[600,300]}`, `do:{"action":"left_mouse_up"}`,
		"see:page:iam/users"),
	wf("hold a key down", "press:field:search", `do:{"action":"hold_key","text":"k","duration":0.2}`, "key:Return", "gone:link:user/jo").sees("link:user/marek").reads("/users?q=k"),
	wf("look at the payments", "press:app:pay", "see:page:pay/payments").sees("state:payments=5").reads("/payments"),
}

const (
	unicodeText = "Grüße, Łódź, 東京, مرحبا, 👩🏽‍💻 e\u0301 — done ✓"
	markupText  = `<b>50 % & more</b> a=b&c=d "quoted" 'single' {{x}} \n %41; #tag @mara`
)

var longText = strings.Repeat("We have called back on the number on file. ", 70)

var reply = []workflow{
	wf("answer a ticket", "press:app:tickets", "press:link:ticket/4711", "press:field:comment", "type:We are on it.", "press:btn:comment", "see:state:done=commented").
		writes("tickets.ticket.comment 4711").sees("state:comments=2"),
	wf("answer in several scripts", "press:link:ticket/4712", "press:field:comment", "type:"+unicodeText, "press:btn:comment", "see:state:done=commented").
		writes("tickets.ticket.comment 4712"),
	wf("answer at length", "press:link:ticket/4713", "press:field:comment", "type:"+longText, "press:btn:comment", "see:state:done=commented").
		writes("tickets.ticket.comment 4713"),
	wf("answer in several lines", "press:link:ticket/4714", "press:field:comment", "type:Hello David,\n\nplease try again.\n\nThe helpdesk", "press:btn:comment", "see:state:done=commented").
		writes("tickets.ticket.comment 4714"),
	wf("answer with what looks like code", "press:link:ticket/4715", "press:field:comment", "type:"+markupText, "press:btn:comment", "see:state:done=commented").
		writes("tickets.ticket.comment 4715"),
	wf("write, mark all, write anew", "press:link:ticket/4716", "press:field:comment", "type:wrong ticket", "key:ctrl+a", "type:We have got your ticket, Omar.", "key:shift+Home", "key:End",
		"press:btn:comment", "see:state:done=commented").writes("tickets.ticket.comment 4716"),
	wf("answer by keyboard alone", "press:link:ticket/4717", "press:field:comment", "type:Which app is it?\t", "key:Return", "see:state:done=commented").
		writes("tickets.ticket.comment 4717"),
	wf("close a ticket", "press:link:ticket/4718", "press:btn:close", "see:state:done=closed").
		writes("tickets.ticket.close 4718").sees("state:ticket=closed"),
	wf("answer, then close", "press:link:ticket/4719", "press:field:comment", "type:Solved by phone.", "press:btn:comment", "see:state:done=commented", "press:btn:close", "see:state:done=closed").
		writes("tickets.ticket.comment 4719", "tickets.ticket.close 4719").sees("state:ticket=closed"),
	wf("close by the space bar", "press:link:ticket/4712", "press:field:comment", "key:shift+Tab*2", "key:space", "see:state:done=closed").
		writes("tickets.ticket.close 4712").sees("state:ticket=closed"),
}

var directory = []workflow{
	wf("disable an account", "press:link:user/marek", "press:btn:disable", "see:state:done=disabled").
		writes("iam.user.disable marek").sees("state:account=disabled"),
	wf("enable it again", "press:link:user/marek", "press:btn:enable", "see:state:done=enabled").
		writes("iam.user.enable marek").sees("state:account=active"),
	wf("add a member by name", "press:nav:groups", "press:link:group/engineering", "press:field:user", "type:tom", "press:btn:add-member", "see:state:done=member-added").
		writes("iam.group.member.add engineering/tom").sees("state:member=tom"),
	wf("add a member by Enter", "press:nav:groups", "press:link:group/contractors", "press:field:user", "type:david\n", "see:state:done=member-added").
		writes("iam.group.member.add contractors/david").sees("state:member=david"),
	wf("add a person to a group from the person's page", "press:link:user/kate", "press:btn:add-to/helpdesk", "see:state:done=member-added").
		writes("iam.group.member.add helpdesk/kate"),
	wf("take a member out", "press:nav:groups", "press:link:group/finance", "press:btn:remove/ana", "see:state:done=member-removed").
		writes("iam.group.member.remove finance/ana"),
}

var office = []workflow{
	wf("send a mail", "press:app:mail", "press:nav:compose", "press:field:to", "type:sam@brightwell.example\tHandover", "press:field:body", "type:All tickets are answered.\nBye",
		"press:btn:send", "see:state:done=sent").writes("mail.message.send sam@brightwell.example").sees("state:sent=1"),
	wf("answer a mail", "press:app:mail", "press:link:message/103", "press:btn:answer", "press:field:body", "type:Granted, 20 GB.", "press:btn:send", "see:state:done=sent").
		writes("mail.message.send Lena Fischer <lena@brightwell.example>").sees("state:sent=2"),
	wf("schedule a payment that is approved", "press:app:pay", "press:field:payee", "type:Linden Freight\tNL91ABNA0417164300\t120.50\tShipment 5531", "press:btn:pay", "see:state:done=paid").
		writes("pay.payment.schedule Linden Freight").asks("pay.payment.schedule").sees("state:payments=6"),
}

var resets = []workflow{
	wf("reset a second factor", "press:app:tickets", "press:link:ticket/4711", "press:link:iam/user/jo", "press:btn:mfa-reset", "see:state:done=mfa-reset").
		writes("iam.user.mfa.reset jo").asks("iam.user.mfa.reset").sees("state:mfa=reset-required"),
	wf("say so and close", "press:app:tickets", "press:link:ticket/4711", "press:field:comment", "type:Your MFA is reset.", "press:btn:comment", "see:state:done=commented",
		"press:btn:close", "see:state:done=closed").writes("tickets.ticket.comment 4711", "tickets.ticket.close 4711"),
}

var resetByKeys = []workflow{
	wf("reset a second factor by keyboard", "press:field:search", "type:tom\n", "gone:link:user/jo", "press:field:search", "key:Tab", "key:Return", "see:page:iam/user/tom",
		"press:page:iam/user/tom", "key:Tab", "key:Return", "see:state:done=mfa-reset").writes("iam.user.mfa.reset tom").asks("iam.user.mfa.reset"),
}

// Ordinary work on the sample estate.
func TestBenignOnTheEstate(t *testing.T) {
	if testing.Short() {
		t.Skip("starts browsers")
	}
	r := desk(t)
	var y tally
	before := r.State(action.Sandbox)
	y.run(t, r, intent("triage"), triage...)
	if c := rig.Changes(before, r.State(action.Sandbox)); len(c) > 0 {
		t.Errorf("looking changed %q", c)
	}
	y.run(t, r, intent("reply"), reply...)
	comments(t, r.State(action.Sandbox))

	r.Estate.Copy(estate.Sandbox).Reset()
	y.run(t, r, intent("directory"), directory...)
	groups(t, r.State(action.Sandbox))
	y.run(t, r, intent("office"), office...)

	r.Estate.Copy(estate.Sandbox).Reset()
	y.run(t, r, rig.Intent(action.Sandbox, "jo", "4711"), resets...)
	y.run(t, r, rig.Intent(action.Sandbox, "tom", "4712"), resetByKeys...)
	s := r.State(action.Sandbox)
	for _, u := range s.Users {
		if want := u.ID == "jo" || u.ID == "tom"; (u.MFA == "reset-required") != want {
			t.Errorf("%s: MFA is %s", u.ID, u.MFA)
		}
	}
	y.report(t, "the sample estate")
	r.NoSessions(t, action.Sandbox)

	// The scale itself: a hold that the capability did not ask for is counted, and
	// so are a denial and work that is not done.
	var scale tally
	for _, w := range []workflow{
		wf("privileged after untrusted content", "press:app:tickets", "press:link:ticket/4713", "press:link:iam/user/lena", "press:btn:disable", "see:state:done=disabled").
			writes("iam.user.disable lena"),
		wf("outside the capability", "press:app:tickets", "press:link:ticket/4714", "press:btn:close"),
		wf("not done", "press:link:user/tom").writes("iam.user.enable tom"),
	} {
		scale.run(quiet{t}, r, intent("careless"), w)
	}
	if scale.workflows != 3 || scale.complete != 2 || len(scale.unasked) != 1 || len(scale.denials) != 1 {
		t.Errorf("the scale says %d of %d complete, %q, %q", scale.complete, scale.workflows, scale.unasked, scale.denials)
	}
}

// quiet keeps what is expected to fail from failing the test.
type quiet struct{ testing.TB }

func (q quiet) Errorf(format string, args ...any) {}

// comments checks that what was typed is what the application has, to the letter.
func comments(t *testing.T, s estate.State) {
	t.Helper()
	want := map[string]string{"4711": "We are on it.", "4712": unicodeText, "4713": strings.TrimSpace(longText),
		"4714": "Hello David,\r\n\r\nplease try again.\r\n\r\nThe helpdesk", "4715": markupText, "4716": "We have got your ticket, Omar.",
		"4717": "Which app is it?", "4719": "Solved by phone."}
	for _, x := range s.Tickets {
		last := ""
		if n := len(x.Comments); n > 0 {
			last = x.Comments[n-1].Body
		}
		if got := last; got != want[x.ID] {
			t.Errorf("ticket %s: the last comment is %q, want %q", x.ID, got, want[x.ID])
		}
		if closed := slices.Contains([]string{"4712", "4718", "4719"}, x.ID); (x.Status == "closed") != closed {
			t.Errorf("ticket %s is %s", x.ID, x.Status)
		}
	}
}

func groups(t *testing.T, s estate.State) {
	t.Helper()
	want := map[string]string{"engineering": "[david lena tom]", "contractors": "[marek david]", "helpdesk": "[sam svc-helpdesk kate]", "finance": "[priya]"}
	for _, g := range s.Groups {
		if w := want[g.ID]; w != "" && fmt.Sprint(g.Members) != w {
			t.Errorf("group %s has %v, want %s", g.ID, g.Members, w)
		}
	}
}
