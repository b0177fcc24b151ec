// Sterile services: records with the steps this person may take. Forms come from the service's own rules.

import { $, $$, busy, confirmed, duration, el, facts, fill, get, plain, poll, post, showProblem, watchStaleness, when } from './core.js';

const SITE = JSON.parse($('#site').textContent);
const mine = new Set(SITE.functions);
const BASE = '/api/v1/sterilisation';
const PATHS = { item: 'items', load: 'loads', bi: 'indicators', steriliser: 'sterilisers' };
const OVER = { item: ['DISCARDED'], load: ['RELEASED', 'FAILED', 'ABORTED'], bi: ['NEGATIVE', 'POSITIVE', 'INVALID'], steriliser: [] };
const TONE = { RELEASED: 'good', NEGATIVE: 'good', IN_SERVICE: 'good', QA_PASSED: 'work', PRINTED: 'ask', AERATED: 'ask', QUARANTINED: 'ask', PENDING: 'work', AERATING: 'work', RUNNING: 'work', RECALLED: 'alert', NONSTERILE: 'alert', FAILED: 'alert', POSITIVE: 'alert', OUT_OF_SERVICE: 'alert', REJECTED: 'alert', INVALID: 'alert' };
const GRAVE = new Set(['release', 'reject', 'discard', 'fail', 'abort', 'use', 'refuse_release', 'mark_invalid', 'late_positive', 'take_out_of_service', 'fail_in_theatre', 'withdraw', 'finish_cycle', 'read', 'issue']);
const records = { item: [], load: [], bi: [], steriliser: [] };
let waits = new Map(); let rules = null; let kind = location.hash.slice(1) in records ? location.hash.slice(1) : 'item'; let shift = 0; const drawn = new Map();

const now = () => Date.now() + shift;
const stamp = (ms) => new Date(ms - new Date(ms).getTimezoneOffset() * 60000).toISOString().slice(0, 16);
const SAID = { pass_qa: 'Pass the inspection', place_bi: 'Place device and indicator', fail_cycle: 'Cycle failed', read: 'Read the indicator', use: 'Open and use', fail: 'Fail the load', load: 'Put into a load', expose: 'Confirm exposure', late_positive: 'Late growth seen', abort: 'Abort the load' };
const words = (name) => SAID[name] || plain(name).replace(/^./, (c) => c.toUpperCase());
const stateWords = (state) => (state === 'QA_PASSED' ? 'inspected' : plain(state).toLowerCase());

// --- forms from the rules -----------------------------------------------------------------------------------

/** What can be chosen instead of typed. Evidence a person reads off a part or a pack is never filled in. */
function choices(record, name) {
  const ids = (list) => list.map((r) => [r.id, r.id]);
  if (name === 'load_id') return ids(records.load.filter((l) => l.state === 'OPEN'));
  if (name === 'item_id' && kind === 'load') return records.item.filter((i) => i.state === 'PACKED' || record.item_ids.includes(i.id)).map((i) => [i.id, `${i.id} · ${i.design.level} · ${plain(i.state).toLowerCase()}`]);
  if (name === 'bi_id' && kind === 'load') return ids(records.bi.filter((b) => b.load_id === record.id));
  return null;
}

function preset(record, name, type) {
  if (type === 'time' && ['started_at', 'ended_at', 'read_at'].includes(name)) return stamp(now());
  if (name === 'stl_sha256') return record.design.stl_sha256;
  return '';
}

function input(record, spec) {
  const common = { name: spec.name, required: spec.required && spec.type !== 'texts' };
  if (spec.type === 'flag') return el('select', common, el('option', { value: '' }, spec.required ? 'choose' : 'not stated'), el('option', { value: 'true' }, 'yes'), el('option', { value: 'false' }, 'no'));
  const given = choices(record, spec.name);
  if (given) return el('select', common, el('option', { value: '' }, given.length ? 'choose' : 'none available'), given.map(([v, t]) => el('option', { value: v }, t)));
  if (spec.type === 'texts') return el('textarea', { ...common, rows: 2, placeholder: 'one a line' });
  if (spec.name === 'reason') return el('textarea', { ...common, rows: 2 });
  const type = { number: 'number', integer: 'number', time: 'datetime-local' }[spec.type] || 'text';
  return el('input', { ...common, type, step: spec.type === 'number' ? 'any' : spec.type === 'integer' ? '1' : null, value: preset(record, spec.name, spec.type), autocomplete: 'off', spellcheck: 'false' });
}

