// The stored item, and the races. Each race is a .race element with a card
// for every contender; what a contender is, the server knows.

const url = (card) => `/race/${card.dataset.contender}`;
const ms = (n) => `${Math.round(n)} ms`;
const sum = (numbers) => numbers.reduce((a, b) => a + b, 0);

async function showStored() {
  const stored = document.querySelector('#stored');
  const headers = { 'X-Requested-With': 'XMLHttpRequest' };
  const response = await fetch(stored.dataset.url, { headers });
  stored.innerHTML = await response.text();
}

async function ask(url, method = 'GET') {
  const response = await fetch(url, { method });
  if (!response.ok) throw new Error(`the server answered ${response.status}`);
  return response.json();
}

// One request of a race, with what it cost. The server counts.
async function run(url, started) {
  const response = await fetch(url, { method: 'POST' });
  const ended = performance.now() - started;
  const answer = response.ok ? await response.json() : { refused: true };
  const { waited = 0, loaded = 0, refused = false } = answer;
  const total = Number(response.headers.get('X-Milliseconds'));
  return {
    ok: !refused,
    calls: Number(response.headers.get('X-Calls')),
    ended,
    from: Math.max(0, ended - total),
    waited,
    loaded,
    worked: total - waited - loaded,
  };
}

// n requests at once, and how many of their updates are stored afterwards.
async function race(n, url) {
  await ask(url, 'PUT');
  const started = performance.now();
  const runs = await Promise.all(
    Array.from({ length: n }, () => run(url, started)),
  );
  const took = performance.now() - started;
  const { updates } = await ask(url);
  return { runs, took, updates };
}

function verdict(n, answered, updates) {
  const lost = answered - updates;
  const refused = n - answered;
  if (lost) return ['bad', `${lost} lost, and nobody was told`];
  if (refused) return ['fair', `${refused} refused, and told so`];
  return ['good', 'none lost'];
}

function bar(run) {
  const item = document.createElement('li');
  item.className = run.ok ? '' : 'refused';
  item.style.setProperty('--from', run.from);
  item.style.setProperty('--waited', run.waited);
  item.style.setProperty('--loaded', run.loaded);
  item.style.setProperty('--worked', run.worked);
  item.innerHTML =
    '<span class="track" aria-hidden="true"><i></i><u></u><b></b></span>';
  item.append(run.ok ? ms(run.waited) : 'refused');
  return item;
}

function show(card, { runs, took, updates }) {
  const set = (name, text) => {
    card.querySelector(`.${name}`).textContent = text;
  };
  const n = runs.length;
  const answered = runs.filter((run) => run.ok);
  const waits = answered.map((run) => run.waited);
  if (card.dataset.writes === 'true') {
    const [mark, text] = verdict(n, answered.length, updates);
    card.dataset.verdict = mark;
    set('kept', `${updates} of ${n} kept`);
    set('verdict', text);
  } else {
    card.dataset.verdict = 'none';
    set('kept', `${answered.length} answered`);
    set('verdict', 'no update to keep');
  }
  set('took', ms(took));
  set('waits', ms(Math.max(0, ...waits)));
  set('calls', sum(runs.map((run) => run.calls)));
  card.querySelector('.figures').hidden = false;
  runs.sort((a, b) => a.ended - b.ended);
  card.querySelector('.bars').replaceChildren(...runs.map(bar));
}

async function raceAll(element) {
  const status = element.querySelector('.status');
  let scale = 0;
  for (const card of element.querySelectorAll('.card')) {
    status.textContent = `${card.querySelector('h3').textContent} …`;
    const result = await race(Number(element.dataset.requests), url(card));
    // One scale for all, so that the bars can be compared.
    scale = Math.max(scale, result.took);
    element.style.setProperty('--scale', scale);
    show(card, result);
    await showStored();
  }
  status.textContent = 'Done.';
}

for (const element of document.querySelectorAll('.race')) {
  const button = element.querySelector('.start');
  button.disabled = false;
  button.addEventListener('click', async () => {
    button.disabled = true;
    try {
      await raceAll(element);
    } catch (error) {
      const status = element.querySelector('.status');
      status.textContent = `Failed: ${error.message}.`;
    }
    button.disabled = false;
  });
}

showStored();
