// The operating room's screen: one answer, readable from three metres. Word, shape and colour say the same.

import { $, adoptToken, busy, caseId, clock, duration, el, fill, fixed, plain, poll, post, progressBar, showProblem, svg, watchStaleness } from './core.js';

import { setUpPictures, showPictures } from './or_pictures.js';
import { follow, setUpScans } from './or_scans.js';

adoptToken();
let body = null; let at = performance.now();
let signingFor = ''; const signing = el('div', { id: 'cement' }); $('#status').after(signing);

const SHAPES = {
  accurate: () => [svg('circle', { cx: 50, cy: 50, r: 46, fill: '#2fc495' }), svg('path', { d: 'M27 52l16 16 31-36', fill: 'none', stroke: '#00352a', 'stroke-width': 11, 'stroke-linecap': 'round', 'stroke-linejoin': 'round' })],
  reposition: () => [svg('path', { d: 'M50 5L97 92H3z', fill: '#ff9a5c', 'stroke-linejoin': 'round' }), svg('path', { d: 'M50 36v28M50 76v4', stroke: '#4a1800', 'stroke-width': 11, 'stroke-linecap': 'round' })],
  review: () => [svg('path', { d: 'M50 3l47 47-47 47L3 50z', fill: '#f0c64a' }), svg('path', { d: 'M38 40a12 12 0 1 1 17 11q-5 3-5 9M50 73v3', fill: 'none', stroke: '#3d2b00', 'stroke-width': 9, 'stroke-linecap': 'round' })],
  waiting: () => [svg('circle', { cx: 50, cy: 50, r: 40, fill: 'none', stroke: '#3b627f', 'stroke-width': 10 }), svg('path', { class: 'spin', d: 'M50 10a40 40 0 0 1 40 40', fill: 'none', stroke: '#8fd0f5', 'stroke-width': 10, 'stroke-linecap': 'round' })],
  quiet: () => [svg('rect', { x: 8, y: 8, width: 84, height: 84, rx: 10, fill: 'none', stroke: '#8aa0ad', 'stroke-width': 7, 'stroke-dasharray': '14 10' })],
};

function banner(tone, word, under) {
  return el('section', { class: `verdict ${tone}` }, svg('svg', { viewBox: '0 0 100 100', 'aria-hidden': 'true' }, ...SHAPES[tone]()),
    el('div', {}, el('div', { class: 'word' }, word), el('div', { class: 'under' }, under)));
}

function figure(label, value, unit, uncertainty) {
  return el('div', { class: 'figure' }, el('div', { class: 'label' }, label),
    el('div', { class: 'value' }, value, el('small', {}, ` ${unit}${uncertainty === null || uncertainty === undefined ? '' : ` ± ${fixed(uncertainty)}`}`)));
}

function breachText(breach) {
  if (!breach || breach.grade === null || breach.grade === undefined) return ['—', 'not measured'];
  if (!breach.mm) return [String(breach.grade), breach.margin_mm === null || breach.margin_mm === undefined ? 'no breach' : `no breach, ${fixed(breach.margin_mm)} mm bone left`];
  return [String(breach.grade), `${fixed(breach.mm)} mm ${breach.direction || ''}`];
}

function needle(n) {
  const u = n.uncertainty || {}; const [grade, text] = breachText(n.breach);
  return el('section', { class: 'or-figures' },
    el('h2', { class: 'needle-name' }, n.pedicle === 'left' ? 'Left needle' : 'Right needle', n.planned === false ? el('small', {}, 'no approved path') : null, n.hand_set ? el('small', {}, 'set by hand') : null),
    figure('Tip to target', fixed(n.tip_to_target_mm), 'mm', u.tip_mm ?? n.uncertainty_mm),
    figure('Angle to plan', fixed(n.angle_deg), '°', u.angle_deg),
    figure('Beside the path', fixed(n.lateral_mm), 'mm', u.lateral_mm),
    el('div', { class: 'figure' }, el('div', { class: 'label' }, 'Breach grade'), el('div', { class: 'value' }, grade, el('small', { class: 'under-value' }, ` ${text}${u.breach_mm === null || u.breach_mm === undefined ? '' : ` ± ${fixed(u.breach_mm)}`}`))));
}

const CONTACT = { A: 'both endplates', B1: 'the upper endplate only', B2: 'the lower endplate only', B3: 'neither endplate' };