/** Labels and packs show the case's code; the records know the case by its id. An unknown code stays as typed. */
function caseIdOf(code) {
  const item = records.item.find((i) => i.design.engraved_id === code.toUpperCase());
  return item ? item.design.case_id : code;
}

function value(form, spec) {
  const raw = form.elements[spec.name].value;
  if (['label_case_id', 'scanned_case_id'].includes(spec.name)) return caseIdOf(raw.trim());
  if (spec.type === 'texts') return raw.split('\n').map((s) => s.trim()).filter(Boolean);
  if (raw === '') return undefined;
  if (spec.type === 'flag') return raw === 'true';
  if (spec.type === 'number' || spec.type === 'integer') return Number(raw);
  if (spec.type === 'time') return new Date(raw).toISOString();
  return raw.trim();
}

/** The wristband carries the patient's ID; the service turns it into the reference on the label itself. */
const asked = (fields) => fields.map((f) => (f.name === 'scanned_patient_reference' ? { ...f, name: 'scanned_patient_id', description: 'patient ID, scanned from the wristband' } : f));

function eventForm(record, rule) {
  const fields = asked(rule.fields);
  const slot = el('div', { class: 'problem-slot', 'aria-live': 'assertive' });
  const grave = GRAVE.has(rule.event); const signed = rule.signed;
  const form = el('form', { onsubmit: async (event) => {
    event.preventDefault();
    if (grave && !await confirmed(`${words(rule.event)}?`, `${record.id}: this is recorded with your name and cannot be taken back.`, words(rule.event), ['discard', 'fail', 'reject', 'abort'].includes(rule.event))) return;
    const data = {};
    for (const spec of fields) { const v = value(form, spec); if (v !== undefined) data[spec.name] = v; }
    const body = { event: rule.event, data };
    if (signed) body.password = form.elements.password.value;
    const worked = await busy(form, slot, () => post(`${BASE}/${PATHS[kind]}/${encodeURIComponent(record.id)}/events`, body));
    if (signed) form.elements.password.value = '';
    if (worked) { document.activeElement.blur(); drawn.clear(); pollers.forEach((p) => p.now()); }
  } }, rule.description ? el('p', { class: 'dim' }, rule.description) : null,
  el('div', { class: 'form-grid' }, fields.map((spec) => el('label', {}, spec.description.replace(/^./, (c) => c.toUpperCase()), spec.required ? '' : el('small', {}, 'optional'), input(record, spec))),
    signed ? el('label', {}, 'Your password, as signature', el('input', { type: 'password', name: 'password', autocomplete: 'current-password', required: true })) : null),
  slot, el('button', { type: 'submit', class: ['discard', 'fail', 'reject', 'abort', 'refuse_release'].includes(rule.event) ? 'danger' : 'primary' }, words(rule.event)));
  return el('details', { class: 'action', 'data-event': rule.event }, el('summary', {}, words(rule.event)), form);
}

const possible = (record) => rules[kind].filter((r) => r.from.includes(record.state) && r.roles.some((f) => f !== 'system' && mine.has(f)) && !(r.event === 'start_incubation' && record.incubation_started_at));

// --- records ------------------------------------------------------------------------------------------------

function aerationHours(setC) {
  const rows = SITE.aeration.filter(([from]) => from <= setC).sort((a, b) => b[0] - a[0]);
  return rows.length ? rows[0][1] : null;
}

