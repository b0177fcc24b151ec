import {
  $, $$, busy, caseId, confirmed, el, facts, fill, fixed, get, getFile, plain, poll, post, roles, showProblem, user, watchStaleness, Problem,
} from './core.js';
import { drawHead } from './head.js';
import { SliceViewer } from './slices.js';
import { available, ModelView } from './view3d.js';

const file = (kind) => `/api/v1/cases/${caseId}/artifacts/${kind}`;
const shown = { plan: '', mesh: '' };
let detail = null; let report = null; let plan = null; let reviewable = false;

// --- what is to be signed -----------------------------------------------------------------------------------

function drawIdentity() {
  const sides = plan.trajectories.map((t) => t.pedicle).sort();
  fill($('#identity'), el('div', { class: 'row' }, el('span', { class: 'level-big' }, plan.level),
    el('span', { class: 'sides' }, sides.length === 2 ? 'Both sides: left and right' : sides.length ? `One side: ${sides[0]}` : 'No needle path')),
  facts([['Inputs by', detail.planned_by], ['Vertebra found', report.source ? plain(report.source) : null], ['Confidence', report.isolation ? `${Math.round(report.isolation.confidence * 100)} %` : null]]));
}

function drawPaths() {
  const middle = (t) => t.target.map((x, i) => (x + t.entry[i]) / 2);
  const rows = plan.trajectories.map((t) => el('tr', {},
    el('th', { scope: 'row' }, el('button', { type: 'button', class: 'small', title: 'Show the middle of this path on the slices', onclick: () => viewer.planes.length && viewer.look(middle(t)) }, el('span', { class: `key ${t.pedicle}` }, t.pedicle))),
    el('td', { class: 'num' }, `${fixed(t.sagittal_deg)}°`), el('td', { class: 'num' }, `${fixed(t.transverse_deg)}°`),
    el('td', { class: 'num' }, fixed(Math.hypot(...t.target.map((x, i) => x - t.entry[i])))), el('td', { class: 'num' }, fixed(t.clearance_mm))));
  fill($('#paths'), el('table', { class: 'tight' }, el('thead', {}, el('tr', {}, ['Side', 'Sagittal', 'Transv.', 'Length', 'Bone left'].map((t, i) => el('th', { scope: 'col', class: i ? 'num' : '' }, t)))), el('tbody', {}, rows)),
    el('p', { class: 'dim' }, 'Choose a side to see its path on the slices. Lengths in mm. Bone left: least distance from the needle path to the cortex in the pedicle. Ranges: sagittal 0–15°, transverse 10–30°.'));
}

function line(good, name, value = '') {
  return el('div', { class: good ? 'check-line' : 'check-line bad' }, el('span', { class: 'mark', 'aria-hidden': 'true' }, good ? '✓' : '✗'), el('span', {}, name, el('span', { class: 'hidden' }, good ? ': passed' : ': failed')), el('span', { class: 'value' }, value));
}

