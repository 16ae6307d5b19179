// The live view of a run: events are taken into a view, and figures are made of it. Nothing here touches the page; live_chart.js,
// which follows in the same text, does.

const GAP = 5, KEPT = 1; // a longer silence than GAP seconds shrinks to KEPT on the time axis
const MOST = 6000; // points that a chart keeps
const SERIES = { cuda: ["device_used", "reserved", "allocated"], cpu: ["rss"] };
const PARTS = ["weights", "quant_constants", "adapters", "gradients", "optimizer"]; // that are measured exactly
const ALL_PARTS = [...PARTS, "activations", "loss", "kv_cache", "buffers", "working", "program", "runtime"];
const GIB = 2 ** 30;
const SAMPLED = 200; // steps whose sample answers a view keeps
// Figures from before and after, in their order: how one is written, and which way is better, where one is.
const percent = { write: (value) => `${Math.round(100 * value)}`, unit: (text) => `${text} %`, change: (text) => say("points", { value: text }) };
const plain = (digits) => ({ write: (value) => value.toFixed(digits) });
const figured = (value) => Math.abs(value) >= 1000 ? count(value) : `${Number(value.toPrecision(3))}`;
const FIGURES = {
  loss: { write: figured, better: -1 }, perplexity: { write: figured, better: -1 }, recall: { ...percent, better: 1 }, chrf: { ...plain(1), better: 1 },
  closed: { ...percent, better: 1 }, characters: plain(1), tokens: plain(1), distinct_1: percent, distinct_2: percent,
};
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
  memory: [], now: {}, peak: {}, parts: null, losses: [], scores: {}, measures: null, samples: [], notes: [], failure: "", outcome: "",
  told: new Map(), onCard: new Map(), full: null, // by phase, what was predicted and measured, and predicted for a pretended card; the ledger when memory ran out
});
const kinds = (view) => SERIES[view.hardware.device] ?? SERIES.cpu;
const predicted = (view) => [...view.told.values()].filter(({ said, kind }) => isNumber(said[kind]) && kind !== "allocated");
const highest = (view) => Math.max(0, ...kinds(view).map((kind) => view.peak[kind] ?? 0), ...predicted(view).map(({ said, kind }) => said[kind]));
const scored = (view) => ["before", "after"].filter((when) => view.scores[when]);
const capacityInView = (view) => view.hardware.capacity <= 1.6 * highest(view);

