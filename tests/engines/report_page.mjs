// The page of `vitals report`, in a real browser.
//
//     node report_page.mjs <file.html or http url> <folder for screenshots>
//
// Checks what a person would notice, and what the page promises: nothing is loaded from elsewhere, nothing is refused by
// its own content security policy, a device can be chosen by mouse and by keyboard, charts have ink on them, the tooltip
// says what is in the data, and the page fits from 320 to 1920 pixels, in light and dark. Exit code 1 names the fault.
// Needs `playwright-core` beside it, and a Chromium: CHROMIUM or VITALS_CHROMIUM, or one of the usual places.

import { existsSync, mkdirSync } from 'node:fs';
import { resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { chromium } from 'playwright-core';

const [page_, folder] = process.argv.slice(2);
if (!page_ || !folder) {
  console.error('usage: node report_page.mjs <file.html or http url> <folder for screenshots>');
  process.exit(2);
}
const served = /^https?:/.test(page_);
const url = served ? page_ : pathToFileURL(resolve(page_)).href;
const executablePath = [process.env.CHROMIUM, process.env.VITALS_CHROMIUM, '/usr/bin/chromium', '/usr/bin/chromium-browser',
  '/usr/bin/google-chrome'].find((path) => path && existsSync(path));
if (!executablePath) {
  console.error('no Chromium found: set CHROMIUM to its path');
  process.exit(1);
}
mkdirSync(folder, { recursive: true });

const SIZES = [{ width: 360, height: 800 }, { width: 1920, height: 1080 }];
const faults = [];
const check = (good, fault) => { if (!good) faults.push(fault); };

const browser = await chromium.launch({
  executablePath,
  args: ['--headless', '--no-sandbox', '--disable-gpu', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync'],
});
try {
  for (const colorScheme of ['light', 'dark']) {
    for (const viewport of SIZES) await visit(colorScheme, viewport);
  }
} catch (error) {
  faults.push(error.message);
} finally {
  await browser.close();
}
for (const fault of new Set(faults)) console.error(`report page: ${fault}`);
if (faults.length) process.exit(1);
console.log(`report page: good, screenshots in ${folder}`);

async function visit(colorScheme, viewport) {
  const name = `${viewport.width}-${colorScheme}`;
  const context = await browser.newContext({ viewport, colorScheme });
  const page = await context.newPage();
  page.setDefaultTimeout(10_000);
  let cut = false; // set while the check itself makes a request fail, which the browser then reports
  page.on('console', (m) => { if (!cut && ['error', 'warning'].includes(m.type())) faults.push(`${name}: console: ${m.text()}`); });
  page.on('pageerror', (error) => faults.push(`${name}: script error: ${error.message}`));
  page.on('request', (request) => {
    const to = request.url();
    if (to === url || to.split('#')[0] === url || to.startsWith('data:')) return;
    if (!served) faults.push(`${name}: a file must load nothing, this asks for ${to}`);
    else if (new URL(to).origin !== new URL(url).origin) faults.push(`${name}: request to somewhere else: ${to}`);
  });
  await page.addInitScript(() => {
    window.refused = [];
    document.addEventListener('securitypolicyviolation', (e) => window.refused.push(`${e.violatedDirective} ${e.blockedURI}`));
  });
  await page.goto(url, { waitUntil: 'load' });
  await settle(page);

  const data = JSON.parse(await page.locator('#data').textContent());
  const state = (await page.locator('#state').textContent()).trim();
  check(state.length > 3, `${name}: no freshness in words`);
  check(data.freshness.status === 'fresh' || !(await page.locator('#state.fresh').count()), `${name}: green, but the data is ${data.freshness.status}`);
  check(await page.locator('#state svg').count() === 1, `${name}: the state has no shape`);
  check((await page.locator('footer').textContent()).includes('Not a medical device'), `${name}: the footer does not say what this is not`);
  await shot(page, name);

  if (data.devices.length) await choosing(page, name, data);
  const drawn = await firstDrawable(page, data);
  if (drawn) await charts(page, name, data, drawn);

  // At the sizes of the screenshots, and where the layout changes between them. The page follows a window that is resized.
  for (const width of [viewport.width, 320, 721, 1180, 1366, viewport.width]) {
    await page.setViewportSize({ ...viewport, width });
    await settle(page);
    const wide = await page.evaluate(() => document.documentElement.scrollWidth - document.documentElement.clientWidth);
    check(wide <= 0, `${name}: at ${width} the page is ${wide} px wider than the window`);
  }
  const tight = await page.evaluate(() => [...document.querySelectorAll('.scroll, .panel')]
    .filter((e) => e.scrollWidth > e.clientWidth + 1).map((e) => e.id || e.className));
  check(!tight.length, `${name}: content is wider than its box: ${tight.join(', ')}`);
  const dim = await page.evaluate(lowContrast);
  check(!dim.length, `${name}: contrast below 4.5: ${dim.slice(0, 5).join('; ')}`);
  for (const refused of await page.evaluate(() => window.refused)) faults.push(`${name}: refused by the policy: ${refused}`);
  check(await page.locator('img, iframe, object, embed, body b > b').count() === 0, `${name}: markup came out of the data`);
  if (served && data.live) {
    await staysTrue(page, name, () => { cut = true; });
    await page.screenshot({ path: `${folder}/${name}-lost.png` });
  }
  await context.close();
}

/** A served page keeps the chosen device when it fetches, says when it can't, and is not green then. */
async function staysTrue(page, name, cutting) {
  const fetchNow = () => page.evaluate(() => { document.dispatchEvent(new Event('visibilitychange')); });
  const chosen = await page.locator('#chosen-title').textContent();
  const place = await page.evaluate(() => { scrollTo(0, 300); return scrollY; });
  const answered = page.waitForResponse((response) => response.url().includes('data.json'));
  await fetchNow();
  check((await answered).ok(), `${name}: data.json is not served`);
  await settle(page);
  check(await page.locator('#chosen-title').textContent() === chosen, `${name}: fetching lost the chosen device`);
  check(await page.evaluate(() => scrollY) === place, `${name}: fetching moved the page`);
  cutting();
  await page.route('**/data.json', (route) => route.abort());
  // The page asks once at a time: while it still asks for a device, a nudge is passed over.
  for (let left = 10; left > 0 && !(await page.locator('#state.lost').count()); left--) {
    await fetchNow();
    await page.waitForTimeout(500);
  }
  check(await page.locator('#state.lost').count() === 1, `${name}: a failed fetch leaves the state as it was`);
  check((await page.locator('#state').textContent()).includes('Not updated since'), `${name}: a failed fetch is not told in words`);
  check(await page.locator('#chosen-title').textContent() === chosen, `${name}: a failed fetch lost the chosen device`);
  await page.unroute('**/data.json');
  await page.waitForTimeout(500);
  await fetchNow();
  await page.locator('#state:not(.lost)').waitFor({ timeout: 5_000 }).catch(() => check(false, `${name}: the page does not recover after a failed fetch`));
  cutting();
}

/** Two frames: uPlot draws in a microtask, ResizeObserver in the next frame. */
function settle(page) {
  return page.evaluate(() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done))));
}

