// The live view of a run. Gradio runs this text once, as a function of (element, props, trigger, server, upload, watch).
// First what is pure: events are taken into a view, and figures are made of it. Then what touches the page.

const GAP = 5, KEPT = 1; // a longer silence than GAP seconds shrinks to KEPT on the time axis
const MOST = 6000; // points that a chart keeps
const SERIES = { cuda: ["device", "reserved", "allocated"], cpu: ["rss"] };
const PARTS = ["weights", "quant_constants", "adapters", "gradients", "optimizer"];
const GIB = 2 ** 30;
const ZERO = Date.UTC(2000, 0); // a run's second 0 on Plotly's date axis, which would take small numbers for years

const say = (key, values = {}) => (props.words[key] ?? "").replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "–");
const either = (key, otherwise, values) => say(Object.hasOwn(props.words, key) ? key : otherwise, values);
const phaseName = (name) => either(`phase.${name}`, "phase.other");
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const size = (bytes) => !isNumber(bytes) ? "–" : bytes >= GIB / 10 ? `${(bytes / GIB).toFixed(2)} GiB` : `${(bytes / 2 ** 20).toFixed(1)} MiB`;
const count = (value) => isNumber(value) ? Math.round(value).toLocaleString(props.lang) : "–";
const lossText = (loss) => isNumber(loss) ? loss.toFixed(3) : "NaN";
const clock = (seconds) => {
  const whole = Math.max(0, Math.round(seconds) || 0), text = new Date(1000 * whole).toISOString().slice(14, 19);
  return whole < 3600 ? text.replace(/^0/, "") : `${Math.floor(whole / 3600)}:${text}`;
};

const blank = (run = "") => ({
  run, cursor: 0, t: 0, cut: 0, about: {}, hardware: {}, phases: [], progress: null, step: null,
  memory: [], now: {}, peak: {}, parts: null, losses: [], scores: {}, notes: [], failure: "", outcome: "",
});
const kinds = (view) => SERIES[view.hardware.device] ?? SERIES.cpu;
const highest = (view) => Math.max(0, ...kinds(view).map((kind) => view.peak[kind] ?? 0));
const scored = (view) => ["before", "after"].filter((when) => view.scores[when]);
const capacityInView = (view) => view.hardware.capacity <= 1.6 * highest(view);

const TAKERS = {
  run: (view, event) => Object.assign(view, { about: event, hardware: event.hardware ?? {} }),
  progress: (view, event) => { view.progress = event; },
  note: (view, event) => { view.notes = [...view.notes, event.text].slice(-3); },
  failure: (view, event) => Object.assign(view, { failure: event.text, outcome: "failed" }),
  done: (view, event) => { view.outcome ||= event.result?.stopped ? "stopped" : "done"; },
  score: (view, { when, loss }) => { view.scores[when] = [when === "before" ? 0 : view.step?.step ?? 0, loss]; },
  phase(view, { name }, x) {
    view.phases = [...view.phases.slice(-300), { name, from: x, to: x }];
    view.progress = null;
    if (name === "free") view.parts = null;
    if (name === "data") Object.assign(view, { outcome: "", failure: "" }); // a fine-tune begins, or one that had ended goes on
  },
  memory(view, event, x) {
    view.memory.push([x, phaseName(view.phases.at(-1)?.name), ...kinds(view).map((kind) => event[kind] ?? null)]);
    view.memory = thinned(view.memory, peaks);
    for (const kind of kinds(view)) view.peak[kind] = Math.max(event[kind] ?? 0, view.peak[kind] ?? 0);
    view.now = event;
    view.parts = event.parts ?? view.parts;
  },
  step(view, event) {
    view.step = event;
    view.progress = { done: event.step, total: event.steps, unit: "steps" };
    if (event.step <= view.losses.at(-1)?.[0]) view.losses = view.losses.filter(([step]) => step < event.step); // done again from a checkpoint
    view.losses.push([event.step, isNumber(event.loss) ? event.loss : null]);
    view.losses = thinned(view.losses, (earlier) => earlier); // points that were, not the noise's upper edge
  },
};

