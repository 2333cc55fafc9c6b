// The page of `vitals report`. It reads the data that stands in the page, draws it, and, when served, keeps fetching it.
// Everything that comes from data reaches the page as text (`textContent`, `append`) or as a number: device ids and
// reasons are whatever a device has sent, and none of it may become markup.
(() => {
  'use strict';

  // ---- words and numbers -------------------------------------------------------------------------------------------

  const VITALS = {
    heart_rate: { chart: 'heart_rate', name: 'Heart rate', unit: 'bpm' },
    systolic: { chart: 'pressure', name: 'Systolic', unit: 'mmHg' },
    diastolic: { chart: 'pressure', name: 'Diastolic', unit: 'mmHg' },
    temperature: { chart: 'temperature', name: 'Temperature', unit: '°C' },
    spo2: { chart: 'spo2', name: 'SpO2', unit: '%' },
    respiratory_rate: { chart: 'respiratory_rate', name: 'Respiratory rate', unit: '/min' },
  };
  // `limits` is what the axis may show. Sensors send 1e308; one such value must not flatten a day of good ones.
  const CHARTS = [
    { key: 'heart_rate', name: 'Heart rate', vitals: ['heart_rate'], limits: [0, 320], least: 24 },
    { key: 'pressure', name: 'Blood pressure', vitals: ['systolic', 'diastolic'], limits: [0, 320], least: 40 },
    { key: 'temperature', name: 'Temperature', vitals: ['temperature'], limits: [15, 46], least: 1.6 },
    { key: 'spo2', name: 'SpO2', vitals: ['spo2'], limits: [0, 100.5], least: 8 },
    { key: 'respiratory_rate', name: 'Respiratory rate', vitals: ['respiratory_rate'], limits: [0, 120], least: 12 },
  ];
  // One hue per vital, as there are no twelve hues that everybody can tell apart; the pattern says which way it went.
  const CAUSES = {
    heart_rate_high: ['heart', 'solid'], heart_rate_low: ['heart', 'stripes'],
    pressure_high: ['pressure', 'solid'], pressure_low: ['pressure', 'stripes'],
    fever: ['temperature', 'solid'], temperature_high: ['temperature', 'dots'], temperature_low: ['temperature', 'stripes'],
    spo2_low: ['spo2', 'solid'], spo2_high: ['spo2', 'stripes'],
    respiratory_rate_high: ['breath', 'solid'], respiratory_rate_low: ['breath', 'stripes'],
    several_vitals: ['several', 'solid'],
    flatline: ['fault', 'solid'], unit_error: ['fault', 'stripes'], impossible: ['fault', 'dots'], jump: ['fault', 'light'],
  };
  const FAULTS = ['flatline', 'unit_error', 'impossible', 'jump'];
  const DAY_MS = 86_400_000;
  const MONTHS = ['Jan', 'Feb', 'Mar', 'Apr', 'May', 'Jun', 'Jul', 'Aug', 'Sep', 'Oct', 'Nov', 'Dec'];

  const plain = (word) => String(word).replace(/_/g, ' ').replace(/\bspo2\b/, 'SpO2').replace(/^pressure/, 'blood pressure');
  const grouped = new Intl.NumberFormat('en-GB', { maximumFractionDigits: 1 });
  const number = (x) => (x == null ? '–' : Math.abs(x) >= 1e7 ? x.toExponential(1) : grouped.format(x));
  const value = (vital, x) => (vital === 'temperature' && Math.abs(x) < 1e7 ? x.toFixed(1) : number(x));
  const rough = (vital, x) => value(vital, vital === 'temperature' ? x : Math.round(x));
  const many = (n, word) => `${number(n)} ${word}${n === 1 ? '' : 's'}`;

  /** The parts of a time in UTC; null for none, and for one that no calendar has. */
  function parts(ms) {
    const date = new Date(ms ?? NaN);
    if (Number.isNaN(+date)) return null;
    const [day, clock] = date.toISOString().split('T');
    return { date: `${date.getUTCDate()}\u00a0${MONTHS[date.getUTCMonth()]}`, year: date.getUTCFullYear(), day, clock: clock.slice(0, 8) };
  }
  const clock = (ms) => parts(ms)?.clock ?? '–';
  const minute = (ms) => clock(ms).slice(0, 5);
  const stamp = (ms) => { const p = parts(ms); return p ? `${p.date} ${p.year} ${p.clock} UTC` : 'unknown'; };
  const short = (ms) => { const p = parts(ms); return p ? `${p.date} ${p.clock.slice(0, 5)}` : '–'; };
  const span = (from, to) => (short(from) === short(to) ? short(from) : `${short(from)} – ${parts(from)?.day === parts(to)?.day ? minute(to) : short(to)}`);
  function lasted(ms) {
    const minutes = Math.round(ms / 60_000);
    if (minutes < 1) return `${Math.max(0, Math.round(ms / 1000))} s`;
    if (minutes < 60) return `${minutes} min`;
    const [big, small, b, s] = minutes < 1440 ? [minutes / 60, minutes % 60, 'h', 'min'] : [minutes / 1440, Math.floor((minutes % 1440) / 60), 'd', 'h'];
    return `${Math.floor(big)} ${b}${small ? ` ${small} ${s}` : ''}`;
  }

  // ---- elements ----------------------------------------------------------------------------------------------------

  const $ = (id) => document.getElementById(id);
  function into(element, properties, children) {
    for (const [name, v] of Object.entries(properties ?? {})) {
      if (v == null || v === false) continue;
      if (name.startsWith('on')) element.addEventListener(name.slice(2), v);
      else element.setAttribute(name, v === true ? '' : v);
    }
    element.append(...children.flat().filter((child) => child != null && child !== ''));
    return element;
  }
  const h = (tag, properties, ...children) => into(document.createElement(tag), properties, children);
  const s = (tag, properties, ...children) => into(document.createElementNS('http://www.w3.org/2000/svg', tag), properties, children);

  // Each state and each kind of mark has a shape of its own: colour never is the only difference.
  const SHAPES = {
    disc: ['M8 1a7 7 0 1 1 0 14a7 7 0 1 1 0-14z', true], ring: ['M8 2.5a5.5 5.5 0 1 1 0 11a5.5 5.5 0 1 1 0-11z', false],
    triangle: ['M8 1.5L15.5 15H.5z', true], fall: ['M8 14.5L.5 1h15z', true], diamond: ['M8 0l7 8-7 8-7-8z', true],
    square: ['M2.5 2.5h11v11h-11z', false], cross: ['M2.5 2.5l11 11m0-11l-11 11', false],
    line: ['M-16 8h48', false], dashes: ['M-16 8h12m6 0h12m6 0h12', false],
  };
  function mark(shape, kind) {
    const [d, filled] = SHAPES[shape];
    const look = filled ? { fill: 'currentColor' } : { fill: 'none', stroke: 'currentColor', 'stroke-width': shape === 'cross' ? 3 : 2.5 };
    return s('svg', { class: `mark ${kind ?? ''}`, viewBox: '0 0 16 16', 'aria-hidden': 'true' }, s('path', { d, ...look }));
  }
  const tag = (cause, fault) => h('span', { class: fault ? 'tag fault' : 'tag' }, mark(fault ? 'square' : cause.endsWith('_low') ? 'fall' : 'triangle'), plain(cause));
  const isFault = (cause) => FAULTS.includes(cause);

  // ---- what the page knows -----------------------------------------------------------------------------------------

  const state = {
    data: JSON.parse($('data').textContent),
    id: null, // the chosen device
    asked: false, // whether somebody chose it; else it is the worst of the first data
    filter: '', sort: null, descending: true, quiet: false,
    fetched: new Map(), // when served: the series of the chosen device, where the page's data has none
    failed: null, // why the last fetch failed
    missing: null, // why the chosen device's series could not be fetched
    heard: performance.now(), // of the last data, by this machine's own clock: the server's may differ
    heardAt: Date.now(),
  };

  // ---- header ------------------------------------------------------------------------------------------------------

  /** The state in words. Green only where the data says fresh, and the data itself is no older than it should be. */
  function freshness(data) {
    const f = data.freshness;
    if (data.live && state.failed) return ['lost', 'cross', 'Not updated', `since ${stamp(state.heardAt)}: ${state.failed}`];
    if (f.status === 'fresh') {
      const age = data.live ? 0 : Date.now() - data.generated_ms;
      if (age > 900_000) return ['old', 'square', 'A file', `written ${lasted(age)} ago; readings were arriving then. It does not update itself`];
      return ['fresh', 'disc', 'Fresh', `${data.live ? '' : 'when written: '}last reading arrived ${clock(f.last_arrived_ms)} UTC`];
    }
    if (f.status === 'stale') return ['stale', 'triangle', 'Stale', `since ${stamp(f.last_arrived_ms ?? f.last_ts_ms)}: nothing has arrived after that`];
    const last = f.last_arrived_ms ?? f.last_ts_ms;
    return ['none', 'ring', 'No data', last ? `in this window; the last reading arrived ${stamp(last)}` : 'has arrived yet'];
  }

  function renderState() {
    const { data } = state;
    const [kind, shape, head, words] = freshness(data);
    const text = `${head} ${words}`;
    const box = $('state');
    // Only a change is written: the element is announced to screen readers.
    if (box.dataset.text !== text) {
      box.dataset.text = text;
      box.className = `state ${kind}`;
      box.replaceChildren(mark(shape), h('span', {}, h('b', {}, head), ' ', h('span', { class: 'words' }, words)));
      document.title = data.live || kind !== 'old' ? `${head.toLowerCase()} · vitals` : 'vitals report';
    }
    $('written').textContent = `${data.live ? 'Live, asks every ' + data.refresh_s + ' s; data of' : 'A file, written'} ${stamp(data.generated_ms)}`;
  }

  function renderHeader() {
    const { freshness: f, window: w } = state.data;
    renderState();
    $('window').textContent = `Window: ${short(w.since_ms)} – ${short(w.until_ms)} UTC (${lasted(w.until_ms - w.since_ms)}). All times are UTC.`;
    const dead = f.dead_letters.reduce((sum, d) => sum + d.count, 0);
    const counters = [
      ['Devices', f.devices, 'that sent in this window'],
      ['Readings', f.readings, 'stored in this window'],
      ['Silent devices', f.silent_devices, 'nothing in the last quarter', true],
      ['Unscored', f.unscored_readings, 'stored, without a verdict yet', true],
      ['Missing numbers', f.seq_missing, 'lost on the way here, estimate', true],
      ['Gaps', f.gap_records, 'records lost before being read', true],
      ['Dead letters', dead, dead ? f.dead_letters.map((d) => `${plain(d.reason)} ${number(d.count)}`).join(' · ') : 'readings that were refused', true],
    ];
    $('counters').replaceChildren(...counters.map(([name, n, hint, loss]) =>
      h('div', { class: loss && n ? 'bad' : n ? '' : 'none' },
        h('dt', {}, name), h('dd', { class: 'n' }, loss && n ? mark('triangle') : null, number(n)), h('dd', { class: 'hint' }, hint))));
    $('made').textContent = `vitals ${state.data.version} · lake ${state.data.lake}`;
  }

  // ---- devices -----------------------------------------------------------------------------------------------------

  const COLUMNS = [
    { key: 'device_id', name: 'Device', up: true },
    { key: 'episodes', name: 'Episodes' }, { key: 'artifacts', name: 'Faults', wide: true },
    { key: 'peak_score', name: 'Peak' }, { key: 'news2', name: 'NEWS2', wide: true },
    { key: 'last_outlier_ms', name: 'Last outlier', time: true, wide: true }, { key: 'last_seen_ms', name: 'Seen', time: true },
  ];
  const byName = new Intl.Collator('en', { numeric: true }).compare;
  const needsLook = (device) => device.episodes > 0 || device.artifacts > 0;

  function shownDevices() {
    const wanted = state.filter.trim().toLowerCase();
    // A filter looks at all devices: who types a name wants that device, whether or not something stands out.
    const list = state.data.devices.filter((d) => wanted
      ? `${d.device_id} ${plain(d.cause ?? '')} ${d.cause ?? ''} ${d.why ?? ''}`.toLowerCase().includes(wanted)
      : state.quiet || needsLook(d));
    if (!state.sort) return list;
    const { sort, descending } = state;
    const direction = descending ? -1 : 1;
    return [...list].sort((a, b) => {
      if (sort === 'device_id') return direction * byName(a.device_id, b.device_id);
      if (a[sort] == null || b[sort] == null) return (a[sort] == null) - (b[sort] == null); // nothing comes last either way
      return direction * (a[sort] - b[sort]);
    });
  }

  function sortBy(column) {
    const first = !column.up; // names begin at A, numbers with the largest
    if (state.sort !== column.key) [state.sort, state.descending] = [column.key, first];
    else if (state.descending === first) state.descending = !first;
    else state.sort = null;
    renderDevices();
  }

  function deviceCell(device, { key, time, wide }) {
    const v = device[key];
    const { since_ms: since, until_ms: until } = state.data.window;
    const silent = key === 'last_seen_ms' && v < until - (until - since) / 4;
    const text = !time ? number(v) : parts(v)?.day === parts(until)?.day ? minute(v) : short(v);
    return h('td', { class: `num ${v ? '' : 'zero'} ${wide ? 'wide' : ''} ${time ? 'time' : ''}` }, text, silent ? h('span', { class: 'silent' }, 'silent') : null);
  }

  function renderDevices() {
    const { data } = state;
    const rows = shownDevices();
    const scroll = $('devices-scroll');
    const top = scroll.scrollTop;
    const focused = document.activeElement?.closest?.('#devices') ? document.activeElement : null;
    const [focusDevice, focusSort] = [focused?.dataset.device, focused?.dataset.sort];
    const table = $('devices');
    table.tHead.replaceChildren(h('tr', {}, COLUMNS.map((c) => h('th', {
      scope: 'col', class: `${c.up ? '' : 'num'} ${c.wide ? 'wide' : ''} ${c.time ? 'time' : ''}`,
      'aria-sort': state.sort === c.key ? (state.descending ? 'descending' : 'ascending') : null,
    }, h('button', { type: 'button', 'data-sort': c.key, onclick: () => sortBy(c) }, c.name, mark('fall'))))));
    for (const body of [...table.tBodies]) body.remove();
    // A device is a group of two rows, so that its reason has the whole width and the columns stay narrow.
    table.append(...rows.map((d) => {
      // A long name takes a row of its own: in the narrow first column it would be a tower of letters.
      const long = d.device_id.length > (innerWidth < 720 ? 10 : 14);
      const name = h('th', { scope: 'rowgroup', colspan: long ? COLUMNS.length : null },
        h('a', { href: hashOf(d.device_id), 'data-device': d.device_id, class: long ? 'id' : 'id short' }, d.device_id || '(no name)'));
      const cells = COLUMNS.slice(1).map((c) => deviceCell(d, c));
      return h('tbody', { 'data-device': d.device_id },
        long ? h('tr', {}, name) : null, h('tr', {}, long ? h('td') : name, cells),
        h('tr', { class: 'reason' }, h('td', { colspan: COLUMNS.length },
          d.cause ? tag(d.cause, isFault(d.cause)) : null, d.why ?? (needsLook(d) ? '' : 'nothing stands out'))));
    }));
    table.hidden = !rows.length;
    const loud = data.devices.filter(needsLook).length;
    const empty = $('devices-empty');
    empty.hidden = rows.length > 0;
    empty.textContent = state.filter.trim() ? 'No device matches this filter.'
      : data.devices.length ? 'Nothing stands out on any device in this window.' : 'No device has sent anything in this window.';
    const column = COLUMNS.find((c) => c.key === state.sort);
    const order = !column ? 'worst first' : `by ${column.name.toLowerCase()}, ${column.up ? (state.descending ? 'Z to A' : 'A to Z') : column.time ? (state.descending ? 'latest first' : 'earliest first') : (state.descending ? 'largest first' : 'smallest first')}`;
    $('devices-order').textContent = data.devices.length ? `${many(rows.length, 'device')}, ${order}` : '';
    const quietCount = data.devices.length - loud;
    const toggle = h('button', { type: 'button', class: 'plain', onclick: () => { state.quiet = !state.quiet; renderDevices(); } }, state.quiet ? 'Hide them' : 'Show them');
    $('devices-quiet').replaceChildren(
      ...(quietCount ? [h('span', {}, `${many(quietCount, 'device')} with nothing to show`), toggle] : []),
      ...(data.devices_more ? [h('span', {}, `${many(data.devices_more, 'more device')} not listed here; \`vitals query devices\` lists all`)] : []));
    scroll.scrollTop = top;
    markPicked();
    // Rows are new elements after a refresh; who stood on one must not be thrown back to the top of the page.
    const again = focusDevice != null ? rowOf(focusDevice)?.querySelector('a') : focusSort && table.tHead.querySelector(`[data-sort=${focusSort}]`);
    again?.focus({ preventScroll: true });
  }
  const rowOf = (id) => [...$('devices').tBodies].find((body) => body.dataset.device === id);
  function markPicked() {
    for (const body of $('devices').tBodies) {
      const picked = body.dataset.device === state.id;
      body.classList.toggle('picked', picked);
      const link = body.querySelector('a');
      if (picked) link.setAttribute('aria-current', 'true'); else link.removeAttribute('aria-current');
    }
  }

  // ---- choosing a device -------------------------------------------------------------------------------------------

  const hashOf = (id) => `#device=${encodeURIComponent(id)}`;
  function idOfHash() {
    const raw = /^#device=(.*)$/s.exec(location.hash)?.[1];
    try { return raw == null ? null : decodeURIComponent(raw); } catch { return raw; }
  }
  function choose(id, byHand) {
    const changed = id !== state.id;
    state.id = id;
    state.asked ||= byHand;
    if (changed) [zoom, state.missing] = [null, null];
    markPicked();
    renderChosen();
    fetchSeries();
    // Where the charts stand below the list, choosing would else change nothing in sight.
    if (byHand && changed && $('chosen-title').getBoundingClientRect().top > innerHeight * 0.6) $('chosen-title').scrollIntoView();
  }

  // ---- the chosen device -------------------------------------------------------------------------------------------

  let model = null; // what the charts draw now
  let charts = []; // uPlot instances, one per vital
  let zoom = null; // [from, to] in ms; null is all of it
  let forced = null; // point under a cursor that the keyboard moves
  let theme = {};
  const SYNC = 'vitals';

  const seriesOf = (id) => (Object.hasOwn(state.data.series, id) ? state.data.series[id] : state.fetched.get(id));

  function nearest(sorted, x) {
    let [low, high] = [0, sorted.length - 1];
    while (high - low > 1) { const middle = (low + high) >> 1; if (sorted[middle] < x) low = middle; else high = middle; }
    return high > low && Math.abs(sorted[high] - x) < Math.abs(sorted[low] - x) ? high : low;
  }

  /** What is drawn, from a series: one shared time axis with a point put into each pause, columns, and marks. */
  function modelOf(series) {
    const { ts, vitals: all, gap_ms: gap } = series;
    const [x, place, back] = [[], [], []]; // time of a column entry; entry of a reading; reading of an entry
    ts.forEach((t, i) => {
      if (i && t - ts[i - 1] > gap) { x.push((t + ts[i - 1]) / 2); back.push(i - 1); }
      place.push(x.length); x.push(t); back.push(i);
    });
    const sent = Object.keys(VITALS).filter((v) => all[v]?.some((n) => n != null));
    const at = new Map(); // reading → its verdicts
    const marks = Object.fromEntries(sent.map((v) => [v, []]));
    const dropped = Object.fromEntries(sent.map((v) => [v, new Set()]));
    for (const o of ts.length ? series.outliers : []) {
      const i = nearest(ts, o.ts);
      at.set(i, [...(at.get(i) ?? []), o]);
      const off = (v) => all[v][i] != null && series.bands[v] && (all[v][i] < series.bands[v].low || all[v][i] > series.bands[v].high);
      const about = o.vital ? [o.vital].filter((v) => sent.includes(v)) : sent.some(off) ? sent.filter(off) : sent.filter((v) => all[v][i] != null);
      for (const v of about) {
        const [n, usual] = [all[v][i], series.bands[v]?.usual];
        marks[v].push({ i, n, shape: o.artifact ? 'square' : n == null || usual == null || n === usual ? 'diamond' : n > usual ? 'rise' : 'fall' });
        // A wrong value is marked, but the line does not go there: it would draw a body that never was.
        if (o.artifact && o.vital && o.cause !== 'flatline') dropped[v].add(i);
      }
    }
    const columns = {};
    for (const v of sent) {
      const [low, high] = CHARTS.find((c) => c.key === VITALS[v].chart).limits;
      const real = ts.map((_, i) => i).filter((i) => all[v][i] != null && !dropped[v].has(i) && all[v][i] >= low && all[v][i] <= high);
      // A vital that is sent less often than the others has pauses of its own: a gap is one longer than it usually makes.
      const pauses = real.slice(1).map((i, k) => ts[i] - ts[real[k]]).sort((a, b) => a - b);
      const longest = Math.max(gap, 3 * (pauses[pauses.length >> 1] ?? 0));
      // To uPlot, `null` breaks a line and `undefined` does not.
      const column = new Array(x.length).fill(null);
      real.forEach((i, k) => {
        column[place[i]] = all[v][i];
        if (k && ts[i] - ts[real[k - 1]] <= longest) column.fill(undefined, place[real[k - 1]] + 1, place[i]);
      });
      columns[v] = column;
    }
    const [first, last] = [ts[0], ts[ts.length - 1]];
    const { since_ms: since, until_ms: until } = state.data.window;
    // The axis is the window, so that a device that fell silent looks so; unless the device would be a sliver in it.
    const whole = last - first > (until - since) / 8 && first >= since && last <= until;
    const pad = Math.max(60_000, (last - first) * 0.02);
    const stops = [...at.keys()].sort((a, b) => a - b);
    return { series, x, place, back, sent, at, marks, columns, stops, stopTimes: stops.map((i) => ts[i]), range: whole ? [since, until] : [first - pad, last + pad] };
  }

  function renderChosen() {
    const { data, id } = state;
    const device = data.devices.find((d) => d.device_id === id);
    const series = id == null ? null : seriesOf(id);
    $('chosen-title').replaceChildren(id == null ? 'No device chosen' : h('span', { class: 'id' }, id || '(no name)'));
    const fact = (name, v) => h('span', {}, `${name} `, h('b', {}, v));
    $('chosen-facts').replaceChildren(...(device ? [
      fact('Episodes', number(device.episodes)), fact('Sensor faults', number(device.artifacts)), fact('Peak score', number(device.peak_score)),
      fact('NEWS2', number(device.news2)), fact('Readings', number(device.readings)), fact('Last seen', `${short(device.last_seen_ms)} UTC`),
    ] : []));
    $('chosen-why').replaceChildren(...(device?.why ? [device.cause ? tag(device.cause, isFault(device.cause)) : '', device.why] : []));
    model = series?.ts.length ? modelOf(series) : null;
    const drawable = model?.sent.length > 0;
    $('chosen-body').hidden = !drawable;
    const empty = $('chosen-empty');
    empty.hidden = drawable;
    empty.textContent = id == null ? (data.devices.length ? 'Choose a device from the list.' : 'There is nothing to draw yet.')
      : series ? 'This device sent none of the six vitals in this window.'
      : data.live ? (state.missing ? `The vitals of this device can't be shown: ${state.missing}.` : 'Fetching the vitals of this device …')
      : device ? 'This file holds the vitals of the worst devices only, and this one is not among them. `vitals query history` followed by its name shows them.'
      : 'This device is not in this report.';
    if (!drawable) { hideTip(); clearCharts(); $('reset').hidden = true; return; }
    const never = Object.keys(VITALS).filter((v) => !model.sent.includes(v)).map((v) => VITALS[v].name.toLowerCase());
    $('chosen-note').textContent = [
      data.live && state.missing ? `Not updated: ${state.missing}.` : '',
      'Drag to zoom, double click for all of it. With the keyboard: arrows, Page Up and Down from outlier to outlier, + and −.',
      series.thinned ? 'Thinned for drawing; extremes and outliers are all here.' : '', never.length ? `Never sent: ${never.join(', ').replace('spo2', 'SpO2')}.` : '',
    ].filter(Boolean).join(' ');
    drawCharts();
    renderEpisodes(series);
  }

  function renderEpisodes(series) {
    const list = [...series.episodes].sort((a, b) => b.start_ms - a.start_ms);
    $('episodes-title').textContent = list.length ? `${many(list.length, 'episode')}, newest first` : 'No episodes in this window';
    $('episodes').replaceChildren(...list.map((e) => {
      const margin = Math.max(600_000, (e.end_ms - e.start_ms) * 0.6);
      return h('li', {},
        h('div', { class: 'when' },
          h('button', { type: 'button', class: 'plain', title: 'zoom to this episode', onclick: () => zoomTo(e.start_ms - margin, e.end_ms + margin) }, span(e.start_ms, e.end_ms)),
          h('div', { class: 'quiet' }, `${e.end_ms > e.start_ms ? lasted(e.end_ms - e.start_ms) : 'one reading'} · peak ${number(e.peak_score)}`)),
        h('p', {}, tag(e.cause, e.artifact), e.why));
    }));
  }

  // ---- charts ------------------------------------------------------------------------------------------------------

  function readTheme() {
    const css = getComputedStyle(document.documentElement);
    for (const name of ['text', 'quiet', 'line', 'line-2', 'band', 'usual', 'grid', 'outlier', 'outlier-span', 'fault', 'fault-span', 'panel']) {
      theme[name] = css.getPropertyValue(`--${name}`).trim();
    }
    theme.font = `12px ${getComputedStyle(document.body).fontFamily}`;
  }

  function clearCharts() {
    for (const u of charts) u.destroy();
    charts = [];
    $('charts').replaceChildren();
  }

  const dataFor = (chart) => [model.x, ...chart.vitals.filter((v) => model.sent.includes(v)).map((v) => model.columns[v])];

  function drawCharts() {
    const shown = CHARTS.filter((c) => c.vitals.some((v) => model.sent.includes(v)));
    const shape = shown.map((c) => c.vitals.filter((v) => model.sent.includes(v))).join('|');
    $('charts').setAttribute('aria-label', `Vitals of ${state.id} over time. Arrow keys move the cursor.`);
    // The same vitals as before: new data goes into the same charts, so that nothing jumps or flickers while one looks.
    if ($('charts').dataset.shape !== shape || !charts.length) {
      clearCharts();
      $('charts').dataset.shape = shape;
      shown.forEach((c, k) => $('charts').append(h('div', { class: 'chart' }, h('div', { class: 'name' }), h('div', { class: 'plot' }))));
      charts = shown.map((c, k) => newChart(c, $('charts').children[k].lastChild, k === shown.length - 1));
    } else {
      shown.forEach((c, k) => charts[k].setData(dataFor(c), false));
    }
    shown.forEach((c, k) => $('charts').children[k].firstChild.replaceChildren(...nameOf(c)));
    hideTip();
    applyZoom();
    const seen = (fault) => [...model.at.values()].flat().some((o) => o.artifact === fault);
    $('legend').replaceChildren(...[
      h('li', {}, h('span', { class: 'swatch band' }), 'usual for this device'),
      seen(false) ? h('li', {}, mark('triangle', 'm-outlier'), mark('fall', 'm-outlier'), 'outlier, high or low') : null,
      seen(true) ? h('li', {}, mark('square', 'm-fault'), 'sensor fault') : null,
      model.series.episodes.length ? h('li', {}, h('span', { class: 'swatch span' }), 'episode') : null,
      h('li', {}, 'no line: nothing was sent'),
    ].filter(Boolean));
  }

  function nameOf(chart) {
    const pair = chart.vitals.length > 1;
    const lines = chart.vitals.filter((v) => model.sent.includes(v)).map((v) => {
      const column = model.series.vitals[v];
      const last = column.findLast((n) => n != null);
      const band = model.series.bands[v];
      return [
        h('span', {}, pair ? mark(v === 'diastolic' ? 'dashes' : 'line', 'key') : null, `${pair ? VITALS[v].name.toLowerCase() : 'last'} `, h('i', {}, value(v, last))),
        band ? h('span', {}, `usual ${rough(v, band.low)} to ${rough(v, band.high)}`) : null];
    });
    return [h('b', {}, chart.name, h('span', {}, ` ${VITALS[chart.vitals[0]].unit}`)), ...lines.flat().filter(Boolean)];
  }

  function newChart(chart, host, last) {
    const vitals = chart.vitals.filter((v) => model.sent.includes(v));
    const height = (innerWidth < 720 ? 92 : 108) + (last ? 38 : 0);
    const yRange = (u, low, high) => {
      const bands = vitals.map((v) => model.series.bands[v]).filter(Boolean);
      let min = Math.min(low ?? Infinity, ...bands.map((b) => b.low));
      let max = Math.max(high ?? -Infinity, ...bands.map((b) => b.high));
      if (!Number.isFinite(min) || !Number.isFinite(max)) return chart.limits;
      // A flat line is drawn flat in the middle, not as a mountain range of its last digit.
      const pad = Math.max((max - min) * 0.1, (chart.least - (max - min)) / 2);
      [min, max] = [Math.max(chart.limits[0], min - pad), Math.min(chart.limits[1], max + pad)];
      return max > min ? [min, max] : chart.limits;
    };
    const axis = { stroke: () => theme.quiet, font: theme.font, grid: { stroke: () => theme.grid, width: 1 }, ticks: { show: false } };
    return new uPlot({
      width: Math.max(120, host.clientWidth), height, ms: 1, tzDate: (ms) => uPlot.tzDate(new Date(ms), 'Etc/UTC'),
      padding: [8, 22, last ? 0 : 6, 0], legend: { show: false },
      scales: { x: { time: true, range: () => zoom ?? model.range }, y: { range: yRange } },
      axes: [
        { ...axis, size: last ? 38 : 0, space: 64, values: (u, splits, a, b, step) => splits.map((t, k) => (last ? timeLabel(t, splits[k - 1], step) : '')) },
        { ...axis, size: 40, gap: 6, space: 26, incrs: chart.key === 'temperature' ? [0.1, 0.2, 0.5, 1, 2, 5, 10] : [1, 2, 5, 10, 20, 25, 50, 100] },
      ],
      series: [{}, ...vitals.map((v) => ({
        stroke: () => (v === 'diastolic' ? theme['line-2'] : theme.line), width: 1.4, dash: v === 'diastolic' ? [5, 3] : undefined, points: { show: false },
      }))],
      cursor: {
        y: false, drag: { x: true, y: false, setScale: false, dist: 4 }, points: { size: 7, fill: () => theme.text, stroke: () => theme.panel, width: 1.5 },
        dataIdx: (u) => { const i = pick(u); return i == null ? null : model.place[i]; },
        // Zoom and selection are this page's own affair (`zoomTo`): the charts only tell each other where the cursor is.
        sync: { key: SYNC, setSeries: false, filters: { pub: (type) => type === 'mousemove' || type === 'mouseleave' } },
        bind: { dblclick: () => () => zoomTo(null) },
      },
      hooks: {
        init: [(u) => {
          u.over.addEventListener('mouseenter', () => { u.syncRect(); forced = null; });
          u.over.addEventListener('mousemove', (e) => showTip(pick(u), vitals, e.clientX, e.clientY));
          u.over.addEventListener('mouseleave', hideTip);
        }],
        drawClear: [(u) => behind(u, vitals)],
        draw: [(u) => above(u, vitals)],
        setSelect: [(u) => {
          const { left, width } = u.select;
          if (width < 4) return;
          u.setSelect({ left: 0, top: 0, width: 0, height: 0 }, false);
          zoomTo(u.posToVal(left, 'x'), u.posToVal(left + width, 'x'));
        }],
      },
    }, dataFor(chart), host);
  }

  /** A clock time, with the date below it where a day begins. */
  function timeLabel(t, before, step) {
    if (step >= DAY_MS) return parts(t)?.date ?? '';
    const newDay = parts(t)?.day !== parts(before)?.day;
    const text = t % 60_000 ? clock(t) : minute(t);
    return newDay ? `${text}\n${parts(t)?.date ?? ''}` : text;
  }

  /** The reading that the cursor means: the nearest in time, but an outlier a few pixels away goes first. */
  function pick(u) {
    if (forced != null) return forced;
    if (!model || u.cursor.left == null || u.cursor.left < 0) return null;
    const t = u.posToVal(u.cursor.left, 'x');
    const near = model.stops.length ? model.stops[nearest(model.stopTimes, t)] : null;
    const away = (i) => Math.abs(u.valToPos(model.series.ts[i], 'x') - u.cursor.left);
    return near != null && away(near) <= 5 ? near : nearest(model.series.ts, t);
  }

  /** Behind the lines: the usual band, and the spans of episodes. */
  function behind(u, vitals) {
    const { ctx, bbox } = u;
    const ratio = devicePixelRatio || 1;
    const y = (n) => Math.min(bbox.top + bbox.height, Math.max(bbox.top, u.valToPos(n, 'y', true)));
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    for (const v of vitals) {
      const band = model.series.bands[v];
      if (!band) continue;
      ctx.fillStyle = theme.band;
      ctx.fillRect(bbox.left, y(band.high), bbox.width, y(band.low) - y(band.high));
      ctx.fillStyle = theme.usual;
      ctx.fillRect(bbox.left, Math.round(y(band.usual)), bbox.width, ratio);
    }
    for (const e of model.series.episodes) {
      const [from, to] = [u.valToPos(e.start_ms, 'x', true), u.valToPos(e.end_ms, 'x', true)];
      const width = Math.max(3 * ratio, to - from);
      ctx.fillStyle = theme[e.artifact ? 'fault-span' : 'outlier-span'];
      ctx.fillRect(from, bbox.top, width, bbox.height);
      // Across all charts, as one looks for what the others did then; the bar says which vital it is about.
      if (e.vital && !vitals.includes(e.vital)) continue;
      ctx.fillStyle = theme[e.artifact ? 'fault' : 'outlier'];
      ctx.fillRect(from, bbox.top, width, 2 * ratio);
    }
    ctx.restore();
  }

  /** Above the lines: readings that no line reaches, and marks. A mark beyond the axis stands at its edge. */
  function above(u, vitals) {
    const { ctx, bbox } = u;
    const ratio = devicePixelRatio || 1;
    const r = 4 * ratio;
    const [minX, maxX] = [u.scales.x.min, u.scales.x.max];
    const x = (i) => u.valToPos(model.series.ts[i], 'x', true);
    const y = (n) => (n == null ? bbox.top + bbox.height - r : Math.min(bbox.top + bbox.height - r, Math.max(bbox.top + r, u.valToPos(n, 'y', true))));
    const inSight = (i) => model.series.ts[i] >= minX && model.series.ts[i] <= maxX;
    ctx.save();
    for (const v of vitals) {
      const column = model.columns[v];
      const isReal = (k) => typeof column[k] === 'number';
      const sight = model.place.map((_, i) => i).filter((i) => inSight(i) && isReal(model.place[i]));
      const sparse = sight.length < bbox.width / ratio / 14;
      ctx.fillStyle = theme[v === 'diastolic' ? 'line-2' : 'line'];
      for (const i of sight) {
        const k = model.place[i];
        const alone = (k === 0 || column[k - 1] === null) && (k === column.length - 1 || column[k + 1] === null);
        if (!sparse && !alone) continue;
        ctx.beginPath();
        ctx.arc(x(i), y(column[k]), (alone ? 2.2 : 1.8) * ratio, 0, 7);
        ctx.fill();
      }
      const last = {}; // where the last mark of a shape was put: marks in a row would hide the line that they are about
      for (const m of model.marks[v]) {
        if (!inSight(m.i)) continue;
        const [cx, cy] = [x(m.i), y(m.n)];
        const before = last[m.shape];
        if (before && Math.abs(cx - before[0]) < 7 * ratio && Math.abs(cy - before[1]) < 14 * ratio) continue;
        last[m.shape] = [cx, cy];
        drawMark(ctx, m.shape, cx, cy, r, ratio);
      }
    }
    ctx.restore();
  }

  function drawMark(ctx, shape, x, y, r, ratio) {
    const corners = {
      rise: [[0, -1.1], [1.05, 0.8], [-1.05, 0.8]], fall: [[0, 1.1], [1.05, -0.8], [-1.05, -0.8]],
      diamond: [[0, -1.2], [1, 0], [0, 1.2], [-1, 0]], square: [[-0.8, -0.8], [0.8, -0.8], [0.8, 0.8], [-0.8, 0.8]],
    }[shape];
    ctx.beginPath();
    corners.forEach(([dx, dy], k) => ctx[k ? 'lineTo' : 'moveTo'](x + dx * r, y + dy * r));
    ctx.closePath();
    const hollow = shape === 'square';
    ctx.fillStyle = hollow ? theme.panel : theme.outlier;
    ctx.strokeStyle = hollow ? theme.fault : theme.panel;
    ctx.lineWidth = (hollow ? 1.6 : 1) * ratio;
    ctx.fill();
    ctx.stroke();
  }

  // ---- zoom and keyboard -------------------------------------------------------------------------------------------

  function zoomTo(from, to) {
    if (!model) return;
    zoom = null;
    if (from != null) {
      const [first, last] = model.range;
      const [a, b] = [Math.max(first, from), Math.min(last, to)];
      if (b - a >= 1000 && (a > first || b < last)) zoom = [a, b];
    }
    hideTip();
    applyZoom();
  }
  function applyZoom() {
    const [min, max] = zoom ?? model.range;
    for (const u of charts) u.setScale('x', { min, max });
    $('reset').hidden = !zoom;
  }

  function onChartKey(event) {
    if (!model || event.ctrlKey || event.metaKey || event.altKey) return;
    const { ts } = model.series;
    const [from, to] = zoom ?? model.range;
    const now = forced ?? nearest(ts, to);
    const near = (factor) => { const middle = forced == null ? (from + to) / 2 : ts[forced]; const half = (to - from) * factor / 2; zoomTo(middle - half, middle + half); };
    const moves = {
      ArrowLeft: () => moveTo(forced == null ? now : now - 1), ArrowRight: () => moveTo(forced == null ? nearest(ts, from) : now + 1),
      Home: () => moveTo(nearest(ts, from)), End: () => moveTo(nearest(ts, to)),
      PageDown: () => moveTo(model.stops.find((i) => i > (forced ?? -1)) ?? now), PageUp: () => moveTo(model.stops.findLast((i) => i < (forced ?? Infinity)) ?? now),
      '+': () => near(0.5), '=': () => near(0.5), '-': () => near(2), 0: () => zoomTo(null), Escape: () => (tipShown() ? hideTip() : zoomTo(null)),
    };
    if (!moves[event.key]) return;
    event.preventDefault();
    moves[event.key]();
  }
  function moveTo(i) {
    const { ts } = model.series;
    i = Math.min(ts.length - 1, Math.max(0, i));
    const [from, to] = zoom ?? model.range;
    if (ts[i] < from || ts[i] > to) zoomTo(ts[i] - (to - from) / 2, ts[i] + (to - from) / 2);
    forced = i;
    // After the redraw: uPlot gathers changes of its scales, and the cursor needs the new ones.
    requestAnimationFrame(() => {
      if (forced !== i || !charts.length) return;
      for (const u of charts) u.setCursor({ left: u.valToPos(ts[i], 'x'), top: 1 });
      const box = charts[0].over.getBoundingClientRect();
      showTip(i, [], box.left + charts[0].valToPos(ts[i], 'x'), Math.max(8, box.top));
    });
  }

  // ---- the tooltip -------------------------------------------------------------------------------------------------

  const tipShown = () => !$('tip').hidden;
  function hideTip() {
    $('tip').hidden = true;
    if (forced != null) { forced = null; for (const u of charts) u.setCursor({ left: -10, top: -10 }, false); }
  }
  function placeTip(x, y) {
    const tip = $('tip');
    tip.hidden = false;
    const { width, height } = tip.getBoundingClientRect();
    const right = x + 16 + width < innerWidth - 8;
    const left = right ? x + 16 : Math.max(8, x - 16 - width);
    tip.style.transform = `translate(${Math.round(Math.min(left, innerWidth - width - 8))}px, ${Math.round(Math.max(8, Math.min(y + 14, innerHeight - height - 8)))}px)`;
  }

  function showTip(i, here, x, y) {
    if (i == null || !model) return;
    const { ts, vitals, bands, episodes } = model.series;
    const rows = model.sent.filter((v) => vitals[v][i] != null).map((v) => h('tr', { class: here.includes(v) ? 'here' : '' },
      h('th', { scope: 'row' }, VITALS[v].name),
      h('td', { class: 'num' }, h('data', { value: vitals[v][i], 'data-vital': v }, value(v, vitals[v][i]))),
      h('td', {}, VITALS[v].unit), h('td', {}, bands[v] ? `usual ${rough(v, bands[v].usual)}` : '')));
    const reasons = (model.at.get(i) ?? []).map((o) => h('p', {}, tag(o.cause, o.artifact), `score ${number(o.score)}${o.news2 == null ? '' : `, NEWS2 ${o.news2}`}: ${o.why}`));
    const within = episodes.filter((e) => ts[i] >= e.start_ms && ts[i] <= e.end_ms);
    $('tip').replaceChildren(
      h('time', { datetime: new Date(ts[i]).toISOString() }, stamp(ts[i])), h('table', {}, h('tbody', {}, rows)), ...reasons,
      ...within.slice(0, 2).map((e) => h('p', { class: 'quiet' }, `in an episode, ${span(e.start_ms, e.end_ms)}: ${plain(e.cause)}. ${e.why}`)));
    placeTip(x, y);
  }

  // ---- days and causes ---------------------------------------------------------------------------------------------

  const rank = (cause) => { const k = Object.keys(CAUSES).indexOf(cause); return k < 0 ? 99 : k; };
  const fillOf = (cause) => { const [group, pattern] = CAUSES[cause] ?? ['several', 'light']; return `url(#fill-${group}-${pattern})`; };

  /** Patterns for bars and legend, once for the page. */
  function addFills() {
    const used = new Set([...Object.values(CAUSES), ['several', 'light']].map((pair) => pair.join(' ')));
    const over = {
      solid: () => [], light: () => [s('rect', { width: 6, height: 6, class: 'paper', opacity: 0.55 })],
      stripes: () => [s('rect', { width: 6, height: 2.6, class: 'paper' })],
      dots: () => [s('circle', { cx: 1.5, cy: 1.5, r: 1.1, class: 'paper' }), s('circle', { cx: 4.5, cy: 4.5, r: 1.1, class: 'paper' })],
    };
    document.body.append(s('svg', { class: 'defs', 'aria-hidden': 'true' }, s('defs', {}, [...used].map((pair) => {
      const [group, pattern] = pair.split(' ');
      return s('pattern', { id: `fill-${group}-${pattern}`, width: 6, height: 6, patternUnits: 'userSpaceOnUse', patternTransform: pattern === 'stripes' ? 'rotate(45)' : null },
        s('rect', { width: 6, height: 6, class: `g-${group}` }), ...over[pattern]());
    }))));
  }

  function daysShown() {
    const known = new Map(state.data.days.map((d) => [d.day, d.causes]));
    const keys = [...known.keys()].sort();
    const { since_ms: since, until_ms: until } = state.data.window;
    const [from, to] = [Date.parse(keys[0]), Date.parse(keys[keys.length - 1])];
    const inWindow = (until - since) / DAY_MS <= 61;
    const start = Math.floor(Math.min(from, inWindow ? since : from) / DAY_MS);
    const end = Math.floor(Math.max(from, to, inWindow ? until - 1 : to) / DAY_MS);
    // Days without an episode are days too; but a few days far apart are listed as they are.
    const all = end - start < 62 ? Array.from({ length: end - start + 1 }, (_, k) => parts((start + k) * DAY_MS).day) : keys;
    return all.map((day) => ({ day, causes: Object.entries(known.get(day) ?? {}).filter(([, n]) => n > 0).sort((a, b) => rank(a[0]) - rank(b[0])) }));
  }

  function renderDays() {
    const { causes, days } = state.data;
    const none = !causes.length && !days.length;
    $('days-empty').hidden = !none;
    $('days-empty').textContent = 'No episodes in this window.';
    $('days-body').hidden = none;
    if (none) return;
    $('causes').tBodies[0].replaceChildren(...[...causes].sort((a, b) => a.artifact - b.artifact || b.episodes - a.episodes).map((c) => h('tr', {},
      h('th', { scope: 'row' }, s('svg', { class: 'swatch', viewBox: '0 0 14 14', 'aria-hidden': 'true' }, s('rect', { width: 14, height: 14, rx: 2, fill: fillOf(c.cause) })),
        plain(c.cause), c.artifact ? h('span', { class: 'kind' }, 'sensor fault') : null),
      h('td', { class: 'num' }, number(c.episodes)))));
    $('days').replaceChildren();
    if (days.length) $('days').append(dayBars(daysShown()));
  }

  function dayBars(list) {
    const [width, height] = [Math.max(200, $('days').clientWidth), innerWidth < 720 ? 200 : 240];
    const box = { left: 36, top: 8, right: width - 4, bottom: height - 24 };
    const total = (d) => d.causes.reduce((sum, [, n]) => sum + n, 0);
    const most = Math.max(1, ...list.map(total));
    const step = [1, 2, 5].flatMap((k) => [k, k * 10, k * 100, k * 1e3, k * 1e4, k * 1e5, k * 1e6]).sort((a, b) => a - b).find((k) => most / k <= 4) ?? most;
    const top = Math.ceil(most / step) * step;
    const y = (n) => box.bottom - (n / top) * (box.bottom - box.top);
    const slot = (box.right - box.left) / list.length;
    const bar = Math.min(64, Math.max(2, slot * 0.72));
    const every = Math.ceil(52 / slot);
    const svg = s('svg', { viewBox: `0 0 ${width} ${height}`, role: 'img', 'aria-label': `Episodes by day: ${list.map((d) => `${d.day} ${total(d)}`).join(', ')}` });
    for (let n = 0; n <= top; n += step) {
      svg.append(s('line', { class: 'axis', x1: box.left, x2: box.right, y1: y(n), y2: y(n) }), s('text', { x: box.left - 8, y: y(n) + 4, 'text-anchor': 'end' }, number(n)));
    }
    list.forEach((d, k) => {
      const x = box.left + slot * k;
      let below = 0;
      const parts_ = d.causes.map(([cause, n]) => {
        const rect = s('rect', { x: x + (slot - bar) / 2, width: bar, y: y(below + n), height: Math.max(0.5, y(below) - y(below + n) - (y(0) - y(n) > 3 ? 1 : 0)), fill: fillOf(cause) });
        below += n;
        return rect;
      });
      const show = (e) => {
        $('tip').replaceChildren(h('span', { class: 'day' }, `${d.day}: ${many(total(d), 'episode')}`), h('table', {}, h('tbody', {}, d.causes.map(([cause, n]) => h('tr', { class: 'here' }, h('th', {}, plain(cause)), h('td', { class: 'num' }, number(n)))))));
        placeTip(e.clientX, e.clientY);
      };
      svg.append(s('g', { class: 'bar', onmousemove: show, onmouseleave: hideTip }, s('rect', { class: 'hit', x, width: slot, y: box.top, height: box.bottom - box.top }), ...parts_));
      if (k % every === 0) svg.append(s('text', { x: x + slot / 2, y: height - 6, 'text-anchor': 'middle' }, parts(Date.parse(d.day))?.date ?? d.day));
    });
    return svg;
  }

  // ---- the model ---------------------------------------------------------------------------------------------------

  function renderModel() {
    const m = state.data.model;
    const t = m.trained_on;
    const builtin = m.id === 'builtin';
    const figure = (x) => (x == null ? 'not measured' : x.toFixed(2));
    const card = [
      ['In force', m.id, builtin ? 'adults from published ranges; `vitals train` learns from your own readings' : null],
      ['Learned from', t.readings ? `${many(t.readings, 'reading')} of ${many(t.devices, 'device')}` : 'none of your readings', t.since_ms == null ? null : `${short(t.since_ms)} – ${short(t.until_ms)} UTC`],
      ['Threshold', m.threshold.toFixed(2), 'a higher score is an outlier'],
      ['Alarm budget', `${m.alarms_per_device_day} per device and day`, 'false episodes that training allows itself'],
      ['Found of events put in', figure(m.figures?.recall_at_budget), 'recall within the budget, on devices held back'],
      ['Tells apart', figure(m.figures?.auroc), 'AUROC, on devices held back'],
      ['Scored', many(m.scored_days, 'day'), null],
    ];
    $('warnings').replaceChildren(...m.warnings.map((w) => h('li', {}, mark('triangle'), h('span', {}, w))));
    $('model').replaceChildren(...card.map(([name, v, hint]) => h('div', {}, h('dt', {}, name), h('dd', {}, v), hint ? h('dd', { class: 'hint' }, hint) : null)));
  }

  // ---- live --------------------------------------------------------------------------------------------------------

  async function get(path) {
    let answer;
    try {
      answer = await fetch(path, { cache: 'no-store', signal: AbortSignal.timeout(Math.max(5, state.data.refresh_s) * 1000) });
    } catch (error) {
      throw new Error(error.name === 'TimeoutError' ? 'the server does not answer' : 'the server can\'t be reached', { cause: error });
    }
    if (!answer.ok) throw new Error(`the server answers ${answer.status}`);
    return answer.json().catch(() => { throw new Error('the answer can\'t be read'); });
  }

  async function refresh() {
    try {
      const data = await get('data.json');
      if (data.schema_version !== 1) throw new Error('the server was changed; load this page again');
      [state.data, state.failed, state.heard, state.heardAt] = [data, null, performance.now(), Date.now()];
      renderAll();
      await fetchSeries();
    } catch (error) {
      state.failed = error.message;
      renderState();
    }
  }

  /** When served, the page's data has the worst devices only; the chosen one is asked for by name. */
  async function fetchSeries() {
    const { id, data } = state;
    if (!data.live || id == null || Object.hasOwn(data.series, id)) return;
    if (!data.devices.some((d) => d.device_id === id) && !state.asked) return;
    try {
      const series = await get(`device/${encodeURIComponent(id)}.json`);
      if (state.id !== id) return; // another was chosen meanwhile
      state.missing = null;
      state.fetched = new Map([[id, series]]); // the last one only: the page may stay open for weeks
    } catch (error) {
      if (state.id !== id) return;
      state.missing = error.message;
    }
    renderChosen();
  }

  function keepAsking() {
    const period = Math.max(1, state.data.refresh_s) * 1000;
    let [next, asking] = [null, false];
    const round = async () => {
      if (asking) return;
      asking = true;
      clearTimeout(next);
      await refresh();
      asking = false;
      next = setTimeout(round, period);
    };
    next = setTimeout(round, period);
    // A machine that slept, or a tab that was put away, asks at once and shows until then that it does not know.
    document.addEventListener('visibilitychange', () => {
      if (document.hidden) return;
      if (performance.now() - state.heard > 3 * period) { state.failed ??= 'asking again'; renderState(); }
      round();
    });
  }

  // ---- start -------------------------------------------------------------------------------------------------------

  function renderAll() {
    renderHeader();
    renderDevices();
    if (state.id == null) state.id = idOfHash() ?? state.data.devices[0]?.device_id ?? null;
    markPicked();
    renderChosen();
    renderDays();
    renderModel();
  }

  function listen() {
    $('filter').addEventListener('input', (e) => { state.filter = e.target.value; renderDevices(); });
    $('devices').addEventListener('click', (e) => {
      const id = e.target.closest('tbody')?.dataset.device;
      // The link inside does this by itself, and keeps what links can do, such as opening in a new tab.
      if (id != null && !e.target.closest('a')) location.hash = hashOf(id);
    });
    window.addEventListener('hashchange', () => { const id = idOfHash(); if (id != null) choose(id, true); });
    $('reset').addEventListener('click', () => { zoomTo(null); $('charts').focus({ preventScroll: true }); });
    $('charts').addEventListener('keydown', onChartKey);
    $('charts').addEventListener('blur', hideTip);
    window.addEventListener('scroll', () => { if (forced == null) hideTip(); }, { passive: true });
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => { readTheme(); for (const u of charts) u.redraw(); });
    let width = innerWidth;
    new ResizeObserver(() => {
      for (const u of charts) {
        const room = Math.max(120, u.root.parentElement.clientWidth);
        if (room !== u.width) u.setSize({ width: room, height: u.height });
      }
      if (innerWidth === width) return;
      width = innerWidth;
      renderDevices();
      renderDays();
    }).observe($('charts'));
  }

  readTheme();
  addFills();
  listen();
  state.asked = idOfHash() != null;
  renderAll();
  fetchSeries();
  if (state.data.live) keepAsking();
  else setInterval(renderState, 60_000); // a file grows old while it is open
})();
