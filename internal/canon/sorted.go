package canon

import "slices"

// sorted is the canonical form of b, valid JSON as json.Marshal writes it, when
// nothing but the order of members keeps b from being canonical; not ok says
// that there is more, and that the library must do it. Almost all of our
// documents are of this kind, and the library reads a document three times.
//
// Not ok: a byte between tokens, an escape, a name that is not ASCII (RFC 8785
// section 3.2.3 sorts by UTF-16 units), a number that is not an integer of at
// most 15 digits, negative zero.
func sorted(b []byte) (out []byte, ok bool) {
	s := sorter{in: b, out: make([]byte, 0, len(b))}
	if !s.value(0) || s.at != len(b) {
		return nil, false
	}
	return s.out, true
}

type sorter struct {
	in, out []byte
	at      int    // in in
	spare   []byte // a copy of the members of one object
}

// member is one member of an object in out, by its places there.
type member struct {
	start, name, end int // of the opening quote, the closing one, and the byte after the value
}

func (s *sorter) value(depth int) bool {
	if s.at >= len(s.in) || depth > MaxDepth {
		return false
	}
	switch c := s.in[s.at]; {
	case c == '{':
		return s.object(depth + 1)
	case c == '[':
		s.copy(1)
		return s.list(']', func() bool { return s.value(depth + 1) })
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
	if s.at+n > len(s.in) {
		return false
	}
	s.out = append(s.out, s.in[s.at:s.at+n]...)
	s.at += n
	return true
}

// list copies items up to the closing byte, and the commas between them.
func (s *sorter) list(closing byte, item func() bool) bool {
	for first := true; s.at < len(s.in); first = false {
		switch c := s.in[s.at]; {
		case c == closing:
			return s.copy(1)
		case !first && (c != ',' || !s.copy(1)):
			return false
		}
		if !item() {
			return false
		}
	}
	return false
}

func (s *sorter) object(depth int) bool {
	s.copy(1)
	open := len(s.out)
	var room [16]member
	members := room[:0]
	inOrder := true
	name := func(m member) []byte { return s.out[m.start+1 : m.name] }
	ok := s.list('}', func() bool {
		m := member{start: len(s.out)}
		ascii, ok := s.text()
		if !ok || !ascii {
			return false
		}
		m.name = len(s.out) - 1
		if s.at >= len(s.in) || s.in[s.at] != ':' || !s.copy(1) || !s.value(depth) {
			return false
		}
		m.end = len(s.out)
		inOrder = inOrder && (len(members) == 0 || string(name(members[len(members)-1])) < string(name(m)))
		members = append(members, m)
		return true
	})
	if !ok || inOrder {
		return ok
	}
	slices.SortFunc(members, func(a, b member) int { return slices.Compare(name(a), name(b)) })
	s.spare = append(s.spare[:0], s.out[open:]...)
	s.out = s.out[:open]
	for i, m := range members {
		if i > 0 {
			s.out = append(s.out, ',')
		}
		s.out = append(s.out, s.spare[m.start-open:m.end-open]...)
	}
	s.out = append(s.out, '}')
	return true
}

// text copies a string without escapes.
func (s *sorter) text() (ascii, ok bool) {
	ascii = true
	for i := s.at + 1; i < len(s.in) && s.in[s.at] == '"'; i++ {
		switch c := s.in[i]; {
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
	if s.in[i] == '-' {
		i++
	}
	digits := i
	for i < len(s.in) && s.in[i] >= '0' && s.in[i] <= '9' {
		i++
	}
	zero := i > digits && s.in[digits] == '0'
	if n := i - digits; n == 0 || n > 15 || zero && (n > 1 || digits > s.at) {
		return false
	}
	if i < len(s.in) && (s.in[i] == '.' || s.in[i] == 'e' || s.in[i] == 'E') {
		return false
	}
	return s.copy(i - s.at)
}
