// Below the answer: all scans of the case in order, what each changed, and points of a needle set by hand.

import { $, busy, caseId, clock, el, fixed, get, post } from './core.js';
import { inWords, pick } from './or_pick.js';

const box = el('div', { id: 'scans' }); const editor = el('div', { id: 'correction' });
let seen = ''; let list = null; let now = null; let refresh = () => {};

const WORD = { accurate: '● accurate', reposition: '▲ reposition', review: '◆ review' };
const AXES = [['deeper', 'Deeper'], ['left', 'To the patient’s left'], ['up', 'Towards the head']];

export function setUpScans(before, again) { before.after(editor, box); refresh = again; }

// Called with every answer; asks for the list only when something in it can have changed.
export async function follow(body) {
  now = body;
  const about = `${body.scans} ${body.scan_id} ${body.status} ${body.report_version} ${body.cement_step} ${(body.pictures || {}).state}`;
  if (about === seen) return;
  seen = about;
  if (!body.scans) { box.replaceChildren(); editor.replaceChildren(); return; }
  try { list = await get(`/api/v1/cases/${caseId}/verification/scans`); } catch { seen = ''; return; }
  const parts = [comparison(), corrections()].filter(Boolean);
  box.replaceChildren(...(parts.length ? [el('details', { class: 'or-panel or-compare' }, el('summary', {}, `Scans of this case (${list.scans.length})`), parts)] : []));
  editor.replaceChildren(...[handSet()].filter(Boolean));
}

const told = (v, unit = '') => (v === null || v === undefined ? '—' : `${fixed(v)}${unit}`);
const signed = (v) => (v === null || v === undefined ? '' : ` (${v > 0 ? '+' : ''}${fixed(v)})`);

function moved(change) {
  if (!change) return 'first';
  return `${fixed(change.tip_moved_mm)} ± ${fixed(change.uncertainty_mm)} mm${change.beyond_uncertainty ? '' : ', perhaps not at all'}`;
}

function comparison() {
  if (list.scans.length < 2) return null;
  const cells = (...values) => values.map((v) => el('td', {}, v));
  const rows = list.scans.flatMap((scan) => {
    const head = [el('th', { scope: 'row' }, `${scan.number}`), el('td', {}, clock(new Date(scan.last_image_at))), el('td', {}, scan.verdict ? WORD[scan.verdict] || scan.verdict : scan.status.replace('_', ' '), scan.report_version && scan.automatic_verdict !== scan.verdict ? el('small', {}, ` automatic: ${scan.automatic_verdict || 'not measurable'}`) : null)];
    if (!scan.needles.length) return [el('tr', {}, head, el('td', { colspan: 6 }, scan.cement_ml !== null ? `cement ${fixed(scan.cement_ml, 2)} ml` : scan.reason || ''))];
    return scan.needles.map((n) => { const c = n.change || {}; return el('tr', {}, head.map((h) => h.cloneNode(true)), cells(`${n.pedicle}${n.hand_set ? ', set by hand' : ''}`, `${told(n.tip_to_target_mm)} ± ${told(n.uncertainty_mm)}${signed(c.tip_to_target_mm)}`, `${told(n.lateral_mm)}${signed(c.lateral_mm)}`, `${told(n.angle_deg, '°')}${signed(c.angle_deg)}`, n.breach_grade || '—', moved(n.change))); });
  });
  return el('table', { class: 'or-table' }, el('caption', {}, 'Scans of this case (in brackets: change since the scan before)'),
    el('thead', {}, el('tr', {}, ['Scan', 'At', 'Verdict', 'Needle', 'Tip to target, mm', 'Beside the path, mm', 'Angle', 'Breach', 'Tip moved'].map((t) => el('th', { scope: 'col' }, t)))), el('tbody', {}, rows));
}

function corrections() {
  const rows = list.scans.flatMap((scan) => scan.corrections.map((c) => el('li', { class: c.kind === 'set' && !c.stands ? 'dim' : '' }, `Scan ${scan.number}, no. ${c.number}, ${clock(new Date(c.at))}, ${c.by}: ${c.kind === 'undo' ? `took back no. ${c.undoes}` : c.changes.map((k) => `${k.pedicle} needle ${ends(k)}`).join('; ')}. Why: ${c.reason}${c.kind === 'set' && !c.stands ? ' (taken back)' : ''}`)));
  return rows.length ? el('section', { class: 'or-corrections' }, el('strong', {}, 'Set by hand'), el('ul', {}, rows)) : null;
}

function ends(change) {
  const gap = (name) => (change.from && change.from[name] && change.to[name] ? Math.hypot(...change.to[name].map((v, i) => v - change.from[name][i])) : null);
  const tip = gap('tip'); const entry = gap('entry');
  if (!change.from) return 'added';
  return [tip > 0.05 ? `tip moved ${fixed(tip)} mm` : '', entry > 0.05 ? `entry moved ${fixed(entry)} mm` : ''].filter(Boolean).join(', ') || 'points confirmed';
}

// A point is moved along the needle and along the vertebra's own axes, as one reads it off the images.
function shifted(needle, point, by) {
  const { left, superior } = list.frame;
  return point.map((v, i) => v + by.deeper * needle.axis[i] + by.left * left[i] + by.up * superior[i]);
}

