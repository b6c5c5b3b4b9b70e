package attack

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"mime/multipart"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/browser"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/connector"
	"github.com/sallyport-dev/sallyport/internal/gate"
	"github.com/sallyport-dev/sallyport/internal/gate/gatetest"
	"github.com/sallyport-dev/sallyport/internal/surface/egress"
)

const filesOrigin = "http://files.test"

// sendsFiles is a page's script: it sends forms of files in every shape that a
// page can give them, each with a title that says what comes of it. "pass" is an
// ordinary form under an unusual name or with unusual bytes; "stop" is a form
// that the connector does not describe, or that hides one field in another.
const sendsFiles = `<!doctype html><body><iframe name=t></iframe><script>
const file = (name, ...bytes) => new File(bytes.length ? bytes : ['plain'], name, {type: 'text/csv'});
const send = async (title, fields) => {
  const f = new FormData();
  f.append('title', title);
  for (const [k, v] of fields) f.append(k, v);
  try { await fetch('/put', {method: 'POST', body: f, signal: AbortSignal.timeout(10000)}) } catch {}
};
const submit = (title, set) => new Promise(done => {
  const f = document.createElement('form'), d = new DataTransfer();
  f.method = 'post'; f.enctype = 'multipart/form-data'; f.action = '/put'; f.target = 't';
  f.innerHTML = '<input name=title><input name=doc type=file multiple>';
  f.elements.title.value = title;
  set.forEach(x => d.items.add(x));
  f.elements.doc.files = d.files;
  document.body.append(f);
  document.querySelector('iframe').onload = done; setTimeout(done, 3000);
  f.submit();
});
(async () => {
  await send('pass plain', [['doc', file('a.csv')]]);
  await send('pass no bytes', [['doc', file('b.csv', '')]]);
  await send('pass all bytes', [['doc', file('c.bin', new Uint8Array(65536).map((_, i) => i))]]);
  await send('stop quote in the name', [['doc', file('a"; filename="b.csv')]]);
  await send('stop lines in the name', [['doc', file('a\r\nContent-Type: text/html\r\n\r\nx')]]);
  await send('stop a path for a name', [['doc', file('../../etc/passwd')]]);
  await send('pass a name of many scripts', [['doc', file('Überraschung 日本 (2).csv')]]);
  await send('stop a name that reads backwards', [['doc', file('a\u202efdp.exe')]]);
  await send('pass bytes like a form', [['doc', file('d.csv', '------WebKitFormBoundary0000000000000000\r\nContent-Disposition: form-data; name="title"\r\n\r\nother\r\n')]]);
  await submit('pass by a form', [file('e.csv')]);
  await send('stop two files', [['doc', file('a.csv')], ['doc', file('b.csv')]]);
  await submit('stop two files by a form', [file('a.csv'), file('b.csv')]);
  await send('stop a file more', [['doc', file('a.csv')], ['extra', file('b.csv')]]);
  await send('stop a field more', [['doc', file('a.csv')], ['admin', 'true']]);
  await send('stop text for the file', [['doc', 'text']]);
  await send('stop a title more', [['doc', file('a.csv')], ['title', 'other']]);
  await send('stop the title as a file', [['doc', file('a.csv')], ['title', file('title')]]);
  await send('stop no file', []);
  await send('stop a name that ends early', [['doc"; filename="x.csv', file('a.csv')]]);
  await send('stop a name of two lines', [['doc\r\nX: y', file('a.csv')]]);
  await fetch('/over');
})();
</script>`

// files is the application: it keeps the forms that came, as Go reads them.
type files struct {
	mu   sync.Mutex
	came map[string]map[string]string // by title: doc, docName, docSize, docType
	over chan struct{}
	once sync.Once
}

func (f *files) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	switch r.URL.Path {
	case "/page":
		io.WriteString(w, sendsFiles)
	case "/over":
		f.once.Do(func() { close(f.over) })
	case "/put":
		form, err := r.MultipartReader()
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		got := map[string]string{}
		for {
			p, err := form.NextRawPart()
			if err != nil {
				break
			}
			b, _ := io.ReadAll(p)
			f.read(got, p, b)
		}
		f.mu.Lock()
		f.came[got["title"]] = got
		f.mu.Unlock()
	}
}

func (f *files) read(got map[string]string, p *multipart.Part, b []byte) {
	if p.FileName() == "" && !strings.Contains(p.Header.Get("Content-Disposition"), "filename=") {
		got[p.FormName()] += string(b)
		return
	}
	n := p.FormName()
	got[n], got[n+"Size"], got[n+"Type"] = string(canon.Digest(b)), fmt.Sprint(len(b)), p.Header.Get("Content-Type")
}

