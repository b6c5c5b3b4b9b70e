package ssh

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"

	"golang.org/x/crypto/ssh"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/canon"
	"github.com/sallyport-dev/sallyport/internal/gate"
)

var errRefused = errors.New("refused")

// The messages of the agent protocol (draft-ietf-sshm-ssh-agent) that are known
// here. All others, by which keys come and go or are locked, are refused.
const (
	agentFailure           = 5
	agentSuccess           = 6
	agentRequestIdentities = 11
	agentIdentitiesAnswer  = 12
	agentSignRequest       = 13
	agentSignResponse      = 14
	agentExtension         = 27
)

// maxMessage is more than a request to sign in with a certificate has.
const maxMessage = 64 << 10

// client is one connection to the agent. It knows nothing of others: what was
// listed and bound on one is not known on another.
type client struct {
	d      *Door
	listed map[string]*Host // by certificate, as it is on the wire
	bound  *binding
}

// binding is the session that the host has signed.
type binding struct {
	session []byte
	key     ssh.PublicKey
}

// agent answers one client, message by message, until it leaves. What is no message
// of the protocol ends the connection.
func (d *Door) agent(conn net.Conn) {
	c := &client{d: d, listed: map[string]*Host{}}
	for {
		var head [4]byte
		if _, err := io.ReadFull(conn, head[:]); err != nil {
			return
		}
		n := binary.BigEndian.Uint32(head[:])
		if n == 0 || n > maxMessage {
			d.malformed("agent_message")
			return
		}
		msg := make([]byte, n)
		if _, err := io.ReadFull(conn, msg); err != nil {
			return
		}
		answer, err := c.answer(msg[0], msg[1:])
		if err != nil {
			answer = []byte{agentFailure}
		}
		if _, err := conn.Write(append(binary.BigEndian.AppendUint32(nil, uint32(len(answer))), answer...)); err != nil {
			return
		}
	}
}

func (c *client) answer(kind byte, body []byte) ([]byte, error) {
	switch kind {
	case agentRequestIdentities:
		return c.list()
	case agentSignRequest:
		var m struct {
			Key, Data []byte
			Flags     uint32 // about RSA keys
		}
		if err := ssh.Unmarshal(body, &m); err != nil {
			return nil, err
		}
		sig, err := c.sign(m.Key, m.Data)
		if err != nil {
			return nil, err
		}
		return append([]byte{agentSignResponse}, ssh.Marshal(struct{ Signature []byte }{ssh.Marshal(sig)})...), nil
	case agentExtension:
		var m struct {
			Name string
			Rest []byte `ssh:"rest"`
		}
		if err := ssh.Unmarshal(body, &m); err != nil {
			return nil, err
		}
		return []byte{agentSuccess}, c.extension(m.Name, m.Rest)
	}
	return nil, errRefused
}

// list makes a certificate for each host: they live for seconds.
func (c *client) list() ([]byte, error) {
	c.listed = map[string]*Host{}
	out := binary.BigEndian.AppendUint32([]byte{agentIdentitiesAnswer}, uint32(len(c.d.c.Hosts)))
	for i := range c.d.c.Hosts {
		h := &c.d.c.Hosts[i]
		cert, err := h.Certificate(c.d.ctx)
		if err != nil {
			return nil, err
		}
		blob := cert.Marshal()
		c.listed[string(blob)] = h
		out = append(out, ssh.Marshal(struct {
			Key     []byte
			Comment string
		}{blob, h.Source})...)
	}
	return out, nil
}

// sessionBind is the contents of session-bind@openssh.com (PROTOCOL.agent).
type sessionBind struct {
	HostKey, Session, Signature []byte
	Forwarding                  bool
}

// extension knows session-bind@openssh.com alone. A connection is bound once.
func (c *client) extension(name string, contents []byte) error {
	if name != "session-bind@openssh.com" {
		return errRefused
	}
	why, b := bind(contents)
	if why == "" && c.bound != nil {
		why = "bound_before"
	}
	if why != "" {
		c.d.malformed(why)
		return errRefused
	}
	c.bound = b
	return nil
}