function take(view, event) {
  if (!Object.hasOwn(TAKERS, event.kind)) return;
  if (event.t - view.t > GAP) view.cut += event.t - view.t - KEPT;
  view.t = Math.max(view.t, event.t);
  const x = ZERO + (view.t - view.cut) * 1000;
  if (view.phases.length) view.phases.at(-1).to = x;
  TAKERS[event.kind](view, event, x);
}

// Rows closer together than evenly spread ones would be are merged: hours of them end up as MOST / 2 and what comes since.
function thinned(rows, merge) {
  if (rows.length <= MOST) return rows;
  const apart = (rows.at(-1)[0] - rows[0][0]) / (MOST / 2), kept = [rows[0]];
  for (const row of rows.slice(1)) kept.push(row[0] - kept.at(-1)[0] < apart ? merge(kept.pop(), row) : row);
  return kept;
}

const peaks = ([x, phase, ...sizes], later) => [x, phase, ...sizes.map((bytes, i) => later[i + 2] > bytes ? later[i + 2] : bytes)];
const column = (rows, i, scale = 1) => rows.map((row) => row[i] === null || scale === 1 ? row[i] : row[i] / scale);

// What the measured total is made of, as [name, bytes, exact?].
function composition({ parts, now, hardware }) {
  const exact = PARTS.filter((part) => parts?.[part] > 0).map((part) => [part, parts[part], true]);
  const known = exact.reduce((sum, part) => sum + part[1], 0), { rss = 0, allocated = 0, reserved = 0, device = 0 } = now;
  const rest = hardware.device === "cuda"
    ? [["rest_cuda", allocated - known], ["reserve", reserved - Math.max(allocated, known)], ["runtime", device - Math.max(reserved, known)]]
    : [["rest_cpu", rss - known]];
  return [...exact, ...rest.filter(([, bytes]) => bytes > 0)];
}

const coarse = matchMedia("(pointer: coarse)").matches; // a finger scrolls the page, so it can't zoom by dragging
const titled = (text) => ({ text, font: { size: 12 } });
const axis = (paint, more) => ({ gridcolor: paint.grid, linecolor: paint.grid, zeroline: false, automargin: true, autorange: true, ...more });
const layout = (view, paint, more) => ({
  uirevision: view.run, showlegend: false, hovermode: "x unified", dragmode: coarse ? false : "zoom", margin: { l: 8, r: 12, t: 6, b: 8 },
  paper_bgcolor: "transparent", plot_bgcolor: "transparent", font: { color: paint.text, family: paint.family, size: 13 },
  hoverlabel: { bgcolor: paint.back, bordercolor: paint.grid, font: { color: paint.text } }, ...more,
});

