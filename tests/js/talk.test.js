// The talk goes on whatever is pressed: a held key, a remote that repeats, keys while a step's figure is on its way.

const test = require("node:test");
const assert = require("node:assert/strict");
const { readFileSync } = require("node:fs");
const { join } = require("node:path");

const text = readFileSync(join(__dirname, "../../assets/talk.js"), "utf8");

// As much of a document as the script uses. parts: what querySelector finds, by selector.
function node(parts = {}, values = {}) {
  const classes = new Set(), handlers = {};
  return {
    parts, hidden: false, isConnected: true, textContent: "", innerHTML: "", dataset: {}, ...values,
    classList: { add: (name) => classes.add(name), contains: (name) => classes.has(name), toggle: (name, on) => on ? classes.add(name) : classes.delete(name) },
    querySelector(selector) { const found = parts[selector]; return typeof found === "function" ? found() : found ?? null; },
    querySelectorAll(selector) { return parts[selector] ?? []; },
    contains(other) { return other === this || Object.values(parts).flat().some((part) => part === other || part?.contains?.(other)); },
    addEventListener(kind, handler) { handlers[kind] = handler; },
    fire(kind, event) { return handlers[kind]?.(event); },
    focus() {},
  };
}

// Three steps: one with a slider, one with a guess, one with answers to ask for. waiting: replies that are on their way;
// waits: the second step's figure has to be asked for; stored: what an earlier page kept.
function start({ waits = false, stored = {} } = {}) {
  const waiting = [], delays = [];
  const reply = (request) => new Promise((resolve, reject) => waiting.push({ request, resolve, reject }));
  const step = (parts) => node({ ".figure": node(), ".lost": node({}, { hidden: true }), ...parts });
  const slider = node({}, { type: "range", value: "4" }), guess = node(), button = node();
  const steps = [
    step({ ".live input": slider, ".live output": node() }),
    step({
      ".hidden-answer:not(.open)": () => (guess.classList.contains("open") ? null : guess), ".hidden-answer": guess,
      ".hidden-answer.open": () => (guess.classList.contains("open") ? guess : null), ".figure[data-waits]": waits ? node() : null,
    }),
    step({ ".ask": button }),
  ];
  const place = node();
  const talk = node({ ".step": steps, ".place": place, ".next": node(), ".back": node(), ".full": node() });
  const document = node({}, { body: node({}, { dataset: { tab: "talk" } }), activeElement: null });
  document.body.classList.add("talking");
  const kept = { "playground.talk": JSON.stringify(stored) };
  const storage = { getItem: (key) => kept[key] ?? null, setItem: (key, value) => { kept[key] = value; } };
  const names = ["element", "server", "document", "sessionStorage", "setTimeout"];
  const server = { redraw: reply, answer: reply };
  new Function(...names, text)(node({ ".talk": talk }), server, document, storage, (go) => { delays.push(go); });
  const key = (name, more = {}) => {
    let stopped = false;
    const target = more.on ?? { closest: () => null };
    document.fire("keydown", { key: name, repeat: false, target, preventDefault: () => { stopped = true; }, ...more });
    return stopped;
  };
  const on = (field) => ({ on: { closest: (selector) => (selector.includes("input") ? field : null) } });
  return { steps, place, document, slider, button, guess, waiting, delays, key, on, kept: () => JSON.parse(kept["playground.talk"]) };
}
const settled = () => new Promise((done) => setImmediate(done));

test("keys turn one step at a time and stop at both ends", () => {
  const { key, place, steps } = start();
  key("ArrowLeft");
  assert.equal(place.textContent, "1 / 3");
  for (const name of ["PageDown", "ArrowRight", " ", "ArrowRight", "ArrowRight"]) key(name);
  assert.equal(place.textContent, "3 / 3");
  assert.deepEqual(steps.map((step) => step.hidden), [true, true, false]);
  key("Home");
  assert.equal(place.textContent, "1 / 3");
});

test("a held key and a remote that repeats turn one step alone", () => {
  const { key, place } = start();
  key("PageDown");
  for (let n = 0; n < 20; n += 1) assert.ok(key("PageDown", { repeat: true })); // nor do they scroll
  assert.equal(place.textContent, "2 / 3");
  key("End");
  key("PageUp");
  for (let n = 0; n < 20; n += 1) key("PageUp", { repeat: true });
  assert.equal(place.textContent, "2 / 3");
});

test("a remote whose key bounces turns one step, and its next press the next", () => {
  const { key, place } = start();
  for (const timeStamp of [1000, 1040, 1120]) assert.ok(key("PageDown", { timeStamp }));
  assert.equal(place.textContent, "2 / 3");
  for (const timeStamp of [2000, 2100]) key("PageUp", { timeStamp });
  assert.equal(place.textContent, "1 / 3");
  for (const timeStamp of [3000, 3050]) key("ArrowRight", { timeStamp }); // a keyboard's keys don't bounce
  assert.equal(place.textContent, "2 / 3");
});

