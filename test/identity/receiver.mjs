// A receiver of security events with another's JOSE library (jose): it finds the
// transmitter by its discovery document, asks for a stream, polls, verifies
// every token by the published keys, and prints what it has as a line of JSON.
import { createRemoteJWKSet, jwtVerify } from 'jose';

const [issuer, token, count] = process.argv.slice(2);
const at = new URL(issuer);
const meta = await (await fetch(`${at.origin}/.well-known/ssf-configuration${at.pathname}`)).json();
if (meta.issuer !== issuer || meta.spec_version !== '1_0') throw new Error(`another transmitter: ${JSON.stringify(meta)}`);
const call = async (method, url, body) => {
  const r = await fetch(url, { method, headers: { authorization: `Bearer ${token}`, 'content-type': 'application/json' }, body: body && JSON.stringify(body) });
  const text = await r.text();
  if (!r.ok) throw new Error(`${method} ${url}: ${r.status} ${text}`);
  return text ? JSON.parse(text) : null;
};
const [stream] = await call('GET', meta.configuration_endpoint);
if (stream.iss !== issuer || stream.delivery.method !== 'urn:ietf:rfc:8936') throw new Error(`another stream: ${JSON.stringify(stream)}`);
await call('POST', meta.verification_endpoint, { stream_id: stream.stream_id, state: 'abc' });
const keys = createRemoteJWKSet(new URL(meta.jwks_uri));
let ack = [];
const got = [];
for (let n = 0; n < Number(count);) {
  const { sets } = await call('POST', stream.delivery.endpoint_url, { ack, maxEvents: 10 });
  ack = Object.keys(sets);
  for (const [jti, set] of Object.entries(sets)) {
    const { payload } = await jwtVerify(set, keys, { issuer, audience: stream.aud, typ: 'secevent+jwt', algorithms: ['ES256'] });
    if (payload.jti !== jti) throw new Error('the jti is another');
    got.push(payload);
    n++;
  }
}
await call('POST', stream.delivery.endpoint_url, { ack, maxEvents: 0 });
console.log(JSON.stringify(got));
