// The scan at the door: everything that is not a clean issue fills the screen with STOP, also a lost connection.

import { $, el, post } from './core.js';

const form = $('#door');
const LONG_TEXT = 'Nothing was issued. Scan again; if this stays, call sterile services.';

/** Scanners end a line with Enter: from the pack on to the wristband instead of sending half a form. */
form.elements.pack_code.addEventListener('keydown', (event) => {
  if (event.key !== 'Enter') return;
  event.preventDefault();
  form.elements.wristband.focus();
});

function show(name) {
  const box = $(`#${name}`);
  box.hidden = false;
  $(`#${name}-close`).focus();
}

function hide(name) {
  $(`#${name}`).hidden = true;
  form.reset();
  form.elements.pack_code.focus();
}

function stop(error) {
  const refused = error.details && error.details.refused;
  const reasons = refused ? Object.values(refused) : [error.message || LONG_TEXT];
  $('#stop-reasons').replaceChildren(...reasons.map((reason) => el('li', {}, reason.replace(/^STOP: /, '').replace(/^./, (c) => c.toUpperCase()))));
  $('#stop-next').textContent = refused ? 'Keep the pack and call sterile services.' : error.nextStep || error.next_step || LONG_TEXT;
  show('stop');
}

form.addEventListener('submit', async (event) => {
  event.preventDefault();
  const button = $('button[type=submit]', form);
  if (button.disabled) return;
  button.disabled = true;
  const value = (name) => form.elements[name].value;
  try {
    const item = await post('/api/v1/sterilisation/door', {
      pack_code: value('pack_code'), wristband: value('wristband'), pack_intact: value('pack_intact') === 'true', pack_dry: value('pack_dry') === 'true',
    });
    $('#go-what').textContent = `${item.design.engraved_id} · level ${item.design.level} · pack ${item.pack.pack_id}`;
    show('go');
  } catch (error) {
    stop(error);
  } finally {
    form.elements.wristband.value = '';
    button.disabled = false;
  }
});

$('#stop-close').addEventListener('click', () => hide('stop'));
$('#go-close').addEventListener('click', () => hide('go'));
form.elements.pack_code.focus();