function drawChecks() {
  const c = report.check || {}; const lines = [];
  lines.push(el('div', { class: report.passed ? 'good-note' : 'problem' }, el('strong', {}, report.passed ? 'All checks passed.' : 'The model failed its checks and cannot be approved.'), (report.failures || []).length ? el('ul', {}, report.failures.map((f) => el('li', {}, typeof f === 'string' ? f : f.message))) : null));
  if ('watertight' in c) lines.push(line(c.watertight && c.winding_consistent, 'Watertight, one orientation'), line(c.bodies === 1, 'One body', String(c.bodies)), line(c.closed_voids === 0, 'No sealed cavity', `${c.closed_voids}`));
  if (c.wall) lines.push(line(c.wall.thin_share < 0.02, 'Wall, least / mean', `${fixed(c.wall.min_mm, 2)} / ${fixed(c.wall.mean_mm, 2)} mm`));
  for (const ch of c.channels || []) lines.push(line(ch.open, `Channel ${ch.pedicle}: open, clear width`, `${fixed(ch.clear_diameter_mm, 2)} mm`), line(ch.axis_mm < 0.5, `Channel ${ch.pedicle}: off the plan`, `${fixed(ch.axis_mm, 2)} mm, ${fixed(ch.axis_deg, 2)}°`));
  (c.vents || []).forEach((v, i) => lines.push(line(v.reaches_hollow, `Vent ${i + 1}: reaches the hollow`, `⌀ ${fixed(v.diameter_mm, 1)} mm`)));
  if (report.gas_path) lines.push(line(report.gas_path.openings_per_cavity >= 2, 'Gas path: openings, longest way', `${report.gas_path.openings_per_cavity}, ${fixed(report.gas_path.longest_path_mm, 0)} mm`));
  if ('surface_p99_mm' in c) lines.push(line(c.surface_p99_mm < 0.5, 'Surface against the segmented bone, 99 %', `${fixed(c.surface_p99_mm, 2)} mm`));
  const size = (report.size_mm || []).map((x) => fixed(x, 0)).join(' × ');
  const height = report.landmarks && report.landmarks.height_mm;
  lines.push(facts([['Size as printed', size ? `${size} mm` : null], ['Material', c.volume_ml ? `${fixed(c.volume_ml)} ml` : null], ['Body height ant. / mid. / post.', height ? `${fixed(height.anterior)} / ${fixed(height.middle)} / ${fixed(height.posterior)} mm` : null]]));
  fill($('#checks'), lines);
}

function drawWarnings() {
  const warnings = report.warnings || [];
  fill($('#warnings'), warnings.length ? [el('p', {}, `${warnings.length === 1 ? 'One warning' : `${warnings.length} warnings`} to acknowledge one by one:`),
    warnings.map((w) => el('label', { class: 'ack' }, el('input', { type: 'checkbox', name: 'ack', value: w.code, 'data-code': w.code, onchange: judge }), el('span', {}, w.message)))]
    : el('p', { class: 'dim' }, 'No warnings.'));
  fill($('#hashes'), el('dt', {}, 'Plan, SHA-256'), el('dd', { id: 'plan-hash' }, shown.plan), el('dt', {}, 'Model, SHA-256'), el('dd', { id: 'mesh-hash' }, shown.mesh));
}

// --- may it be approved -------------------------------------------------------------------------------------

function blocker() {
  if (!roles.has('surgeon')) return 'A surgeon approves; you can look at everything.';
  if (!detail.possible_events.includes('approve')) return `The case is not waiting for approval: ${detail.waiting_for}`;
  if (detail.planned_by === user) return 'You gave the inputs of this plan; another surgeon must approve it.';
  if (!reviewable) return 'The plan and the model must be on the screen before they can be approved.';
  if (detail.artifacts.plan.sha256 !== shown.plan || detail.artifacts.mesh.sha256 !== shown.mesh) return 'The plan or the model changed since it was loaded. Load this page again.';
  if (report.passed !== true) return 'The model failed its own checks.';
  return '';
}

function judge() {
  if (!detail || !report) return;
  const why = blocker();
  const open = $$('[name=ack]').filter((b) => !b.checked).length;
  const approve = $('#approve'); const reject = $('#reject');
  if (!approve.hasAttribute('aria-busy')) $('button', approve).disabled = Boolean(why) || open > 0;
  if (!reject.hasAttribute('aria-busy')) $('button', reject).disabled = !detail.possible_events.includes('reject');
  reject.hidden = !roles.has('surgeon');
  $('button', approve).textContent = open && !why ? `Acknowledge ${open} more, then sign` : `Approve ${plan.level} and sign`;
  fill($('#why'), why ? el('div', { class: 'note' }, why) : null);
}

$('#approve').addEventListener('submit', async (event) => {
  event.preventDefault();
  const form = event.currentTarget;
  const sides = plan.trajectories.map((t) => t.pedicle).join(' and ');
  if (!await confirmed(`Approve ${plan.level}, ${sides}?`, 'Your signature is recorded. The model is then sliced, and a technician may print it.', 'Approve and sign')) return;
  const worked = await busy(form, $('.problem-slot', form), async () => {
    await post(`/api/v1/cases/${caseId}/approve`, { plan_sha256: shown.plan, mesh_sha256: shown.mesh, acknowledged: $$('[name=ack]:checked').map((b) => b.dataset.code), password: form.password.value });
    location.assign(`/cases/${caseId}`);
  });
  form.password.value = '';
  if (!worked) judge();
});

