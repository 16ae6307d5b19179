// The state of the live view, reduced from a run's events. It touches neither the page nor its words: live_figures.js and
// live_view.js, which follow in the same text, draw this state. Unit tests: tests/js/live_reducer.test.js.

const LONGEST_PAUSE = 5, SHORTENED_PAUSE = 1; // a pause longer than LONGEST_PAUSE seconds shrinks to SHORTENED_PAUSE on the time axis
const MAX_POINTS = 6000; // that a chart keeps
const MAX_PHASES = 300; // that are kept before the current one
const MAX_SAMPLED_STEPS = 200; // whose sample answers are kept
const MAX_NOTES = 3; // that are shown
const MAX_READINGS = 10; // of the layers in the buffers, that are kept to be shown one after another: those of a second
const MEMORY_KINDS = { cuda: ["device_used", "reserved", "allocated"], cpu: ["rss"] }; // that are drawn, by device
const TOTAL_KINDS = ["device_used", "rss", "allocated"]; // of a prediction, the most complete first: a CPU can't measure tensors alone
const TIME_ORIGIN = Date.UTC(2000, 0); // a run's second 0 on Plotly's date axis, which would take small numbers for years

const isNumber = (value) => typeof value === "number" && Number.isFinite(value);
const memoryKinds = (state) => MEMORY_KINDS[state.hardware.device] ?? MEMORY_KINDS.cpu;

const emptyState = (run = "") => ({
  run, cursor: 0, // bytes of the run's events file that were read
  time: 0, shortened: 0, // seconds: of the latest event, and of pauses left out of the time axis
  about: {}, hardware: {}, // the run's first event, and its hardware
  phases: [], progress: null, step: null, // phases: {name, from, to} on the time axis; the latest progress and step events
  memory: [], latestMemory: {}, peaks: {}, parts: null, // memory: rows [x, phase, bytes by kind ...]; peaks: bytes by kind
  losses: [], evals: {}, during: [], keptStep: null, // losses: [step, loss]; evals: the same, by "before" and "after"; during: those between; keptStep: whose weights are kept
  measures: null, forgetting: null, samples: [], // forgetting: figures by language; samples: [step, events]
  result: {}, // of the job that ended
  notes: [], failure: "", partsAtFailure: null, outcome: "", // outcome: "" while the run's own job goes on, then done, stopped or failed
  ownFailure: null, // failure and partsAtFailure of the run's own job, while those of a question are shown
  placement: null, buffers: null, readings: [], // which layers wait elsewhere; which of them are on the device now; the same, as measured lately
  predictions: new Map(), // by phase: {prediction, kind, from, to, peak, measurement}
  simulatedCards: new Map(), // by phase: what was predicted for a simulated card, {need_bytes, card_bytes, verdict}
});

// Another model comes, or none: what was streamed is gone.
function clearLayers(state) {
  Object.assign(state, { placement: null, buffers: null, readings: [] });
}

// Whether an event is of the run's own job: chats with its model or adapter are recorded in its events too.
const isOwn = (state, event) => (event.job ?? state.about.job) === state.about.job;

// The failure of another job is shown until the next event of a job; then that of the run's own, if it failed.
function clearPassingFailure(state) {
  Object.assign(state, state.ownFailure, { ownFailure: null });
}

