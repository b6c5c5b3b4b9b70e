// Command plugin is a Kubernetes KMS v2 plugin over a PKCS #11 token, for tests: the
// server side is Kubernetes' own (k8s.io/kms/pkg/service), the keys are AES keys
// in the token, and a key's label is its key ID. It is a module of its own because it
// needs C.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"log"
	"time"

	"github.com/miekg/pkcs11"
	"k8s.io/kms/pkg/service"
)

const nonceSize = 12

type token struct {
	p   *pkcs11.Ctx
	s   pkcs11.SessionHandle
	key string // label of the key that encrypts
}

func main() {
	module := flag.String("module", "", "path of the token's library")
	pin := flag.String("pin", "", "the token's PIN")
	key := flag.String("key", "", "label of the key to encrypt with; made if it is missing")
	destroy := flag.String("destroy", "", "label of a key to destroy first")
	socket := flag.String("socket", "", "path of the socket to serve")
	flag.Parse()
	t, err := open(*module, *pin, *key)
	if err != nil {
		log.Fatal(err)
	}
	if *destroy != "" {
		old, err := t.find(*destroy)
		if err := errors.Join(err, t.p.DestroyObject(t.s, old)); err != nil {
			log.Fatal(err)
		}
	}
	log.Fatal(service.NewGRPCService(*socket, 3*time.Second, t).ListenAndServe())
}

func open(module, pin, key string) (*token, error) {
	p := pkcs11.New(module)
	if p == nil {
		return nil, errors.New("no PKCS #11 library at " + module)
	}
	if err := p.Initialize(); err != nil {
		return nil, err
	}
	slots, err := p.GetSlotList(true)
	if err != nil || len(slots) == 0 {
		return nil, errors.Join(err, errors.New("no token"))
	}
	s, err := p.OpenSession(slots[0], pkcs11.CKF_SERIAL_SESSION|pkcs11.CKF_RW_SESSION)
	if err != nil {
		return nil, err
	}
	if err := p.Login(s, pkcs11.CKU_USER, pin); err != nil {
		return nil, err
	}
	t := &token{p, s, key}
	if _, err := t.find(key); err == nil {
		return t, nil
	}
	_, err = p.GenerateKey(s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_KEY_GEN, nil)}, []*pkcs11.Attribute{
		pkcs11.NewAttribute(pkcs11.CKA_TOKEN, true), pkcs11.NewAttribute(pkcs11.CKA_LABEL, key), pkcs11.NewAttribute(pkcs11.CKA_VALUE_LEN, 32),
		pkcs11.NewAttribute(pkcs11.CKA_ENCRYPT, true), pkcs11.NewAttribute(pkcs11.CKA_DECRYPT, true),
		pkcs11.NewAttribute(pkcs11.CKA_SENSITIVE, true), pkcs11.NewAttribute(pkcs11.CKA_EXTRACTABLE, false)})
	return t, err
}

func (t *token) find(label string) (pkcs11.ObjectHandle, error) {
	if err := t.p.FindObjectsInit(t.s, []*pkcs11.Attribute{pkcs11.NewAttribute(pkcs11.CKA_LABEL, label)}); err != nil {
		return 0, err
	}
	found, _, err := t.p.FindObjects(t.s, 1)
	if err := errors.Join(err, t.p.FindObjectsFinal(t.s)); err != nil {
		return 0, err
	}
	if len(found) == 0 {
		return 0, errors.New("the token has no key " + label)
	}
	return found[0], nil
}

// Status implements service.Service.
func (t *token) Status(context.Context) (*service.StatusResponse, error) {
	return &service.StatusResponse{Version: "v2", Healthz: "ok", KeyID: t.key}, nil
}

// Encrypt implements service.Service.
func (t *token) Encrypt(_ context.Context, _ string, plain []byte) (*service.EncryptResponse, error) {
	key, err := t.find(t.key)
	if err != nil {
		return nil, err
	}
	nonce := make([]byte, nonceSize)
	rand.Read(nonce)
	gcm := pkcs11.NewGCMParams(nonce, nil, 128)
	defer gcm.Free()
	if err := t.p.EncryptInit(t.s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_GCM, gcm)}, key); err != nil {
		return nil, err
	}
	out, err := t.p.Encrypt(t.s, plain)
	return &service.EncryptResponse{Ciphertext: out, KeyID: t.key, Annotations: map[string][]byte{"nonce.plugin.test": nonce}}, err
}

// Decrypt implements service.Service.
func (t *token) Decrypt(_ context.Context, _ string, r *service.DecryptRequest) ([]byte, error) {
	key, err := t.find(r.KeyID)
	if err != nil {
		return nil, err
	}
	gcm := pkcs11.NewGCMParams(r.Annotations["nonce.plugin.test"], nil, 128)
	defer gcm.Free()
	if err := t.p.DecryptInit(t.s, []*pkcs11.Mechanism{pkcs11.NewMechanism(pkcs11.CKM_AES_GCM, gcm)}, key); err != nil {
		return nil, err
	}
	return t.p.Decrypt(t.s, r.Ciphertext)
}
