package lease

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"strings"
	"time"
)

// Recipe says how to sign in to an application by its form, and how to find and
// end the session afterwards. Paths are on Origin.
type Recipe struct {
	Origin        string
	LoginPath     string
	UserField     string
	PasswordField string
	CSRFField     string // hidden field copied from the login page, or empty
	// CodeField is where a one-time code goes: of the same form, or, if CodePath is
	// given, of the form there, which comes after a right password.
	CodeField, CodePath string
	LogoutPath          string
	// ConfirmPath answers ConfirmStatus to a dead session and something else to
	// a live one.
	ConfirmPath   string
	ConfirmStatus int
	// SessionsPath lists the account's sessions as a JSON array of objects with
	// members id and userAgent; RevokePath ends one, with {id} in it. The
	// session's User-Agent carries the label.
	SessionsPath string
	RevokePath   string
}

// Form is a Source that signs in by a form and hands out the session cookies.
type Form struct {
	Recipe  Recipe
	Account string
	// Password is asked at each sign-in; the result is cleared after use.
	Password func(ctx context.Context) ([]byte, error)
	// Code is asked at each sign-in where the recipe has a field for it. It gives no
	// code twice, and may wait, about Wait at most, until it has one.
	Code func(ctx context.Context) (string, error)
	Wait time.Duration
	// Client must not follow redirects and must have no cookie jar.
	Client *http.Client
}

const maxPage = 1 << 20

// Cookie is one cookie of a session, as it is sealed.
type Cookie struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// ParseCookies reads a credential that Form issued.
func ParseCookies(credential []byte) ([]Cookie, error) {
	var cs []Cookie
	if err := json.Unmarshal(credential, &cs); err != nil {
		return nil, errors.New("not a session credential")
	}
	return cs, nil
}

// Issue signs in under the label as User-Agent. Until the form is sent nothing exists;
// from then on its answer is waited for, whatever becomes of ctx, and what it brought
// comes with the error if the rest of a sign-in fails.
func (f *Form) Issue(ctx context.Context, o Order) ([]byte, error) { return f.signIn(ctx, o.Label) }

func (f *Form) signIn(ctx context.Context, label string) ([]byte, error) {
	jar := map[string]string{}
	page, status, err := f.do(ctx, http.MethodGet, f.Recipe.LoginPath, label, jar, nil)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrNotIssued, err)
	}
	if status != http.StatusOK {
		return nil, fmt.Errorf("%w: sign-in page answered %d", ErrNotIssued, status)
	}
	form := url.Values{f.Recipe.UserField: {f.Account}}
	if f.Recipe.CSRFField != "" {
		v, ok := hidden(page, f.Recipe.CSRFField)
		if !ok {
			return nil, fmt.Errorf("%w: sign-in page has no field %q", ErrNotIssued, f.Recipe.CSRFField)
		}
		form.Set(f.Recipe.CSRFField, v)
	}
	pw, err := f.Password(ctx)
	if err != nil {
		return nil, fmt.Errorf("%w: password: %w", ErrNotIssued, err)
	}
	form.Set(f.Recipe.PasswordField, string(pw))
	clear(pw)
	if f.Recipe.CodeField != "" && f.Recipe.CodePath == "" { // the last thing: it ages
		code, err := f.code(ctx)
		if err != nil {
			return nil, err
		}
		form.Set(f.Recipe.CodeField, code)
	}
	if status, err = f.enter(ctx, f.Recipe.LoginPath, label, jar, form); err != nil {
		return nil, err
	}
	if status >= 400 && status < 500 {
		return nil, fmt.Errorf("%w: sign-in as %s was refused with %d", ErrNotIssued, f.Account, status)
	}
	if status < 300 || status > 399 {
		return nil, fmt.Errorf("sign-in as %s answered %d", f.Account, status)
	}
	if f.Recipe.CodePath != "" {
		if err := f.second(ctx, label, jar); err != nil {
			return nil, err
		}
	}
	cs := make([]Cookie, 0, len(jar))
	for n, v := range jar {
		cs = append(cs, Cookie{n, v})
	}
	session, err := json.Marshal(cs)
	return session, cmp.Or(err, f.alive(ctx, label, jar))
}

// enterLimit bounds how long a sign-in is waited for.
const enterLimit = 20 * time.Second

