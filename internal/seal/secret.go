package seal

import (
	"fmt"
	"io"
	"log/slog"
)

// Secret holds bytes that must not be printed: every fmt verb, slog, JSON and
// text encoding give [secret]. It is not comparable with ==.
type Secret struct {
	b []byte
	_ [0]func()
}

const label = "[secret]"

// NewSecret copies b.
func NewSecret(b []byte) Secret { return Secret{b: append([]byte(nil), b...)} }

// Reveal returns a copy of the bytes. Its callers are the places to look at
// when a secret leaks.
func (s Secret) Reveal() []byte { return append([]byte(nil), s.b...) }

// Empty reports whether there is nothing inside.
func (s Secret) Empty() bool { return len(s.b) == 0 }

// Format implements fmt.Formatter for all verbs.
func (s Secret) Format(f fmt.State, _ rune) { io.WriteString(f, label) }

// LogValue implements slog.LogValuer.
func (s Secret) LogValue() slog.Value { return slog.StringValue(label) }

// MarshalText implements encoding.TextMarshaler, which JSON encoders use too.
func (s Secret) MarshalText() ([]byte, error) { return []byte(label), nil }
