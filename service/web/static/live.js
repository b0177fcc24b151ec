// How a study stands, counted on every second between two answers of the service.

import { el } from './core.js';

const lines = new Set();

/** Seconds as long as they are worth counting; `_span` of the service says the same. */
export function span(seconds) {
  for (const [unit, length] of [['s', 1], ['min', 60], ['h', 3600]]) {
    if (seconds < 120 * length) return `${Math.floor(Math.max(0, seconds) / length)} ${unit}`;
  }
  return `${Math.floor(seconds / 86400)} days`;
}

function words(live) {
  const passed = (performance.now() - live.shownAt) / 1000;
  const parts = [live.lead];
  if (live.receiving) parts.push(`last ${span(live.last_s + passed)} ago`);
  if (live.closes_in_s !== null) {
    const left = live.closes_in_s - passed;
    parts.push(left > 0 ? `closes in ${span(Math.ceil(left))}` : 'closing now');
  } else if (live.tail) parts.push(live.tail);
  return parts.join(', ');
}

/** A line of text over `live` of a study; its ages are as of the answer that brought it. */
export function liveLine(live) {
  // The same answer may be drawn again later: what passed since it came must not be lost.
  if (live.shownAt === undefined) live.shownAt = performance.now();
  const node = el('span', { class: 'live' }, words(live));
  if (live.receiving) lines.add([node, live]);
  return node;
}

setInterval(() => {
  for (const line of lines) {
    const [node, live] = line;
    if (node.isConnected) node.textContent = words(live); else lines.delete(line);
  }
}, 1000);
