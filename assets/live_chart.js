// The live view of a run. Gradio runs this text once, as a function of (element, props, trigger, server, upload, watch).
// First what is pure: events are taken into a view, and figures are made of it. Then what touches the page.

const GAP = 5; // seconds without an event; longer ones shrink to KEPT on the time axis
const KEPT = 1;
const MOST = 6000; // points a chart keeps
const SERIES = { cuda: ["device", "reserved", "allocated"], cpu: ["rss"] };
const PARTS = ["weights", "quant_constants", "adapters", "gradients", "optimizer"];
const GIB = 2 ** 30;
const ZERO = Date.UTC(2000, 0); // a run's second 0 on Plotly's date axis, which would take small numbers for years

const say = (key, values = {}) => (props.words[key] ?? "").replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "–");
const either = (key, otherwise) => say(key in props.words ? key : otherwise);
const phaseName = (name) => either(`phase.${name}`, "phase.other");
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const size = (bytes) => !isNumber(bytes) ? "–" : bytes >= GIB / 10 ? `${(bytes / GIB).toFixed(2)} GiB` : `${(bytes / 2 ** 20).toFixed(1)} MiB`;
const count = (value, digits = 0) => isNumber(value) ? value.toLocaleString(props.lang, { maximumFractionDigits: digits }) : "–";
const clock = (seconds) => {
  const whole = Math.max(0, Math.round(seconds)), two = (n) => String(n).padStart(2, "0");
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return h ? `${h}:${two(m)}:${two(s)}` : `${m}:${two(s)}`;
};

const blank = (run = "") => ({
  run, cursor: 0, t: 0, cut: 0, about: {}, hardware: {}, phases: [], progress: null, step: null,
  memory: [], now: {}, peak: {}, parts: null, losses: [], scores: {}, notes: [], failure: "", outcome: "",
});

const TAKERS = {
  run(view, event) {
    Object.assign(view, { about: event, hardware: event.hardware ?? {} });
  },
  phase(view, { name }, x) {
    view.phases = [...view.phases.slice(-300), { name, from: x, to: x }];
    view.progress = null;
    if (name === "free") view.parts = null;
  },
  progress(view, event) {
    view.progress = event;
  },
  memory(view, event, x) {
    view.memory.push([x, `${clock(view.t)} ${phaseName(view.phases.at(-1)?.name)}`, ...kinds(view).map((kind) => event[kind] ?? null)]);
    view.memory = thinned(view.memory, maxima);
    view.now = event;
    for (const kind of kinds(view)) view.peak[kind] = Math.max(event[kind] ?? 0, view.peak[kind] ?? 0);
    if (event.parts) view.parts = event.parts;
  },
  step(view, event) {
    view.step = event;
    view.progress = { done: event.step, total: event.steps, unit: "steps" };
    view.losses.push([event.step, isNumber(event.loss) ? event.loss : null]);
    view.losses = thinned(view.losses, maxima);
  },
  score(view, event) {
    view.scores[event.when] = [event.when === "before" ? 0 : view.step?.step ?? 0, event.loss];
  },
  note(view, event) {
    view.notes = [...view.notes, event.text].slice(-3);
  },
  failure(view, event) {
    Object.assign(view, { failure: event.text, outcome: "failed" });
  },
  done(view, event) {
    view.outcome ||= event.result?.stopped ? "stopped" : "done";
  },
};

const kinds = (view) => SERIES[view.hardware.device] ?? SERIES.cpu;

function take(view, event) {
  if (!Object.hasOwn(TAKERS, event.kind)) return;
  if (event.t - view.t > GAP) view.cut += event.t - view.t - KEPT;
  view.t = Math.max(view.t, event.t);
  const x = ZERO + (view.t - view.cut) * 1000;
  if (view.phases.length) view.phases.at(-1).to = x;
  TAKERS[event.kind](view, event, x);
}

// The older half at half its resolution: what is new stays sharp, what is old keeps its peaks.
function thinned(rows, merge) {
  if (rows.length <= MOST) return rows;
  const half = (rows.length >> 2) * 2, old = [];
  for (let i = 0; i < half; i += 2) old.push(merge(rows[i], rows[i + 1]));
  return old.concat(rows.slice(half));
}

