import {
  $, attentionBox, busy, bytes, caseId, confirmed, duration, el, facts, fill, fixed, plain, poll, post, Problem, progressBar, roles, short, STATES, watchStaleness, when,
} from './core.js';
import { deliveriesTable } from './deliveries.js';
import { drawHead } from './head.js';
import { liveLine } from './live.js';
import { drawPrintCheck, shownPrint } from './print_check.js';
import { pictures } from './print_pictures.js';

const api = (path) => `/api/v1/cases/${caseId}${path}`;
const STEPS = [['RECEIVING'], ['RECEIVED'], ['BUILDING'], ['PLAN_READY'], ['APPROVED'], ['SLICED'], ['PRINTING'], ['PRINTED'], ['QA_PASSED'], ['ISSUED'], ['USED', 'VERIFYING'], ['VERIFIED'], ['CLOSED']];
const NAMES = ['Received', 'Inputs', 'Model', 'Review', 'Slicing', 'To print', 'Printing', 'Inspect', 'Sterile', 'Theatre', 'O-arm', 'Verified', 'Closed'];
let detail = null;
let printers = [];

// --- where it stands ----------------------------------------------------------------------------------------

function drawJourney() {
  const parked = detail.state === 'NEEDS_ATTENTION';
  const state = parked ? (detail.attention || {}).resume_state : detail.state;
  const at = STEPS.findIndex((s) => s.includes(state));
  $('#journey').replaceChildren(...NAMES.map((name, i) => el('li', { class: i < at ? 'past' : i === at ? (parked ? 'stop' : 'here') : '', 'aria-current': i === at ? 'step' : null }, name)));
}

function drawNow() {
  const parts = [];
  if (detail.state === 'NEEDS_ATTENTION') parts.push(attentionBox(detail, { onResume: detail.possible_events.includes('resume') ? async () => { await post(api('/resume')); detailPoll.now(); } : null }));
  else parts.push(el('p', {}, detail.waiting_for));
  if (detail.study.live.receiving) parts.push(receivingLine());
  if (detail.late_images) parts.push(lateBanner(detail.late_images));
  if (detail.progress) parts.push(el('div', {}, progressBar(detail.progress.fraction, detail.progress.stage), el('p', { class: 'dim' }, `${detail.progress.stage}, ${Math.round(detail.progress.fraction * 100)} %`)));
  if (detail.schedule) parts.push(el('p', { class: detail.schedule.late ? 'note alert' : 'note', id: 'schedule' }, detail.schedule.verdict));
  parts.push(facts([['Level', detail.level], ['Surgery', when(detail.surgery_at) || 'not set'], ['Latest start of print', detail.schedule && when(detail.schedule.latest_print_start)], ['Latest start of the cycle', detail.schedule && when(detail.schedule.latest_cycle_start)], ['Inputs by', detail.planned_by], ['Since', when(detail.updated_at)]]));
  fill($('#now'), parts);
}

/** What is arriving, and the button for who does not want to wait. */
function receivingLine() {
  const slot = el('div', { class: 'problem-slot' });
  const may = ['planner', 'surgeon', 'technician', 'theatre_nurse'].some((r) => roles.has(r));
  const row = el('div', { class: 'row' }, liveLine(detail.study.live), may ? el('button', { type: 'button', class: 'small', onclick: async () => {
    if (await confirmed('Use this study now?', 'Images that arrive later will not be part of it.', 'Use now')) busy(row, slot, async () => { await post(`/api/v1/studies/${detail.study.study_uid}/use-now`); detailPoll.now(); });
  } }, 'Use now') : null);
  return el('div', {}, row, slot);
}

