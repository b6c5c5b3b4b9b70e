package attack

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"image/png"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/estate"
	"github.com/sallyport-dev/sallyport/internal/estate/marks"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/server"
	"github.com/sallyport-dev/sallyport/internal/task"
	"github.com/sallyport-dev/sallyport/test/rig"
)

func init() { programs["restless"] = restless }

// restless is a harness that tries, round after round, everything that it has:
// a picture, a click, a request of its own to args[0], and the browser's
// protocol. It prints what came of each, and how many events it has heard.
func restless(ctx context.Context, args []string) error {
	proxy, err := url.Parse(os.Getenv("HTTPS_PROXY"))
	if err != nil {
		return err
	}
	pem, err := os.ReadFile(os.Getenv("SSL_CERT_FILE"))
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{Proxy: http.ProxyURL(proxy), TLSClientConfig: &tls.Config{RootCAs: roots}}}
	h := rig.NewHand()
	said := func(code string, err error) string {
		if err != nil {
			return "error"
		}
		if code == "" {
			return "ok"
		}
		return code
	}
	var c *wireClient
	session, heard := "", 0
	over := func(a string) string {
		switch {
		case strings.Contains(a, gate.CodeTaken):
			return gate.CodeTaken
		case strings.Contains(a, `"result"`):
			return "ok"
		}
		return a
	}
	for n := 1; ctx.Err() == nil; n++ {
		if c == nil {
			if next, _, err := dialProtocol(ctx); err == nil && next != nil {
				if session, err = next.page(); err == nil {
					c = next
				}
			}
		}
		_, code, err := h.Do(ctx, map[string]any{"action": "screenshot"})
		picture := said(code, err)
		code, err = h.Click(ctx, 1270, 790)
		click := said(code, err)
		request := "error"
		if resp, err := client.Get(args[0]); err == nil {
			resp.Body.Close()
			request = "ok"
			if d := resp.Header.Get("Sallyport-Decision"); d != "" {
				request = d
			}
		}
		evaluate, shot := "none", "none"
		if c != nil {
			evaluate = over(c.call(session, "Runtime.evaluate", `{"expression":"document.title"}`))
			shot = over(c.call(session, "Page.captureScreenshot", `{}`))
			c.mu.Lock()
			heard = 0
			for _, m := range c.all {
				if strings.Contains(m, `"method":`) {
					heard++
				}
			}
			c.mu.Unlock()
			if evaluate == "closed" {
				c = nil
			}
		}
		fmt.Printf("round %d picture=%s click=%s request=%s evaluate=%s shot=%s heard=%d\n", n, picture, click, request, evaluate, shot, heard)
		time.Sleep(50 * time.Millisecond)
	}
	return nil
}

// inPerson works a session that somebody has taken over.
type inPerson struct {
	*testing.T
	r    *rig.Rig
	who  string
	task string
}

func (p inPerson) act(doc string) []map[string]any {
	p.Helper()
	b, err := p.r.Server.ActInPerson(p.Context(), "", rig.As(p.who), p.task, []byte(`{"actions":[`+doc+`]}`))
	if err != nil {
		p.Fatalf("%s: %v", doc, err)
	}
	var out struct{ Results []map[string]any }
	if err := json.Unmarshal(b, &out); err != nil {
		p.Fatal(err)
	}
	return out.Results
}

// press finds a mark on the screen and clicks it.
func (p inPerson) press(mark string) map[string]any {
	p.Helper()
	var at marks.Mark
	rig.Await(p, mark, func() bool {
		b, err := p.r.Server.ActInPerson(p.Context(), "", rig.As(p.who), p.task, []byte(`{"actions":[{"type":"screenshot"}]}`))
		var out struct {
			Results []struct{ Image struct{ Data []byte } }
		}
		if err != nil || json.Unmarshal(b, &out) != nil || len(out.Results) == 0 {
			return false
		}
		img, err := png.Decode(bytes.NewReader(out.Results[0].Image.Data))
		if err != nil {
			return false
		}
		for _, m := range marks.Find(img) {
			if m.Text == mark {
				at = m
				return true
			}
		}
		return false
	})
	return p.act(fmt.Sprintf(`{"type":"left_click","x":%d,"y":%d}`, at.X, at.Y))[0]
}

func code(err error) string {
	var p *server.Problem
	if errors.As(err, &p) {
		return p.Code
	}
	return fmt.Sprint(err)
}

// rounds are the complete lines that the restless harness has printed.
func rounds(out *rig.Output) []string {
	s := out.String()
	return strings.Split(s[:strings.LastIndex(s, "\n")+1], "\n")
}

// between are the records of a task from session.taken to session.returned.
func between(t *testing.T, r *rig.Rig, id string) (in []record.Entry, returned record.Entry) {
	t.Helper()
	taken := false
	for _, e := range r.Records(t, 0) {
		switch {
		case e.Task != id:
		case e.Type == "session.taken":
			taken = true
		case e.Type == "session.returned":
			return in, e
		case taken:
			in = append(in, e)
		}
	}
	t.Fatal("session.taken and session.returned are not both on record")
	return nil, returned
}

