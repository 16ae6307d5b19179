// Texts, tables and Plotly figures of the live view's state (live_reducer.js). `props` is Gradio's: the words and the language.

const GIB = 2 ** 30;
const EXACT_PARTS = ["weights", "quant_constants", "adapters", "gradients", "optimizer"]; // measured tensor by tensor
const PARTS = [...EXACT_PARTS, "activations", "loss", "kv_cache", "buffers", "working", "program", "runtime"];

// A text with its values; {rows:row|rows} is a count with its noun, {rows:row/rows} the noun alone, as in playground/i18n.py.
const say = (key, values = {}) => (props.words[key] ?? "").replace(/\{(\w+)(?::([^{}|/]*)([|/])([^{}|/]*))?\}/g, (_, name, one, mark, many) => {
  const value = values[name] ?? "–", noun = `${value}` === "1" ? one : many;
  return mark === undefined ? value : mark === "/" ? noun : `${value} ${noun}`;
});
const sayEither = (key, otherwise, values) => say(Object.hasOwn(props.words, key) ? key : otherwise, values);
const phaseName = (name) => sayEither(`phase.${name}`, "phase.other");
const jobName = (name) => sayEither(`job.${name}`, "job.other");
const formatBytes = (bytes) => !isNumber(bytes) ? "–" : bytes >= GIB / 10 ? `${(bytes / GIB).toFixed(2)} GiB` : `${(bytes / 2 ** 20).toFixed(1)} MiB`;
const formatCount = (value) => isNumber(value) ? Math.round(value).toLocaleString(props.lang) : "–";
const formatLoss = (loss) => isNumber(loss) ? loss.toFixed(3) : "NaN";
const formatSeconds = (seconds) => {
  const whole = Math.max(0, Math.round(seconds) || 0), text = new Date(1000 * whole).toISOString().slice(14, 19);
  return whole < 3600 ? text.replace(/^0/, "") : `${Math.floor(whole / 3600)}:${text}`;
};

// Metrics from before and after, in their order: how a value is written, and whether more (1) or less (-1) is better, where one is.
const percent = { write: (value) => `${Math.round(100 * value)}`, unit: (text) => `${text} %`, change: (text) => say("points", { value: text }) };
const fixed = (digits) => ({ write: (value) => value.toFixed(digits) });
const significant = (value) => Math.abs(value) >= 1000 ? formatCount(value) : `${Number(value.toPrecision(3))}`;
const METRICS = {
  loss: { write: significant, better: -1 }, perplexity: { write: significant, better: -1 }, recall: { ...percent, better: 1 }, chrf: { ...fixed(1), better: 1 },
  closed: { ...percent, better: 1 }, characters: fixed(1), tokens: fixed(1), distinct_1: percent, distinct_2: percent,
  forgetting_en: { write: significant, better: -1 }, forgetting_ja: { write: significant, better: -1 },
};

const drawnPredictions = (state) => [...state.predictions.values()].filter(({ prediction, kind }) => isNumber(prediction[kind]) && kind !== "allocated");
const highestBytes = (state) => Math.max(0, ...memoryKinds(state).map((kind) => state.peaks[kind] ?? 0), ...drawnPredictions(state).map(({ prediction, kind }) => prediction[kind]));
const evaluated = (state) => ["before", "after"].filter((when) => state.evals[when]);
const capacityInView = (state) => state.hardware.capacity <= 1.6 * highestBytes(state);

// The parts of a prediction, as [name, bytes]. On a CPU, what the known parts leave of the whole is the program itself.
function predictedParts({ prediction, kind }) {
  const parts = Object.entries(prediction.parts ?? {}), known = parts.reduce((sum, [, bytes]) => sum + bytes, 0);
  if (kind === "rss" && !prediction.parts?.program) parts.push(["program", prediction.rss - known]);
  return parts.filter(([, bytes]) => bytes > 0).sort(([a], [b]) => PARTS.indexOf(a) - PARTS.indexOf(b));
}

// The parts of the measured total, as [name, bytes, exact?]; after an out-of-memory those at that moment.
function measuredParts({ parts, latestMemory, hardware, partsAtFailure }) {
  if (partsAtFailure) return Object.entries(partsAtFailure).map(([part, bytes]) => [part, bytes, EXACT_PARTS.includes(part)]);
  const exact = EXACT_PARTS.filter((part) => parts?.[part] > 0).map((part) => [part, parts[part], true]);
  const known = exact.reduce((sum, part) => sum + part[1], 0), { rss = 0, allocated = 0, reserved = 0, device_used = 0 } = latestMemory;
  const rest = hardware.device === "cuda"
    ? [["rest_cuda", allocated - known], ["reserve", reserved - Math.max(allocated, known)], ["runtime", device_used - Math.max(reserved, known)]]
    : [["rest_cpu", rss - known]];
  return [...exact, ...rest.filter(([, bytes]) => bytes > 0)];
}