function memoryFigure(view, paint, width) {
  const rows = view.memory, capacity = view.hardware.capacity / GIB, inView = capacityInView(view), line = { type: "scatter", mode: "lines" };
  const end = Math.max(rows.at(-1)[0], view.phases.at(-1)?.to ?? ZERO), clockFormat = end - ZERO >= 3600e3 ? "%-H:%M:%S" : "%-M:%S";
  // Bands are bars on an axis of their own: Plotly hides a label that doesn't fit its bar, and shows it once it does.
  const bands = view.phases.filter(({ name, from, to }) => name !== "idle" && to > from);
  const data = [{
    type: "bar", x: bands.map((band) => band.from), width: bands.map((band) => band.to - band.from), offset: 0, y: bands.map(() => 1),
    marker: { color: bands.map((band) => paint[`band-${band.name}`] || paint["band-other"]), line: { width: 0 } }, hoverinfo: "skip",
    text: bands.map((band) => phaseName(band.name)), textposition: "inside", insidetextanchor: "end", textangle: 0, textfont: { color: paint.text, size: 12 },
  }, { // nothing to see: it names the phase in the hover label
    ...line, x: column(rows, 0), y: rows.map(() => 1), line: { width: 0 }, customdata: column(rows, 1), hovertemplate: "%{customdata}<extra></extra>",
  }, ...kinds(view).map((kind, i) => ({
    ...line, yaxis: "y2", x: column(rows, 0), y: column(rows, i + 2, GIB), name: say(`memory.${kind}`), hovertemplate: "%{y:.2f} GiB",
    line: { color: paint[kind], width: kind === "reserved" ? 2 : 2.5, dash: kind === "reserved" ? "dot" : "solid" },
  }))];
  if (inView) data.push({ ...line, yaxis: "y2", x: [ZERO, end], y: [capacity, capacity], hoverinfo: "skip", line: { color: paint.capacity, width: 2, dash: "dash" } });
  return [data, layout(view, paint, {
    bargap: 0, uniformtext: { mode: "hide", minsize: 11 },
    xaxis: axis(paint, { type: "date", tickformat: clockFormat, hoverformat: clockFormat, nticks: 7, showgrid: false,
      autorangeoptions: { minallowed: ZERO, maxallowed: end }, title: titled([say(view.cut ? "time_cut" : "time"), ...(coarse || width < 480 ? [] : [say("zoom")])].join(" · ")) }),
    yaxis: { range: [0, 1], fixedrange: true, visible: false },
    yaxis2: axis(paint, { overlaying: "y", tickmode: "auto", rangemode: "tozero", nticks: 6, ticksuffix: " GiB",
      autorangeoptions: { include: [0, (highest(view) / GIB || 1) * 1.2, inView ? capacity * 1.15 : 0] } }),
    annotations: inView ? [{ text: `${say("memory.capacity")} ${size(view.hardware.capacity)}`, xref: "paper", x: 1, yref: "y2", y: capacity,
      xanchor: "right", yanchor: "top", showarrow: false, font: { size: 12, color: paint.capacity } }] : [],
  })];
}

function lossFigure(view, paint) {
  return [[{
    type: "scatter", mode: view.losses.length > 1 ? "lines" : "markers", x: column(view.losses, 0), y: column(view.losses, 1),
    name: say("loss.train"), line: { color: paint.train, width: 2 }, hovertemplate: "%{y:.3f}",
  }, ...scored(view).map((when) => ({
    type: "scatter", mode: "markers", x: [view.scores[when][0]], y: [view.scores[when][1]], name: say(`loss.${when}`), cliponaxis: false, hovertemplate: "%{y:.3f}",
    marker: { color: paint[when], size: 12, symbol: when === "before" ? "diamond" : "circle", line: { color: paint.back, width: 1.5 } },
  }))], layout(view, paint, {
    xaxis: axis(paint, { nticks: 7, showgrid: false, title: titled(say("loss.axis")), autorangeoptions: { include: [0] } }),
    yaxis: axis(paint, { nticks: 5 }),
  })];
}

const root = element.querySelector(".live"), part = (selector) => root.querySelector(selector);
const [memoryPlot, lossPlot] = root.querySelectorAll(".plot");
const [memoryLegend, partsLegend, lossLegend] = root.querySelectorAll(".legend");
const left = new AbortController();
let view = blank(), answer = null, lost = false, paint = null, told = "", spoken = "", stale = true, asking = false, timer;

const put = (node, text) => { if (node.textContent !== text) node.textContent = text; };
const show = (node, shown) => { if (node.hidden === shown) node.hidden = !shown; };
const create = (tag) => document.createElement(tag);
const describe = (node, items) => node.setAttribute("aria-label", items.map(({ name, value, tag = "" }) => `${name}: ${value} ${tag}`.trim()).join("; "));

// As many children as items, kept from one drawing to the next: nothing flickers, selected text stays selected.
function fill(list, items, [tag, ...inner], dress) {
  while (list.children.length > items.length) list.lastChild.remove();
  while (list.children.length < items.length) list.append(create(tag)), list.lastChild.append(...inner.map(create));
  items.forEach((item, i) => dress(list.children[i], item));
}

function legend(list, items) {
  fill(list, items, ["li", "i", "span", "b", "small"], (node, { colour, kind = "", name, value, tag = "" }) => {
    const [swatch, ...texts] = node.children;
    swatch.dataset.kind = kind;
    swatch.style.setProperty("--swatch", `var(--live-${colour})`);
    [name, value, tag].forEach((text, i) => put(texts[i], text));
  });
}