// Resolve and Dial lead every name to the application.
func (f *files) network(t *testing.T) egress.Dialer {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: f, ReadHeaderTimeout: 10 * time.Second}
	go srv.Serve(l)
	t.Cleanup(func() { srv.Close() })
	return toOne(l.Addr().String())
}

type toOne string

func (toOne) Resolve(context.Context, string) ([]netip.Addr, error) {
	return []netip.Addr{netip.MustParseAddr("192.0.2.1")}, nil
}

func (a toOne) Dial(ctx context.Context, _ netip.AddrPort) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", string(a))
}

// uploads recognises what the connector of the application describes.
type uploads struct{ set *connector.Set }

func (u uploads) Recognize(r action.Request, body []byte) (egress.Recognized, error) {
	m, err := u.set.Recognize(action.Sandbox, r, body)
	if err != nil || !m.Allowed {
		return egress.Recognized{Effect: m.Effect}, err
	}
	out := egress.Recognized{App: m.Connector, Effect: m.Effect, Params: m.Params, Allowed: true, AllowLocal: true}
	if m.Matched {
		out.Operation = m.Operation
	}
	return out, nil
}

const filesConnector = `{"reads": "allow", "stages": {"sandbox": {"origins": [{"name": "main", "url": "` + filesOrigin + `", "local": true}]}},
 "operations": [{"name": "files.doc.put", "method": "POST", "path": "/put", "effect": "write",
  "body": {"type": "multipart", "fields": {"title": {"param": "title"}, "doc": {"param": "doc", "type": "file"}}}}]}`

// A page of a real browser sends forms of files in every shape that a page can
// give them. What arrives is what was decided: the same title, and a file of the
// same digest, as another reader of multipart sees them; and a form with more,
// less or other fields than the connector describes, or with a name that two
// readers read differently, does not arrive.
//
// Threats: T48 (form, policy)
func TestFormsOfFiles(t *testing.T) {
	if testing.Short() {
		t.Skip("starts a browser")
	}
	spec := &connector.Spec{}
	if err := json.NewDecoder(bytes.NewReader([]byte(filesConnector))).Decode(spec); err != nil {
		t.Fatal(err)
	}
	set, err := connector.NewSet(map[string]*connector.Spec{"files": spec})
	if err != nil {
		t.Fatal(err)
	}
	kit := gatetest.New(t, func(f gate.Facts) action.Decision {
		if f.Action.Operation == "files.doc.put" || f.Action.Effect == action.Read {
			return gatetest.AllowAll(f)
		}
		return action.Denied(action.LayerGrant, "not_granted", "nothing allows it", "none")
	})
	app := &files{came: map[string]map[string]string{}, over: make(chan struct{})}
	door, err := egress.New(egress.Config{Tenant: gatetest.Tenant, Task: gatetest.Task, Agent: gatetest.Agent, Source: "browser", Stage: action.Sandbox,
		Gate: kit, Connectors: uploads{set}, Dialer: app.network(t)})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := door.Close(); err != nil {
			t.Error(err)
		}
	}()
	b, err := browser.Launch(t.Context(), browser.Config{TrustSPKI: door.SPKI()})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	go door.Serve(b.ProxyListener())
	if err := b.Navigate(t.Context(), filesOrigin+"/page"); err != nil {
		t.Fatal(err)
	}
	select {
	case <-app.over:
	case <-time.After(time.Minute):
		t.Fatal("the page did not come to its end")
	}
	decided := map[string]action.Action{}
	refused := 0
	for _, d := range kit.Log.Decisions(t) {
		switch {
		case d.Action.Request == nil || d.Action.Request.Path != "/put":
		case d.Decision.Verdict == action.Allow:
			decided[d.Action.Params["title"]] = d.Action
		default:
			refused++
		}
	}
	app.mu.Lock()
	defer app.mu.Unlock()
	for title, got := range app.came {
		a, ok := decided[title]
		if !ok || strings.HasPrefix(title, "stop") {
			t.Errorf("%q arrived; decided as %v", title, a.Params)
		}
		for _, n := range []string{"title", "doc", "docSize", "docType"} {
			if a.Params[n] != got[n] {
				t.Errorf("%q: %s was decided as %q and arrived as %q", title, n, a.Params[n], got[n])
			}
		}
		if len(got) != 4 {
			t.Errorf("%q: arrived with %v", title, got)
		}
	}
	if passes, stops := strings.Count(sendsFiles, "('pass "), strings.Count(sendsFiles, "('stop "); len(app.came) != passes || refused < stops {
		t.Errorf("%d of %d ordinary forms arrived, %d of %d others were refused: %v", len(app.came), passes, refused, stops, app.came)
	}
}
