package kms_test

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"k8s.io/kms/apis/v2"

	"github.com/sallyport-dev/sallyport/internal/seal"
	"github.com/sallyport-dev/sallyport/internal/seal/kms"
	testkms "github.com/sallyport-dev/sallyport/test/kms"
)

func plugin(t *testing.T, endpoint string) *kms.Plugin {
	t.Helper()
	p, err := kms.New(endpoint)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.Close() })
	return p
}

func sealed(t *testing.T, root *seal.Root) []byte {
	t.Helper()
	s, err := root.Sealer("a")
	if err != nil {
		t.Fatal(err)
	}
	b, err := s.Seal("x", []byte("hunter2"))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func open(t *testing.T, root *seal.Root, b []byte) error {
	t.Helper()
	s, err := root.Sealer("a")
	if err != nil {
		return err
	}
	got, err := s.Open("x", b)
	if err == nil && string(got) != "hunter2" {
		t.Errorf("got %q", got)
	}
	return err
}

// The keys of a folder are wrapped by a key in a PKCS #11 token, which a plugin of
// the Kubernetes API reaches. The key is exchanged at the KMS: the ring follows, and
// the older key can be destroyed. The KMS goes, and comes back.
func TestKeyInAToken(t *testing.T) {
	token := testkms.NewToken(t)
	dir := filepath.Join(t.TempDir(), "data")
	if _, err := seal.CreateRing(t.Context(), dir, plugin(t, token.Endpoint())); err == nil {
		t.Fatal("a ring was made without its KMS")
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Fatalf("a start without the KMS left %v %v", left, err)
	}
	token.Serve("key-1")
	p := plugin(t, token.Endpoint())
	r, err := seal.CreateRing(t.Context(), dir, p)
	if err != nil {
		t.Fatal(err)
	}
	first := sealed(t, r.Root())
	if again, err := r.Check(t.Context(), time.Hour); again || err != nil {
		t.Errorf("nothing changed: got %v %v", again, err)
	}

	// Another key, at the KMS. Until the ring is wrapped by it the older one is read.
	token.Serve("key-2")
	if again, err := r.Check(t.Context(), time.Hour); !again || err != nil {
		t.Fatalf("the key was exchanged: got %v %v", again, err)
	}
	if s := r.State(); s.KeyID != "key-2" || s.Generations != 2 {
		t.Errorf("got %+v", s)
	}
	second := sealed(t, r.Root())
	token.Serve("key-2", "-destroy", "key-1")
	if again, err := r.Check(t.Context(), 0); again || err != nil {
		t.Errorf("the older key is destroyed: got %v %v", again, err)
	}
	other, err := seal.OpenRing(t.Context(), dir, plugin(t, token.Endpoint()))
	if err != nil {
		t.Fatal(err)
	}
	for _, b := range [][]byte{first, second} {
		if err := open(t, other.Root(), b); err != nil {
			t.Error(err)
		}
	}

	// The KMS is gone: for the grace nothing changes, then nothing opens or seals.
	token.Stop()
	if _, err := seal.OpenRing(t.Context(), dir, plugin(t, token.Endpoint())); err == nil || !strings.Contains(err.Error(), token.Socket) {
		t.Errorf("opening without the KMS: got %v, want which plugin it is", err)
	}
	if _, err := r.Check(t.Context(), time.Hour); err == nil || open(t, r.Root(), first) != nil {
		t.Errorf("within the grace: %v, %v", err, open(t, r.Root(), first))
	}
	if s := r.State(); s.Why == "" || s.Closed {
		t.Errorf("got %+v", s)
	}
	if _, err := r.Check(t.Context(), 0); err == nil {
		t.Error("a KMS that is gone answered")
	}
	if err := open(t, r.Root(), first); !errors.Is(err, seal.ErrClosed) {
		t.Errorf("after the grace: got %v", err)
	}
	s, err := r.Root().Sealer("a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Seal("x", nil); !errors.Is(err, seal.ErrClosed) {
		t.Errorf("after the grace: got %v", err)
	}
	if err := r.Rewrap(t.Context(), p); !errors.Is(err, seal.ErrClosed) {
		t.Errorf("a closed ring was wrapped anew: %v", err)
	}
	token.Serve("key-2")
	if _, err := r.Check(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	if err := open(t, r.Root(), first); err != nil {
		t.Errorf("after it came back: %v", err)
	}
}

// twisted is a plugin that answers as it likes.
type twisted struct {
	v2.UnimplementedKeyManagementServiceServer
	status  v2.StatusResponse
	encrypt func([]byte) *v2.EncryptResponse
	decrypt func([]byte) []byte
}

func (p *twisted) Status(context.Context, *v2.StatusRequest) (*v2.StatusResponse, error) {
	return &p.status, nil
}

func (p *twisted) Encrypt(_ context.Context, r *v2.EncryptRequest) (*v2.EncryptResponse, error) {
	return p.encrypt(r.Plaintext), nil
}

func (p *twisted) Decrypt(_ context.Context, r *v2.DecryptRequest) (*v2.DecryptResponse, error) {
	return &v2.DecryptResponse{Plaintext: p.decrypt(r.Ciphertext)}, nil
}

// A plugin that breaks the API's rules, or decrypts to something else than was
// encrypted, wraps nothing: no ring is written that would not open again.
//
// Threats: E16 (door)
func TestPluginThatLies(t *testing.T) {
	flip := func(b []byte) []byte {
		out := make([]byte, len(b))
		for i := range b {
			out[i] = b[i] ^ 0x5a
		}
		return out
	}
	honest := func(b []byte) *v2.EncryptResponse { return &v2.EncryptResponse{Ciphertext: flip(b), KeyId: "k"} }
	sock := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	p := &twisted{encrypt: honest, decrypt: flip}
	g := grpc.NewServer()
	v2.RegisterKeyManagementServiceServer(g, p)
	go g.Serve(l)
	defer g.Stop()
	k := plugin(t, "unix://"+sock)
	set := func(version, health, id string) {
		p.status.Version, p.status.Healthz, p.status.KeyId = version, health, id
	}

	dir := filepath.Join(t.TempDir(), "data")
	set("v2", "ok", "k")
	r, err := seal.CreateRing(t.Context(), dir, k)
	if err != nil {
		t.Fatal(err)
	}
	before, err := os.ReadFile(filepath.Join(dir, seal.RingName))
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]func(){
		"old_version":   func() { set("v1beta1", "ok", "k") },
		"not_well":      func() { set("v2", "the HSM is on fire", "k") },
		"no_key_id":     func() { set("v2", "ok", "") },
		"long_key_id":   func() { set("v2", "ok", strings.Repeat("k", 1025)) },
		"other_key":     func() { set("v2", "ok", "k2") }, // and encrypts by k
		"decrypts_else": func() { p.decrypt = func([]byte) []byte { return make([]byte, 32) } },
		"decrypts_less": func() { p.decrypt = func(b []byte) []byte { return b[:31] } },
	} {
		t.Run(name, func(t *testing.T) {
			set("v2", "ok", "k")
			p.decrypt = flip
			c()
			if again, err := r.Check(t.Context(), time.Hour); again || err == nil {
				t.Errorf("got %v %v", again, err)
			}
		})
	}
	set("v2", "ok", "k")
	p.decrypt = flip

	// Two keys in turn: each wraps the ring, and they do not fill it.
	p.encrypt = func(b []byte) *v2.EncryptResponse {
		return &v2.EncryptResponse{Ciphertext: flip(b), KeyId: p.status.KeyId}
	}
	for n := range 20 {
		set("v2", "ok", []string{"k2", "k"}[n%2])
		if again, err := r.Check(t.Context(), time.Hour); !again || err != nil {
			t.Fatalf("exchange %d: got %v %v", n, again, err)
		}
	}
	if n := r.State().Generations; n != 2 {
		t.Errorf("20 exchanges within a day: got %d data keys, want the first and one more", n)
	}
	if before, err = os.ReadFile(filepath.Join(dir, seal.RingName)); err != nil {
		t.Fatal(err)
	}
	for name, enc := range map[string]func([]byte) *v2.EncryptResponse{
		"nothing": func([]byte) *v2.EncryptResponse { return &v2.EncryptResponse{KeyId: "k"} },
		"too_large": func([]byte) *v2.EncryptResponse {
			return &v2.EncryptResponse{KeyId: "k", Ciphertext: make([]byte, 1025)}
		},
		"no_key_id": func(b []byte) *v2.EncryptResponse { return &v2.EncryptResponse{Ciphertext: flip(b)} },
		"lost":      func([]byte) *v2.EncryptResponse { return &v2.EncryptResponse{KeyId: "k", Ciphertext: make([]byte, 32)} },
		"annotations": func(b []byte) *v2.EncryptResponse {
			return &v2.EncryptResponse{KeyId: "k", Ciphertext: flip(b), Annotations: map[string][]byte{"a": make([]byte, 33<<10)}}
		},
	} {
		t.Run("encrypts_"+name, func(t *testing.T) {
			p.encrypt = enc
			if err := r.Rewrap(t.Context(), k); err == nil {
				t.Error("the keys were wrapped by it")
			}
		})
	}
	after, err := os.ReadFile(filepath.Join(dir, seal.RingName))
	if err != nil || string(before) != string(after) {
		t.Errorf("the ring was changed: %v", err)
	}
	for _, bad := range []string{"", "kms.sock", "unix://kms.sock", "http://127.0.0.1:1", "unix:///a?b"} {
		if _, err := kms.New(bad); err == nil {
			t.Errorf("%q was taken", bad)
		}
	}
}
