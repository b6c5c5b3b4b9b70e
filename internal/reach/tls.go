package reach

import (
	"crypto/tls"
	"crypto/x509"
)

// TLS trusts the roots, in PEM, or the machine's if there are none. That they are
// PEM was checked when they were declared; of others none is trusted.
func TLS(roots string) *tls.Config {
	conf := &tls.Config{MinVersion: tls.VersionTLS12}
	if roots != "" {
		conf.RootCAs = x509.NewCertPool()
		conf.RootCAs.AppendCertsFromPEM([]byte(roots))
	}
	return conf
}
