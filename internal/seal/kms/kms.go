// Package kms has keys wrapped by a plugin of the Kubernetes KMS v2 API: gRPC over
// a Unix socket, which exists for the clouds' key services, for Vault and for
// PKCS #11 tokens.
//
// Invariants:
//   - The key that wraps never comes here. The plugin is sent 32 random bytes that
//     are used for one ring, and what it returns is checked by the ring.
//   - An answer outside the bounds of the API is an error, and so is a plugin that
//     does not say that it is well.
//
// The API has no associated data; what a wrapped key belongs to is bound by the
// ring that it opens. Who reaches the socket can have anything wrapped and
// unwrapped. Not trusted: what the plugin returns.
package kms

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/kms/apis/v2"

	"github.com/sallyport-dev/sallyport/internal/seal"
)

// Limits of the API (its api.proto), and of one call: Kubernetes' own default.
const (
	maxKeyID       = 1 << 10
	maxCiphertext  = 1 << 10
	maxAnnotations = 32 << 10
	callLimit      = 3 * time.Second
	maxAnswer      = 64 << 10
)

// Plugin is a seal.Remote.
type Plugin struct {
	conn   *grpc.ClientConn
	client v2.KeyManagementServiceClient
}

var _ seal.Remote = (*Plugin)(nil)

// New names a plugin's socket, unix:///path. It is dialled when it is needed.
func New(endpoint string) (*Plugin, error) {
	path, ok := strings.CutPrefix(endpoint, "unix://")
	if !ok || !filepath.IsAbs(path) || strings.ContainsAny(path, "?#%") {
		return nil, fmt.Errorf("KMS plugin %q: want unix:///path of its socket", endpoint)
	}
	// No proxy and no resolver: a socket of this machine.
	conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithNoProxy(),
		grpc.WithDisableServiceConfig(), grpc.WithDisableRetry(), grpc.WithAuthority("localhost"),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: callLimit, Backoff: backoff.Config{BaseDelay: 50 * time.Millisecond, Multiplier: 2, MaxDelay: time.Second}}),
		// A plugin that is being started again is waited for, as long as a call may take.
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer), grpc.WaitForReady(true)))
	if err != nil {
		return nil, err
	}
	return &Plugin{conn, v2.NewKeyManagementServiceClient(conn)}, nil
}

// Kind implements seal.KEK.
func (*Plugin) Kind() string { return "kms" }

// Close implements seal.KEK.
func (p *Plugin) Close() error { return p.conn.Close() }

// call bounds one call.
func (p *Plugin) call(ctx context.Context, f func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	if err := f(ctx); err != nil {
		return fmt.Errorf("the KMS plugin at %s: %w", strings.TrimPrefix(p.conn.Target(), "unix://"), err)
	}
	return nil
}

// KeyID asks for the status.
func (p *Plugin) KeyID(ctx context.Context) (id string, err error) {
	err = p.call(ctx, func(ctx context.Context) error {
		s, err := p.client.Status(ctx, &v2.StatusRequest{})
		switch {
		case err != nil:
			return err
		case s.Version != "v2" && s.Version != "v2beta1": // which are the same
			return fmt.Errorf("it speaks version %.20q, want v2", s.Version)
		case s.Healthz != "ok":
			return fmt.Errorf("it is not well: %.200q", s.Healthz)
		}
		id = s.KeyId
		return keyID(id)
	})
	return id, err
}

func keyID(id string) error {
	if id == "" || len(id) > maxKeyID {
		return errors.New("it names no key")
	}
	return nil
}

// Wrap implements seal.KEK.
func (p *Plugin) Wrap(ctx context.Context, key []byte) (w seal.Wrapped, err error) {
	err = p.call(ctx, func(ctx context.Context) error {
		r, err := p.client.Encrypt(ctx, &v2.EncryptRequest{Plaintext: key, Uid: rand.Text()})
		if err != nil {
			return err
		}
		size := 0
		for k, v := range r.Annotations {
			size += len(k) + len(v)
		}
		if len(r.Ciphertext) == 0 || len(r.Ciphertext) > maxCiphertext || size > maxAnnotations {
			return errors.New("what it encrypted is empty or too large")
		}
		w = seal.Wrapped{KeyID: r.KeyId, Params: r.Annotations, Bytes: r.Ciphertext}
		return keyID(r.KeyId)
	})
	return w, err
}

// Unwrap implements seal.KEK.
func (p *Plugin) Unwrap(ctx context.Context, w seal.Wrapped) (key []byte, err error) {
	err = p.call(ctx, func(ctx context.Context) error {
		r, err := p.client.Decrypt(ctx, &v2.DecryptRequest{Ciphertext: w.Bytes, Uid: rand.Text(), KeyId: w.KeyID, Annotations: w.Params})
		if err == nil && len(r.Plaintext) != seal.KeySize {
			err = errors.New("what it decrypted is no key")
		}
		if err == nil {
			key = r.Plaintext
		}
		return err
	})
	return key, err
}
