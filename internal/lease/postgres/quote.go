package postgres

import (
	"crypto/hmac"
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"
)

// quoteName quotes an identifier: PostgreSQL, "Identifiers and Key Words". A name
// that the server would cut or cannot hold is refused.
func quoteName(name string) (string, error) {
	switch {
	case name == "" || len(name) > 63:
		return "", fmt.Errorf("a role name has 1 to 63 bytes, not %d", len(name))
	case strings.ContainsRune(name, 0) || !utf8.ValidString(name):
		return "", errors.New("a role name holds a NUL or is not UTF-8")
	}
	return `"` + strings.ReplaceAll(name, `"`, `""`) + `"`, nil
}

// quoteText quotes a string constant, in the form that means the same whatever
// standard_conforming_strings says.
func quoteText(s string) (string, error) {
	if strings.ContainsRune(s, 0) || !utf8.ValidString(s) {
		return "", errors.New("a text holds a NUL or is not UTF-8")
	}
	return "E'" + strings.NewReplacer(`\`, `\\`, `'`, `''`).Replace(s) + "'", nil
}

// labelled is the quoted name of a role that this package may change.
func labelled(label string) (string, error) {
	if !labels.MatchString(label) {
		return "", errors.New("the role carries no label of ours")
	}
	return quoteName(label)
}

// iterations are those of RFC 7677 section 4.
const iterations = 4096

// verifier is what the server keeps of a password (RFC 5803, in PostgreSQL's
// spelling): enough to check it, and not to use it.
func verifier(password string) (string, error) {
	salt := make([]byte, 16)
	rand.Read(salt)
	salted, err := pbkdf2.Key(sha256.New, password, salt, iterations, sha256.Size)
	if err != nil {
		return "", err
	}
	stored := sha256.Sum256(keyed(salted, "Client Key"))
	b64 := base64.StdEncoding.EncodeToString
	return fmt.Sprintf("SCRAM-SHA-256$%d:%s$%s:%s", iterations, b64(salt), b64(stored[:]), b64(keyed(salted, "Server Key"))), nil
}

func keyed(key []byte, text string) []byte {
	m := hmac.New(sha256.New, key)
	m.Write([]byte(text))
	return m.Sum(nil)
}