const maxima = (a, b) => a.map((value, i) => typeof value === "string" || b[i] === null || value > b[i] ? value : b[i]);

// What the measured total is made of, as [name, bytes, exact?], and that total.
function composition(view) {
  const parts = PARTS.filter((part) => view.parts?.[part] > 0).map((part) => [part, view.parts[part], true]);
  const known = parts.reduce((sum, part) => sum + part[1], 0);
  const { rss = 0, allocated = 0, reserved = 0, device = 0 } = view.now;
  const rest = view.hardware.device === "cuda"
    ? [["rest_cuda", allocated - known], ["reserve", reserved - Math.max(allocated, known)], ["runtime", device - Math.max(reserved, known)]]
    : [["rest_cpu", rss - known]];
  const all = [...parts, ...rest.filter(([, bytes]) => bytes > 0).map((part) => [...part, false])];
  return { all, total: all.reduce((sum, part) => sum + part[1], 0) };
}

const column = (rows, i, scale = 1) => rows.map((row) => row[i] === null ? null : row[i] / scale);

function axis(paint, more) {
  return { gridcolor: paint.grid, linecolor: paint.grid, zeroline: false, automargin: true, autorange: true, ...more };
}

function layout(view, paint, more) {
  return {
    uirevision: view.run, showlegend: false, hovermode: "x unified", dragmode: matchMedia("(pointer: coarse)").matches ? false : "zoom",
    margin: { l: 8, r: 12, t: 6, b: 8 }, paper_bgcolor: "transparent", plot_bgcolor: "transparent",
    font: { color: paint.text, family: paint.family, size: 13 },
    hoverlabel: { bgcolor: paint.back, bordercolor: paint.grid, font: { color: paint.text } }, ...more,
  };
}

function memoryFigure(view, paint) {
  const rows = view.memory, names = kinds(view), { capacity } = view.hardware;
  const top = Math.max(...names.map((kind) => view.peak[kind] ?? 0)) / GIB;
  const inView = capacity / GIB <= 1.6 * top;
  const end = Math.max(ZERO, rows.at(-1)?.[0] ?? 0, view.phases.at(-1)?.to ?? 0);
  // Bands are bars on an axis of their own: Plotly hides a label that doesn't fit its bar, and shows it once it does.
  const bands = view.phases.filter(({ name, from, to }) => name !== "idle" && to > from);
  const data = [{
    type: "bar", x: bands.map((band) => band.from), width: bands.map((band) => band.to - band.from), offset: 0,
    y: bands.map(() => 1), text: bands.map((band) => phaseName(band.name)), textposition: "inside",
    insidetextanchor: "end", textangle: 0, textfont: { color: paint.text, size: 12 }, hoverinfo: "skip",
    marker: { color: bands.map((band) => paint[`band-${band.name}`] || paint["band-other"]), line: { width: 0 } },
  }];
  names.forEach((kind, i) => data.push({
    type: "scatter", mode: "lines", yaxis: "y2", x: column(rows, 0), y: column(rows, i + 2, GIB), name: say(`memory.${kind}`),
    customdata: rows.map((row) => row[1]), line: { color: paint[kind], width: kind === "reserved" ? 2 : 2.5, dash: kind === "reserved" ? "dot" : "solid" },
    hovertemplate: "%{y:.2f} GiB",
  }));
  if (inView) data.push({
    type: "scatter", mode: "lines", yaxis: "y2", x: [ZERO, end], y: [capacity / GIB, capacity / GIB], hoverinfo: "skip",
    line: { color: paint.capacity, width: 2, dash: "dash" },
  });
  return [data, layout(view, paint, {
    bargap: 0, uniformtext: { mode: "hide", minsize: 11 },
    xaxis: axis(paint, { type: "date", tickformat: end - ZERO >= 3600e3 ? "%-H:%M:%S" : "%-M:%S", unifiedhovertitle: { text: "%{customdata}" }, nticks: 7, showgrid: false,
      title: { text: say(view.cut ? "time_cut" : "time"), font: { size: 12 } } }),
    yaxis: { range: [0, 1], fixedrange: true, visible: false },
    yaxis2: axis(paint, { overlaying: "y", tickmode: "auto", rangemode: "tozero", nticks: 6, ticksuffix: " GiB", autorangeoptions: { include: [0, (top || 1) * 1.2] } }),
    annotations: inView ? [{ text: `${say("memory.capacity")} ${size(capacity)}`, xref: "paper", x: 1, yref: "y2", y: capacity / GIB,
      xanchor: "right", yanchor: "top", showarrow: false, font: { size: 12, color: paint.capacity } }] : [],
  })];
}

