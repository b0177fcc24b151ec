// Tip and entry pointed at on the slices along the needle. A picture's plane is known, so a pixel is a point of the
// planning CT (LPS mm). One slice moves a point within its own plane; the other slice gives the third direction.

import { $, el, fixed, svg } from './core.js';
import { pictureUrl } from './or_pictures.js';

const dot = (a, b) => a.reduce((sum, v, i) => sum + v * b[i], 0);
const plus = (a, b, by) => a.map((v, i) => v + by * b[i]);
const NAMES = { tip: 'Tip', entry: 'Entry' };
const LETTERS = [['L', 'R'], ['P', 'A'], ['S', 'I']];

/** Column and row in the whole picture. */
export function pixelOf(plane, point) {
  const off = point.map((v, i) => v - plane.origin[i]);
  return [plane.x + dot(off, plane.right) / plane.mm_per_pixel, plane.y + dot(off, plane.down) / plane.mm_per_pixel];
}

/** `point` moved within the plane to a pixel; how far it lies from the plane stays. Null beside the slice. */
export function movedTo(plane, point, column, row) {
  const c = column - plane.x; const r = row - plane.y;
  if (c < 0 || r < 0 || c > plane.columns - 1 || r > plane.rows - 1) return null;
  const off = point.map((v, i) => v - plane.origin[i]);
  const right = c * plane.mm_per_pixel - dot(off, plane.right); const down = r * plane.mm_per_pixel - dot(off, plane.down);
  return plus(plus(point, plane.right, right), plane.down, down);
}

export const inWords = (point) => point.map((v, i) => `${LETTERS[i][v < 0 ? 1 : 0]} ${fixed(Math.abs(v))}`).join('  ');

/** Opens over the page; `done({tip, entry})` gets the points that were moved. */
export function pick(needle, items, done) {
  const points = { tip: [...needle.tip], entry: needle.entry ? [...needle.entry] : null };
  let which = 'tip'; const views = [];
  const readout = el('div', { class: 'or-readout', role: 'status' });
  const choice = el('div', { class: 'or-tabs' }, Object.keys(NAMES).filter((name) => points[name]).map((name) => el('button', { type: 'button', 'data-which': name, onclick: () => { which = name; draw(); } }, `Set the ${NAMES[name].toLowerCase()}`)));
  const moved = (name) => (points[name] ? Math.hypot(...points[name].map((v, i) => v - needle[name][i])) : 0);
  function draw() {
    choice.querySelectorAll('button').forEach((b) => b.setAttribute('aria-selected', String(b.dataset.which === which)));
    for (const view of views) view.marks.replaceChildren(...Object.keys(NAMES).filter((name) => points[name]).flatMap((name) => mark(pixelOf(view.plane, points[name]), name, name === which)));
    readout.replaceChildren(...Object.keys(NAMES).filter((name) => points[name]).map((name) => el('span', {}, `${NAMES[name]}: ${inWords(points[name])} mm${moved(name) > 0.05 ? `, moved ${fixed(moved(name))} mm` : needle.fromPlan ? ', as planned: point at it' : ', as measured'}`)));
  }
  const slices = items.filter((item) => item.plane && item.pedicle === needle.pedicle).map((item) => {
    const image = el('img', { alt: item.title }); const marks = svg('g');
    const layer = svg('svg', { viewBox: `0 0 ${item.width} ${item.height}`, 'aria-hidden': 'true' }, marks);
    const holder = el('div', { class: 'or-pick-slice', 'data-slice': item.name, onclick: (event) => {
      const area = image.getBoundingClientRect();
      const point = movedTo(item.plane, points[which], ((event.clientX - area.left) / area.width) * item.width - 0.5, ((event.clientY - area.top) / area.height) * item.height - 0.5);
      if (point) { points[which] = point; draw(); }
    } }, image, layer);
    holder.style.aspectRatio = `${item.plane.x + item.plane.columns} / ${item.plane.y + item.plane.rows}`;
    for (const part of [image, layer]) part.style.width = `${(100 * item.width) / (item.plane.x + item.plane.columns)}%`;
    pictureUrl(item.href).then((url) => { image.src = url; }, () => { holder.append(el('span', { class: 'or-loading' }, 'This picture could not be loaded. Close and open again.')); });
    views.push({ plane: item.plane, marks });
    return holder;
  });
  const close = () => overlay.remove();
  const overlay = el('div', { class: 'or-full', role: 'dialog', 'aria-modal': 'true', 'aria-label': 'Point at tip and entry' },
    el('div', { class: 'or-full-bar' }, choice, readout, el('button', { type: 'button', class: 'or-big', onclick: close }, 'Cancel'),
      el('button', { type: 'button', class: 'or-big', 'data-take': true, onclick: () => { close(); done(Object.fromEntries(Object.entries(points).filter(([name, p]) => p && moved(name) > 0.05))); } }, 'Use these points')),
    el('div', { class: 'or-pick' }, slices));
  overlay.addEventListener('keydown', (event) => { if (event.key === 'Escape') close(); });
  document.body.append(overlay);
  draw();
  $('[data-take]', overlay).focus();
}

function mark([x, y], name, chosen) {
  const [r, tone] = [chosen ? 16 : 10, chosen ? '#ffffff' : '#b9c6cf'];
  const line = (d, width, colour) => svg('path', { d, fill: 'none', stroke: colour, 'stroke-width': width });
  const d = `M${x - r} ${y}H${x - 4}M${x + 4} ${y}H${x + r}M${x} ${y - r}V${y - 4}M${x} ${y + 4}V${y + r}`;
  const word = svg('text', { x: x + r + 4, y: y - 6, fill: tone, 'font-size': 22, 'font-weight': 700, stroke: '#0c1318', 'stroke-width': 4, 'paint-order': 'stroke' });
  word.textContent = NAMES[name];
  return [line(d, 6, '#0c1318'), line(d, 3, tone), word];
}
