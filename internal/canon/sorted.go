package canon

import (
	"bytes"
	"slices"
	"sync"
)

// sorted is the canonical form of in, valid JSON as json.Marshal writes it, when
// nothing but the order of members keeps it from being canonical; not ok says
// that there is more, and that the library must do it. Almost all of our
// documents are of this kind, and the library reads a document three times.
//
// Not ok: a byte between tokens, an escape, a name that is not ASCII (RFC 8785
// section 3.2.3 sorts by UTF-16 units), a number that is not an integer of at
// most 15 digits, negative zero.
func (s *sorter) sorted() (out []byte, ok bool) {
	s.b = s.in.Bytes()
	s.at, s.out, s.members = 0, make([]byte, 0, len(s.b)), s.members[:0]
	if !s.value(0) || s.at != len(s.b) {
		return nil, false
	}
	return s.out, true
}

// sorter is the scratch of one Marshal.
type sorter struct {
	in      bytes.Buffer
	b       []byte // in
	out     []byte
	at      int      // in b
	spare   []byte   // a copy of the members of one object
	members []member // of the objects that are open
}

var sorters = sync.Pool{New: func() any { return new(sorter) }}

// put gives the scratch back. The few large documents are not worth their room.
func (s *sorter) put() {
	const most = 64 << 10
	if s.in.Cap() > most {
		return
	}
	s.in.Reset()
	s.b, s.out = nil, nil
	sorters.Put(s)
}

// member is one member of an object in out, by its places there.
type member struct {
	start, name, end int // of the opening quote, the closing one, and the byte after the value
}

func (s *sorter) value(depth int) bool {
	if s.at >= len(s.b) || depth > MaxDepth {
		return false
	}
	switch c := s.b[s.at]; {
	case c == '{':
		return s.object(depth + 1)
	case c == '[':
		return s.array(depth + 1)
	case c == '"':
		_, ok := s.text()
		return ok
	case c == '-' || c >= '0' && c <= '9':
		return s.integer()
	case c == 't' || c == 'n':
		return s.copy(4)
	case c == 'f':
		return s.copy(5)
	}
	return false
}

func (s *sorter) copy(n int) bool {
	if s.at+n > len(s.b) {
		return false
	}
	s.out = append(s.out, s.b[s.at:s.at+n]...)
	s.at += n
	return true
}

// next copies what is before an item: nothing before the first, or a comma. It
// reports the end of the list instead, which it copies too.
func (s *sorter) next(first bool, closing byte) (end, ok bool) {
	switch {
	case s.at >= len(s.b):
		return false, false
	case s.b[s.at] == closing:
		return true, s.copy(1)
	case first:
		return false, true
	}
	return false, s.b[s.at] == ',' && s.copy(1)
}

func (s *sorter) array(depth int) bool {
	s.copy(1)
	for first := true; ; first = false {
		if end, ok := s.next(first, ']'); end || !ok {
			return ok
		}
		if !s.value(depth) {
			return false
		}
	}
}

func (s *sorter) object(depth int) bool {
	s.copy(1)
	open, own := len(s.out), len(s.members)
	inOrder := true
	for first := true; ; first = false {
		end, ok := s.next(first, '}')
		if !ok {
			return false
		}
		if end {
			break
		}
		m := member{start: len(s.out)}
		if ascii, ok := s.text(); !ok || !ascii {
			return false
		}
		m.name = len(s.out) - 1
		if s.at >= len(s.b) || s.b[s.at] != ':' || !s.copy(1) || !s.value(depth) {
			return false
		}
		m.end = len(s.out)
		inOrder = inOrder && (first || string(s.name(s.members[len(s.members)-1])) < string(s.name(m)))
		s.members = append(s.members, m)
	}
	if !inOrder {
		s.sort(open, s.members[own:])
	}
	s.members = s.members[:own]
	return true
}

func (s *sorter) name(m member) []byte { return s.out[m.start+1 : m.name] }

// sort puts the members of the object that ends out in order.
func (s *sorter) sort(open int, members []member) {
	slices.SortFunc(members, func(a, b member) int { return bytes.Compare(s.name(a), s.name(b)) })
	s.spare = append(s.spare[:0], s.out[open:]...)
	s.out = s.out[:open]
	for i, m := range members {
		if i > 0 {
			s.out = append(s.out, ',')
		}
		s.out = append(s.out, s.spare[m.start-open:m.end-open]...)
	}
	s.out = append(s.out, '}')
}

// text copies a string without escapes.
func (s *sorter) text() (ascii, ok bool) {
	ascii = true
	for i := s.at + 1; i < len(s.b) && s.b[s.at] == '"'; i++ {
		switch c := s.b[i]; {
		case c == '"':
			return ascii, s.copy(i + 1 - s.at)
		case c == '\\' || c < 0x20:
			return false, false
		case c >= 0x80:
			ascii = false
		}
	}
	return false, false
}

// integer copies a number that every double holds, and that has one form.
func (s *sorter) integer() bool {
	i := s.at
	if s.b[i] == '-' {
		i++
	}
	digits := i
	for i < len(s.b) && s.b[i] >= '0' && s.b[i] <= '9' {
		i++
	}
	zero := i > digits && s.b[digits] == '0'
	if n := i - digits; n == 0 || n > 15 || zero && (n > 1 || digits > s.at) {
		return false
	}
	if i < len(s.b) && (s.b[i] == '.' || s.b[i] == 'e' || s.b[i] == 'E') {
		return false
	}
	return s.copy(i - s.at)
}
