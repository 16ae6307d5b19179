// The table of runs (playground/ui/runs_table.py). Gradio runs this text once, as a function of (element, props, trigger,
// server, upload, watch), after the constants WORDS and LANG. A row is known by its run's id, never by its place, and keeps its
// node from one drawing to the next: focus and scroll position stay where they were.

const root = element.querySelector(".runs"), part = (selector) => root.querySelector(selector);
const say = (key, values = {}) => (WORDS[key] ?? "").replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "–");
const TUNE_COLUMNS = ["run", "loss", "recall", "time", "state", "actions"], OTHER_COLUMNS = ["run", "time", "state", "actions"];
const show = (node, shown) => { node.hidden = !shown; };

// An element with that text and those attributes; false leaves an attribute out.
function make(tag, text = "", attributes = {}) {
  const node = document.createElement(tag);
  node.textContent = text;
  for (const [name, value] of Object.entries(attributes)) if (value !== false) node.setAttribute(name, value);
  return node;
}

// The time of the browser's zone: "Nov 25, 14:02", with the year unless it is this one.
function formatBegan(began) {
  const at = new Date(1000 * began), year = at.getFullYear() === new Date().getFullYear() ? {} : { year: "numeric" };
  return new Intl.DateTimeFormat(LANG, { ...year, month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23" }).format(at);
}

// Roles are written out: a browser drops those of a table that CSS lays out as blocks, as it does on a narrow screen.
const makeCell = (text, attributes = {}) => make("td", text, { role: "cell", ...attributes });
const CELLS = {
  loss: ({ loss }) => makeCell(loss?.join(" → "), { "data-head": say("head.loss") }),
  recall: ({ facts }) => makeCell(facts?.join(" → "), { "data-head": say("head.recall") }),
  time: ({ time }) => makeCell(time, { "data-head": say("head.time") }),
  state: ({ state, status }) => makeCell(status, { "data-head": say("head.state"), "data-state": state }),
  actions(run, name) {
    const cell = makeCell("", { class: "actions" });
    const button = (event, key, more = {}) => cell.append(make("button", say(key), { type: "button", "data-event": event, "aria-label": `${say(key)}: ${name}`, ...more }));
    button("show_run", run.shown ? "shown" : "show"), button("use_settings", "reuse");
    if (run.resume) button("resume_run", "resume", { disabled: run.resume === "busy" && "" });
    button("delete_run", "delete");
    return cell;
  },
};

function drawRow(run, columns) {
  const row = make("tr", "", { role: "row", "data-run": run.id, title: run.id, class: run.deleted && "deleted", "aria-current": run.shown && "true" });
  const began = formatBegan(run.began), name = `${run.name} · ${began}`, head = make("th", "", { scope: "row", role: "rowheader" });
  head.append(make("span", run.name), " ", make("time", began, { datetime: new Date(1000 * run.began).toISOString() }));
  row.append(head);
  if (run.deleted) {
    const cell = makeCell("", { colspan: columns.length - 1 });
    cell.append(make("span", say("deleted")), " ", make("button", say("undo"), { type: "button", "data-event": "restore_run", "aria-label": `${say("undo")}: ${name}` }));
    row.append(cell);
  } else row.append(...columns.slice(1).map((column) => CELLS[column](run, name)));
  return row;
}

function fill(body, runs, columns) {
  const rows = new Map([...body.children].map((row) => [row.dataset.run, row]));
  runs.forEach((run, i) => {
    const drawnFrom = JSON.stringify(run);
    let row = rows.get(run.id);
    rows.delete(run.id);
    if (row?.drawnFrom !== drawnFrom) row = replace(row, drawRow(run, columns)), row.drawnFrom = drawnFrom;
    if (body.children[i] !== row) body.insertBefore(row, body.children[i] ?? null);
  });
  for (const row of rows.values()) row.remove();
}

// The new row in the place of the old one; focus stays on the same button, or goes to the first one where that is gone.
function replace(old, row) {
  const { event } = old?.contains(document.activeElement) ? document.activeElement.dataset : {};
  old?.replaceWith(row);
  if (event) (row.querySelector(`[data-event="${event}"]:enabled`) ?? row.querySelector("button")).focus();
  return row;
}

let listed = false;
function draw() {
  if (!props.value) return;
  const { runs, shown, live } = JSON.parse(props.value), tunes = runs.filter(({ tune }) => tune), others = runs.filter(({ tune }) => !tune);
  for (const run of runs) run.shown = run.id === shown && !run.deleted;
  const hadFocus = root.contains(document.activeElement);
  show(part(".none"), !runs.length), show(part(".tunes"), tunes.length), show(part(".others"), others.length);
  show(part(".trash"), runs.some(({ deleted }) => deleted)), show(part(".back"), live);
  part(".others summary").textContent = say("others", { count: others.length });
  if (!listed && !tunes.length) part(".others").open = runs.length > 0;
  listed ||= runs.length > 0;
  fill(part(".tunes tbody"), tunes, TUNE_COLUMNS), fill(part(".others tbody"), others, OTHER_COLUMNS);
  if (hadFocus && document.activeElement === document.body) root.querySelector("tbody button")?.focus();
}

root.addEventListener("click", ({ target }) => {
  const button = target.closest("button"), row = target.closest("tr[data-run]:not(.deleted)");
  if (button) trigger(button.dataset.event, { run: button.closest("tr")?.dataset.run ?? "" });
  else if (row && getSelection().isCollapsed) trigger("show_run", { run: row.dataset.run }); // whoever selects its text doesn't choose it
});

part(".none").textContent = say("empty");
part(".back").textContent = say("live"), part(".back").dataset.event = "show_live";
part(".tunes h4").textContent = say("tunes");
part(".trash span").textContent = say("trash"), part(".trash button").textContent = say("empty_trash"), part(".trash button").dataset.event = "empty_trash";
[[".tunes", TUNE_COLUMNS, "tunes"], [".others", OTHER_COLUMNS, "others_label"]].forEach(([name, columns, label]) => {
  part(`${name} thead tr`).append(...columns.map((column) => make("th", say(`head.${column}`), { scope: "col", role: "columnheader" })));
  part(`${name} .scroll`).setAttribute("aria-label", say(label));
});
watch("value", draw);
draw();
