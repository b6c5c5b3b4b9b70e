package receipt_test

import (
	"bytes"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha512"
	"encoding/pem"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"

	"github.com/sallyport-dev/sallyport/receipt"
)

// TestOpenSSHMakesWhatWeVerify signs with the real ssh-keygen.
func TestOpenSSHMakesWhatWeVerify(t *testing.T) {
	for _, kind := range []string{"ed25519", "ecdsa-256", "ecdsa-521"} {
		t.Run(kind, func(t *testing.T) {
			dir := t.TempDir()
			key := filepath.Join(dir, "key")
			typ, bits, _ := strings.Cut(kind, "-")
			args := []string{"-q", "-t", typ, "-N", "", "-C", "jo", "-f", key}
			if bits != "" {
				args = append(args, "-b", bits)
			}
			run(t, nil, "ssh-keygen", args...)
			pub, err := os.ReadFile(key + ".pub")
			if err != nil {
				t.Fatal(err)
			}
			msg := []byte("release a payment of 10 to bob\n")
			sig := run(t, msg, "ssh-keygen", "-q", "-Y", "sign", "-n", receipt.ApprovalNamespace, "-f", key)
			who, err := receipt.VerifySSHSIG(msg, sig, receipt.ApprovalNamespace, []string{string(pub)}, receipt.SSHPolicy{})
			if err != nil || who.Hardware || !strings.HasPrefix(string(pub), who.Key) {
				t.Fatalf("got %+v, %v", who, err)
			}
			refused := func(name string, msg, sig []byte, ns string, keys []string, p receipt.SSHPolicy) {
				t.Helper()
				if who, err := receipt.VerifySSHSIG(msg, sig, ns, keys, p); !errors.Is(err, receipt.ErrSignature) {
					t.Errorf("%s: got %+v, %v; want a refusal", name, who, err)
				}
			}
			other := run(t, msg, "ssh-keygen", "-q", "-Y", "sign", "-n", "git", "-f", key)
			keys := []string{string(pub)}
			refused("other message", []byte("release a payment of 1000 to bob\n"), sig, receipt.ApprovalNamespace, keys, receipt.SSHPolicy{})
			refused("signature made for git", msg, other, receipt.ApprovalNamespace, keys, receipt.SSHPolicy{})
			refused("no namespace", msg, sig, "", keys, receipt.SSHPolicy{})
			refused("no key", msg, sig, receipt.ApprovalNamespace, nil, receipt.SSHPolicy{})
			refused("software key where hardware is asked", msg, sig, receipt.ApprovalNamespace, keys, receipt.SSHPolicy{RequireHardware: true})
			refused("software key where verification is asked", msg, sig, receipt.ApprovalNamespace, keys, receipt.SSHPolicy{RequireVerification: true})
			refused("data after", msg, append(bytes.Clone(sig), "x"...), receipt.ApprovalNamespace, keys, receipt.SSHPolicy{})
			refused("twice", msg, append(bytes.Clone(sig), sig...), receipt.ApprovalNamespace, keys, receipt.SSHPolicy{})
			refused("blank in a line", msg, bytes.Replace(sig, []byte("\n"), []byte("\n "), 2), receipt.ApprovalNamespace, keys, receipt.SSHPolicy{})
			refused("another end", msg, append(bytes.TrimSpace(bytes.Clone(sig)), '\v'), receipt.ApprovalNamespace, keys, receipt.SSHPolicy{})
			if pad := bytes.IndexByte(sig, '='); pad > 0 {
				spare := bytes.Clone(sig)
				spare[pad-1]++ // bits of the base64 that stand for nothing
				refused("spare bits", msg, spare, receipt.ApprovalNamespace, keys, receipt.SSHPolicy{})
			} else if kind == "ed25519" {
				t.Error("the signature has no padding, so no bits to change")
			}
			if _, err := receipt.VerifySSHSIG(msg, bytes.ReplaceAll(sig, []byte("\n"), []byte("\r\n")), receipt.ApprovalNamespace, keys, receipt.SSHPolicy{}); err != nil {
				t.Errorf("lines that end as on Windows: %v", err)
			}
			refused("data before", msg, append([]byte("x\n"), sig...), receipt.ApprovalNamespace, keys, receipt.SSHPolicy{})
			block, _ := pem.Decode(sig)
			for i := range block.Bytes {
				b := bytes.Clone(block.Bytes)
				b[i] ^= 1
				refused("flipped bit", msg, pem.EncodeToMemory(&pem.Block{Type: "SSH SIGNATURE", Bytes: b}), receipt.ApprovalNamespace, keys, receipt.SSHPolicy{})
			}
		})
	}
}

func run(t *testing.T, stdin []byte, name string, args ...string) []byte {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Stdin = bytes.NewReader(stdin)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%s: %v: %s", name, err, stderr.Bytes())
	}
	return out
}

