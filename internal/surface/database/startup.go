package database

import (
	"encoding/binary"
	"fmt"
	"io"
	"maps"
	"net"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5/pgproto3"
)

// Codes in the place of a protocol version (PostgreSQL, "Message Formats").
const (
	codeCancel = 80877102
	codeTLS    = 80877103
	codeGSS    = 80877104
)

const (
	maxStartup  = 10_000 // bytes, as the server itself has it
	maxAttempts = 3      // TLS, GSS, and then the message itself
)

// hello is what a client says first: a cancel request, or a startup message.
type hello struct {
	cancel     *cancelKey
	parameters map[string]string
	newer      bool     // a later minor version than 3.0
	extensions []string // of the protocol, none of which is spoken
}

// greet reads the first message. Encryption is declined: the address is inside the
// agent's own namespace. Nothing is read past the message.
func greet(c net.Conn) (hello, error) {
	for range maxAttempts {
		var head [4]byte
		if _, err := io.ReadFull(c, head[:]); err != nil {
			return hello{}, err
		}
		n := binary.BigEndian.Uint32(head[:])
		if n < 8 || n > maxStartup {
			return hello{}, fmt.Errorf("startup message of %d bytes", n)
		}
		body := make([]byte, n-4)
		if _, err := io.ReadFull(c, body); err != nil {
			return hello{}, err
		}
		switch code := binary.BigEndian.Uint32(body); {
		case (code == codeTLS || code == codeGSS) && n == 8:
			if _, err := c.Write([]byte{'N'}); err != nil {
				return hello{}, err
			}
		case code == codeCancel && n == 16:
			return hello{cancel: &cancelKey{binary.BigEndian.Uint32(body[4:]), binary.BigEndian.Uint32(body[8:])}}, nil
		case code>>16 == 3:
			return startup(code, body)
		default:
			return hello{}, fmt.Errorf("protocol version %d.%d", code>>16, code&0xffff)
		}
	}
	return hello{}, fmt.Errorf("no startup message")
}

// startup reads the parameters; a name that is there twice is refused, since
// client and server may take different ones.
func startup(code uint32, body []byte) (hello, error) {
	h := hello{parameters: map[string]string{}, newer: code != pgproto3.ProtocolVersion30}
	rest := string(body[4:])
	for {
		name, after, ok := strings.Cut(rest, "\x00")
		if !ok {
			return hello{}, fmt.Errorf("startup message without an end")
		}
		if name == "" {
			if after != "" {
				return hello{}, fmt.Errorf("startup message with something behind its end")
			}
			return h, nil
		}
		value, next, ok := strings.Cut(after, "\x00")
		if _, twice := h.parameters[name]; !ok || twice {
			return hello{}, fmt.Errorf("startup message with a broken or repeated parameter")
		}
		rest = next
		if strings.HasPrefix(name, "_pq_.") {
			h.extensions = append(h.extensions, name)
			continue
		}
		h.parameters[name] = value
	}
}

// check takes role and database out of the parameters, after comparing them.
func (h hello) check(role, database string) (session map[string]string, code, reason string) {
	session = maps.Clone(h.parameters)
	if user := session["user"]; user != "" && user != role {
		return nil, "other_role", "this address signs in as the task's own role: take the user from PGUSER"
	}
	if db, ok := session["database"]; ok && db != database && db != role { // clients that name none send the user's name
		return nil, "other_database", "this address leads to one database: take its name from PGDATABASE"
	}
	if _, ok := session["replication"]; ok {
		return nil, "replication", "replication is not a session of a task"
	}
	delete(session, "user")
	delete(session, "database")
	return session, "", ""
}

// welcome is what a server says after a sign-in.
func (h hello) welcome(statuses map[string]string, key cancelKey) ([]byte, error) {
	var msgs []pgproto3.BackendMessage
	if h.newer || len(h.extensions) > 0 {
		msgs = append(msgs, &pgproto3.NegotiateProtocolVersion{NewestMinorProtocol: 0, UnrecognizedOptions: h.extensions})
	}
	msgs = append(msgs, &pgproto3.AuthenticationOk{})
	for _, name := range slices.Sorted(maps.Keys(statuses)) {
		msgs = append(msgs, &pgproto3.ParameterStatus{Name: name, Value: statuses[name]})
	}
	secret := binary.BigEndian.AppendUint32(nil, key.secret)
	msgs = append(msgs, &pgproto3.BackendKeyData{ProcessID: key.pid, SecretKey: secret}, &pgproto3.ReadyForQuery{TxStatus: 'I'})
	return encode(msgs...)
}

func encode(msgs ...pgproto3.BackendMessage) (b []byte, err error) {
	for _, m := range msgs {
		if b, err = m.Encode(b); err != nil {
			return nil, err
		}
	}
	return b, nil
}

// refusal is an error in the client's own terms. Its code is one of PostgreSQL's.
func refusal(sqlstate, message, hint string) []byte {
	b, err := encode(&pgproto3.ErrorResponse{Severity: "FATAL", SeverityUnlocalized: "FATAL", Code: sqlstate, Message: message, Hint: hint})
	if err != nil {
		return nil
	}
	return b
}
