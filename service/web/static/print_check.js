/** What the audit proved about the G-code, and how the part is predicted to print. */
import { duration, el, facts, fill, fixed, get, price } from './core.js';

let drawn = '';
let onScreen = null;

/** The G-code whose audit and predicted print stand on the screen: its hash, and the two distances in words; or null. */
export const shownPrint = () => onScreen;

const diameter = (hole) => (hole.free_radius_mm === null ? 'free' : `${fixed(2 * hole.free_radius_mm, 2)} mm`);
const share = (value) => (value === null || value === undefined ? '—' : `${(100 * value).toFixed(1)} %`);

/** Time, plastic and, where the hospital states prices, cost of the print. */
function taken(report) {
  const rows = report.print_time_s ? [['Printing time', duration(report.print_time_s)]] : [];
  if (report.weight_g) rows.push(['Plastic, supports and brim included', `${fixed(report.weight_g, 1)} g`]);
  if (report.cost) rows.push(['Estimated cost', price(report.cost)]);
  return rows;
}

function figures(report) {
  const m = report.measures || {}; const p = m.printed;
  const rows = [['Audit', report.passed ? 'passed' : 'failed'], ...taken(report), ['Plastic / volume of the model', fixed(m.part_over_mesh, 3)]];
  if ((m.channels || []).length) rows.push(['Channels, free', m.channels.map(diameter).join(', ')]);
  if ((m.vents || []).length) rows.push(['Vents, free', m.vents.map(diameter).join(', ')]);
  if (p) rows.push(['Printed surface from the model', `${fixed(p.surface_p95_mm, 2)} mm (95th percentile), ${fixed(p.surface_mean_abs_mm, 2)} mm on average`], ['Surface more than 0.5 mm off', share(p.surface_off_share)], ['Wall as printed', `${fixed(p.wall_mean_mm, 2)} mm on average, ${fixed(p.wall_p1_mm, 2)} mm at the 1st percentile`], ['Walls under 1.6 mm', share(p.wall_thin_share)]);
  if (p && p.bone) rows.push(['Printed surface from the bone in the CT', p.bone.p95_mm === undefined ? `not measured: ${p.bone.reason}` : `${fixed(p.bone.p95_mm, 2)} mm (95th percentile), ${fixed(p.bone.mean_abs_mm, 2)} mm on average; ${share(p.bone.left_out_share)} left out (channels, vents, marks)`]);
  return rows;
}

function errorMap(artifact, caption) {
  return artifact ? el('figure', { class: 'wide-figure' }, el('a', { href: artifact.href }, el('img', { class: 'wide-picture', src: artifact.href, alt: caption })), el('figcaption', { class: 'dim' }, caption)) : null;
}

const distance = (value) => (value === undefined || value === null ? 'not measured' : `${fixed(value, 2)} mm`);

/** Draws into `node` once for each G-code; `node`'s section is hidden while there is none of the present model (`sliced`). */
export async function drawPrintCheck(node, artifacts, sliced) {
  const { gcode, gcode_report: audit, print_errors: model, print_bone_errors: bone } = artifacts;
  const there = Boolean(audit && gcode && sliced);
  node.closest('section').hidden = !there;
  if (!there) { drawn = ''; onScreen = null; return; }
  if (audit.sha256 === drawn) { if (onScreen) onScreen.gcode = gcode.sha256; return; }
  drawn = audit.sha256; onScreen = null;
  let report;
  try { report = await get(audit.href); } catch (error) { drawn = ''; throw error; }
  fill(node, facts(figures(report)), errorMap(model, 'Predicted print against the model: blue where less and red where more is printed.'),
    errorMap(bone, 'Predicted print against the bone in the CT: blue less, red more; yellow is left out (channels, vents, marks).'),
    el('p', { class: 'dim' }, 'Predicted from the G-code; sagging, warping and the steps of the layers are not in it. Not a medical device.'));
  const p = (report.measures || {}).printed || {};
  onScreen = { gcode: gcode.sha256, words: `surface off (95th percentile) from the model ${distance(p.surface_p95_mm)}, from the bone in the CT ${distance((p.bone || {}).p95_mm)}` };
}