// Rows of the table of prediction and measurement, also while a phase goes on; what a simulated card would need follows its phase.
function comparisonRows(state) {
  return [...state.predictions].flatMap(([phase, { prediction, kind, to, peak, measurement }]) => {
    const error = () => `${prediction[kind] < peak ? "−" : "+"}${Math.abs(100 * (prediction[kind] / peak - 1)).toFixed(1)} %`;
    const row = {
      job: jobName(phase), figure: say(`memory.${kind}`), verdict: prediction.verdict, predicted: formatBytes(prediction[kind]),
      measured: peak ? formatBytes(peak) : "–", error: !peak ? "" : measurement ? error() : to ? "" : say("so_far"),
    };
    const card = state.simulatedCards.get(phase);
    if (!card) return [row];
    const figure = say("on_card", { capacity: formatBytes(card.card_bytes) });
    return [row, { job: row.job, figure, verdict: card.verdict, predicted: formatBytes(card.need_bytes), measured: "–", error: "" }];
  });
}

// A line of the table of before and after: [text, interval] of base, tuned and their difference, and what the difference shows.
function metricRow(name, metric) {
  const { write, unit = (text) => text, change = unit, better } = METRICS[name], { difference, intervals } = metric;
  const signed = (value) => `${value < 0 ? "−" : value > 0 ? "+" : "±"}${write(Math.abs(value))}`;
  const cell = (side, write, unit) => [unit(write(metric[side])), intervals ? `[${intervals[side].map(write).join(", ")}]` : ""];
  const [low, high] = intervals?.difference ?? [0, 0], significantly = low > 0 || high < 0;
  return {
    cells: [cell("base", write, unit), cell("tuned", write, unit), cell("difference", signed, change)],
    effect: !significantly ? "" : !better ? "other" : better * difference > 0 ? "good" : "bad",
  };
}

const signedLoss = (value) => `${value < 0 ? "−" : "+"}${Math.abs(value).toFixed(2)}`;

// Every metric of before and after: those of the held-out rows, and the loss on ordinary text by language.
const allFigures = ({ measures, forgetting }) => ({ ...measures?.figures, ...Object.fromEntries(Object.entries(forgetting ?? {}).map(([language, figure]) => [`forgetting_${language}`, figure])) });

// What a fine-tune made the model forget, in a sentence for each language: worse, better, or the same as far as was measured.
function forgettingTexts(forgetting) {
  return Object.entries(forgetting ?? {}).map(([language, { difference, intervals }]) => {
    const [low, high] = intervals?.difference ?? [0, 0], verdict = low > 0 ? "worse" : high < 0 ? "better" : "same";
    const values = { change: significant(Math.abs(difference)), percent: significant(Math.round(1000 * (1 - Math.exp(-difference))) / 10) };
    return say(`forgetting.${verdict}_${language}`, values);
  });
}

// The score card of a fine-tune that ended: [name, value, small print] of each tile; [] while it goes on, and for other jobs.
function scoreTiles(state) {
  const { figures = {} } = state.measures ?? {}, { recall } = figures, { before, after } = state.evals;
  if (!state.outcome || state.outcome === "failed" || !state.step) return [];
  const arrow = (from, to) => `${from} → ${to}`, tune = state.predictions.get("tune"), tiles = [];
  if (recall) tiles.push([say("score.facts"), arrow(percentText(recall.base), percentText(recall.tuned)), say("score.of", { rows: recall.rows })]);
  if (before && after) tiles.push([say("score.loss"), arrow(before[1].toFixed(2), after[1].toFixed(2)), state.keptStep === null ? say("score.held_out") : say("score.best", { step: state.keptStep })]);
  tiles.push([say("score.time"), formatSeconds(state.result.seconds ?? state.time), say("score.steps", { step: state.step.step, steps: state.step.steps })]);
  if (tune?.peak) tiles.push([say("score.memory"), formatBytes(tune.peak), say("score.predicted", { predicted: formatBytes(tune.prediction[tune.kind]) })]);
  const lost = Object.values(state.forgetting ?? {}).map(({ difference }) => signedLoss(difference));
  if (lost.length) tiles.push([say("score.forgetting"), lost.join(" · "), say(lost.length > 1 ? "score.forgetting_of" : "score.forgetting_one")]);
  return tiles;
}
const percentText = (share) => `${Math.round(100 * share)} %`;