// A person takes the session over from a harness that never stops trying: on the
// screen, by its own requests, and by the browser's protocol. While the person
// signs in and writes it must get nothing, neither input nor picture nor event;
// two people must not both have it; a kill ends it; given back, the agent goes on.
//
// Threats: T56 (authority)
func TestAgentActsWhilePersonHasTakenOver(t *testing.T) {
	r := withProtocol(t)
	start := func(t *testing.T) (task.Task, *rig.Output, *server.Running) {
		x := r.OpenTask(t, rig.Intent(action.Sandbox, "jo", "4711"))
		out := &rig.Output{}
		running, err := r.Server.Run(t.Context(), "", x.ID, rig.Harness(t, out, "program", "restless", protocolSeen.URL(estate.IAM)+"/users"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			r.Server.CloseTask(context.WithoutCancel(t.Context()), "", rig.As("ada"), x.ID)
			rig.Wait(t, running)
			if t.Failed() {
				t.Logf("%.3000s", out.String())
			}
		})
		rig.Await(t, "a round in which everything works", func() bool {
			return strings.Contains(out.String(), "picture=ok click=ok request=ok evaluate=ok shot=ok")
		})
		return x, out, running
	}
	take := func(who, id string) (server.TakeOver, error) {
		return r.Server.Take(t.Context(), "", rig.As(who), id, "signs in by hand", time.Minute)
	}
	t.Run("input_pictures_events", func(t *testing.T) {
		x, out, _ := start(t)
		for _, who := range []string{"dana", "ines", "noor", "lin"} {
			if _, err := take(who, x.ID); code(err) != "role_missing" {
				t.Errorf("%s: got %v", who, err)
			}
		}
		if _, err := r.Server.ActInPerson(t.Context(), "", rig.As("mara"), x.ID, []byte(`{"actions":[{"type":"screenshot"}]}`)); code(err) != "not_taken" {
			t.Errorf("before: got %v", err)
		}
		if _, err := take("mara", x.ID); err != nil {
			t.Fatal(err)
		}
		first := len(rounds(out)) + 1 // the round that was cut says what it says
		p := inPerson{t, r, "mara", x.ID}
		if _, err := r.Server.ActInPerson(t.Context(), "", rig.As("ada"), x.ID, []byte(`{"actions":[{"type":"screenshot"}]}`)); code(err) != "not_in_hand" {
			t.Errorf("another: got %v", err)
		}
		p.press("app:tickets")
		p.press("link:ticket/4711")
		p.press("field:comment")
		if got := p.act(`{"type":"type","text":"typed by a person"}`)[0]; got["status"] != "done" {
			t.Errorf("typing: %v", got)
		}
		p.press("btn:comment")
		rig.Await(t, "the person's comment", func() bool {
			for _, e := range r.State(action.Sandbox).Audit[estate.Tickets] {
				if e.Action == "ticket.comment" && e.Target == "4711" {
					return true
				}
			}
			return false
		})
		rig.Await(t, "rounds in that time", func() bool { return len(rounds(out)) > first+3 })
		held := rounds(out)[first:]
		held = held[:len(held)-1]
		if _, err := r.Server.GiveBack(t.Context(), "", rig.As("mara"), x.ID, "signed in"); err != nil {
			t.Fatal(err)
		}
		_, last, _ := strings.Cut(held[0], "heard=")
		for _, l := range held {
			if want := "picture=taken_over click=taken_over request=deny; code=taken_over; layer=authority;"; !strings.Contains(l, want) ||
				!strings.Contains(l, "evaluate=taken_over shot=taken_over") || !strings.HasSuffix(l, "heard="+last) {
				t.Errorf("while a person had it: %s", l)
			}
		}
		n := len(rounds(out))
		rig.Await(t, "the agent to go on", func() bool {
			return slices.ContainsFunc(rounds(out)[n-1:], func(l string) bool {
				return strings.Contains(l, "picture=ok click=ok request=ok evaluate=ok shot=ok")
			})
		})
		theirs(t, r, x.ID)
		// Whoever does not give it back loses it when the time is over.
		if _, err := r.Server.Take(t.Context(), "", rig.As("ada"), x.ID, "a moment", time.Second); err != nil {
			t.Fatal(err)
		}
		rig.Await(t, "the time limit", func() bool {
			return slices.ContainsFunc(r.Records(t, 0), func(e record.Entry) bool {
				return e.Task == x.ID && e.Type == "session.returned" && e.Actor == "sallyport" && strings.Contains(string(e.Body), `"why":"time_limit"`)
			})
		})
		if _, err := r.Server.ActInPerson(t.Context(), "", rig.As("ada"), x.ID, []byte(`{"actions":[{"type":"screenshot"}]}`)); code(err) != "not_taken" {
			t.Errorf("after the time limit: %v", err)
		}
	})
	t.Run("two_people_race", func(t *testing.T) {
		x, _, _ := start(t)
		var mu sync.Mutex
		var wg sync.WaitGroup
		won := map[string]int{}
		for i := range 8 {
			wg.Go(func() {
				_, err := take([]string{"mara", "ada"}[i%2], x.ID)
				mu.Lock()
				defer mu.Unlock()
				if err == nil {
					won["won"]++
				} else {
					won[code(err)]++
				}
			})
		}
		wg.Wait()
		if won["won"] != 1 || won["taken_already"] != 7 {
			t.Errorf("got %v, want one winner", won)
		}
		if _, err := r.Server.Revoke(t.Context(), "", rig.As("ada"), "task/"+x.ID, "test"); err != nil {
			t.Fatal(err)
		}
		for _, who := range []string{"mara", "ada"} {
			if _, err := r.Server.ActInPerson(t.Context(), "", rig.As(who), x.ID, []byte(`{"actions":[{"type":"screenshot"}]}`)); code(err) != "not_running" {
				t.Errorf("after the kill: %v", err)
			}
		}
		if _, e := between(t, r, x.ID); e.Actor != "sallyport" || !strings.Contains(string(e.Body), `"why":"task_ended"`) {
			t.Errorf("the end is recorded as %s by %s", e.Body, e.Actor)
		}
		r.NoSessions(t, action.Sandbox)
	})
}