/** [text, due in ms] of a wait that a person must keep. */
function wait(record) {
  if (kind === 'load' && record.state === 'AERATING' && record.aeration) {
    const hours = aerationHours(record.aeration.set_c);
    if (hours === null) return ['Aeration: no time is known for this temperature.', null];
    return [`Aeration, ${hours} h at ${record.aeration.set_c} °C`, Date.parse(record.aeration.started_at) + hours * 3600000];
  }
  if (kind === 'bi' && record.state === 'PENDING' && record.incubation_started_at) {
    const hours = SITE.incubation[record.product];
    return hours ? [`Incubation, ${hours} h`, Date.parse(record.incubation_started_at) + hours * 3600000] : null;
  }
  return null;
}

function countdown(node) {
  const left = (Number(node.dataset.due) - now()) / 1000;
  node.textContent = left > 0 ? `${node.dataset.text}: ${duration(left)} left, until ${when(Number(node.dataset.due))}` : `${node.dataset.text}: complete since ${when(Number(node.dataset.due))}`;
}

const FACTS = {
  item: (i) => [['Case', el('a', { href: `/cases/${i.design.case_id}` }, i.design.engraved_id)], ['Level', i.design.level], ['Printed by', i.printed_by], ['Size', `${i.design.size_mm.map((x) => x.toFixed(1)).join(' × ')} mm`], ['Print as planned', `${i.design.printing.material}, ${i.design.printing.layer_mm} mm, ${i.design.printing.nozzle_c} / ${i.design.printing.bed_c} °C, ${i.design.printing.speed_mm_s} mm/s`], ['Pack', i.pack && `${i.pack.pack_id}, use by ${when(i.pack.expires_at)}`], ['Load', i.load_id], ['Exposures', i.exposures ? String(i.exposures) : ''], ['Released', i.release && `${i.release.released_by}, ${when(i.release.at)}`], ['Label reference', i.design.patient_reference]],
  load: (l) => [['Steriliser', `${l.steriliser_id}, cycle ${l.cycle_number}`], ['Cycle', l.cycle_name], ['Aeration planned', `${l.planned_aeration_c} °C`], ['Purpose', l.purpose], ['Items', l.item_ids.join(', ') || 'none'], ['Challenge device', l.pcd_id], ['Indicator', l.bi_id], ['Operators', l.operators.join(', ')], ['Exposure', l.cycle && `${l.cycle.exposure_min} min, ${l.cycle.min_c}–${l.cycle.max_c} °C`], ['Alarms', l.cycle && (l.cycle.alarms || []).join(', ')]],
  bi: (b) => [['Product', b.product], ['Lot', b.lot], ['Use by', when(b.expires_at)], ['Load', `${b.load_id}, cycle ${b.cycle_number}`], ['Incubator', b.incubator_id], ['Read', when(b.read_at)], ['Growth', b.growth === null ? '' : b.growth ? 'yes' : 'no'], ['Control growth', b.control_growth === null ? '' : b.control_growth ? 'yes' : 'no']],
  steriliser: (s) => [['Model', s.model], ['Validated', s.validated.map((v) => v.join(' for ')).join(', ')], ['Out of service since', when(s.out_of_service_since)]],
};

function history(record) {
  if (!record.history.length) return null;
  return el('details', {}, el('summary', {}, `History (${record.history.length})`), el('ol', { class: 'timeline' }, [...record.history].reverse().map((h) => el('li', { class: 'person' }, el('div', { class: 'what' }, `${words(h.event)} → ${stateWords(h.to_state)}`), h.reason ? el('div', { class: 'why' }, h.reason) : null, el('div', { class: 'meta' }, `${when(h.at)} · ${h.actor} (${plain(h.role)})`)))));
}

/** Papers of a record, opened in a new tab. */
const PAPERS = {
  item: (i) => [...(i.pack ? [['Label (PDF)', 'label.pdf'], ['Label (ZPL)', 'label.zpl']] : []), ['Passport (PDF)', 'passport.pdf'], ['Passport (CSV)', 'passport.csv']],
  load: () => [['Load record (PDF)', 'record.pdf'], ['Load record (CSV)', 'record.csv']],
  bi: (b) => (b.state === 'POSITIVE' ? [['Recall sheet (PDF)', 'recall.pdf'], ['Recall sheet (CSV)', 'recall.csv']] : []),
  steriliser: () => [],
};