func bind(contents []byte) (why string, b *binding) {
	var m sessionBind
	if err := ssh.Unmarshal(contents, &m); err != nil || len(m.Session) == 0 {
		return "session_bind", nil
	}
	if m.Forwarding {
		return "forwarded_agent", nil
	}
	key, err := ssh.ParsePublicKey(m.HostKey)
	if err != nil {
		return "session_bind", nil
	}
	var sig ssh.Signature
	if err := ssh.Unmarshal(m.Signature, &sig); err != nil || key.Verify(m.Session, &sig) != nil {
		return "session_not_proved", nil
	}
	return "", &binding{m.Session, key}
}

// userAuth is what is signed to sign in (RFC 4252, section 7). Rest is the host's
// key for publickey-hostbound-v00@openssh.com, and otherwise empty.
type userAuth struct {
	Session   []byte
	Type      uint8
	User      string
	Service   string
	Method    string
	Signed    bool
	Algorithm string
	Key       []byte
	Rest      []byte `ssh:"rest"`
}

const (
	messageUserAuthRequest = 50
	hostBound              = "publickey-hostbound-v00@openssh.com"
)

// judge says what is wrong with a request to sign data; nothing is "".
func judge(data []byte, key []byte, h *Host, b *binding) string {
	var m userAuth
	switch err := ssh.Unmarshal(data, &m); {
	case err != nil || m.Type != messageUserAuthRequest || !bytes.Equal(ssh.Marshal(&m), data):
		return "not_a_sign_in"
	case b == nil:
		return "session_not_bound"
	case !known(h, b.key):
		return "other_host"
	case !bytes.Equal(m.Session, b.session):
		return "other_session"
	case m.User != h.User:
		return "other_user"
	case m.Service != "ssh-connection" || !m.Signed || m.Algorithm != ssh.CertAlgoED25519v01 || !bytes.Equal(m.Key, key):
		return "not_a_sign_in"
	}
	var hk struct{ Key []byte }
	switch m.Method {
	case "publickey":
		if len(m.Rest) > 0 {
			return "not_a_sign_in"
		}
	case hostBound:
		if err := ssh.Unmarshal(m.Rest, &hk); err != nil || !bytes.Equal(hk.Key, b.key.Marshal()) {
			return "other_host"
		}
	default:
		return "not_a_sign_in"
	}
	return ""
}

func known(h *Host, key ssh.PublicKey) bool {
	for _, k := range h.HostKeys {
		if bytes.Equal(k.Marshal(), key.Marshal()) {
			return true
		}
	}
	return false
}

// sign signs one request to sign in, once it is decided and on record.
func (c *client) sign(blob, data []byte) (*ssh.Signature, error) {
	h := c.listed[string(blob)]
	if h == nil {
		c.d.malformed("unknown_key")
		return nil, errRefused
	}
	if why := judge(data, blob, h, c.bound); why != "" {
		c.d.malformed(why)
		return nil, errRefused
	}
	f := form{Audience: h.Audience, User: h.User, HostKey: ssh.FingerprintSHA256(c.bound.key), Data: canon.Digest(data)}
	a := c.d.action("ssh.sign", h.Source, h.Effect)
	a.Params["endpoint"], a.Params["user"], a.Params["host_key"] = f.Audience, f.User, f.HostKey
	a.Digest = f.digest()
	var sig *ssh.Signature
	res := c.d.c.Gate.Act(c.d.ctx, a, nil, func(_ context.Context, permit gate.Permit) action.Outcome {
		f.Data = canon.Digest(data)
		if err := permit.Consume(f.digest()); err != nil {
			return action.Outcome{State: action.Failed, Detail: err.Error()}
		}
		var err error
		if sig, err = h.Sign(data); err != nil {
			return action.Outcome{State: action.Failed, Detail: "sign_failed"}
		}
		return action.Outcome{State: action.Done, Detail: "signed"}
	})
	if res.Outcome == nil || sig == nil {
		return nil, errRefused
	}
	return sig, nil
}
