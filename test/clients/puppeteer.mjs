import puppeteer from 'puppeteer-core';
import { site, is, has, refused, run } from './scenarios.mjs';

const [url, only] = process.argv.slice(2);
const browser = await puppeteer.connect({ browserURL: url, defaultViewport: null });
const form = async p => { p.setDefaultTimeout(8000); await p.goto(site + '/form'); };
// read without a script of our own, so that the profile pinned does it too
const property = async (p, s, name) => (await (await p.$(s)).getProperty(name)).jsonValue();
const text = (p, s) => property(p, s, 'textContent');
const value = (p, s) => property(p, s, 'value');
const until = (p, f, ...a) => p.waitForFunction(f, {}, ...a);

await run({
  '# Connecting, pages, contexts': 0,
  version: async () => has(await browser.version(), 'Chrome/'),
  user_agent: async () => has(await browser.userAgent(), 'HeadlessChrome'),
  pages: async p => is((await browser.pages()).includes(p), true),
  targets: async p => is(browser.targets().some(t => t.type() === 'page'), true),
  browser_target: async () => is(browser.target().type(), 'browser'),
  new_page: async p => is(p.url(), 'about:blank'),
  popup: async p => { await form(p); const [q] = await Promise.all([new Promise(r => p.once('popup', r)), p.click('#pop')]); await q.waitForFunction(() => document.title === 'Second'); await q.close(); },
  target_created: async p => { await form(p); const [t] = await Promise.all([browser.waitForTarget(t => t.url().endsWith('/second') && t.opener() === p.target(), { timeout: 5000 }), p.click('#pop')]); const q = await t.page(); await q.close(); },
  two_pages: async p => { await form(p); const q = await browser.newPage(); await q.goto(site + '/second'); await p.click('#btn'); is(await q.title(), 'Second'); is(await text(p, '#count'), '1'); await q.close(); },
  context: async () => { const c = await browser.createBrowserContext(); const p = await c.newPage(); await form(p); await p.click('#btn'); is(await text(p, '#count'), '1'); await c.close(); },
  bring_to_front: async p => { await form(p); await p.bringToFront(); },
  viewport: async p => { await form(p); await p.setViewport({ width: 800, height: 600 }); is(await p.evaluate(() => innerWidth), 1280); },
  metrics: async p => { await form(p); is((await p.metrics()).Documents > 0, true); },
  cdp_session: async p => { const s = await p.createCDPSession(); is(typeof (await s.send('Page.getFrameTree')).frameTree, 'object'); await s.detach(); },
  close: async p => { await p.close(); is(p.isClosed(), true); },

  '# Navigation': 0,
  goto: async p => { const r = await p.goto(site + '/form'); is(r.status(), 200); is(p.url(), site + '/form'); },
  link: async p => { await form(p); await Promise.all([p.waitForNavigation(), p.click('#link')]); is(p.url(), site + '/second'); },
  back: async p => { await form(p); await p.goto(site + '/second'); await p.goBack(); is(await p.title(), 'Form'); },
  forward: async p => { await form(p); await p.goto(site + '/second'); await p.goBack(); await p.goForward(); is(await p.title(), 'Second'); },
  reload: async p => { await form(p); await p.click('#btn'); await p.reload(); is(await text(p, '#count'), '0'); },
  redirect: async p => { const r = await p.goto(site + '/redirect'); is(r.request().redirectChain().length, 1); is(p.url(), site + '/form'); },
  not_found: async p => is((await p.goto(site + '/nowhere')).status(), 404),
  idle: async p => { await p.goto(site + '/form', { waitUntil: 'networkidle0' }); },

  '# Reading a page': 0,
  title: async p => { await form(p); is(await p.title(), 'Form'); },
  content: async p => { await form(p); has(await p.content(), 'Form page'); },
  property: async p => { await form(p); is(await text(p, '#h'), 'Form page'); },
  handle_properties: async p => { const h = await p.evaluateHandle(() => ({ a: 1 })); is(await (await h.getProperty('a')).jsonValue(), 1); },
  query: async p => { await form(p); is(await p.$('#nothing'), null); is((await p.$$('button')).length > 4, true); },
  locator_wait: async p => { await form(p); await p.click('#later'); await p.locator('#done').wait(); },
  wait_for_selector: async p => { await form(p); await p.click('#later'); await p.waitForSelector('#done'); is(await text(p, '#done'), 'done'); },
  screenshot: async p => { await form(p); const b = await p.screenshot(); is(Buffer.from(b.subarray(1, 4)).toString(), 'PNG'); },
  screenshot_full: async p => { await form(p); const b = await p.screenshot({ fullPage: true, type: 'jpeg' }); is(b[0], 255); },
  screenshot_element: async p => { await form(p); const b = await (await p.$('#btn')).screenshot(); is(b.length > 100, true); },
  accessibility: async p => { await form(p); has(JSON.stringify(await p.accessibility.snapshot()), 'Click me'); },
  bounding_box: async p => { await form(p); is((await (await p.$('#drag')).boundingBox()).x, 600); },
  frames: async p => { await p.goto(site + '/frames'); is(p.frames().length, 3); },
  console: async p => { const [m] = await Promise.all([new Promise(r => p.once('console', r)), p.evaluate(() => console.log('said', 1))]); is(m.text(), 'said 1'); },
  page_error: async p => { const [e] = await Promise.all([new Promise(r => p.once('pageerror', r)), p.evaluate(() => { setTimeout(() => { throw new Error('oops'); }); })]); has(e.message, 'oops'); },

  '# Mouse': 0,
  click: async p => { await form(p); await p.click('#btn'); is(await text(p, '#count'), '1'); },
  click_handle: async p => { await form(p); await (await p.$('#btn')).click(); is(await text(p, '#count'), '1'); },
  click_count: async p => { await form(p); await p.click('#dbl', { count: 2 }); is(await text(p, '#dcount'), '1'); },
  right_click: async p => { await form(p); await p.click('#ctx', { button: 'right' }); is(await text(p, '#ctxout'), 'ctx'); },
  locator_click: async p => { await form(p); await p.locator('#btn').click(); is(await text(p, '#count'), '1'); },
  locator_text: async p => { await form(p); await p.locator('::-p-text(Click me)').click(); is(await text(p, '#count'), '1'); },
  locator_aria: async p => { await form(p); await p.locator('::-p-aria(Click me)').click(); is(await text(p, '#count'), '1'); },
  locator_hover: async p => { await form(p); await p.locator('#hover').hover(); is(await text(p, '#hoverout'), 'over'); },
  hover: async p => { await form(p); await p.hover('#hover'); is(await text(p, '#hoverout'), 'over'); },
  scroll_click: async p => { await form(p); await p.click('#below'); is(await text(p, '#below'), 'clicked below'); },
  wheel: async p => { await form(p); await p.mouse.move(300, 300); await p.mouse.wheel({ deltaY: 400 }); await until(p, () => scrollY > 100); },
  mouse_drag: async p => { await form(p); await p.mouse.move(630, 330); await p.mouse.down(); await p.mouse.move(730, 380, { steps: 4 }); await p.mouse.up(); is((await (await p.$('#drag')).boundingBox()).x, 700); },
  drag: async p => { await p.goto(site + '/drag'); const bin = await p.$('#bin'); await (await p.$('#card')).drag(bin); await bin.drop(); await p.mouse.up(); is(await text(p, '#said'), 'start bin:card 7:0 end '); },
  drag_by_hand: async p => { await p.goto(site + '/drag'); await p.mouse.move(60, 50); await p.mouse.down(); await p.mouse.move(850, 250, { steps: 4 }); await p.mouse.up(); is(await text(p, '#said'), 'start other:card 7:0 end '); },
  drag_intercepted: async p => { await p.goto(site + '/drag'); await p.setDragInterception(true); await (await p.$('#card')).dragAndDrop(await p.$('#bin')); is(await text(p, '#said'), 'start bin:card 7:0 end '); await p.click('#bin'); },

  '# Touch': 0,
  tap: async p => { await p.goto(site + '/touch'); await p.tap('#tap'); is(await text(p, '#said'), 'touch touch 1'); },
  touchscreen_tap: async p => { await p.goto(site + '/touch'); const b = await (await p.$('#tap')).boundingBox(); await p.touchscreen.tap(b.x + 20, b.y + 20); is(await text(p, '#said'), 'touch touch 1'); },

  '# Keyboard and forms': 0,
  locator_fill: async p => { await form(p); await p.locator('#name').fill('filled'); is(await value(p, '#name'), 'filled'); },
  type: async p => { await form(p); await p.type('#name', 'hello'); is(await value(p, '#name'), 'hello'); },
  type_symbols: async p => { await form(p); await p.type('#name', 'Aa1+ -é'); is(await value(p, '#name'), 'Aa1+ -é'); },
  type_textarea: async p => { await form(p); await p.type('#area', 'a\nb'); is(await value(p, '#area'), 'a\nb'); },
  type_contenteditable: async p => { await form(p); await p.type('#ed', 'rich'); is(await text(p, '#ed'), 'rich'); },
  press_enter_submits: async p => { await form(p); await p.type('#name', 'z'); await Promise.all([p.waitForNavigation(), p.keyboard.press('Enter')]); is(await p.title(), 'Saved'); },
  press_tab: async p => { await form(p); await p.focus('#name'); await p.keyboard.press('Tab'); is(await p.evaluate(() => document.activeElement.id), 'pass'); },
  press_backspace: async p => { await form(p); await p.type('#name', 'ab'); await p.keyboard.press('Backspace'); is(await value(p, '#name'), 'a'); },
  keyboard_modifier: async p => { await form(p); await p.focus('#name'); await p.keyboard.down('Shift'); await p.keyboard.press('KeyA'); await p.keyboard.up('Shift'); is(await value(p, '#name'), 'A'); },
  select_all: async p => { await form(p); await p.type('#name', 'abc'); await p.keyboard.down('Control'); await p.keyboard.press('a'); await p.keyboard.up('Control'); await p.keyboard.press('Backspace'); is(await value(p, '#name'), ''); },
  send_character: async p => { await form(p); await p.focus('#name'); await p.keyboard.sendCharacter('嗨'); is(await value(p, '#name'), '嗨'); },
  checkbox: async p => { await form(p); await p.click('#agree'); is(await property(p, '#agree', 'checked'), true); },
  radio: async p => { await form(p); await p.click('[value=b]'); is(await property(p, '[value=b]', 'checked'), true); },
  select: async p => { await form(p); is(await p.select('#sel', '2'), ['2']); is(await value(p, '#sel'), '2'); },
  submit: async p => { await form(p); await Promise.all([p.waitForNavigation(), p.click('#save')]); is(await text(p, 'h1'), 'Saved'); },

  '# Frames and shadow trees': 0,
  frame_same: async p => { await p.goto(site + '/frames'); const f = await (await p.waitForSelector('#same')).contentFrame(); await (await f.waitForSelector('#in')).click(); is(await text(f, '#in'), 'pressed'); },
  frame_cross: async p => { await p.goto(site + '/frames'); const f = await (await p.waitForSelector('#cross')).contentFrame(); await (await f.waitForSelector('#in')).click(); is(await text(f, '#in'), 'pressed'); },
  shadow: async p => { await p.goto(site + '/shadow'); await p.click('>>> #sb'); is(await text(p, '>>> #so'), 'shadow clicked'); },

  '# Dialogs': 0,
  dialog_alert: async p => { await form(p); let said; p.on('dialog', d => { said = d.message(); d.accept(); }); await p.click('#alert'); is(said, 'hi'); },
  dialog_confirm_accepted: async p => { await p.goto(site + '/dialogs'); p.on('dialog', d => d.accept()); await p.click('#confirm'); is(await text(p, '#said'), 'true'); },
  dialog_prompt_accepted: async p => { await p.goto(site + '/dialogs'); p.on('dialog', d => d.accept('Ada')); await p.click('#prompt'); is(await text(p, '#said'), 'Ada'); },
  dialog_nobody_answers: async p => { await p.goto(site + '/dialogs'); await p.click('#confirm'); is(await text(p, '#said'), 'false'); },

  '# Files': 0,
  upload_from_the_store: async p => {
    await p.goto(site + '/files');
    is((await fetch(url + '/uploads/data/a.csv', { method: 'PUT', body: 'x,y' })).status, 204);
    await (await p.$('#u')).uploadFile('/data/a.csv');
    await p.locator('::-p-text(a.csv:x,y)').wait();
  },
  file_chooser: async p => {
    await p.goto(site + '/files');
    await fetch(url + '/uploads/data/b.csv', { method: 'PUT', body: 'z' });
    const [f] = await Promise.all([p.waitForFileChooser(), p.click('#u')]);
    await f.accept(['/data/b.csv']);
    await p.locator('::-p-text(b.csv:z)').wait();
  },

  '# Network': 0,
  wait_for_response: async p => { await form(p); const [r] = await Promise.all([p.waitForResponse(r => r.url().endsWith('/data.json')), p.evaluate(() => { fetch('/data.json'); })]); is(r.status(), 200); is(r.headers()['set-cookie'], undefined); },
  wait_for_request: async p => { await form(p); const [r] = await Promise.all([p.waitForRequest(site + '/data.json'), p.evaluate(() => { fetch('/data.json', { method: 'POST', body: 'private' }); })]); is(r.method(), 'POST'); is(r.postData(), undefined); },

  '# Own scripts': 0,
  set_content: async p => { await p.setContent('<h1>mine</h1>'); is(await text(p, 'h1'), 'mine'); },
  eval: async p => { await form(p); is(await p.$eval('#h', e => e.textContent), 'Form page'); },
  eval_all: async p => { await form(p); is(await p.$$eval('label', l => l.length), 5); },
  evaluate: async p => { await form(p); is(await p.evaluate(() => document.title), 'Form'); },
  evaluate_string: async p => is(await p.evaluate('1 + 2'), 3),
  evaluate_argument: async p => is(await p.evaluate((a, b) => a + b.n, 1, { n: 2 }), 3),
  evaluate_promise: async p => is(await p.evaluate(() => new Promise(r => setTimeout(() => r('late'), 20))), 'late'),
  evaluate_error: async p => { let m; try { await p.evaluate(() => { throw new Error('mine'); }); } catch (e) { m = e.message; } has(m, 'mine'); },
  evaluate_handle: async p => { await form(p); const h = await p.evaluateHandle(() => document.body); is(await h.evaluate(b => b.tagName), 'BODY'); },
  locator_map: async p => { await form(p); is(await p.locator('#h').map(e => e.textContent).wait(), 'Form page'); },
  wait_for_function: async p => { await form(p); await p.click('#later'); await until(p, () => document.querySelector('#done')); },
  init_script: async p => { await p.evaluateOnNewDocument(() => { window.mine = 7; }); await form(p); is(await p.evaluate(() => window.mine), 7); },
  expose_function: async p => { await p.exposeFunction('double', x => x * 2); await form(p); is(await p.evaluate(() => window.double(4)), 8); },
  worker: async p => { await p.goto(site + '/worker'); await until(p, () => document.getElementById('w').textContent === '42'); is(p.workers().length, 1); },

  '# Emulation and tracing': 0,
  emulate_media: async p => { await p.emulateMediaFeatures([{ name: 'prefers-color-scheme', value: 'dark' }]); is(await p.evaluate(() => matchMedia('(prefers-color-scheme: dark)').matches), true); },

  '# Refused in every profile': 0,
  refused_swipe: async p => { await p.goto(site + '/touch'); const t = await p.touchscreen.touchStart(30, 30); await refused(t.move(30, 90), 'cdp_input'); },
  refused_file: async p => refused(p.goto('file:///etc/passwd'), 'cdp_address'),
  refused_cookies: async p => refused(browser.cookies(), 'cdp_denied_method'),
  refused_set_cookie: async p => refused(browser.setCookie({ name: 'a', value: 'b', domain: 'site.test' }), 'cdp_denied_method'),
  refused_intercept: async p => refused(p.setRequestInterception(true), 'cdp_denied_method'),
  refused_headers: async p => refused(p.setExtraHTTPHeaders({ 'x-forged': '1' }), 'cdp_denied_method'),
  refused_user_agent: async p => refused(p.setUserAgent({ userAgent: 'other' }), 'cdp_denied_method'),
  refused_body: async p => { const r = await p.goto(site + '/data.json'); await refused(r.text(), ''); },
  refused_csp: async p => refused(p.setBypassCSP(true), 'cdp_denied_method'),
  refused_heap: async p => refused(p.captureHeapSnapshot({ path: '/dev/null' }), 'cdp_denied_method'),
  refused_trace: async p => refused(p.tracing.start(), 'cdp_denied_method'),
  refused_coverage: async p => refused(p.coverage.startJSCoverage(), 'cdp_denied_method'),
  refused_upload: async p => { await p.goto(site + '/files'); await refused((await p.$('#u')).uploadFile('/etc/hostname'), 'cdp_upload'); is(await text(p, '#said'), ''); },
  refused_proxy: async () => refused(browser.createBrowserContext({ proxyServer: 'direct://' }), 'cdp_parameter'),
}, async () => browser.newPage(), only);
await browser.disconnect();
process.exit(0);
