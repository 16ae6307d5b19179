// The talk. Gradio runs this once, as a function of (element, props, trigger, server, …). Which step, whether it fills the screen, its sliders,
// and what was uncovered or asked is kept in this tab of the browser, so that a switch of language goes on at the same step, as it was.

const talk = element.querySelector(".talk"), steps = [...talk.querySelectorAll(".step")], place = talk.querySelector(".place");
const KEPT = "playground.talk"; // key in sessionStorage
const FORWARD = ["ArrowRight", "ArrowDown", "PageDown", " "], BACKWARD = ["ArrowLeft", "ArrowUp", "PageUp"];
const REMOTE = ["PageDown", "PageUp"]; // keys that a presenter's remote sends
const BOUNCE_MS = 150; // within which a remote that sends a key again does so for one press
let kept = {};
try { kept = JSON.parse(sessionStorage.getItem(KEPT)) ?? {}; } catch { /* of another version */ }
const keptSteps = kept.steps ?? {}; // by number: {value: of its slider, open: the answer is uncovered, asked: the questions were asked}
let shown = Math.min(Math.max(0, kept.step | 0), steps.length - 1);

function show(number) {
  if (steps[shown].contains(document.activeElement)) talk.focus(); // what had the focus is hidden now
  shown = Math.min(Math.max(0, number), steps.length - 1);
  steps.forEach((step, i) => { step.hidden = i !== shown; });
  place.textContent = `${shown + 1} / ${steps.length}`;
  keep();
  request(shown);
}

// A figure that has to be asked for is, as soon as there is a talk; again, where no answer came, when its step is shown.
const requested = new Set(), redraws = {}; // numbers of steps; by number, what draws the figure for its slider
async function request(number) {
  const step = steps[number];
  if (requested.has(number) || !step?.querySelector(".figure[data-waits]")) return;
  requested.add(number);
  const done = redraws[number] ? await redraws[number]() : draw(step, await ask(step, () => server.redraw({ step: number })));
  if (!done) requested.delete(number);
}

function fill(on) {
  document.body.classList.toggle("talking", on);
  keep();
}

function keep() {
  const kept = { step: shown, full: document.body.classList.contains("talking"), steps: keptSteps };
  try { sessionStorage.setItem(KEPT, JSON.stringify(kept)); } catch { /* no room: what was kept before stays */ }
}

function keepOf(number, changed) {
  keptSteps[number] = { ...keptSteps[number], ...changed };
  keep();
}

function uncover(number) {
  steps[number].querySelector(".hidden-answer:not(.open)")?.classList.add("open");
  keepOf(number, { open: true });
}

// Forward uncovers the answer of a guess before it goes on.
function forward() {
  steps[shown].querySelector(".hidden-answer:not(.open)") ? uncover(shown) : show(shown + 1);
}

const filling = () => document.body.classList.contains("talking");
const isOpen = () => document.body.dataset.tab === "talk" && talk.isConnected;

// Whether a key turns no step: it is held, or it is a remote's and came just before.
const pressed = {};
function repeats({ key, repeat, timeStamp }) {
  const bounces = REMOTE.includes(key) && timeStamp - pressed[key] < BOUNCE_MS;
  pressed[key] = timeStamp;
  return repeat || bounces;
}

document.addEventListener("keydown", (event) => {
  const field = event.target.closest?.("input, textarea, select, [contenteditable]");
  const typing = field && !(field.type === "range" && REMOTE.includes(event.key)); // a slider's own keys are the arrows
  if (!isOpen() || typing || event.ctrlKey || event.metaKey || event.altKey) return;
  const onButton = event.target.closest?.("button, a");
  if (event.key === " " && onButton) return;
  if (!filling() && !talk.contains(event.target)) return; // elsewhere on the page, keys scroll and move between tabs
  if (FORWARD.includes(event.key)) repeats(event) || forward();
  else if (BACKWARD.includes(event.key)) repeats(event) || show(shown - 1);
  else if (event.key === "Home") show(0);
  else if (event.key === "End") show(steps.length - 1);
  else if (event.key === "Escape" && filling()) fill(false);
  else if (event.key.toLowerCase() === "f") fill(!filling());
  else if (event.key.toLowerCase() === "l") document.querySelector(".top .language")?.click();
  else return;
  event.preventDefault();
});

talk.querySelector(".next").addEventListener("click", forward);
talk.querySelector(".back").addEventListener("click", () => show(shown - 1));
talk.querySelector(".full").addEventListener("click", () => { fill(!filling()); talk.focus(); });
talk.addEventListener("click", ({ target }) => { if (target.closest?.(".reveal")) uncover(shown); });
steps.forEach((step, number) => {
  if (keptSteps[number]?.open && number === shown) uncover(number); // another guess is covered again, for the next talk
});
talk.querySelectorAll(".go").forEach((button) => button.addEventListener("click", () => {
  fill(false);
  [...document.querySelectorAll("[role=tab]")].find((tab) => tab.textContent.trim() === button.dataset.tab)?.click();
}));
// A slider's figure comes from the server, which answers in its own time: the value that was last asked for is the one drawn.
steps.forEach((step, number) => {
  const input = step.querySelector(".live input");
  if (!input) return;
  let asked = 0;
  const redraw = async () => {
    const mine = asked += 1, value = Number(input.value);
    step.querySelector(".live output").textContent = value;
    keepOf(number, { value });
    const figure = await ask(step, () => server.redraw({ step: number, value }));
    return mine !== asked || draw(step, figure);
  };
  redraws[number] = redraw;
  input.addEventListener("input", redraw);
  const before = keptSteps[number]?.value;
  if (Number.isInteger(before) && before !== Number(input.value)) input.value = before, redraw();
});
// Answers are asked for on a click, and drawn as they are written.
steps.forEach((step, number) => {
  const button = step.querySelector(".ask");
  if (!button) return;
  const follow = async (start) => {
    button.disabled = true;
    keepOf(number, { asked: true });
    let answer = await ask(step, () => server.answer({ step: number, start }));
    while (draw(step, answer?.html) && answer.running && talk.isConnected) {
      await new Promise((go) => setTimeout(go, 300));
      answer = await ask(step, () => server.answer({ step: number }));
    }
    button.disabled = false;
  };
  button.addEventListener("click", () => { talk.focus(), follow(true); });
  if (keptSteps[number]?.asked) follow(false);
});

// What the program replies; where it doesn't, the step says so and keeps its picture, and the talk goes on.
async function ask(step, request) {
  const lost = step.querySelector(".lost");
  try {
    const reply = await request();
    lost.hidden = true;
    return reply;
  } catch {
    lost.hidden = false;
    return null;
  }
}

function draw(step, html) {
  if (!html) return false;
  const uncovered = step.querySelector(".hidden-answer.open");
  step.querySelector(".figure").innerHTML = html;
  if (uncovered) step.querySelector(".hidden-answer").classList.add("open");
  return true;
}

show(shown);
(async () => { for (const number of steps.keys()) await request(number); })();
if (kept.full) fill(true);
