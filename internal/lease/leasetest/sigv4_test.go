package leasetest_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/lease/leasetest"
)

// TestSigV4Vectors: the verifier agrees with requests and signatures of AWS' own
// published test suite (aws-sig-v4-test-suite).
func TestSigV4Vectors(t *testing.T) {
	const token = "AQoDYXdzEPT//////////wEXAMPLEtc764bNrC9SAPBSM22wDOk4x4HIZ8j4FZTwdQWLWsKWHGBuFqwAeMicRXmxfpSPfIeoIYRqTflfKD8YUuwthAx7mSEI/qkPpKPi/kMcGdQrmGdeehM4IC1NtBmUpp2wUE8phUZampKsburEDy0KPkyQDYwT7WZ0wq5VSXDvp75YU9HFvlRd8Tx6q6fE8YQcHNVXAkiY9q6d+xo0rKwT38xVqr7ZD0u0iPPkUL64lIZbqBAz+scqKmlzm8FDrypNC9Yjc8fPOLn9FX9KSYvKTr4rvx3iSIlTJabIQwj2ICCR/oLxBA=="
	for name, v := range map[string]struct {
		method, target, body, signed, signature string
		header                                  map[string]string
	}{
		"get-vanilla":                      {method: "GET", target: "/", signed: "host;x-amz-date", signature: "5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"},
		"get-vanilla-query-order-key-case": {method: "GET", target: "/?Param2=value2&Param1=value1", signed: "host;x-amz-date", signature: "b97d918cfa904a5beff61c982a1b6f458b799221646efd99d3219ec94cdf2500"},
		"get-vanilla-empty-query-key":      {method: "GET", target: "/?Param1=value1", signed: "host;x-amz-date", signature: "a67d582fa61cc504c4bae71f336f98b97f1ea3c7a6bfe1b6e45aec72011b9aeb"},
		"post-vanilla":                     {method: "POST", target: "/", signed: "host;x-amz-date", signature: "5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"},
		"post-x-www-form-urlencoded": {method: "POST", target: "/", body: "Param1=value1", signed: "content-type;host;x-amz-date", header: map[string]string{"Content-Type": "application/x-www-form-urlencoded"},
			signature: "ff11897932ad3f4e8b18135d722051e5ac45fc38421b1da7b9d196a0fe09473a"},
		"post-sts-header-before": {method: "POST", target: "/", signed: "host;x-amz-date;x-amz-security-token", header: map[string]string{"X-Amz-Security-Token": token},
			signature: "85d96828115b5dc0cfc3bd16ad9e210dd772bbebba041836c64533a82be05ead"},
	} {
		r, err := http.NewRequest(v.method, "https://example.amazonaws.com"+v.target, strings.NewReader(v.body))
		if err != nil {
			t.Fatal(err)
		}
		for n, x := range v.header {
			r.Header.Set(n, x)
		}
		r.Header.Set("X-Amz-Date", "20150830T123600Z")
		r.Header.Set("Authorization", "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders="+v.signed+", Signature="+v.signature)
		check := func(r *http.Request, body string) error {
			_, err := leasetest.VerifySigV4(r, []byte(body), "service", "us-east-1", func(string) (string, string, error) {
				return "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", v.header["X-Amz-Security-Token"], nil
			})
			return err
		}
		if err := check(r, v.body); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if check(r, v.body+"x") == nil {
			t.Errorf("%s: another body has the same signature", name)
		}
	}
}
