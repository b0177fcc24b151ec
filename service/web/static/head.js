// The line on top of every page about one case.

import { $, caseId, dicomDay, el, fill, personName, stateBadge } from './core.js';

export function drawHead(detail, here) {
  const p = detail.study.patient;
  const link = (name, path) => (here === name ? null : el('a', { class: 'button', href: `/cases/${caseId}${path}` }, name));
  fill($('#case-head'),
    el('h1', {}, el('span', { class: 'code' }, detail.code)),
    detail.level ? el('span', { class: 'big-level' }, detail.level) : null,
    stateBadge(detail.state),
    p ? el('span', {}, el('strong', {}, personName(p.name) || 'no name'), el('span', { class: 'dim' }, `  born ${dicomDay(p.birth_date) || '?'} · ID ${p.id}`)) : null,
    el('span', { class: 'spacer' }),
    link('Case', ''),
    ['RECEIVED', 'PLAN_READY'].includes(detail.state) ? link('Inputs', '/plan') : null,
    detail.artifacts.plan ? link('Review', '/review') : null,
    detail.scans.length || ['ISSUED', 'USED', 'VERIFYING', 'VERIFIED'].includes(detail.state) ? el('a', { class: 'button', href: `/or/${caseId}` }, 'OR view') : null,
  );
}
