import { $, busy, post } from './core.js';

const form = $('#login');

/** Only a path of this service: never another site's address. */
function nextPage() {
  const wanted = new URLSearchParams(location.search).get('next') || '/';
  const url = new URL(wanted, location.origin);
  return wanted.startsWith('/') && url.origin === location.origin ? url.pathname + url.search : '/';
}

form.addEventListener('submit', (event) => {
  event.preventDefault();
  busy(form, $('.problem-slot', form), async () => {
    await post('/api/v1/login', { username: form.username.value.trim().toLowerCase(), password: form.password.value });
    location.assign(nextPage());
  }).then((worked) => { if (!worked) { form.password.value = ''; form.password.focus(); } });
});
