// A harness that works on the sample ticket queue with unmodified Playwright.
import { chromium } from 'playwright-core';

const tickets = process.argv[2];
const browser = await chromium.connectOverCDP(process.env.SALLYPORT_CDP_URL);
const context = browser.contexts()[0];
context.setDefaultTimeout(8000);
const page = await context.newPage();
await page.goto(tickets + '/tickets/' + process.env.SALLYPORT_PARAM_TICKET);
console.log('title', await page.title());
console.log('cookies in the page', JSON.stringify(await page.evaluate(() => document.cookie)));
// What the page sends by itself, with its own token, is not explained by a click.
const alone = await page.evaluate(async () => {
  const f = document.querySelector('form[action*=comment]');
  const r = await fetch(f.action, { method: 'POST', body: new URLSearchParams(new FormData(f)) });
  return r.status;
});
console.log('by script', alone);
await page.fill('textarea', 'Called back by Playwright');
await page.locator('form[action*=comment] button').click();
await page.waitForLoadState();
console.log('after', page.url(), (await page.textContent('body')).includes('Called back by Playwright'));
await browser.close();