function cement(c) {
  if (!c) return [];
  const fill = c.fill_percent || {}; const d = c.distribution || {};
  const percent = (v) => (v === null || v === undefined ? '—' : `${Math.round(v)}`);
  const leaks = Array.isArray(c.leaks) ? c.leaks.map((l) => `${l.place || l.location || ''}, type ${l.type}, ${fixed(l.volume_ml, 2)} ml`) : null;
  return [el('section', { class: 'or-figures' }, el('h2', { class: 'needle-name' }, 'Cement'),
    figure('Volume', fixed(c.volume_ml, 2), `ml${c.uncertainty_ml === null || c.uncertainty_ml === undefined ? '' : ` ± ${fixed(c.uncertainty_ml, 2)}`}`),
    figure('Of the body', percent(fill.volume_body), '%'), figure('Of the lateral picture', percent(fill.lateral_area), '%'),
    figure('Left : right', `${percent(d.left_percent)} : ${percent(d.right_percent)}`, '%')),
  el('p', { class: leaks && leaks.length ? 'or-text caution' : 'or-text' }, el('strong', {}, 'Leaks: '), leaks === null ? 'not assessed' : leaks.length ? leaks.join('; ') : 'none found', `. Touches ${CONTACT[d.endplate_contact] || 'not assessed'}.`),
  (c.warnings || []).map((w) => el('p', { class: 'or-text caution' }, el('strong', {}, 'Caution: '), w)),
  el('p', { class: 'dim' }, `Fill: ${percent(fill.volume_fillable)} % of the fillable interior, hull ${percent(fill.hull_body)} % of the body. ${(c.not_measured || []).join(' ')}`)];
}

// Height and angle after the cement; what could not be told is said with its reason.
function restoration(r) {
  if (!r) return [];
  const places = ['anterior', 'middle', 'posterior']; const told = (v, digits = 1) => (v === null || v === undefined ? '—' : fixed(v, digits));
  const row = (name, values, bars, digits) => el('tr', {}, el('th', { scope: 'row' }, name), places.map((p) => el('td', {}, told((values || {})[p], digits), bars && bars[p] !== null && bars[p] !== undefined ? el('small', {}, ` ± ${fixed(bars[p])}`) : null)));
  const c = r.cobb_deg;
  return [el('table', { class: 'or-table', id: 'restoration' }, el('caption', {}, 'Body height'), el('thead', {}, el('tr', {}, el('th', {}), places.map((p) => el('th', { scope: 'col' }, p)))),
    el('tbody', {}, row('before, mm', r.before_mm), row('after cement, mm', r.after_mm, r.uncertainty_mm), row('intact neighbours, mm', r.normal_mm), row('regained, %', r.recovery_percent, null, 0))),
  el('p', { class: 'or-text' }, el('strong', {}, 'Cobb angle: '), c ? `${fixed(c.before)}° before, ${fixed(c.after)}° ± ${fixed(c.uncertainty)}° after` : 'not measured'),
  el('p', { class: 'dim' }, (r.reasons || []).join(' '))];
}

const VERDICT = { accurate: 'ACCURATE', reposition: 'REPOSITION', review: 'REVIEW' };

// What the numbers rest on is doubtful in itself, such as images compressed with loss.
function cautions(report) {
  return ((report && report.warnings) || []).map((w) => el('p', { class: 'or-text caution' }, el('strong', {}, 'Caution: '), w.message));
}

function age() { return body.age_s + (performance.now() - at) / 1000; }

