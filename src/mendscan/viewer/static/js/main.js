// The page: which scan is shown, and what happens when something is pressed.

import { asGradient } from "./colours.js";
import { byId, element, shortly, shown } from "./dom.js";
import { Grid } from "./geometry.js";
import { Keys } from "./keys.js";
import { List } from "./list.js";
import { Panel } from "./panel.js";
import { askCase, askResults, askVolume } from "./requests.js";
import { Scene } from "./scene.js";
import { voxelsOf } from "./volumes.js";

const LAZY_VOXELS = 2 ** 26; // of larger scans the restoration is fetched only when it is looked at
const WHAT = { scan: "the scan", map: "the anomaly map", restored: "the restoration" };

const page = { results: null, list: null, about: null, number: -1, finding: -1, asking: null, grid: null, restoring: null };
const scene = new Scene(byId("canvas"), byId("labels"), moved);
const panel = new Panel(byId("panel"), { onFinding: goToFinding, onSlice: (axis, position) => scene.moveToSlice(axis, position) });

async function start() {
  prepareControls();
  try {
    page.results = await askResults();
  } catch (error) {
    say(error.message);
    return;
  }
  page.list = new List(page.results.cases);
  chooseThreshold(page.results.run.map_threshold ?? 0.5);
  byId("mark").style.left = `${100 * (page.results.run.map_threshold ?? 0.5)}%`;
  try {
    await scene.start();
  } catch (error) {
    page.noPictures = error.message;
  }
  window.addEventListener("hashchange", follow);
  follow();
}

