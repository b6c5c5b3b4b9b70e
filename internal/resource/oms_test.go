package resource_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/resource"
)

// files are of the models of these tests, with the digests of what is in them.
var weights, tokens = sum("weights"), sum("tokens")

func sum(text string) string {
	d := sha256.Sum256([]byte(text))
	return hex.EncodeToString(d[:])
}

func rootOf(digests ...string) string {
	b, _ := hex.DecodeString(strings.Join(digests, ""))
	return sum(string(b))
}

// statementOf is the statement of a model in the form that OpenSSF's tool writes.
func statementOf() string {
	return fmt.Sprintf(`{"_type":"https://in-toto.io/Statement/v1","subject":[{"name":"m","digest":{"sha256":"%s"}}],"predicateType":"https://model_signing/signature/v1.0",
"predicate":{"resources":[{"name":"a","algorithm":"sha256","digest":"%s"},{"name":"d/b","algorithm":"sha256","digest":"%s"}],
"serialization":{"method":"files","hash_type":"sha256","allow_symlinks":false,"ignore_paths":[".git","m.sig"]}}}`, rootOf(weights, tokens), weights, tokens)
}

const (
	bundleV03   = "application/vnd.dev.sigstore.bundle.v0.3+json"
	byKey       = `{"publicKey":{"hint":"x"},"tlogEntries":[]}`
	inTotoMedia = "application/vnd.in-toto+json"
)

func bundled(media, material, envelope string) string {
	return fmt.Sprintf(`{"mediaType":%q,"verificationMaterial":%s,"dsseEnvelope":%s}`, media, material, envelope)
}

