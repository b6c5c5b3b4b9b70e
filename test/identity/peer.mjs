// An authorization server that is not ours: oidc-provider, with one client that
// authenticates by private_key_jwt and whose keys are Sallyport's.
//   node peer.mjs CLIENT_ID JWKS_URI
import { createServer } from 'node:http';
import Provider from 'oidc-provider';

const [clientId, jwksUri] = process.argv.slice(2);
const server = createServer();
server.listen(0, '127.0.0.1', () => {
  const issuer = `http://127.0.0.1:${server.address().port}`;
  const provider = new Provider(issuer, {
    clients: [{
      client_id: clientId, token_endpoint_auth_method: 'private_key_jwt', token_endpoint_auth_signing_alg: 'ES256', jwks_uri: jwksUri,
      grant_types: ['client_credentials'], redirect_uris: [], response_types: [],
    }],
    // Its own guard against special addresses would refuse the test's loopback.
    fetch: (url, options) => globalThis.fetch(url, { ...options, dispatcher: undefined }),
    enabledJWA: { clientAuthSigningAlgValues: ['ES256'] },
    features: { clientCredentials: { enabled: true }, devInteractions: { enabled: false } },
  });
  provider.on('grant.error', (ctx, err) => console.error('refused:', err.error_description, err.cause?.cause ?? err.error_detail));
  server.on('request', provider.callback());
  console.log(issuer);
});
