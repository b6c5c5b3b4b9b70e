package attack

import (
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/task"
	"github.com/sallyport-dev/sallyport/test/rig"
)

// A page stops answering: it runs for ever, takes memory until its process dies,
// fills the disk, or opens windows or frames without end. That may cost its own task. A kill must still end
// it, with its credentials, and another task of the same server does its work.
//
// Threats: T49 (containment, door); T57 (authority, lease)
func TestPageThatHangs(t *testing.T) {
	for name, script := range map[string]string{
		"endless": `setTimeout(() => { for (;;); }, 300)`,
		"memory":  `setTimeout(() => { const a = []; for (;;) a.push(new Uint8Array(1 << 26).fill(a.length)) }, 300)`,
		"disk":    `setTimeout(async () => { const d = await navigator.storage.getDirectory(), big = new Uint8Array(1 << 25); for (let i = 0; ; i++) { const w = await (await d.getFileHandle('f' + i, {create: true})).createWritable(); await w.write(big); await w.close(); (await caches.open('c')).put('/c' + i, new Response(big)) } }, 300)`,
		"frames":  `setTimeout(() => { setInterval(() => { for (let i = 0; i < 50; i++) { const f = document.createElement('iframe'); f.src = i % 2 ? 'about:blank' : 'IAM/users?' + Math.random(); document.body.append(f) } }, 20) }, 300)`,
		"pop-ups": `setInterval(() => { try { open('/tickets/4712'); open('about:blank') } catch (e) {} }, 1)`,
	} {
		t.Run(name, func(t *testing.T) {
			r, tap := hostile(t, script, nil)
			x := r.OpenTask(t, rig.Intent(action.Sandbox, "jo", "4711"))
			var out rig.Output
			running, err := r.Server.Run(t.Context(), "", x.ID, rig.Harness(t, &out, "program", "hands", "press:app:tickets", "press:link:ticket/4711", "wait:600",
				"post:/v1/actions {\"actions\":[{\"type\":\"screenshot\"},{\"type\":\"left_click\",\"x\":600,\"y\":400}]}", "wait:60000"))
			if err != nil {
				t.Fatal(err)
			}
			rig.Await(t, "the page", func() bool {
				return len(tap.arrived(func(q request) bool { return q.uri == "/tickets/4711" })) > 0
			})
			time.Sleep(800 * time.Millisecond) // the page is at it
			start := time.Now()
			if _, err := r.Server.Revoke(t.Context(), "", rig.As("ada"), "task/"+x.ID, "test"); err != nil {
				t.Errorf("the kill: %v", err)
			}
			t.Logf("killed after %s", time.Since(start))
			r.NoSessions(t, action.Sandbox)
			if x = rig.Wait(t, running); x.State != task.Revoked {
				t.Errorf("the task is %s: %s\n%s", x.State, x.Why, out.String())
			}
			for _, q := range tap.arrived(wrote) {
				t.Errorf("reached the application: %s %s", q.method, q.uri)
			}
		})
	}
	r, _ := hostile(t, "", nil)
	if y, text := r.Run(t, rig.Intent(action.Sandbox, "jo", "4711"), "program", "hands", "press:app:tickets", "find:link:ticket/4711"); y.State != task.Closed {
		t.Errorf("afterwards: %s: %s\n%s", y.State, y.Why, text)
	}
}
