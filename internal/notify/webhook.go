package notify

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/outbox"
)

// post delivers one event in structured mode (CloudEvents HTTP binding 1.0.2,
// section 3.2). Any status of 2xx is the receiver's word that it has it.
func post(ctx context.Context, t Target, e Event) error {
	body, err := json.Marshal(e)
	if err != nil {
		return err
	}
	q, err := http.NewRequestWithContext(ctx, http.MethodPost, t.URL, bytes.NewReader(body))
	if err != nil {
		return err
	}
	q.Header.Set("Content-Type", "application/cloudevents+json; charset=utf-8")
	q.Header.Set("User-Agent", "sallyport")
	if t.Authorization != nil {
		h, err := t.Authorization(ctx)
		if err != nil {
			return err
		}
		q.Header.Set("Authorization", strings.TrimSpace(string(h)))
		clear(h)
	}
	if t.Signature != nil {
		if err := sign(ctx, q.Header, t.Signature, e.ID, body, time.Now()); err != nil {
			return err
		}
	}
	resp, err := outbox.Client(t.Roots, t.Local).Do(q)
	if err != nil {
		return err
	}
	resp.Body.Close() // whatever it says, and however long it is
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("the receiver answers %d", resp.StatusCode)
	}
	return nil
}

var errWebhookSecret = errors.New("the signing secret is none of Standard Webhooks: want whsec_ and 24 to 64 bytes in base64")

// sign adds the headers of Standard Webhooks 1.0.0, symmetric.
func sign(ctx context.Context, h http.Header, secret Secret, id string, body []byte, now time.Time) error {
	text, err := secret(ctx)
	if err != nil {
		return err
	}
	defer clear(text)
	b64, ok := strings.CutPrefix(strings.TrimSpace(string(text)), "whsec_")
	key, err := base64.StdEncoding.DecodeString(b64)
	if !ok || err != nil || len(key) < 24 || len(key) > 64 {
		return errWebhookSecret
	}
	defer clear(key)
	at := strconv.FormatInt(now.Unix(), 10)
	m := hmac.New(sha256.New, key)
	fmt.Fprintf(m, "%s.%s.%s", id, at, body)
	h.Set("Webhook-Id", id)
	h.Set("Webhook-Timestamp", at)
	h.Set("Webhook-Signature", "v1,"+base64.StdEncoding.EncodeToString(m.Sum(nil)))
	return nil
}
