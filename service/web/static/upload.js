// Uploading a zip, a folder or files: one request a file, some at a time; what failed can be sent again alone.

import { $, busy, bytes, confirmed, dicomDay, el, fill, get, personName, post, Problem, progressBar, roles, showProblem, stateBadge } from './core.js';

const AT_ONCE = 4;
const MOST_ROWS = 200;
const WAIT_LONGEST_S = 30;
const TRIES = 4;
const MAY_CLOSE = ['planner', 'surgeon', 'technician'].some((r) => roles.has(r));

let items = [];
let uploadId = '';
let running = 0;
let cancelled = false;
let studies = new Set();
let shown = '';

// --- choosing -----------------------------------------------------------------------------------------------

/** 16 random bytes as hex; crypto.randomUUID is missing on pages without HTTPS. */
const newId = () => [...crypto.getRandomValues(new Uint8Array(16))].map((b) => b.toString(16).padStart(2, '0')).join('');

async function* filesUnder(entry) {
  if (entry.isFile) {
    const file = await new Promise((resolve, reject) => { entry.file(resolve, reject); });
    yield [file, entry.fullPath.replace(/^\//, '')];
    return;
  }
  const reader = entry.createReader();
  for (;;) { // a reader gives a hundred at a time, then none
    const some = await new Promise((resolve, reject) => { reader.readEntries(resolve, reject); });
    if (!some.length) return;
    for (const child of some) yield* filesUnder(child);
  }
}

async function dropped(event) {
  event.preventDefault();
  $('#drop').classList.remove('over');
  // Entries must be taken before anything is awaited: the event's list is empty afterwards.
  const entries = [...event.dataTransfer.items].map((i) => i.webkitGetAsEntry && i.webkitGetAsEntry()).filter(Boolean);
  const chosen = [];
  try {
    for (const entry of entries) for await (const found of filesUnder(entry)) chosen.push(found);
  } catch (error) {
    showProblem($('#problems'), new Problem(0, { title: 'A file or folder cannot be read by the browser.', next_step: 'Choose it with the button, or zip it first.' }));
    return;
  }
  add(chosen);
}

function add(chosen) {
  if (!chosen.length) return;
  showProblem($('#problems'), null);
  if (!uploadId) uploadId = newId();
  cancelled = false;
  items.push(...chosen.map(([file, name]) => ({ file, name, state: 'waiting', sent: 0, problem: null, xhr: null, tries: 0, answers: [] })));
  work();
}

// --- sending ------------------------------------------------------------------------------------------------

/** Zips and files with the DICOM mark are sent; the viewers and texts on a disc are not worth the wait. */
async function worthSending(file) {
  const head = new Uint8Array(await file.slice(0, 132).arrayBuffer());
  const text = (from, to) => String.fromCharCode(...head.slice(from, to));
  return text(0, 2) === 'PK' || text(128, 132) === 'DICM';
}

function send(item) {
  return new Promise((resolve, reject) => {
    const xhr = new XMLHttpRequest();
    item.xhr = xhr;
    xhr.open('POST', `/api/v1/uploads?upload=${uploadId}`);
    xhr.responseType = 'json';
    xhr.upload.addEventListener('progress', (e) => { item.sent = Math.min(e.loaded, item.file.size); draw(); });
    xhr.upload.addEventListener('load', () => { item.state = 'working'; item.sent = item.file.size; draw(); });
    xhr.addEventListener('load', () => {
      const body = xhr.response || { title: `The service answered ${xhr.status}.`, next_step: 'Try again; if it repeats, tell the administrator.' };
      if (xhr.status === 200) { resolve(body); return; }
      const problem = new Problem(xhr.status, body);
      problem.waitS = Number(xhr.getResponseHeader('retry-after')) || 0;
      reject(problem);
    });
    const lost = () => reject(new Problem(0, cancelled
      ? { title: 'Cancelled.', code: 'cancelled' }
      : { title: 'The service does not answer, or the file cannot be read any more.', code: 'network', next_step: 'Check the network, then send again what failed.' }));
    xhr.addEventListener('error', lost);
    xhr.addEventListener('abort', lost);
    const form = new FormData();
    form.append('file', item.file, item.name);
    xhr.send(form);
  });
}

async function one(item) {
  try {
    if (!await worthSending(item.file)) {
      take(item, { stored: 0, already_here: 0, kept_aside: 0, not_dicom: 1, not_dicom_names: [item.name], refused: 0, refusals: [], cut_off: null, studies: [] });
      return;
    }
    item.tries += 1;
    take(item, await send(item));
  } catch (error) {
    const problem = error instanceof Problem ? error : new Problem(0, { title: 'The browser cannot read this file.', next_step: 'Choose it again.' });
    if (problem.status === 503 && item.tries < TRIES && !cancelled) {
      item.state = 'waiting';
      item.sent = 0;
      await new Promise((r) => { setTimeout(r, 1000 * Math.min(WAIT_LONGEST_S, problem.waitS || 5)); });
      return;
    }
    item.state = problem.code === 'cancelled' ? 'cancelled' : 'failed';
    item.problem = problem;
  } finally {
    item.xhr = null;
  }
}

function take(item, answer) {
  item.state = 'done';
  item.answers.push(answer);
  if (answer.refused) {
    const [first] = answer.refusals;
    item.problem = new Problem(200, first.name === item.name ? { title: first.message, next_step: first.next_step } : { title: `${answer.refused} of its files refused: see the result.` });
  }
  // What was refused for a reason of ours, or never came whole, is worth another try.
  if (answer.cut_off || answer.refusals.some((r) => r.retryable)) {
    item.state = 'failed';
    item.problem = new Problem(200, { title: (answer.cut_off || answer.refusals.find((r) => r.retryable)).message, next_step: 'Send again what failed.' });
  }
  answer.studies.forEach((s) => studies.add(s));
  if (answer.studies.length) lookSoon(0);
}

async function work() {
  while (running < AT_ONCE && !cancelled) {
    const item = items.find((i) => i.state === 'waiting');
    if (!item) break;
    item.state = 'sending';
    running += 1;
    one(item).finally(() => { running -= 1; draw(); work(); });
  }
  draw();
}

function cancel() {
  cancelled = true;
  for (const item of items) {
    if (item.state === 'waiting') { item.state = 'cancelled'; item.problem = new Problem(0, { title: 'Cancelled.' }); }
    if (item.xhr) item.xhr.abort();
  }
  draw();
}

function retry() {
  cancelled = false;
  for (const item of items) if (item.state === 'failed' || item.state === 'cancelled') Object.assign(item, { state: 'waiting', sent: 0, problem: null, tries: 0 });
  work();
}

function clear() {
  items = []; studies = new Set(); uploadId = ''; shown = '';
  $('#result').hidden = true;
  $('#studies-part').hidden = true;
  draw();
}

// --- drawing ------------------------------------------------------------------------------------------------

const WORDS = { waiting: 'waits', sending: 'being sent', working: 'being taken in', done: 'done', failed: 'failed', cancelled: 'cancelled' };
const ORDER = { failed: 0, 'see the words': 1, sending: 2, working: 2, cancelled: 3, waiting: 4, done: 5, 'left out': 6 };
const TONE = { failed: 'alert', 'see the words': 'ask', sending: 'work', working: 'work', done: 'good' };
let drawing = false;

/** What a row says: a file may be done and yet have something refused in it, or be none of ours. */
function standing(item) {
  if (item.state !== 'done') return item.state;
  if (item.problem) return 'see the words';
  return item.answers.at(-1).not_dicom_names[0] === item.name ? 'left out' : 'done';
}

/** At most once a frame: a folder has thousands of files. */
function draw() {
  if (drawing) return;
  drawing = true;
  requestAnimationFrame(() => { drawing = false; drawNow(); });
}

function drawNow() {
  const count = (...states) => items.filter((i) => states.includes(i.state)).length;
  const active = count('waiting', 'sending', 'working') > 0;
  const failed = count('failed', 'cancelled');
  const total = items.reduce((n, i) => n + i.file.size, 0);
  const sent = items.reduce((n, i) => n + (i.state === 'done' ? i.file.size : i.sent), 0);
  $('#run').hidden = !items.length;
  $('#cancel').hidden = !active;
  $('#retry').hidden = active || !failed;
  $('#retry').textContent = `Send again what failed (${failed})`;
  $('#another').hidden = active;
  $('#total').replaceChildren(
    el('p', { class: 'live' }, `${count('done')} of ${items.length} files, ${bytes(sent)} of ${bytes(total)}`,
      active ? '' : failed ? `; ${failed} not sent` : '; all done'),
    progressBar(total ? sent / total : 1, 'All files'));
  $('#rows').replaceChildren(fileTable());
  drawResult(active);
}

function fileTable() {
  const rows = [...items].sort((a, b) => ORDER[standing(a)] - ORDER[standing(b)]);
  const more = rows.length - MOST_ROWS;
  return el('table', { class: 'tight uploads' }, el('caption', { class: 'hidden' }, 'Files of this upload'),
    el('tbody', {}, rows.slice(0, MOST_ROWS).map((i) => el('tr', {},
      el('th', { scope: 'row' }, i.name, i.problem ? el('div', { class: 'dim' }, i.problem.message, i.problem.nextStep ? ` Next: ${i.problem.nextStep}` : '') : null),
      el('td', { class: 'num' }, bytes(i.file.size)),
      el('td', { class: 'bar-cell' }, i.state === 'sending' ? progressBar(i.file.size ? i.sent / i.file.size : 1, i.name) : i.state === 'working' ? progressBar(null, i.name) : null),
      el('td', {}, el('span', { class: `badge ${TONE[standing(i)] || 'calm'}` }, WORDS[standing(i)] || standing(i))))),
    more > 0 ? el('tr', {}, el('td', { colspan: 4, class: 'dim' }, `and ${more} more`)) : null));
}

function names(list) {
  const some = [...new Set(list)].slice(0, 12);
  return some.join(', ') + (list.length > some.length ? ` and ${list.length - some.length} more` : '');
}

/** Over all files. A file that was sent again counts as its last answer says; what it stored before is not "already here". */
function added() {
  const sums = { stored: 0, already_here: 0, kept_aside: 0, not_dicom: 0, refused: 0 };
  const leftOut = [];
  const refusals = [];
  for (const { answers } of items.filter((i) => i.answers.length)) {
    const last = answers.at(-1);
    const before = answers.slice(0, -1).reduce((n, a) => n + a.stored, 0);
    sums.stored += last.stored + before;
    sums.already_here += Math.max(0, last.already_here - before);
    for (const key of ['kept_aside', 'not_dicom', 'refused']) sums[key] += last[key];
    leftOut.push(...last.not_dicom_names);
    refusals.push(...last.refusals);
  }
  return { sums, leftOut, refusals };
}

function drawResult(active) {
  const { sums, leftOut, refusals } = added();
  const any = Object.values(sums).some((n) => n);
  $('#result').hidden = !any;
  if (!any) return;
  const nothing = !active && !sums.stored && !sums.already_here && !sums.kept_aside && !sums.refused;
  const row = (n, what, note) => (n ? el('tr', {}, el('td', { class: 'num' }, String(n)), el('th', { scope: 'row' }, what, note ? el('div', { class: 'dim' }, note) : null)) : null);
  $('#counts').replaceChildren(...[
    row(sums.stored, 'stored'),
    row(sums.already_here, 'already here', 'The same images came before; nothing was changed.'),
    row(sums.kept_aside, 'kept aside', 'Images with the same identity but other content came before. Both are kept, one of them is used: ask where the other comes from.'),
    row(sums.not_dicom, 'not DICOM, left out', names(leftOut)),
    row(sums.refused, 'refused'),
  ].filter(Boolean));
  const grouped = new Map();
  for (const r of refusals) {
    const key = `${r.message} Next: ${r.next_step}`;
    grouped.set(key, [...(grouped.get(key) || []), r.name]);
  }
  $('#words').replaceChildren(
    ...[...grouped].map(([words, who]) => el('div', { class: 'note' }, el('strong', {}, names(who)), el('div', {}, words))),
    ...(nothing ? [el('div', { class: 'note' }, 'No DICOM images were found in what was chosen. Choose the folder that holds the images, often DICOM or IMAGES.')] : []),
    ...(!active && sums.stored && !sums.refused && !items.some((i) => i.state !== 'done') ? [el('div', { class: 'good-note' }, 'Everything was taken in.')] : []));
}

// --- what becomes of the studies ----------------------------------------------------------------------------

let timer = null;

function lookSoon(ms = 2000) {
  clearTimeout(timer);
  timer = setTimeout(look, ms);
}

async function look() {
  if (!studies.size) return;
  const asked = [...studies].slice(0, 50);
  try {
    drawStudies(await get(`/api/v1/uploads/studies?${new URLSearchParams(asked.map((s) => ['study', s]))}`));
  } catch (error) {
    if (!(error instanceof Problem)) throw error; // the next look tries again
  }
  lookSoon();
}

function drawStudies(rows) {
  const key = JSON.stringify(rows.map((r) => [r.study_uid, r.study && [r.study.state, r.study.live.text, r.study.reason], r.case]));
  if (key === shown || $('#confirm').open) return;
  shown = key;
  $('#studies-part').hidden = !rows.length;
  fill($('#studies'), rows.map(({ study_uid: uid, study, case: found }) => {
    if (!study) return el('div', { class: 'strip' }, el('span', {}, 'A study is being sorted …'));
    const slot = el('div', { class: 'problem-slot' });
    const strip = el('div', { class: 'strip' },
      el('strong', {}, personName(study.patient.name) || 'no name'),
      el('span', {}, `${study.kind === 'oarm' ? 'O-arm scan' : 'CT study'} of ${dicomDay(study.patient.study_date) || 'unknown date'}`),
      found ? stateBadge(found.state) : null,
      el('span', { class: 'live study-live' }, study.reason || study.live.text),
      study.state === 'RECEIVING' && MAY_CLOSE ? el('button', { type: 'button', onclick: async () => {
        if (await confirmed('Is this study complete?', 'It is used as it is now; images that arrive later will not be part of it.', 'Complete now')) {
          await busy(strip, slot, () => post(`/api/v1/studies/${uid}/use-now`));
          lookSoon(300);
        }
      } }, 'Complete now') : null,
      found ? el('a', { class: 'button primary', href: `/cases/${found.id}` }, `Case ${found.code}`) : null,
      slot);
    return strip;
  }));
}

// --- the page -----------------------------------------------------------------------------------------------

const drop = $('#drop');
drop.addEventListener('dragover', (event) => { event.preventDefault(); drop.classList.add('over'); });
drop.addEventListener('dragleave', () => drop.classList.remove('over'));
drop.addEventListener('drop', dropped);
// A file dropped beside the box must not replace the page.
for (const name of ['dragover', 'drop']) window.addEventListener(name, (event) => event.preventDefault());
for (const [button, input] of [['#pick-files', '#files'], ['#pick-folder', '#folder']]) {
  $(button).addEventListener('click', () => $(input).click());
  $(input).addEventListener('change', () => {
    add([...$(input).files].map((f) => [f, f.webkitRelativePath || f.name]));
    $(input).value = '';
  });
}
$('#cancel').addEventListener('click', cancel);
$('#retry').addEventListener('click', retry);
$('#another').addEventListener('click', clear);
window.addEventListener('beforeunload', (event) => { if (items.some((i) => ['waiting', 'sending', 'working'].includes(i.state))) event.preventDefault(); });
