package totp_test

import (
	"encoding/base32"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/totp"
)

// TestVectors are those of RFC 6238 appendix B, and of RFC 4226 appendix D, whose
// counters are time steps here.
func TestVectors(t *testing.T) {
	seed := func(n int) string {
		return base32.StdEncoding.EncodeToString([]byte(strings.Repeat("1234567890", 7)[:n]))
	}
	for algorithm, c := range map[string]struct {
		size  int
		codes string
	}{
		"SHA1":   {20, "94287082 07081804 14050471 89005924 69279037 65353130"},
		"SHA256": {32, "46119246 68084774 67062674 91819424 90698825 77737706"},
		"SHA512": {64, "90693936 25091201 99943326 93441116 38618901 47863826"},
	} {
		k, err := totp.Parse(fmt.Sprintf("otpauth://totp/Acme:svc?secret=%s&algorithm=%s&digits=8&issuer=Acme", seed(c.size), algorithm))
		if err != nil {
			t.Fatal(err)
		}
		for i, at := range []int64{59, 1111111109, 1111111111, 1234567890, 2000000000, 20000000000} {
			want := strings.Fields(c.codes)[i]
			if got := k.Code(k.Step(time.Unix(at, 0))); got != want {
				t.Errorf("%s at %d: got %s, want %s", algorithm, at, got, want)
			}
		}
	}
	k, err := totp.Parse(strings.ToLower(seed(20)))
	if err != nil {
		t.Fatal(err)
	}
	for step, want := range strings.Fields("755224 287082 359152 969429 338314 254676 287922 162583 399871 520489") {
		if got := k.Code(int64(step)); got != want {
			t.Errorf("step %d: got %s, want %s", step, got, want)
		}
	}
	if got := k.Begin(k.Step(time.Unix(59, 0))); got.Unix() != 30 {
		t.Errorf("got %v", got)
	}
}

// TestBadKeys: each is refused, by an error that does not repeat the secret.
func TestBadKeys(t *testing.T) {
	const secret = "GEZDGNBVGY3TQOJQ"
	for _, bad := range []string{"", "GEZDGNBV", "not base32!!", "otpauth://totp/x", "otpauth://hotp/x?counter=1&secret=" + secret,
		"otpauth://totp/x?digits=4&secret=" + secret, "otpauth://totp/x?digits=9&secret=" + secret, "otpauth://totp/x?period=0&secret=" + secret,
		"otpauth://totp/x?period=x&secret=" + secret, "otpauth://totp/x?algorithm=MD5&secret=" + secret, "otpauth://totp/%zz?secret=" + secret,
		"otpauth://totp/x?secret=" + secret + "&secret=" + secret, "otpauth://totp/x?%zz&secret=" + secret} {
		if _, err := totp.Parse(bad); err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: got %v", bad, err)
		}
	}
	for _, good := range []string{secret, "gezd gnbv gy3t qojq", secret + "====", "otpauth://totp/A%20B?secret=" + secret + "&image=x", "\n" + secret + "\n"} {
		if k, err := totp.Parse(good); err != nil || k.Period != 30*time.Second {
			t.Errorf("%s: got %v %v", good, k.Period, err)
		}
	}
}
