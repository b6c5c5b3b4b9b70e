package secrets

import (
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"html"
	"net/http"
	"net/url"
	"strings"
	"sync"

	"github.com/sallyport-dev/sallyport/test/rig"
)

// careless are applications that show the session cookie and the account's
// password in each page, in many forms, and whose pages send themselves, as the browser has them, back to
// their own origin.
type careless struct {
	rig.Tap
	mu        sync.Mutex
	dom       map[string][]string // parts of a page, by a random name
	passwords map[string]string   // of the service account, by application
}

const domPath = "/static/dom-report"

// report sends what a script of the page can read, in parts that fit a URL.
const report = `<script>(() => {
  const all = document.cookie + '\n' + document.documentElement.outerHTML, id = Math.random().toString(36).slice(2);
  for (let i = 0; i * 1500 < all.length; i++) fetch('` + domPath + `?id=' + id + '&n=' + i + '&part=' + encodeURIComponent(all.slice(i * 1500, i * 1500 + 1500))).catch(() => {});
})();</script>`

func newCareless() *careless {
	c := &careless{dom: map[string][]string{}}
	c.Intercept, c.Page = c.collect, c.reflect
	return c
}

func (c *careless) collect(_ http.ResponseWriter, r *http.Request) bool {
	if r.URL.Path != domPath {
		return false
	}
	q := r.URL.Query()
	c.mu.Lock()
	defer c.mu.Unlock()
	c.dom[q.Get("id")] = append(c.dom[q.Get("id")], q.Get("part"))
	return true
}

func (c *careless) reflect(resp *http.Response, page []byte) []byte {
	for _, k := range resp.Request.Cookies() {
		v := k.Value
		resp.Header.Add("X-Debug", v)
		page = fmt.Appendf(page, "\n<!-- %s %s %s %s -->\n<p style=\"font-size:30px\">session %s</p>", v, url.QueryEscape(v), hex.EncodeToString([]byte(v)),
			base64.StdEncoding.EncodeToString([]byte("x"+v)), v)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for app, pw := range c.passwords {
		if strings.HasPrefix(resp.Request.URL.Host, app+".") {
			page = fmt.Appendf(page, "\n<p>Your password is %s, <a href=\"?%s\">%s</a></p>", html.EscapeString(pw), url.QueryEscape(pw), base64.StdEncoding.EncodeToString([]byte(pw)))
		}
	}
	return append(page, report...)
}

// pages are the documents as the browser had them.
func (c *careless) pages() map[string]string {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := map[string]string{}
	for id, parts := range c.dom {
		out[id] = strings.Join(parts, "\n")
	}
	return out
}
