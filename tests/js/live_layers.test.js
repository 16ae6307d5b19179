// Where the layers' weights are, from a run's events. Run by `node --test tests/js/`.

const test = require("node:test");
const assert = require("node:assert/strict");
const { readFileSync } = require("node:fs");
const { join } = require("node:path");

const read = (name) => readFileSync(join(__dirname, "../../assets", name), "utf8");
const table = JSON.parse(read("words/en.json"));
const words = Object.fromEntries(Object.entries(table).filter(([key]) => key.startsWith("chart.")).map(([key, text]) => [key.replace("chart.", ""), text]));
const { emptyState, reduceEvent, layerStates, layerCounts, layersNote, layersInRow, MAX_LAYERS } = new Function("props", "matchMedia",
  `${["live_reducer.js", "live_figures.js", "live_layers.js"].map(read).join("\n")}
  return { emptyState, reduceEvent, layerStates, layerCounts, layersNote, layersInRow, MAX_LAYERS };`)({ words, lang: "en" }, () => ({ matches: false }));

const STARTED = { t: 0, kind: "run_started", job: "tune", hardware: { device: "cuda" } };
const STREAMED = { t: 1, kind: "streamed", layers: [1, 3, 4], total: 5, bytes: 3 * 2 ** 30 };
const memory = (ready, copying) => ({ t: 2, kind: "memory", device_used: 1, buffers: { ready, copying } });
const reduce = (...events) => events.reduce((state, event) => (reduceEvent(state, event), state), emptyState("run"));

test("layers stay, wait, lie in a buffer or are on the way", () => {
  const state = reduce(STARTED, STREAMED, memory([1], [3]));
  assert.deepEqual(layerStates(state), ["resident", "ready", "resident", "copying", "waiting"]);
  assert.deepEqual(layerCounts(layerStates(state), state).map(({ name, count, which }) => [name, count, which]), [
    ["stays on the GPU", 2, ""], ["waiting in RAM", 1, ""], ["in a buffer on the GPU", 1, "layer 2"], ["on the way", 1, "layer 4"],
  ]);
});

test("a reading without the field changes nothing, and a run of an earlier version shows what waits", () => {
  const state = reduce(STARTED, STREAMED, { t: 2, kind: "memory", device_used: 1 });
  assert.deepEqual(layerStates(state), ["resident", "waiting", "resident", "waiting", "waiting"]);
  reduceEvent(state, memory([1, 3], [])), reduceEvent(state, { t: 3, kind: "memory", device_used: 1 });
  assert.deepEqual(layerStates(state), ["resident", "ready", "resident", "ready", "waiting"]);
});

test("after the end nothing is on its way, and with the model the layers go", () => {
  const state = reduce(STARTED, STREAMED, memory([1], [3]), { t: 3, kind: "done", result: {} });
  assert.deepEqual(layerStates(state), ["resident", "ready", "resident", "ready", "waiting"]);
  assert.equal(layerStates(reduce(STARTED, STREAMED, memory([1], [3])), true)[3], "ready"); // one that was interrupted
  for (const kind of ["unloaded", "loaded"]) assert.deepEqual(layerStates(reduce(STARTED, STREAMED, memory([1], [3]), { t: 3, kind })), []);
});

test("without streamed layers there is nothing to show", () => assert.deepEqual(layerStates(reduce(STARTED, memory([1], []))), []));

test("split layers are named as such", () => {
  const state = reduce(STARTED, { ...STREAMED, layers: [0, 1], total: 2, processes: 4 }, memory([0], []));
  assert.deepEqual(layerCounts(layerStates(state), state).map(({ name }) => name), ["a share on each GPU", "whole, in a buffer", "being gathered"]);
  assert.equal(layersNote(state), "all 2 split over 4 GPUs: 3.00 GiB on each");
});

test("the note says what waits", () => {
  assert.equal(layersNote(reduce(STARTED, STREAMED)), "3 of 5 have their weights in RAM: 3.00 GiB");
});

test("damaged events are drawn as far as they go", () => {
  const state = reduce(STARTED, { ...STREAMED, layers: [1, "x", null], total: 1e9 }, { t: 2, kind: "memory", buffers: { ready: "x" } });
  assert.equal(layerStates(state).length, MAX_LAYERS);
  assert.deepEqual(layerStates(state).slice(0, 3), ["resident", "waiting", "resident"]);
  assert.deepEqual(layerStates(reduce(STARTED, { t: 1, kind: "streamed" })), []);
});

test("the readings of the last second are kept, to be shown one after another", () => {
  const state = reduce(STARTED, STREAMED, ...Array.from({ length: 14 }, (_, n) => memory([n], [])));
  assert.deepEqual(state.readings.map(({ ready }) => ready[0]), [4, 5, 6, 7, 8, 9, 10, 11, 12, 13]);
});

test("rows of cells are equally long", () => assert.deepEqual([80, 32, 5].map((layers) => layersInRow(layers, 27)), [27, 16, 5]));
