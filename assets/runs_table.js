// The table of runs (playground/ui/runs_table.py). Gradio runs this text once, as a function of (element, props, trigger,
// server, upload, watch), after the constants WORDS, LANG, STATES, SORTED_BY and PAGE. A row is known by its run's id, never by
// its place, and keeps its node from one drawing to the next: focus, scroll position and what is being typed stay.

const root = element.querySelector(".runs"), part = (selector) => root.querySelector(selector);
const say = (key, values = {}) => (WORDS[key] ?? "").replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "–");
const COLUMNS = { tunes: ["run", "loss", "recall", "peak", "speed", "time", "state"], others: ["run", "peak", "time", "state"] };
const GROUPS = Object.keys(COLUMNS);
const SORTS = { run: "began" }; // a column's order, where it has another name
const show = (node, shown) => { node.hidden = !shown; };
const query = { text: "", state: "", sort: "began", reverse: false }, first = {};
const KEPT = "playground.runs"; // key in sessionStorage: what is searched and ticked, for the page that comes next in this tab of the browser
const isDefault = () => !query.text && !query.state && query.sort === "began" && !query.reverse && !GROUPS.some((group) => first[group]);

// An element with that text and those attributes; false leaves an attribute out.
function make(tag, text = "", attributes = {}) {
  const node = document.createElement(tag);
  node.textContent = text;
  for (const [name, value] of Object.entries(attributes)) if (value !== false) node.setAttribute(name, value);
  return node;
}
const makeButton = (text, event, more = {}) => make("button", text, { type: "button", "data-event": event, ...more });

