// The queue (playground/ui/queue_view.py). Gradio runs this once, as a function of (element, props, trigger, server, …), after the
// constant WORDS. A job's line keeps its node from one drawing to the next, so focus and scroll position stay where they were.

const root = element.querySelector(".queue"), part = (selector) => root.querySelector(selector);
const LOOK = 1000; // ms: how often it is looked whether the list is seen
let version = "", error = "", acting = false, wait = LOOK;

function make(tag, text = "", attributes = {}) {
  const node = document.createElement(tag);
  node.textContent = text;
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  return node;
}

const button = (action, id, name) => make("button", WORDS[action], { type: "button", "data-do": action, "data-id": id, "aria-label": name ? `${WORDS[action]}: ${name}` : WORDS[action] });

function drawJob(job) {
  const line = make("li", "", { "data-id": job.id, "data-state": job.state }), head = make("p", "", { class: "head" });
  const name = [job.name, job.detail].filter(Boolean).join(", ");
  const about = make("span", `${job.name} `);
  about.append(make("span", job.detail, { class: "detail" }));
  head.append(make("strong", job.status, { class: "status" }), " ", about);
  line.append(head);
  if (job.error) line.append(make("p", job.error, { class: "error" }));
  if (job.answers.length) {
    const list = make("dl");
    for (const [side, text] of job.answers) list.append(make("dt", side), make("dd", text));
    line.append(list);
  }
  const row = make("p", "", { class: "actions" });
  for (const action of job.actions) row.append(button(action, job.id, name));
  if (job.run) row.append(make("button", WORDS.show, { type: "button", "data-show": job.run, "aria-label": `${WORDS.show}: ${name}` }));
  if (row.childNodes.length) line.append(row);
  return line;
}

// Keeps the focus on the same action of the same job.
function withFocus(draw) {
  const { do: action, id, show } = root.contains(document.activeElement) ? document.activeElement.dataset : {};
  draw();
  if (!action && !show) return;
  const same = show ? `[data-show="${show}"]` : `[data-do="${action}"][data-id="${id}"]`;
  if (!root.contains(document.activeElement)) (part(same) ?? part("button"))?.focus();
}

function draw(state) {
  root.hidden = state.empty && !error;
  part(".counts").textContent = state.counts;
  part(".all").replaceChildren(...state.all.map((action) => button(action, "", "")));
  drawNotes(state.notes);
  const list = part(".jobs"), old = new Map([...list.children].map((line) => [line.dataset.id, line]));
  state.jobs.forEach((job, i) => {
    const drawnFrom = JSON.stringify(job);
    let line = old.get(job.id);
    old.delete(job.id);
    if (line?.drawnFrom !== drawnFrom) {
      const fresh = drawJob(job);
      fresh.drawnFrom = drawnFrom;
      line?.replaceWith(fresh);
      line = fresh;
    }
    if (list.children[i] !== line) list.insertBefore(line, list.children[i] ?? null);
  });
  for (const line of old.values()) line.remove();
  const html = state.sweeps.join(""), sweeps = part(".sweeps");
  if (sweeps.drawnFrom !== html) sweeps.innerHTML = html, sweeps.drawnFrom = html; // escaped by sweep_view.py
  part(".spoken").textContent = state.counts;
}

let notes = [];
function drawNotes(fresh = notes) {
  notes = fresh;
  part(".notes").replaceChildren(...notes.map((text) => make("li", text)), ...(error ? [make("li", error, { class: "bad", role: "alert" })] : []));
}

async function poll() {
  const state = await server.queue_state({ version }).catch(() => null);
  wait = 1000 * (state?.wait_s ?? 1);
  if (!state || state.version === version || !state.jobs) return;
  version = state.version;
  withFocus(() => draw(state));
}

async function act(action, id) {
  if (acting) return;
  acting = true;
  const reply = await server.queue_do({ do: action, id }).catch(() => null);
  acting = false;
  error = reply?.error ?? "";
  drawNotes();
  await poll();
}

root.addEventListener("click", ({ target }) => {
  const pressed = target.closest("button");
  if (pressed?.dataset.do) act(pressed.dataset.do, pressed.dataset.id);
  else if (pressed?.dataset.show) trigger("show_run", { run: pressed.dataset.show });
});

part("h4").textContent = WORDS.title;
const isShown = () => !document.hidden && document.body.dataset.tab === "tune";
(async function follow() {
  await poll();
  while (root.isConnected) { // a list that nobody sees asks for nothing
    await new Promise((done) => setTimeout(done, isShown() ? wait : LOOK));
    if (isShown()) await poll();
  }
})();
watch("value", poll);
