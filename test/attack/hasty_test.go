package attack

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/approval"
	"github.com/sallyport-dev/sallyport/internal/estate"
	"github.com/sallyport-dev/sallyport/test/rig"
)

func init() { programs["hasty"] = hasty }

// hasty is a harness that cannot wait: four at a time send the same write, with
// Prefer: wait=0, again and again until it is ended. It prints what came.
func hasty(ctx context.Context, args []string) error {
	proxy, err := url.Parse(os.Getenv("HTTPS_PROXY"))
	if err != nil {
		return err
	}
	pem, err := os.ReadFile(os.Getenv("SSL_CERT_FILE"))
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	c := &http.Client{Transport: &http.Transport{Proxy: http.ProxyURL(proxy), TLSClientConfig: &tls.Config{RootCAs: roots}}}
	send := func() {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, args[0], strings.NewReader(args[1]))
		if err != nil {
			return
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		req.Header.Set("Prefer", "return=minimal, wait=0")
		resp, err := c.Do(req)
		if err != nil {
			return
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		h := resp.Header
		fmt.Println(resp.StatusCode, h.Get("Sallyport-Decision"), "retry="+h.Get("Retry-After"), "applied="+h.Get("Preference-Applied"), "question="+h.Get("Sallyport-Question"))
	}
	send() // alone, twice: the same question
	send()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			for ctx.Err() == nil {
				send()
				time.Sleep(100 * time.Millisecond)
			}
		})
	}
	wg.Wait()
	return nil
}

// A harness that says it cannot wait sends a held write again and again, four at
// a time, while it is approved. What was approved is sent once; the rest finds a
// question of its own.
//
// Threats: T50, T52, I3 (approval, hold)
func TestHastyCallersPassOnce(t *testing.T) {
	r := wide(t)
	r.Approver(rig.Nobody)
	x := r.OpenTask(t, rig.Intent(action.Sandbox, "jo", "4711"))
	var out rig.Output
	running, err := r.Server.Run(t.Context(), "", x.ID, rig.Harness(t, &out, "program", "hasty", r.Estate.URL(estate.Sandbox, estate.IAM)+"/users/jo/mfa/reset", "_csrf=wrong"))
	if err != nil {
		t.Fatal(err)
	}
	lines := func() []string { return strings.Split(strings.TrimSpace(out.String()), "\n") }
	rig.Await(t, "the first answers", func() bool { return len(lines()) > 6 })
	first, second := lines()[0], lines()[1]
	if !strings.HasPrefix(first, "409 hold; code=held; layer=hold;") || !strings.Contains(first, "retry=5 applied=wait=0 question=") {
		t.Errorf("got %q", first)
	}
	_, id, _ := strings.Cut(first, "question=")
	if _, again, _ := strings.Cut(second, "question="); again != id {
		t.Errorf("the same, sent again, is question %s, want %s", again, id)
	}
	// Whichever of them is open, one is approved.
	rig.Await(t, "one approval", func() bool {
		for _, a := range r.Pending(t) {
			if r.Sign(t.Context(), a, "ines") == nil {
				return true
			}
		}
		return false
	})
	rig.Await(t, "the release", func() bool { return resets(r) > 0 })
	n := len(lines())
	rig.Await(t, "more attempts", func() bool { return len(lines()) > n+12 })
	if got := resets(r); got != 1 {
		t.Errorf("%d resets reached the application, want the approved one", got)
	}
	if got := r.Allowed(t, x.ID, "iam.user.mfa.reset"); len(got) != 1 || got[0].Approval == "" {
		t.Errorf("%d resets were let through", len(got))
	}
	if got := len(r.Pending(t)); got > approval.MaxOpenPerTask {
		t.Errorf("%d questions are open", got)
	}
	if _, err := r.Server.CloseTask(t.Context(), "", rig.As("ada"), x.ID); err != nil {
		t.Fatal(err)
	}
	rig.Wait(t, running)
	if got := len(r.Pending(t)); got != 0 {
		t.Errorf("%d questions outlived the task", got)
	}
}
