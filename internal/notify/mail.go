package notify

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"mime/quotedprintable"
	"net"
	"net/netip"
	"net/smtp"
	"net/textproto"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/sallyport-dev/sallyport/internal/outbox"
	"github.com/sallyport-dev/sallyport/internal/reach"
)

const (
	mailLimit  = 30 * time.Second
	maxAnswers = 256 << 10 // of a mail server, with its certificates
	maxLine    = 400       // characters of a line of a mail
)

// address is what a mail is sent from and to: an address that needs no quoting
// anywhere (RFC 5321 section 4.1.2, without quoted strings), in ASCII.
var address = regexp.MustCompile(`^[A-Za-z0-9!#$%&'*+/=?^_{|}~-]+(\.[A-Za-z0-9!#$%&'*+/=?^_{|}~-]+)*@[A-Za-z0-9]([A-Za-z0-9.-]{0,250}[A-Za-z0-9])?$`)

// mail delivers one event. Addresses that are none, or that the server refuses for
// good, keep nobody else from it.
func mail(ctx context.Context, t Target, e Event, to []string) (d delivered, err error) {
	var good []string
	for _, a := range to {
		if address.MatchString(a) {
			good = append(good, a)
		} else {
			d.Refused = append(d.Refused, a)
		}
	}
	if len(good) == 0 {
		return d, nil // on record as told to nobody
	}
	ctx, cancel := context.WithTimeout(ctx, mailLimit)
	defer cancel()
	c, err := dial(ctx, t)
	if err != nil {
		return d, err
	}
	defer c.Close()
	if err := c.Mail(t.From); err != nil {
		return d, err
	}
	for _, a := range good {
		err := c.Rcpt(a)
		no, ok := errors.AsType[*textproto.Error](err)
		switch {
		case err == nil:
			d.To = append(d.To, a)
		case ok && no.Code/100 == 5:
			d.Refused = append(d.Refused, a)
		default:
			return delivered{}, err
		}
	}
	if len(d.To) == 0 {
		return d, nil
	}
	w, err := c.Data()
	if err != nil {
		return delivered{}, err
	}
	if _, err = w.Write(message(t, e, d.To)); err == nil {
		err = w.Close() // its answer is that the server has the mail
	}
	if err != nil {
		return delivered{}, err
	}
	c.Quit()
	return d, nil
}

// dial connects, encrypted but for loopback, and signs in, only ever encrypted.
func dial(ctx context.Context, t Target) (*smtp.Client, error) {
	u, err := url.Parse(t.URL)
	if err != nil {
		return nil, err
	}
	host, port, conf := u.Hostname(), u.Port(), reach.TLS(t.Roots)
	conf.ServerName = host
	implicit := u.Scheme == "smtps"
	if port == "" {
		port = map[bool]string{true: "465", false: "587"}[implicit] // RFC 8314 section 3.3, RFC 6409
	}
	raw, err := outbox.Dialer(t.Local).DialContext(ctx, "tcp", net.JoinHostPort(host, port))
	if err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, func() { raw.Close() }) // at the latest when the mail is done with
	conn := net.Conn(&bounded{raw, io.LimitReader(raw, maxAnswers)})
	if implicit {
		conn = tls.Client(conn, conf)
	}
	c, err := smtp.NewClient(conn, host)
	if err != nil {
		raw.Close()
		return nil, err
	}
	if err := hello(ctx, c, t, conf, implicit, raw.RemoteAddr()); err != nil {
		c.Close()
		return nil, err
	}
	return c, nil
}

func hello(ctx context.Context, c *smtp.Client, t Target, conf *tls.Config, encrypted bool, at net.Addr) error {
	_, domain, _ := strings.Cut(t.From, "@")
	if err := c.Hello(domain); err != nil {
		return err
	}
	if ok, _ := c.Extension("STARTTLS"); !encrypted && ok {
		if err := c.StartTLS(conf); err != nil {
			return err
		}
		encrypted = true
	}
	if ap, err := netip.ParseAddrPort(at.String()); !encrypted && (err != nil || !ap.Addr().Unmap().IsLoopback()) {
		return errors.New("the mail server offers no STARTTLS")
	}
	if t.Username == "" {
		return nil
	}
	if !encrypted {
		return errors.New("the mail server offers no STARTTLS, and a password is not sent without it")
	}
	p, err := t.Password(ctx)
	if err != nil {
		return err
	}
	defer clear(p)
	return c.Auth(smtp.PlainAuth("", t.Username, strings.TrimRight(string(p), "\r\n"), conf.ServerName))
}

// bounded reads so much from a server and no more.
type bounded struct {
	net.Conn
	r io.Reader
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.r.Read(p)
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return n, err
}

// message is the whole mail, with line ends of CRLF. Its headers are made of the
// table, of the tenant's name and of checked addresses alone.
func message(t Target, e Event, to []string) []byte {
	var b bytes.Buffer
	_, domain, _ := strings.Cut(t.From, "@")
	for _, h := range [][2]string{
		{"From", t.From},
		{"To", strings.Join(to, ",\r\n ")},
		{"Subject", "[sallyport " + e.tenant + "] " + e.row.title + about(e)},
		{"Date", e.Time.Format(time.RFC1123Z)},
		{"Message-ID", "<" + e.ID + "@" + domain + ">"},
		{"Auto-Submitted", "auto-generated"}, // RFC 3834
		{"MIME-Version", "1.0"},
		{"Content-Type", "text/plain; charset=utf-8"},
		{"Content-Transfer-Encoding", "quoted-printable"},
	} {
		fmt.Fprintf(&b, "%s: %s\r\n", h[0], h[1])
	}
	b.WriteString("\r\n")
	w := quotedprintable.NewWriter(&b)
	io.WriteString(w, strings.ReplaceAll(text(e), "\n", "\r\n"))
	w.Close()
	return b.Bytes()
}

// subjectName is what may be in a subject beside our own words.
var subjectName = regexp.MustCompile(`^[a-z0-9]([a-z0-9/-]{0,126}[a-z0-9])?$`)

// about is the task or agent, if it is a name as we make them.
func about(e Event) string {
	if !subjectName.MatchString(e.Subject) {
		return ""
	}
	return " (" + e.Subject + ")"
}

// text is what a person reads: our words, then each field on a line of its own.
func text(e Event) string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s.\n\n", e.row.title)
	for _, name := range slices.Sorted(maps.Keys(e.Data)) {
		fmt.Fprintf(&b, "%s: %s\n", name, show(e.Data[name]))
	}
	next := e.row.next
	for name, v := range e.Data {
		if s := show(v); subjectName.MatchString(s) { // what is copied into a shell
			next = strings.ReplaceAll(next, "{"+name+"}", s)
		}
	}
	fmt.Fprintf(&b, "\nNext: %s\n\nTenant %s, %s\n%s, %s\n", next, e.tenant, e.Source, e.Type, e.ID)
	return b.String()
}

// show is a value on one line, without characters that hide or turn text.
func show(v any) string {
	var s string
	switch x := v.(type) {
	case string:
		s = x
	case json.RawMessage:
		if json.Unmarshal(x, &s) != nil {
			s = string(x)
		}
	default:
		b, _ := json.Marshal(x)
		s = string(b)
	}
	out := []rune(strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, s))
	if len(out) > maxLine {
		out = append(out[:maxLine], '…')
	}
	return string(out)
}
