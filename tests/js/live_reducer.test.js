// The live view's reducer: what each kind of event does to the state. Run by `node --test tests/js/`.

const test = require("node:test");
const assert = require("node:assert/strict");
const { readFileSync } = require("node:fs");
const { join } = require("node:path");

const text = readFileSync(join(__dirname, "../../assets/live_reducer.js"), "utf8");
const { emptyState, reduceEvent, thin, REDUCERS, MAX_POINTS, MAX_PHASES, MAX_SAMPLED_STEPS, TIME_ORIGIN } = new Function(
  `${text}\nreturn { emptyState, reduceEvent, thin, REDUCERS, MAX_POINTS, MAX_PHASES, MAX_SAMPLED_STEPS, TIME_ORIGIN };`)();

const GIB = 2 ** 30;
const STARTED = { t: 0, kind: "run_started", job: "tune", hardware: { device: "cuda", name: "GPU", capacity: 8 * GIB } };
const reduce = (...events) => events.reduce((state, event) => (reduceEvent(state, event), state), emptyState("run"));
const seconds = (x) => (x - TIME_ORIGIN) / 1000;

test("run_started sets what the run is and where it runs", () => {
  const state = reduce(STARTED);
  assert.equal(state.about.job, "tune");
  assert.equal(state.hardware.capacity, 8 * GIB);
});

test("a second beginning leaves the mark of a recording", () => {
  const recorded = { ...STARTED, recorded: "2026-01-02", shape: "a/b" };
  assert.deepEqual(reduce(recorded, { t: 1, kind: "run_started", job: "tune" }).about, recorded);
});

test("a run without hardware is drawn as one on a CPU", () => {
  const state = reduce({ t: 0, kind: "run_started", job: "load" }, { t: 1, kind: "memory", rss: 5, allocated: 3 });
  assert.deepEqual(state.memory[0].slice(2), [5]);
});

test("an event that can't be applied is passed over, and the next one is shown", (t) => {
  const warned = t.mock.method(console, "warn", () => {});
  const state = reduce(STARTED, { t: 1, kind: "note", key: "note.card_fits", values: null }, { t: 2, kind: "phase", name: "load" });
  assert.equal(warned.mock.callCount(), 1);
  assert.equal(state.phases[0].name, "load");
});

test("every kind of event that the store documents has a reducer", () => {
  const kinds = ["run_started", "loaded", "unloaded", "streamed", "phase", "progress", "memory", "memory_predicted", "memory_measured", "step", "eval", "sample", "note", "error", "done"];
  assert.deepEqual(Object.keys(REDUCERS).sort(), kinds.sort());
});

test("unknown kinds change nothing, not even the clock", () => {
  for (const kind of ["from_the_future", "toString", "constructor", "__proto__", "hasOwnProperty"]) {
    assert.deepEqual(reduce(STARTED, { t: 3, kind }), reduce(STARTED));
  }
});

test("fields that are unknown or absent do no harm", () => {
  const state = reduce(STARTED, ...Object.keys(REDUCERS).filter((kind) => kind !== "run_started").map((kind) => ({ t: 1, kind, extra: [1] })));
  assert.equal(state.outcome, "failed");
  assert.deepEqual(state.memory[0].slice(2), [null, null, null]);
});

test("phases follow each other without a gap", () => {
  const state = reduce(STARTED, { t: 1, kind: "phase", name: "load" }, { t: 3, kind: "phase", name: "train" }, { t: 4, kind: "memory" });
  assert.deepEqual(state.phases.map(({ name, from, to }) => [name, seconds(from), seconds(to)]), [["load", 1, 3], ["train", 3, 4]]);
});

test("a new phase clears the progress of the one before, and freeing memory clears its parts", () => {
  const state = reduce(STARTED, { t: 1, kind: "progress", done: 1, total: 2 }, { t: 1, kind: "memory", parts: { weights: 1 } });
  assert.equal(state.progress.total, 2);
  reduceEvent(state, { t: 2, kind: "phase", name: "load" });
  assert.equal(state.progress, null);
  assert.deepEqual(state.parts, { weights: 1 });
  reduceEvent(state, { t: 2, kind: "phase", name: "free" });
  assert.equal(state.parts, null);
});

