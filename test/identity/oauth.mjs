// An authorization server that is not ours, as a source of tokens: oidc-provider
// with client credentials, token exchange (RFC 8693, as an extension grant),
// introspection and revocation. Apart from those it says at /test/labels which
// tokens are alive, by the user agent that asked for them, and at /test/pass it
// lets seconds pass.
//   node oauth.mjs ISSUER CLIENT_ID JWKS_URI SUBJECT_ISSUER LIFE
import { createServer } from 'node:http';
import { createPublicKey, verify } from 'node:crypto';
import { setTimeout } from 'node:timers/promises';
import Provider, { errors } from 'oidc-provider';

const [issuer, clientId, jwksUri, subjectIssuer, life] = process.argv.slice(2);
const EXCHANGE = 'urn:ietf:params:oauth:grant-type:token-exchange';
let passed = 0;
const now = Date.now;
Date.now = () => now() + passed * 1000;

const common = { redirect_uris: [], response_types: [], grant_types: ['client_credentials', EXCHANGE] };
const provider = new Provider(issuer, {
  clients: [
    { ...common, client_id: clientId, token_endpoint_auth_method: 'private_key_jwt', token_endpoint_auth_signing_alg: 'ES256', jwks_uri: jwksUri },
    { ...common, client_id: 'basic client', client_secret: 'a basic secret %&+', token_endpoint_auth_method: 'client_secret_basic' },
    { ...common, client_id: 'rs', client_secret: 'rs-secret', token_endpoint_auth_method: 'client_secret_basic' },
  ],
  // Its own guard against special addresses would refuse the test's loopback.
  fetch: (url, options) => globalThis.fetch(url, { ...options, dispatcher: undefined }),
  enabledJWA: { clientAuthSigningAlgValues: ['ES256'] },
  scopes: ['read', 'write'],
  ttl: { ClientCredentials: Number(life), AccessToken: Number(life) },
  features: {
    clientCredentials: { enabled: true }, introspection: { enabled: true }, revocation: { enabled: true }, devInteractions: { enabled: false },
    resourceIndicators: {
      enabled: true, defaultResource: () => undefined, useGrantedResource: () => true,
      getResourceServerInfo: (ctx, indicator) => {
        if (indicator !== 'https://api.example') throw new errors.InvalidTarget();
        return { scope: 'read write', accessTokenFormat: 'opaque', accessTokenTTL: Number(life) };
      },
    },
  },
});

// The subject must be a JWT-SVID that the other issuer made for this one.
async function subject(token) {
  const [head, body, sig] = token.split('.');
  const json = (s) => JSON.parse(Buffer.from(s, 'base64url'));
  const { keys } = await (await fetch(jwksUri)).json();
  const jwk = keys.find((k) => k.kid === json(head).kid);
  const key = createPublicKey({ key: jwk, format: 'jwk' });
  const good = verify('sha256', Buffer.from(`${head}.${body}`), { key, dsaEncoding: 'ieee-p1363' }, Buffer.from(sig, 'base64url'));
  const c = json(body);
  if (!good || c.iss !== subjectIssuer || ![c.aud].flat().includes(issuer) || c.exp * 1000 < Date.now()) throw new errors.InvalidGrant('subject token is no good');
  return c.sub;
}

provider.registerGrantType(EXCHANGE, async (ctx) => {
  const { params, client } = ctx.oidc;
  if (params.subject_token_type !== 'urn:ietf:params:oauth:token-type:jwt') throw new errors.InvalidRequest('subject_token_type');
  const sub = await subject(params.subject_token);
  const token = new provider.ClientCredentials({ client, scope: params.scope, extra: { sub } });
  ctx.oidc.entity('ClientCredentials', token);
  const value = await token.save();
  ctx.body = { access_token: value, expires_in: token.expiration, token_type: 'Bearer', scope: params.scope, issued_token_type: 'urn:ietf:params:oauth:token-type:access_token' };
}, ['subject_token', 'subject_token_type', 'requested_token_type', 'scope', 'resource'], ['resource']);

const asked = []; // [token, user agent]
provider.on('grant.success', (ctx) => asked.push([ctx.body.access_token, ctx.get('user-agent')]));
for (const e of ['grant.error', 'introspection.error', 'revocation.error', 'server_error']) {
  provider.on(e, (ctx, err) => console.error(e, err.error_description ?? err, err.cause?.cause ?? err.error_detail ?? ''));
}

let running = 0;
const handle = provider.callback();
const server = createServer(async (req, res) => {
  const url = new URL(req.url, 'http://x');
  if (url.pathname === '/test/labels') {
    const alive = [];
    for (const [token, agent] of asked) if (await provider.ClientCredentials.find(token)) alive.push(agent);
    return res.end(JSON.stringify(alive));
  }
  if (url.pathname === '/test/pass') { // once what was sent before is done
    do await setTimeout(30); while (running > 0);
    passed += Number(url.searchParams.get('seconds'));
    return res.end('{}');
  }
  running++;
  res.on('close', () => running--);
  return handle(req, res);
});
server.listen(0, '127.0.0.1', () => console.log(`127.0.0.1:${server.address().port}`));