const REDUCERS = {
  run_started(state, event) { // a second one, which no program writes, can't take the mark of a recording away
    if (!state.about.recorded) Object.assign(state, { about: event, hardware: event.hardware ?? {} });
  },
  loaded: clearLayers,
  unloaded: clearLayers,
  streamed: (state, event) => { state.placement = event; },
  progress: (state, event) => { state.progress = event; },
  note(state, event) {
    state.notes = [...state.notes, event.text].slice(-MAX_NOTES);
    const [, verdict] = /^note\.card_(\w+)$/.exec(event.key) ?? [];
    if (["note.best_kept", "note.stopped_early"].includes(event.key)) state.keptStep = event.values.step;
    if (verdict) state.simulatedCards.set(event.values.job, { ...event.values, verdict });
  },
  error(state, event) { // that a question failed says nothing of how the run's own job ended
    if (!isOwn(state, event)) state.ownFailure ??= { failure: state.failure, partsAtFailure: state.partsAtFailure };
    Object.assign(state, { failure: event.text, partsAtFailure: event.parts ?? null, ...(isOwn(state, event) && { outcome: "failed", ownFailure: null }) });
  },
  done(state, event) {
    clearPassingFailure(state);
    if (isOwn(state, event)) Object.assign(state, { result: event.result ?? {}, outcome: state.outcome || (event.result?.stopped ? "stopped" : "done") });
  },
  eval(state, event) {
    if (event.when === "measures") state.measures = event;
    else if (event.when === "forgetting") state.forgetting = event.figures ?? null; // of the untouched model alone there are none
    else if (event.when === "during") state.during = [...state.during.filter(([step]) => step < event.step), [event.step, event.loss]]; // or repeated from a checkpoint
    else if (isNumber(event.loss)) state.evals[event.when] = [event.when === "before" ? 0 : state.keptStep ?? state.step?.step ?? 0, event.loss];
  },
  sample(state, event) { // a step that is repeated from a checkpoint replaces its earlier answers
    const earlier = state.samples.filter(([step]) => step < event.step);
    const sameStep = state.samples.find(([step]) => step === event.step)?.[1] ?? [];
    const kept = earlier.length < MAX_SAMPLED_STEPS ? earlier : earlier.filter((_, i) => i % 2 === 0);
    state.samples = [...kept, [event.step, [...sameStep.filter(({ prompt }) => prompt !== event.prompt), event]]];
  },
  phase(state, { name }, x) {
    clearPassingFailure(state);
    state.phases = [...state.phases.slice(-MAX_PHASES), { name, from: x, to: x }];
    state.progress = null;
    if (name === "free") state.parts = null;
    if (name === "data") Object.assign(state, { keptStep: null, outcome: "", failure: "", partsAtFailure: null }); // a fine-tune begins, or an ended one is resumed
    if (name === "idle") for (const entry of state.predictions.values()) entry.to ??= x;
  },
  memory_predicted(state, event, x) {
    const kind = TOTAL_KINDS.find((kind) => isNumber(event[kind]));
    state.predictions.delete(event.phase); // so that the latest stands last
    state.predictions.set(event.phase, { prediction: event, kind, from: state.phases.at(-1)?.from ?? x, to: null, peak: 0, measurement: null });
  },
  memory_measured(state, event, x) {
    const entry = state.predictions.get(event.phase);
    if (entry) Object.assign(entry, { measurement: event, to: x, peak: event.peak?.[entry.kind] ?? 0 });
  },
  memory(state, event, x) {
    state.memory.push([x, state.phases.at(-1)?.name, ...memoryKinds(state).map((kind) => event[kind] ?? null)]);
    state.memory = thin(state.memory, mergeMemoryRows);
    for (const kind of memoryKinds(state)) state.peaks[kind] = Math.max(event[kind] ?? 0, state.peaks[kind] ?? 0);
    for (const entry of state.predictions.values()) if (!entry.to) entry.peak = Math.max(entry.peak, event[entry.kind] ?? 0);
    if (event.buffers) state.buffers = event.buffers, state.readings = [...state.readings.slice(1 - MAX_READINGS), event.buffers];
    state.latestMemory = event;
    state.parts = event.parts ?? state.parts;
  },
  step(state, event) {
    state.step = event;
    state.progress = { done: event.step, total: event.steps, unit: "steps" };
    if (event.step <= state.losses.at(-1)?.[0]) state.losses = state.losses.filter(([step]) => step < event.step); // repeated from a checkpoint
    state.losses.push([event.step, isNumber(event.loss) ? event.loss : null]);
    state.losses = thin(state.losses, (earlier) => earlier); // measured points, not the upper edge of the noise
  },
};

// Apply one event to the state, in place. Kinds that this version doesn't know are ignored; time never runs backwards.
function reduceEvent(state, event) {
  if (!Object.hasOwn(REDUCERS, event.kind)) return;
  const pause = event.t - state.time;
  if (pause > LONGEST_PAUSE) state.shortened += pause - SHORTENED_PAUSE;
  state.time = Math.max(state.time, event.t);
  const x = TIME_ORIGIN + (state.time - state.shortened) * 1000;
  if (state.phases.length) state.phases.at(-1).to = x;
  try {
    REDUCERS[event.kind](state, event, x);
  } catch (error) { // a field of another type than this version expects: the events after it are shown
    console.warn("an event that can't be shown", event.kind, error);
  }
}

// Merge rows that lie closer together than evenly spread ones would: hours of rows become MAX_POINTS / 2, and those that come since.
function thin(rows, merge) {
  if (rows.length <= MAX_POINTS) return rows;
  const spacing = (rows.at(-1)[0] - rows[0][0]) / (MAX_POINTS / 2), kept = [rows[0]];
  for (const row of rows.slice(1)) kept.push(row[0] - kept.at(-1)[0] < spacing ? merge(kept.pop(), row) : row);
  return kept;
}

// The earlier row with the larger bytes of both, so that no peak is lost.
const mergeMemoryRows = ([x, phase, ...bytes], later) => [x, phase, ...bytes.map((size, i) => later[i + 2] > size ? later[i + 2] : size)];