// A model's signature is a bundle whose subject is over all of its files; whatever
// is not that is refused.
//
// Threats: P2, P4, P5 (policy)
func TestModelSignature(t *testing.T) {
	k, public := newECDSA(t, elliptic.P384())
	signed := func(payload string) string { return envelope(t, k, inTotoMedia, payload) }
	verify := func(statement, key string) (resource.Signed, error) {
		return (&resource.ModelSignature{Statement: statement, Key: key}).Verify()
	}
	swap := func(from, to string) string {
		if !strings.Contains(statementOf(), from) {
			t.Fatalf("%q is not there", from)
		}
		return bundled(bundleV03, byKey, signed(strings.Replace(statementOf(), from, to, 1)))
	}
	good := bundled(bundleV03, byKey, signed(statementOf()))
	want, err := verify(good, public)
	if err != nil || want.Root != "sha256:"+action.Digest(rootOf(weights, tokens)) || !strings.HasPrefix(string(want.Key), "sha256:") {
		t.Fatalf("got %+v, %v", want, err)
	}

	// What tools of older versions and of other languages write (section 11), and what
	// the specification lets a producer do. Each says the same as the good one.
	same := map[string]string{
		"keyid_null":      strings.Replace(good, `"keyid":""`, `"keyid":null`, 1),
		"no_keyid":        strings.Replace(good, `,"keyid":""`, ``, 1),
		"no_log":          bundled(bundleV03, `{"publicKey":{"hint":"x"}}`, signed(statementOf())),
		"key_in_full":     bundled(bundleV03, `{"publicKey":{"rawBytes":"AAAA","keyDetails":"PKIX_ECDSA_P384_SHA_256"},"certificate":null}`, signed(statementOf())),
		"version_0.2":     bundled("application/vnd.dev.sigstore.bundle+json;version=0.2", byKey, signed(statementOf())),
		"another_subject": swap(`"name":"m"`, `"name":"model"`),
		"another_order":   swap(`".git","m.sig"`, `"m.sig",".git"`),
		"unknown_members": swap(`"name":"a"`, `"name":"a","uri":"x"`),
	}
	for name, b := range same {
		if got, err := verify(b, public); err != nil || got != want {
			t.Errorf("%s: got %+v, %v, want %+v", name, got, err, want)
		}
	}
	one := bundled(bundleV03, byKey, signed(strings.NewReplacer(fmt.Sprintf(`,{"name":"d/b","algorithm":"sha256","digest":"%s"}`, tokens), "",
		rootOf(weights, tokens), rootOf(weights), `"name":"a"`, `"name":"."`).Replace(statementOf())))
	if got, err := verify(one, public); err != nil || got.Root != "sha256:"+action.Digest(rootOf(weights)) {
		t.Errorf("one file, as versions before 1.0.1 name it: got %+v, %v", got, err)
	}
	const resources, shards = `"resources":[`, `"method":"shards","shard_size":9`
	for name, b := range map[string]string{
		"parts_sorted_as_paths": swap(`"d/b"`, `"a-"`),
		"special_names":         swap(`"d/b"`, `"d/模型 #1:2.bin"`),
		"no_ignored_paths":      swap(`,"ignore_paths":[".git","m.sig"]`, ``),
		"links_followed":        swap(`"allow_symlinks":false`, `"allow_symlinks":true`),
		"shards": bundled(bundleV03, byKey, signed(strings.NewReplacer(`"name":"a"`, `"name":"a:0:9"`, `"name":"d/b"`, `"name":"a:9:12"`,
			`"method":"files"`, shards).Replace(statementOf()))),
		"blake3": bundled(bundleV03, byKey, signed(strings.NewReplacer(`"algorithm":"sha256"`, `"algorithm":"blake3"`, `"hash_type":"sha256"`, `"hash_type":"blake3"`).Replace(statementOf()))),
	} {
		if got, err := verify(b, public); err != nil || got.Root != want.Root || got.Manifest == want.Manifest {
			t.Errorf("%s: got %+v, %v; the manifest should be another", name, got, err)
		}
	}

	_, other := newECDSA(t, elliptic.P384())
	twice := strings.Replace(signed(statementOf()), `"signatures":[`, `"signatures":[{"sig":"AAAA"},`, 1)
	for name, c := range map[string]struct{ statement, key, want string }{
		"another_key":         {good, other, "not by any"},
		"another_media":       {bundled("application/json", byKey, signed(statementOf())), public, "no bundle"},
		"no_envelope":         {`{"mediaType":"` + bundleV03 + `","verificationMaterial":` + byKey + `}`, public, "without a DSSE envelope"},
		"envelope_alone":      {signed(statementOf()), public, "no bundle"},
		"not_json":            {"x", public, "json"},
		"member_twice":        {strings.Replace(good, `{"mediaType"`, `{"mediaType":"x","mediaType"`, 1), public, "duplicate"},
		"other_case":          {strings.Replace(good, `"dsseEnvelope"`, `"DSSEEnvelope"`, 1), public, "without a DSSE envelope"},
		"too_large":           {good + strings.Repeat(" ", 5<<20), public, "limit"},
		"certificate":         {bundled(bundleV03, `{"certificate":{"rawBytes":"AAAA"}}`, signed(statementOf())), public, "certificate"},
		"chain":               {bundled(bundleV03, `{"x509CertificateChain":{"certificates":[{"rawBytes":"AAAA"}]}}`, signed(statementOf())), public, "certificate"},
		"chain_and_key":       {bundled(bundleV03, `{"publicKey":{},"x509CertificateChain":{"certificates":[]}}`, signed(statementOf())), public, "certificate"},
		"no_material":         {bundled(bundleV03, `{}`, signed(statementOf())), public, "no publicKey"},
		"null_material":       {bundled(bundleV03, `null`, signed(statementOf())), public, "no publicKey"},
		"two_signatures":      {bundled(bundleV03, byKey, twice), public, "2 signatures"},
		"no_signature":        {bundled(bundleV03, byKey, strings.Replace(signed(statementOf()), `"signatures"`, `"signature"`, 1)), public, "0 signatures"},
		"another_payload":     {bundled(bundleV03, byKey, envelope(t, k, "application/json", statementOf())), public, "payload type"},
		"payload_type_moved":  {bundled(bundleV03, byKey, strings.Replace(envelope(t, k, "application/json", statementOf()), "application/json", inTotoMedia, 1)), public, "not by any"},
		"payload_not_encoded": {bundled(bundleV03, byKey, unencoded(t, k, statementOf())), public, "not by any"},
		"of_something":        {swap("https://model_signing/signature/v1.0", "https://slsa.dev/provenance/v1"), public, "want https://in-toto.io/Statement/v1"},
		"of_version_0.2":      {swap("https://model_signing/signature/v1.0", "https://model_signing/Digests/v0.1"), public, "want https://in-toto.io/Statement/v1"},
		"another_statement":   {swap("in-toto.io/Statement/v1", "in-toto.io/Statement/v0.1"), public, "want https://in-toto.io/Statement/v1"},
		"file_left_out":       {swap(fmt.Sprintf(`,{"name":"d/b","algorithm":"sha256","digest":"%s"}`, tokens), ""), public, "not the SHA-256 over"},
		"file_added":          {swap(resources, fmt.Sprintf(`%s{"name":"0","algorithm":"sha256","digest":"%s"},`, resources, tokens)), public, "not the SHA-256 over"},
		"files_exchanged":     {swap(weights, tokens), public, "not the SHA-256 over"},
		"another_root":        {swap(rootOf(weights, tokens), sum("x")), public, "not the SHA-256 over"},
		"root_by_another":     {swap(`"digest":{"sha256"`, `"digest":{"sha512"`), public, "not the SHA-256 over"},
		"two_subjects":        {swap(`"subject":[`, `"subject":[{"name":"n","digest":{"sha256":"00"}},`), public, "one subject"},
		"nameless_subject":    {swap(`"name":"m"`, `"name":""`), public, "not named"},
		"no_files":            {swap(resources, `"others":[`), public, "there are none"},
		"no_serialization":    {swap(`"serialization"`, `"Serialization"`), public, "serialization.method"},
		"another_method":      {swap(`"method":"files"`, `"method":"tar"`), public, "serialization.method"},
		"files_with_shards":   {swap(`"method":"files"`, `"method":"files","shard_size":9`), public, "serialization.method"},
		"shards_of_no_size":   {swap(`"method":"files"`, `"method":"shards"`), public, "serialization.method"},
		"shards_of_less":      {swap(`"method":"files"`, `"method":"shards","shard_size":-9`), public, "serialization.method"},
		"no_shard":            {swap(`"method":"files"`, shards), public, "is no shard"},
		"links_unsaid":        {swap(`"allow_symlinks":false,`, ``), public, "allow_symlinks"},
		"links_in_words":      {swap(`"allow_symlinks":false`, `"allow_symlinks":"false"`), public, "allow_symlinks"},
		"weak_hash":           {swap(`"hash_type":"sha256"`, `"hash_type":"md5"`), public, "hash_type"},
		"two_hashes":          {swap(`"algorithm":"sha256"`, `"algorithm":"blake3"`), public, "want sha256"},
		"ignores_nothing":     {swap(`"ignore_paths":[`, `"ignore_paths":["",`), public, "ignore_paths[0]"},
		"digest_in_capitals":  {swap(weights, strings.ToUpper(weights)), public, "lower-case"},
		"digest_cut":          {swap(weights, weights[:62]), public, "lower-case"},
		"digest_not_hex":      {swap(weights, "zz"), public, "lower-case"},
		"name_twice":          {swap(`"d/b"`, `"a"`), public, "is there twice"},
		"nameless":            {swap(`"d/b"`, `""`), public, "is no path"},
		"absolute":            {swap(`"d/b"`, `"/d/b"`), public, "is no path"},
		"traversal":           {swap(`"d/b"`, `"d/../../b"`), public, "is no path"},
		"dot":                 {swap(`"d/b"`, `"./d/b"`), public, "is no path"},
		"twice_a_slash":       {swap(`"d/b"`, `"d//b"`), public, "is no path"},
		"model_itself":        {swap(`"d/b"`, `"."`), public, "is no path"},
		"folder":              {swap(`"d/b"`, `"d/"`), public, "is no path"},
		"nul":                 {swap(`"d/b"`, `"d\u0000b"`), public, "is no path"},
	} {
		if got, err := verify(c.statement, c.key); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %+v, %v, want %q", name, got, err, c.want)
		}
	}
}