function handSet() {
  const scan = list.scans[list.scans.length - 1];
  // Where no needle was found one starts from the planned path, and points at tip and entry both.
  const needles = [...scan.needles, ...list.planned.filter((path) => !scan.needles.some((n) => n.pedicle === path.pedicle)).map((path) => ({ ...path, fromPlan: true }))];
  if (!list.by_hand || !['ready', 'not_measurable'].includes(now.status) || scan.scan_id !== now.scan_id || !list.frame || !needles.length) return null;
  const field = (label, attributes) => el('label', {}, el('span', {}, label), el('input', { autocomplete: 'off', ...attributes }));
  const side = el('select', { name: 'side' }, needles.map((n) => el('option', { value: n.pedicle }, `${n.pedicle} needle${n.fromPlan ? ', not found' : ''}`)));
  const moves = (which) => el('fieldset', {}, el('legend', {}, `${which === 'tip' ? 'Tip' : 'Entry'}, mm`), AXES.map(([name, label]) => field(label, { name: `${which}-${name}`, type: 'number', step: '0.1', min: -30, max: 30, value: 0 })));
  const items = ((scan.pictures || {}).items || []).filter((item) => item.plane);
  const needleNow = () => needles.find((n) => n.pedicle === side.value);
  const would = el('p', { class: 'or-would', role: 'status' });
  const point = el('button', { type: 'button', class: 'or-point', onclick: () => pick(needleNow(), items, (set) => put(form, needleNow(), set, tell)) }, 'Point on the slices');
  const form = el('form', { class: 'cement' }, side, items.length ? point : null, moves('tip'), moves('entry'), would, field('Why (no patient name)', { name: 'reason', required: '', maxlength: 500, class: 'wide' }),
    field('Name', { name: 'username', required: '' }), field('Password', { name: 'password', type: 'password', required: '' }),
    el('button', { type: 'submit', value: 'set' }, 'Set by hand'), scan.corrections.some((c) => c.stands) ? el('button', { type: 'submit', value: 'undo' }, 'Take the last one back') : null, el('div', { class: 'refused' }));
  // What is going to be signed for, as points of the planning CT.
  const tell = () => { const sent = points(needleNow(), (name) => form.elements[name].value); would.textContent = ['tip', 'entry'].filter((n) => sent[n]).map((n) => `${n === 'tip' ? 'Tip' : 'Entry'} to be set: ${inWords(sent[n])} mm`).join(' · '); };
  form.addEventListener('input', tell); side.addEventListener('change', () => { put(form, needleNow(), {}, tell); });
  tell();
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    const value = (name) => form.elements[name].value; const path = `/api/v1/cases/${caseId}/verification/corrections`;
    const common = { scan_id: scan.scan_id, username: value('username'), password: value('password'), reason: value('reason') };
    form.elements.password.value = '';
    const undo = event.submitter && event.submitter.value === 'undo';
    if (await busy(form, $('.refused', form), () => (undo ? post(`${path}/undo`, common) : post(path, { ...common, needles: [points(needleNow(), value)] })))) refresh();
  });
  return el('details', { class: 'or-panel or-correct' }, el('summary', {}, 'Set tip or entry by hand'), el('p', { class: 'dim' }, scan.needles.length ? 'For a surgeon who sees on the images that a point is wrong. The measured result stays on record, the figures are computed anew, and the verdict is then never “accurate”.' : 'The vertebra was found in this scan, but no needle. A surgeon who sees one on the slices can point at its tip and its entry, both; the figures come from these points, and the verdict is never “accurate”. That nothing was measured stays on record.'), form);
}

// The points pointed at, as shifts along the three directions of the form's fields.
function put(form, needle, set, tell) {
  const { left, superior } = list.frame;
  for (const which of ['tip', 'entry']) {
    const by = set[which] ? shares(set[which].map((v, i) => v - needle[which][i]), [needle.axis, left, superior]) : [0, 0, 0];
    AXES.forEach(([name], i) => { form.elements[`${which}-${name}`].value = by[i].toFixed(1); });
  }
  tell();
}

// Shares of three directions, not at right angles, that add up to `move` (Cramer's rule).
function shares(move, [a, b, c]) {
  const cross = (u, v) => [u[1] * v[2] - u[2] * v[1], u[2] * v[0] - u[0] * v[2], u[0] * v[1] - u[1] * v[0]];
  const dot = (u, v) => u.reduce((sum, x, i) => sum + x * v[i], 0);
  const whole = dot(a, cross(b, c));
  return [dot(move, cross(b, c)) / whole, dot(a, cross(move, c)) / whole, dot(a, cross(b, move)) / whole];
}

function points(needle, value) {
  const sent = { pedicle: needle.pedicle };
  for (const which of ['tip', 'entry']) {
    const by = Object.fromEntries(AXES.map(([name]) => [name, Number(value(`${which}-${name}`)) || 0]));
    if (Object.values(by).some((v) => v) && needle[which]) sent[which] = shifted(needle, needle[which], by);
  }
  // Nothing was moved: the points shown are confirmed by hand. A planned path is no point that somebody has seen.
  return needle.fromPlan || sent.tip || sent.entry ? sent : { ...sent, tip: needle.tip };
}