/** Images that came after the study was complete: what, when, from whom, and the two ways to go on. */
function lateBanner(late) {
  const may = new Set(detail.possible_events); const slot = el('div', { class: 'problem-slot' });
  const count = late.arrivals.reduce((n, a) => n + a.images, 0);
  const built = Boolean(detail.artifacts.plan);
  const box = el('div', { class: late.decided ? 'note calm' : 'note' },
    el('strong', {}, `${count} image${count === 1 ? '' : 's'} arrived after the study was complete.`),
    el('ul', {}, late.arrivals.map((a) => el('li', {}, `Revision ${a.revision}: ${a.images} image${a.images === 1 ? '' : 's'} in ${a.series} series from ${a.senders.join(', ')}, ${a.first_at.slice(0, 16) === a.last_at.slice(0, 16) ? when(a.first_at) : `${when(a.first_at)} to ${when(a.last_at)}`}`))),
    el('p', {}, `${built ? 'The model was built from' : 'The inspection used'} revision ${late.used_revision} (${late.used_images} images).`,
      late.approved_by ? ` It was approved by ${late.approved_by}, ${when(late.approved_at)}; the approval stands.` : ''),
    late.kept && late.decided ? el('p', {}, `${late.kept.by} decided on ${when(late.kept.at)} to go on without the later images.`) : null,
    late.decided ? null : el('p', {}, late.receiving ? 'Images are still arriving: decide when the study is complete.' : 'Nothing is approved or printed until a planner or surgeon decides.'));
  const step = (path, body) => busy(box, slot, async () => { await post(api(path), body); detailPoll.now(); eventsPoll.now(); });
  const buttons = [];
  if (may.has('inspect_again')) buttons.push(el('button', { type: 'button', class: late.decided ? 'small' : '', onclick: async () => {
    const text = `All images are inspected again, then the inputs are asked for again.${late.approved_by ? ` The approval by ${late.approved_by} ends.` : ''}`;
    if (await confirmed('Look at the new images?', text, 'Look at them', Boolean(late.approved_by))) step('/inspect-again', {});
  } }, 'Look at the new images'));
  if (may.has('keep_images') && !late.decided && !late.receiving) buttons.push(el('button', { type: 'button', class: 'primary', onclick: async () => {
    if (await confirmed(built ? 'Keep the model?' : 'Go on with the earlier images?', `Your name stands for this: the ${count} later image${count === 1 ? ' is' : 's are'} not needed. ${count === 1 ? 'It stays' : 'They stay'} stored.`, built ? 'Keep the model' : 'Go on')) step('/keep-images', { revision: late.revision });
  } }, built ? 'Keep the model' : 'Go on with the earlier images'));
  if (buttons.length) box.append(el('div', { class: 'row' }, buttons));
  box.append(slot);
  return box;
}

// --- what this person may do --------------------------------------------------------------------------------

/** One action: a summary that opens a form. `fields` are nodes; `run(form)` sends. */
function action(key, title, fields, label, run, { danger = false, confirm = null, open = false } = {}) {
  const slot = el('div', { class: 'problem-slot', 'aria-live': 'assertive' });
  const form = el('form', { onsubmit: async (event) => {
    event.preventDefault();
    if (confirm && !await confirmed(confirm[0], confirm[1], label, danger)) return;
    if (await busy(form, slot, () => run(form))) { drawnActions = ''; document.activeElement.blur(); detailPoll.now(); eventsPoll.now(); }
  } }, fields, slot, el('button', { type: 'submit', class: danger ? 'danger' : 'primary' }, label));
  return el('details', { class: 'action', 'data-action': key, open }, el('summary', {}, title), form);
}

const field = (label, input, hint) => el('label', {}, label, hint ? el('small', {}, hint) : null, input);

function localTime(iso) {
  const d = new Date(iso);
  return new Date(d.getTime() - d.getTimezoneOffset() * 60000).toISOString().slice(0, 16);
}

/** From slicing on: an earlier model's G-code may still lie there while a new one is made. */
function isSliced() {
  const state = detail.state === 'NEEDS_ATTENTION' ? (detail.attention || {}).resume_state : detail.state;
  return STEPS.findIndex((s) => s.includes(state)) >= STEPS.findIndex((s) => s.includes('SLICED'));
}

function drawPrediction() {
  const node = $('#prediction'); const shown = shownPrint();
  if (node) node.textContent = shown ? `Predicted: ${shown.words}. Look at both pictures under “G-code and predicted print” before you start.` : 'The audit and the predicted print are not on this page yet.';
}

/** Nobody prints what nobody could see: the hash of the file whose prediction is on the screen goes with the request. */
async function sendPrint(form) {
  const shown = shownPrint();
  if (!shown) throw new Problem(0, { title: 'The audit and the predicted print are not on this page yet.', next_step: 'Wait a moment, look at them, then start the print.' });
  return post(api('/print'), { printer: form.printer.value, bed_clear: form.clear.checked, filament_lot: form.lot.value, gcode_sha256: shown.gcode });
}

