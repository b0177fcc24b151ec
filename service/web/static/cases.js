import {
  $, attentionBox, busy, confirmed, el, fill, personName, poll, post, progressBar, roles, stateBadge, watchStaleness, when, STATES,
} from './core.js';
import { liveLine } from './live.js';

const FINISHED = new Set(['CLOSED', 'CANCELLED']);
let rows = [];
let shownStudies = '';

function rank(row) {
  if (row.state === 'NEEDS_ATTENTION') return 0;
  return FINISHED.has(row.state) ? 2 : 1;
}

function nextLink(row) {
  if (row.state === 'RECEIVED' && (roles.has('planner') || roles.has('surgeon'))) return el('a', { class: 'button primary', href: `/cases/${row.id}/plan` }, 'Give inputs');
  if (row.state === 'PLAN_READY' && roles.has('surgeon')) return el('a', { class: 'button primary', href: `/cases/${row.id}/review` }, 'Review');
  return el('a', { class: 'button', href: `/cases/${row.id}`, 'aria-label': `Open case ${row.code}` }, 'Open');
}

function waiting(row) {
  if (row.state === 'NEEDS_ATTENTION') return attentionBox(row, { onResume: async () => { await post(`/api/v1/cases/${row.id}/resume`); list.now(); } });
  const parts = [row.state === 'RECEIVING' && row.live ? liveLine(row.live) : row.waiting_for];
  if (row.newer_images) parts.push(el('div', { class: 'note' }, el('strong', {}, 'Images arrived after the study was complete. '), 'They are not used; a planner or surgeon decides on the case\'s page.', row.live ? el('div', { class: 'dim' }, liveLine(row.live)) : null));
  if (row.progress) parts.push(el('div', { class: 'step' }, progressBar(row.progress.fraction, row.progress.stage), el('span', { class: 'dim' }, ` ${row.progress.stage}`)));
  return parts;
}

function draw() {
  const wanted = $('#find').value.trim().toLowerCase();
  const also = $('#closed').checked;
  const shown = rows
    .filter((r) => also || !FINISHED.has(r.state))
    .filter((r) => !wanted || [r.code, r.level, personName(r.patient_name), STATES[r.state]].join(' ').toLowerCase().includes(wanted))
    .sort((a, b) => rank(a) - rank(b) || (a.surgery_at || '9').localeCompare(b.surgery_at || '9') || b.created_at.localeCompare(a.created_at));
  fill($('#cases tbody'), shown.length ? shown.map((r) => el('tr', { class: r.state === 'NEEDS_ATTENTION' ? 'attend' : '' },
    el('th', { scope: 'row' }, el('a', { class: 'code', href: `/cases/${r.id}` }, r.code)),
    el('td', {}, personName(r.patient_name)),
    el('td', { class: 'level' }, r.level || '—'),
    el('td', {}, stateBadge(r.state)),
    el('td', { class: 'waiting' }, waiting(r)),
    el('td', { class: 'nowrap' }, when(r.surgery_at) || el('span', { class: 'dim' }, 'not set'), r.schedule && r.schedule.late ? el('div', { class: 'badge alert', title: r.schedule.verdict }, 'too late') : null),
    el('td', { class: 'end' }, nextLink(r)))) : el('tr', {}, el('td', { colspan: 7, class: 'dim' },
    rows.length ? 'No case fits.' : 'No case yet. Cases appear by themselves when the PACS sends a CT.')));
}

const list = poll('/api/v1/cases', (body, changed) => { if (changed) { rows = body; draw(); drawAside(); } });

// --- studies ------------------------------------------------------------------------------------------------

let studies = [];

function receivingRow(study) {
  const slot = el('div', { class: 'problem-slot' });
  const row = el('div', { class: 'strip' },
    el('strong', {}, personName(study.patient.name) || 'no name'),
    el('span', {}, study.kind === 'oarm' ? 'O-arm scan' : 'CT study'),
    liveLine(study.live),
    el('button', { type: 'button', onclick: async () => {
      if (await confirmed('Use this study now?', 'Images that arrive later will not be part of it.', 'Use now')) busy(row, slot, () => post(`/api/v1/studies/${study.study_uid}/use-now`));
    } }, 'Use now'), slot);
  return row;
}

function assignForm(study) {
  const open = rows.filter((r) => !FINISHED.has(r.state));
  const slot = el('div', { class: 'problem-slot' });
  const choice = el('select', { 'aria-label': 'Case for this scan', required: true }, el('option', { value: '' }, 'case …'),
    open.map((r) => el('option', { value: r.id }, `${r.code} · ${r.level || '?'} · ${personName(r.patient_name)}`)));
  const form = el('form', { class: 'row', onsubmit: (event) => {
    event.preventDefault();
    busy(form, slot, async () => { await post(`/api/v1/studies/${study.study_uid}/assign`, { case_id: choice.value }); asides.now(); });
  } }, choice, el('button', { type: 'submit' }, 'Assign to case'));
  return [form, slot];
}

function drawAside() {
  const receiving = studies.filter((s) => s.state === 'RECEIVING');
  const aside = studies.filter((s) => s.state === 'UNMATCHED' || s.state === 'REFUSED');
  $('#receiving-part').hidden = !receiving.length;
  fill($('#receiving'), receiving.map(receivingRow));
  // The assign form keeps what a person chose: it is drawn anew only when something changed.
  const key = JSON.stringify([aside.map((s) => [s.study_uid, s.state, s.reason]), rows.map((r) => [r.id, r.state])]);
  if (key === shownStudies) return;
  $('#aside-part').hidden = !aside.length;
  if (fill($('#aside'), aside.map((s) => el('div', { class: 'strip attend-soft' },
    el('strong', {}, personName(s.patient.name) || 'no name'),
    el('span', {}, s.kind === 'oarm' ? 'O-arm scan' : 'study', `, ${s.instances} images, ${when(s.last_instance_at)}`),
    el('div', { class: 'grow' }, el('div', {}, s.reason), el('div', { class: 'dim' }, 'Next: ', s.next_step)),
    s.kind === 'oarm' && ['surgeon', 'planner', 'theatre_nurse'].some((r) => roles.has(r)) ? el('div', {}, assignForm(s)) : null)))) shownStudies = key;
}

const asides = poll('/api/v1/studies', (body, changed) => { if (changed) { studies = body; drawAside(); } });

$('#find').addEventListener('input', draw);
$('#closed').addEventListener('change', draw);
watchStaleness();