async function shot(page, name) {
  await page.evaluate(() => scrollTo(0, 0));
  await page.screenshot({ path: `${folder}/${name}.png` });
  await page.screenshot({ path: `${folder}/${name}-full.png`, fullPage: true });
}

/** A device can be chosen by click and by Enter, and sorted and filtered by keyboard. */
async function choosing(page, name, data) {
  const links = page.locator('#devices tbody a');
  if (!(await links.count())) await page.locator('#devices-quiet button').click();
  const listed = await page.locator('#devices tbody').evaluateAll((rows) => rows.map((row) => row.dataset.device));
  check(listed.length > 0, `${name}: ${data.devices.length} devices in the data, none can be listed`);
  const title = () => page.locator('#chosen-title').evaluate((e) => e.textContent);
  const want = async (id, how) => {
    await settle(page);
    const now = await title();
    check(now === (id || '(no name)'), `${name}: ${how} did not choose ${JSON.stringify(id)}, but ${JSON.stringify(now)}`);
  };
  const last = listed.length - 1;
  await page.locator('#devices tbody').nth(last).locator('tr').first().click({ position: { x: 5, y: 12 } });
  await want(listed[last], 'a click on a row');
  await links.first().focus();
  await page.keyboard.press('Enter');
  await want(listed[0], 'Enter on a link');
  check(await page.locator('#devices a[aria-current=true]').count() === 1, `${name}: the chosen device is not marked`);

  const header = page.locator('#devices thead button').first();
  await header.focus();
  await page.keyboard.press('Enter');
  const sorted = await page.locator('#devices tbody').evaluateAll((rows) => rows.map((row) => row.dataset.device));
  const byName = [...sorted].sort(new Intl.Collator('en', { numeric: true }).compare);
  check(sorted.every((id, k) => id === byName[k]), `${name}: Enter on the header did not sort by device`);
  check(await page.locator('#devices th[aria-sort]').count() === 1, `${name}: no header says how the list is sorted`);
  check(await page.evaluate(() => document.activeElement.dataset.sort === 'device_id'), `${name}: sorting lost the keyboard's place`);
  await page.keyboard.press('Enter');
  await page.keyboard.press('Enter');
  await page.fill('#filter', 'there is no such device');
  check(await page.locator('#devices tbody').count() === 0, `${name}: the filter does not filter`);
  await page.fill('#filter', '');
}

