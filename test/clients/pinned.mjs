import { chromium } from 'playwright-core';
import { site, is, refused, run } from './scenarios.mjs';

const [url, only] = process.argv.slice(2);
const browser = await chromium.connectOverCDP(url);
const context = browser.contexts()[0];
await run({
  own_function: async p => { await p.goto(site + '/form'); await refused(p.evaluate(() => document.forms[0].submit()), 'cdp_script'); },
  own_expression: async p => refused(p.evaluate('fetch("/saved",{method:"POST"})'), 'cdp_script'),
  own_handle: async p => { await p.goto(site + '/form'); await refused(p.locator('#btn').evaluate(e => e.click()), 'cdp_script'); is(await p.textContent('#count'), '0'); },
  own_document: async p => refused(p.setContent('<script>window.x=1</script>'), 'cdp_script'),
  own_event: async p => { await p.goto(site + '/form'); await refused(p.dispatchEvent('#btn', 'click'), ''); is(await p.textContent('#count'), '0'); },
  own_init_script: async p => refused(p.addInitScript(() => { window.x = 1; }), 'cdp_script'),
  own_script_tag: async p => refused(p.addScriptTag({ content: 'window.x=1' }), ''),
  data_that_looks_like_code: async p => { await p.goto(site + '/form'); await p.fill('#name', '(() => {})();'); is(await p.inputValue('#name'), '(() => {})();'); },
}, async () => context.newPage(), only);
await browser.close();
process.exit(0);
