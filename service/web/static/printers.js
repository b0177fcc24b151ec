// Maintenance of the printers, on the operations page: what was done, by whom, and how long the machine printed since.

import { $, busy, el, fill, get, plain, poll, post, showProblem, when } from './core.js';

const KINDS = [['nozzle_changed', 'Nozzle or print core changed'], ['bed_levelled', 'Bed levelled'], ['plate_cleaned', 'Plate cleaned'], ['filament_changed', 'Filament changed'], ['lubricated', 'Axes lubricated'], ['calibrated', 'Cores calibrated'], ['firmware_updated', 'Firmware updated'], ['repaired', 'Repaired (say what)'], ['other', 'Other (say what)']];
const logs = new Map();
let printers = [];

function noteForm(name) {
  const slot = el('div', { class: 'problem-slot', 'aria-live': 'assertive' });
  const kind = el('select', { name: 'kind', required: true, 'aria-label': 'What was done' }, el('option', { value: '' }, 'choose'), KINDS.map(([v, t]) => el('option', { value: v }, t)));
  const words = el('input', { name: 'note', maxlength: 400, autocomplete: 'off', 'aria-label': 'Words, never a patient', placeholder: 'words, never a patient' });
  const form = el('form', { class: 'row', 'data-note': name, onsubmit: async (event) => {
    event.preventDefault();
    if (await busy(form, slot, () => post(`/api/v1/printers/${encodeURIComponent(name)}/notes`, { kind: kind.value, note: words.value }))) { form.reset(); await load(name); draw(name); }
  } }, kind, words, el('button', { type: 'submit', class: 'small' }, 'Note it'));
  return [form, slot];
}

function rows(notes) {
  if (!notes.length) return el('p', { class: 'dim' }, 'Nothing noted yet.');
  return el('table', { class: 'list' }, el('thead', {}, el('tr', {}, ['When', 'What', 'By', 'Printed since'].map((h) => el('th', { scope: 'col' }, h)))),
    el('tbody', {}, notes.map((n) => el('tr', {}, el('td', { class: 'nowrap' }, when(n.noted_at)), el('td', {}, n.text, n.note ? el('div', { class: 'dim' }, n.note) : null), el('td', {}, n.noted_by), el('td', { class: 'num nowrap' }, `${n.printed_h_since.toFixed(1)} h`)))));
}

/** A search on the network, by hand: an address is still written into the configuration by a person. */
function finder() {
  const slot = el('div', { class: 'problem-slot', 'aria-live': 'assertive' }); const found = el('div', { id: 'found' });
  const row = el('div', { class: 'row' }, el('button', { type: 'button', class: 'small', id: 'discover', onclick: () => busy(row, slot, async () => {
    fill(found, el('p', { class: 'dim' }, 'Listening on the network …'));
    let list;
    try { list = await post('/api/v1/printers/discover'); } catch (problem) { found.replaceChildren(); throw problem; }
    fill(found, list.length ? el('table', { class: 'list' }, el('thead', {}, el('tr', {}, ['Address', 'Name', 'Model', 'Firmware', 'Cores', 'Configured as'].map((h) => el('th', { scope: 'col' }, h)))),
      el('tbody', {}, list.map((p) => el('tr', {}, el('td', { class: 'mono' }, p.url), el('td', {}, p.name), el('td', {}, p.model || `unknown (${p.machine})`), el('td', {}, p.cluster ? `${p.firmware}, with a queue` : p.firmware), el('td', {}, p.cores.join(', ')), el('td', {}, p.configured_as || '—'))))) : el('p', { class: 'dim' }, 'No printer announced itself. Its address on the display works all the same.'));
  }) }, 'Look for printers on the network'));
  return [row, slot, found];
}

async function load(name) { logs.set(name, await get(`/api/v1/printers/${encodeURIComponent(name)}/notes`)); }

function draw(name) { const node = document.querySelector(`[data-notes="${CSS.escape(name)}"]`); if (node) node.replaceChildren(rows(logs.get(name) || [])); }

/** The frame of each printer is made once, so that nothing typed is lost. */
async function drawAll() {
  const names = printers.map((p) => p.name); const box = $('#printers');
  if (!('names' in box.dataset) || box.dataset.names !== names.join('\n')) {
    box.dataset.names = names.join('\n');
    fill(box, finder(), names.length ? printers.map((p) => el('div', {}, el('h3', {}, p.name, ' ', el('small', { 'data-state': p.name })), noteForm(p.name), el('div', { 'data-notes': p.name }))) : el('p', { class: 'dim' }, 'No printer is configured.'));
  }
  for (const p of printers) {
    const state = document.querySelector(`[data-state="${CSS.escape(p.name)}"]`);
    if (state) state.textContent = `${plain((p.reading || {}).state || 'not seen yet')}, ${p.care.printed_h.toFixed(1)} h printed`;
    await load(p.name); draw(p.name);
  }
}

poll('/api/v1/printers', (body, changed) => { if (changed) { printers = body; drawAll().catch((problem) => showProblem($('#problems'), problem)); } });
