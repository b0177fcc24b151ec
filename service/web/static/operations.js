// The operations page: what the DICOM node does and whom it turned away, for technicians and administrators.

import { $, busy, confirmed, el, facts, fill, poll, post, roles, short, showProblem, watchStaleness, when } from './core.js';
import { deliveriesTable } from './deliveries.js';
import { span } from './live.js';

let shown = null;
let shownAt = 0;
const echoes = new Map();

const gigabytes = (n) => `${(n / 2 ** 30).toFixed(n < 10 * 2 ** 30 ? 1 : 0)} GB`;
const nothing = (text) => el('p', { class: 'dim' }, text);
const badge = (tone, text) => el('span', { class: `badge ${tone}` }, text);

/** A time as its age, counted on every second; the exact time is in the tooltip. */
function ago(iso) {
  return iso ? el('span', { class: 'nowrap', 'data-since': iso, title: when(iso) }, `${age(iso)} ago`) : el('span', { class: 'dim' }, 'never');
}

/** Seconds since `iso` by the service's own clock, which need not be this computer's. */
function seconds(iso) { return (Date.parse(shown.now) - Date.parse(iso) + performance.now() - shownAt) / 1000; }
function age(iso) { return span(seconds(iso)); }

function table(head, rows, caption) {
  return el('table', { class: 'list' }, el('caption', { class: 'hidden' }, caption),
    el('thead', {}, el('tr', {}, head.map((h) => el('th', { scope: 'col' }, h)))), el('tbody', {}, rows));
}

// --- the node -----------------------------------------------------------------------------------------------

const COUNTERS = [['received', 'images received'], ['duplicates', 'already here'], ['conflicts', 'other content, same UID'], ['associations', 'associations'], ['echoes', 'echoes'], ['aborted', 'aborted'], ['faults', 'connection faults'], ['tls_faults', 'TLS faults'], ['intake_waiting', 'waiting to be sorted'], ['intake_failures', 'sorting failed']];

function counterFacts(counters) {
  const sum = (prefix) => Object.entries(counters).reduce((n, [k, v]) => n + (k.startsWith(prefix) ? v : 0), 0);
  return facts([...COUNTERS.slice(0, 4).map(([k, name]) => [name, String(counters[k] || 0)]), ['associations rejected', String(sum('rejected_'))], ['images refused', String(sum('refused_'))],
    ...COUNTERS.slice(4).map(([k, name]) => [name, k in counters || !['tls_faults', 'intake_failures'].includes(k) ? String(counters[k] || 0) : null])]);
}

function drawNode(node) {
  const open = node.associations;
  return el('div', { class: 'node' },
    el('p', { class: 'row' }, node.running ? badge('good', 'running') : node.stopped ? badge('ask', 'stopped') : badge('alert', 'not running'),
      el('strong', { class: 'mono' }, node.ae_title), el('span', {}, `port ${node.port}`),
      el('span', {}, node.tls_port ? `TLS port ${node.tls_port}` : 'no TLS port'),
      el('span', { class: 'dim' }, `on ${node.name}`),
      node.running ? el('span', {}, 'up for ', el('span', { 'data-up': node.listening_since, title: when(node.listening_since) }, age(node.listening_since))) : el('span', {}, 'last heard ', ago(node.heard_at))),
    node.running ? null : el('div', { class: 'problem' }, el('strong', {}, node.stopped ? 'This node was stopped.' : 'This node has fallen silent.'), el('p', {}, 'Next: see whether its service runs (systemctl status spineprint) and reaches the database. Senders keep what they could not send and try again.')),
    node.running && open.length ? table(['Open association', 'For', 'Images', 'Last image'], open.map((a) => el('tr', {}, el('th', { scope: 'row' }, a.calling_ae), el('td', { 'data-up': a.since }, age(a.since)), el('td', {}, String(a.images)), el('td', {}, a.last_image_at ? ago(a.last_image_at) : el('span', { class: 'dim' }, 'none yet')))), 'Open associations') : null,
    node.running && !open.length ? nothing('No association is open.') : null,
    el('details', {}, el('summary', {}, 'Counts since the start'), counterFacts(node.counters)));
}

function drawNodes() {
  const unfolded = $('#nodes details[open]') !== null;
  fill($('#nodes'), shown.nodes.length ? shown.nodes.map(drawNode) : el('div', { class: 'problem' }, el('strong', {}, 'No DICOM node has been heard of.'), el('p', {}, 'Next: start the service with the role all or dicom.')));
  if (unfolded) document.querySelectorAll('#nodes details').forEach((d) => { d.open = true; });
}

