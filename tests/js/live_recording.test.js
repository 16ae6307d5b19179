// A recorded or ended run is played in its own order, at a chosen speed, paused, and moved to any moment.

const test = require("node:test");
const assert = require("node:assert/strict");
const { readFileSync } = require("node:fs");
const { join } = require("node:path");

const text = readFileSync(join(__dirname, "../../assets/live_recording.js"), "utf8");

// A player under a clock that a test moves; `hidden` stands for a page in the background.
function start(events, { hidden = () => false, ...options } = {}) {
  let tick = null;
  const played = [];
  const names = ["document", "setInterval", "clearInterval"], values = [{ get hidden() { return hidden(); } }, (f) => { tick = f; return 1; }, () => { tick = null; }];
  const { createPlayer, TICK, PLAYED_IN, RESTS, SPEEDS } = new Function(...names, `${text}\nreturn { createPlayer, TICK, PLAYED_IN, RESTS, SPEEDS };`)(...values);
  const player = createPlayer(events, { play: (batch, first) => played.push({ batch, first }), ...options });
  const pass = (seconds) => { for (let t = 0; t < seconds; t += TICK) tick?.(); };
  return { player, played, pass, PLAYED_IN, RESTS, SPEEDS };
}
const at = (...times) => times.map((t) => ({ t, kind: "phase", name: `${t}` }));
const names = (played) => played.flatMap(({ batch }) => batch.map(({ name }) => name));

test("events are played in their order, each once", () => {
  const { played, pass } = start(at(0, 1, 2, 3));
  pass(3.5);
  assert.deepEqual(names(played), ["0", "1", "2", "3"]);
});

test("a short run keeps its own speed", () => {
  const { player, played, pass } = start(at(0, 10));
  pass(9);
  assert.equal(player.speed, 1);
  assert.deepEqual(names(played), ["0"]);
});

test("a long run is over after PLAYED_IN seconds, or played as fast as can be", () => {
  const { played, pass, PLAYED_IN } = start(at(0, 100, 300));
  pass(PLAYED_IN);
  assert.deepEqual(names(played), ["0", "100", "300"]);
  assert.equal(start(at(0, 36000)).player.speed, 20);
});

test("it ends, unless it loops: then it starts anew after a rest and says so", () => {
  const once = start(at(0, 1)), loop = start(at(0, 1), { loops: true });
  once.pass(60), loop.pass(1 + loop.RESTS + 1);
  assert.deepEqual(once.played.map(({ first }) => first), [true, false]);
  assert.equal(once.player.playing, false);
  assert.deepEqual(loop.played.map(({ first }) => first), [true, false, true]);
});

test("it is paused, and goes on where it was; after its end it starts anew", () => {
  const { player, played, pass } = start(at(0, 2, 4));
  pass(3), player.toggle(), pass(20);
  assert.deepEqual(names(played), ["0", "2"]);
  player.toggle(), pass(2);
  assert.deepEqual(names(played), ["0", "2", "4"]);
  pass(1), player.toggle(), pass(0.5);
  assert.deepEqual(names(played), ["0", "2", "4", "0"]);
});

test("a moment before is reached from the first event on, a later one by what lies between", () => {
  const { player, played } = start(at(0, 1, 2, 3));
  player.seek(2.5), player.seek(1.5), player.seek(99);
  assert.deepEqual(played.map(({ batch, first }) => [names([{ batch }]).join(""), first]), [["012", true], ["01", true], ["23", false]]);
  assert.equal(player.time, 3);
});

test("the moment before everything still shows the first event, which may be later than 0", () => {
  const { player, played } = start(at(0.5, 1));
  player.seek(0);
  assert.deepEqual(names(played), ["0.5"]);
});

test("it is played up to twenty times as fast", () => {
  const { player, played, pass, SPEEDS } = start(at(0, 19, 41));
  assert.deepEqual(SPEEDS, [1, 2, 5, 10, 20]);
  player.setSpeed(20), pass(1);
  assert.deepEqual(names(played), ["0", "19"]);
});

test("a page in the background, or a view that is not shown, doesn't play", () => {
  for (const unseen of [{ hidden: () => true }, { rests: () => true }]) {
    const { played, pass } = start(at(0, 1), unseen);
    pass(5);
    assert.deepEqual(played, []);
  }
});

test("once ended it plays no more", () => {
  const { player, played, pass } = start(at(0, 1));
  pass(0.5), player.end(), pass(5);
  assert.deepEqual(names(played), ["0"]);
});

test("the next page goes on where this one was, at the same part of a recording of another length", () => {
  const stored = {}, sessionStorage = { getItem: (key) => stored[key] ?? null, setItem: (key, value) => { stored[key] = value; } };
  const { keepPlayed, readKept, playOn } = new Function("sessionStorage", `${text}\nreturn { keepPlayed, readKept, playOn };`)(sessionStorage);
  const nothing = { follow: "", played: null, picked: null };
  assert.deepEqual(readKept(), nothing);
  const { player } = start(at(0, 10, 100));
  player.setSpeed(10), player.seek(50), player.toggle();
  keepPlayed("recording:a", "recording:a", player, { run: "recording:a", step: 12 });
  const { follow, played, picked } = readKept(), other = start(at(0, 200)).player;
  playOn(other, played);
  assert.deepEqual([follow, other.time, other.speed, other.playing], ["recording:a", 100, 10, false]);
  assert.deepEqual(picked, { run: "recording:a", step: 12 });
  keepPlayed("", "", null);
  assert.deepEqual(readKept(), nothing);
  for (const wrong of ["{", "3", '{"follow": 3, "played": {"part": "x"}, "picked": 7}']) {
    stored["playground.live"] = wrong;
    assert.deepEqual(readKept(), nothing);
  }
});
