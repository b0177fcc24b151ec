import { $, $$, busy, caseId, el, fill, fixed, poll, post, roles, showProblem, watchStaleness } from './core.js';
import { EndplatePoints } from './endplate_points.js';
import { drawHead } from './head.js';
import { SliceViewer } from './slices.js';
import { SurfacePoints } from './surface_points.js';

const POINTS = [
  { name: 'target', label: 'Target', hint: 'required', colour: '#e69f00' },
  { name: 'above', label: 'Body above', hint: 'recommended', colour: '#56b4e9' },
  { name: 'below', label: 'Body below', hint: 'recommended', colour: '#cc79a7' },
];
const form = $('#inputs');
const values = { target: null, above: null, below: null };
const kept = { edits: [] };  // given on another way, e.g. the command line; this page sends them on
let active = 'target';

const viewer = new SliceViewer($('#viewer'), $('#viewer-tools'), {
  region: 'whole', problemSlot: $('#problems'),
  onPick: (point, moving) => {
    if (active === 'surface') surface.pick(point, moving);
    else if (active === 'plates') plates.pick(point, moving);
    else if (active !== 'look') set(active, point.map((x) => Math.round(x * 10) / 10));
  },
});

function set(name, point) {
  values[name] = point;
  $$(`[data-point=${name}] input[type=number]`).forEach((input, i) => { if (input !== document.activeElement) input.value = point ? fixed(point[i], 1) : ''; });
  $(`[data-point=${name}] .done`).textContent = point ? '✓ placed' : hintOf(name);
  drawMarks();
}

function drawMarks() {
  viewer.marks = [...POINTS.filter((p) => values[p.name]).map((p) => ({ p: values[p.name], colour: p.colour, label: p.label.replace('Body ', '') })), ...plates.marks, ...surface.marks];
  viewer.draw();
}

/** Half a point stays as it was typed, until the rest of it is. */
function typed(name) {
  const numbers = $$(`[data-point=${name}] input[type=number]`).map((i) => (i.value === '' ? NaN : Number(i.value)));
  const whole = numbers.every(Number.isFinite);
  if (whole) set(name, numbers);
  else { values[name] = null; $(`[data-point=${name}] .done`).textContent = numbers.some(Number.isFinite) ? 'not complete' : hintOf(name); drawMarks(); }
  if (whole && viewer.planes.length) viewer.look(numbers);
}

function hintOf(name) { return POINTS.find((p) => p.name === name).hint; }

function choose(name) {
  active = name;
  $$('.point').forEach((row) => row.classList.toggle('on', row.dataset.point === name));
}

$('#points').append(
  ...POINTS.map((p) => el('div', { class: 'point', 'data-point': p.name },
    el('label', {}, el('input', { type: 'radio', name: 'active', checked: p.name === 'target', onchange: () => choose(p.name) }), el('span', { class: `swatch ${p.name}` }), p.label),
    el('span', { class: 'done dim' }, p.hint),
    el('div', { class: 'xyz' }, ['x', 'y', 'z'].map((axis) => el('input', { type: 'number', step: '0.1', placeholder: axis, 'aria-label': `${p.label} ${axis}, LPS mm`, onchange: () => typed(p.name) })),
      el('button', { type: 'button', class: 'small', title: 'Take this point away', onclick: () => set(p.name, null) }, 'Clear')))),
  el('div', { class: 'point', 'data-point': 'plates' }, el('label', {}, el('input', { type: 'radio', name: 'active', onchange: () => { choose('plates'); if (values.target && !plates.placed) viewer.look(values.target); } }), el('span', { class: 'swatch plates' }), 'Endplates')),
  el('div', { class: 'point', 'data-point': 'surface' }, el('label', {}, el('input', { type: 'radio', name: 'active', onchange: () => choose('surface') }), el('span', { class: 'swatch surface' }), 'Surface point')),
  el('div', { class: 'point', 'data-point': 'look' }, el('label', {}, el('input', { type: 'radio', name: 'active', onchange: () => choose('look') }), 'Only look around')));