function drawTiles() {
  const d = shown.disk;
  fill($('#disk'), el('p', {}, d.below_reserve ? badge('alert', 'below the reserve') : badge('good', 'enough'), ` ${gigabytes(d.free_bytes)} free`),
    el('p', { class: 'dim' }, `Reserve ${gigabytes(d.reserve_bytes)}. ${d.below_reserve ? 'Images are refused (A700) until space is freed.' : 'Below it, images are refused and the sender keeps them.'}`));
  const states = { RECEIVING: 'being received', COMPLETE: 'complete', MATCHED: 'scans with a case', UNMATCHED: 'scans without a case', REFUSED: 'set aside' };
  fill($('#studies'), facts(Object.entries(states).map(([k, name]) => [name, String(shown.studies[k] || 0)])));
  const sent = shown.deliveries; const stuck = (sent.REFUSED || 0) + (sent.DEAD || 0);
  fill($('#deliveries'), el('p', {}, stuck ? badge('alert', `${stuck} not taken`) : badge('good', 'nothing stuck')),
    facts([['delivered', String(sent.DELIVERED || 0)], ['on the way', String(sent.WAITING || 0)], ['refused', String(sent.REFUSED || 0)], ['given up', String(sent.DEAD || 0)]]),
    el('p', { class: 'dim' }, stuck ? 'They are listed below, with the answer of the PACS.' : 'Details on each case’s page.', ' ', el('a', { href: '/' }, 'Cases')));
}

// --- what did not get through ---------------------------------------------------------------------------------

/** One button for each destination: after a PACS was down, nobody should have to press one for each object. */
function againButton(destination) {
  const slot = $('#stuck-problem');
  const row = el('span', {});
  row.append(el('button', { type: 'button', class: 'small', onclick: async () => {
    if (await confirmed(`Send to ${destination} again?`, `All results that ${destination} has not taken are sent now, with the UIDs they have; it makes no duplicates.`, 'Send all again')) {
      if (await busy(row, slot, () => post(`/api/v1/deliveries/retry?destination=${encodeURIComponent(destination)}`))) operations.now();
    }
  } }, `Send all to ${destination} again`));
  return row;
}

function drawStuck() {
  const s = shown.stuck;
  if (!s.total) { fill($('#stuck'), nothing('Nothing: every result was taken, or has not been tried yet.')); return; }
  const destinations = [...new Set(s.deliveries.map((d) => d.destination))];
  const mayRetry = roles.has('admin') || roles.has('technician');
  fill($('#stuck'), el('p', { class: 'dim' }, `${s.total} ${s.total === 1 ? 'result has' : 'results have'} not got through. The objects are kept here until they have. Look at the last answer, put that right at the PACS, then send again.`),
    mayRetry ? el('p', { class: 'row' }, destinations.map(againButton)) : null,
    deliveriesTable(s.deliveries, $('#stuck-problem'), () => operations.now(), true),
    s.total > s.deliveries.length ? el('p', { class: 'dim' }, `The first ${s.deliveries.length} of ${s.total} are shown.`) : null);
}

// --- peers --------------------------------------------------------------------------------------------------

const ROLE = { planning_ct: 'planning CT', oarm: 'O-arm', pacs: 'PACS (gets results)' };

/** What came of the last echo. It is kept beside the table, which is drawn anew while a call may be under way. */
async function call(ae) {
  echoes.set(ae, 'calling'); drawPeers();
  try {
    echoes.set(ae, await post(`/api/v1/operations/peers/${encodeURIComponent(ae)}/echo`));
  } catch (problem) {
    echoes.delete(ae); showProblem($('#problems'), problem);
  }
  drawPeers();
}

function echoCell(p) {
  if (!p.can_echo) return el('td', { class: 'dim' }, 'only calls us');
  const r = echoes.get(p.ae_title);
  return el('td', {}, el('div', { class: 'row' },
    el('button', { type: 'button', class: 'small', disabled: r === 'calling', 'aria-label': `Echo ${p.ae_title}`, onclick: () => call(p.ae_title) }, 'Echo'),
    el('span', { role: 'status' }, r === 'calling' ? 'calling …' : r ? (r.answers ? badge('good', `answers, ${r.ms} ms`) : badge('alert', 'no answer')) : null)),
  r && r !== 'calling' && !r.answers ? el('div', { class: 'dim' }, `Check that ${p.ae_title} runs, its address and port, and that it knows ${shown.ae_title}.`) : null);
}

function peerRow(p) {
  return el('tr', {}, el('th', { scope: 'row', class: 'mono' }, p.ae_title),
    el('td', {}, p.roles.length ? p.roles.map((r) => ROLE[r] || r).join(', ') : el('span', { class: 'dim' }, 'none')),
    el('td', { class: 'nowrap' }, p.address_rule), el('td', { class: 'nowrap' }, p.can_echo ? `${p.host}:${p.port}` : '—', p.tls ? ' TLS' : ''),
    el('td', {}, p.quiet_s ? `${p.quiet_s} s` : el('span', { class: 'dim' }, 'as usual')), el('td', {}, ago(p.last_heard_at)), echoCell(p));
}