function drawStatus() {
  const { about, step, progress, hardware, outcome } = view, load = about.settings?.load ?? {};
  const phase = view.phases.at(-1)?.name, active = (answer.live || answer.more) && !outcome, working = active && phase && phase !== "idle";
  const state = outcome ? `outcome.${outcome}` : !phase ? "outcome.begun" : working || phase === "idle" ? `phase.${phase}` : "outcome.interrupted";
  put(part(".what"), say("title", { job: either(`job.${about.job}`, "job.other"), model: load.model, bits: load.bits }));
  put(part(".where"), hardware.name ? say("where", { name: hardware.name, capacity: size(hardware.capacity) }) : "");
  put(part(".phase"), either(state, "phase.other"));
  part(".phase").dataset.state = outcome;
  const amount = progress?.unit === "bytes" ? size : count, amounts = { done: amount(progress?.done), total: amount(progress?.total) };
  put(part(".amount"), working && progress?.total ? either(`amount.${progress.unit}`, "amount.other", amounts) : "");
  put(part(".engine"), lost ? say("lost") : say(`engine.${answer.engine}`));
  part(".engine").dataset.state = lost ? "dead" : answer.engine;
  drawProgress(working, progress?.total > 0 ? Math.min(1, progress.done / progress.total) : null);
  const facts = [["elapsed", clock(view.t - view.cut)]];
  if (step) facts.push(["loss", lossText(step.loss)], ["speed", count(step.tokens_per_s)]);
  if (active && phase === "train" && isNumber(step?.left_s)) facts.push(["left", clock(step.left_s)]);
  fill(part(".facts"), facts, ["div", "dt", "dd"], (node, [key, value]) => { put(node.firstChild, say(`fact.${key}`)); put(node.lastChild, value); });
  put(part(".failure"), view.failure), show(part(".failure"), Boolean(view.failure));
  fill(part(".notes"), view.notes, ["li"], put), show(part(".notes"), view.notes.length > 0);
}

function drawProgress(working, share) {
  const bar = part(".progress"), fillet = bar.firstChild, before = bar.dataset.state;
  const known = view.outcome === "done" ? 1 : working ? share : null;
  bar.dataset.state = view.outcome || (!working ? "still" : share === null ? "unknown" : "known");
  fillet.style.width = known === null ? "" : `${100 * known}%`;
  bar.ariaValueNow = known === null ? null : Math.round(100 * known);
  if (before === bar.dataset.state) return;
  for (const old of fillet.getAnimations()) old.cancel();
  // By hand, since Gradio nests a component's CSS and @keyframes can't be nested.
  if (bar.dataset.state === "unknown" && !matchMedia("(prefers-reduced-motion: reduce)").matches)
    fillet.animate({ transform: ["none", "translateX(233%)"] }, { duration: 1600, easing: "ease-in-out", direction: "alternate", iterations: Infinity });
}

function drawMemory() {
  show(part(".memory"), view.memory.length > 0);
  if (!view.memory.length) return;
  const lines = kinds(view).map((kind) => ({ colour: kind, kind: kind === "reserved" ? "dotted" : "line", name: say(`memory.${kind}`),
    value: size(view.now[kind]), tag: say("memory.peak", { peak: size(view.peak[kind]) }) }));
  if (isNumber(view.hardware.capacity)) lines.push({ colour: "capacity", kind: "dashed", name: say("memory.capacity"),
    value: size(view.hardware.capacity), tag: capacityInView(view) ? "" : say("memory.above") });
  legend(memoryLegend, lines), describe(memoryPlot, lines);
  const all = composition(view), total = all.reduce((sum, [, bytes]) => sum + bytes, 0);
  const items = all.map(([name, bytes, exact]) => ({ colour: `part-${name}`, name: say(`part.${name}`), value: size(bytes), tag: say(exact ? "exact" : "measured") }));
  put(root.querySelectorAll("h4 small")[1], `${size(total)}, ${say("measured")}`);
  legend(partsLegend, items), describe(part(".stack"), items);
  fill(part(".stack"), all, ["i"], (node, [name, bytes]) => {
    node.style.flexGrow = bytes / total;
    node.style.setProperty("--swatch", `var(--live-part-${name})`);
  });
  plot(memoryPlot, memoryFigure, view.memory.at(-1)[0], view.phases.at(-1)?.to);
}