test("phases are kept up to a limit", () => {
  const state = reduce(STARTED, ...Array.from({ length: 2 * MAX_PHASES }, (_, i) => ({ t: i / 10, kind: "phase", name: `p${i}` })));
  assert.equal(state.phases.length, MAX_PHASES + 1);
  assert.equal(state.phases.at(-1).name, `p${2 * MAX_PHASES - 1}`);
});

test("memory keeps rows, peaks, the latest reading and the latest known parts", () => {
  const state = reduce(STARTED, { t: 1, kind: "phase", name: "load" },
    { t: 1, kind: "memory", device_used: 9, reserved: 7, allocated: 5, parts: { weights: 5 } }, { t: 2, kind: "memory", device_used: 8, reserved: 6, allocated: 4 });
  assert.deepEqual(state.memory.map(([x, ...rest]) => [seconds(x), ...rest]), [[1, "load", 9, 7, 5], [2, "load", 8, 6, 4]]);
  assert.deepEqual(state.peaks, { device_used: 9, reserved: 7, allocated: 5 });
  assert.equal(state.latestMemory.allocated, 4);
  assert.deepEqual(state.parts, { weights: 5 });
});

test("a pause is shortened on the time axis, and only a long one", () => {
  const state = reduce(STARTED, { t: 5, kind: "memory" }, { t: 105, kind: "memory" }, { t: 106, kind: "memory" });
  assert.deepEqual(state.memory.map(([x]) => seconds(x)), [5, 6, 7]);
  assert.equal(state.shortened, 99);
});

test("events that arrive out of order never move time backwards", () => {
  const state = reduce(STARTED, { t: 2, kind: "memory" }, { t: 1, kind: "memory" }, { t: 3, kind: "memory" });
  assert.deepEqual(state.memory.map(([x]) => seconds(x)), [2, 2, 3]);
  assert.equal(state.time, 3);
});

test("a prediction follows its phase's measured peak until it is measured", () => {
  const state = reduce(STARTED, { t: 1, kind: "phase", name: "train" },
    { t: 2, kind: "memory_predicted", phase: "tune", device_used: 100, allocated: 60 }, { t: 3, kind: "memory", device_used: 70 }, { t: 4, kind: "memory", device_used: 50 });
  const entry = state.predictions.get("tune");
  assert.deepEqual([entry.kind, seconds(entry.from), entry.to, entry.peak, entry.measurement], ["device_used", 1, null, 70, null]);
  reduceEvent(state, { t: 5, kind: "memory_measured", phase: "tune", peak: { device_used: 90 } });
  assert.deepEqual([seconds(entry.to), entry.peak, entry.measurement.t], [5, 90, 5]);
  reduceEvent(state, { t: 6, kind: "memory", device_used: 99 });
  assert.equal(entry.peak, 90);
});

test("a prediction is of the most complete kind that it has", () => {
  for (const [event, kind] of [[{ device_used: 3, rss: 2, allocated: 1 }, "device_used"], [{ rss: 2, allocated: 1 }, "rss"], [{ allocated: 1 }, "allocated"],
    [{ device_used: NaN, rss: 2 }, "rss"]]) {
    assert.equal(reduce(STARTED, { t: 1, kind: "memory_predicted", phase: "load", ...event }).predictions.get("load").kind, kind);
  }
});

test("the latest prediction stands last, and a repeated phase replaces its earlier one", () => {
  const predicted = (t, phase, rss) => ({ t, kind: "memory_predicted", phase, rss });
  const state = reduce(STARTED, predicted(1, "load", 1), predicted(2, "tune", 2), predicted(3, "load", 3));
  assert.deepEqual([...state.predictions].map(([phase, { prediction }]) => [phase, prediction.rss]), [["tune", 2], ["load", 3]]);
});

