package mcp

import (
	"bufio"
	"bytes"
	"io"

	"github.com/sallyport-dev/sallyport/internal/canon"
)

// events reads the one answer out of a stream of events (WHATWG HTML 9.2.6): the rest
// of the stream is not waited for, and a cut one is not resumed.
func events(r io.Reader, id int64) (canon.Value, error) {
	in := bufio.NewReader(r)
	var data []byte
	some := false
	for {
		line, err := in.ReadBytes('\n')
		if err != nil && (err != io.EOF || len(line) == 0) {
			if err == io.EOF {
				err = errUnread // without an answer
			}
			return nil, err
		}
		line = bytes.TrimRight(line, "\r\n")
		if len(line) > 0 {
			if bytes.ContainsRune(line, '\r') {
				return nil, errUnread // an end of a line, to some
			}
			if text, ok := bytes.CutPrefix(line, []byte("data:")); ok {
				if some {
					data = append(data, '\n')
				}
				data, some = append(data, bytes.TrimPrefix(text, []byte(" "))...), true
			}
			continue
		}
		if len(data) > 0 {
			result, again, err := one(data, id)
			if !again {
				return result, err
			}
		}
		data, some = nil, false
	}
}
