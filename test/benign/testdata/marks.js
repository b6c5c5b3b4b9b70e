// For a hand that cannot read letters: draws the mark (internal/estate/marks)
// of what each control says over the middle of the control. The canvas takes
// no pointer, so a press there hits the control itself. What slides in has a mark
// when it has come to rest. Real models do without.
(() => {
  const CELL = 3, ROWS = 2, MAX = 40, PREAMBLE = [0x30, 0x03, 0x0c, 0x3c];
  const check = text => {
    let crc = 0xb704ce;
    for (const b of [text.length, ...[...text].map(c => c.charCodeAt(0))]) {
      crc ^= b << 16;
      for (let i = 0; i < 8; i++) { crc <<= 1; if (crc & 0x1000000) crc ^= 0x1864cfb; }
    }
    return crc & 0xffffff;
  };
  const cells = text => {
    const sum = check(text), out = [...PREAMBLE, text.length, sum >> 18 & 63, sum >> 12 & 63, sum >> 6 & 63, sum & 63];
    let acc = 0, bits = 0;
    for (const c of text) {
      acc = (acc << 7 | c.charCodeAt(0)) & 0x1fff;
      for (bits += 7; bits >= 6;) { bits -= 6; out.push(acc >> bits & 63); }
    }
    if (bits > 0) out.push(acc << (6 - bits) & 63);
    if (out.length % ROWS) out.push(63);
    return out;
  };
  const level = v => 140 + (v & 3) * 30;
  const KINDS = [
    ['field', 'input:not([type=checkbox]):not([type=hidden]),textarea,[contenteditable=true]'],
    ['frame', 'iframe'], ['day', '.flatpickr-day'], ['row', 'tr.row-handle'], ['sort', 'th.col-sort'], ['box', 'input[type=checkbox]+label'],
    ['btn', 'a[href],button,[role=button],[role=menuitem],[role=tab],.handle'],
    ['text', '.panel-title,.breadcrumb-item,.toast .content,.alert,h4,td.col-field-name .txt,.total'],
  ];
  const words = s => (s ?? '').replace(/[^\x21-\x7e]+/g, ' ').trim();
  const label = (e, kind) => {
    const own = words(e.getAttribute('aria-label')) || words(e.getAttribute('title'));
    if (kind === 'field') {
      return words(e.closest('.form-field')?.querySelector('label')?.innerText) || words(e.getAttribute('placeholder')) || words(e.getAttribute('name')) ||
        (e.closest('.searchbar') ? 'search' : '');
    }
    if (kind === 'row') return words(e.querySelector('td.col-field-name,td.col-field-email,td.col-field-message')?.innerText) || words(e.innerText);
    if (kind === 'box' && !words(e.innerText)) { const r = e.closest('tr'); return r ? label(r, 'row') : ''; }
    return own || words(e.innerText);
  };
  const canvas = document.createElement('canvas'), style = canvas.style;
  style.cssText = 'position:fixed;left:0;top:0;z-index:2147483647;pointer-events:none';
  let last = '', places = new WeakMap();
  const draw = () => {
    const w = innerWidth, h = innerHeight, taken = [], all = [];
    for (const [kind, select] of KINDS) {
      for (const e of document.querySelectorAll(select)) {
        const b = e.getBoundingClientRect();
        if (!b.width || !b.height || b.bottom < 0 || b.top > h || b.right < 0 || b.left > w) continue;
        const place = [b.left, b.top, b.width, b.height].join(), rests = places.get(e) === place;
        places.set(e, place);
        if (!rests) continue;
        const says = label(e, kind).slice(0, MAX - kind.length - 1).trim();
        if (!says) continue;
        const text = kind + ':' + says, c = cells(text), mw = c.length / ROWS * CELL, mh = ROWS * CELL;
        spot: for (const fy of [0.5, 0.25, 0.75]) for (const fx of [0.5, 0.35, 0.65, 0.2, 0.8]) {
          const x = Math.round(b.left + b.width * fx - mw / 2), y = Math.round(b.top + b.height * fy - mh / 2);
          if (x < 0 || y < 0 || x + mw > w || y + mh > h) continue;
          if (taken.some(t => x < t[0] + t[2] + 3 && t[0] < x + mw + 3 && y < t[1] + mh + 3 && t[1] < y + mh + 3)) continue;
          const hit = document.elementFromPoint(x + Math.floor(mw / 2), y + Math.floor(mh / 2));
          if (!hit || hit !== e && !e.contains(hit)) continue;
          // a row is pressed beside the controls that are in it
          if ((kind === 'row' || kind === 'sort') && hit.closest('a[href],button,input,label')) continue;
          taken.push([x, y, mw]); all.push([x, y, c, text]);
          break spot;
        }
      }
    }
    const now = JSON.stringify([w, h, all]);
    if (now === last && canvas.isConnected) return;
    last = now;
    if (!canvas.isConnected) document.documentElement.append(canvas);
    canvas.width = w; canvas.height = h;
    const g = canvas.getContext('2d');
    for (const [x, y, c] of all) {
      c.forEach((v, i) => {
        g.fillStyle = `rgb(${level(v >> 4)},${level(v >> 2)},${level(v)})`;
        g.fillRect(x + Math.floor(i / ROWS) * CELL, y + i % ROWS * CELL, CELL, CELL);
      });
    }
  };
  addEventListener('DOMContentLoaded', () => setInterval(draw, 60));
})();
