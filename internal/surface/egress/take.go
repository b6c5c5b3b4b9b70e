package egress

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"net/http"
	"slices"

	"github.com/sallyport-dev/sallyport/internal/action"
)

// Take is a credential that door 2 puts into the request, for the origin that it
// was recognised at and no other. Neither client nor page sees it.
type Take struct {
	Source string
	// Fields are the header fields that it goes into, in canonical form. A client
	// sends nothing in them, unless Names says that it only names the credential.
	Fields []string
	Names  func(value string) bool
	// Put changes Fields of the outgoing request. It comes last: body is what is
	// sent, and nothing of the request is changed after it. Its error repeats
	// nothing of the credential.
	Put func(r *http.Request, body []byte, credential string) error
	// Certificate: the credential is PEM of a client certificate and its key, and
	// goes into the connection. Then there are no Fields.
	Certificate bool
}

// takes settles which of the declared credentials the request is sent with: those
// that the task holds a lease of. header loses what only names them. A client that
// sends a credential of its own in their place is refused: which of the two the
// origin would believe is not ours to guess.
func (p *Proxy) takes(req action.Request, header http.Header, declared []Take) (held []Take, code string) {
	for _, t := range declared {
		for _, f := range t.Fields {
			values, ok := header[f]
			switch {
			case !ok:
			case len(values) == 1 && t.Names(values[0]):
				if p.cfg.Secrets == nil || !p.cfg.Secrets.Leased(req.Origin, t.Source) {
					return nil, "secret_not_leased"
				}
				delete(header, f)
			case len(values) == 1 && slices.ContainsFunc(declared, func(o Take) bool { return slices.Contains(o.Fields, f) && o.Names(values[0]) }):
			default:
				return nil, "own_credential"
			}
		}
		if p.cfg.Secrets == nil || !p.cfg.Secrets.Leased(req.Origin, t.Source) {
			continue
		}
		for _, o := range held {
			if t.Certificate && o.Certificate || slices.ContainsFunc(t.Fields, func(f string) bool { return slices.Contains(o.Fields, f) }) {
				return nil, "credentials_clash"
			}
		}
		held = append(held, t)
	}
	return held, ""
}

// use puts the use of every secret and credential of the request on record, and
// only then has their values.
func (x *exchange) use(ctx context.Context, id string) error {
	var names []string
	for _, s := range x.rec.Secrets {
		names = append(names, s.Secret)
	}
	for _, t := range x.rec.Takes {
		names = append(names, t.Source)
	}
	if len(names) == 0 {
		return nil
	}
	if x.p.cfg.Secrets == nil {
		return errNoSecrets
	}
	var err error
	if x.values, err = x.p.cfg.Secrets.Use(ctx, x.in.to.origin(), id, names); err != nil {
		return err
	}
	for _, n := range names {
		if x.values[n] == "" {
			return errNoSecrets
		}
	}
	return nil
}

// put puts the credentials into a request of the exchange: the one that was decided,
// or a read-back of it. Nothing is changed but the fields that they are declared for.
func (x *exchange) put(r *http.Request, body []byte) error {
	if r.URL.Scheme+"://"+r.URL.Host != x.in.to.origin() {
		return errInjector
	}
	for _, t := range x.rec.Takes {
		if t.Certificate {
			continue
		}
		before, method, host, u := r.Header.Clone(), r.Method, r.Host, *r.URL
		if err := t.Put(r, body, x.values[t.Source]); err != nil {
			return err
		}
		for name, values := range r.Header {
			if !slices.Equal(before[name], values) && !slices.Contains(t.Fields, name) {
				return errInjector
			}
			delete(before, name)
		}
		if len(before) > 0 || r.Method != method || r.Host != host || *r.URL != u {
			return errInjector
		}
	}
	return nil
}

// transport is the way to the origin: with a client certificate, if the request
// takes one, over connections of that certificate's own.
func (x *exchange) transport(e action.Effect) (*http.Transport, error) {
	pair := x.up.plain
	for _, t := range x.rec.Takes {
		if t.Certificate {
			var err error
			if pair, err = x.up.certified(x.values[t.Source]); err != nil {
				return nil, err
			}
		}
	}
	if x.in.websocket || e.Changes() && !writes(x.out.Method) {
		return pair.once, nil
	}
	return pair.http, nil
}

var errCertificate = errors.New("the credential is no client certificate with its key, in PEM")

// certified are connections on which the origin sees a client certificate. One that
// was replaced, as before its end, takes the idle connections of the old one along.
func (up *upstream) certified(pem string) (transports, error) {
	sum := sha256.Sum256([]byte(pem))
	up.mu.Lock()
	defer up.mu.Unlock()
	if up.cert != nil && up.certSum == sum {
		return *up.cert, nil
	}
	pair, err := tls.X509KeyPair([]byte(pem), []byte(pem))
	if err != nil {
		return transports{}, errCertificate
	}
	if up.cert != nil {
		up.cert.closeIdle()
	}
	now := up.transports(func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return &pair, nil })
	up.cert, up.certSum = &now, sum
	return now, nil
}

// CheckCertificate says why a credential cannot be a client certificate. The error
// repeats nothing of it.
func CheckCertificate(pem string) error {
	pair, err := tls.X509KeyPair([]byte(pem), []byte(pem))
	if err != nil {
		return errCertificate
	}
	_, err = x509.ParseCertificate(pair.Certificate[0])
	return err
}
