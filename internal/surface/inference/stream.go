package inference

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/canon"
)

// maxEvent bounds one event of a stream, in bytes.
const maxEvent = 4 << 20

var errTooLarge = errors.New("the event is too large")

// event is one server-sent event (WHATWG HTML, section 9.2.6).
type event struct {
	name string
	data []byte
}

// events reads a stream. Line ends are LF, CRLF or CR, as the specification
// says; comments, id and retry are dropped.
type events struct {
	r     *bufio.Reader
	first bool
}

func newEvents(r io.Reader) *events { return &events{r: bufio.NewReaderSize(r, 32<<10), first: true} }

// line reads one line without its end. A CR alone is an end; the LF of a CRLF
// is left for the next call to skip, so that no byte more than needed is
// waited for.
func (e *events) line(skipLF *bool, left *int) ([]byte, error) {
	var out []byte
	for {
		b, err := e.r.ReadByte()
		if err != nil {
			return nil, err
		}
		if *skipLF {
			*skipLF = false
			if b == '\n' {
				continue
			}
		}
		if *left--; *left < 0 {
			return nil, errTooLarge
		}
		switch b {
		case '\r':
			*skipLF = true
			return out, nil
		case '\n':
			return out, nil
		}
		out = append(out, b)
	}
}

// next returns the next event that has data. io.EOF at the end; an event that
// the end cut is dropped, as the specification says.
func (e *events) next(skipLF *bool) (event, error) {
	var ev event
	var data [][]byte
	left := maxEvent
	for {
		l, err := e.line(skipLF, &left)
		if err != nil {
			return event{}, err
		}
		if e.first {
			e.first = false
			l = bytes.TrimPrefix(l, []byte("\xef\xbb\xbf"))
		}
		if len(l) == 0 {
			if data == nil {
				ev = event{}
				continue
			}
			ev.data = bytes.Join(data, []byte("\n"))
			return ev, nil
		}
		field, value, _ := bytes.Cut(l, []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(field) {
		case "event":
			ev.name = string(value)
		case "data":
			data = append(data, bytes.Clone(value))
		}
	}
}

// usage is what the provider says of how it answered, and what that took.
type usage struct {
	InferenceGeo string `json:"inference_geo"`
	tokens
}

// tokens are counts of them.
type tokens struct {
	Input   int64 `json:"input_tokens"`
	Created int64 `json:"cache_creation_input_tokens"`
	Cached  int64 `json:"cache_read_input_tokens"`
	Output  int64 `json:"output_tokens"`
}

// UnmarshalJSON takes what it can read of the counts: an answer is not refused for
// them.
func (u *usage) UnmarshalJSON(b []byte) error {
	var where struct {
		InferenceGeo string `json:"inference_geo"`
	}
	if err := canon.UnmarshalOpen(b, maxEvent, &where); err != nil {
		return err
	}
	u.InferenceGeo = where.InferenceGeo
	var t tokens
	if canon.UnmarshalOpen(b, maxEvent, &t) == nil {
		u.tokens = t
	}
	return nil
}

// rise takes a later count of the same message: counts of a stream are of all of it.
func (t *tokens) rise(v tokens) {
	t.Input, t.Created, t.Cached, t.Output = max(t.Input, v.Input), max(t.Created, v.Created), max(t.Cached, v.Cached), max(t.Output, v.Output)
}

// all is 0 for what is no count.
func (t tokens) all() int64 {
	const most = 1 << 40
	n := int64(0)
	for _, v := range []int64{t.Input, t.Created, t.Cached, t.Output} {
		if v < 0 || v > most {
			return 0
		}
		n += v
	}
	return n
}

// fact is what the boundary reads in an event.
type fact struct {
	Type    string `json:"type"`
	Message struct {
		Model      string `json:"model"`
		StopReason string `json:"stop_reason"`
		Usage      usage  `json:"usage"`
	} `json:"message"`
	Usage usage `json:"usage"` // of the message so far, at its end
	Delta struct {
		StopReason string `json:"stop_reason"`
	} `json:"delta"`
}

// read checks that the event is one strict document whose type is its name.
func (ev event) read() (fact, error) {
	var f fact
	if err := canon.UnmarshalOpen(ev.data, maxEvent, &f); err != nil {
		return fact{}, fmt.Errorf("event: %w", err)
	}
	if f.Type == "" || ev.name != "" && ev.name != f.Type || strings.ContainsAny(f.Type, "\r\n") {
		return fact{}, errors.New("event: its type is not its name")
	}
	return f, nil
}

// write puts the event out in the one normal form.
func (ev event) write(w io.Writer, f fact) error {
	var b bytes.Buffer
	b.WriteString("event: " + f.Type + "\n")
	for l := range bytes.SplitSeq(ev.data, []byte("\n")) {
		b.WriteString("data: ")
		b.Write(l)
		b.WriteByte('\n')
	}
	b.WriteByte('\n')
	_, err := w.Write(b.Bytes())
	return err
}