function parts() {
  const old = duration(age());
  switch (body.status) {
    case 'none': return [banner('quiet', 'NO SCAN YET', 'Take the O-arm scan with the needle in place. It appears here by itself.')];
    case 'receiving': return [banner('waiting', 'RECEIVING', `${body.images} images so far, last one ${old} ago`)];
    case 'computing': return [banner('waiting', 'MEASURING', `${plain(body.stage || 'starting')} · scan ended ${old} ago`), progressBar(body.fraction, 'measurement')];
    case 'ready': {
      const r = body.report;
      return [banner(r.verdict, VERDICT[r.verdict] || r.verdict.toUpperCase(), `scan ended ${old} ago`), r.needles.map(needle),
        r.needles_reason ? el('p', { class: 'or-text' }, el('strong', {}, 'Needle not judged: '), r.needles_reason) : null, cement(r.cement), restoration(r.restoration),
        el('p', { class: 'or-text' }, r.advice), cautions(r), el('p', { class: 'dim' }, '± is the expanded uncertainty (k = 2). ', r.registration && r.registration.expected_tre_mm !== null ? `Registration error at the needle about ${fixed(r.registration.expected_tre_mm)} mm.` : '')];
    }
    case 'not_measurable': {
      const next = body.next_step || (body.report || {}).advice;
      return [banner('review', 'NOT MEASURABLE', 'No number is given for this scan.'), el('p', { class: 'or-text' }, el('strong', {}, 'Why: '), body.reason || 'no reason was recorded'), next && next !== body.reason ? el('p', { class: 'or-text' }, el('strong', {}, 'Next: '), next) : el('p', { class: 'or-text' }, el('strong', {}, 'Next: '), 'Look at the images; scan again if that is justified.'), cautions(body.report), el('p', { class: 'dim' }, `scan ended ${old} ago`)];
    }
    default: return [banner('reposition', 'FAILED', 'The measurement failed. The scan is kept.'), el('p', { class: 'or-text' }, el('strong', {}, 'Why: '), body.reason || ''), el('p', { class: 'or-text' }, el('strong', {}, 'Next: '), body.next_step || 'Look at the images; resume the case to measure again.'), el('p', { class: 'dim' }, `scan ended ${old} ago`)];
  }
}

// The cement step: locked until a surgeon signs for this very verdict. The room's screen has no session of a person, so name and
// password are given here; they are kept nowhere.
function signature() {
  if (body.status !== 'ready') return null;
  if (body.cement_step === 'acknowledged') {
    return el('p', { class: 'or-text cement', 'data-cement': 'acknowledged' }, el('strong', {}, body.report.cement ? 'Seen: ' : 'Cement step open: '), `verdict acknowledged by ${body.acknowledged.by} at ${clock(new Date(body.acknowledged.at))}`);
  }
  if (body.cement_step !== 'needs_acknowledgement') return null;
  const scan = body.scan_id; const version = body.report_version; const reasonWanted = body.report.verdict !== 'accurate';
  const field = (label, attributes) => el('label', {}, el('span', {}, label), el('input', { autocomplete: 'off', required: '', ...attributes }));
  const form = el('form', { class: 'cement', 'data-cement': 'locked' },
    el('strong', {}, body.report.cement ? 'Scan with cement: a surgeon acknowledges the verdict' : 'Cement step locked: a surgeon acknowledges the verdict'),
    field('Name', { name: 'username' }), field('Password', { name: 'password', type: 'password' }),
    reasonWanted ? field('Why go on (no patient name)', { name: 'note', maxlength: 500, class: 'wide' }) : null,
    el('button', { type: 'submit' }, 'Acknowledge'), el('div', { class: 'refused' }));
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    const value = (name) => (form.elements[name] ? form.elements[name].value : '');
    const signed = { scan_id: scan, username: value('username'), password: value('password'), note: value('note'), report_version: version };
    form.elements.password.value = '';
    if (await busy(form, $('.refused', form), () => post(`/api/v1/cases/${caseId}/verification/acknowledge`, signed))) verification.now();
  });
  return form;
}

function draw() {
  if (!body) return;
  $('#or-case').textContent = `Needle check · ${body.level || '?'} · case ${body.case_code}${body.scans > 1 ? ` · scan ${body.scans}` : ''}`;
  const box = $('#status');
  box.dataset.status = body.status;
  fill(box, parts());
  // In a place of its own, drawn anew only for another verdict: the numbers above change also while somebody types here.
  const about = `${body.status} ${body.scan_id} ${body.cement_step} ${body.report_version}`;
  follow(body); showPictures(body);
  if (about !== signingFor) { signingFor = about; signing.replaceChildren(...[signature()].filter(Boolean)); }
}

const verification = poll(`/api/v1/cases/${caseId}/verification`, (answer, changed) => {
  if (changed) { body = answer; at = performance.now(); draw(); }
}, { onProblem: (problem) => showProblem($('#problems'), problem && problem.status ? problem : null) });

// Ages go on counting between answers; only the texts that carry one are drawn anew.
setInterval(() => {
  $('#clock').textContent = clock(new Date());
  const under = $('.verdict .under');
  if (body && body.status !== 'none') { if (['receiving', 'computing', 'ready'].includes(body.status)) under.textContent = parts()[0].querySelector('.under').textContent; else draw(); }
}, 1000);
setUpScans(signing, () => verification.now());
setUpPictures($('#scans'), () => verification.now());
watchStaleness();