function papers(record) {
  const list = PAPERS[kind](record);
  return list.length ? el('p', { class: 'papers' }, list.map(([text, name]) => el('a', { href: `${BASE}/${PATHS[kind]}/${encodeURIComponent(record.id)}/${name}`, target: '_blank', rel: 'noopener' }, text))) : null;
}

/** Why this item waits, in the service's own sentence. */
function reasonToWait(record) {
  if (kind !== 'item') return null;
  const found = waits.get(record.id);
  return found ? el('p', { class: found.overdue ? 'note alert' : 'dim', 'data-wait': record.id }, `${found.overdue ? 'Overdue. ' : ''}${found.sentence}${found.due_at ? ` Until ${when(found.due_at)}.` : ''}`) : null;
}

const signature = () => el('label', {}, 'Your password, as signature', el('input', { type: 'password', name: 'password', autocomplete: 'current-password', required: true }));
const refresh = () => { document.activeElement.blur(); drawn.clear(); pollers.forEach((p) => p.now()); };
/** Byte by byte, so that what is kept is what the steriliser wrote. */
const base64 = (bytes) => btoa(Array.from(bytes, (b) => String.fromCharCode(b)).join(''));

/** Records that came for a load: each with its digest, to be downloaded; one the steriliser posted is signed for here. */
function receivedRecords(record) {
  if (kind !== 'load' || record.state === 'OPEN') return null;
  const box = el('div', { 'data-records': record.id });
  const look = () => get(`${BASE}/loads/${encodeURIComponent(record.id)}/cycle-records`).then((files) => {
    // drawn anew only when something came: a password may be half typed
    if (!files.length || box.dataset.seen === JSON.stringify(files)) return;
    box.dataset.seen = JSON.stringify(files);
    fill(box, el('h3', {}, 'Records received'), files.map((f) => {
      const slot = el('div', { class: 'problem-slot', 'aria-live': 'assertive' });
      const form = record.state === 'RUNNING' && f.fits && mine.has('cssd_tech') ? el('form', { onsubmit: async (event) => {
        event.preventDefault();
        const worked = await busy(form, slot, () => post(`${BASE}/loads/${encodeURIComponent(record.id)}/cycle-records/${f.sha256}/accept`, { password: form.elements.password.value }));
        form.elements.password.value = '';
        if (worked) refresh();
      } }, signature(), slot, el('button', { type: 'submit', class: 'primary' }, 'Sign for this record')) : null;
      return el('div', { class: 'received', 'data-record': f.sha256 }, el('a', { href: `${BASE}/loads/${encodeURIComponent(record.id)}/cycle-records/${f.sha256}`, download: '' }, f.name),
        ` from ${f.received_from}, ${when(f.received_at)} `, f.fits ? el('span', { class: 'badge good' }, 'within the window') : el('span', { class: 'badge alert' }, 'refused'),
        el('div', { class: 'dim mono' }, `SHA-256 ${f.sha256}`), f.verdict ? el('p', { class: 'dim' }, f.verdict) : null, form);
    }));
  }).catch((problem) => showProblem($('#problems'), problem));
  look();
  if (record.state === 'RUNNING') { const timer = setInterval(() => (box.isConnected ? look() : clearInterval(timer)), 5000); }
  return box;
}

/** The steriliser's own record instead of typing it. */
function recordForm(record) {
  if (kind !== 'load' || record.state !== 'RUNNING' || !mine.has('cssd_tech')) return null;
  const slot = el('div', { class: 'problem-slot', 'aria-live': 'assertive' });
  const form = el('form', { onsubmit: async (event) => {
    event.preventDefault();
    const file = form.elements.file.files[0];
    const body = { base64: base64(new Uint8Array(await file.arrayBuffer())), name: file.name, password: form.elements.password.value };
    const worked = await busy(form, slot, () => post(`${BASE}/loads/${encodeURIComponent(record.id)}/cycle-record`, body));
    form.elements.password.value = '';
    if (worked) refresh();
  } }, el('div', { class: 'form-grid' }, el('label', {}, 'File of the steriliser, CSV or JSON', el('input', { type: 'file', name: 'file', required: true, accept: '.csv,.json' })), signature()), slot, el('button', { type: 'submit', class: 'primary' }, 'Read the cycle record and sign'));
  return el('details', { class: 'action', 'data-event': 'cycle-record' }, el('summary', {}, 'Read the cycle record from a file'), form);
}

