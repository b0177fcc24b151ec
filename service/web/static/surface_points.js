// Points on the outer surface of the target bone, where the outline left it: added by a click, moved while the button is held, taken away.

import { el, fixed } from './core.js';

export const MOST = 30;
export const COLOUR = '#009e73';

export class SurfacePoints {
  /** `onChange()` after each change; `look(point)` shows a place; `here()` is the cross-hair's. */
  constructor(root, { onChange, look, here }) {
    Object.assign(this, { onChange, look, here, points: [] });
    this.count = el('span', { class: 'done dim' });
    this.list = el('ol', { class: 'surface-list' });
    this.full = el('p', { class: 'dim', role: 'status', hidden: true }, `${MOST} points are the most; with so many wrong places correct the mask instead.`);
    root.append(this.count, el('div', { class: 'surface-box' }, this.list, this.full,
      el('button', { type: 'button', class: 'small', onclick: () => this.pick(this.here()) }, 'Add at the cross-hair')));
    this.draw();
  }

  /** A click adds a point; while the mouse is held, the last one follows it. */
  pick(point, moving = false) {
    const rounded = point.map((x) => Math.round(x * 10) / 10);
    if (moving) { if (!this.held) return; this.points[this.points.length - 1] = rounded; } else {
      this.held = this.points.length < MOST;
      this.full.hidden = this.held;
      if (!this.held) return;
      this.points.push(rounded);
    }
    this.draw();
    this.onChange();
  }

  set(points) { this.points = points.map((p) => [...p]); this.draw(); this.onChange(); }

  takeAway(index) {
    this.points.splice(index, 1);
    this.held = false; this.full.hidden = true;
    this.draw();
    this.onChange();
  }

  get marks() { return this.points.map((p, i) => ({ p, colour: COLOUR, label: `S${i + 1}` })); }

  draw() {
    this.count.textContent = this.points.length ? `✓ ${this.points.length} placed` : 'only where the outline is wrong';
    this.list.replaceChildren(...this.points.map((p, i) => el('li', {},
      el('button', { type: 'button', class: 'small at', title: 'Show this place', 'aria-label': `Show surface point ${i + 1}`, onclick: () => this.look(p) }, p.map((x) => fixed(x, 1)).join(', ')),
      el('button', { type: 'button', class: 'small', 'aria-label': `Take surface point ${i + 1} away`, onclick: () => this.takeAway(i) }, 'Take away'))));
  }
}