function printAction() {
  const choice = el('select', { name: 'printer', required: true }, el('option', { value: '' }, 'choose'),
    printers.map((p) => el('option', { value: p.name, disabled: Boolean(p.reserved_for) }, `${p.name} · ${p.reserved_for ? `reserved for ${p.reserved_for}` : plain((p.reading || {}).state || 'not seen yet')}`)));
  return action('start_print', 'Start the print', [field('Printer', choice),
    el('label', { class: 'inline check' }, el('input', { type: 'checkbox', name: 'clear', required: true }), 'I have looked: the build plate is clear.'), field('Lot of the filament', el('input', { name: 'lot', maxlength: 64, autocomplete: 'off' }), 'from the label of the spool; empty when it cannot be read'), el('p', { id: 'prediction', class: 'note' })],
  'Start the print', sendPrint, { open: true, confirm: ['Start the print now?', `The printer heats and starts by itself. Case ${detail.code}, ${detail.level}.`] });
}

function actions() {
  const may = new Set(detail.possible_events); const list = [];
  const go = (href, text) => el('p', {}, el('a', { class: 'button primary', href }, text));
  if (may.has('give_inputs') && detail.state === 'RECEIVED') list.push(go(`/cases/${caseId}/plan`, 'Give level and points, or a mask'));
  if (may.has('approve')) list.push(go(`/cases/${caseId}/review`, 'Review and approve the plan'));
  if (may.has('give_inputs') && detail.state === 'PLAN_READY') list.push(el('p', {}, el('a', { class: 'button', href: `/cases/${caseId}/plan` }, 'Give other inputs')));
  if (may.has('start_print')) list.push(printAction());
  if (may.has('pass_qa') || may.has('issue') || may.has('return_unopened') || may.has('use')) list.push(el('p', {}, el('a', { class: 'button primary', href: '/cssd' }, 'Record the next step of the part in sterile services')));
  list.push(action('surgery', 'Time of surgery', [field('Date and time', el('input', { type: 'datetime-local', name: 'at', value: detail.surgery_at ? localTime(detail.surgery_at) : '' }), 'leave empty for “not set”')], 'Save',
    (form) => post(api('/surgery'), { at: form.at.value ? new Date(form.at.value).toISOString() : null }, 'PUT')));
  if (may.has('close')) list.push(action('close', 'Close the case', [el('p', {}, 'Possible once the model has been recorded as discarded.')], 'Close the case', () => post(api('/close')), { confirm: ['Close this case?', 'A closed case cannot be opened again.'] }));
  if (may.has('cancel')) list.push(action('cancel', 'Cancel the case', [field('Reason', el('textarea', { name: 'reason', rows: 2, required: true }))], 'Cancel the case',
    (form) => post(api('/cancel'), { reason: form.reason.value }), { danger: true, confirm: ['Cancel this case?', 'It cannot be taken back. Images and records stay.'] }));
  return list;
}

let drawnActions = '';
function drawActions() {
  // Forms are drawn anew only when what is possible changes, so that nothing typed is lost.
  const key = JSON.stringify([detail.state, detail.possible_events, detail.surgery_at, printers.map((p) => [p.name, p.reserved_for, (p.reading || {}).state])]);
  if (key === drawnActions) return;
  if (fill($('#actions'), actions())) drawnActions = key;
  drawPrediction();
}

// --- prints, part, scans ------------------------------------------------------------------------------------

function remaining(job) {
  if (!job.time_total_s) return null;
  const left = job.time_total_s - (job.time_elapsed_s || 0);
  return left >= 0 ? `about ${duration(left)} left of ${duration(job.time_total_s)}` : `${duration(-left)} longer than estimated`;
}