function drawLoss() {
  show(part(".loss"), view.losses.length > 0);
  if (!view.losses.length) return;
  const item = (key, loss, kind) => ({ colour: key, kind, name: say(`loss.${key}`), value: lossText(loss) });
  const items = [item("train", view.step.loss, "line"), ...scored(view).map((when) => item(when, view.scores[when][1], when))];
  legend(lossLegend, items), describe(lossPlot, items);
  plot(lossPlot, lossFigure, view.step.step, items.length);
}

// Draws if what it shows is another. It waits while the tab is hidden (no width) or a zoom is being dragged (a redraw
// would break it off), and nine times as long as the last drawing took: a slow machine draws less often.
function plot(node, figure, ...shown) {
  const began = performance.now(), { clientWidth: width, clientHeight: height } = node;
  const key = [view.run, width, height, paint.text, ...shown].join();
  if (key === node.key) return;
  if (!window.Plotly || !width || node._dragging || began < node.rested) return void (stale = true);
  const [data, look] = figure(view, paint, width);
  Plotly.react(node, data, { ...look, width, height }, { displayModeBar: false, showTips: false });
  node.key = key;
  node.rested = performance.now() + 9 * (performance.now() - began);
}

function draw() {
  stale = false;
  paint ??= readPaint();
  show(part(".empty"), !view.run), show(part(".filled"), Boolean(view.run));
  put(part(".empty"), say(lost ? "lost" : props.follow ? "gone" : "empty"));
  if (!view.run) return;
  drawStatus(), drawMemory(), drawLoss();
  const phase = `${view.run} ${view.phases.length} ${view.outcome}`; // a screen reader hears of each phase once
  if (phase !== spoken) put(part(".spoken"), [part(".phase").textContent, memoryPlot.ariaLabel, view.losses.length ? lossPlot.ariaLabel : ""].join(". "));
  spoken = phase;
}

// The colours stand in the CSS, once for light and once for dark.
function readPaint() {
  const style = getComputedStyle(root), bands = Object.keys(props.words).filter((key) => key.startsWith("phase.")).map((key) => key.replace("phase.", "band-"));
  const names = [...SERIES.cuda, ...SERIES.cpu, "capacity", "train", "before", "after", "grid", "back", ...bands];
  return { text: style.color, family: style.fontFamily, ...Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--live-${name}`).trim()])) };
}

function receive(fresh) {
  stale ||= !answer || lost || fresh.events.length > 0 || ["run", "engine", "live"].some((key) => fresh[key] !== answer[key]);
  const catchingUp = fresh.more && fresh.run === view.run;
  if (fresh.run !== view.run) view = blank(fresh.run);
  answer = fresh, lost = false, view.cursor = fresh.cursor;
  for (const event of fresh.events) take(view, event);
  if (catchingUp) return;
  const state = JSON.stringify({ run: fresh.run, engine: fresh.engine, ended: view.outcome !== "" });
  // The template doesn't mention the value, so that setting it redraws nothing; Gradio fires `change` by itself.
  if (!fresh.more && told !== state) props.value = JSON.parse(told = state);
  if (stale) draw();
}

async function ask() {
  clearTimeout(timer);
  if (!element.isConnected) {
    left.abort(), resized.disconnect(), themed.disconnect();
    return [memoryPlot, lossPlot].forEach((node) => window.Plotly?.purge(node));
  }
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
  timer = setTimeout(ask, lost ? 2000 : answer.more ? 0 : answer.busy || answer.live ? 250 : 1000);
}

const resized = new ResizeObserver(() => { if (answer) draw(); });
const themed = new MutationObserver(() => { paint = null; if (answer) draw(); });
["memory", "parts", "loss"].forEach((key, i) => put(root.querySelectorAll("h4 span")[i], say(key)));
put(part("h4 small"), say("measured")), part(".progress").setAttribute("aria-label", say("progress"));
document.addEventListener("visibilitychange", ask, { signal: left.signal });
resized.observe(root), themed.observe(document.body, { attributeFilter: ["class"] });
watch("follow", ask);
ask();
