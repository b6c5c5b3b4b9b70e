import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { chromium } from 'playwright-core';
import { site, is, has, refused, run } from './scenarios.mjs';

const [url, only] = process.argv.slice(2);
const browser = await chromium.connectOverCDP(url);
const context = browser.contexts()[0];
context.setDefaultTimeout(8000);
const at = path => async p => { await p.goto(site + path); return p; };
const form = at('/form');

await run({
  '# Connecting, pages, contexts': 0,
  version: async () => has(browser.version(), '.'),
  default_context: async () => is(browser.contexts().length, 1),
  new_page: async p => is(p.url(), 'about:blank'),
  popup: async p => { await form(p); const [q] = await Promise.all([p.waitForEvent('popup'), p.click('#pop')]); await q.waitForLoadState(); is(await q.title(), 'Second'); await q.close(); },
  popup_opener_goes_on: async p => { await form(p); const [q] = await Promise.all([p.waitForEvent('popup'), p.click('#pop')]); await q.waitForLoadState(); await q.close(); await p.click('#btn'); is(await p.textContent('#count'), '1'); },
  two_pages: async p => { await form(p); const q = await context.newPage(); await q.goto(site + '/second'); await p.click('#btn'); is(await q.title(), 'Second'); is(await p.textContent('#count'), '1'); await q.close(); },
  new_context: async () => { const c = await browser.newContext(); const p = await c.newPage(); await p.goto(site + '/form'); await p.click('#btn'); is(await p.textContent('#count'), '1'); await c.close(); },
  viewport_option: async () => { const c = await browser.newContext({ viewport: { width: 800, height: 600 } }); const p = await c.newPage(); await p.goto(site + '/form'); is(await p.evaluate(() => innerWidth), 1280); await c.close(); },
  bring_to_front: async p => { await form(p); await p.bringToFront(); },
  cdp_session: async p => { const s = await context.newCDPSession(p); is(typeof (await s.send('Page.getFrameTree')).frameTree, 'object'); await s.detach(); },
  ctrl_click_opens_a_page: async p => { await form(p); const [q] = await Promise.all([context.waitForEvent('page'), p.click('#link', { modifiers: ['Control'] })]); await q.close(); },
  close_page: async p => { await p.close(); is(p.isClosed(), true); },

  '# Navigation': 0,
  goto: async p => { const r = await p.goto(site + '/form'); is(r.status(), 200); is(p.url(), site + '/form'); },
  link: async p => { await form(p); await p.click('#link'); await p.waitForURL('**/second'); is(await p.textContent('h1'), 'Second page'); },
  go_back: async p => { await form(p); await p.goto(site + '/second'); await p.goBack(); is(await p.title(), 'Form'); },
  go_forward: async p => { await form(p); await p.goto(site + '/second'); await p.goBack(); await p.goForward(); is(await p.title(), 'Second'); },
  reload: async p => { await form(p); await p.click('#btn'); await p.reload(); is(await p.textContent('#count'), '0'); },
  redirect: async p => { const r = await p.goto(site + '/redirect'); is(r.status(), 200); is(p.url(), site + '/form'); },
  not_found: async p => is((await p.goto(site + '/nowhere')).status(), 404),
  wait_for_load_state: async p => { await form(p); await p.waitForLoadState('networkidle'); },

  '# Reading a page': 0,
  title: async p => { await form(p); is(await p.title(), 'Form'); },
  text_content: async p => { await form(p); is(await p.locator('#h').textContent(), 'Form page'); },
  inner_text: async p => { await form(p); is(await p.innerText('#h'), 'Form page'); },
  wait_for_selector: async p => { await form(p); await p.click('#later'); await p.waitForSelector('#done'); is(await p.textContent('#done'), 'done'); },
  locator_count: async p => { await form(p); is(await p.locator('label').count(), 5); },
  locator_nth: async p => { await form(p); has(await p.locator('label').nth(1).textContent(), 'Pass'); },
  attribute: async p => { await form(p); is(await p.getAttribute('#name', 'placeholder'), 'your name'); },
  states: async p => { await form(p); is([await p.isVisible('#h'), await p.isEnabled('#off'), await p.isHidden('#nothing')], [true, false, true]); },
  bounding_box: async p => { await form(p); is((await p.locator('#drag').boundingBox()).x, 600); },
  content: async p => { await form(p); has(await p.content(), 'Form page'); },
  screenshot: async p => { await form(p); const b = await p.screenshot(); is(b.subarray(1, 4).toString(), 'PNG'); },
  screenshot_full: async p => { await form(p); const b = await p.screenshot({ fullPage: true, type: 'jpeg' }); is(b[0], 255); },
  screenshot_element: async p => { await form(p); const b = await p.locator('#btn').screenshot(); is(b.length > 100, true); },
  aria_snapshot: async p => { await form(p); has(await p.locator('body').ariaSnapshot(), 'button "Click me"'); },
  frames_list: async p => { await p.goto(site + '/frames'); is(p.frames().length, 3); },
  console: async p => { const [m] = await Promise.all([p.waitForEvent('console'), p.evaluate(() => console.log('said', 1))]); is(m.text(), 'said 1'); },
  page_error: async p => { const [e] = await Promise.all([p.waitForEvent('pageerror'), p.evaluate(() => { setTimeout(() => { throw new Error('oops'); }); })]); has(e.message, 'oops'); },

  '# Mouse': 0,
  click: async p => { await form(p); await p.locator('#btn').click(); is(await p.textContent('#count'), '1'); },
  click_thrice: async p => { await form(p); for (let i = 0; i < 3; i++) await p.click('#btn'); is(await p.textContent('#count'), '3'); },
  click_by_role: async p => { await form(p); await p.getByRole('button', { name: 'Click me' }).click(); is(await p.textContent('#count'), '1'); },
  dblclick: async p => { await form(p); await p.dblclick('#dbl'); is(await p.textContent('#dcount'), '1'); },
  right_click: async p => { await form(p); await p.click('#ctx', { button: 'right' }); is(await p.textContent('#ctxout'), 'ctx'); },
  hover: async p => { await form(p); await p.hover('#hover'); is(await p.textContent('#hoverout'), 'over'); },
  scroll_into_view_click: async p => { await form(p); await p.click('#below'); is(await p.textContent('#below'), 'clicked below'); },
  wheel: async p => { await form(p); await p.mouse.move(300, 300); await p.mouse.wheel(0, 400); await p.waitForFunction(() => scrollY > 100); },
  mouse_click: async p => { await form(p); const b = await p.locator('#btn').boundingBox(); await p.mouse.click(b.x + 5, b.y + 5); is(await p.textContent('#count'), '1'); },
  mouse_drag: async p => { await form(p); await p.mouse.move(630, 330); await p.mouse.down(); await p.mouse.move(730, 380, { steps: 4 }); await p.mouse.up(); is((await p.locator('#drag').boundingBox()).x, 700); },
  drag_to: async p => { await p.goto(site + '/drag'); await p.dragAndDrop('#card', '#bin'); is(await p.textContent('#said'), 'start bin:card 7:0 end '); },
  drag_by_hand: async p => { await p.goto(site + '/drag'); await p.hover('#card'); await p.mouse.down(); await p.mouse.move(600, 250, { steps: 3 }); await p.mouse.move(850, 250); await p.mouse.up(); is(await p.textContent('#said'), 'start other:card 7:0 end '); },
  drag_and_click_after: async p => { await p.goto(site + '/drag'); await p.dragAndDrop('#card', '#bin'); await p.goto(site + '/form'); await p.click('#btn'); is(await p.textContent('#count'), '1'); },

  '# Touch': 0,
  tap: async () => { const c = await browser.newContext({ hasTouch: true }); const p = await c.newPage(); await p.goto(site + '/touch'); await p.tap('#tap'); is(await p.textContent('#said'), 'touch touch 1'); await c.close(); },

  '# Keyboard and forms': 0,
  fill: async p => { await form(p); await p.fill('#name', 'Ada Lovelace'); is(await p.inputValue('#name'), 'Ada Lovelace'); },
  fill_again: async p => { await form(p); await p.fill('#name', 'one'); await p.fill('#name', 'two'); is(await p.inputValue('#name'), 'two'); },
  clear: async p => { await form(p); await p.fill('#name', 'one'); await p.locator('#name').clear(); is(await p.inputValue('#name'), ''); },
  fill_by_label: async p => { await form(p); await p.getByLabel('Name').fill('x'); is(await p.inputValue('#name'), 'x'); },
  fill_textarea_lines: async p => { await form(p); await p.fill('#area', 'a\nb'); is(await p.inputValue('#area'), 'a\nb'); },
  fill_contenteditable: async p => { await form(p); await p.fill('#ed', 'rich'); is(await p.textContent('#ed'), 'rich'); },
  type: async p => { await form(p); await p.locator('#name').pressSequentially('hello'); is(await p.inputValue('#name'), 'hello'); },
  type_symbols: async p => { await form(p); await p.locator('#name').pressSequentially('Aa1+ -é"\\'); is(await p.inputValue('#name'), 'Aa1+ -é"\\'); },
  press_enter_submits: async p => { await form(p); await p.fill('#name', 'z'); await p.press('#name', 'Enter'); await p.waitForURL('**/saved'); is(await p.title(), 'Saved'); },
  press_tab: async p => { await form(p); await p.focus('#name'); await p.keyboard.press('Tab'); is(await p.evaluate(() => document.activeElement.id), 'pass'); },
  press_select_all: async p => { await form(p); await p.fill('#name', 'abc'); await p.press('#name', 'Control+a'); await p.keyboard.press('Backspace'); is(await p.inputValue('#name'), ''); },
  press_shift: async p => { await form(p); await p.press('#name', 'Shift+A'); is(await p.inputValue('#name'), 'A'); },
  keyboard_insert_text: async p => { await form(p); await p.focus('#name'); await p.keyboard.insertText('日本'); is(await p.inputValue('#name'), '日本'); },
  keyboard_arrow: async p => { await form(p); await p.fill('#name', 'ac'); await p.keyboard.press('ArrowLeft'); await p.keyboard.type('b'); is(await p.inputValue('#name'), 'abc'); },
  check: async p => { await form(p); await p.check('#agree'); is(await p.isChecked('#agree'), true); },
  uncheck: async p => { await form(p); await p.check('#agree'); await p.uncheck('#agree'); is(await p.isChecked('#agree'), false); },
  check_by_label: async p => { await form(p); await p.getByLabel('I agree').check(); is(await p.isChecked('#agree'), true); },
  radio: async p => { await form(p); await p.getByLabel('Beta').check(); is(await p.locator('[value=b]').isChecked(), true); },
  select_option: async p => { await form(p); await p.selectOption('#sel', '2'); is(await p.inputValue('#sel'), '2'); },
  submit_form: async p => { await form(p); await p.fill('#name', 'w'); await p.click('#save'); await p.waitForURL('**/saved'); is(await p.textContent('h1'), 'Saved'); },
  focus_blur: async p => { await form(p); await p.locator('#name').focus(); await p.locator('#name').blur(); is(await p.evaluate(() => document.activeElement.tagName), 'BODY'); },
  key_down_up: async p => { await form(p); await p.focus('#name'); await p.keyboard.down('a'); await p.keyboard.up('a'); is(await p.inputValue('#name'), 'a'); },

  '# Frames and shadow trees': 0,
  frame_same: async p => { await p.goto(site + '/frames'); const f = p.frameLocator('#same'); await f.locator('#in').click(); is(await f.locator('#in').textContent(), 'pressed'); },
  frame_cross: async p => { await p.goto(site + '/frames'); const f = p.frameLocator('#cross'); await f.locator('#in').click(); is(await f.locator('#in').textContent(), 'pressed'); },
  frame_cross_fill: async p => { await p.goto(site + '/frames'); const f = p.frameLocator('#cross'); await f.locator('#infield').fill('inside'); is(await f.locator('#infield').inputValue(), 'inside'); },
  shadow: async p => { await p.goto(site + '/shadow'); await p.click('#sb'); is(await p.textContent('#so'), 'shadow clicked'); },

  '# Dialogs': 0,
  dialog_alert: async p => { await form(p); let said; p.on('dialog', d => { said = d.message(); d.accept(); }); await p.click('#alert'); is(said, 'hi'); },
  dialog_dismissed_by_default: async p => { await form(p); await p.click('#confirm'); await p.waitForFunction(() => document.getElementById('out').textContent === 'false'); },
  dialog_confirm_accepted: async p => { await p.goto(site + '/dialogs'); p.on('dialog', d => d.accept()); await p.click('#confirm'); is(await p.textContent('#said'), 'true'); },
  dialog_prompt_accepted: async p => { await p.goto(site + '/dialogs'); p.on('dialog', d => d.accept('Ada')); await p.click('#prompt'); is(await p.textContent('#said'), 'Ada'); },
  dialog_dismissed: async p => { await p.goto(site + '/dialogs'); p.on('dialog', d => d.dismiss()); await p.click('#prompt'); is(await p.textContent('#said'), 'null'); },

  '# Files': 0,
  upload_path: async p => { const d = mkdtempSync(join(tmpdir(), 'up-')); writeFileSync(join(d, 'a.csv'), 'x,y'); await p.goto(site + '/files'); await p.setInputFiles('#u', join(d, 'a.csv')); await p.waitForFunction(() => said.textContent === 'a.csv:x,y '); rmSync(d, { recursive: true }); },
  upload_chooser: async p => { await p.goto(site + '/files'); const [f] = await Promise.all([p.waitForEvent('filechooser'), p.click('#u')]); await f.setFiles({ name: 'b.txt', mimeType: 'text/plain', buffer: Buffer.from('mine') }); await p.waitForFunction(() => said.textContent === 'b.txt:mine '); },
  download_canceled: async p => { await p.goto(site + '/files'); const [d] = await Promise.all([p.waitForEvent('download'), p.click('#dl')]); is(d.suggestedFilename(), 'report.csv'); has(await d.failure(), 'canceled'); },
  download_in_new_context: async () => { const c = await browser.newContext(); const p = await c.newPage(); await p.goto(site + '/files'); const [d] = await Promise.all([p.waitForEvent('download'), p.click('#dl2')]); has(await d.failure(), 'canceled'); await c.close(); },
  upload_own_bytes: async p => { await p.setContent('<input type=file id=u>'); await p.setInputFiles('#u', { name: 'a.txt', mimeType: 'text/plain', buffer: Buffer.from('mine') }); is(await p.evaluate(() => document.getElementById('u').files[0].name), 'a.txt'); },

  '# Network': 0,
  wait_for_response: async p => { await form(p); const [r] = await Promise.all([p.waitForResponse('**/data.json'), p.evaluate(() => fetch('/data.json').then(r => r.json()))]); is(r.status(), 200); is(r.headers()['content-type'], 'application/json'); },
  wait_for_request: async p => { await form(p); const [r] = await Promise.all([p.waitForRequest('**/data.json'), p.evaluate(() => { fetch('/data.json', { method: 'POST', body: 'private' }); })]); is(r.method(), 'POST'); is(r.postData(), null); },
  request_finished: async p => { await form(p); const [r] = await Promise.all([p.waitForEvent('requestfinished'), p.evaluate(() => fetch('/data.json').then(r => r.text()))]); has(r.url(), '/data.json'); },
  no_cookie_in_headers: async p => { const r = await p.goto(site + '/form'); is((await r.allHeaders())['set-cookie'], undefined); is((await r.request().allHeaders())['cookie'], undefined); },

  '# Own scripts': 0,
  wait_for_function: async p => { await form(p); await p.click('#later'); await p.waitForFunction(() => document.querySelector('#done')); },
  evaluate: async p => { await form(p); is(await p.evaluate(() => document.title), 'Form'); },
  evaluate_argument: async p => is(await p.evaluate(x => x.a + x.b, { a: 1, b: 2 }), 3),
  evaluate_promise: async p => is(await p.evaluate(() => new Promise(r => setTimeout(() => r('late'), 20))), 'late'),
  evaluate_error: async p => { let m; try { await p.evaluate(() => { throw new Error('mine'); }); } catch (e) { m = e.message; } has(m, 'mine'); },
  evaluate_handle: async p => { await form(p); const h = await p.evaluateHandle(() => document.body); is(await h.evaluate(b => b.tagName), 'BODY'); },
  eval_on_selector: async p => { await form(p); is(await p.$eval('#h', e => e.id), 'h'); },
  set_content: async p => { await p.setContent('<h1>mine</h1>'); is(await p.textContent('h1'), 'mine'); },
  init_script: async () => { const c = await browser.newContext(); await c.addInitScript(() => { window.mine = 7; }); const p = await c.newPage(); await p.goto(site + '/form'); is(await p.evaluate(() => window.mine), 7); await c.close(); },
  init_script_popup: async () => { const c = await browser.newContext(); await c.addInitScript(() => { window.mine = 8; }); const p = await c.newPage(); await p.goto(site + '/form'); const [q] = await Promise.all([p.waitForEvent('popup'), p.click('#pop')]); await q.waitForLoadState(); is(await q.evaluate(() => window.mine), 8); await c.close(); },
  expose_function: async () => { const c = await browser.newContext(); const p = await c.newPage(); await p.exposeFunction('double', x => x * 2); await p.goto(site + '/form'); is(await p.evaluate(() => window.double(4)), 8); await c.close(); },
  worker: async p => { await p.goto(site + '/worker'); await p.waitForFunction(() => document.getElementById('w').textContent === '42'); is(p.workers().length, 1); },
  dispatch_event: async p => { await form(p); await p.dispatchEvent('#btn', 'click'); is(await p.textContent('#count'), '1'); },

  '# Emulation and tracing': 0,
  emulate_media: async p => { await p.emulateMedia({ colorScheme: 'dark' }); is(await p.evaluate(() => matchMedia('(prefers-color-scheme: dark)').matches), true); },
  timezone_locale: async () => { const c = await browser.newContext({ timezoneId: 'Asia/Tokyo', locale: 'de-DE' }); const p = await c.newPage(); is(await p.evaluate(() => Intl.DateTimeFormat().resolvedOptions().timeZone), 'Asia/Tokyo'); await c.close(); },
  tracing: async p => { const file = join(mkdtempSync(join(tmpdir(), 'trace-')), 't.zip'); await context.tracing.start({ screenshots: true, snapshots: true }); await form(p); await p.click('#btn'); await context.tracing.stop({ path: file }); is(statSync(file).size > 1000, true); rmSync(dirname(file), { recursive: true }); },

  '# Refused in every profile': 0,
  refused_file: async p => refused(p.goto('file:///etc/passwd'), 'cdp_address'),
  refused_chrome: async p => refused(p.goto('chrome://version'), 'cdp_address'),
  refused_cookies: async () => refused(context.cookies(), 'cdp_denied_method'),
  refused_route: async p => refused(p.route('**/*', r => r.continue()), 'cdp_denied_method'),
  refused_headers: async p => refused(p.setExtraHTTPHeaders({ 'x-forged': '1' }), 'cdp_denied_method'),
  refused_body: async p => { const r = await p.goto(site + '/data.json'); await refused(r.text(), 'cdp_denied_method'); },
  refused_pdf: async p => refused(p.pdf(), 'cdp_denied_method'),
  refused_permissions: async () => refused(context.grantPermissions(['clipboard-read']), 'cdp_denied_method'),
  refused_proxy: async () => refused(browser.newContext({ proxy: { server: 'direct://' } }), 'cdp_parameter'),
  refused_user_agent: async () => { const c = await browser.newContext({ userAgent: 'other' }); try { await refused(c.newPage(), 'cdp_denied_method'); } finally { await c.close(); } },
  refused_script_off: async () => { const c = await browser.newContext({ javaScriptEnabled: false }); try { await refused(c.newPage(), 'cdp_denied_method'); } finally { await c.close(); } },
  refused_certificates: async () => { const c = await browser.newContext({ ignoreHTTPSErrors: true }); try { await refused(c.newPage(), 'cdp_denied_method'); } finally { await c.close(); } },
  refused_storage_state: async () => refused(context.storageState(), 'cdp_denied_method'),
  refused_add_cookies: async () => refused(context.addCookies([{ name: 'a', value: 'b', url: site }]), 'cdp_denied_method'),
  refused_methods: async p => {
    const s = await context.newCDPSession(p);
    for (const m of ['Debugger.enable', 'HeapProfiler.enable', 'Storage.getCookies', 'Fetch.enable', 'Page.setBypassCSP', 'Target.exposeDevToolsProtocol', 'Network.getAllCookies', 'DOMStorage.enable', 'Tracing.start', 'WebAuthn.enable'])
      await refused(s.send(m), 'cdp_denied_method');
    await refused(s.send('No.suchMethod'), 'cdp_unknown_method');
    await refused(s.send('Page.navigate', { url: site, other: 1 }), 'cdp_parameter');
  },
}, async () => context.newPage(), only);
await browser.close();
process.exit(0);