test("idle ends the predictions that were never measured", () => {
  const state = reduce(STARTED, { t: 1, kind: "memory_predicted", phase: "tune", rss: 1 }, { t: 2, kind: "phase", name: "idle" });
  assert.equal(seconds(state.predictions.get("tune").to), 2);
  assert.equal(state.predictions.get("tune").measurement, null);
});

test("a measurement that was never predicted is ignored", () => {
  assert.equal(reduce(STARTED, { t: 1, kind: "memory_measured", phase: "tune", peak: { rss: 1 } }).predictions.size, 0);
});

test("what a simulated card would need is kept by job with its verdict", () => {
  const values = { job: "tune", need_bytes: 2, card_bytes: 1 };
  const state = reduce(STARTED, { t: 1, kind: "note", key: "note.card_no", values, text: "no" }, { t: 1, kind: "note", key: "note.cut", values: {}, text: "cut" });
  assert.deepEqual([...state.simulatedCards], [["tune", { ...values, verdict: "no" }]]);
});

test("the last three notes are kept", () => {
  const state = reduce(STARTED, ...["a", "b", "c", "d"].map((text) => ({ t: 1, kind: "note", key: "note.data", text })));
  assert.deepEqual(state.notes, ["b", "c", "d"]);
});

test("steps give losses and progress; a loss that is no number is a gap", () => {
  const state = reduce(STARTED, { t: 1, kind: "step", step: 1, steps: 9, loss: 3 }, { t: 2, kind: "step", step: 2, steps: 9, loss: "NaN" });
  assert.deepEqual(state.losses, [[1, 3], [2, null]]);
  assert.deepEqual(state.progress, { done: 2, total: 9, unit: "steps" });
});

test("a resumed run repeats steps: later losses and answers replace the earlier ones", () => {
  const step = (step, loss) => ({ t: 1, kind: "step", step, steps: 4, loss }), sample = (step, prompt, text) => ({ t: 1, kind: "sample", step, prompt, text });
  const state = reduce(STARTED, step(1, 4), step(2, 3), step(3, 2), sample(0, "a", "old"), sample(2, "a", "old"), sample(2, "b", "kept"), sample(3, "a", "old"),
    { t: 2, kind: "done", result: { stopped: true } }, { t: 3, kind: "phase", name: "data" }, step(2, 30), step(3, 20), sample(2, "a", "new"));
  assert.deepEqual(state.losses, [[1, 4], [2, 30], [3, 20]]);
  assert.deepEqual(state.samples.map(([at, answers]) => [at, answers.map(({ prompt, text }) => `${prompt} ${text}`)]), [[0, ["a old"]], [2, ["b kept", "a new"]]]);
  assert.equal(state.outcome, "");
});

test("sampled steps are thinned to every second once there are many", () => {
  const state = reduce(STARTED, ...Array.from({ length: MAX_SAMPLED_STEPS + 1 }, (_, i) => ({ t: 1, kind: "sample", step: i, prompt: "a" })));
  assert.equal(state.samples.length, MAX_SAMPLED_STEPS / 2 + 1);
  assert.deepEqual(state.samples.slice(0, 2).map(([step]) => step), [0, 2]);
  assert.equal(state.samples.at(-1)[0], MAX_SAMPLED_STEPS);
});

test("evaluations stand at the step they were made after", () => {
  const state = reduce(STARTED, { t: 1, kind: "eval", when: "before", loss: 3 }, { t: 2, kind: "step", step: 7, steps: 7, loss: 1 }, { t: 3, kind: "eval", when: "after", loss: 2 },
    { t: 4, kind: "eval", when: "measures", rows: 2, figures: {} });
  assert.deepEqual(state.evals, { before: [0, 3], after: [7, 2] });
  assert.equal(state.measures.rows, 2);
});