// theirs checks the records of a take-over by mara: what was done is hers, with
// the pictures, and nothing by hand that was let through is the agent's.
func theirs(t *testing.T, r *rig.Rig, id string) {
	t.Helper()
	in, end := between(t, r, id)
	if end.Actor != "person:mara" || !strings.Contains(string(end.Body), "signed in") {
		t.Errorf("the give-back: %s by %s", end.Body, end.Actor)
	}
	count := map[string]int{}
	for _, e := range in {
		if e.Type != "action.decided" {
			continue
		}
		var d gate.Decided
		if err := json.Unmarshal(e.Body, &d); err != nil {
			t.Fatal(err)
		}
		hers := e.Actor == "person:mara" && d.Action.Actor == "person:mara"
		switch {
		case d.Decision.Code == gate.CodeTaken:
			count["refused"]++
			if len(e.Evidence) > 0 || d.Action.Element != nil || e.Actor != "agent:helpdesk" {
				t.Errorf("a refusal says what the person did: %s", rig.Say(d))
			}
		case d.Action.Source == "browser" && d.Action.Operation == "tickets.ticket.comment" && hers && d.Action.Explained != "":
			count["write"]++
		case !hers && d.Action.Source != "browser":
			t.Errorf("not hers: %s by %s", rig.Say(d), e.Actor)
		case hers:
			for _, b := range e.Evidence {
				if b.Name == action.Screenshot {
					count["picture"]++
				}
			}
		}
	}
	if count["refused"] == 0 || count["write"] != 1 || count["picture"] == 0 {
		t.Errorf("on record: %v", count)
	}
}

// What a person does in a session that they have taken over is bounded by the
// task, and held like the agent's; they cannot approve it themselves.
//
// Threats: T56, I4 (approval)
func TestPersonInTheSessionCannotApproveTheirOwn(t *testing.T) {
	r := wide(t)
	r.Approver(rig.Nobody)
	x := r.OpenTask(t, rig.Intent(action.Sandbox, "jo", "4711"))
	var out rig.Output
	running, err := r.Server.Run(t.Context(), "", x.ID, rig.Harness(t, &out, "program", "hands", "wait:100000"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Server.Take(t.Context(), "", rig.As("ada"), x.ID, "does it by hand", time.Minute); err != nil {
		t.Fatal(err)
	}
	p := inPerson{t, r, "ada", x.ID}
	p.press("link:user/sam")
	p.press("btn:disable")
	rig.Await(t, "the refusal", func() bool {
		return slices.ContainsFunc(r.Decisions(t, x.ID), func(d gate.Decided) bool {
			return d.Action.Operation == "iam.user.disable" && d.Decision.Code == "outside_grant" && d.Action.Actor == "person:ada"
		})
	})
	if got := p.act(`{"type":"home"}`)[0]; got["status"] != "done" {
		t.Fatal(got)
	}
	p.press("link:user/jo")
	p.press("btn:mfa-reset")
	rig.Await(t, "the hold", func() bool { return len(r.Pending(t)) == 1 })
	a := r.Pending(t)[0]
	if !slices.Contains(a.Statement.Excluded, "ada") || a.Statement.Details["done-by"] != "person:ada" {
		t.Errorf("the question excludes %v and says %v", a.Statement.Excluded, a.Statement.Details)
	}
	if a.Statement.Screenshot != "" {
		t.Error("the question names a picture that the agent was never given")
	}
	if err := r.Sign(t.Context(), a, "ada"); err == nil {
		t.Error("who does it approved it")
	}
	if got := resets(r); got != 0 {
		t.Fatalf("%d resets before the approval", got)
	}
	if err := r.Sign(t.Context(), a, "ines"); err != nil {
		t.Fatal(err)
	}
	rig.Await(t, "the reset", func() bool { return resets(r) == 1 })
	if _, err := r.Server.CloseTask(t.Context(), "", rig.As("ada"), x.ID); err != nil {
		t.Fatal(err)
	}
	rig.Wait(t, running)
	r.NoSessions(t, action.Sandbox)
}