// The address says which scan, by its place in the list: names of files may be names of patients.
function follow() {
  const [, scan, finding] = location.hash.match(/^#(\d{1,7})(?:\.(\d{1,7}))?$/) ?? [];
  const number = Number(scan ?? 1) - 1;
  if (page.results.cases.length === 0) say("there are no scans in this folder");
  else show(page.results.cases[number] ? number : 0, finding ? Number(finding) - 1 : -1);
}

async function show(number, finding) {
  if (number === page.number) {
    if (finding >= 0 && finding !== page.finding) goToFinding(finding);
    return;
  }
  page.asking?.abort();
  const asking = new AbortController();
  Object.assign(page, { number, finding: -1, about: null, grid: null, restoring: null, asking });
  const listed = page.results.cases[number];
  document.title = `mendscan: scan ${number + 1} of ${page.results.cases.length}`;
  byId("title").replaceChildren(element("span", { class: "quiet" }, `${number + 1} / ${page.results.cases.length}`), listed.name);
  page.list.select(number);
  flip(0);
  saySide();
  nothingRead();
  scene.clear();
  say("loading …");
  try {
    const about = await askCase(number, asking.signal);
    asking.signal.throwIfAborted();
    page.about = about;
    panel.show(about, page.results.run);
    offer("map", Boolean(about.volumes.map));
    offer("restored", Boolean(about.volumes.restored));
    await draw(asking.signal);
    if (finding >= 0 || page.about.listed.length > 0) goToFinding(Math.max(0, finding), finding >= 0);
  } catch (error) {
    if (!asking.signal.aborted) say(error.message);
  }
}

async function draw(signal) {
  const { geometry, volumes, failed } = page.about;
  if (failed) return say("This scan could not be scored; the reason is beside.");
  if (!volumes.scan) return say("There is no picture of this scan; the reason is beside.");
  if (page.noPictures) return say(page.noPictures);
  const grid = new Grid(geometry);
  const scan = await fetched("scan", grid, signal);
  page.grid = grid;
  saySide();
  await scene.showScan(scan, grid);
  signal.throwIfAborted();
  say("");
  if (volumes.map) await tried(async () => scene.showMap(await fetched("map", grid, signal)), signal);
  signal.throwIfAborted();
  offer("map", scene.has("map"));
  tellVolume();
  if (volumes.restored && grid.voxels <= LAZY_VOXELS) restore();
}

async function fetched(kind, grid, signal) {
  try {
    const bytes = await askVolume(page.number, kind, signal);
    signal.throwIfAborted();
    return voxelsOf(bytes, page.about.volumes[kind], grid);
  } catch (error) {
    if (error.name !== "AbortError") error.message = `${WHAT[kind]}: ${error.message}`;
    throw error;
  }
}

// What fails here fails for this volume of this scan alone.
async function tried(work, signal) {
  try {
    await work();
  } catch (error) {
    if (!signal.aborted) panel.tell(error.message);
  }
}

function restore() {
  const { signal } = page.asking;
  page.restoring ??= tried(async () => {
    const voxels = await fetched("restored", page.grid, signal);
    if (!signal.aborted) scene.takeRestored(voxels);
  }, signal).then(() => signal.aborted || offer("restored", scene.has("restored")));
}

// What is not there cannot be chosen, and is not shown as if it were chosen.
function offer(what, there) {
  const controls = what === "map" ? ["threshold", "opacity"] : ["blend", "flip"];
  for (const id of controls) byId(id).disabled = !there;
  if (what === "restored") flip(there ? Number(byId("blend").value) : 0);
}

function say(text) {
  byId("message").textContent = text;
  byId("stage").classList.toggle("empty", text !== "");
}

function nothingRead() {
  for (const what of ["mm", "voxel", "scan", "map", "restored"]) byId(`at-${what}`).textContent = "–";
}

function moved({ ras, mm, voxel, values }) {
  byId("at-mm").textContent = mm.map((value) => shown(value, 2)).join("  ");
  byId("at-voxel").textContent = voxel.join("  ");
  byId("at-scan").textContent = shortly(values.scan);
  byId("at-map").textContent = shown(values.map, 3);
  byId("at-restored").textContent = shortly(values.restored);
  if (panel.profile) panel.profile.at(ras[panel.profile.axis]);
}

function goToFinding(n, named = true) {
  const found = page.about?.listed[n];
  if (!found || found.centre_mm.includes(null)) return;
  page.finding = n;
  panel.select(n, named);
  scene.moveToMm(found.centre_mm);
  // Without a new entry of the history: back leads to the scan before, not through its findings.
  if (named) history.replaceState(null, "", `#${page.number + 1}.${n + 1}`);
}

function chooseThreshold(value) {
  byId("threshold").value = String(value);
  byId("hidden-part").style.width = `${100 * value}%`;
  scene.threshold = value;
  tellVolume();
}

function tellVolume() {
  const value = scene.threshold; // the slider's own value is rounded to its steps
  const mm3 = scene.volumeAbove(value);
  byId("threshold-value").textContent = mm3 === null ? shown(value, 2) : `${shown(value, 2)} · ${shown(mm3 / 1000, mm3 < 1e4 ? 2 : 1)} cm³`;
}

function chooseOpacity(value) {
  byId("opacity").value = String(value);
  byId("opacity-value").textContent = `${Math.round(100 * value)} %`;
  scene.opacity = value;
}

function flip(value) {
  if (value > 0 && page.about?.volumes.restored && page.grid) restore();
  byId("blend").value = String(value);
  byId("flip").setAttribute("aria-pressed", String(value >= 1));
  byId("flip").textContent = value > 0 && !scene.has("restored") ? "Loading …" : "Restored";
  scene.blend = value;
}

function chooseSide(radiological) {
  scene.radiological = radiological;
  saySide();
}

function saySide() {
  const known = page.grid?.known ?? true;
  byId("side").disabled = !known;
  byId("side").textContent = !known ? "Left and right unknown" : scene.radiological ? "Radiological: right on the left" : "Neurological: left on the left";
}

function chooseLayout(name) {
  scene.layout = name;
  for (const button of byId("layouts").children) button.setAttribute("aria-pressed", String(button.dataset.layout === name));
}

function toggleSmooth() {
  const smooth = byId("smooth").getAttribute("aria-pressed") !== "true";
  byId("smooth").setAttribute("aria-pressed", String(smooth));
  scene.smooth = smooth;
}

function toggleTheme() {
  const dark = document.documentElement.dataset.theme
    ? document.documentElement.dataset.theme === "dark"
    : matchMedia("(prefers-color-scheme: dark)").matches;
  document.documentElement.dataset.theme = dark ? "light" : "dark";
}

const flipped = () => byId("flip").disabled || flip(Number(byId("blend").value) > 0 ? 0 : 1);
// From the address, which changes at once: the page follows it later, and keys may come faster.
const asked = () => Number(location.hash.match(/^#(\d{1,7})/)?.[1] ?? page.number + 1) - 1;
const besides = (step) => { location.hash = String(page.list.beside(asked(), step) + 1); };
let shownOpacity = 0.7;

function toggleMap() {
  const opacity = Number(byId("opacity").value);
  if (opacity > 0) shownOpacity = opacity;
  chooseOpacity(opacity > 0 ? 0 : shownOpacity);
}

function nextFinding(step) {
  const count = page.about?.listed.length ?? 0;
  if (count) goToFinding((page.finding + step + count) % count);
}

function prepareControls() {
  byId("colours").style.background = asGradient();
  byId("threshold").addEventListener("input", ({ target }) => chooseThreshold(Number(target.value)));
  byId("threshold").addEventListener("dblclick", () => chooseThreshold(page.results.run.map_threshold ?? 0.5));
  byId("opacity").addEventListener("input", ({ target }) => chooseOpacity(Number(target.value)));
  byId("blend").addEventListener("input", ({ target }) => flip(Number(target.value)));
  byId("flip").addEventListener("click", flipped);
  byId("side").addEventListener("click", () => chooseSide(!scene.radiological));
  byId("smooth").addEventListener("click", toggleSmooth);
  byId("window").addEventListener("click", () => scene.resetGreys());
  byId("theme").addEventListener("click", toggleTheme);
  byId("help-open").addEventListener("click", () => byId("help").showModal());
  byId("layouts").addEventListener("click", ({ target }) => target.dataset.layout && chooseLayout(target.dataset.layout));
  chooseOpacity(shownOpacity);
  chooseSide(false);
  new Keys([
    { keys: ["j", "k"], what: "Next, previous scan", act: (n) => besides(n === 0 ? 1 : -1) },
    { keys: ["n", "p"], what: "Next, previous finding", act: (n) => nextFinding(n === 0 ? 1 : -1) },
    { keys: ["x"], what: "Scan or restoration", act: flipped },
    { keys: ["m"], what: "Map on or off", act: toggleMap },
    { keys: ["r"], what: "Radiological or neurological", act: () => chooseSide(!scene.radiological) },
    { keys: ["ArrowLeft", "ArrowRight"], what: "One voxel along left and right", act: (n) => scene.step(0, sideways(n)) },
    { keys: ["ArrowDown", "ArrowUp"], what: "One voxel to the back, to the front", act: (n) => scene.step(1, n === 0 ? -1 : 1) },
    { keys: ["PageDown", "PageUp"], what: "One voxel down, up", act: (n) => scene.step(2, n === 0 ? -1 : 1) },
    { keys: ["1", "2", "3", "4", "5"], what: "All, axial, coronal, sagittal, 3-D", act: (n) => chooseLayout(["all", "axial", "coronal", "sagittal", "render"][n]) },
    { keys: ["i"], what: "Smooth or single voxels", act: toggleSmooth },
    { keys: ["w"], what: "Grey values as at first", act: () => scene.resetGreys() },
    { keys: ["/"], what: "Filter the list", act: () => byId("filter").focus() },
    { keys: ["t"], what: "Light or dark", act: toggleTheme },
    { keys: ["?"], what: "These keys", act: () => byId("help").showModal() },
  ]);
  byId("filter").addEventListener("keydown", (event) => { if (event.key === "Escape" || event.key === "Enter") event.target.blur(); });
}

// The arrow points to where the crosshair goes on the screen.
const sideways = (n) => (n === 0 ? -1 : 1) * (scene.radiological ? -1 : 1);

start();