function drawPeers() {
  const others = shown.other_senders;
  fill($('#peers'), el('p', { class: 'dim' }, `Called as ${shown.ae_title}. ${shown.require_known_peers ? 'Only these may send; others are rejected, but may echo.' : 'Others may send too ([dicom] require_known_peers is off).'} At most ${shown.max_associations} associations at once.`),
    shown.peers.length ? table(['AE title', 'Roles', 'May call from', 'We call', 'Quiet time', 'Last image', 'Test'], shown.peers.map(peerRow), 'Configured peers') : nothing('None configured.'),
    others.length ? el('p', {}, 'Not configured, but images came from: ', others.map((o, i) => [i ? ', ' : '', el('strong', { class: 'mono' }, o.calling_ae), ' (', ago(o.last_heard_at), ')'])) : null);
}

// --- what went wrong ----------------------------------------------------------------------------------------

const TONE = { rejection: 'alert', refusal: 'alert', fault: 'ask', commitment: 'ask' };

function snippet(text) {
  const button = el('button', { type: 'button', class: 'small', onclick: async () => { await navigator.clipboard.writeText(text); button.textContent = 'Copied'; } }, 'Copy');
  return [el('pre', { class: 'snippet mono' }, text), navigator.clipboard ? button : null];
}

function eventRow(e) {
  return el('tr', {}, el('td', {}, ago(e.last_at), e.times > 1 ? el('div', { class: 'dim' }, `${e.times} times, first `, ago(e.first_at)) : null),
    el('td', {}, el('div', {}, badge(TONE[e.group] || 'calm', e.title)), el('div', { class: 'dim' }, e.what)),
    el('td', {}, e.calling_ae ? el('strong', { class: 'mono' }, e.calling_ae) : el('span', { class: 'dim' }, 'no title'), e.called_ae ? el('div', { class: 'dim nowrap' }, `called ${e.called_ae}`) : null),
    el('td', { class: 'mono nowrap' }, e.address || '—'),
    el('td', {}, e.next_step, e.snippet ? snippet(e.snippet) : null));
}

const from = (c) => [el('span', { class: 'mono', title: `SHA-256 ${c.sha256}` }, short(c.sha256)), el('div', { class: 'dim' }, `${c.calling_ae}, ${when(c.received_at)}`)];

function drawLists() {
  fill($('#events'), shown.events.length ? table(['Last', 'What', 'Who', 'Address', 'What to do'], shown.events.map(eventRow), 'Rejections, refusals and faults, newest first') : nothing('Nothing so far.'));
  const q = shown.quarantine;
  fill($('#aside'), q.total ? [el('p', { class: 'dim' }, `${q.total} ${q.total === 1 ? 'copy is' : 'copies are'} kept but not used. The image that came first stays in use; ask the sender which one is right.`),
    table(['Why', 'In use', 'Kept aside', 'Image (SOP instance UID)', 'Case'], q.copies.map((c) => el('tr', {}, el('td', {}, c.why), el('td', {}, c.used ? from(c.used) : '—'), el('td', {}, from(c.aside)), el('td', { class: 'mono dim' }, c.sop_uid), el('td', {}, c.case ? el('a', { class: 'code', href: `/cases/${c.case.id}` }, c.case.code) : '—'))), 'Copies in quarantine, newest first')] : nothing('Empty: no image came twice with different content.'));
  const u = shown.unreadable;
  fill($('#unreadable'), u.total ? [el('p', { class: 'dim' }, `${u.total} received ${u.total === 1 ? 'file is' : 'files are'} kept but cannot be understood. Have the sender send the study again.`),
    table(['Received', 'From', 'Why', 'File'], u.files.map((f) => el('tr', {}, el('td', {}, ago(f.received_at)), el('td', {}, f.calling_ae), el('td', {}, f.reason), el('td', { class: 'mono dim' }, f.file))), 'Unreadable files, newest first')] : nothing('None.'));
}

const operations = poll('/api/v1/operations/dicom', (body, changed) => {
  if (!changed) return;
  shown = body; shownAt = performance.now();
  drawNodes(); drawTiles(); drawStuck(); drawPeers(); drawLists();
}, { onProblem: (problem) => { if (problem && problem.status) showProblem($('#problems'), problem); } });

setInterval(() => {
  if (!shown) return;
  for (const node of document.querySelectorAll('[data-since]')) node.textContent = `${age(node.dataset.since)} ago`;
  for (const node of document.querySelectorAll('[data-up]')) node.textContent = age(node.dataset.up);
}, 1000);
watchStaleness();
