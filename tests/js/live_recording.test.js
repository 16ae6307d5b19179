// A recorded run is played in its own order, faster where it is long, and again after a rest.

const test = require("node:test");
const assert = require("node:assert/strict");
const { readFileSync } = require("node:fs");
const { join } = require("node:path");

const text = readFileSync(join(__dirname, "../../assets/live_recording.js"), "utf8");

// A clock that a test moves; `hidden` stands for a page in the background.
function player(events, hidden = () => false) {
  let tick = null;
  const played = [];
  const names = ["document", "setInterval", "clearInterval"], values = [{ get hidden() { return hidden(); } }, (f) => { tick = f; return 1; }, () => { tick = null; }];
  const { playRecording, TICK, PLAYED_IN, RESTS } = new Function(...names, `${text}\nreturn { playRecording, TICK, PLAYED_IN, RESTS };`)(...values);
  const end = playRecording(events, (batch, first) => played.push({ batch, first }));
  const pass = (seconds) => { for (let t = 0; t < seconds; t += TICK) tick?.(); };
  return { played, pass, end, PLAYED_IN, RESTS };
}
const at = (...times) => times.map((t) => ({ t, kind: "phase", name: `${t}` }));
const names = (played) => played.flatMap(({ batch }) => batch.map(({ name }) => name));

test("events are played in their order, each once", () => {
  const { played, pass } = player(at(0, 1, 2, 3));
  pass(3.5);
  assert.deepEqual(names(played), ["0", "1", "2", "3"]);
});

test("a short recording keeps its own speed", () => {
  const { played, pass } = player(at(0, 10));
  pass(9);
  assert.deepEqual(names(played), ["0"]);
});

test("a long recording is over after PLAYED_IN seconds", () => {
  const { played, pass, PLAYED_IN } = player(at(0, 300, 600));
  pass(PLAYED_IN - 1);
  assert.deepEqual(names(played), ["0", "300"]);
  pass(1.5);
  assert.deepEqual(names(played), ["0", "300", "600"]);
});

test("after a rest it starts anew and says so", () => {
  const { played, pass, RESTS } = player(at(0, 1));
  pass(1 + RESTS + 1);
  assert.deepEqual(played.map(({ first }) => first), [true, false, true]);
});

test("a page in the background doesn't play", () => {
  const { played, pass } = player(at(0, 1), () => true);
  pass(5);
  assert.deepEqual(played, []);
});

test("once ended it plays no more", () => {
  const { played, pass, end } = player(at(0, 1));
  pass(0.5);
  end();
  pass(5);
  assert.deepEqual(names(played), ["0"]);
});
