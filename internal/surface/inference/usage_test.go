package inference_test

import (
	"io"
	"net/http"
	"testing"
)

// TestTokensAreRecorded: what a provider says that an answer took is in its outcome,
// of a stream once; what is no count is not known, and stops no answer.
func TestTokensAreRecorded(t *testing.T) {
	for name, c := range map[string]struct {
		stream bool
		answer string
		want   int64
	}{
		"whole": {false, `{"id":"m","type":"message","model":"claude-sample-1","content":[],"stop_reason":"end_turn",
			"usage":{"input_tokens":100,"cache_read_input_tokens":20,"output_tokens":3,"service_tier":"standard"}}`, 123},
		"stream": {true, "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"model\":\"claude-sample-1\",\"usage\":{\"input_tokens\":100,\"output_tokens\":1}}}\n\n" +
			"event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"end_turn\"},\"usage\":{\"output_tokens\":40}}\n\n", 140},
		"no count": {false, `{"id":"m","type":"message","model":"claude-sample-1","content":[],"stop_reason":"end_turn","usage":{"input_tokens":"many"}}`, 0},
		"negative": {false, `{"id":"m","type":"message","model":"claude-sample-1","content":[],"stop_reason":"end_turn","usage":{"input_tokens":-5,"output_tokens":9}}`, 0},
	} {
		t.Run(name, func(t *testing.T) {
			f := start(t, func(w http.ResponseWriter, _ *http.Request) {
				if c.stream {
					sse(w, c.answer)
					return
				}
				w.Header().Set("Content-Type", "application/json")
				io.WriteString(w, c.answer)
			})
			body := plain
			if c.stream {
				body = stream(plain)
			}
			if status, got := f.post(body); status != 200 || f.log.outcomes[0].Outcome.Tokens != c.want {
				t.Errorf("got %d %s, %+v", status, got, f.log.outcomes[0].Outcome)
			}
		})
	}
}
