// What a page keeps over a reload: every field that fits, whatever else was typed or pasted.

const test = require("node:test");
const assert = require("node:assert/strict");
const { readFileSync } = require("node:fs");
const { join } = require("node:path");

const text = readFileSync(join(__dirname, "../../assets/kept_state.js"), "utf8");

// The script over a storage with room for so many characters.
function start(quota) {
  const kept = new Map();
  const sessionStorage = {
    getItem: (key) => kept.get(key) ?? null,
    setItem(key, value) {
      if (value.length > quota) throw new DOMException("full", "QuotaExceededError");
      kept.set(key, value);
    },
  };
  const document = { addEventListener() {}, body: { dataset: {} }, querySelector: () => null };
  const state = new Function("sessionStorage", "document", `${text}\nreturn keptState;`)(sessionStorage, document);
  state.restored = true;
  return state;
}
const NAMES = ["data.paste", "train.lr", "load.model"], START = ["", 1, "a"];

test("changed fields are kept, and those with their first value aren't", () => {
  const state = start(5e6);
  state.save(NAMES, START, ["rows", 1, "b"], 0);
  assert.deepEqual(state.read(state.fields), { "data.paste": "rows", "load.model": "b" });
});

for (const [quota, length] of [[1000, 2000], [5e6, 4.5e6]]) {
  test(`a text of ${length} characters that leaves no room in ${quota} keeps no other field from being kept`, (t) => {
    const warned = t.mock.method(console, "warn", () => {}), state = start(quota);
    state.save(NAMES, START, ["rows", 1, "a"], 0);
    state.save(NAMES, START, ["x".repeat(length), 2, "b"], 0);
    assert.deepEqual(state.read(state.fields), { "train.lr": 2, "load.model": "b" });
    assert.equal(warned.mock.callCount(), 1);
  });
}

test("where the browser keeps nothing, the page goes on", (t) => {
  t.mock.method(console, "warn", () => {});
  const state = start(0);
  state.save(NAMES, START, ["rows", 2, "b"], 0);
  state.reopened = true;
  state.open("tune");
  assert.deepEqual(state.read(state.fields), {});
});