// enter sends a form after which there may be a session. It is not cut off with ctx,
// as when the task ends: the application could make the session after its label was
// looked for, and nobody would know of it.
func (f *Form) enter(ctx context.Context, path, label string, jar map[string]string, form url.Values) (status int, err error) {
	if err := ctx.Err(); err != nil {
		return 0, fmt.Errorf("%w: %w", ErrNotIssued, err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), enterLimit)
	defer cancel()
	_, status, err = f.do(ctx, http.MethodPost, path, label, jar, form)
	return status, err
}

func (f *Form) code(ctx context.Context) (string, error) {
	if f.Code == nil {
		return "", fmt.Errorf("%w: the application asks for a code, and the credential source has no totp", ErrNotIssued)
	}
	code, err := f.Code(ctx)
	if err != nil {
		return "", fmt.Errorf("%w: code: %w", ErrNotIssued, err)
	}
	return code, nil
}

// second enters the code on a page of its own. What the password alone has made is
// no session: whoever looks for one needs a code too.
func (f *Form) second(ctx context.Context, label string, jar map[string]string) error {
	page, status, err := f.do(ctx, http.MethodGet, f.Recipe.CodePath, label, jar, nil)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrNotIssued, err)
	}
	form := url.Values{}
	if f.Recipe.CSRFField != "" {
		v, ok := hidden(page, f.Recipe.CSRFField)
		if !ok || status != http.StatusOK {
			return fmt.Errorf("%w: the page for the code answered %d, without field %q", ErrNotIssued, status, f.Recipe.CSRFField)
		}
		form.Set(f.Recipe.CSRFField, v)
	}
	code, err := f.code(ctx)
	if err != nil {
		return err
	}
	form.Set(f.Recipe.CodeField, code)
	status, err = f.enter(ctx, f.Recipe.CodePath, label, jar, form)
	switch {
	case err != nil:
		return err
	case status >= 400 && status < 500:
		return fmt.Errorf("%w: the code of %s was refused with %d: is this machine's clock right?", ErrNotIssued, f.Account, status)
	case status < 200 || status > 399:
		return fmt.Errorf("the code of %s was answered with %d", f.Account, status)
	}
	return nil
}

// Late implements Slow: an application may take up a sign-in of which it has heard,
// and be slow, when nobody waits for its answer any more.
func (f *Form) Late() time.Duration { return issueLimit + f.Wait + time.Minute }

// Patience implements Patient: a sign-in may wait for its code.
func (f *Form) Patience() time.Duration { return f.Wait }

func (f *Form) alive(ctx context.Context, label string, jar map[string]string) error {
	_, status, err := f.do(ctx, http.MethodGet, f.Recipe.ConfirmPath, label, jar, nil)
	if err == nil && status == f.Recipe.ConfirmStatus {
		err = errors.New("sign-in gave no session")
	}
	return err
}

// Revoke signs out, and then ends every session that carries the label, as seen
// from a sign-in of its own, which is signed out last and must be refused then.
func (f *Form) Revoke(ctx context.Context, c Credential) error {
	if c.Secret != nil {
		if err := f.logout(ctx, c.Label, c.Secret); err != nil {
			return err
		}
		if f.Confirm(ctx, c) == nil {
			return nil
		}
	}
	return f.sweep(ctx, c.Label)
}

func (f *Form) logout(ctx context.Context, label string, credential []byte) error {
	jar, err := jarOf(credential)
	if err != nil {
		return err
	}
	_, status, err := f.do(ctx, http.MethodPost, f.Recipe.LogoutPath, label, jar, url.Values{})
	if err == nil && status >= 500 {
		err = fmt.Errorf("sign-out answered %d", status)
	}
	return err
}

// SweepSuffix is what a sign-in has behind the label that ends what carries the label.
const SweepSuffix = "/sweep"

