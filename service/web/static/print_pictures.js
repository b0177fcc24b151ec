/** Pictures of a print: the camera's and those of the inspection, with the form to add one. */
import { busy, el, get, postFile, roles, when } from './core.js';

const KINDS = { first_layer: 'First layer', end: 'End of the print', inspection: 'Inspection' };
const boxes = new Map();

async function load(job, box) {
  const list = await get(`/api/v1/print-jobs/${encodeURIComponent(job.id)}/pictures`);
  box.list.replaceChildren(...list.map((p) => el('figure', {}, el('a', { href: p.href }, el('img', { class: 'thumb', src: p.href, alt: `${KINDS[p.kind] || p.kind}, ${when(p.taken_at)}` })), el('figcaption', { class: 'dim' }, `${KINDS[p.kind] || p.kind}, ${when(p.taken_at)}, ${p.taken_by}`))));
}

function addForm(job, box) {
  const slot = el('div', { class: 'problem-slot', 'aria-live': 'assertive' });
  const file = el('input', { type: 'file', name: 'photo', accept: 'image/jpeg,image/png', required: true });
  const form = el('form', { onsubmit: async (event) => {
    event.preventDefault();
    if (await busy(form, slot, () => send(job, file.files[0]))) { form.reset(); load(job, box).catch(() => {}); }
  } }, el('label', {}, 'Photograph of the part', el('small', {}, 'JPEG or PNG; place and time in the file are thrown away'), file), slot, el('button', { type: 'submit', class: 'small' }, 'Add'));
  return form;
}

function send(job, file) {
  return postFile(`/api/v1/print-jobs/${encodeURIComponent(job.id)}/pictures`, file);
}

/** The pictures of one print, asked for again when the job has changed. */
export function pictures(job) {
  let box = boxes.get(job.id);
  if (!box) {
    box = { list: el('div', { class: 'row' }), missed: el('div', { class: 'dim', hidden: true }, 'First layer: picture missed; the camera was not asked in time.'), seen: '' };
    box.node = el('div', {}, box.missed, box.list, roles.has('technician') || roles.has('planner') ? addForm(job, box) : null);
    boxes.set(job.id, box);
  }
  box.missed.hidden = !job.first_layer_missed;
  if (box.seen !== job.updated_at) { box.seen = job.updated_at; load(job, box).catch(() => { box.seen = ''; }); }
  return box.node;
}