const plates = new EndplatePoints($('[data-point=plates]'), { onChange: () => { drawMarks(); $('.problem-slot', form).replaceChildren(); }, look: (point) => viewer.look(point) });
const surface = new SurfacePoints($('[data-point=surface]'), { onChange: drawMarks, look: (point) => viewer.look(point), here: () => viewer.cursor || values.target || [0, 0, 0] });
choose('target');

form.addEventListener('submit', (event) => {
  event.preventDefault();
  const slot = $('.problem-slot', form);
  const refuse = (what, next) => slot.replaceChildren(el('div', { class: 'problem', role: 'alert' }, el('strong', {}, what), el('p', {}, `Next: ${next}`)));
  const half = POINTS.filter((p) => !values[p.name] && $$(`[data-point=${p.name}] input[type=number]`).some((i) => i.value !== ''));
  if (half.length) { refuse(`${half[0].label}: a coordinate is missing.`, 'type all three, or clear the point.'); return; }
  if (!values.target) { refuse('The target point is missing.', 'choose “Target”, then click the middle of the fractured body.'); return; }
  if (plates.missing) { refuse(`Endplate points are missing: ${plates.missing}.`, 'choose “Endplates” and click them on the sagittal slice, or take the others away.'); return; }
  busy(form, slot, async () => {
    const body = { level: form.level.value, target: values.target };
    if (values.above) body.above = values.above;
    if (values.below) body.below = values.below;
    if (surface.points.length) body.surface_points = surface.points;
    if (plates.all) body.endplates = plates.all;
    if (kept.edits.length && form.keep_edits.checked) body.edits = kept.edits;
    await post(`/api/v1/cases/${caseId}/inputs`, body);
    location.assign(`/cases/${caseId}`);
  });
});

const mask = $('#mask');
mask.addEventListener('submit', (event) => {
  event.preventDefault();
  busy(mask, $('.problem-slot', mask), async () => {
    const data = new FormData(mask);
    if (!data.get('label')) data.delete('label');
    await post(`/api/v1/cases/${caseId}/mask`, data);
    location.assign(`/cases/${caseId}`);
  });
});

/** Inputs that this page cannot show as points: said, and sent again unless a person leaves them out. */
function drawKept(inputs) {
  kept.edits = inputs.edits || [];
  fill($('#kept'), kept.edits.length ? [el('label', { class: 'inline check' }, el('input', { type: 'checkbox', name: 'keep_edits', checked: true }), `Keep the ${kept.edits.length} correction${kept.edits.length === 1 ? '' : 's'} by hand (cut, erase, paint) given before`)] : []);
}

function drawInspection(detail) {
  const i = detail.inspection;
  if (!i) return;
  fill($('#inspection'), el('h2', {}, 'Images'),
    el('p', {}, `${i.slices} slices, voxel ${(i.spacing_mm || []).map((s) => fixed(s, 2)).join(' × ')} mm`),
    (i.warnings || []).map((w) => el('div', { class: 'note' }, w.message)));
}

let last = '';
poll(`/api/v1/cases/${caseId}`, (detail, changed) => {
  if (!changed) return;
  drawHead(detail, 'Inputs');
  if (last === '') {
    drawInspection(detail);
    POINTS.forEach((p) => { if (detail.inputs[p.name]) set(p.name, detail.inputs[p.name]); });
    if (detail.inputs.endplates && detail.inputs.endplates.length) plates.set(detail.inputs.endplates);
    if (detail.inputs.surface_points) surface.set(detail.inputs.surface_points);
    drawKept(detail.inputs);
    if (detail.level) $$('select[name=level]').forEach((s) => { s.value = detail.level; });
  }
  const may = detail.possible_events.includes('give_inputs');
  $$('form button[type=submit]').forEach((b) => { if (!b.closest('[aria-busy]') && b.closest('aside')) b.disabled = !may; });
  const why = ['planner', 'surgeon'].some((r) => roles.has(r)) ? `Inputs can be given while they are needed or a plan is under review; now the case is: ${detail.waiting_for}` : 'Inputs are given by a planner or a surgeon; you can look.';
  if (last !== detail.state) fill($('#problems'), may ? null : el('div', { class: 'note' }, why));
  last = detail.state;
});
watchStaleness();

viewer.open().then(async () => {
  if (values.target) viewer.look(values.target);
}).catch((error) => { $('#viewer').replaceChildren(); showProblem($('#problems'), error); });
