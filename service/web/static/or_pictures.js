// Beside the answer: slices along each needle and a 3-D picture, once they are drawn. A tap makes one fill the screen.

import { $, Problem, busy, caseId, el, fill, getBlob, post } from './core.js';

const box = el('aside', { id: 'pictures', 'aria-label': 'Pictures of the scan', hidden: true });
const urls = new Map();
let about = ''; let shown = null; let tab = ''; let refresh = () => {}; let full = null;

const SIDES = { left: 'Left needle', right: 'Right needle' };
const tabOf = (item) => item.pedicle || '3-D';

export function setUpPictures(beside, again) { beside.after(box); refresh = again; }

// Called with every answer; drawn anew only when there is something else to show.
export function showPictures(body) {
  const pictures = body.pictures && ['ready', 'not_measurable'].includes(body.status) ? body.pictures : null;
  const now = pictures ? `${body.scan_id} ${body.report_version} ${pictures.state} ${pictures.items.map((i) => i.sha256).join()}` : '';
  if (now === about) return;
  about = now; shown = body;
  closeFull(); forget();
  box.hidden = !pictures; box.dataset.state = pictures ? pictures.state : '';
  document.body.classList.toggle('with-pictures', Boolean(pictures));
  if (pictures) draw(pictures); else box.replaceChildren();
}

function forget() { urls.forEach((made) => made.then(URL.revokeObjectURL, () => {})); urls.clear(); }

// The picture as an address of this page: with a screen's token the browser cannot fetch it by itself.
export function pictureUrl(href) {
  if (!urls.has(href)) {
    const made = getBlob(href).then((blob) => URL.createObjectURL(blob));
    made.catch(() => urls.delete(href));
    urls.set(href, made);
  }
  return urls.get(href);
}

function draw(pictures) {
  if (pictures.state === 'making') { fill(box, el('div', { class: 'or-wait', role: 'status' }, el('strong', {}, 'Pictures are being drawn …'), 'They appear here by themselves. The figures do not wait for them.')); return; }
  if (pictures.state !== 'ready') { fill(box, missing(pictures)); return; }
  const tabs = [...new Set(pictures.items.map(tabOf))];
  if (!tabs.includes(tab)) [tab] = tabs;
  const chosen = pictures.items.filter((item) => tabOf(item) === tab);
  const bar = tabs.length < 2 ? null : el('div', { class: 'or-tabs', role: 'tablist' }, tabs.map((name) => el('button', { type: 'button', role: 'tab', 'aria-selected': String(name === tab), onclick: () => { tab = name; draw(pictures); } }, SIDES[name] || name)));
  fill(box, bar, chosen.map((item) => tile(item, pictures.items)));
}

function missing(pictures) {
  const slot = el('div', { class: 'refused' }); const failed = pictures.state === 'failed';
  const part = el('div', { class: 'or-wait', role: 'status' }, el('strong', {}, failed ? 'The pictures could not be drawn.' : 'There are no pictures of this scan yet.'),
    failed ? el('span', {}, `${pictures.reason || ''} ${pictures.next_step || ''} The figures stand.`) : null, slot);
  part.append(el('button', { type: 'button', class: 'or-big', onclick: async () => { if (await busy(part, slot, () => post(`/api/v1/cases/${caseId}/verification/scans/${shown.scan_id}/pictures`))) refresh(); } }, failed ? 'Draw them again' : 'Draw them'));
  return part;
}

function tile(item, items) {
  const image = el('img', { alt: item.title, width: item.width, height: item.height });
  const button = el('button', { type: 'button', class: 'or-tile', 'data-picture': item.name, title: 'Tap to enlarge', onclick: () => openFull(items, item) }, el('span', { class: 'or-loading' }, 'loading …'), image);
  put(item, image, button);
  return button;
}

// Loading, there, or failed with the reason; another tap on a failed one tries again.
async function put(item, image, holder) {
  holder.dataset.loaded = 'no';
  try {
    image.src = await pictureUrl(item.href);
    await image.decode();
    holder.dataset.loaded = 'yes';
  } catch (error) {
    holder.dataset.loaded = 'failed';
    const note = $('.or-loading', holder);
    if (note) note.textContent = `This picture could not be loaded. ${error instanceof Problem ? error.nextStep : 'Tap to try again.'}`;
  }
}

function openFull(items, item) {
  closeFull();
  const step = (by) => openFull(items, items[(items.indexOf(item) + by + items.length) % items.length]);
  const image = el('img', { alt: item.title }); const verdict = $('.verdict');
  const word = verdict ? $('.word', verdict).textContent : ''; const tone = verdict ? verdict.className : 'verdict';
  full = el('div', { class: 'or-full', role: 'dialog', 'aria-modal': 'true', 'aria-label': item.title },
    el('div', { class: `or-full-bar ${tone}` }, verdict ? $('svg', verdict).cloneNode(true) : null, el('strong', {}, word), el('span', {}, item.title),
      el('button', { type: 'button', class: 'or-big', 'aria-label': 'Picture before', onclick: () => step(-1) }, '‹'), el('button', { type: 'button', class: 'or-big', 'aria-label': 'Next picture', onclick: () => step(1) }, '›'),
      el('button', { type: 'button', class: 'or-big', 'data-close': true, onclick: closeFull }, 'Close')),
    el('div', { class: 'or-full-picture', onclick: closeFull }, el('span', { class: 'or-loading' }, 'loading …'), image));
  full.addEventListener('keydown', (event) => {
    if (event.key === 'Escape') closeFull();
    if (event.key === 'ArrowLeft') step(-1);
    if (event.key === 'ArrowRight') step(1);
  });
  document.body.append(full);
  put(item, image, $('.or-full-picture', full));
  $('[data-close]', full).focus();
}

function closeFull() {
  if (!full) return;
  full.remove(); full = null;
}