// skSign plays a security key of type sk-ssh-ed25519: OpenSSH PROTOCOL.u2f.
func skSign(t *testing.T, priv ed25519.PrivateKey, msg []byte, flags byte) (key string, armored []byte) {
	t.Helper()
	const typ, app = "sk-ssh-ed25519@openssh.com", "ssh:"
	pub := ssh.Marshal(struct {
		Type string
		Key  []byte
		App  string
	}{typ, priv.Public().(ed25519.PublicKey), app})
	digest := sha512.Sum512(msg)
	signed := append([]byte("SSHSIG"), ssh.Marshal(struct {
		Namespace, Reserved, Hash string
		Digest                    []byte
	}{receipt.ApprovalNamespace, "", "sha512", digest[:]})...)
	a, m := sha256.Sum256([]byte(app)), sha256.Sum256(signed)
	tail := []byte{flags, 0, 0, 0, 9}
	sig := ed25519.Sign(priv, append(append(a[:], tail...), m[:]...))
	inner := append(ssh.Marshal(struct {
		Format string
		Blob   []byte
	}{typ, sig}), tail...)
	blob := append([]byte("SSHSIG"), ssh.Marshal(struct {
		Version                   uint32
		Key                       []byte
		Namespace, Reserved, Hash string
		Signature                 []byte
	}{1, pub, receipt.ApprovalNamespace, "", "sha512", inner})...)
	parsed, err := ssh.ParsePublicKey(pub)
	if err != nil {
		t.Fatal(err)
	}
	return string(ssh.MarshalAuthorizedKey(parsed)), pem.EncodeToMemory(&pem.Block{Type: "SSH SIGNATURE", Bytes: blob})
}

// TestSecurityKeyFlags: a signature that a program made the key give without a
// touch does not count (shape of CVE-2026-39831), nor one without a PIN where
// it is asked for.
//
// Threats: E10 (approval)
func TestSecurityKeyFlags(t *testing.T) {
	_, priv, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	msg := []byte("statement")
	for _, c := range []struct {
		name  string
		flags byte
		p     receipt.SSHPolicy
		ok    bool
	}{
		{"touched", 1, receipt.SSHPolicy{RequireHardware: true}, true},
		{"touched_and_verified", 5, receipt.SSHPolicy{RequireVerification: true}, true},
		{"not_touched", 0, receipt.SSHPolicy{}, false},
		{"verified_not_touched", 4, receipt.SSHPolicy{}, false},
		{"touched_not_verified", 1, receipt.SSHPolicy{RequireVerification: true}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			key, sig := skSign(t, priv, msg, c.flags)
			who, err := receipt.VerifySSHSIG(msg, sig, receipt.ApprovalNamespace, []string{key}, c.p)
			if (err == nil) != c.ok {
				t.Fatalf("got %+v, %v; want ok %v", who, err, c.ok)
			}
			if c.ok && (!who.Hardware || !who.Present || who.Verified != (c.flags&4 != 0) || who.Counter != 9) {
				t.Errorf("got %+v", who)
			}
		})
	}
	key, sig := skSign(t, priv, msg, 1)
	if _, err := receipt.VerifySSHSIG(msg, sig, receipt.ApprovalNamespace, []string{"no-touch-required " + key}, receipt.SSHPolicy{}); err == nil {
		t.Error("key line with an option: got no error")
	}
}

func TestRSADoesNotCount(t *testing.T) {
	key := filepath.Join(t.TempDir(), "key")
	run(t, nil, "ssh-keygen", "-q", "-t", "rsa", "-b", "2048", "-N", "", "-f", key)
	pub, err := os.ReadFile(key + ".pub")
	if err != nil {
		t.Fatal(err)
	}
	sig := run(t, []byte("m"), "ssh-keygen", "-q", "-Y", "sign", "-n", receipt.ApprovalNamespace, "-f", key)
	if _, err := receipt.VerifySSHSIG([]byte("m"), sig, receipt.ApprovalNamespace, []string{string(pub)}, receipt.SSHPolicy{}); !errors.Is(err, receipt.ErrSignature) {
		t.Errorf("got %v, want a refusal", err)
	}
}

// FuzzSSHSIG: no armored bytes but those of the signer are accepted.
func FuzzSSHSIG(f *testing.F) {
	priv := ed25519.NewKeyFromSeed(make([]byte, 32))
	t := &testing.T{}
	key, sig := skSign(t, priv, []byte("m"), 5)
	f.Add(sig, []byte("m"))
	f.Add([]byte("-----BEGIN SSH SIGNATURE-----\n\n-----END SSH SIGNATURE-----\n"), []byte{})
	want, _ := pem.Decode(sig)
	f.Fuzz(func(t *testing.T, in, msg []byte) {
		if _, err := receipt.VerifySSHSIG(msg, in, receipt.ApprovalNamespace, []string{key}, receipt.SSHPolicy{}); err != nil {
			return
		}
		got, _ := pem.Decode(in)
		if string(msg) != "m" || got == nil || !bytes.Equal(got.Bytes, want.Bytes) {
			t.Errorf("accepted %q over %q", in, msg)
		}
	})
}
