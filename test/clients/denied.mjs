import { chromium } from 'playwright-core';
import { site, is, refused, run } from './scenarios.mjs';

const [url, only] = process.argv.slice(2);
const browser = await chromium.connectOverCDP(url);
const context = browser.contexts()[0];
await run({
  mouse_says_why: async p => { await p.goto(site + '/form'); await refused(p.mouse.click(60, 300), 'outside_grant'); },
  locator_click: async p => { await p.goto(site + '/form'); await refused(p.locator('#btn').click({ timeout: 4000 }), ''); is(await p.textContent('#count'), '0'); },
}, async () => context.newPage(), only);
await browser.close();
process.exit(0);