// The time of the browser's zone: "Nov 25, 14:02", with the year unless it is this one; "" where it isn't known.
function formatBegan(began) {
  if (!began) return "";
  const at = new Date(1000 * began), year = at.getFullYear() === new Date().getFullYear() ? {} : { year: "numeric" };
  return new Intl.DateTimeFormat(LANG, { ...year, month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23" }).format(at);
}

// Roles are written out: a browser drops those of a table that CSS lays out as blocks, as it does on a narrow screen.
const makeCell = (text, attributes = {}) => make("td", text, { role: "cell", ...attributes });
const headed = (column, text, more = {}) => makeCell(text, { "data-head": say(`head.${column}`), ...more });
const CELLS = {
  loss({ loss, forgetting }) {
    const cell = headed("loss", loss?.join(" → "));
    if (forgetting) cell.append(make("small", say("forgetting", { change: forgetting })));
    return cell;
  },
  recall: ({ facts }) => headed("recall", facts?.join(" → ")),
  peak({ peak: [predicted, measured] }) {
    const cell = headed("peak", measured);
    if (predicted) cell.append(make("small", say("predicted", { size: predicted })));
    return cell;
  },
  speed: ({ speed }) => headed("speed", speed),
  time: ({ time }) => headed("time", time),
  state: ({ state, status }) => headed("state", status, { "data-state": state }),
};

// A run is ticked to be laid over others. `chosen` outlives the rows: they come and go with pages and searches.
const chosen = new Set();
function makeTick(id, name) {
  const label = make("label", "", { class: "tick" }), box = make("input", "", { type: "checkbox", "aria-label": `${say("overlay.choose")}: ${name}` });
  box.checked = chosen.has(id);
  box.addEventListener("change", () => { box.checked ? chosen.add(id) : chosen.delete(id), tellChosen(); });
  label.append(box, say("overlay.choose"));
  return label;
}
function tellChosen() {
  show(part(".chosen"), chosen.size), show(part(".chosen .go"), chosen.size > 1);
  part(".chosen span").textContent = say("overlay.chosen", { count: chosen.size });
  trigger("choose_runs", { runs: [...chosen] }), keep();
}
function untick(ids) {
  if (!ids.map((id) => chosen.delete(id)).some(Boolean)) return;
  for (const box of root.querySelectorAll(".tick input")) box.checked = chosen.has(box.closest("tr").dataset.run);
  tellChosen();
}

function makeHead(run, began) {
  const head = make("th", "", { scope: "row", role: "rowheader" });
  const texts = make("div"), title = run.own || run.name;
  texts.append(make("span", title, { title }));
  if (run.own) texts.append(make("small", run.name));
  if (began) texts.append(" ", make("time", began, { datetime: new Date(1000 * run.began).toISOString() }));
  head.append(texts);
  return head;
}

// Below the figures: what the run was made with, why it failed, what a person noted, and what can be done with it.
function makeMore(run, name, columns) {
  const cell = makeCell("", { class: "more", colspan: columns });
  if (run.settings.length) cell.append(make("p", run.settings.join(" · "), { class: "settings" }));
  if (run.why) cell.append(make("p", run.why, { class: "why" }));
  if (run.note) cell.append(make("p", run.note, { class: "note" }));
  const button = (event, key, more = {}) => cell.append(makeButton(say(key), event, { "aria-label": `${say(key)}: ${name}`, ...more }));
  cell.append(makeTick(run.id, name));
  button("show_run", run.shown ? "shown" : "show"), button("use_settings", "reuse");
  if (run.resume) button("resume_run", "resume", { disabled: run.resume === "busy" && "" });
  button("edit", "edit"), button("delete_run", "delete");
  return cell;
}

function drawRow(run, columns) {
  const row = make("tr", "", { role: "row", "data-run": run.id, title: run.id, class: run.deleted && "deleted", "aria-current": run.shown && "true" });
  const began = formatBegan(run.began), name = [run.own || run.name, began].filter(Boolean).join(" · ");
  row.append(makeHead(run, began));
  if (run.deleted) {
    const cell = makeCell("", { colspan: columns.length - 1 });
    cell.append(make("span", say("deleted")), " ", makeButton(say("undo"), "restore_run", { "aria-label": `${say("undo")}: ${name}` }));
    row.append(cell);
  } else row.append(...columns.slice(1).map((column) => CELLS[column](run)), makeMore(run, name, columns.length));
  row.run = run, row.label = name;
  return row;
}

function fill(body, runs, columns) {
  const rows = new Map([...body.children].map((row) => [row.dataset.run, row])), ids = new Set(runs.map(({ id }) => id));
  for (const [id, row] of rows) if (!ids.has(id)) row.remove(); // first: no other has to move for it
  runs.forEach((run, i) => {
    const drawnFrom = JSON.stringify(run);
    let row = rows.get(run.id);
    if (row?.drawnFrom !== drawnFrom && !(row?.querySelector("form") && !run.deleted)) row = replace(row, drawRow(run, columns)), row.drawnFrom = drawnFrom;
    if (body.children[i] !== row) body.insertBefore(row, body.children[i] ?? null);
  });
}

// The new row in the place of the old one; focus stays on the same button or tick, or goes to the first button where that is gone.
function replace(old, row) {
  const focused = old?.contains(document.activeElement) ? document.activeElement : null;
  const same = focused?.matches(".tick input") ? ".tick input" : `[data-event="${focused?.dataset.event}"]:enabled`;
  old?.replaceWith(row);
  if (focused) (row.querySelector(same) ?? row.querySelector("button")).focus();
  return row;
}

function keep() {
  const kept = { query, first, chosen: [...chosen], unfolded: part(".others").open };
  try { sessionStorage.setItem(KEPT, JSON.stringify(kept)); } catch { /* no room: what was kept before stays */ }
}
// What was kept; of other types than what this page keeps, nothing.
function restore() {
  let kept = {};
  try { kept = JSON.parse(sessionStorage.getItem(KEPT)) ?? {}; } catch { /* of another version */ }
  for (const name of Object.keys(query)) if (typeof kept.query?.[name] === typeof query[name]) query[name] = kept.query[name];
  for (const group of GROUPS) if (kept.first?.[group] > 0) first[group] = kept.first[group];
  for (const id of Array.isArray(kept.chosen) ? kept.chosen : []) if (typeof id === "string") chosen.add(id);
  if (kept.unfolded) listed = part(".others").open = true;
  for (const [selector, name] of [["input", "text"], [".state", "state"]]) part(`.query ${selector}`).value = query[name];
  markSorted();
  if (chosen.size) tellChosen();
}

let listed = false;
function drawPage(page) {
  const { runs, shown, live, trash } = page, has = Boolean(page.all), found = page.tunes.count + page.others.count;
  for (const run of runs) run.shown = run.id === shown && !run.deleted;
  untick(runs.filter(({ deleted }) => deleted).map(({ id }) => id));
  const focused = root.contains(document.activeElement) ? document.activeElement : null;
  show(part(".none"), !found), show(part(".trash"), trash), show(part(".back"), live), show(part(".query"), has);
  part(".none").textContent = say(has ? "none_found" : "empty");
  part(".others summary").textContent = say("others", { count: page.others.count });
  if (!listed && !page.tunes.count) part(".others").open = has;
  listed ||= has;
  for (const group of GROUPS) {
    const { count, first: from } = page[group], last = Math.min(from + PAGE, count), turn = part(`.${group} .pages`);
    first[group] = from;
    show(part(`.${group}`), count), show(turn, count > PAGE);
    turn.querySelector("span").textContent = say("page", { first: from + 1, last, count: count.toLocaleString(LANG) });
    const [back, on] = turn.querySelectorAll("button");
    back.disabled = from === 0, on.disabled = last === count;
    fill(part(`.${group} tbody`), runs.filter(({ tune }) => tune === (group === "tunes")), COLUMNS[group]);
  }
  if (focused && document.activeElement === document.body) (focused.isConnected ? focused : root.querySelector("tbody button"))?.focus(); // a node that was moved loses it
}

// The value is the first page. Any other is read anew, and only the answer to the last question is drawn.
let asked = 0;
function draw() {
  if (!props.value) return;
  if (!isDefault()) return reread();
  const page = JSON.parse(props.value);
  asked += 1, drawPage(page);
  if (page.unread) reread(); // takes seconds: the page stands already
}
async function reread() {
  const number = ++asked, { shown } = JSON.parse(props.value || "{}");
  try {
    const page = await server.listed({ shown: shown ?? "", query, first });
    if (number === asked) drawPage(page);
  } catch { /* the program has ended: the page says so elsewhere */ }
}

function change(values) {
  Object.assign(query, values);
  for (const group of GROUPS) first[group] = 0;
  markSorted(), reread(), keep();
}
function markSorted() {
  part(".query .sort").value = query.sort;
  part(".reverse").setAttribute("aria-pressed", query.reverse);
  for (const head of root.querySelectorAll("thead th")) {
    const sorted = head.dataset.sort === query.sort;
    head.toggleAttribute("data-sorted", sorted);
    head.setAttribute("aria-sort", sorted ? "other" : "none");
  }
}

function edit(row) {
  const { own, note, id } = row.run, form = make("form", "", { class: "label" });
  const name = make("input", "", { type: "text", maxlength: 1000, "aria-label": say("name"), placeholder: say("name") });
  const text = make("textarea", "", { rows: 2, maxlength: 20000, "aria-label": say("note"), placeholder: say("note") });
  name.value = own, text.value = note;
  form.append(name, text, make("button", say("save"), { type: "submit" }), make("button", say("cancel"), { type: "button", "data-cancel": "" }));
  const close = () => { form.remove(), row.querySelector('[data-event="edit"]')?.focus(); };
  form.addEventListener("submit", (event) => {
    event.preventDefault(), close();
    trigger("label_run", { run: id, name: name.value, note: text.value });
  });
  form.querySelector("[data-cancel]").addEventListener("click", close);
  form.addEventListener("keydown", ({ key }) => { if (key === "Escape") close(); });
  row.querySelector(".more").append(form);
  name.focus();
}

root.addEventListener("click", ({ target }) => {
  const button = target.closest("button"), head = target.closest("thead th[data-sort]"), row = target.closest("tr[data-run]:not(.deleted)");
  if (button?.dataset.move) {
    const group = button.closest(".tunes") ? "tunes" : "others";
    first[group] = Math.max(0, first[group] + PAGE * Number(button.dataset.move));
    reread(), keep(), part(`.${group} .scroll`).scrollTo(0, 0);
  } else if (button?.dataset.event === "edit") {
    if (!row.querySelector("form")) edit(row);
  } else if (button?.dataset.event) trigger(button.dataset.event, { run: button.closest("tr")?.dataset.run ?? "" });
  else if (head) change(query.sort === head.dataset.sort ? { reverse: !query.reverse } : { sort: head.dataset.sort, reverse: false });
  else if (row && !target.closest("form, input, button, label") && getSelection().isCollapsed) trigger("show_run", { run: row.dataset.run }); // whoever selects its text doesn't choose it
});

part(".chosen .go").addEventListener("click", () => document.getElementById("runs-overlay")?.scrollIntoView({ behavior: "smooth" }));
part(".chosen .clear").addEventListener("click", () => untick([...chosen]));

let typing;
part(".query").addEventListener("submit", (event) => event.preventDefault());
part(".query input").addEventListener("input", ({ target }) => { clearTimeout(typing), (typing = setTimeout(() => change({ text: target.value }), 250)); });
part(".query .state").addEventListener("change", ({ target }) => change({ state: target.value }));
part(".query .sort").addEventListener("change", ({ target }) => change({ sort: target.value, reverse: false }));
part(".reverse").addEventListener("click", () => change({ reverse: !query.reverse }));

const option = (value, text) => make("option", text, { value });
for (const [selector, key] of [[".query input", "search"], [".query .state", "head.state"], [".query .sort", "sort"], [".reverse", "reverse"]]) part(selector).setAttribute("aria-label", say(key));
part(".query input").placeholder = say("search");
part(".query .state").append(option("", say("any_state")), ...STATES.map((state) => option(state, say(`state.${state}`))));
part(".query .sort").append(...SORTED_BY.map((sort) => option(sort, say("sorted", { column: say(`sort.${sort}`) }))));
part(".reverse").title = say("reverse");
part(".chosen .go").textContent = say("overlay.show"), part(".chosen .clear").textContent = say("overlay.clear");
part(".back").textContent = say("live"), part(".back").dataset.event = "show_live";
part(".tunes h4").textContent = say("tunes");
part(".trash span").textContent = say("trash"), part(".trash button").textContent = say("empty_trash"), part(".trash button").dataset.event = "empty_trash";
for (const [group, label] of [["tunes", "tunes"], ["others", "others_label"]]) {
  part(`.${group} thead tr`).append(...COLUMNS[group].map((column) => make("th", say(`head.${column}`), { scope: "col", role: "columnheader", "data-sort": SORTS[column] ?? column })));
  part(`.${group} .scroll`).setAttribute("aria-label", say(label));
  const [back, on] = root.querySelectorAll(`.${group} .pages button`);
  back.textContent = say("previous"), on.textContent = say("next");
}
part(".others").addEventListener("toggle", keep);
restore();
watch("value", draw);
draw();