$('#reject').addEventListener('submit', async (event) => {
  event.preventDefault();
  const form = event.currentTarget;
  if (!await confirmed('Send this plan back?', 'The planner gives new inputs and a new model is built.', 'Reject the plan', true)) return;
  await busy(form, $('.problem-slot', form), async () => { await post(`/api/v1/cases/${caseId}/reject`, { reason: form.reason.value }); location.assign(`/cases/${caseId}`); });
  judge();
});

// --- pictures -----------------------------------------------------------------------------------------------

const viewer = new SliceViewer($('#viewer'), $('#viewer-tools'), { region: 'vertebra', problemSlot: $('#problems') });

function modelTools(view) {
  const names = { none: 'No cut', left: 'Sagittal cut', anterior: 'Coronal cut', superior: 'Axial cut' };
  for (const t of plan.trajectories) names[`path-${t.pedicle}`] = `Along the ${t.pedicle} path`;
  const axis = el('select', { 'aria-label': 'Cutting plane' }, Object.entries(names).map(([value, text]) => el('option', { value }, text)));
  const place = el('input', { type: 'range', min: 0, max: 1, step: 0.005, value: 0.5, 'aria-label': 'Position of the cut', disabled: true });
  const cut = () => { place.disabled = axis.value === 'none'; view.cut(axis.value, Number(place.value)); };
  axis.addEventListener('change', () => { place.value = 0.5; cut(); });
  place.addEventListener('input', cut);
  $('#model-tools').replaceChildren(
    el('label', { class: 'inline' }, 'Solid', el('input', { type: 'range', id: 'opacity', min: 0.1, max: 1, step: 0.02, value: 1, 'aria-label': 'Opacity of the model', oninput: (e) => view.setOpacity(Number(e.target.value)) })),
    el('label', { class: 'inline' }, axis, place));
  $('#model-views').replaceChildren(...['back', 'front', 'left', 'right', 'top', 'oblique'].map((name) => el('button', { type: 'button', class: 'small', onclick: () => view.look(name) }, name)));
}

function showModel(bytes) {
  if (available()) { modelTools(new ModelView($('#model'), bytes, plan)); return true; }
  if (!detail.artifacts.views) return false;
  $('#model').replaceChildren(el('img', { src: file('views'), alt: 'Six views of the model' }));
  $('#model-tools').replaceChildren(el('span', { class: 'dim' }, 'This screen has no 3-D drawing; these are the pictures made with the model.'));
  return true;
}

async function load() {
  const [planFile, reportNow, meshFile] = await Promise.all([getFile(file('plan')), get(file('model_report')), getFile(file('mesh'))]);
  plan = JSON.parse(new TextDecoder().decode(planFile.bytes));
  report = reportNow;
  shown.plan = planFile.sha256; shown.mesh = meshFile.sha256;
  drawIdentity(); drawPaths(); drawChecks(); drawWarnings();
  reviewable = showModel(meshFile.bytes);
  judge();
  viewer.lines = plan.trajectories.map((t) => ({ a: t.entry, b: t.target, colour: t.pedicle === 'left' ? '#3fb2ef' : '#ef8cc0' }));
  await viewer.open().catch((error) => {
    if (!(error instanceof Problem) || !detail.artifacts.slices) throw error;
    $('#viewer').replaceChildren(el('img', { src: file('slices'), alt: 'Slices through the vertebra with outline and paths' }));
  });
}

let started = false;
poll(`/api/v1/cases/${caseId}`, (body, changed) => {
  detail = body;
  if (changed) drawHead(detail, 'Review');
  if (started) { judge(); return; }
  started = true;
  if (!detail.artifacts.plan || !detail.artifacts.mesh) {
    $('#model').replaceChildren(el('p', {}, 'There is no plan and model yet.'));
    fill($('#problems'), el('div', { class: 'note' }, `${detail.waiting_for}`));
    return;
  }
  load().catch((error) => showProblem($('#problems'), error));
});
watchStaleness();