test("letters do the same with Caps Lock", () => {
  const { key, document } = start();
  key("F");
  assert.ok(!document.body.classList.contains("talking"));
});

test("forward uncovers a guess before it goes on", () => {
  const { key, place, guess } = start();
  key("PageDown");
  key("PageDown");
  assert.ok(guess.classList.contains("open"));
  assert.equal(place.textContent, "2 / 3");
  key("PageDown");
  assert.equal(place.textContent, "3 / 3");
});

test("keys turn steps while a figure is on its way, which is then drawn where it belongs", async () => {
  const { key, place, slider, steps, waiting } = start();
  slider.value = "2";
  slider.fire("input");
  key("ArrowRight");
  assert.equal(place.textContent, "2 / 3");
  waiting[0].resolve("<b>2 bits</b>");
  await settled();
  assert.equal(steps[0].parts[".figure"].innerHTML, "<b>2 bits</b>");
  assert.equal(steps[1].parts[".figure"].innerHTML, "");
  assert.equal(place.textContent, "2 / 3");
});

test("of a slider's moves the last one is drawn, whichever reply comes last", async () => {
  const { slider, steps, waiting } = start();
  for (const value of ["3", "2"]) { slider.value = value; slider.fire("input"); }
  waiting[1].resolve("2 bits");
  await settled();
  waiting[0].resolve("3 bits");
  await settled();
  assert.equal(steps[0].parts[".figure"].innerHTML, "2 bits");
});

test("on a slider the arrows move it, and a remote's keys turn steps", () => {
  const { key, place, slider, on } = start();
  assert.equal(key("ArrowRight", on(slider)), false);
  assert.equal(place.textContent, "1 / 3");
  assert.equal(key("PageDown", on(slider)), true);
  assert.equal(place.textContent, "2 / 3");
  key("PageUp", on(node({}, { type: "text" })));
  assert.equal(place.textContent, "2 / 3");
});

test("where the program doesn't reply the step says so, keeps its figure, and the talk goes on", async () => {
  const { key, place, slider, steps, waiting } = start();
  const { ".figure": figure, ".lost": lost } = steps[0].parts;
  figure.innerHTML = "recorded";
  slider.fire("input");
  waiting[0].reject(new Error("connection lost"));
  await settled();
  assert.equal(lost.hidden, false);
  assert.equal(figure.innerHTML, "recorded");
  key("ArrowRight");
  assert.equal(place.textContent, "2 / 3");
  slider.fire("input");
  waiting[1].resolve("4 bits");
  await settled();
  assert.equal(lost.hidden, true);
});

test("answers are drawn as they are written, until the last", async () => {
  const { button, steps, waiting, delays } = start();
  button.fire("click");
  assert.equal(button.disabled, true);
  assert.deepEqual(waiting[0].request, { step: 2, start: true });
  waiting[0].resolve({ html: "half", running: true });
  await settled();
  delays.shift()();
  await settled();
  assert.deepEqual(waiting[1].request, { step: 2 });
  waiting[1].resolve({ html: "whole", running: false });
  await settled();
  assert.equal(steps[2].parts[".figure"].innerHTML, "whole");
  assert.equal(button.disabled, false);
});

test("on another tab the talk leaves the keys alone", () => {
  const { key, place, document } = start();
  document.body.dataset.tab = "plan";
  assert.equal(key("PageDown"), false);
  assert.equal(place.textContent, "1 / 3");
});

test("sliders, an uncovered guess and asked answers are as they were on the page before", async () => {
  const before = start();
  before.slider.value = "2", before.slider.fire("input"), before.button.fire("click");
  before.key("ArrowRight"), before.key("ArrowRight");
  const { steps, slider, guess, waiting } = start({ stored: before.kept() });
  assert.equal(slider.value, 2);
  assert.equal(steps[0].parts[".live output"].textContent, 2);
  assert.ok(guess.classList.contains("open"));
  assert.deepEqual(waiting.map(({ request }) => request), [{ step: 0, value: 2 }, { step: 2, start: false }]);
  const later = start({ stored: { ...before.kept(), step: 0 } });
  assert.ok(!later.guess.classList.contains("open")); // covered again for the next talk
});

test("a figure that waits is asked for at once, and again when its step is shown, until there is an answer", async () => {
  const { key, place, steps, waiting, guess } = start({ waits: true });
  await settled();
  assert.deepEqual(waiting[0].request, { step: 1 });
  key("ArrowRight"), key("ArrowRight"); // turned and uncovered meanwhile
  waiting[0].reject(new Error("connection lost"));
  await settled();
  key("ArrowLeft"), key("ArrowRight");
  assert.equal(waiting.length, 2);
  waiting[1].resolve("14 GiB");
  await settled();
  assert.equal(steps[1].parts[".figure"].innerHTML, "14 GiB");
  assert.ok(guess.classList.contains("open"));
  key("ArrowLeft"), key("ArrowRight");
  assert.equal(waiting.length, 2);
  assert.equal(place.textContent, "2 / 3");
});