const TAKERS = {
  run_started: (view, event) => Object.assign(view, { about: event, hardware: event.hardware ?? {} }),
  progress: (view, event) => { view.progress = event; },
  note(view, event) {
    view.notes = [...view.notes, event.text].slice(-3);
    const [, fit] = /^note\.card_(\w+)$/.exec(event.key) ?? [];
    if (fit) view.onCard.set(event.values.job, { ...event.values, fit });
  },
  error: (view, event) => Object.assign(view, { failure: event.text, outcome: "failed", full: event.parts ?? null }),
  done: (view, event) => { view.outcome ||= event.result?.stopped ? "stopped" : "done"; },
  eval(view, event) {
    if (event.when === "measures") view.measures = event;
    else view.scores[event.when] = [event.when === "before" ? 0 : view.step?.step ?? 0, event.loss];
  },
  sample(view, event) { // of a step that is done again from a checkpoint, the later answer counts
    const earlier = view.samples.filter(([step]) => step < event.step), same = view.samples.find(([step]) => step === event.step)?.[1] ?? [];
    const kept = earlier.length < SAMPLED ? earlier : earlier.filter((_, i) => i % 2 === 0);
    view.samples = [...kept, [event.step, [...same.filter(({ prompt }) => prompt !== event.prompt), event]]];
  },
  phase(view, { name }, x) {
    view.phases = [...view.phases.slice(-300), { name, from: x, to: x }];
    view.progress = null;
    if (name === "free") view.parts = null;
    if (name === "data") Object.assign(view, { outcome: "", failure: "", full: null }); // a fine-tune begins, or one that had ended goes on
    if (name === "idle") for (const one of view.told.values()) one.to ??= x;
  },
  memory_predicted(view, said, x) { // the most telling kind that it has: on a CPU tensors alone can't be measured
    const kind = ["device_used", "rss", "allocated"].find((kind) => isNumber(said[kind]));
    view.told.delete(said.phase); // the latest stands last
    view.told.set(said.phase, { said, kind, from: view.phases.at(-1)?.from ?? x, to: null, seen: 0, found: null });
  },
  memory_measured(view, found, x) {
    const one = view.told.get(found.phase);
    if (one) Object.assign(one, { found, to: x, seen: found.peak?.[one.kind] ?? 0 });
  },
  memory(view, event, x) {
    view.memory.push([x, phaseName(view.phases.at(-1)?.name), ...kinds(view).map((kind) => event[kind] ?? null)]);
    view.memory = thinned(view.memory, peaks);
    for (const kind of kinds(view)) view.peak[kind] = Math.max(event[kind] ?? 0, view.peak[kind] ?? 0);
    for (const one of view.told.values()) if (!one.to) one.seen = Math.max(one.seen, event[one.kind] ?? 0);
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

// What was predicted of the latest phase, as [name, bytes].
function foretold({ said, kind }) {
  const parts = Object.entries(said.parts ?? {}), known = parts.reduce((sum, [, bytes]) => sum + bytes, 0);
  if (kind === "rss" && !said.parts?.program) parts.push(["program", said.rss - known]);
  return parts.filter(([, bytes]) => bytes > 0).sort(([a], [b]) => ALL_PARTS.indexOf(a) - ALL_PARTS.indexOf(b));
}

// What the measured total is made of, as [name, bytes, exact?].
function composition({ parts, now, hardware, full }) {
  if (full) return Object.entries(full).map(([part, bytes]) => [part, bytes, PARTS.includes(part)]);
  const exact = PARTS.filter((part) => parts?.[part] > 0).map((part) => [part, parts[part], true]);
  const known = exact.reduce((sum, part) => sum + part[1], 0), { rss = 0, allocated = 0, reserved = 0, device_used = 0 } = now;
  const rest = hardware.device === "cuda"
    ? [["rest_cuda", allocated - known], ["reserve", reserved - Math.max(allocated, known)], ["runtime", device_used - Math.max(reserved, known)]]
    : [["rest_cpu", rss - known]];
  return [...exact, ...rest.filter(([, bytes]) => bytes > 0)];
}

// A line of the table of before and after: [text, interval] of base, tuned and their difference, and what that says.
function compared(name, figure) {
  const { write, unit = (text) => text, change = unit, better } = FIGURES[name], { difference, intervals } = figure;
  const signed = (value) => `${value < 0 ? "−" : value > 0 ? "+" : "±"}${write(Math.abs(value))}`;
  const cell = (side, write, unit) => [unit(write(figure[side])), intervals ? `[${intervals[side].map(write).join(", ")}]` : ""];
  const [low, high] = intervals?.difference ?? [0, 0], sure = low > 0 || high < 0;
  return {
    cells: [cell("base", write, unit), cell("tuned", write, unit), cell("difference", signed, change)],
    sure: !sure ? "" : !better ? "other" : better * difference > 0 ? "good" : "bad",
  };
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
  const lines = predicted(view), drop = (values) => values.flatMap((pair) => [...pair, null]); // a gap between two phases
  if (lines.length) data.push({
    ...line, yaxis: "y2", x: drop(lines.map(({ from, to }) => [from, to ?? end])), y: drop(lines.map(({ said, kind }) => [said[kind] / GIB, said[kind] / GIB])),
    name: say("memory.foretold"), hovertemplate: "%{y:.2f} GiB", line: { color: paint.foretold, width: 2.5, dash: "dashdot" },
  });
  if (inView) data.push({ ...line, yaxis: "y2", x: [ZERO, end], y: [capacity, capacity], hoverinfo: "skip", line: { color: paint.capacity, width: 2, dash: "dash" } });
  return [data, layout(view, paint, {
    bargap: 0, uniformtext: { mode: "hide", minsize: 11 },
    xaxis: axis(paint, { type: "date", tickformat: clockFormat, hoverformat: clockFormat, nticks: 7, showgrid: false,
      autorangeoptions: { minallowed: ZERO, maxallowed: end }, title: titled([say(view.cut ? "time_cut" : "time"), ...(coarse || width < 480 ? [] : [say("zoom")])].join(" · ")) }),
    yaxis: { range: [0, 1], fixedrange: true, visible: false },
    yaxis2: axis(paint, { overlaying: "y", tickmode: "auto", rangemode: "tozero", nticks: 6, ticksuffix: " GiB",
      autorangeoptions: { include: [0, (highest(view) / GIB || 1) * 1.2, inView ? capacity * 1.15 : 0] } }),
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
