// The live view's texts: the score card of a fine-tune and what the status strip shows.

const test = require("node:test");
const assert = require("node:assert/strict");
const { readFileSync } = require("node:fs");
const { join } = require("node:path");

const read = (name) => readFileSync(join(__dirname, "../../assets", name), "utf8");
const words = JSON.parse(read("words/en.json"));
const props = { lang: "en", words: Object.fromEntries(Object.entries(words).map(([key, text]) => [key.replace(/^chart\./, ""), text])) };
const { emptyState, reduceEvent, scoreTiles, stripState, allFigures, forgettingTexts, metricRow } = new Function("props", "matchMedia",
  `${read("live_reducer.js")}\n${read("live_figures.js")}\nreturn { emptyState, reduceEvent, scoreTiles, stripState, allFigures, forgettingTexts, metricRow };`)(props, () => ({ matches: false }));

const GIB = 2 ** 30;
const IDLE = { busy: false, loaded: null, memory: null }, BUSY = { ...IDLE, busy: true };
const TUNE = [
  { t: 0, kind: "run_started", job: "tune", settings: {}, hardware: { device: "cpu", capacity: 16 * GIB } },
  { t: 1, kind: "phase", name: "train" },
  { t: 1, kind: "memory_predicted", phase: "tune", rss: 2 * GIB },
  { t: 2, kind: "memory", rss: 1.5 * GIB },
  { t: 2, kind: "eval", when: "before", loss: 4.5 },
  { t: 60, kind: "step", step: 21, steps: 84, loss: 1, tokens_per_s: 400, left_s: 90 },
];
const DONE = [
  { t: 70, kind: "eval", when: "after", loss: 0.25 },
  { t: 70, kind: "eval", when: "measures", rows: 90, figures: { recall: { base: 0, tuned: 0.844, rows: 90 } } },
  { t: 71, kind: "done", result: { seconds: 71 } },
];
const reduce = (...events) => events.reduce((state, event) => (reduceEvent(state, event), state), emptyState("run"));

test("the score card has facts, loss, time and the peak, measured and predicted", () => {
  const tiles = scoreTiles(reduce(...TUNE, ...DONE));
  assert.deepEqual(tiles.map(([, value]) => value), ["0 % → 84 %", "4.50 → 0.25", "1:11", "1.50 GiB"]);
  assert.match(tiles[3][2], /2\.00 GiB/);
  assert.match(tiles[0][2], /90/);
});

test("a chat with the adapter afterwards changes no figure of the fine-tune", () => {
  const chat = [{ t: 90, kind: "phase", name: "chat" }, { t: 95, kind: "done", job: "chat", result: { seconds: 5 } }];
  assert.deepEqual(scoreTiles(reduce(...TUNE, ...DONE, ...chat)), scoreTiles(reduce(...TUNE, ...DONE)));
});

test("there is no score card while it goes on, after a failure, or for a load", () => {
  assert.deepEqual(scoreTiles(reduce(...TUNE)), []);
  assert.deepEqual(scoreTiles(reduce(...TUNE, { t: 61, kind: "error", text: "out of memory" })), []);
  assert.deepEqual(scoreTiles(reduce(TUNE[0], DONE[2])), []);
});

test("a score card without held-out rows has no facts and no loss", () => {
  const tiles = scoreTiles(reduce(...TUNE.filter(({ kind }) => kind !== "eval"), DONE[2]));
  assert.equal(tiles.length, 2);
});

test("the strip shows the step and the time left while it trains", () => {
  const { run, memory } = stripState(reduce(...TUNE), BUSY);
  assert.match(run.more, /21 .*84.*1:30/);
  assert.equal(run.share, 0.25);
  assert.equal(memory.text, "1.50 GiB");
  assert.ok(Math.abs(memory.share - 1.5 / 16) < 1e-9);
});

test("the strip forgets a model's memory once it was unloaded", () => {
  const { memory } = stripState(reduce(...TUNE, ...DONE), { ...IDLE, memory: 0.4 * GIB });
  assert.equal(memory.text, "0.40 GiB");
  assert.equal(stripState(reduce(...TUNE, ...DONE), IDLE).memory.share, null);
});

test("the strip says how the last job ended, and nothing before the first", () => {
  assert.match(stripState(reduce(...TUNE, ...DONE), IDLE).run.text, new RegExp(words["chart.outcome.done"]));
  assert.equal(stripState(emptyState(), IDLE).run.text, "");
});

const figure = (base, tuned, low, high) => ({ base, tuned, difference: tuned - base, rows: 8, tokens: 900,
  intervals: { base: [base, base], tuned: [tuned, tuned], difference: [low, high] } });
const FORGOTTEN = { t: 70, kind: "eval", when: "forgetting", side: "tuned", figures: { en: figure(3, 3.25, 0.2, 0.3), ja: figure(2, 1.9, -0.2, -0.05) } };

test("forgetting is a tile, two lines of the table, and a sentence for each language", () => {
  const before = { t: 1, kind: "eval", when: "forgetting", side: "base", each: {} };
  assert.equal(scoreTiles(reduce(...TUNE, before, ...DONE)).length, 4); // the untouched model alone says nothing
  const state = reduce(...TUNE, before, ...DONE.slice(0, 2), FORGOTTEN, DONE[2]), figures = allFigures(state);
  assert.deepEqual(scoreTiles(state).at(-1).slice(1), ["+0.25 · −0.10", words["chart.score.forgetting_of"]]);
  assert.deepEqual(Object.keys(figures), ["recall", "forgetting_en", "forgetting_ja"]);
  assert.deepEqual(["forgetting_en", "forgetting_ja"].map((name) => metricRow(name, figures[name]).effect), ["bad", "good"]);
  const [english, japanese] = forgettingTexts(state.forgetting);
  assert.match(english, /worse .* 0\.25 nats .* 22\.1 %/);
  assert.match(japanese, /fell by 0\.1 nats/);
});

test("a change that its interval doesn't tell from none is no forgetting", () => {
  assert.deepEqual(forgettingTexts({ en: figure(3, 3.01, -0.02, 0.04) }), [words["chart.forgetting.same_en"]]);
  assert.deepEqual(forgettingTexts(null), []);
});