function settleForm(job) {
  const slot = el('div', { class: 'problem-slot' });
  const outcome = el('select', { name: 'outcome', required: true }, el('option', { value: '' }, 'choose'),
    [['finished', 'It finished; the part is good and taken off'], ['failed', 'It failed; the part is scrap'], ['not_started', 'It never started']].filter(([v]) => job.settle_as.includes(v)).map(([v, t]) => el('option', { value: v }, t)));
  const form = el('form', { class: 'note', onsubmit: async (event) => {
    event.preventDefault();
    if (!await confirmed('Settle this print?', `You state for the record: ${outcome.selectedOptions[0].textContent}.`, 'Settle')) return;
    if (await busy(form, slot, () => post(`/api/v1/print-jobs/${job.id}/settle`, { outcome: outcome.value, note: form.note.value }))) { document.activeElement.blur(); detailPoll.now(); }
  } }, el('strong', {}, job.state === 'UNKNOWN' ? 'Nobody can say whether this print ran. Look at the printer, then say what you saw.' : job.state === 'NOT_STARTED' ? `The file may have reached ${job.printer} all the same. When another printer is to take over and this one does not answer: look at it, then say that it does not print this.` : `${job.printer} does not answer${job.printer_silent_since ? `, silent since ${when(job.printer_silent_since)}` : ' any more'}. If it does not come back: look at the printer, then say what you saw.`), field('Outcome', outcome), field('What did you see?', el('textarea', { name: 'note', rows: 2, required: true })), slot, el('button', { type: 'submit', class: 'primary' }, 'Settle'));
  return form;
}

function commands(job) {
  if (!roles.has('technician') || !['QUEUED', 'PRINTING', 'PAUSED'].includes(job.state)) return null;
  const slot = el('div', { class: 'problem-slot' });
  const row = el('div', {});
  const ask = (target, text, danger) => el('button', { type: 'button', class: danger ? 'small danger' : 'small', onclick: async () => {
    const waits = job.state === 'QUEUED';
    if (danger && !await confirmed(waits ? 'Take this print back?' : 'Stop this print?', waits ? 'It is taken out of the printer\'s own queue, and can be started again. Should it have begun meanwhile, it is stopped and the part is lost.' : 'The part is lost. A new print needs a new approval.', waits ? 'Take it back' : 'Stop the print', true)) return;
    busy(row, slot, () => post(`/api/v1/print-jobs/${job.id}/command`, { target }));
  } }, text);
  row.append(el('div', { class: 'row' }, job.state === 'QUEUED' ? ask('abort', 'Take back', true) : null, job.state === 'QUEUED' ? null : job.state === 'PAUSED' ? ask('print', 'Go on') : ask('pause', 'Pause'), job.state === 'QUEUED' ? null : ask('abort', 'Stop', true)), slot);
  return row;
}

/** A print that ended in another way than finished is never shown as if it had. */
function printBadge(job) {
  const words = !job.outcome_text || job.state === 'UNKNOWN' ? plain(job.state).toLowerCase() : job.state === 'AWAITING_REMOVAL' ? `${job.outcome_text}, awaiting removal` : job.outcome_text;
  const tone = job.state === 'UNKNOWN' || (job.outcome && job.outcome !== 'finished') ? 'alert' : job.state === 'FINISHED' ? 'good' : 'work';
  return [el('span', { class: `badge ${tone}` }, words), job.stopped_by ? el('span', { class: 'dim' }, `by ${job.stopped_by}`) : null];
}

function drawPrints() {
  fill($('#prints'), detail.print_jobs.length ? detail.print_jobs.map((job) => el('div', { class: 'stack' },
    el('div', { class: 'row' }, el('strong', { class: 'mono' }, job.id), printBadge(job), el('span', { class: 'dim' }, `on ${job.printer}, by ${job.requested_by}, ${when(job.requested_at)}`)),
    job.progress !== null && ['PRINTING', 'PAUSED'].includes(job.state) ? [progressBar(job.progress, 'print'), el('span', { class: 'dim' }, [`${Math.round(job.progress * 100)} %`, remaining(job)].filter(Boolean).join(', '))] : null,
    job.detail ? el('div', { class: 'dim' }, job.detail) : null,
    job.filament_lot ? el('div', { class: 'dim' }, `filament lot ${job.filament_lot}`) : null, pictures(job),
    job.can_settle && roles.has('technician') ? settleForm(job) : null, commands(job))) : el('p', { class: 'dim' }, 'None yet.'));
}

const SCAN = { COMPUTING: ['work', 'measuring'], READY: ['good', 'measured'], NOT_MEASURABLE: ['ask', 'not measurable'], FAILED: ['alert', 'failed'] };