function lossFigure(view, paint) {
  const points = Object.entries(view.scores).filter(([when]) => when in { before: 0, after: 0 });
  return [[
    { type: "scatter", mode: view.losses.length > 1 ? "lines" : "markers", x: column(view.losses, 0), y: column(view.losses, 1), name: say("loss.train"), line: { color: paint.train, width: 2 }, hovertemplate: "%{y:.3f}" },
    ...points.map(([when, [step, loss]]) => ({ type: "scatter", mode: "markers", x: [step], y: [loss], name: say(`loss.${when}`),
      marker: { color: paint[when], size: 12, symbol: when === "before" ? "diamond" : "circle", line: { color: paint.back, width: 1.5 } }, cliponaxis: false, hovertemplate: "%{y:.3f}" })),
  ], layout(view, paint, {
    xaxis: axis(paint, { nticks: 7, showgrid: false, title: { text: say("loss.axis"), font: { size: 12 } }, autorangeoptions: { include: [0] } }),
    yaxis: axis(paint, { nticks: 5 }),
  })];
}

const root = element.querySelector(".live");
const part = (selector) => root.querySelector(selector);
const [memoryPlot, lossPlot] = root.querySelectorAll(".plot");
const [memoryLegend, partsLegend, lossLegend] = root.querySelectorAll(".legend");
let view = blank(), answer = null, lost = false, paint = null, told = "", spoken = "", stale = true, asking = false, timer;

const put = (node, text) => { if (node.textContent !== text) node.textContent = text; };
const show = (node, shown) => { if (node.hidden === shown) node.hidden = !shown; };

// As many children as items, kept from one drawing to the next so that nothing flickers and selected text stays selected.
function fill(list, items, make, dress) {
  while (list.children.length > items.length) list.lastChild.remove();
  while (list.children.length < items.length) list.append(make());
  items.forEach((item, i) => dress(list.children[i], item));
}

const nest = (tag, ...inner) => () => { const node = document.createElement(tag); node.append(...inner.map((name) => document.createElement(name))); return node; };

function legend(list, items) {
  fill(list, items, nest("li", "i", "span", "b", "small"), (node, { colour, kind = "", name, value, tag }) => {
    const [swatch, label, amount, source] = node.children;
    if (swatch.dataset.key !== colour) Object.assign(swatch.dataset, { key: colour, kind });
    if (swatch.style.getPropertyValue("--swatch") !== `var(--live-${colour})`) swatch.style.setProperty("--swatch", `var(--live-${colour})`);
    put(label, name), put(amount, value), put(source, tag ?? "");
  });
}

function drawStatus() {
  const { about, step, progress, hardware } = view, load = about.settings?.load ?? {};
  const phase = view.phases.at(-1)?.name, active = answer.live && !view.outcome, working = active && phase !== "idle";
  put(part(".what"), say("title", { job: either(`job.${about.job}`, "job.other"), model: load.model, bits: load.bits }));
  put(part(".where"), hardware.name ? say("where", { name: hardware.name, capacity: size(hardware.capacity) }) : "");
  const state = view.outcome ? `outcome.${view.outcome}` : !phase ? "outcome.begun" : working || phase === "idle" ? `phase.${phase}` : "outcome.interrupted";
  put(part(".phase"), either(state, "phase.other"));
  part(".phase").dataset.state = view.outcome || (working ? "working" : "");
  const amount = progress?.unit === "bytes" ? size : count;
  put(part(".amount"), working && progress ? say(`amount.${progress.unit in { bytes: 0, steps: 0, rows: 0, tokens: 0 } ? progress.unit : "other"}`, { done: amount(progress.done), total: amount(progress.total) }) : "");
  put(part(".engine"), lost ? say("lost") : say(`engine.${answer.engine}`));
  part(".engine").dataset.state = lost ? "dead" : answer.engine;
  drawProgress(working, progress);
  const facts = [["elapsed", clock(view.t)]];
  if (step) facts.push(["loss", isNumber(step.loss) ? step.loss.toFixed(3) : "NaN"], ["speed", count(step.tokens_per_s)]);
  if (step && working && isNumber(step.left_s)) facts.push(["left", clock(step.left_s)]);
  fill(part(".facts"), facts, nest("div", "dt", "dd"), (node, [key, value]) => { put(node.firstChild, say(`fact.${key}`)); put(node.lastChild, value); });
  put(part(".failure"), view.failure), show(part(".failure"), Boolean(view.failure));
  fill(part(".notes"), view.notes, nest("li"), put), show(part(".notes"), view.notes.length > 0);
}

