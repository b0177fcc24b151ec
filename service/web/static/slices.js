// Three linked CT planes. A pixel is one LPS point: the server says how, the page never guesses.

import { caseId, el, get, getBlob, showProblem, fixed } from './core.js';

const WINDOWS = { Bone: [300, 1500], Spine: [150, 700], Metal: [1200, 3600] };
const ZOOMS = { 'Whole scan': null, '160 mm': 80, '100 mm': 50, '60 mm': 30 };
const NEAR_MM = 1.5;
const KEPT = 150;

const dot = (a, b) => a[0] * b[0] + a[1] * b[1] + a[2] * b[2];
const sub = (a, b) => [a[0] - b[0], a[1] - b[1], a[2] - b[2]];
const mix = (a, b, t) => [a[0] + (b[0] - a[0]) * t, a[1] + (b[1] - a[1]) * t, a[2] + (b[2] - a[2]) * t];
const LETTERS = [['L', [1, 0, 0]], ['R', [-1, 0, 0]], ['P', [0, 1, 0]], ['A', [0, -1, 0]], ['S', [0, 0, 1]], ['I', [0, 0, -1]]];
const letter = (v) => LETTERS.find(([, axis]) => dot(axis, v) > 0.9)[0];

class Plane {
  constructor(viewer, name, grid) {
    this.viewer = viewer; this.name = name; this.grid = grid;
    this.image = null; this.loading = false; this.wanted = '';
    this.canvas = el('canvas', { tabindex: 0, role: 'img', 'aria-label': `${name} slice; arrow keys move through the slices` });
    this.where = el('span', {});
    this.slider = el('input', { type: 'range', min: grid.low_mm, max: grid.high_mm, step: grid.step_mm, 'aria-label': `${name} position in mm` });
    this.box = el('div', { class: 'plane-box' }, this.canvas);
    this.node = el('div', { class: 'plane', 'data-plane': name }, el('div', { class: 'plane-name' }, el('span', {}, name), this.where), this.box, this.slider);
    this.slider.addEventListener('input', () => viewer.moveAlong(this, Number(this.slider.value)));
    this.canvas.addEventListener('wheel', (e) => { e.preventDefault(); this.step(Math.sign(e.deltaY)); }, { passive: false });
    this.canvas.addEventListener('keydown', (e) => {
      const by = { ArrowUp: -1, ArrowDown: 1, PageUp: -10, PageDown: 10 }[e.key];
      if (by) { e.preventDefault(); this.step(by); }
    });
    this.canvas.addEventListener('pointerdown', (e) => { this.canvas.setPointerCapture(e.pointerId); viewer.pick(this.point(e), false); });
    this.canvas.addEventListener('pointermove', (e) => { if (e.buttons === 1) viewer.pick(this.point(e), true); });
  }

  get at() { return dot(this.viewer.cursor, this.grid.normal); }

  step(count) { this.viewer.moveAlong(this, this.at + count * this.grid.step_mm); }

  point(event) {
    const box = this.canvas.getBoundingClientRect(); const g = this.grid;
    const u = (event.clientX - box.left) / box.width * g.columns - 0.5;
    const v = (event.clientY - box.top) / box.height * g.rows - 0.5;
    return g.origin.map((o, i) => o + (u * g.right[i] + v * g.down[i]) * g.mm_per_pixel + this.at * g.normal[i]);
  }

  /** LPS -> canvas pixels. */
  project(p) {
    const g = this.grid; const d = sub(p, g.origin);
    return [(dot(d, g.right) / g.mm_per_pixel + 0.5) * this.scale, (dot(d, g.down) / g.mm_per_pixel + 0.5) * this.scale];
  }

  async load() {
    const v = this.viewer; const [level, width] = WINDOWS[v.window];
    this.wanted = `/api/v1/cases/${caseId}/slices/${this.name}.png?at=${this.at.toFixed(2)}&${v.area}&level=${level}&width=${width}&outline=${v.outline}`;
    if (this.loading) return;
    this.loading = true;
    try {
      while (this.wanted !== this.shown) {
        const url = this.wanted;
        this.image = await v.picture(url);
        this.shown = url;
        this.draw();
      }
    } catch (error) { showProblem(v.problemSlot, error); } finally { this.loading = false; }
  }

