import puppeteer from 'puppeteer-core';
import { site, is, has, refused, run } from './scenarios.mjs';

const [url, only] = process.argv.slice(2);
const browser = await puppeteer.connect({ browserURL: url, defaultViewport: null });
await run({
  version: async () => has(await browser.version(), 'Chrome/'),
  goto: async p => { const r = await p.goto(site + '/form'); is(r.status(), 200); },
}, async () => browser.newPage(), only);
await browser.disconnect();
process.exit(0);