// unencoded is an envelope whose signature is over the bare payload, as if DSSE had
// no encoding of its own for what is signed.
func unencoded(t *testing.T, k *ecdsa.PrivateKey, payload string) string {
	e := envelope(t, k, inTotoMedia, payload)
	bare := sign(t, k, []byte(payload))
	var old struct{ Signatures []struct{ Sig string } }
	if err := json.Unmarshal([]byte(e), &old); err != nil {
		t.Fatal(err)
	}
	return strings.Replace(e, old.Signatures[0].Sig, bare, 1)
}

// The root of a signature is over the digests alone: whoever signs the same contents
// under other names, or leaves other files out, has the same root. The boundary's
// fact is of the manifest too, so that is a change.
func TestModelSignatureOfOtherNames(t *testing.T) {
	k, public := newECDSA(t, elliptic.P256())
	of := func(from, to string) resource.Signed {
		t.Helper()
		b := bundled(bundleV03, byKey, envelope(t, k, inTotoMedia, strings.Replace(statementOf(), from, to, 1)))
		s, err := (&resource.ModelSignature{Statement: b, Key: public}).Verify()
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	was := of("", "")
	for _, c := range [][2]string{{`"name":"a"`, `"name":"b"`}, {`"m.sig"`, `"m.sig","adapter"`}} {
		if now := of(c[0], c[1]); now.Root != was.Root || now.Manifest == was.Manifest {
			t.Errorf("%s: got %+v after %+v", c[1], now, was)
		}
	}
}

// With one byte changed, anywhere, a bundle is refused, or says what it said: that
// byte is of a hint.
//
// Threats: P2 (policy)
func TestModelSignatureEveryByte(t *testing.T) {
	k, public := newECDSA(t, elliptic.P256())
	good := bundled(bundleV03, byKey, envelope(t, k, inTotoMedia, statementOf()))
	// The media type's minor version, the hint, the log's entries, and the identifier of
	// the key.
	if got, want := everyByte(t, good, public), "3"+"hint"+"x"+"tlogEntries"+"keyid"; got != want {
		t.Errorf("bytes that do not matter: got %q, want %q", got, want)
	}
}

// everyByte changes each byte of a bundle in turn, and returns those that can be
// changed with nothing said about it.
func everyByte(t *testing.T, bundle, key string) string {
	t.Helper()
	want, err := (&resource.ModelSignature{Statement: bundle, Key: key}).Verify()
	if err != nil {
		t.Fatal(err)
	}
	same := ""
	for i := range len(bundle) {
		b := []byte(bundle)
		b[i] ^= 1
		got, err := (&resource.ModelSignature{Statement: string(b), Key: key}).Verify()
		if err == nil {
			if got != want {
				t.Errorf("byte %d of %q: got %+v, want %+v", i, bundle[max(0, i-20):i+1], got, want)
			}
			same += bundle[i : i+1]
		}
	}
	return same
}