  draw() {
    if (!this.image) return;
    const g = this.grid; const ratio = window.devicePixelRatio || 1;
    const fit = Math.min(this.box.clientWidth / g.columns, this.box.clientHeight / g.rows);
    if (fit <= 0) return;
    this.canvas.style.width = `${g.columns * fit}px`; this.canvas.style.height = `${g.rows * fit}px`;
    this.canvas.width = Math.round(g.columns * fit * ratio); this.canvas.height = Math.round(g.rows * fit * ratio);
    this.scale = fit * ratio;
    const c = this.canvas.getContext('2d');
    c.imageSmoothingQuality = 'high';
    c.drawImage(this.image, 0, 0, this.canvas.width, this.canvas.height);
    c.lineCap = 'round'; c.lineJoin = 'round';
    const unit = ratio;
    this.drawCross(c, unit);
    for (const line of this.viewer.lines) this.drawLine(c, line, unit);
    for (const mark of this.viewer.marks) this.drawMark(c, mark, unit);
    this.drawFrame(c, unit);
    this.where.textContent = `${letterOf(g.normal, this.at)} ${fixed(Math.abs(this.at), 1)} mm`;
    this.slider.value = this.at;
    this.node.dataset.at = this.at.toFixed(2);
  }

  drawCross(c, unit) {
    const [u, v] = this.project(this.viewer.cursor);
    c.strokeStyle = 'rgb(120 200 255 / 45%)'; c.lineWidth = unit;
    c.beginPath(); c.moveTo(u, 0); c.lineTo(u, this.canvas.height); c.moveTo(0, v); c.lineTo(this.canvas.width, v); c.stroke();
  }

  /** The whole path faintly, the part within NEAR_MM of this slice strongly. */
  drawLine(c, line, unit) {
    const depthA = dot(line.a, this.grid.normal) - this.at; const depthB = dot(line.b, this.grid.normal) - this.at;
    const stroke = (p, q, alpha, width) => {
      const [x1, y1] = this.project(p); const [x2, y2] = this.project(q);
      c.globalAlpha = alpha; c.strokeStyle = line.colour; c.lineWidth = width * unit;
      c.beginPath(); c.moveTo(x1, y1); c.lineTo(x2, y2); c.stroke(); c.globalAlpha = 1;
    };
    stroke(line.a, line.b, 0.4, 1.5);
    const slope = depthB - depthA;
    let low = 0; let high = 1;
    if (Math.abs(slope) > 1e-6) {
      const ends = [(-NEAR_MM - depthA) / slope, (NEAR_MM - depthA) / slope].sort((p, q) => p - q);
      low = Math.max(0, ends[0]); high = Math.min(1, ends[1]);
    } else if (Math.abs(depthA) > NEAR_MM) high = -1;
    if (high > low) stroke(mix(line.a, line.b, low), mix(line.a, line.b, high), 1, 3);
    const near = Math.abs(depthB) <= NEAR_MM;
    const [x, y] = this.project(line.b);
    c.globalAlpha = near ? 1 : 0.5; c.fillStyle = line.colour; c.beginPath(); c.arc(x, y, 4 * unit, 0, 7); c.fill();
    const [ex, ey] = this.project(line.a);
    c.strokeStyle = line.colour; c.lineWidth = 2 * unit; c.globalAlpha = Math.abs(depthA) <= NEAR_MM ? 1 : 0.5;
    c.beginPath(); c.arc(ex, ey, 5 * unit, 0, 7); c.stroke(); c.globalAlpha = 1;
  }

  drawMark(c, mark, unit) {
    const [u, v] = this.project(mark.p); const away = Math.abs(dot(mark.p, this.grid.normal) - this.at);
    c.globalAlpha = away <= 3 ? 1 : 0.4; c.lineWidth = 2 * unit; c.strokeStyle = '#000'; c.fillStyle = mark.colour;
    c.beginPath(); c.arc(u, v, 6 * unit, 0, 7); c.fill(); c.stroke();
    c.font = `600 ${13 * unit}px system-ui, sans-serif`; c.textBaseline = 'middle'; c.textAlign = 'left';
    c.lineWidth = 3 * unit; c.strokeText(mark.label, u + 10 * unit, v); c.fillText(mark.label, u + 10 * unit, v);
    c.globalAlpha = 1;
  }

