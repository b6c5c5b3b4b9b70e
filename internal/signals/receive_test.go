package signals_test

import (
	"context"
	"errors"
	"net/http"
	"net/http/httptest"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/ledger/ledgertest"
	"github.com/sallyport-dev/sallyport/internal/record"
	"github.com/sallyport-dev/sallyport/internal/signals"
)

// broken is a log whose next write fails.
type broken struct {
	record.Log
	fails bool
	steps *[]string
}

func (b *broken) Append(ctx context.Context, d record.Draft) (record.Entry, error) {
	*b.steps = append(*b.steps, "record")
	if b.fails {
		b.fails = false
		return record.Entry{}, errors.New("the disk is full")
	}
	return b.Log.Append(ctx, d)
}

// The order of an event that ends something: fence, record, end, answer. If it
// cannot be recorded the transmitter hears so and sends it again, and what was
// fenced has ended all the same. What one event took no other gives back.
//
// Threats: S2 (door); S3 (approval); S4 (ledger)
func TestOrderOfReceived(t *testing.T) {
	var steps []string
	log := &broken{Log: ledgertest.New(t), fails: true, steps: &steps}
	var open string
	r := &signals.Receiver{Log: log,
		Find: func(iss string) (signals.Transmitter, bool) {
			return signals.Transmitter{Issuer: iss, Audience: "us", Formats: []string{"email"}}, iss == "https://idp.example"
		},
		Open:   func(context.Context, string) (map[string]canon.Value, error) { return claims(t, open), nil },
		People: func(signals.Transmitter, []signals.Subject) []string { return []string{"dana"} },
		Fence: func(context.Context, []signals.Bar) ([]string, error) {
			steps = append(steps, "fence")
			return []string{"t1"}, nil
		},
		End:     func(tasks []string, _ string) { steps = append(steps, "end "+strings.Join(tasks, " ")) },
		Refused: func(string) { steps = append(steps, "refused") },
	}
	deliver := func(jti, kind, payload string) int {
		steps = nil
		open = `{"iss":"https://idp.example","jti":"` + jti + `","iat":` + strconv.FormatInt(time.Now().Unix(), 10) + `,"aud":"us","sub_id":{"format":"email","email":"d@x.example"},"events":{"https://schemas.openid.net/secevent/` + kind + `":` + payload + `}}`
		q := httptest.NewRequest("POST", "/", strings.NewReader("x"))
		q.Header.Set("Content-Type", "application/secevent+jwt")
		w := httptest.NewRecorder()
		r.ServeHTTP(w, q)
		return w.Code
	}
	want := func(status int, what ...string) func(int) {
		return func(got int) {
			t.Helper()
			if got != status || !slices.Equal(steps, what) {
				t.Errorf("got %d after %v, want %d after %v", got, steps, status, what)
			}
		}
	}
	bar := func() (b signals.Bar) {
		t.Helper()
		if err := log.View(t.Context(), func(tx record.Tx) error { return tx.Get(signals.KindBarred, "dana", &b) }); err != nil {
			t.Fatal(err)
		}
		return b
	}
	want(http.StatusServiceUnavailable, "fence", "record", "end t1")(deliver("1", "risc/event-type/account-disabled", "{}"))
	want(http.StatusAccepted, "fence", "record", "end t1")(deliver("1", "risc/event-type/account-disabled", "{}"))
	want(http.StatusAccepted)(deliver("1", "risc/event-type/account-disabled", "{}"))
	first := bar()
	if !first.Locked {
		t.Errorf("got %+v", first)
	}
	want(http.StatusAccepted, "fence", "record", "end t1")(deliver("2", "caep/event-type/session-revoked", "{}"))
	if b := bar(); !b.Locked || b.Since.Before(first.Since) {
		t.Errorf("an event softened what another took: %+v, was %+v", b, first)
	}
	for _, kind := range []string{"risc/event-type/account-enabled", "caep/event-type/session-established", "caep/event-type/risk-level-change"} {
		want(http.StatusAccepted, "record")(deliver(kind, kind, "{}"))
		if !bar().Locked {
			t.Errorf("%s gave something back", kind)
		}
	}
}