/** A device whose vitals are in the page, and can be drawn; chosen. */
async function firstDrawable(page, data) {
  const found = data.devices.find(({ device_id: id }) => Object.hasOwn(data.series, id) &&
    data.series[id].ts.length && Object.values(data.series[id].vitals).some((column) => column.some((n) => n != null)));
  if (!found) return null;
  await page.evaluate((hash) => { location.hash = hash; }, `#device=${encodeURIComponent(found.device_id)}`);
  await settle(page);
  return found.device_id;
}

/** Charts have ink, the tooltip tells what is in the data, and zooming works on all of them. */
async function charts(page, name, data, id) {
  const series = data.series[id];
  const sent = Object.keys(series.vitals).filter((v) => series.vitals[v].some((n) => n != null));
  const canvases = page.locator('#charts canvas');
  const wanted = new Set(sent.map((v) => (v === 'diastolic' ? 'systolic' : v))).size;
  check(await canvases.count() === wanted, `${name}: ${wanted} charts wanted for ${sent}, ${await canvases.count()} drawn`);
  // Ink of the readings themselves, or of marks on them: axes and grid alone are no drawing.
  const ink = await canvases.evaluateAll((all) => all.map((canvas) => {
    const css = getComputedStyle(document.documentElement);
    const inks = ['--line', '--line-2', '--outlier', '--fault'].map((ink) => css.getPropertyValue(ink).trim())
      .map((ink) => [1, 3, 5].map((k) => parseInt(ink.slice(k, k + 2), 16)));
    const { data: p } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
    let n = 0;
    for (let i = 0; i < p.length; i += 4) if (p[i + 3] > 200 && inks.some((ink) => ink.every((c, k) => Math.abs(p[i + k] - c) < 24))) n += 1;
    return n;
  }));
  ink.forEach((n, k) => check(n >= 4, `${name}: chart ${k + 1} is blank (${n} dots of a line or a mark)`));

  await page.locator('#charts').scrollIntoViewIfNeeded();
  const over = page.locator('#charts .u-over').first();
  await over.scrollIntoViewIfNeeded();
  const box = await over.boundingBox();
  for (const share of [0.12, 0.5, 0.83]) {
    await page.mouse.move(box.x + box.width * share, box.y + box.height / 2);
    await settle(page);
    await tipIsTrue(page, `${name}: hovering at ${share}`, series);
  }
  const shown = await page.locator('#tip').boundingBox();
  const size = page.viewportSize();
  check(shown && shown.x >= 0 && shown.x + shown.width <= size.width, `${name}: the tooltip leaves the window`);
  await page.screenshot({ path: `${folder}/${name}-tip.png` });
  const cursors = await page.locator('#charts .u-cursor-x').evaluateAll((all) => new Set(all.map((e) => e.style.transform)).size);
  check(cursors === 1, `${name}: the cursors of the charts are not together`);

  await page.locator('#charts').focus();
  await page.keyboard.press('ArrowRight');
  await page.keyboard.press('ArrowRight');
  await settle(page);
  await tipIsTrue(page, `${name}: the right arrow key`, series);
  if (series.outliers.length) {
    await page.keyboard.press('Home');
    await page.keyboard.press('End');
    await page.keyboard.press('PageUp');
    await settle(page);
    const text = await page.locator('#tip').textContent();
    const last = series.outliers[series.outliers.length - 1];
    if (last.ts < series.ts[series.ts.length - 1]) check(text.includes(last.why), `${name}: Page Up did not go to the last outlier with its reason`);
  }
  await page.keyboard.press('Escape');
  check(await page.locator('#tip').isHidden(), `${name}: Escape leaves the tooltip`);

  if (series.ts.length > 20) {
    const at = await over.boundingBox();
    await page.mouse.move(at.x + at.width * 0.4, at.y + 20);
    await page.mouse.down();
    await page.mouse.move(at.x + at.width * 0.6, at.y + 30, { steps: 4 });
    await page.mouse.up();
    await settle(page);
    check(await page.locator('#reset').isVisible(), `${name}: dragging did not zoom`);
    await page.screenshot({ path: `${folder}/${name}-zoom.png` });
    await page.mouse.dblclick(at.x + at.width / 2, at.y + 20);
    await settle(page);
    check(await page.locator('#reset').isHidden(), `${name}: a double click did not end the zoom`);
    await page.mouse.move(1, 1);
  }
}