func (f *Form) sweep(ctx context.Context, label string) (err error) {
	own := label + SweepSuffix
	cred, err := f.signIn(ctx, own)
	if cred != nil {
		defer func() {
			ctx := context.WithoutCancel(ctx)
			err = errors.Join(err, f.logout(ctx, own, cred), f.Confirm(ctx, Credential{Label: own, Secret: cred}))
		}()
	}
	if err != nil {
		return fmt.Errorf("sign in to end what carries the label: %w", err)
	}
	jar, err := jarOf(cred)
	if err != nil {
		return err
	}
	ids, err := f.labelled(ctx, own, label, jar)
	if err != nil {
		return err
	}
	for _, id := range ids {
		path := strings.ReplaceAll(f.Recipe.RevokePath, "{id}", url.PathEscape(id))
		if _, status, err := f.do(ctx, http.MethodPost, path, own, jar, url.Values{}); err != nil {
			return err
		} else if status >= 400 && status != http.StatusNotFound {
			return fmt.Errorf("ending a session answered %d", status)
		}
	}
	if ids, err = f.labelled(ctx, own, label, jar); err == nil && len(ids) > 0 {
		err = fmt.Errorf("%d sessions with the label are still listed", len(ids))
	}
	return err
}

// labelled lists the sessions of the lease, sweeps of earlier attempts included.
func (f *Form) labelled(ctx context.Context, own, label string, jar map[string]string) ([]string, error) {
	page, status, err := f.do(ctx, http.MethodGet, f.Recipe.SessionsPath, own, jar, nil)
	if err != nil {
		return nil, err
	}
	var list []struct {
		ID        string `json:"id"`
		UserAgent string `json:"userAgent"`
		Current   bool   `json:"current"`
	}
	if err := json.Unmarshal(page, &list); status != http.StatusOK || err != nil {
		return nil, fmt.Errorf("list of sessions answered %d and could not be read", status)
	}
	var ids []string
	for _, s := range list {
		if !s.Current && (s.UserAgent == label || s.UserAgent == own) {
			ids = append(ids, s.ID)
		}
	}
	return ids, nil
}

// Confirm asks with the credential and wants to be refused; without one it asks
// the list of sessions.
func (f *Form) Confirm(ctx context.Context, c Credential) error {
	if c.Secret == nil {
		return f.sweep(ctx, c.Label) // lists after ending; an error means not confirmed
	}
	jar, err := jarOf(c.Secret)
	if err != nil {
		return err
	}
	_, status, err := f.do(ctx, http.MethodGet, f.Recipe.ConfirmPath, c.Label, jar, nil)
	if err != nil {
		return err
	}
	if status != f.Recipe.ConfirmStatus {
		return fmt.Errorf("the application still answers %d to the ended session, want %d", status, f.Recipe.ConfirmStatus)
	}
	return nil
}

// do makes one request with the jar's cookies and keeps what is set.
func (f *Form) do(ctx context.Context, method, path, agent string, jar map[string]string, form url.Values) ([]byte, int, error) {
	var body io.Reader
	if form != nil {
		body = strings.NewReader(form.Encode())
	}
	req, err := http.NewRequestWithContext(ctx, method, f.Recipe.Origin+path, body)
	if err != nil {
		return nil, 0, err
	}
	req.Header.Set("User-Agent", agent)
	if form != nil {
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Origin", f.Recipe.Origin)
	}
	for n, v := range jar {
		req.AddCookie(&http.Cookie{Name: n, Value: v})
	}
	resp, err := f.Client.Do(req)
	if err != nil {
		return nil, 0, fmt.Errorf("%s %s: %w", method, path, err)
	}
	defer resp.Body.Close()
	for _, c := range resp.Cookies() {
		if c.MaxAge < 0 || c.Value == "" {
			delete(jar, c.Name)
		} else {
			jar[c.Name] = c.Value
		}
	}
	page, err := io.ReadAll(io.LimitReader(resp.Body, maxPage))
	return page, resp.StatusCode, err
}

func jarOf(credential []byte) (map[string]string, error) {
	cs, err := ParseCookies(credential)
	jar := map[string]string{}
	for _, c := range cs {
		jar[c.Name] = c.Value
	}
	return jar, err
}

var (
	inputTag = regexp.MustCompile(`(?is)<input\b[^>]*>`)
	attrs    = regexp.MustCompile(`(?is)\b(name|value)\s*=\s*"([^"]*)"`)
)

// hidden finds the value of an input field of that name in a page.
func hidden(page []byte, name string) (string, bool) {
	for _, tag := range inputTag.FindAll(page, -1) {
		got := map[string]string{}
		for _, m := range attrs.FindAllSubmatch(tag, -1) {
			got[strings.ToLower(string(m[1]))] = html.UnescapeString(string(m[2]))
		}
		if got["name"] == name {
			v, ok := got["value"]
			return v, ok
		}
	}
	return "", false
}