// What the status strip shows: {loaded, run: {text, more, share, state}, memory: {text, capacity, share}}.
function stripState(state, reply) {
  const { progress, step, hardware, latestMemory, about, outcome } = state, phase = state.phases.at(-1)?.name;
  const working = reply.busy && phase && phase !== "idle" && !outcome, capacity = hardware.capacity;
  const amount = working && progress?.total ? sayEither(`amount.${progress.unit}`, "amount.other",
    Object.fromEntries(["done", "total"].map((key) => [key, (progress.unit === "bytes" ? formatBytes : formatCount)(progress[key])]))) : "";
  const left = working && phase === "train" && isNumber(step?.left_s) ? say("strip_left", { time: formatSeconds(step.left_s) }) : "";
  const bytes = reply.busy || reply.loaded ? memoryKinds(state).map((kind) => latestMemory[kind]).find(isNumber) ?? reply.memory : reply.memory;
  return {
    loaded: reply.loaded,
    run: {
      text: reply.waiting ? reply.waiting.split(" · ")[0] : working ? `${jobName(about.job)}: ${phaseName(phase)}` : outcome ? `${jobName(about.job)}: ${say(`outcome.${outcome}`)}` : "",
      more: reply.waiting ? reply.waiting.split(" · ")[1] : [amount, left].filter(Boolean).join(" · "), state: reply.waiting ? "" : outcome,
      share: reply.waiting ? null : working && progress?.total ? progress.done / progress.total : working ? 0 : null,
    },
    memory: { text: formatBytes(bytes), capacity: isNumber(capacity) ? formatBytes(capacity) : "", share: isNumber(capacity) && isNumber(bytes) ? bytes / capacity : null },
  };
}

const column = (rows, i, scale = 1) => rows.map((row) => row[i] === null || scale === 1 ? row[i] : row[i] / scale);
const coarsePointer = matchMedia("(pointer: coarse)").matches; // a finger scrolls the page, so it can't zoom by dragging
const axisTitle = (text, paint) => ({ text, font: { size: paint.small } });
const axis = (paint, more) => ({ gridcolor: paint.grid, linecolor: paint.grid, zeroline: false, automargin: true, autorange: true, ...more });
const layout = (state, paint, more) => ({
  uirevision: state.run, showlegend: false, hovermode: "x unified", dragmode: coarsePointer ? false : "zoom", margin: { l: 8, r: 12, t: 6, b: 8 },
  paper_bgcolor: "transparent", plot_bgcolor: "transparent", font: { color: paint.text, family: paint.family, size: paint.size },
  hoverlabel: { bgcolor: paint.back, bordercolor: paint.grid, font: { color: paint.text, size: paint.size } }, ...more,
});
const LINE = { type: "scatter", mode: "lines" };

// The time axis is as fine as its ticks are close (Plotly's dtick, in ms; it changes with a zoom): whole seconds alone would write
// "0:00 0:00 0:00" under a run of two seconds.
const TICK_FORMATS = [[null, 9, ".%3f"], [10, 99, ".%2f"], [100, 999, ".%1f"]];
const clockFormat = (end) => end - TIME_ORIGIN >= 3600e3 ? "%-H:%M:%S" : "%-M:%S";
const timeFormats = (end) => ({
  tickformat: clockFormat(end), tickformatstops: TICK_FORMATS.map(([from, to, digits]) => ({ dtickrange: [from, to], value: `${clockFormat(end)}${digits}` })),
  hoverformat: end - TIME_ORIGIN < 60e3 ? `${clockFormat(end)}.%1f` : clockFormat(end), // memory is measured ten times a second
});
const endOfTime = (state) => Math.max(state.memory.at(-1)?.[0] ?? TIME_ORIGIN, state.phases.at(-1)?.to ?? TIME_ORIGIN, TIME_ORIGIN + 1000);

const drawnBands = (state) => state.phases.filter(({ name, from, to }) => name !== "idle" && to > from);
const bandColor = (name) => Object.hasOwn(props.words, `phase.${name}`) ? `band-${name}` : "band-other";
const bandLabel = (name) => sayEither(`band.${name}`, "band.other");
const PLOT_MARGIN = 80; // px that the axis takes of the plot's width
const textWidth = (text, size) => size * [...text].reduce((sum, letter) => sum + (letter > "\u2e80" ? 1 : 0.62), 0.5);

// The phases that no band is wide enough to name, for the legend. width: of the plot; size: of the labels; both in px.
function unnamedPhases(state, width, size = 12) {
  const pixel = (width - PLOT_MARGIN) / (endOfTime(state) - TIME_ORIGIN), bands = drawnBands(state);
  const named = new Set(bands.filter(({ name, from, to }) => (to - from) * pixel >= textWidth(bandLabel(name), size)).map(({ name }) => name));
  return [...new Set(bands.map(({ name }) => name))].filter((name) => !named.has(name));
}

