// What every page shares: the API, polling, problems, small DOM helpers, words.

const page = document.body.dataset;
export const roles = new Set((page.roles || '').split(' ').filter(Boolean));
export const user = page.user || '';
export const caseId = page.case || '';
export const isScreen = document.body.classList.contains('wall');

// --- DOM ----------------------------------------------------------------------------------------------------

/** el('p', {class: 'x', onclick: f, hidden: true}, 'text', node, null): text is never read as HTML. */
export function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith('on')) node.addEventListener(name.slice(2), value);
    else if (name === 'value') node.value = value;
    else if (value === true) node.setAttribute(name, '');
    else node.setAttribute(name, value);
  }
  node.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false));
  return node;
}

export function svg(tag, attributes = {}, ...children) {
  const node = document.createElementNS('http://www.w3.org/2000/svg', tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

export const $ = (selector, root = document) => root.querySelector(selector);
export const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

/** Put `children` into `node` unless a person is typing in it: a poll must not take the text away. */
export function fill(node, ...children) {
  if (node.contains(document.activeElement) && /^(INPUT|TEXTAREA|SELECT)$/.test(document.activeElement.tagName)) return false;
  node.replaceChildren(...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false));
  return true;
}

export function facts(pairs) {
  return el('dl', { class: 'facts' }, pairs.filter((p) => p && p[1] !== null && p[1] !== undefined && p[1] !== '')
    .map(([name, value]) => el('div', {}, el('dt', {}, name), el('dd', {}, value))));
}

export function progressBar(fraction, label) {
  const bar = el('progress', { max: 1, 'aria-label': label });
  if (fraction !== null && fraction !== undefined) bar.value = Math.min(1, Math.max(0, fraction));
  return bar;
}

// --- API ----------------------------------------------------------------------------------------------------

/** A refusal in words: what, and what to do next. */
export class Problem extends Error {
  constructor(status, body) {
    super(body.title);
    this.status = status;
    this.code = body.code;
    this.nextStep = body.next_step || '';
    this.details = body.details || {};
  }
}

const TOKEN = 'spineprint-screen-token';

/** A screen's token leaves the address at once; it stays in this tab only. */
export function adoptToken() {
  const url = new URL(location.href);
  const fragment = new URLSearchParams(url.hash.slice(1));
  const token = url.searchParams.get('token') || fragment.get('token');
  if (!token) return;
  sessionStorage.setItem(TOKEN, token);
  url.searchParams.delete('token');
  url.hash = '';
  history.replaceState(null, '', url.pathname + url.search);
}

async function send(path, options = {}) {
  const headers = new Headers(options.headers || {});
  const token = isScreen ? sessionStorage.getItem(TOKEN) : null;
  if (token) headers.set('Authorization', `Bearer ${token}`);
  let response;
  try {
    response = await fetch(path, { cache: 'no-store', ...options, headers, signal: options.signal || AbortSignal.timeout(options.timeout || 60000) });
  } catch (error) {
    throw new Problem(0, { title: 'The service does not answer.', code: 'network', next_step: 'Check the network; this page keeps trying by itself.' });
  }
  if (response.ok || response.status === 304) return response;
  let body;
  try { body = await response.json(); } catch (error) { body = { title: `The service answered ${response.status}.`, next_step: 'Try again; if it repeats, tell the administrator.' }; }
  if (response.status === 401 && !isScreen && !location.pathname.startsWith('/login')) {
    location.assign(`/login?next=${encodeURIComponent(location.pathname)}`);
  }
  throw new Problem(response.status, body);
}

export async function get(path) { return (await send(path)).json(); }

/** Bytes with the hash the server served them under. */
export async function getFile(path) {
  const response = await send(path, { timeout: 120000 });
  return { bytes: await response.arrayBuffer(), sha256: (response.headers.get('etag') || '').replaceAll('"', '') };
}

export async function getBlob(path, signal) { return (await send(path, { signal })).blob(); }

export async function post(path, body = {}, method = 'POST') {
  const options = body instanceof FormData ? { method, body } : { method, body: JSON.stringify(body), headers: { 'Content-Type': 'application/json' } };
  const response = await send(path, options);
  return response.status === 204 ? null : response.json();
}

/** A file as it is, without a form round it. */
export async function postFile(path, file) {
  return (await send(path, { method: 'POST', body: file, headers: { 'Content-Type': file.type || 'application/octet-stream' }, timeout: 120000 })).json();
}

// --- polling ------------------------------------------------------------------------------------------------

const pollers = [];
const STALE_MS = 10000;

/**
 * Ask `path` again and again, honouring Retry-After and ETag. `onData(body, changed)` is called after every good
 * answer; `changed` is false on 304. Returns {now(): ask at once}.
 */
export function poll(path, onData, { onProblem } = {}) {
  const state = { lastOk: performance.now(), seconds: 2 };
  let etag = null; let last = null; let timer = null; let running = false;
  pollers.push(state);
  async function step() {
    clearTimeout(timer);
    if (running) return;
    running = true;
    try {
      const response = await send(path, { headers: etag ? { 'If-None-Match': etag } : {}, timeout: 8000 });
      state.seconds = Number(response.headers.get('retry-after')) || 2;
      const changed = response.status !== 304;
      if (changed) { etag = response.headers.get('etag'); last = await response.json(); }
      state.lastOk = performance.now();
      if (onProblem) onProblem(null);
      onData(last, changed);
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      if (onProblem) onProblem(error);
    } finally {
      running = false;
      timer = setTimeout(step, Math.max(1, state.seconds) * 1000);
    }
  }
  step();
  return { now: step };
}

export function watchStaleness() {
  const banner = $('#stale'); const fresh = $('#fresh');
  setInterval(() => {
    if (!pollers.length) return;
    const silent = Math.max(...pollers.map((p) => performance.now() - p.lastOk));
    const stale = silent > STALE_MS;
    document.body.classList.toggle('is-stale', stale);
    if (banner) {
      banner.hidden = !stale;
      const text = `No answer from the service for ${duration(silent / 1000)}. What is shown may be out of date.`;
      if (stale && banner.textContent !== text) banner.textContent = text;
    }
    if (fresh) fresh.textContent = stale ? 'out of date' : `updated ${Math.max(0, Math.floor(silent / 1000))} s ago`;
  }, 1000);
}

// --- problems, buttons, confirmation ------------------------------------------------------------------------

export function showProblem(slot, problem) {
  if (!slot) return;
  if (!problem) { slot.replaceChildren(); return; }
  if (!(problem instanceof Problem)) throw problem;
  const { details } = problem;
  const lines = [];
  for (const fault of details.faults || []) lines.push(typeof fault === 'string' ? fault : `${fault.where}: ${fault.what}`);
  for (const finding of details.findings || details.reasons || []) lines.push(typeof finding === 'string' ? finding : (finding.message || JSON.stringify(finding)));
  slot.replaceChildren(el('div', { class: 'problem', role: 'alert' },
    el('strong', {}, problem.message),
    problem.nextStep ? el('p', {}, 'Next: ', problem.nextStep) : null,
    lines.length ? el('ul', {}, lines.map((l) => el('li', {}, l))) : null));
  slot.scrollIntoView({ block: 'nearest' });
}

/** Run `work` with every button of `scope` disabled; a problem is shown in `slot`. True when it worked. */
export async function busy(scope, slot, work) {
  const buttons = $$('button', scope).filter((b) => !b.disabled);
  buttons.forEach((b) => { b.disabled = true; });
  scope.setAttribute('aria-busy', 'true');
  showProblem(slot, null);
  try {
    await work();
    return true;
  } catch (error) {
    showProblem(slot, error);
    return false;
  } finally {
    scope.removeAttribute('aria-busy');
    buttons.forEach((b) => { b.disabled = false; });
  }
}

export function confirmed(title, text, yes = 'Yes', danger = false) {
  const dialog = $('#confirm');
  $('#confirm-title').textContent = title;
  $('#confirm-text').textContent = text;
  const button = $('#confirm-yes');
  button.textContent = yes;
  button.className = danger ? 'danger' : 'primary';
  dialog.returnValue = 'no';
  dialog.showModal();
  return new Promise((resolve) => { dialog.addEventListener('close', () => resolve(dialog.returnValue === 'yes'), { once: true }); });
}

// --- words and numbers --------------------------------------------------------------------------------------

const DAY = new Intl.DateTimeFormat('en-GB', { day: '2-digit', month: 'short', year: 'numeric', hour: '2-digit', minute: '2-digit' });
const CLOCK = new Intl.DateTimeFormat('en-GB', { hour: '2-digit', minute: '2-digit', second: '2-digit' });

export const when = (iso) => (iso ? DAY.format(new Date(iso)).replace(',', '') : '');
export const clock = (date) => CLOCK.format(date);

export function duration(seconds) {
  const s = Math.max(0, Math.round(seconds));
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min`;
  const h = Math.floor(s / 3600);
  if (h < 48) return `${h} h ${String(Math.floor((s % 3600) / 60)).padStart(2, '0')} min`;
  return `${Math.floor(h / 24)} days ${h % 24} h`;
}

/** An estimate of `domain/costs.py` in words; empty where nothing has a price. */
export const price = (cost) => (cost ? `${fixed(cost.total, 2)} ${cost.currency}` : '');

export const fixed = (value, digits = 1) => (value === null || value === undefined ? '—' : Number(value).toFixed(digits));
/** DICOM person names: Family^Given^Middle. */
export const personName = (name) => (name || '').split('=')[0].split('^').filter(Boolean).join(', ');
export const dicomDay = (text) => (/^\d{8}$/.test(text || '') ? `${text.slice(6)}.${text.slice(4, 6)}.${text.slice(0, 4)}` : text);
export const short = (hash) => (hash ? `${hash.slice(0, 12)}…` : '');
export const plain = (text) => String(text).replaceAll('_', ' ');
export const bytes = (n) => (n > 1e6 ? `${(n / 1e6).toFixed(1)} MB` : `${Math.max(1, Math.round(n / 1000))} kB`);

export const STATES = {
  RECEIVING: 'Receiving', RECEIVED: 'Inputs needed', BUILDING: 'Building', PLAN_READY: 'Review needed',
  APPROVED: 'Slicing', SLICED: 'Ready to print', PRINTING: 'Printing', PRINTED: 'Inspection needed',
  QA_PASSED: 'Sterile services', ISSUED: 'In theatre', USED: 'Awaiting scan', VERIFYING: 'Measuring',
  VERIFIED: 'Verified', CLOSED: 'Closed', NEEDS_ATTENTION: 'Needs attention', CANCELLED: 'Cancelled',
};
const TONES = {
  NEEDS_ATTENTION: 'alert', RECEIVED: 'ask', PLAN_READY: 'ask', SLICED: 'ask', PRINTED: 'ask',
  BUILDING: 'work', APPROVED: 'work', PRINTING: 'work', VERIFYING: 'work', RECEIVING: 'work',
  VERIFIED: 'good', CLOSED: 'done', CANCELLED: 'done',
};

export function stateBadge(state) {
  return el('span', { class: `badge ${TONES[state] || 'calm'}` }, STATES[state] || plain(state));
}

/** What a parked case says: what happened, what to do, and the button that continues. */
export function attentionBox(row, { onResume } = {}) {
  const a = row.attention || {};
  const box = el('div', { class: 'attention' },
    el('strong', {}, a.message || 'This case waits for a person.'),
    a.next_step ? el('p', {}, 'Next: ', a.next_step) : null);
  if (onResume) {
    const slot = el('div', { class: 'problem-slot' });
    box.append(el('div', { class: 'row' }, el('button', { type: 'button', class: 'primary', onclick: () => busy(box, slot, onResume) }, 'Resume')), slot);
  }
  return box;
}

// --- every page ---------------------------------------------------------------------------------------------

const logout = $('#logout');
if (logout) logout.addEventListener('click', () => busy(logout.parentElement, $('#problems'), async () => { await post('/api/v1/logout'); location.assign('/login'); }));
