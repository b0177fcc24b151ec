// Four points on the endplates of a fractured body, in its mid-sagittal plane: placed by clicks in turn, each moved while the button is held.

import { el, fixed } from './core.js';

export const COLOUR = '#f0e442';
const NAMES = ['Upper front', 'Upper back', 'Lower front', 'Lower back'];
const LABELS = ['UF', 'UB', 'LF', 'LB'];

export class EndplatePoints {
  /** `onChange()` after each change; `look(point)` shows a place. */
  constructor(root, { onChange, look }) {
    Object.assign(this, { onChange, look, points: [null, null, null, null], next: 0, held: null });
    this.count = el('span', { class: 'done dim' });
    this.list = el('ul', { class: 'plate-list' });
    this.heights = el('p', { class: 'dim', role: 'status' });
    this.box = el('div', { class: 'surface-box plate-box' },
      el('p', { class: 'dim' }, 'Click on the sagittal slice through the middle of the body. Front is the belly, back the canal.'), this.list, this.heights);
    root.append(this.count, this.box);
    this.draw();
  }

  get placed() { return this.points.filter(Boolean).length; }

  /** The four of the order the service wants, null when none is placed. */
  get all() { return this.placed === 4 ? this.points : null; }

  /** What is missing, in words; empty when none or all are placed. */
  get missing() { return this.placed % 4 ? NAMES.filter((_, i) => !this.points[i]).join(', ') : ''; }

  get marks() { return this.points.flatMap((p, i) => (p ? [{ p, colour: COLOUR, label: LABELS[i] }] : [])); }

  /** A click places the next one; while the mouse is held, it follows. With all placed, a click only looks until one is chosen again. */
  pick(point, moving = false) {
    if (!moving) this.held = this.next;
    if (this.held === null) return;
    this.points[this.held] = point.map((x) => Math.round(x * 10) / 10);
    if (!moving) this.next = this.firstFree();
    this.draw();
    this.onChange();
  }

  firstFree() { const free = this.points.findIndex((p) => !p); return free < 0 ? null : free; }

  set(points) { this.points = points.map((p) => [...p]); this.next = this.firstFree(); this.draw(); this.onChange(); }

  choose(index) {
    this.next = index;
    if (this.points[index]) this.look(this.points[index]);
    this.draw();
  }

  clear(index) {
    this.points[index] = null;
    this.next = index; this.held = null;
    this.draw();
    this.onChange();
  }

  draw() {
    const between = (a, b) => fixed(Math.hypot(...a.map((x, i) => x - b[i])), 1);
    this.box.classList.toggle('empty', !this.placed);
    this.count.textContent = this.placed ? `${this.placed === 4 ? '✓ ' : ''}${this.placed} of 4 placed` : 'required when it lost a third of its height';
    this.heights.textContent = this.all ? `Height in front ${between(this.points[0], this.points[2])} mm, at the back ${between(this.points[1], this.points[3])} mm.` : '';
    this.list.replaceChildren(...NAMES.map((name, i) => el('li', { class: i === this.next ? 'next' : '' },
      el('button', { type: 'button', class: 'small at', 'aria-pressed': String(i === this.next), title: this.points[i] ? 'Show it; the next click places it anew' : 'The next click places it', onclick: () => this.choose(i) }, name),
      el('span', { class: 'where' }, this.points[i] ? this.points[i].map((x) => fixed(x, 1)).join(', ') : i === this.next ? 'click on the slice' : 'not placed'),
      this.points[i] ? el('button', { type: 'button', class: 'small', 'aria-label': `Clear ${name.toLowerCase()}`, onclick: () => this.clear(i) }, 'Clear') : null)));
  }
}
