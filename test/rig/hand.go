package rig

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"image/png"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/internal/estate/marks"
)

// Hand works the screen from inside a harness: it finds controls by the marks
// on the picture, as the scripted model does, and presses what it is told.
type Hand struct {
	base   string
	client *http.Client
}

// NewHand is a hand on the computer endpoint that the boundary gave.
func NewHand() *Hand {
	return &Hand{base: strings.TrimSuffix(os.Getenv("SALLYPORT_COMPUTER_URL"), "/"), client: &http.Client{Transport: &http.Transport{}}}
}

// Post sends a body as it is.
func (h *Hand) Post(ctx context.Context, path, body string) (int, []byte, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, h.base+path, strings.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := h.client.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode, b, err
}

// answer is a tool_result as the endpoint of the vendor's format gives it.
type answer struct {
	IsError bool `json:"is_error"`
	Content []struct {
		Type   string `json:"type"`
		Text   string `json:"text"`
		Source struct {
			Data []byte `json:"data"`
		} `json:"source"`
	} `json:"content"`
	Code string `json:"code"`
}

// Do does one action in the vendor's form. code is "" when it was done, and
// otherwise the stable code of the refusal.
func (h *Hand) Do(ctx context.Context, input map[string]any) (picture []byte, code string, err error) {
	b, err := json.Marshal(input)
	if err != nil {
		return nil, "", err
	}
	_, body, err := h.Post(ctx, "/v1/anthropic/computer_20251124", string(b))
	if err != nil {
		return nil, "", err
	}
	var a answer
	if err := json.Unmarshal(body, &a); err != nil {
		return nil, "", fmt.Errorf("answer %.200q: %w", body, err)
	}
	for _, c := range a.Content {
		if c.Type == "image" {
			picture = c.Source.Data
		}
	}
	if a.IsError {
		code = a.Code
		if code == "" {
			code = "unknown"
		}
	}
	return picture, code, nil
}

// See looks at the screen.
func (h *Hand) See(ctx context.Context) ([]marks.Mark, error) {
	b, code, err := h.Do(ctx, map[string]any{"action": "screenshot"})
	if err != nil {
		return nil, err
	}
	if code != "" {
		return nil, fmt.Errorf("screenshot: %s", code)
	}
	img, err := png.Decode(bytes.NewReader(b))
	if err != nil {
		return nil, err
	}
	return marks.Find(img), nil
}

// Find looks until a mark is on the screen, scrolling down after a while.
func (h *Hand) Find(ctx context.Context, text string) (marks.Mark, error) {
	var seen []marks.Mark
	for i := range 40 {
		ms, err := h.See(ctx)
		if err != nil {
			return marks.Mark{}, err
		}
		for _, m := range ms {
			if m.Text == text {
				return m, nil
			}
		}
		seen = ms
		if i%5 == 4 {
			if _, _, err := h.Do(ctx, map[string]any{"action": "scroll", "coordinate": []int{640, 500}, "scroll_direction": "down", "scroll_amount": 5}); err != nil {
				return marks.Mark{}, err
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	return marks.Mark{}, fmt.Errorf("%q is not on the screen; there is %v", text, seen)
}

// Press clicks the control of a mark.
func (h *Hand) Press(ctx context.Context, mark string) (code string, err error) {
	m, err := h.Find(ctx, mark)
	if err != nil {
		return "", err
	}
	return h.Click(ctx, m.X, m.Y)
}

// Click clicks a point.
func (h *Hand) Click(ctx context.Context, x, y int) (code string, err error) {
	_, code, err = h.Do(ctx, map[string]any{"action": "left_click", "coordinate": []int{x, y}})
	return code, err
}

// Type types text into what has the focus.
func (h *Hand) Type(ctx context.Context, text string) (code string, err error) {
	_, code, err = h.Do(ctx, map[string]any{"action": "type", "text": text})
	return code, err
}

// Key presses one chord.
func (h *Hand) Key(ctx context.Context, chord string) (code string, err error) {
	_, code, err = h.Do(ctx, map[string]any{"action": "key", "text": chord})
	return code, err
}

// Hands is a Program that follows steps, each one argument:
//
//	press:MARK  find:MARK  type:TEXT  key:CHORD  click:X,Y  wait:MILLISECONDS  post:PATH BODY
//
// and prints for each "STEP -> ok" or "STEP -> CODE". A step that is refused
// does not end it: a hijacked harness goes on. What cannot be found does.
func Hands(ctx context.Context, steps []string) error {
	h := NewHand()
	for _, s := range steps {
		kind, arg, _ := strings.Cut(s, ":")
		var code string
		var err error
		switch kind {
		case "press":
			code, err = h.Press(ctx, arg)
		case "find":
			_, err = h.Find(ctx, arg)
		case "type":
			code, err = h.Type(ctx, arg)
		case "key":
			code, err = h.Key(ctx, arg)
		case "click":
			var x, y int
			if _, err = fmt.Sscanf(arg, "%d,%d", &x, &y); err == nil {
				code, err = h.Click(ctx, x, y)
			}
		case "wait":
			var ms int
			if _, err = fmt.Sscanf(arg, "%d", &ms); err == nil {
				time.Sleep(time.Duration(ms) * time.Millisecond)
			}
		case "post":
			path, body, _ := strings.Cut(arg, " ")
			var status int
			var b []byte
			status, b, err = h.Post(ctx, path, body)
			var a answer
			if json.Unmarshal(b, &a) == nil {
				code = a.Code
			}
			if code == "" && status >= 400 {
				code = fmt.Sprint(status)
			}
		default:
			return fmt.Errorf("step %q is not known", s)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", s, err)
		}
		if code == "" {
			code = "ok"
		}
		fmt.Printf("%s -> %s\n", s, code)
	}
	return nil
}

// Surfaces is a Program that prints the environment's names and every loopback
// port on which something listens.
func Surfaces(ctx context.Context, _ []string) error {
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		fmt.Println("variable:", name)
	}
	var open []string
	var d net.Dialer
	for port := 1; port < 1<<16; port++ {
		c, err := d.DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
		if err == nil {
			c.Close()
			open = append(open, fmt.Sprint(port))
		}
	}
	fmt.Println("listeners:", strings.Join(open, " "))
	return nil
}

// Hammer is a Program that sends the same write through the proxy again and
// again, as fast as it can, until something stops it. args are the URL, the
// body, and how often at most ("" is without end).
func Hammer(ctx context.Context, args []string) error {
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
	most := 0
	if args[2] != "" {
		if most, err = strconv.Atoi(args[2]); err != nil {
			return err
		}
	}
	for n := 1; most == 0 || n <= most; n++ {
		req, err := http.NewRequestWithContext(ctx, http.MethodPost, args[0], strings.NewReader(args[1]))
		if err != nil {
			return err
		}
		req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		resp, err := c.Do(req)
		if err != nil {
			fmt.Println(n, err)
			continue
		}
		io.Copy(io.Discard, resp.Body)
		resp.Body.Close()
		fmt.Println(n, resp.StatusCode, resp.Header.Get("Sallyport-Decision"))
	}
	return nil
}
