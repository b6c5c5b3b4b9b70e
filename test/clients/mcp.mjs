// Speaks the Model Context Protocol to Playwright's server over its standard
// input and output, as a harness does.
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { site, has, run } from './scenarios.mjs';

const [url, only] = process.argv.slice(2);
const files = mkdtempSync(join(tmpdir(), 'mcp-')); // the server writes its snapshots where it is started
const server = spawn(process.execPath, [resolve('node_modules/@playwright/mcp/cli.js'), '--cdp-endpoint', url], { cwd: files, stdio: ['pipe', 'pipe', 'inherit'] });
let buffer = '', last = 0;
const waiting = new Map();
server.stdout.on('data', d => {
  buffer += d;
  for (let i; (i = buffer.indexOf('\n')) >= 0; buffer = buffer.slice(i + 1)) {
    let m;
    try { m = JSON.parse(buffer.slice(0, i)); } catch { continue; }
    waiting.get(m.id)?.(m);
    waiting.delete(m.id);
  }
});
const call = (method, params) => new Promise(done => { waiting.set(++last, done); server.stdin.write(JSON.stringify({ jsonrpc: '2.0', id: last, method, params }) + '\n'); });
await call('initialize', { protocolVersion: '2024-11-05', capabilities: {}, clientInfo: { name: 'test', version: '1' } });
server.stdin.write(JSON.stringify({ jsonrpc: '2.0', method: 'notifications/initialized' }) + '\n');
const { result: { tools } } = await call('tools/list', {});
const key = tools.find(t => t.name === 'browser_click').inputSchema.properties.target ? 'target' : 'ref';

const tool = async (name, args = {}) => {
  const r = await call('tools/call', { name, arguments: args });
  return (r.result?.content ?? []).map(c => c.text ?? c.type).join('\n') || JSON.stringify(r);
};
const ref = (snapshot, what) => {
  const m = snapshot.match(new RegExp(what + '.*\\[ref=(\\w+)\\]'));
  if (!m) throw new Error(`no ${what} in ${snapshot.slice(0, 500)}`);
  return m[1];
};
const open = async path => { await tool('browser_navigate', { url: site + path }); return tool('browser_snapshot'); };

await run({
  '# Connecting, pages, contexts': 0,
  tabs: async () => { await open('/form'); has(await tool('browser_tabs', { action: 'list' }), 'Form'); },
  new_tab: async () => { await tool('browser_tabs', { action: 'new' }); has(await open('/second'), 'Second page'); await tool('browser_tabs', { action: 'close' }); },

  '# Navigation': 0,
  navigate: async () => has(await tool('browser_navigate', { url: site + '/form' }), 'Form'),
  back: async () => { await open('/form'); await open('/second'); has(await tool('browser_navigate_back'), '/form'); },

  '# Reading a page': 0,
  snapshot: async () => has(await open('/form'), 'button "Click me"'),
  screenshot: async () => has(await tool('browser_take_screenshot'), 'image'),
  wait_for: async () => { const s = await open('/form'); await tool('browser_click', { element: 'Later', [key]: ref(s, 'button "Later"') }); has(await tool('browser_wait_for', { text: 'done' }), 'done'); },
  console: async () => has(await tool('browser_console_messages'), ''),

  '# Mouse': 0,
  click: async () => { const s = await open('/form'); await tool('browser_click', { element: 'Click me', [key]: ref(s, 'button "Click me"') }); has(await tool('browser_evaluate', { function: "() => document.getElementById('count').textContent" }), '"1"'); },
  hover: async () => { const s = await open('/form'); has(await tool('browser_hover', { element: 'Double', [key]: ref(s, 'button "Double"') }), ''); },

  '# Keyboard and forms': 0,
  type: async () => { const s = await open('/form'); await tool('browser_type', { element: 'Name', [key]: ref(s, 'textbox "Name"'), text: 'bob' }); has(await tool('browser_evaluate', { function: "() => document.getElementById('name').value" }), 'bob'); },
  type_submit: async () => { const s = await open('/form'); has(await tool('browser_type', { element: 'Name', [key]: ref(s, 'textbox "Name"'), text: 'bob', submit: true }), '/saved'); },
  press_key: async () => { const s = await open('/form'); await tool('browser_click', { element: 'Name', [key]: ref(s, 'textbox "Name"') }); await tool('browser_press_key', { key: 'x' }); has(await tool('browser_evaluate', { function: "() => document.getElementById('name').value" }), 'x'); },
  select_option: async () => { const s = await open('/form'); await tool('browser_select_option', { element: 'select', [key]: ref(s, 'combobox'), values: ['Two'] }); has(await tool('browser_evaluate', { function: "() => document.getElementById('sel').value" }), '2'); },

  '# Network': 0,
  requests: async () => { await open('/form'); has(await tool('browser_network_requests'), ''); },

  '# Own scripts': 0,
  evaluate: async () => { await open('/form'); has(await tool('browser_evaluate', { function: '() => document.title + 6 * 7' }), '"Form42"'); },

  '# Refused in every profile': 0,
  refused_file: async () => has(await tool('browser_navigate', { url: 'file:///etc/passwd' }), 'rror'),
}, async () => null, only, 15000); // a tool says at once that a script was refused, and waits a while after what it did
server.kill();
rmSync(files, { recursive: true, force: true });
process.exit(0);
