// Runs scenarios one after the other; each is given a fresh page, gets a time
// limit, and is reported as one line of JSON, with the feature that it is of:
// the last '# Feature' before it.
export const site = 'http://site.test';

export function is(got, want, what = 'value') {
  if (JSON.stringify(got) !== JSON.stringify(want)) throw new Error(`${what}: got ${JSON.stringify(got)}, want ${JSON.stringify(want)}`);
}
export function has(got, part, what = 'text') {
  if (!String(got).includes(part)) throw new Error(`${what}: got ${JSON.stringify(String(got).slice(0, 400))}, want it to have ${JSON.stringify(part)}`);
}
export async function refused(promise, code) {
  let error;
  try { await promise; } catch (e) { error = e; }
  if (!error) throw new Error(`passed, want it refused as ${code}`);
  has(error.message, code, 'refusal');
}
let hurry = () => {};
process.stdin.on('data', () => hurry());

// A line on standard input says that the door has just refused a script: what
// waits for it waits in vain, and the scenario has only so much time left, in ms.
export async function run(scenarios, fresh, only, left = 500) {
  const wanted = only?.split(',');
  let feature = '';
  for (const [name, f] of Object.entries(scenarios)) {
    if (name.startsWith('# ')) { feature = name.slice(2); continue; }
    if (wanted && !wanted.includes(name)) continue;
    let page;
    const timers = [], started = Date.now(), line = { name, feature };
    try {
      const limit = new Promise((_, no) => {
        const over = ms => timers.push(setTimeout(() => no(new Error('over its time')), ms));
        hurry = () => { hurry = () => {}; over(left); };
        over(15000);
      });
      await Promise.race([limit, (async () => { page = await fresh(); await f(page); })()]);
    } catch (e) {
      line.error = String(e && e.stack || e).slice(0, 1500);
    }
    timers.forEach(clearTimeout);
    if (process.env.TIMES) line.ms = Date.now() - started;
    try { await page?.close(); } catch { /* some scenarios close it */ }
    console.log(JSON.stringify(line));
  }
}