function card(record) {
  const pause = wait(record); const steps = possible(record);
  return el('article', { class: 'card record', 'data-id': record.id },
    el('h2', {}, el('span', { class: 'mono' }, record.id), el('span', { class: `badge ${TONE[record.state] || ''}` }, stateWords(record.state)), record.recalled_after_use ? el('span', { class: 'badge alert' }, 'recalled after use') : null),
    pause ? el('div', pause[1] ? { class: 'countdown', 'data-due': pause[1], 'data-text': pause[0] } : { class: 'note' }, pause[0]) : null,
    reasonToWait(record),
    facts(FACTS[kind](record)),
    papers(record),
    receivedRecords(record),
    recordForm(record),
    steps.length ? el('div', {}, steps.map((rule) => eventForm(record, rule))) : el('p', { class: 'dim' }, 'No step for your role now.'),
    history(record));
}

// --- new records --------------------------------------------------------------------------------------------

const NEW = {
  load: { title: 'Open a load', functions: ['cssd_tech'], fields: () => [
    ['id', 'Load number', el('input', { name: 'id', required: true, autocomplete: 'off' })],
    ['steriliser_id', 'Steriliser', el('select', { name: 'steriliser_id', required: true }, el('option', { value: '' }, 'choose'), records.steriliser.map((s) => el('option', { value: s.id }, `${s.id} · ${plain(s.state).toLowerCase()}`)))],
    ['cycle_name', 'Cycle', el('select', { name: 'cycle_name', required: true }, el('option', { value: '' }, 'choose'), rules.cycles.map((c) => el('option', { value: c }, c)))],
    ['planned_aeration_c', 'Aeration at, °C', el('input', { name: 'planned_aeration_c', type: 'number', step: 'any', required: true })],
    ['purpose', 'Purpose', el('select', { name: 'purpose' }, ['routine', 'qualification'].map((p) => el('option', { value: p }, p)))]] },
  bi: { title: 'Register an indicator', functions: ['cssd_tech'], fields: () => [
    ['id', 'Indicator number', el('input', { name: 'id', required: true, autocomplete: 'off' })],
    ['product', 'Product', el('select', { name: 'product', required: true }, el('option', { value: '' }, 'choose'), rules.indicators.map((c) => el('option', { value: c }, c)))],
    ['lot', 'Lot', el('input', { name: 'lot', required: true, autocomplete: 'off' })],
    ['expires_at', 'Use by', el('input', { name: 'expires_at', type: 'datetime-local', required: true })],
    ['load_id', 'Load', el('select', { name: 'load_id', required: true }, el('option', { value: '' }, 'choose'), records.load.filter((l) => l.state === 'OPEN').map((l) => el('option', { value: l.id }, l.id)))]] },
  steriliser: { title: 'Register a steriliser', functions: ['cssd_supervisor'], fields: () => [
    ['id', 'Name', el('input', { name: 'id', required: true, autocomplete: 'off' })],
    ['model', 'Model', el('input', { name: 'model', required: true })],
    ['validated', 'Validated cycle', el('select', { name: 'validated', required: true }, el('option', { value: '' }, 'choose'), rules.cycles.map((c) => el('option', { value: c }, c)))],
    ['family', 'for item family', el('input', { name: 'family', value: 'vertebra-model', required: true })]] },
};