/** What was measured, beside what was expected. */
function inspected(q) {
  const size = q.size_mm.map((x, n) => `${fixed(x, 1)} (${fixed(q.designed_mm[n], 1)})`).join(' × ');
  const weight = q.weight_g === null ? '' : `, ${fixed(q.weight_g, 1)} g (${fixed(q.predicted_g, 1)} g)`;
  return ` · inspected by ${q.by}, ${when(q.at)}: ${size} mm${weight}; expected in brackets; ${q.photos} photograph${q.photos === 1 ? '' : 's'}`;
}

function drawScans() {
  const items = detail.items.map((i) => el('p', {}, 'Part ', el('strong', { class: 'mono' }, i.id), ' ', el('span', { class: 'badge' }, plain(i.state).toLowerCase()), i.load_id ? ` in load ${i.load_id}` : '', ' ', el('a', { href: '/cssd' }, 'sterile services'), i.inspection ? el('span', { class: 'dim', 'data-inspection': i.id }, inspected(i.inspection)) : ''));
  const scans = detail.scans.map((s) => el('div', {}, el('p', {}, 'O-arm scan ', el('span', { class: `badge ${SCAN[s.state][0]}` }, SCAN[s.state][1]), s.verdict ? el('strong', {}, ` ${s.verdict}`) : '', s.state === 'COMPUTING' ? ` ${s.stage}` : '', ' ', el('a', { href: `/or/${caseId}` }, 'OR view')),
    s.error ? el('div', { class: 'note' }, s.error.message, el('div', { class: 'dim' }, s.error.next_step)) : null));
  fill($('#scans'), items.length + scans.length ? [items, scans] : el('p', { class: 'dim' }, 'None yet.'));
}

// --- right column -------------------------------------------------------------------------------------------

const KINDS = { mesh: 'Model (STL)', print_mesh: 'Model in print pose (STL)', plan: 'Plan', model_report: 'Report of the model', mask: 'Mask of the vertebra (NIfTI)', mask_seg_nrrd: 'Mask of the vertebra, to edit in 3D Slicer', mask_handed_out: 'Mask as it was before corrections', untrusted_mask: 'What was found and not trusted: mask (NIfTI)', untrusted_mask_seg_nrrd: 'What was found and not trusted: to edit in 3D Slicer', untrusted_report: 'Why it was not trusted', views: 'Views', slices: 'Slices', deviation: 'Outside of the model against the CT', gcode: 'G-code', gcode_report: 'Audit of the G-code', print_errors: 'Predicted error of the print, against the model', print_bone_errors: 'Predicted error of the print, against the CT', outer: 'Outer surface (NIfTI)', blocker: 'Support blocker (STL)', filler: 'Solid regions (STL)', print_layout: 'Print pose' };

function drawRight() {
  const s = detail.study; const i = detail.inspection;
  fill($('#study'), facts([['Study date', s.patient && s.patient.study_date ? s.patient.study_date.replace(/^(\d{4})(\d\d)(\d\d)$/, '$3.$2.$1') : ''], ['Accession', s.patient && s.patient.accession_number], ['From', s.calling_ae], ['Images', s.live.receiving ? String(s.instances) : liveLine(s.live)], ['Slices used', i && String(i.slices)], ['Voxel', i && `${i.spacing_mm.map((x) => fixed(x, 2)).join(' × ')} mm`], ['Revision', s.revision > 1 ? String(s.revision) : null]]),
    ((i && i.warnings) || []).map((w) => el('div', { class: 'note' }, w.message)));
  const files = Object.entries(detail.artifacts);
  fill($('#files'), files.length ? el('table', { class: 'tight' }, el('tbody', {}, files.map(([kind, a]) => el('tr', {}, el('th', { scope: 'row' }, el('a', { href: a.href }, KINDS[kind] || plain(kind))), el('td', { class: 'mono dim', title: `SHA-256 ${a.sha256}` }, short(a.sha256)), el('td', { class: 'num' }, bytes(a.size)))))) : el('p', { class: 'dim' }, 'None yet.'));
  fill($('#deliveries'), detail.deliveries.length ? deliveriesTable(detail.deliveries, $('#deliv-problem'), () => detailPoll.now()) : el('p', { class: 'dim' }, 'Nothing yet.'));
}

