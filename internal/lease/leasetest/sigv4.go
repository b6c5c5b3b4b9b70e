package leasetest

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// VerifySigV4 checks a request as a service of AWS does, by AWS' own description of
// Signature Version 4 and by no code of the signer's. secret gives the key and the
// session token of an access key. It returns the access key.
func VerifySigV4(r *http.Request, body []byte, service, region string, secret func(key string) (secret, token string, err error)) (string, error) {
	fields, ok := strings.CutPrefix(r.Header.Get("Authorization"), "AWS4-HMAC-SHA256 ")
	if !ok {
		return "", errors.New("MissingAuthenticationToken")
	}
	has := map[string]string{}
	for f := range strings.SplitSeq(fields, ",") {
		name, value, _ := strings.Cut(strings.TrimSpace(f), "=")
		has[name] = value
	}
	scope := strings.Split(has["Credential"], "/")
	if len(scope) != 5 || scope[2] != region || scope[3] != service || scope[4] != "aws4_request" || !strings.HasPrefix(r.Header.Get("X-Amz-Date"), scope[1]) {
		return "", fmt.Errorf("SignatureDoesNotMatch: scope %q", has["Credential"])
	}
	key, token, err := secret(scope[0])
	if err != nil {
		return "", err
	}
	if r.Header.Get("X-Amz-Security-Token") != token {
		return "", errors.New("InvalidClientTokenId")
	}
	canonical, err := canonicalRequest(r, body, strings.Split(has["SignedHeaders"], ";"), service != "s3")
	if err != nil {
		return "", err
	}
	mac := func(key []byte, text string) []byte {
		m := hmac.New(sha256.New, key)
		m.Write([]byte(text))
		return m.Sum(nil)
	}
	sum := sha256.Sum256([]byte(canonical))
	k := []byte("AWS4" + key)
	for _, part := range scope[1:] {
		k = mac(k, part)
	}
	want := hex.EncodeToString(mac(k, "AWS4-HMAC-SHA256\n"+r.Header.Get("X-Amz-Date")+"\n"+strings.Join(scope[1:], "/")+"\n"+hex.EncodeToString(sum[:])))
	if !hmac.Equal([]byte(want), []byte(has["Signature"])) {
		return "", errors.New("SignatureDoesNotMatch")
	}
	return scope[0], nil
}

func canonicalRequest(r *http.Request, body []byte, signed []string, twice bool) (string, error) {
	for name := range r.Header {
		if n := strings.ToLower(name); strings.HasPrefix(n, "x-amz-") && !slices.Contains(signed, n) {
			return "", fmt.Errorf("AccessDenied: %s is not signed", n)
		}
	}
	if !slices.Contains(signed, "host") || !slices.IsSorted(signed) {
		return "", errors.New("AccessDenied: host is not signed")
	}
	encode := func(s string, keep string) string {
		var b strings.Builder
		for _, c := range []byte(s) {
			if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || strings.IndexByte("-_.~"+keep, c) >= 0 {
				b.WriteByte(c)
			} else {
				fmt.Fprintf(&b, "%%%02X", c)
			}
		}
		return b.String()
	}
	uri := r.URL.EscapedPath()
	if uri == "" {
		uri = "/"
	}
	if twice {
		uri = encode(uri, "/")
	}
	query, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return "", err
	}
	var pairs []string
	for name, values := range query {
		for _, v := range values {
			pairs = append(pairs, encode(name, "")+"="+encode(v, ""))
		}
	}
	slices.Sort(pairs)
	var headers strings.Builder
	for _, n := range signed {
		v := strings.Join(r.Header.Values(n), ",")
		switch n {
		case "host":
			v = r.Host
		case "content-length":
			v = fmt.Sprint(r.ContentLength)
		}
		fmt.Fprintf(&headers, "%s:%s\n", n, strings.Join(strings.Fields(v), " "))
	}
	sum := sha256.Sum256(body)
	digest := hex.EncodeToString(sum[:])
	if d := r.Header.Get("X-Amz-Content-Sha256"); d != "" && d != digest {
		return "", errors.New("XAmzContentSHA256Mismatch")
	}
	return strings.Join([]string{r.Method, uri, strings.Join(pairs, "&"), headers.String(), strings.Join(signed, ";"), digest}, "\n"), nil
}