test("the outcome is done or stopped, and a failure stays a failure", () => {
  assert.equal(reduce(STARTED, { t: 1, kind: "done", result: {} }).outcome, "done");
  assert.equal(reduce(STARTED, { t: 1, kind: "done", result: { stopped: true } }).outcome, "stopped");
  const failed = reduce(STARTED, { t: 1, kind: "error", text: "Out of memory", parts: { weights: 2 } }, { t: 2, kind: "done", result: {} });
  assert.deepEqual([failed.outcome, failed.failure, failed.partsAtFailure], ["failed", "Out of memory", { weights: 2 }]);
});

test("a fine-tune that is tried again clears the failure before it", () => {
  const state = reduce(STARTED, { t: 1, kind: "error", text: "Out of memory", parts: { weights: 2 } }, { t: 2, kind: "phase", name: "data" });
  assert.deepEqual([state.outcome, state.failure, state.partsAtFailure], ["", "", null]);
});

test("a question that fails is shown until the next job, and changes nothing of how the run's own job ended", () => {
  const ended = [STARTED, { t: 1, kind: "done", job: "tune", result: { seconds: 1 } }];
  const question = [{ t: 2, kind: "phase", name: "chat" }, { t: 3, kind: "phase", name: "idle" }, { t: 3, kind: "error", job: "chat", text: "No memory", parts: { kv_cache: 2 } }];
  const failed = reduce(...ended, ...question);
  assert.deepEqual([failed.outcome, failed.failure, failed.partsAtFailure], ["done", "No memory", { kv_cache: 2 }]);
  const kept = (state) => [state.outcome, state.failure, state.partsAtFailure];
  for (const next of [{ t: 4, kind: "phase", name: "chat" }, { t: 4, kind: "done", job: "chat", result: {} }]) {
    assert.deepEqual(kept(reduce(...ended, ...question, next)), ["done", "", null]);
    assert.deepEqual(kept(reduce(...ended, ...question, ...question, next)), ["done", "", null]);
    const own = { t: 1, kind: "error", job: "tune", text: "Out of memory", parts: { weights: 2 } };
    assert.deepEqual(kept(reduce(STARTED, own, ...question, next)), ["failed", "Out of memory", { weights: 2 }]);
  }
});

test("a question's end doesn't end a fine-tune that was cut off", () => {
  assert.equal(reduce(STARTED, { t: 2, kind: "phase", name: "chat" }, { t: 3, kind: "done", job: "chat", result: {} }).outcome, "");
});

test("hours of memory are thinned without losing a peak, or the order", () => {
  const events = Array.from({ length: 3 * MAX_POINTS }, (_, i) => ({ t: i, kind: "memory", device_used: i === 4321 ? 999 : 1, reserved: 1 }));
  const state = reduce(STARTED, ...events);
  assert.ok(state.memory.length <= MAX_POINTS && state.memory.length > MAX_POINTS / 4, `${state.memory.length} rows`);
  assert.equal(Math.max(...state.memory.map((row) => row[2])), 999);
  assert.ok(state.memory.every((row, i) => !i || row[0] > state.memory[i - 1][0]));
  assert.equal(seconds(state.memory[0][0]), 0);
  assert.ok(seconds(state.memory.at(-1)[0]) > 3 * MAX_POINTS - 20);
});

test("hours of losses are thinned to points that were measured", () => {
  const state = reduce(STARTED, ...Array.from({ length: 2 * MAX_POINTS }, (_, i) => ({ t: i / 10, kind: "step", step: i + 1, steps: 1e6, loss: (i * 7919) % 101 })));
  assert.ok(state.losses.length <= MAX_POINTS && state.losses.length > MAX_POINTS / 4);
  assert.ok(state.losses.every(([step, loss]) => loss === ((step - 1) * 7919) % 101));
});

test("few rows are not thinned", () => {
  const rows = Array.from({ length: MAX_POINTS }, (_, i) => [i, null, i]);
  assert.equal(thin(rows, () => assert.fail("merged")), rows);
});