function newForm() {
  const wanted = NEW[kind];
  if (!wanted || !wanted.functions.some((f) => mine.has(f))) return null;
  const slot = el('div', { class: 'problem-slot', 'aria-live': 'assertive' });
  const fields = wanted.fields();
  const form = el('form', { onsubmit: async (event) => {
    event.preventDefault();
    const body = {};
    for (const [name] of fields) body[name] = form.elements[name].value.trim();
    if (kind === 'load') body.planned_aeration_c = Number(body.planned_aeration_c);
    if (kind === 'bi') body.expires_at = new Date(body.expires_at).toISOString();
    if (kind === 'steriliser') { body.validated = [[body.validated, body.family]]; delete body.family; }
    if (await busy(form, slot, () => post(`${BASE}/${PATHS[kind]}`, body))) { document.activeElement.blur(); drawn.clear(); pollers.forEach((p) => p.now()); }
  } }, el('div', { class: 'form-grid' }, fields.map(([, label, node]) => el('label', {}, label, node))), slot, el('button', { type: 'submit', class: 'primary' }, wanted.title));
  return el('details', { class: 'card record wide-record', 'data-id': 'new', open: !records[kind].length }, el('summary', {}, wanted.title), form);
}

// --- drawing: a card is drawn anew only when its record changed, so that an open form stays ---------------------

function draw() {
  if (!rules) return;
  $$('[role=tab]').forEach((tab) => {
    tab.setAttribute('aria-selected', String(tab.dataset.kind === kind));
    const open = records[tab.dataset.kind].filter((r) => !OVER[tab.dataset.kind].includes(r.state)).length;
    tab.textContent = `${{ item: 'Items', load: 'Loads', bi: 'Indicators', steriliser: 'Sterilisers' }[tab.dataset.kind]} ${open ? `(${open})` : ''}`;
  });
  const list = records[kind].filter((r) => $('#old').checked || !OVER[kind].includes(r.state));
  const context = kind === 'load' ? [records.item.map((i) => [i.id, i.state]), records.bi.map((b) => b.id)] : kind === 'item' ? [records.load.map((l) => [l.id, l.state]), [...waits]] : [];
  const box = $('#records'); const nodes = [];
  const keep = (id, key, make) => {
    const before = drawn.get(`${kind}/${id}`);
    const node = before && (before.key === key || before.node.contains(document.activeElement)) ? before.node : make();
    if (node) { drawn.set(`${kind}/${id}`, { key, node }); nodes.push(node); }
  };
  keep('new', JSON.stringify([records.steriliser.map((s) => s.id), records.load.map((l) => [l.id, l.state])]), newForm);
  list.forEach((r) => keep(r.id, JSON.stringify([r.version, r.state, context]), () => card(r)));
  if (!list.length) nodes.push(el('p', { class: 'dim' }, kind === 'item' ? 'No part is on its way. Printed parts appear here by themselves.' : 'None.'));
  if (nodes.length !== box.children.length || nodes.some((n, i) => n !== box.children[i])) box.replaceChildren(...nodes);
  $$('[data-due]').forEach(countdown);
}

$$('[role=tab]').forEach((tab) => tab.addEventListener('click', () => { kind = tab.dataset.kind; window.history.replaceState(null, '', `#${kind}`); draw(); }));
$('#old').addEventListener('change', draw);

const pollers = Object.entries(PATHS).map(([name, path]) => poll(`${BASE}/${path}`, (body, changed) => { if (changed) { records[name] = body; draw(); } }));
pollers.push(poll(`${BASE}/waiting`, (body, changed) => { if (changed) { waits = new Map(body.flatMap((c) => c.items.map((i) => [i.item_id, i]))); draw(); } }));
Promise.all([get(`${BASE}/rules`), get('/api/v1/clock')]).then(([described, time]) => {
  rules = described;
  shift = Date.parse(time.now) - Date.now();
  const month = time.now.slice(0, 7);
  $('#summary').replaceChildren(...['pdf', 'csv'].map((form) => el('a', { href: `${BASE}/summary/${month}.${form}`, target: '_blank', rel: 'noopener' }, `Summary of ${month} (${form.toUpperCase()})`)));
  draw();
}).catch((error) => showProblem($('#problems'), error));
setInterval(() => $$('[data-due]').forEach(countdown), 1000);
watchStaleness();
