import { busy, el, plain, post, roles, when } from './core.js';

const STATE = { WAITING: ['work', 'waiting'], DELIVERED: ['good', 'delivered'], REFUSED: ['alert', 'refused'], DEAD: ['alert', 'given up'] };
// Only what the destination has committed to is its final word; "delivered" says that it was taken in.
const COMMITMENT = { WANTED: ['work', 'to be confirmed'], ASKED: ['work', 'confirmation asked for'], COMMITTED: ['good', 'kept for good'], REFUSED: ['alert', 'not kept there'] };

const badge = ([look, text]) => el('span', { class: `badge ${look}` }, text);

/** The table of results on their way; `slot` shows what went wrong with a click, `onChange` draws anew. With the case
    of each when they are of several. */
export function deliveriesTable(list, slot, onChange, withCase = false) {
  const mayRetry = roles.has('admin') || roles.has('technician');
  const rows = list.map((d) => {
    const again = el('td', {});
    if (mayRetry && d.can_retry) {
      again.append(el('button', { type: 'button', class: 'small', 'aria-label': `Send ${plain(d.kind)} to ${d.destination} again now`,
        onclick: async () => { if (await busy(again, slot, () => post(`/api/v1/deliveries/${d.id}/retry`))) onChange(); } }, 'Send again'));
    }
    return el('tr', { 'data-delivery': d.id },
      withCase ? el('td', {}, el('a', { class: 'code', href: `/cases/${d.case_id}` }, d.case_code)) : null,
      el('th', { scope: 'row' }, plain(d.kind), el('div', { class: 'dim' }, `to ${d.destination}`)),
      el('td', {}, badge(STATE[d.state] || ['', d.state]), d.commitment ? [' ', badge(COMMITMENT[d.commitment] || ['', d.commitment])] : null),
      el('td', { class: 'num' }, String(d.tries)),
      el('td', { class: 'dim' }, d.last_status || '—', d.commitment_detail ? el('div', {}, d.commitment_detail) : null),
      el('td', { class: 'dim' }, d.next_try_at && d.tries ? when(d.next_try_at) : ''), again);
  });
  const heads = [...(withCase ? ['Case'] : []), 'Object', 'State', 'Tries', 'Last answer', 'Next try', ''];
  return el('table', { class: 'tight' }, el('thead', {}, el('tr', {}, heads.map((h) => el('th', { scope: 'col' }, h)))), el('tbody', {}, rows));
}
