// The print room's wall screen: reads only, never a patient's name.

import { $, adoptToken, clock, duration, el, fill, plain, poll, price, progressBar, showProblem, STATES, watchStaleness } from './core.js';

adoptToken();
let printers = []; let jobs = []; let cases = []; let queue = []; let readAt = performance.now();
const OLD_S = 15;
const PRINTER = {
  idle: ['good', 'Idle'], busy: ['work', 'Busy'], awaiting_removal: ['alert', 'Ended, outcome unknown: look at the part'], needs_person: ['alert', 'Needs a person'],
  booting: ['work', 'Starting up'], error: ['alert', 'Error'], silent: ['alert', 'Does not answer'],
};
const JOB = { INTENT: 'about to be sent', SENDING: 'being sent', QUEUED: 'waits in the printer\'s own queue', PRINTING: 'printing', PAUSED: 'paused', AWAITING_REMOVAL: 'ended', UNKNOWN: 'unknown: look at the printer, then settle the job' };
const QUEUE = ['NEEDS_ATTENTION', 'SLICED', 'PRINTING', 'PRINTED', 'APPROVED', 'PLAN_READY', 'BUILDING', 'RECEIVED', 'RECEIVING', 'QA_PASSED'];
const TONE = { NEEDS_ATTENTION: 'alert', SLICED: 'ask', PRINTED: 'ask', PRINTING: 'work', APPROVED: 'work', BUILDING: 'work' };

const DAY = new Intl.DateTimeFormat('en-GB', { weekday: 'short', day: '2-digit', month: 'short', hour: '2-digit', minute: '2-digit' });
const codeOf = (id) => { const c = cases.find((x) => x.id === id); return c ? `${c.code} · ${c.level || '?'}` : ''; };

/** How what lies on the plate ended: only a finished print is a part to take off. */
const ended = (x) => (x.outcome === 'finished' ? ['ask', 'Finished: take the part off'] : ['alert', x.outcome === 'unknown' ? PRINTER.awaiting_removal[1] : `${x.outcome_text[0].toUpperCase()}${x.outcome_text.slice(1)}: clear the plate`]);

/** What the printer is doing, by its last reading. */
function printerWords(p) {
  const state = (p.reading || {}).state;
  if (p.age_s === null) return ['ask', 'Not seen yet'];
  if (state === 'awaiting_removal' && p.outcome) return ended(p);
  if (state === 'silent') return ['alert', `Silent since ${DAY.format(new Date(p.read_at))}`];
  return PRINTER[state] || ['ask', plain(state || 'unknown')];
}

function jobWords(job) {
  if (job.state === 'AWAITING_REMOVAL' && job.outcome) return job.outcome === 'unknown' ? 'ended, outcome unknown, awaiting removal' : `${job.outcome_text}, awaiting removal`;
  return JOB[job.state] || plain(job.state).toLowerCase();
}

/** An estimate that has run out is said to have run out. */
function eta(job) {
  if (!job.time_total_s) return 'no estimate from the printer';
  const since = job.state === 'PRINTING' ? (Date.now() - new Date(job.updated_at).getTime()) / 1000 : 0;
  const left = job.time_total_s - (job.time_elapsed_s || 0) - Math.min(60, Math.max(0, since));
  if (left < -30) return `${duration(-left)} over the estimate; no honest end time`;
  const end = new Date(Date.now() + left * 1000);
  return `about ${duration(left)} left, ready about ${clock(end).slice(0, 5)}`;
}

function printerTile(p) {
  const reading = p.reading || {}; const job = jobs.find((j) => j.id === p.reserved_for) || jobs.find((j) => j.printer === p.name && JOB[j.state]);
  const age = p.age_s === null ? null : p.age_s + (performance.now() - readAt) / 1000;
  let [tone, words] = printerWords(p);
  if (age !== null && age > OLD_S) [tone, words] = ['alert', reading.state === 'silent' ? words : `Was: ${words.toLowerCase()}`];
  if (job && job.state === 'UNKNOWN') tone = 'alert';
  return el('article', { class: `tile ${tone}` },
    el('div', { class: 'head' }, el('span', { class: 'name' }, p.name), el('span', { class: 'say' }, words), el('span', { class: age !== null && age > OLD_S ? 'age old' : 'age' }, age === null ? '' : age > OLD_S ? `not read for ${duration(age)}` : `read ${duration(age)} ago`)),
    reading.nozzle_c ? el('div', { class: 'dim' }, `nozzle ${Math.round(reading.nozzle_c)} °C, bed ${Math.round(reading.bed_c || 0)} °C`) : null,
    reading.detail ? el('div', {}, reading.detail) : null, careLine(p.care),
    job ? el('div', {}, el('div', { class: 'say' }, [codeOf(job.case_id), jobWords(job)].filter(Boolean).join(': ')),
      ['PRINTING', 'PAUSED'].includes(job.state) ? [progressBar(job.progress, `print ${job.id}`), el('div', {}, [job.progress === null ? '' : `${Math.round(job.progress * 100)} %`, eta(job)].filter(Boolean).join(' · '))] : null,
      el('div', { class: 'dim' }, job.id)) : null);
}

