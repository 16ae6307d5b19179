// The live view's texts. Run by `node --test tests/js/`.

const test = require("node:test");
const assert = require("node:assert/strict");
const { readFileSync } = require("node:fs");
const { join } = require("node:path");

const text = ["live_reducer.js", "live_figures.js"].map((name) => readFileSync(join(__dirname, "../../assets", name), "utf8")).join("\n");
const words = { rows: "{count} {count:row/rows} of {all}" };
const { say } = new Function("props", "matchMedia", `${text}\nreturn { say };`)({ words, lang: "en" }, () => ({ matches: false }));

test("a count agrees in number", () => {
  assert.equal(say("rows", { count: 1, all: 2 }), "1 row of 2");
  assert.equal(say("rows", { count: 0, all: 2 }), "0 rows of 2");
});

test("a missing value is a dash, and an unknown key is empty", () => {
  assert.equal(say("rows", { count: 3 }), "3 rows of –");
  assert.equal(say("unknown"), "");
});
