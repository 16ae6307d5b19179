// The live view's figures: what Plotly is given for a state. Run by `node --test tests/js/`.

const test = require("node:test");
const assert = require("node:assert/strict");
const { readFileSync } = require("node:fs");
const { join } = require("node:path");

const assets = join(__dirname, "../../assets"), read = (name) => readFileSync(join(assets, name), "utf8");
const words = Object.fromEntries(Object.entries(JSON.parse(read("words/en.json")))
  .filter(([key]) => /^(chart|phase)\./.test(key)).map(([key, text]) => [key.replace(/^chart\./, ""), text]));
const { emptyState, reduceEvent, memoryFigure, unnamedPhases, bandColor, TIME_ORIGIN } = new Function("props", "matchMedia",
  `${read("live_reducer.js")}\n${read("live_figures.js")}\nreturn { emptyState, reduceEvent, memoryFigure, unnamedPhases, bandColor, TIME_ORIGIN };`)(
  { words, lang: "en" }, () => ({ matches: false }));

const PAINT = new Proxy({}, { get: (_, name) => String(name) });
const phase = (t, name) => ({ t, kind: "phase", name }), memory = (t) => ({ t, kind: "memory", rss: 2 ** 30 });
const reduce = (...events) => [{ t: 0, kind: "run_started", job: "tune", hardware: { device: "cpu", capacity: 2 ** 34 } }, ...events]
  .reduce((state, event) => (reduceEvent(state, event), state), emptyState("run"));
const axisOf = (state) => memoryFigure(state, PAINT, 800)[1].xaxis;

// The format that Plotly takes for ticks that far apart (ms), as its manual describes tickformatstops.
function formatAt({ tickformat, tickformatstops }, dtick) {
  const stop = tickformatstops.find(({ dtickrange: [from, to] }) => (from === null || dtick >= from) && (to === null || dtick <= to));
  return stop ? stop.value : tickformat;
}

test("ticks less than a second apart are written with as many digits as tell them apart", () => {
  const axis = axisOf(reduce(phase(0, "load"), memory(0.1), memory(1.6)));
  assert.deepEqual([1, 20, 50, 200, 500, 1000, 15000].map((dtick) => formatAt(axis, dtick)),
    ["%-M:%S.%3f", "%-M:%S.%2f", "%-M:%S.%2f", "%-M:%S.%1f", "%-M:%S.%1f", "%-M:%S", "%-M:%S"]);
});

test("a run of over an hour counts hours, at every distance of its ticks", () => {
  const axis = axisOf(reduce(phase(0, "train"), ...Array.from({ length: 1000 }, (_, i) => memory(4 * i))));
  assert.deepEqual([500, 600e3].map((dtick) => formatAt(axis, dtick)), ["%-H:%M:%S.%1f", "%-H:%M:%S"]);
});

test("a run with a single measurement has an axis of a second, not of nothing", () => {
  assert.equal(axisOf(reduce(memory(0))).autorangeoptions.maxallowed, TIME_ORIGIN + 1000);
});

test("a phase whose band is too narrow for its label stands in the legend, and only such a phase", () => {
  const state = reduce(phase(0, "fetch"), memory(0.01), phase(0.02, "train"), memory(4), phase(4.9, "save"), memory(5), phase(5, "idle"));
  assert.deepEqual(unnamedPhases(state, 800), ["fetch", "save"]);
  assert.deepEqual(unnamedPhases(state, 20000), []);
});

test("a phase that repeats is named by its widest band", () => {
  const state = reduce(phase(0, "evaluate"), memory(0.02), phase(0.02, "train"), memory(4), phase(5, "evaluate"), memory(9), phase(9, "idle"));
  assert.deepEqual(unnamedPhases(state, 800), []);
});

test("bands have short labels, and every phase has its own color but those of other versions", () => {
  const [bands] = memoryFigure(reduce(phase(0, "free"), memory(1), phase(1, "from_the_future"), memory(2)), PAINT, 800)[0];
  assert.deepEqual(bands.text, ["free", "…"]);
  assert.deepEqual(bands.marker.color, ["band-free", "band-other"]);
  const style = read("live_view.css"), names = Object.keys(words).filter((key) => key.startsWith("phase.") && key !== "phase.idle").map((key) => key.slice(6));
  const colors = names.map((name) => style.match(new RegExp(`--live-${bandColor(name)}: ([^;]+);`))?.[1]);
  assert.equal(new Set(colors.filter((_, i) => names[i] !== "other")).size, names.length - 1, `${names} ${colors}`);
});

test("a phase's label is no smaller than the paint allows", () => {
  const layout = memoryFigure(reduce(phase(0, "free"), memory(1), phase(1, "load"), memory(2)), { ...PAINT, small: 18, least: 18 }, 800)[1];
  assert.deepEqual(layout.uniformtext, { mode: "hide", minsize: 18 });
});
