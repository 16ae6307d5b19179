// The live view's texts: values and counts in words. Run by `node --test tests/js/`.

const test = require("node:test");
const assert = require("node:assert/strict");
const { readFileSync } = require("node:fs");
const { join } = require("node:path");

const text = readFileSync(join(__dirname, "../../assets/live_figures.js"), "utf8");
const props = { words: { rows: "{rows:row|rows} of {name}", noun: "{rows} long {rows:row/rows}" }, lang: "en" };
const say = new Function("props", "matchMedia", `${text}\nreturn say;`)(props, () => ({ matches: false }));

test("a count brings the right form of its noun", () => {
  assert.equal(say("rows", { rows: 1, name: "x" }), "1 row of x");
  assert.equal(say("rows", { rows: "1,200" }), "1,200 rows of –");
  assert.equal(say("noun", { rows: 1 }), "1 long row");
  assert.equal(say("noun", { rows: 0 }), "0 long rows");
  assert.equal(say("unknown"), "");
});