function drawProgress(working, progress) {
  const bar = part(".progress"), share = progress?.total > 0 ? Math.min(1, progress.done / progress.total) : null;
  const full = view.outcome === "done", percent = full ? 100 : working && share !== null ? Math.round(100 * share) : null;
  const before = bar.dataset.state;
  bar.dataset.state = view.outcome || (!working ? "still" : share === null ? "unknown" : "known");
  if (before !== bar.dataset.state) sweep(bar.firstChild, bar.dataset.state === "unknown");
  bar.firstChild.style.width = percent === null ? "" : `${full ? 100 : 100 * share}%`;
  if (percent === null) bar.removeAttribute("aria-valuenow");
  else bar.setAttribute("aria-valuenow", percent);
}

// Gradio nests a component's CSS, and @keyframes can't be nested.
function sweep(node, on) {
  for (const old of node.getAnimations()) if (!(old instanceof CSSTransition)) old.cancel();
  if (on && !matchMedia("(prefers-reduced-motion: reduce)").matches)
    node.animate({ marginLeft: ["0%", "70%"] }, { duration: 1600, easing: "ease-in-out", direction: "alternate", iterations: Infinity });
}

function drawMemory() {
  show(part(".memory"), view.memory.length > 0);
  if (!view.memory.length) return;
  const names = kinds(view), { capacity } = view.hardware, peak = (kind) => say("memory.peak", { peak: size(view.peak[kind]) });
  const lines = names.map((kind) => ({ colour: kind, kind: kind === "reserved" ? "dotted" : "line", name: say(`memory.${kind}`), value: size(view.now[kind]), tag: peak(kind) }));
  const above = capacity > 1.6 * Math.max(...names.map((kind) => view.peak[kind] ?? 0));
  if (isNumber(capacity)) lines.push({ colour: "capacity", kind: "dashed", name: say("memory.capacity"), value: size(capacity), tag: above ? say("memory.above") : "" });
  legend(memoryLegend, lines);
  memoryPlot.setAttribute("aria-label", names.map((kind) => `${say(`memory.${kind}`)}: ${size(view.now[kind])}, ${peak(kind)}`).join("; "));
  const { all, total } = composition(view);
  const items = all.map(([name, bytes, exact]) => ({ colour: `part-${name}`, name: say(`part.${name}`), value: size(bytes), tag: say(exact ? "exact" : "measured") }));
  legend(partsLegend, items);
  put(root.querySelectorAll("h4 small")[1], `${size(total)}, ${say("measured")}`);
  fill(part(".stack"), all, nest("i"), (node, [name, bytes]) => {
    node.style.flexGrow = bytes / total;
    node.style.setProperty("--swatch", `var(--live-part-${name})`);
    node.title = `${say(`part.${name}`)}: ${size(bytes)}`;
  });
  part(".stack").setAttribute("aria-label", items.map(({ name, value }) => `${name}: ${value}`).join("; "));
  plot(memoryPlot, memoryFigure);
}