/** What was done to a printer, newest first; a long list has no place on a wall. */
function careLine(care) {
  if (!care || !care.newest.length) return care && care.printed_h ? el('div', { class: 'dim' }, `${care.printed_h.toFixed(0)} h printed, no maintenance noted`) : null;
  return el('div', { class: 'dim care' }, care.newest.slice(0, 3).map((n) => `${n.text} ${n.printed_h_since.toFixed(0)} printing hours ago`).join(' · '));
}

function caseTile(c) {
  const job = jobs.find((j) => j.case_id === c.id && JOB[j.state]);
  const tone = (job && (job.printer_silent_since ? 'alert' : { UNKNOWN: 'alert', AWAITING_REMOVAL: job.outcome === 'finished' ? 'ask' : 'alert' }[job.state])) || (c.schedule && c.schedule.late ? 'alert' : TONE[c.state]) || '';
  return el('article', { class: `tile slim ${tone}` },
    el('div', { class: 'head' }, el('span', { class: 'name' }, c.code), el('span', { class: 'say' }, c.level || '–'), el('span', { class: 'say' }, STATES[c.state]),
      c.surgery_at ? el('span', { class: 'age' }, `surgery ${new Intl.DateTimeFormat('en-GB', { weekday: 'short', day: '2-digit', month: 'short', hour: '2-digit', minute: '2-digit' }).format(new Date(c.surgery_at))}`) : null),
    el('div', {}, c.waiting_for),
    c.schedule ? el('div', { class: c.schedule.late ? 'plan-line late' : 'plan-line dim' }, c.schedule.verdict) : null,
    c.progress ? progressBar(c.progress.fraction, c.progress.stage) : null);
}

/** One line a waiting case, by the time of its operation, with what the forecast says. */
function queueLine(row) {
  const late = row.overdue || (row.late_h !== null && row.late_h > 0);
  const tooLate = row.late_h > 0 ? `, ${duration(row.late_h * 3600)} TOO LATE` : '';
  const forecast = row.ready_by ? `on ${row.printer}, ready ${DAY.format(new Date(row.ready_by))}${tooLate}` : row.no_forecast || 'no forecast';
  return el('div', { class: `tile slim ${late ? 'alert' : ''}` }, el('div', { class: 'head' }, el('span', { class: 'say' }, `${row.place}.`), el('span', { class: 'name' }, row.code), el('span', { class: 'age' }, row.surgery_at ? `surgery ${DAY.format(new Date(row.surgery_at))}${row.overdue ? ', PASSED' : ''}` : 'no surgery set')),
    el('div', {}, `prints ${[duration(row.print_time_s), row.weight_g ? `${Math.round(row.weight_g)} g` : '', price(row.cost)].filter(Boolean).join(', ')}${row.ready_by ? ', ' : '. '}${forecast}`));
}

/** Printers the times above do not count on, where others they do. */
function notCounted() {
  const out = queue.some((row) => row.ready_by) ? queue[0].not_counted : [];
  return out.length ? el('p', { class: 'dim' }, `Not counted on: ${out.join('; ')}.`) : null;
}

function draw() {
  fill($('#next'), queue.length ? [queue.slice(0, 5).map(queueLine), queue.length > 5 ? el('p', { class: 'dim' }, `and ${queue.length - 5} more`) : null, notCounted()] : el('p', { class: 'dim' }, 'Nothing waits for a printer.'));
  fill($('#printers'), printers.length ? printers.map(printerTile) : el('p', { class: 'dim' }, 'No printer is configured.'));
  const shown = cases.filter((c) => QUEUE.includes(c.state)).sort((a, b) => QUEUE.indexOf(a.state) - QUEUE.indexOf(b.state) || (a.surgery_at || '9').localeCompare(b.surgery_at || '9'));
  const box = $('#queue');
  fill(box, shown.length ? shown.map(caseTile) : el('p', { class: 'dim' }, 'No case is on its way.'));
  fit(box, shown.length);
}

/** Nobody scrolls a wall screen: what does not fit is counted. */
function fit(box, total) {
  const rest = el('p', { class: 'dim' });
  const room = () => document.documentElement.scrollHeight <= window.innerHeight + 1;
  if (room() || window.innerWidth <= 1100) return;
  box.append(rest);
  while (!room() && box.children.length > 4) {
    box.children[box.children.length - 2].remove();
    rest.textContent = `and ${total - box.children.length + 1} more`;
  }
}

const onProblem = (problem) => {
  if (problem && [401, 403].includes(problem.status)) showProblem($('#problems'), problem); else if (!problem) showProblem($('#problems'), null);
};
poll('/api/v1/printers', (body, changed) => { if (changed) { printers = body; readAt = performance.now(); } }, { onProblem });
poll('/api/v1/print-jobs', (body, changed) => { if (changed) jobs = body; });
poll('/api/v1/cases', (body, changed) => { if (changed) cases = body; });
poll('/api/v1/print-queue', (body, changed) => { if (changed) queue = body; });
setInterval(() => { $('#clock').textContent = clock(new Date()).slice(0, 5); draw(); }, 1000);
watchStaleness();