async function tipIsTrue(page, what, series) {
  if (!(await page.locator('#tip').isVisible())) { check(false, `${what} shows no tooltip`); return; }
  const time = await page.locator('#tip time').getAttribute('datetime');
  const i = series.ts.indexOf(Date.parse(time));
  check(i >= 0, `${what} shows the time ${time}, which no reading has`);
  const values = await page.locator('#tip data').evaluateAll((all) => all.map((e) => [e.dataset.vital, Number(e.value), e.textContent]));
  const any = Object.values(series.vitals).some((column) => column[i] != null);
  check(values.length > 0 || !any, `${what} shows no value`);
  for (const [vital, value, text] of values) {
    check(series.vitals[vital]?.[i] === value, `${what} shows ${vital} ${value}, the data has ${series.vitals[vital]?.[i]}`);
    check(Math.abs(Number(text.replace(/,/g, '')) - value) <= Math.abs(value) * 0.05 + 0.051, `${what} writes ${text} for ${value}`);
  }
}

/** Runs in the page: texts in sight whose contrast with what lies behind them is under 4.5 to 1 (WCAG AA). */
function lowContrast() {
  const paint = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
  const rgba = (css) => { paint.clearRect(0, 0, 1, 1); paint.fillStyle = css; paint.fillRect(0, 0, 1, 1); const [r, g, b, a] = paint.getImageData(0, 0, 1, 1).data; return [r, g, b, a / 255]; };
  const light = ([r, g, b]) => [r, g, b].map((c) => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4)
    .reduce((sum, c, k) => sum + c * [0.2126, 0.7152, 0.0722][k], 0);
  const behind = (element) => {
    for (let e = element; e; e = e.parentElement) { const c = rgba(getComputedStyle(e).backgroundColor); if (c[3] > 0.99) return c; }
    return [255, 255, 255, 1];
  };
  const dim = [];
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  for (let node = walk.nextNode(); node && dim.length < 20; node = walk.nextNode()) {
    const e = node.parentElement;
    if (!node.data.trim() || !e.checkVisibility() || e.closest('script, svg, .skip, noscript')) continue;
    const [a, b] = [light(rgba(getComputedStyle(e).color)), light(behind(e))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    if (contrast < 4.5) dim.push(`${JSON.stringify(node.data.trim().slice(0, 30))} ${contrast.toFixed(2)}`);
  }
  return dim;
}