function drawLoss() {
  show(part(".loss"), view.losses.length > 0);
  if (!view.losses.length) return;
  const entry = (key, loss, colour, kind) => ({ colour, kind, name: say(`loss.${key}`), value: isNumber(loss) ? loss.toFixed(3) : "NaN" });
  const items = [entry("train", view.step.loss, "train", "line")];
  for (const when of ["before", "after"]) if (view.scores[when]) items.push(entry(when, view.scores[when][1], when, when));
  legend(lossLegend, items);
  lossPlot.setAttribute("aria-label", items.map(({ name, value }) => `${name}: ${value}`).join("; "));
  plot(lossPlot, lossFigure);
}

// A hidden tab has no width to draw in, and a redraw would break off a zoom that is being dragged: both wait.
function plot(node, figure) {
  if (!window.Plotly || !node.clientWidth || node._dragging) { stale = true; return; }
  const [data, look] = figure(view, paint);
  Plotly.react(node, data, { ...look, width: node.clientWidth, height: node.clientHeight }, { displayModeBar: false });
}

function draw() {
  stale = false;
  if (!paint) readPaint();
  show(part(".empty"), !view.run), show(part(".filled"), Boolean(view.run));
  put(part(".empty"), say(lost ? "lost" : props.follow ? "gone" : "empty"));
  if (!view.run || !answer) return;
  drawStatus(), drawMemory(), drawLoss();
  const phase = `${view.run} ${view.phases.length} ${view.outcome}`; // a screen reader hears of each phase once
  if (phase === spoken) return;
  spoken = phase;
  const kind = kinds(view).at(-1), words = [part(".phase").textContent];
  if (view.memory.length) words.push(say("spoken.memory", { now: size(view.now[kind]), peak: size(view.peak[kind]) }));
  if (isNumber(view.step?.loss)) words.push(say("spoken.loss", { loss: view.step.loss.toFixed(3) }));
  put(part(".spoken"), words.join(" "));
}

function readPaint() {
  const style = getComputedStyle(root), read = (name) => style.getPropertyValue(name).trim();
  const named = [...SERIES.cuda, ...SERIES.cpu, "capacity", "train", "before", "after", "grid", "back"];
  const bands = Object.keys(props.words).filter((key) => key.startsWith("phase.")).map((key) => key.replace("phase.", "band-"));
  paint = { text: style.color, family: style.fontFamily, ...Object.fromEntries([...named, ...bands].map((name) => [name, read(`--live-${name}`)])) };
}

function receive(fresh) {
  const changed = !answer || fresh.events.length || lost || ["run", "engine", "live"].some((key) => fresh[key] !== answer[key]);
  if (fresh.run !== view.run) view = blank(fresh.run);
  answer = fresh, lost = false, view.cursor = fresh.cursor;
  for (const event of fresh.events) take(view, event);
  if (fresh.more) return;
  const state = { run: fresh.run, engine: fresh.engine, ended: Boolean(view.outcome) };
  // The template doesn't mention the value, so setting it redraws nothing; Gradio fires `change` by itself.
  if (told !== (told = JSON.stringify(state))) props.value = state;
  if (changed || stale) draw();
}

async function ask() {
  clearTimeout(timer);
  if (!element.isConnected) return leave();
  if (document.hidden || asking) return;
  asking = true;
  try {
    receive(await server.since({ follow: props.follow ?? "", run: view.run, cursor: view.cursor }));
  } catch (error) {
    if (!lost) console.warn(error);
    lost = true;
    draw();
  }
  asking = false;
  timer = setTimeout(ask, lost ? 2000 : answer?.more ? 0 : answer?.busy || answer?.live ? 250 : 1000);
}

const gone = new AbortController();
const resized = new ResizeObserver(() => draw());
const themed = new MutationObserver(() => { paint = null; draw(); });

function leave() {
  gone.abort(), resized.disconnect(), themed.disconnect();
  for (const node of [memoryPlot, lossPlot]) window.Plotly?.purge(node);
}

["memory", "parts", "loss"].forEach((key, i) => put(root.querySelectorAll("h4 span")[i], say(key)));
put(part("h4 small"), say("measured"));
part(".progress").setAttribute("aria-label", say("progress"));
document.addEventListener("visibilitychange", ask, { signal: gone.signal });
resized.observe(root);
themed.observe(document.body, { attributeFilter: ["class"] });
watch("follow", ask);
ask();
