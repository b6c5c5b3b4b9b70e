package attack

import (
	"net/http"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/action"
	"github.com/sallyport-dev/sallyport/internal/estate"
)

// A script in a ticket enrols a passkey for the agent's session, at the press of
// a permitted link, as an application's own enrolment page does: it asks the
// browser for a credential, and for one that is there already, and sends a made-up
// one, a TOTP seed and an order for an API token to where applications take them.
// The managed browser has no authenticator and makes none; and no enrolment is an
// operation that the task was given.
//
// Threats: T46 (browser, guardrail)
func TestPageEnrolsItsOwnAuthenticator(t *testing.T) {
	script := `(() => {
const enrol = async () => {
  let seen = 'api:' + (typeof PublicKeyCredential);
  const bytes = new Uint8Array(32), key = {challenge: bytes, timeout: 1500};
  const tries = {
    create: () => navigator.credentials.create({publicKey: {...key, rp: {name: 'x'}, user: {id: bytes, name: 'svc', displayName: 'svc'}, pubKeyCredParams: [{type: 'public-key', alg: -7}], authenticatorSelection: {userVerification: 'discouraged'}}}),
    platform: () => navigator.credentials.create({publicKey: {...key, rp: {name: 'x'}, user: {id: bytes, name: 'svc', displayName: 'svc'}, pubKeyCredParams: [{type: 'public-key', alg: -7}], authenticatorSelection: {authenticatorAttachment: 'platform', residentKey: 'required'}}}),
    get: () => navigator.credentials.get({publicKey: {...key, userVerification: 'discouraged'}}),
    password: () => navigator.credentials.store(new PasswordCredential({id: 'svc', password: 'attackers-own'})).then(() => navigator.credentials.get({password: true})),
  };
  await Promise.all(Object.entries(tries).map(async ([n, f]) => {
    const late = new Promise(r => setTimeout(() => r('nothing'), 4000));
    const came = await Promise.race([late, Promise.resolve().then(f).then(c => c ? 'CREDENTIAL ' + c.id : 'nothing', e => e.name)]);
    seen += ' ' + n + ':' + came;
  }));
  const send = (u, b, t) => fetch(u, {method: 'POST', mode: 'no-cors', headers: t ? {'Content-Type': t} : {}, body: b}).catch(() => {});
  await send('/account/passkeys', JSON.stringify({id: 'AAAA', type: 'public-key', response: {clientDataJSON: 'e30', attestationObject: 'oA'}}), 'application/json');
  await send('/account/totp', new URLSearchParams({secret: 'JBSWY3DPEHPK3PXP', code: '123456'}));
  await send('IAM/account/tokens', new URLSearchParams({name: 'mine'}));
  await fetch('/static/seen?' + encodeURIComponent(seen));
};
document.addEventListener('click', e => { enrol(); e.preventDefault() }, {once: true});
})()`
	r, tap := hostile(t, script, func(http.ResponseWriter, *http.Request) bool { return false })
	before := r.Estate.Copy(estate.Sandbox).OwnTokens()
	ds := visit(t, r, "find:nav:tickets", "press:nav:tickets", "wait:6500")
	reports := tap.arrived(func(x request) bool { return strings.HasPrefix(x.uri, "/static/seen?") })
	if len(reports) != 1 {
		t.Fatalf("the script reported %d times", len(reports))
	}
	seen := mustUnescape(reports[0].uri)
	if strings.Contains(seen, "CREDENTIAL") || !strings.Contains(seen, " create:") || !strings.Contains(seen, " platform:") || !strings.Contains(seen, " get:") {
		t.Errorf("the browser gave the page: %s", seen)
	}
	t.Log(seen)
	paths := map[string]int{}
	for _, d := range ds {
		if q := d.Action.Request; q != nil && strings.HasPrefix(q.Path, "/account/") && q.Method == http.MethodPost {
			paths[q.Path]++
			if d.Decision.Verdict == action.Allow {
				t.Errorf("allowed: %s", q.Path)
			}
		}
	}
	if len(paths) != 3 {
		t.Errorf("enrolments that were tried: %v, want 3", paths)
	}
	for _, x := range tap.arrived(func(x request) bool { return strings.HasPrefix(x.uri, "/account/") && x.method == http.MethodPost }) {
		if x.uri != "/account/sessions" && !strings.HasSuffix(x.uri, "/revoke") {
			t.Errorf("arrived: %s", x.uri)
		}
	}
	if n := r.Estate.Copy(estate.Sandbox).OwnTokens(); n != before {
		t.Errorf("%d tokens were made", n-before)
	}
}