  drawFrame(c, unit) {
    const { width: w, height: h } = this.canvas; const g = this.grid; const minus = (a) => a.map((x) => -x);
    c.fillStyle = '#e8eef2'; c.strokeStyle = '#000'; c.lineWidth = 3 * unit; c.font = `700 ${13 * unit}px system-ui, sans-serif`;
    c.textAlign = 'center'; c.textBaseline = 'middle';
    for (const [text, x, y] of [[letter(g.right), w - 10 * unit, h / 2], [letter(minus(g.right)), 10 * unit, h / 2], [letter(minus(g.down)), w / 2, 11 * unit], [letter(g.down), w / 2, h - 11 * unit]]) {
      c.strokeText(text, x, y); c.fillText(text, x, y);
    }
    const length = 20 / g.mm_per_pixel * this.scale; const y = h - 12 * unit;
    c.lineWidth = 2 * unit; c.strokeStyle = '#e8eef2'; c.beginPath(); c.moveTo(12 * unit, y); c.lineTo(12 * unit + length, y); c.stroke();
    c.font = `${11 * unit}px system-ui, sans-serif`; c.fillText('20 mm', 12 * unit + length / 2, y - 9 * unit);
  }
}

function letterOf(normal, at) { return letter(at < 0 ? normal.map((x) => -x) : normal); }

export class SliceViewer {
  constructor(root, tools, { region, onPick = null, problemSlot }) {
    Object.assign(this, { root, tools, region, onPick, problemSlot });
    this.window = 'Bone'; this.outline = true; this.lines = []; this.marks = []; this.cache = new Map(); this.planes = [];
  }

  /** Ask for the planes and show them. Throws Problem when the CT cannot be read. */
  async open() {
    const info = await this.frame(`region=${this.region}`);
    this.cursor = info.centre;
    const zoom = el('select', { onchange: () => this.zoom(ZOOMS[zoom.value]).catch((error) => showProblem(this.problemSlot, error)) },
      this.region === 'vertebra' ? el('option', {}, 'Vertebra') : null, Object.keys(ZOOMS).map((name) => el('option', {}, name)));
    this.tools.replaceChildren(
      el('label', { class: 'inline' }, 'Show', zoom),
      el('label', { class: 'inline' }, 'Window', el('select', { onchange: (e) => { this.window = e.target.value; this.refresh(); } }, Object.keys(WINDOWS).map((name) => el('option', {}, name)))),
      ...(info.outline ? [el('label', { class: 'inline check' }, el('input', { type: 'checkbox', checked: true, onchange: (e) => { this.outline = e.target.checked; this.refresh(); } }), 'outline')] : []));
    new ResizeObserver(() => this.draw()).observe(this.root);
    this.refresh();
    return info;
  }

  /** Fetch the planes of an area and put them up. */
  async frame(area) {
    const info = await get(`/api/v1/cases/${caseId}/slices?${area}`);
    this.area = area;
    this.planes = Object.entries(info.planes).map(([name, grid]) => new Plane(this, name, grid));
    this.root.replaceChildren(el('div', { class: 'planes' }, this.planes.map((p) => p.node)));
    return info;
  }

  /** A box around the cross-hair; undefined is the vertebra, null the whole scan. */
  async zoom(half) {
    const [x, y, z] = this.cursor.map((v) => v.toFixed(1));
    if (half) await this.frame(`x=${x}&y=${y}&z=${z}&half_mm=${half}`);
    else await this.frame(`region=${half === null ? 'whole' : 'vertebra'}`);
    this.refresh();
  }

  async picture(url) {
    if (!this.cache.has(url)) {
      this.cache.set(url, await createImageBitmap(await getBlob(url)));
      if (this.cache.size > KEPT) this.cache.delete(this.cache.keys().next().value);
    }
    return this.cache.get(url);
  }

  refresh() { this.planes.forEach((p) => { p.draw(); p.load(); }); }

  draw() { this.planes.forEach((p) => p.draw()); }

  moveAlong(plane, at) {
    const g = plane.grid; const clipped = Math.min(g.high_mm, Math.max(g.low_mm, at));
    const by = clipped - dot(this.cursor, g.normal);
    this.look(this.cursor.map((x, i) => x + by * g.normal[i]));
  }

  look(point) { this.cursor = point; this.refresh(); }

  /** `moving`: the mouse is still held since the last pick. */
  pick(point, moving = false) {
    if (this.onPick) this.onPick(point, moving);
    this.look(point);
  }
}
