package server

import (
	"crypto/rand"
	"encoding/base32"
	"encoding/binary"
	"time"
)

var alphabet = base32.NewEncoding("0123456789abcdefghjkmnpqrstvwxyz").WithPadding(base32.NoPadding)

// newID makes an identifier that sorts by time and cannot be guessed:
// prefix, 48 bits of milliseconds, 72 bits of randomness.
func newID(prefix string) string {
	var b [15]byte
	binary.BigEndian.PutUint64(b[:8], uint64(time.Now().UnixMilli())<<16)
	rand.Read(b[6:])
	return prefix + "-" + alphabet.EncodeToString(b[:])
}

func ids(prefix string) func() string { return func() string { return newID(prefix) } }
