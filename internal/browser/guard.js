// The guard: runs in an isolated world of every frame, before any script of
// the page. The page sees neither its names nor its prototypes. It denies all
// trusted input by default, and lets through what it was armed for: the one
// element, with the facts that were decided on, for a short time.
//
// DOM objects can be clobbered by names in the page (<input name=action>), so
// members of nodes are read through the prototypes' own getters only.
(() => {
  const KEY = '%KEY%', REPORT = '%REPORT%';
  const own = Object.prototype.hasOwnProperty;
  if (Reflect.apply(own, globalThis, [KEY])) { globalThis[KEY].register(); return; }

  const call = (f, o, ...a) => { try { return Reflect.apply(f, o, a); } catch { return undefined; } };
  const getter = (C, n) => { const g = Object.getOwnPropertyDescriptor(C.prototype, n).get; return o => call(g, o); };
  const method = (C, n) => { const f = C.prototype[n]; return (o, ...a) => call(f, o, ...a); };

  const nodeType = getter(Node, 'nodeType'), parentNode = getter(Node, 'parentNode'), textOf = getter(Node, 'textContent');
  const rootOf = method(Node, 'getRootNode'), childNodes = getter(Node, 'childNodes');
  const localName = getter(Element, 'localName'), nsOf = getter(Element, 'namespaceURI');
  const matches = method(Element, 'matches'), attr = method(Element, 'getAttribute'), hasAttr = method(Element, 'hasAttribute');
  const rectOf = method(Element, 'getBoundingClientRect'), shadowOf = getter(Element, 'shadowRoot');
  const slotOf = getter(Element, 'assignedSlot'), textSlot = getter(Text, 'assignedSlot'), queryAll = method(Element, 'querySelectorAll'), query1 = method(Element, 'querySelector');
  const innerText = getter(HTMLElement, 'innerText'), editable = getter(HTMLElement, 'isContentEditable');
  const hostOf = getter(ShadowRoot, 'host'), modeOf = getter(ShadowRoot, 'mode');
  const shadowHit = method(ShadowRoot, 'elementFromPoint'), shadowActive = getter(ShadowRoot, 'activeElement');
  const docHit = method(Document, 'elementFromPoint'), docActive = getter(Document, 'activeElement'), byId = method(Document, 'getElementById'), docRoot = getter(Document, 'documentElement');
  const pathOf = method(Event, 'composedPath'), stopNow = method(Event, 'stopImmediatePropagation'), prevent = method(Event, 'preventDefault');
  const labelControl = getter(HTMLLabelElement, 'control');
  const formAction = getter(HTMLFormElement, 'action'), formMethod = getter(HTMLFormElement, 'method');
  const buttonType = getter(HTMLButtonElement, 'type'), inputType = getter(HTMLInputElement, 'type');
  const selectMultiple = getter(HTMLSelectElement, 'multiple'), selectSize = getter(HTMLSelectElement, 'size');
  const formOwners = [HTMLButtonElement, HTMLInputElement, HTMLSelectElement, HTMLTextAreaElement, HTMLObjectElement,
    HTMLFieldSetElement, HTMLOutputElement, HTMLLabelElement, HTMLOptionElement].map(C => getter(C, 'form'));
  const submitAction = [getter(HTMLButtonElement, 'formAction'), getter(HTMLInputElement, 'formAction')];
  const submitMethod = [getter(HTMLButtonElement, 'formMethod'), getter(HTMLInputElement, 'formMethod')];
  const disabled = [getter(HTMLButtonElement, 'disabled'), getter(HTMLInputElement, 'disabled')];
  const anchorHref = [getter(HTMLAnchorElement, 'href'), getter(HTMLAreaElement, 'href')];
  const areaValue = getter(HTMLTextAreaElement, 'value'), newWalker = method(Document, 'createTreeWalker');
  const rootGetter = Object.getOwnPropertyDescriptor(Element.prototype, 'shadowRoot').get;
  const docAll = method(Document, 'querySelectorAll'), shadowAll = method(DocumentFragment, 'querySelectorAll');
  const valueOf = getter(HTMLInputElement, 'value'), labelsOf = [getter(HTMLInputElement, 'labels'),
    getter(HTMLSelectElement, 'labels'), getter(HTMLTextAreaElement, 'labels')];
  const fileMultiple = getter(HTMLInputElement, 'multiple'), dispatch = method(EventTarget, 'dispatchEvent');
  const setFiles = (e, l) => call(Object.getOwnPropertyDescriptor(HTMLInputElement.prototype, 'files').set, e, l);
  const baseURI = getter(Node, 'baseURI'), query = method(Document, 'querySelector');
  const addListener = EventTarget.prototype.addEventListener, removeListener = EventTarget.prototype.removeEventListener;

  const first = (gs, o) => { for (const g of gs) { const v = g(o); if (v !== undefined && v !== null) return v; } return null; };
  const isElement = n => n !== null && n !== undefined && nodeType(n) === 1;
  const isShadow = n => n !== null && n !== undefined && modeOf(n) !== undefined;
  const SVG = 'http://www.w3.org/2000/svg', XLINK = 'http://www.w3.org/1999/xlink';
  const ACTIONABLE = 'a[href],area[href],button,input,select,textarea,summary,label,option,[onclick],' +
    '[contenteditable]:not([contenteditable=false]),' + ['button', 'link', 'menuitem', 'menuitemcheckbox', 'menuitemradio',
      'checkbox', 'radio', 'switch', 'tab', 'option', 'treeitem', 'combobox', 'textbox', 'slider'].map(r => `[role=${r}]`).join();

  const NATIVE = ['a', 'area', 'button', 'input', 'select', 'textarea', 'summary', 'label', 'option']; // act by themselves
  // what can have a shadow root (DOM, 4.8 attachShadow)
  const HOSTS = ['article', 'aside', 'blockquote', 'body', 'div', 'footer', 'h1', 'h2', 'h3', 'h4', 'h5', 'h6', 'header', 'main', 'nav', 'p', 'section', 'span'];

  const svgHref = e => nsOf(e) === SVG && localName(e) === 'a' ? attr(e, 'href') ?? call(Element.prototype.getAttributeNS, e, XLINK, 'href') : null;
  const linkOf = e => {
    const s = svgHref(e);
    if (s !== null && s !== undefined) { try { return new URL(s, baseURI(e)).href; } catch { return s; } }
    return hasAttr(e, 'href') ? first(anchorHref, e) || '' : '';
  };
  const isSubmit = e => localName(e) === 'button' ? buttonType(e) === 'submit' : ['submit', 'image'].includes(inputType(e));
  const up = e => (isElement(e) ? slotOf(e) : null) || (p => isShadow(p) ? hostOf(p) : p)(parentNode(e));
  const trail = e => { const out = []; for (; isElement(e) && out.length < 512; e = up(e)) out.push(e); return out; };

  // reading of a trail (elements from the hit outward): what a press on it does
  const read = path => {
    path = path.filter(isElement);
    let act = null, link = '', submit = null, label = null;
    for (const e of path) {
      const svg = svgHref(e);
      if (!act && (matches(e, ACTIONABLE) || (svg !== null && svg !== undefined))) act = e;
      if (!link) link = linkOf(e);
      if (!submit && isSubmit(e)) submit = e;
      if (!label && localName(e) === 'label') label = e;
    }
    act ??= path[0] ?? null;
    let control = label && label !== act && act !== path[0] && localName(act) !== 'label' ? null : label && labelControl(label);
    if (control === act) control = null;
    if (control && !submit && isSubmit(control)) submit = control;
    return { act, link, submit, control, ...formFacts(submit, control || act, path.find(e => linkOf(e))), type: typeOf(control || act) };
  };
  const typeOf = e => isElement(e) ? inputType(e) ?? (localName(e) === 'button' ? buttonType(e) : '') ?? '' : '';
  // the window that a link or form opens in (HTML, 4.6.4 and 4.10.21.3)
  const windowOf = (...es) => {
    let t = null;
    for (const [e, n] of es) if (t === null && e && hasAttr(e, n)) t = attr(e, n);
    if (t === null && es.some(([e]) => e)) t = attr(query(document, 'base[target]'), 'target');
    t = clip(t);
    return t.toLowerCase() === '_self' ? '' : t;
  };
  const formFacts = (submit, member, link) => {
    const form = first(formOwners, submit || member);
    if (!form) return { form: null, action: '', method: '', window: windowOf([link, 'target']) };
    const action = submit && hasAttr(submit, 'formaction') ? first(submitAction, submit) : formAction(form);
    const how = submit && hasAttr(submit, 'formmethod') ? first(submitMethod, submit) : formMethod(form);
    return { form, action: String(action ?? ''), method: String(how ?? ''), window: submit || !link ? windowOf([submit, 'formtarget'], [form, 'target']) : windowOf([link, 'target']) };
  };
  // what a control says: a label that changes is another control to whoever looked
  const says = r => r.act && matches(r.act, ACTIONABLE) && !editable(r.act) ? nameOf(r.act, r.control) : '';
  const keyOf = r => JSON.stringify([r.link, r.action, r.method, r.type, says(r), r.window]);

  // the default button of a form (HTML, 4.10.21.2 implicit submission)
  const IMPLICIT = ['text', 'search', 'tel', 'url', 'email', 'password', 'date', 'month', 'week', 'time', 'datetime-local',
    'number', 'checkbox', 'radio', 'range', 'color', 'file'];
  const defaultButton = form => {
    const all = queryAll(rootOf(form) === rootOf(docRoot(document)) ? docRoot(document) : form, 'button,input') ?? [];
    for (const e of all) if (isSubmit(e) && first(formOwners, e) === form) return first(disabled, e) ? null : e;
    return null;
  };
  const readFocus = e => {
    const r = read(trail(e));
    r.act = e; r.control = null; r.type = typeOf(e);
    if (!r.submit && IMPLICIT.includes(inputType(e)) && r.form) {
      r.submit = defaultButton(r.form);
      Object.assign(r, formFacts(r.submit, e));
    }
    return r;
  };

  const ids = new WeakMap(); let lastId = 0;
  const idOf = n => { if (!n) return 0; let i = ids.get(n); if (!i) ids.set(n, i = ++lastId); return i; };
  const clip = s => String(s ?? '').slice(0, 400).replace(/\s+/g, ' ').trim().slice(0, 200);
  const nameOf = (e, control) => {
    const aria = attr(e, 'aria-label'); if (aria) return clip(aria);
    const by = attr(e, 'aria-labelledby');
    if (by) { const t = clip(by.split(/\s+/).slice(0, 8).map(i => textOf(byId(document, i) ?? null) ?? '').join(' ')); if (t) return t; }
    const t = inputType(e);
    if (['submit', 'button', 'reset'].includes(t)) return clip(valueOf(e) || t);
    for (const l of first(labelsOf, e) ?? []) { const s = clip(textOf(l)); if (s) return s; }
    if (t === undefined && localName(e) !== 'select' && localName(e) !== 'textarea') {
      const s = clip(matches(e, ACTIONABLE) ? innerText(e) ?? textOf(e) : textOf(e)); if (s) return s;
    }
    return clip(attr(e, 'alt') || attr(e, 'title') || attr(e, 'placeholder') || (control ? nameOf(control, null) : ''));
  };
  const ROLES = { a: 'link', area: 'link', button: 'button', select: 'combobox', textarea: 'textbox', summary: 'button', label: 'label', canvas: 'canvas' };
  const roleOf = (e, type) => attr(e, 'role') || ({ checkbox: 'checkbox', radio: 'radio', submit: 'button', button: 'button', reset: 'button',
    image: 'button', range: 'slider', file: 'file' })[inputType(e)] || (inputType(e) ? 'textbox' : ROLES[localName(e)]) || '';
  const blind = (hit, r) => {
    const t = localName(r.act), h = localName(hit), wrapped = t === 'button' || (r.link && t === 'a');
    if (['embed', 'object', 'applet'].includes(h)) return 'plugin_content';
    if (h === 'canvas' && !wrapped) return 'canvas';
    if (['iframe', 'frame', 'fencedframe', 'portal'].includes(h)) return 'frame_without_session';
    const c = r.control || r.act;
    if (localName(c) === 'select' && !selectMultiple(c) && !(selectSize(c) > 1)) return 'native_select_popup';
    if (r.type === 'color') return 'native_color_picker';
    if (r.type === 'file') return 'file_chooser';
    return '';
  };
  // what stands on a control without being text of it
  const drawn = e => {
    if (!matches(e, ACTIONABLE) || editable(e)) return [];
    const out = [], nothing = ['none', 'normal', '""', "''", undefined], style = (e, p) => call(getComputedStyle, globalThis, e, p);
    for (const p of ['::before', '::after']) if (!nothing.includes(style(e, p)?.content)) out.push('generated_text');
    if (query1(e, 'img,svg,canvas,picture,video,object') || inputType(e) === 'image' || !['none', undefined].includes(style(e)?.backgroundImage)) out.push('picture');
    return out;
  };
  const closedRoots = e => { const out = []; for (let n = e; n;) { const r = rootOf(n); if (!isShadow(r)) break; if (modeOf(r) === 'closed') out.push(r); n = hostOf(r); } return out; };
  // never what was typed
  const textShown = e => !matches(e, ACTIONABLE) || editable(e) || ['input', 'textarea', 'select'].includes(localName(e)) ? '' : clip(innerText(e) ?? textOf(e));
  const facts = (hit, r, keyboard) => {
    const b = rectOf(r.act) ?? { x: 0, y: 0, width: 0, height: 0 };
    return { node: idOf(r.act), submit: idOf(r.submit), tag: localName(r.act), role: clip(roleOf(r.act)), name: nameOf(r.act, r.control), says: says(r),
      text: textShown(r.act), drawn: drawn(r.act), link: r.link, action: r.action, method: r.method, type: r.type, window: r.window, url: location.href, origin: self.origin,
      bare: !keyboard && !r.link && !r.submit && !NATIVE.includes(localName(r.act)), rect: [b.x, b.y, b.width, b.height], blind: keyboard && localName(r.act) === 'select' ? '' : blind(hit, r),
      editable: !!(editable(r.act) || ['input', 'textarea', 'select'].includes(localName(r.act))) };
  };
  // text directly under an open shadow host is dispatched on its slot
  const settle = hit => {
    const s = shadowOf(hit); if (!s) return hit;
    for (const c of childNodes(hit) ?? []) { const slot = nodeType(c) === 3 && textOf(c).trim() ? textSlot(c) : null; if (slot) return slot; }
    return hit;
  };

  let armed = null; // {nonce, until, mode, loose, down, up, focus, log}
  const live = () => armed && performance.now() <= armed.until ? armed : null;
  const target = (r, roots) => ({ act: r.act, key: keyOf(r), control: r.control, submit: r.submit, form: r.form, roots, focus: false });
  const report = (type, ok) => {
    const a = armed; if (a && a.log.length < 64) a.log.push([type, ok]);
    try { globalThis[REPORT](JSON.stringify({ nonce: a ? a.nonce : '', type, ok })); } catch { /* the page is going away */ }
  };
  // the path of an event, continued into closed shadow roots that lead to t
  const inside = (e, t, path) => {
    for (let i = t.roots.length - 1; i >= 0; i--) {
      if (path[0] !== hostOf(t.roots[i])) return null;
      const inner = t.focus ? shadowActive(t.roots[i]) : shadowHit(t.roots[i], e.clientX, e.clientY);
      if (!inner) return null;
      path = trail(inner);
    }
    return path;
  };
  const hits = (e, t, path) => {
    if (!t) return false;
    path = inside(e, t, path); if (!path || !path.length) return false;
    const r = t.focus ? readFocus(path[0]) : read(path);
    return r.act === t.act && keyOf(r) === t.key && r.submit === t.submit;
  };
  const same = (t, n) => t && n && (t.control === n || t.act === n);

  const PASS = 0, OK = 1, DENY = 2, SWALLOW = 3;
  const DOWN = ['pointerdown', 'mousedown', 'touchstart', 'dragstart'];
  const pointer = (e, a, path) => {
    if (e.type === 'click' && e.pointerType === '') return simulated(e, a, path);
    if (!a || a.mode !== 'pointer') return DENY;
    if (DOWN.includes(e.type)) return hits(e, a.down, path) ? OK : DENY;
    if (e.type === 'contextmenu') return hits(e, a.down || a.up, path) ? OK : DENY;
    if (hits(e, a.up, path)) return OK;
    if (e.type === 'click' && a.up && a.up.control && path[0] === a.up.control) return OK;
    // after a drag the common ancestor of both ends would be clicked
    return ['click', 'auxclick', 'dblclick'].includes(e.type) && a.drag ? SWALLOW : DENY;
  };
  // a click that the browser makes: for a key, for a label, or for the page's own label.click()
  const simulated = (e, a, path) => {
    if (!a || a.mode !== 'key') return a && a.up && path[0] === a.up.control ? OK : PASS;
    const t = a.focus, r = t && (t.roots.length ? null : readFocus(t.act));
    if (t && t.roots.length) return path[0] === hostOf(t.roots[t.roots.length - 1]) ? OK : DENY;
    if (!r || keyOf(r) !== t.key) return DENY;
    return path[0] === t.act || path[0] === t.submit && r.submit === t.submit || path[0] === labelControl(t.act) ? OK : DENY;
  };
  const keyboard = (e, a, path) => {
    const on = a && a.mode === 'key' && hits(e, a.focus, path);
    if (on) return OK;
    if (e.type === 'keyup' && a && a.loose) return PASS; // Tab and the like: the focus has moved on, nothing is activated
    // Enter has done its work: what it was for may be gone or disabled, and nobody else is to get its release
    if (e.type === 'keyup' && e.key === 'Enter' && a && a.mode === 'key' && a.log.some(r => r[0] === 'keydown' && r[1])) return SWALLOW;
    return DENY;
  };
  const submit = (e, a) => {
    for (const t of a ? [a.up, a.focus] : []) {
      if (!t || t.form !== e.target) continue;
      const f = formFacts(e.submitter, e.target), action = f.form ? f.action : String(formAction(e.target)), how = f.form ? f.method : String(formMethod(e.target));
      const k = JSON.parse(t.key);
      if (action !== k[1] || how !== k[2] || (f.form ? f.window : windowOf([e.target, 'target'])) !== k[5]) return DENY;
    }
    return PASS;
  };
  // last runs after the page's own handlers of beforeinput, which may have
  // moved the focus: the browser inserts wherever it is now.
  const last = e => {
    const a = live(), f = a && a.mode === 'key' && a.focus;
    if (!e.isTrusted || !f) return;
    const root = rootOf(f.act), now = isShadow(root) ? shadowActive(root) : docActive(document);
    if (now === f.act) return;
    prevent(e); report('beforeinput', false);
  };
  const judge = e => {
    const a = live(), path = pathOf(e) ?? [];
    switch (e.type) {
      case 'keydown': case 'keypress': case 'keyup': case 'beforeinput': return keyboard(e, a, path);
      case 'submit': return submit(e, a);
      case 'input': return !a || !a.text || hits(e, a.focus, path) ? PASS : DENY;
      default: return pointer(e, a, path);
    }
  };
  const on = e => {
    if (!e.isTrusted) return;
    let v = DENY;
    try { v = judge(e); } catch { v = DENY; }
    if (e.type === 'contextmenu') prevent(e); // the page may draw its own; the browser's is out of reach of the guard
    if (v === PASS) return;
    if (v === OK && e.type === 'beforeinput') { // again, to be behind all that were added meanwhile
      Reflect.apply(removeListener, window, ['beforeinput', last, false]);
      Reflect.apply(addListener, window, ['beforeinput', last, false]);
    }
    if (v !== OK) { prevent(e); stopNow(e); }
    if (v !== SWALLOW) report(e.type, v === OK);
  };
  const TYPES = ['pointerdown', 'mousedown', 'pointerup', 'mouseup', 'click', 'auxclick', 'dblclick', 'contextmenu', 'touchstart',
    'touchmove', 'touchend', 'dragstart', 'drop', 'keydown', 'keypress', 'keyup', 'beforeinput', 'input', 'submit'];
  const register = () => {
    for (const t of TYPES) {
      Reflect.apply(removeListener, window, [t, on, { capture: true }]);
      Reflect.apply(addListener, window, [t, on, { capture: true, passive: false }]);
    }
  };

  const arm = (spec, part) => {
    if (!armed || armed.nonce !== spec.nonce) armed = { nonce: spec.nonce, mode: spec.mode, loose: spec.loose, drag: spec.drag, text: spec.text, down: null, up: null, focus: null, log: [] };
    armed.until = performance.now() + spec.ms;
    Object.assign(armed, part);
    register();
  };
  // what the last text() was made of: from where to where which node
  let parts = [];
  const walk = (root, all, add) => { // members of text nodes cannot be clobbered
    for (let w = newWalker(document, root, NodeFilter.SHOW_TEXT), n; (n = w.nextNode());) add(n.parentNode, n.data);
    for (const e of all(root, 'input,textarea')) add(e, '\n' + (valueOf(e) ?? areaValue(e)) + '\n');
    for (const e of all(root, '*')) { const s = Reflect.apply(rootGetter, e, []); if (s) walk(s, shadowAll, add); }
  };
  const guard = {
    register,
    // text: all text of this frame with its open shadow roots, and the values of its fields
    text() {
      let out = '';
      parts = [];
      walk(document, docAll, (n, s) => { parts.push([out.length, out.length + s.length, n]); out += s; });
      return out;
    },
    // holders: the elements that a part of the last text() is in
    holders(from, to) { return parts.filter(p => p[0] < to && p[1] > from).map(p => isElement(p[2]) ? p[2] : isShadow(p[2]) ? hostOf(p[2]) : null); },
    // ground: facts of the element under a point; arms for them when spec is given
    ground(hit, spec) {
      if (!isElement(hit)) hit = parentNode(hit);
      if (!isElement(hit)) return null;
      const r = read(trail(settle(hit)));
      if (spec) { const t = target(r, closedRoots(r.act)), part = {}; if (spec.down) part.down = t; if (spec.up) part.up = t; arm(spec, part); }
      return facts(hit, r, false);
    },
    groundFocus(e, spec) {
      if (!isElement(e)) return null;
      const r = readFocus(e);
      if (spec) arm(spec, { focus: { ...target(r, closedRoots(e)), focus: true } });
      return facts(e, r, true);
    },
    // hosts: those whose child the element is, or is in, and that may have a shadow root which cannot be seen from here
    hosts(hit) {
      if (!isElement(hit)) hit = parentNode(hit);
      return [hit, ...trail(hit).filter(e => !isShadow(parentNode(e)) && !slotOf(e)).map(parentNode)]
        .filter(e => isElement(e) && (HOSTS.includes(localName(e)) || localName(e).includes('-')) && !shadowOf(e)).slice(0, 64);
    },
    // at: the element under a point of this frame's viewport, as events see it
    at(x, y) {
      let e = docHit(document, x, y);
      for (let i = 0; e && i < 64; i++) {
        const s = shadowOf(e), inner = s && shadowHit(s, x, y);
        if (!inner || inner === e) break;
        e = inner;
      }
      return e ?? null;
    },
    // give: puts files that the boundary was given into a file input
    give(e, files) {
      const many = fileMultiple(e), dir = hasAttr(e, 'webkitdirectory');
      if (inputType(e) !== 'file' || dir || files.length > 1 && !many || first(disabled, e)) return 0;
      const t = new DataTransfer();
      for (const f of files) t.items.add(new File([Uint8Array.from(atob(f.data), c => c.charCodeAt(0))], f.name));
      setFiles(e, t.files);
      for (const n of ['input', 'change']) dispatch(e, new Event(n, { bubbles: true, composed: n === 'input' }));
      return files.length;
    },
    active: root => (root ? shadowActive(root) : docActive(document) ?? docRoot(document)),
    // clear: deny everything in this frame again, after document.open() too
    clear(spec) {
      if (spec && armed && armed.nonce === spec.nonce) return;
      armed = spec && (spec.loose || spec.text) ? { nonce: spec.nonce, mode: 'none', loose: spec.loose, text: spec.text, down: null, up: null, focus: null, log: [], until: performance.now() + spec.ms } : null;
      register();
    },
    disarm(nonce) { const a = armed; armed = null; return a && a.nonce === nonce ? a.log : []; },
    size: e => { const s = getComputedStyle(e), n = x => parseFloat(x) || 0; return [n(s.paddingLeft) + n(s.paddingRight), n(s.paddingTop) + n(s.paddingBottom), call(Object.getOwnPropertyDescriptor(Element.prototype, 'clientWidth').get, e), call(Object.getOwnPropertyDescriptor(Element.prototype, 'clientHeight').get, e)]; },
  };
  Object.defineProperty(globalThis, KEY, { value: Object.freeze(guard), enumerable: false, writable: false, configurable: false });
  register();
  // document.open() takes all listeners away and leaves observers: they are back before the next event
  new MutationObserver(register).observe(document, { childList: true });
})();
