// Tokens of screens and machines on the operations page: made here once, shown once, revoked here.

import { $, busy, confirmed, el, fill, get, post, showProblem, when } from './core.js';

const SCOPES = [['steriliser', 'a steriliser posts its cycle records'], ['dicom_web', 'a machine stores images (STOW-RS)'], ['board', 'screen of the print room'], ['or_terminal', 'terminal in the operating room'], ['metrics', 'monitoring']];
const box = $('#tokens');
const list = el('div', {});
const secret = el('div', { role: 'status' });

function row(token, devices) {
  const held = !token.revoked_at;
  const known = !token.steriliser || devices.some((d) => d.id === token.steriliser);
  return el('tr', { 'data-token': token.name }, el('th', { scope: 'row' }, token.name), el('td', {}, token.scopes.join(', ')),
    el('td', {}, token.steriliser || '—', known ? '' : ' (unknown)'), el('td', { class: 'nowrap' }, when(token.created_at)),
    el('td', {}, held ? el('button', { type: 'button', class: 'small danger', onclick: () => revoke(token.name) }, 'Revoke') : el('span', { class: 'dim' }, `revoked ${when(token.revoked_at)}`)));
}

async function revoke(name) {
  if (!await confirmed(`Revoke ${name}?`, 'Whoever uses it is shut out at once. It cannot be taken back; make a new one instead.', 'Revoke', true)) return;
  try { await post(`/api/v1/tokens/${encodeURIComponent(name)}`, undefined, 'DELETE'); await draw(); } catch (problem) { showProblem($('#problems'), problem); }
}

async function draw() {
  const [tokens, devices] = await Promise.all([get('/api/v1/tokens'), get('/api/v1/sterilisation/sterilisers')]);
  fill(list, tokens.length ? el('table', { class: 'list' }, el('caption', { class: 'hidden' }, 'Tokens'), el('thead', {}, el('tr', {}, ['Name', 'May', 'Steriliser', 'Made', ''].map((h) => el('th', { scope: 'col' }, h)))), el('tbody', {}, tokens.map((t) => row(t, devices)))) : el('p', { class: 'dim' }, 'None yet.'));
  const device = form.elements.steriliser;
  const chosen = device.value;
  device.replaceChildren(el('option', { value: '' }, 'none'), ...devices.map((d) => el('option', { value: d.id }, d.id)));
  device.value = chosen;
}

const slot = el('div', { class: 'problem-slot', 'aria-live': 'assertive' });
const form = el('form', { autocomplete: 'off', onsubmit: async (event) => {
  event.preventDefault();
  const body = { name: form.elements.name.value.trim(), scopes: [form.elements.scope.value], steriliser: form.elements.scope.value === 'steriliser' ? form.elements.steriliser.value : '' };
  let made = null;
  if (await busy(form, slot, async () => { made = await post('/api/v1/tokens', body); })) {
    fill(secret, el('p', { class: 'note' }, `Token of ${made.name}, shown this once: `, el('code', { class: 'mono' }, made.token)));
    await draw();
  }
} }, el('div', { class: 'form-grid' },
  el('label', {}, 'Name', el('input', { name: 'name', required: true, maxlength: 64 })),
  el('label', {}, 'May', el('select', { name: 'scope' }, SCOPES.map(([v, t]) => el('option', { value: v }, t)))),
  el('label', {}, 'Steriliser', el('small', {}, 'only for one that posts its records'), el('select', { name: 'steriliser' }))), slot,
el('button', { type: 'submit', class: 'primary' }, 'Make a token'));

fill(box, list, secret, el('details', { class: 'action' }, el('summary', {}, 'Make a token'), form));
draw().catch((problem) => showProblem($('#problems'), problem));
