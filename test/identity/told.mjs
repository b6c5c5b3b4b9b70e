// Who is told: a webhook that reads CloudEvents with the SDK of the CloudEvents
// project and verifies signatures with the library of Standard Webhooks, and three
// mail servers (smtp-server). GET /got says what they have. The first line on
// standard output is the webhook's address and the ports: STARTTLS, TLS, neither.
import { readFileSync } from 'node:fs';
import { createServer } from 'node:https';
import { HTTP } from 'cloudevents';
import smtp from 'smtp-server';
import { Webhook } from 'standardwebhooks';

const [certFile, keyFile, secret, user, pass] = process.argv.slice(2);
const tls = { cert: readFileSync(certFile), key: readFileSync(keyFile) };
const got = { events: [], mails: [], errors: [] };
let away = 1;

const web = createServer(tls, async (q, r) => {
  if (q.method === 'GET') return r.end(JSON.stringify(got));
  let body = '';
  for await (const chunk of q) body += chunk;
  if (away-- > 0) return r.writeHead(503).end();
  try {
    new Webhook(secret).verify(body, q.headers);
    const e = HTTP.toEvent({ headers: q.headers, body });
    e.validate();
    got.events.push({ event: e.toJSON(), id: q.headers['webhook-id'], authorization: q.headers.authorization, type: q.headers['content-type'] });
    r.writeHead(204).end();
  } catch (err) {
    got.errors.push(`${err}: ${body}`);
    r.writeHead(400).end();
  }
}).listen(0, '127.0.0.1');

const ports = [];
for (const options of [{}, { secure: true }, { hideSTARTTLS: true, authOptional: true, disabledCommands: ['STARTTLS'] }]) {
  const server = new smtp.SMTPServer({
    ...tls, ...options, disableReverseLookup: true,
    onAuth: ({ username, password }, _, done) => (username === user && password === pass ? done(null, { user }) : (got.errors.push('auth'), done(new Error('no')))),
    onRcptTo: ({ address }, _, done) => done(address.startsWith('gone@') ? Object.assign(new Error('gone'), { responseCode: 550 }) : null),
    onData: (stream, { envelope, secure }, done) => {
      let raw = '';
      stream.on('data', (b) => (raw += b));
      stream.on('end', () => {
        got.mails.push({ raw, secure, from: envelope.mailFrom.address, to: envelope.rcptTo.map((x) => x.address) });
        done();
      });
    },
  });
  server.on('error', () => {}); // of a client that goes away
  ports.push(await new Promise((ok) => server.listen(0, '127.0.0.1', function () { ok(server.server.address().port); })));
}
console.log(`https://127.0.0.1:${web.address().port} ${ports.join(' ')}`);
