package browser

import (
	"testing"
)

func TestFirst(t *testing.T) {
	w := open(t, Config{})
	v, f, k := w.Facts()
	t.Log(v, f, k)
	w.load("a", `<body style="margin:0"><button id=b style="position:absolute;left:20px;top:20px;width:160px;height:40px" onclick="document.title='clicked'">Save</button><form action="/submit" method=post><input name=q style="position:absolute;left:20px;top:100px"><button style="position:absolute;left:20px;top:150px">Go</button></form>`)
	g := w.ground(50, 40)
	t.Logf("%+v", g)
	_, err := w.Screenshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	w.must(g, Click{})
	if got := w.eval("document.title"); got != "clicked" {
		t.Fatalf("title %q", got)
	}
	w.must(w.ground(30, 110), Click{})
	g = w.focus()
	t.Logf("%+v", g)
	w.must(g, Type{"hello"})
	w.must(w.focus(), Key{"Return"})
	w.waitHit(t, "POST site.test/submit q=hello")
}
