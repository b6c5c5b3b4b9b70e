package estate

import (
	"embed"
	"html/template"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/estate/marks"
)

//go:embed templates/*.html static/app.css
var files embed.FS

var templates = template.Must(template.New("").Funcs(template.FuncMap{
	"mark":     mark,
	"date":     func(t time.Time) string { return t.UTC().Format("2 Jan 2006, 15:04") },
	"initials": initials,
	"groupName": func(groups []Group, id string) string {
		for _, g := range groups {
			if g.ID == id {
				return g.Name
			}
		}
		return id
	},
	"isOpen": func(t Ticket) bool { return t.Status == "open" },
}).ParseFS(files, "templates/*.html"))

var markCache sync.Map // text to template.HTML; the texts are ours and few

// mark is the picture of a mark. It takes no pointer events, so a click on it
// hits the control around it. Parts are joined.
func mark(parts ...string) (template.HTML, error) {
	text := strings.Join(parts, "")
	if v, ok := markCache.Load(text); ok {
		return v.(template.HTML), nil
	}
	uri, err := marks.DataURI(text)
	if err != nil {
		return "", err
	}
	out := template.HTML(`<img class="mark" alt="" aria-hidden="true" src="` + uri + `">`)
	markCache.Store(text, out)
	return out, nil
}

func initials(name string) string {
	var out string
	for _, word := range strings.Fields(name) {
		if out += word[:1]; len(out) == 2 {
			break
		}
	}
	return strings.ToUpper(out)
}

type link struct {
	Name, URL, Mark string
	Current         bool
}

// frame is what every page of an application is rendered from.
type frame struct {
	App         App
	Stage       Stage
	Name, Title string
	Mark        string
	Account     string
	CSRF        string
	Done        string
	Apps, Nav   []link
	IAM         string
	Path        string
	hostile     []Hostile // that are on
	seed        uint64    // of their voices
	V           any
}

var appNames = map[App]string{IAM: "Identity", Tickets: "Helpdesk", Mail: "Mail", Pay: "Payments"}

var navs = map[App][]link{
	IAM:     {{Name: "Users", URL: "/users", Mark: "nav:users"}, {Name: "Groups", URL: "/groups", Mark: "nav:groups"}, {Name: "Audit log", URL: "/audit", Mark: "nav:audit"}, {Name: "Payroll sync", URL: "/sync", Mark: "nav:sync"}},
	Tickets: {{Name: "Queue", URL: "/tickets", Mark: "nav:tickets"}},
	Mail:    {{Name: "Inbox", URL: "/inbox", Mark: "nav:inbox"}, {Name: "New message", URL: "/compose", Mark: "nav:compose"}, {Name: "Sent", URL: "/sent", Mark: "nav:sent"}},
	Pay:     {{Name: "Outgoing", URL: "/payments", Mark: "nav:payments"}},
}

var doneForm = regexp.MustCompile(`^[a-z-]{1,20}$`)

var doneTexts = map[string]string{
	"mfa-reset": "MFA was reset. The user sets up a new device at the next sign-in.",
	"disabled":  "The user was disabled.", "enabled": "The user was enabled.",
	"member-added": "The member was added.", "member-removed": "The member was removed.",
	"commented": "Your reply was added.", "closed": "The ticket was closed.", "deleted": "The ticket was deleted.",
	"sent": "Your message was sent.", "paid": "The payment was scheduled.", "sync-token": "The token was saved.",
}

// DoneText is the notice after a write, "" for an unknown one.
func (f frame) DoneText() string { return doneTexts[f.Done] }

func (q *call) frame(mark, title string, view any) frame {
	f := frame{
		App: q.app, Stage: q.copy.stage, Name: appNames[q.app], Title: title,
		Mark: "page:" + string(q.app) + "/" + mark, Account: q.session.Account, CSRF: q.session.csrf, Path: q.r.URL.Path,
		IAM: q.copy.url(IAM), V: view,
	}
	if done := q.r.URL.Query().Get("done"); doneForm.MatchString(done) && doneTexts[done] != "" {
		f.Done = done
	}
	for _, app := range signedApps {
		f.Apps = append(f.Apps, link{Name: appNames[app], URL: q.copy.url(app) + "/", Mark: "app:" + string(app), Current: app == q.app})
	}
	for _, l := range navs[q.app] {
		l.Current = strings.HasPrefix(q.r.URL.Path, l.URL)
		f.Nav = append(f.Nav, l)
	}
	q.copy.mu.Lock()
	f.seed = q.copy.seed
	for name := range q.copy.hostile {
		h, _ := hostileByName(name) // SetHostile looked
		f.hostile = append(f.hostile, h)
	}
	q.copy.mu.Unlock()
	return f
}

// Told are the orders in the words that somebody else wrote on a page of the
// application: the part that the template shows escaped.
func (f frame) Told(surface Surface, path string) (out []string) {
	for _, h := range f.hostile {
		if h.App == f.App && h.Surface == surface && h.Path == path {
			out = append(out, h.Marks()...)
		}
	}
	return out
}

// Banner is the item that is shown over every page of the application, or none.
func (f frame) Banner() (out []bannerView) {
	for _, h := range f.hostile {
		if h.App == f.App && h.Surface == OnBanner {
			out = append(out, bannerView{h.words(f.seed), h.Marks()})
		}
	}
	return out
}

type bannerView struct {
	Words string
	Marks []string
}

func stylesheet(q *call) {
	q.w.Header().Set("Content-Type", "text/css; charset=utf-8")
	http.ServeFileFS(q.w, q.r, files, "static/app.css")
}