// Bands are bars on an axis of their own: Plotly hides a label that doesn't fit its bar, and shows it once it does.
function phaseBands(state, paint) {
  const bands = drawnBands(state);
  return {
    type: "bar", x: bands.map((band) => band.from), width: bands.map((band) => band.to - band.from), offset: 0, y: bands.map(() => 1),
    marker: { color: bands.map((band) => paint[bandColor(band.name)]), line: { width: 0 } }, hoverinfo: "skip",
    text: bands.map((band) => bandLabel(band.name)), textposition: "inside", insidetextanchor: "end", textangle: 0, textfont: { color: paint.text, size: paint.small },
  };
}

function memoryLines(state, paint, end) {
  const rows = state.memory, predictions = drawnPredictions(state);
  const withGaps = (pairs) => pairs.flatMap((pair) => [...pair, null]); // between two phases
  const lines = [{ // invisible: it names the phase in the hover label
    ...LINE, x: column(rows, 0), y: rows.map(() => 1), line: { width: 0 }, customdata: rows.map((row) => phaseName(row[1])), hovertemplate: "%{customdata}<extra></extra>",
  }, ...memoryKinds(state).map((kind, i) => ({
    ...LINE, yaxis: "y2", x: column(rows, 0), y: column(rows, i + 2, GIB), name: say(`memory.${kind}`), hovertemplate: "%{y:.2f} GiB",
    line: { color: paint[kind], width: (kind === "reserved" ? 2 : 2.5) * paint.line, dash: kind === "reserved" ? "dot" : "solid" },
  }))];
  if (predictions.length) lines.push({
    ...LINE, yaxis: "y2", x: withGaps(predictions.map(({ from, to }) => [from, to ?? end])),
    y: withGaps(predictions.map(({ prediction, kind }) => [prediction[kind] / GIB, prediction[kind] / GIB])),
    name: say("memory.predicted"), hovertemplate: "%{y:.2f} GiB", line: { color: paint.predicted, width: 2.5 * paint.line, dash: "dashdot" },
  });
  return lines;
}

function memoryFigure(state, paint, width) {
  const capacity = state.hardware.capacity / GIB, inView = capacityInView(state);
  const end = endOfTime(state);
  const data = [phaseBands(state, paint), ...memoryLines(state, paint, end)];
  if (inView) data.push({ ...LINE, yaxis: "y2", x: [TIME_ORIGIN, end], y: [capacity, capacity], hoverinfo: "skip", line: { color: paint.capacity, width: 2 * paint.line, dash: "dash" } });
  const title = [say(state.shortened ? "time_shortened" : "time"), ...(coarsePointer || width < 480 ? [] : [say("zoom")])].join(" · ");
  return [data, layout(state, paint, {
    bargap: 0, uniformtext: { mode: "hide", minsize: paint.least },
    xaxis: axis(paint, { type: "date", ...timeFormats(end), nticks: 7, showgrid: false,
      autorangeoptions: { minallowed: TIME_ORIGIN, maxallowed: end }, title: axisTitle(title, paint) }),
    yaxis: { range: [0, 1], fixedrange: true, visible: false },
    yaxis2: axis(paint, { overlaying: "y", tickmode: "auto", rangemode: "tozero", nticks: 6, ticksuffix: " GiB",
      autorangeoptions: { include: [0, (highestBytes(state) / GIB || 1) * 1.2, inView ? capacity * 1.15 : 0] } }),
  })];
}

function lossFigure(state, paint) {
  return [[{
    type: "scatter", mode: state.losses.length > 1 ? "lines" : "markers", x: column(state.losses, 0), y: column(state.losses, 1),
    name: say("loss.train"), line: { color: paint.train, width: 2 * paint.line }, hovertemplate: "%{y:.3f}",
  }, ...(state.during.length ? [{
    type: "scatter", mode: "lines+markers", x: column(state.during, 0), y: column(state.during, 1), name: say("loss.during"), hovertemplate: "%{y:.3f}",
    line: { color: paint.after, width: paint.line, dash: "dot" }, marker: { color: paint.after, size: 7 },
  }] : []), ...evaluated(state).map((when) => ({
    type: "scatter", mode: "markers", x: [state.evals[when][0]], y: [state.evals[when][1]], name: say(`loss.${when}`), cliponaxis: false, hovertemplate: "%{y:.3f}",
    marker: { color: paint[when], size: 12, symbol: when === "before" ? "diamond" : "circle", line: { color: paint.back, width: 1.5 } },
  }))], layout(state, paint, {
    xaxis: axis(paint, { nticks: 7, showgrid: false, title: axisTitle(say("loss.axis"), paint), autorangeoptions: { include: [0] } }),
    yaxis: axis(paint, { nticks: 5 }),
  })];
}