const EVENTS = {
  created: 'Case opened', study_complete: 'Study complete and inspected', late_images: 'Images arrived late', give_inputs: 'Inputs given', model_built: 'Model built', approve: 'Plan approved and signed', reject: 'Plan sent back', gcode_ready: 'Sliced and audited', start_print: 'Print started', print_accepted: 'Printer took the job', print_unknown: 'Print outcome unknown', print_settled: 'Print settled by hand', print_cleared: 'Printed, plate cleared', print_abort_asked: 'Stop asked for from here', print_abort_refused: 'Stop was not taken by the printer', print_abort: 'Stopped from here', print_pause: 'Paused from here', print_print: 'Went on from here', print_copy_at_printer: 'Printed once more at the printer, not from here', print_copy_in_queue: 'A second copy was in the queue of the printer', first_layer_missed: 'Picture of the first layer missed', pass_qa: 'Part inspected', part_photographed: 'Part photographed', issue: 'Pack issued to theatre', use: 'Pack opened and used', return_unopened: 'Pack returned unopened', scan_arrived: 'O-arm scan arrived', scan_measured: 'O-arm scan measured', scan_not_measurable: 'O-arm scan not measurable', raise_attention: 'Needs attention', resume: 'Resumed', cancel: 'Cancelled', close: 'Closed', surgery_time: 'Time of surgery set', images_completed: 'Images completed', inspect_again: 'New images are looked at', keep_images: 'Later images left out',
};

function why(e) {
  const d = e.data || {}; const parts = [];
  if (d.message) parts.push(d.message, d.next_step);
  if (d.reason) parts.push(d.reason);
  if (d.level) parts.push(`level ${d.level}`);
  if (d.slices) parts.push(`${d.slices} slices`);
  if (d.printer) parts.push(`on ${d.printer}`);
  if (d.outcome) parts.push(plain(d.outcome), d.note);
  if (d.detail) parts.push(d.detail);
  if (d.verdict) parts.push(`verdict: ${d.verdict}`);
  if (d.acknowledged && d.acknowledged.length) parts.push(`${d.acknowledged.length} warning(s) acknowledged`);
  if (e.event === 'approve') parts.push(`plan ${short(d.plan_sha256)}, model ${short(d.mesh_sha256)}`);
  if (e.event === 'surgery_time') parts.push(d.at ? when(d.at) : 'not set');
  if (d.images) parts.push(`${d.images} images`);
  if (e.event === 'late_images') parts.push(`revision ${d.revision}${d.sender ? ` from ${d.sender}` : ''}`);
  if (e.event === 'keep_images') parts.push(`revision ${d.kept_revision} stays in use, revision ${d.left_out_revision} is left out`);
  if (d.approval_ended) parts.push('the approval ended');
  return parts.filter(Boolean).join(' · ');
}

function drawTimeline(events) {
  fill($('#timeline'), [...events].reverse().map((e) => {
    const bySystem = e.actor.startsWith('system:');
    const bad = ['raise_attention', 'print_unknown', 'reject', 'cancel', 'scan_not_measurable'].includes(e.event);
    return el('li', { class: bad ? 'bad' : bySystem ? '' : 'person' },
      el('div', { class: 'what' }, EVENTS[e.event] || plain(e.event).replace(/^item /, 'Part: '), e.data.to && e.data.from && e.data.to !== e.data.from && STATES[e.data.to] ? el('span', { class: 'dim' }, `  → ${STATES[e.data.to]}`) : null),
      el('div', { class: 'why' }, why(e)),
      el('div', { class: 'meta' }, `${when(e.at)} · ${bySystem ? `the service (${plain(e.actor.slice(7))})` : e.actor}`));
  }));
}

const detailPoll = poll(api(''), (body, changed) => {
  if (!changed) return;
  detail = body;
  drawHead(detail, 'Case'); drawJourney(); drawNow(); drawActions(); drawPrints(); drawScans(); drawRight();
  drawPrintCheck($('#print-check'), detail.artifacts, isSliced()).then(drawPrediction).catch(() => {}); // asked for again with the next poll
});
const eventsPoll = poll(api('/events'), (body, changed) => { if (changed) drawTimeline(body); });
poll('/api/v1/printers', (body, changed) => { if (changed) { printers = body; if (detail) drawActions(); } });
watchStaleness();
