// The live view of a run, on the page. Gradio runs live_reducer.js, live_figures.js, live_layers.js, live_recording.js and this text
// once, as one function of (element, props, trigger, server, upload, watch).

const root = element.querySelector(".live"), part = (selector) => root.querySelector(selector);
const memoryPlot = part(".memory .plot"), lossPlot = part(".loss .plot"), memoryLegend = part(".memory .legend"), lossLegend = part(".loss .legend");
const [measuredLegend, predictedLegend] = root.querySelectorAll(".parts .legend");
const [measuredStack, predictedStack] = root.querySelectorAll(".stack");
const removed = new AbortController(); // ends the listeners once the element has left the page
let state = emptyState(), reply = null; // reply: the server's latest
let pickedStep = null; // the step whose sample answers are shown; null: the latest
let paint = null, needsDrawing = true, connectionLost = false, polling = false, timer;
let player = null, playedRun = "", started; // what plays a recording or an ended run, and which; started: resolves once it plays
const kept = readKept(); // what was shown and played on the page before this one
let layersTimer; // shows the next reading of which layers are on the device
let announcedValue = "", spokenPhase = ""; // the value last given to Gradio, and the phase last given to screen readers

const put = (node, text) => { if (node.textContent !== text) node.textContent = text; };
const show = (node, shown) => { if (node.hidden === shown) node.hidden = !shown; };
const create = (tag) => document.createElement(tag);
const describe = (node, items) => node.setAttribute("aria-label", items.map(({ name, value, tag = "" }) => `${name}: ${value} ${tag}`.trim()).join("; "));

// As many children as items, kept from one drawing to the next: nothing flickers, selected text stays selected.
function fill(list, items, [tag, ...inner], update) {
  while (list.children.length > items.length) list.lastChild.remove();
  while (list.children.length < items.length) list.append(create(tag)), list.lastChild.append(...inner.map(create));
  items.forEach((item, i) => update(list.children[i], item));
}

function drawLegend(list, items) {
  fill(list, items, ["li", "i", "span", "b", "small"], (node, { color, kind = "", name, value, tag = "" }) => {
    const [swatch, ...texts] = node.children;
    swatch.dataset.kind = kind;
    swatch.style.setProperty("--swatch", `var(--live-${color})`);
    [name, value, tag].forEach((text, i) => put(texts[i], text));
  });
}

function drawStatus() {
  const { about, step, progress, hardware, outcome } = state, load = about.settings?.load ?? {};
  const phase = state.phases.at(-1)?.name, active = (reply.live || reply.more) && !outcome, working = active && phase && phase !== "idle";
  const status = outcome ? `outcome.${outcome}` : !phase ? "outcome.begun" : working || phase === "idle" ? `phase.${phase}` : "outcome.interrupted";
  put(part(".run-title"), say("title", { job: jobName(about.job), model: about.name ?? load.model, bits: load.bits }));
  put(part(".hardware"), hardware.name ? say(hardware.simulated ? "where_card" : "where", { name: hardware.name, capacity: formatBytes(hardware.capacity) }) : "");
  const recorded = Boolean(player || about.recorded);
  put(part(".recorded"), recorded ? badge() : ""), show(part(".recorded"), recorded), drawPlayer();
  put(part(".phase"), sayEither(status, "phase.other"));
  part(".phase").dataset.state = outcome;
  const format = progress?.unit === "bytes" ? formatBytes : formatCount, amounts = { done: format(progress?.done), total: format(progress?.total) };
  put(part(".amount"), working && progress?.total ? sayEither(`amount.${progress.unit}`, "amount.other", amounts) : "");
  put(part(".engine"), connectionLost ? say("lost") : recorded || reply.waiting ? "" : say(`engine.${reply.engine}`));
  part(".engine").dataset.state = connectionLost ? "off" : reply.engine;
  drawProgress(working, progress?.total > 0 ? Math.min(1, progress.done / progress.total) : null);
  drawFacts(active && phase === "train");
  put(part(".failure"), state.failure), show(part(".failure"), Boolean(state.failure));
  fill(part(".notes"), state.notes, ["li"], put), show(part(".notes"), state.notes.length > 0);
}

// What marks everything that isn't live; nothing switches it off.
function badge() {
  const { about, hardware } = state, date = about.recorded ?? (about.began ? new Date(1000 * about.began).toISOString().slice(0, 10) : "");
  const parts = [say("recorded", { date, hardware: hardware.name ?? "" })];
  if (about.shape) parts.push(say("recorded.random"));
  if (player) parts.push(say("recorded.speed", { speed: player.speed }));
  return parts.join(" · ");
}

// The controls of a recording, and of every run that has ended.
function drawPlayer() {
  const shown = Boolean(player || (state.outcome && !reply.live)), [toggle, range, clock, speed] = part(".player").children;
  show(part(".player"), shown);
  if (!shown) return;
  const length = player?.length ?? state.time, time = Math.min(player?.time ?? length, length), playing = Boolean(player?.playing);
  put(toggle, playing ? "❚❚" : "▶"), toggle.setAttribute("aria-label", say(playing ? "player.pause" : "player.play"));
  if (range !== document.activeElement || playing) range.max = length, range.value = time;
  range.ariaValueText = formatSeconds(time);
  put(clock, `${formatSeconds(time)} / ${formatSeconds(length)}`);
  if (player) speed.value = player.speed;
}

function drawFacts(training) {
  const { step } = state, facts = [["elapsed", formatSeconds(state.time - state.shortened)]];
  if (step) facts.push(["loss", formatLoss(step.loss)], ["speed", formatCount(step.tokens_per_s)]);
  if (training && isNumber(step?.left_s)) facts.push(["left", formatSeconds(step.left_s)]);
  if (isNumber(step?.stall_s)) facts.push(["stall", say("fact.stall_s", { seconds: step.stall_s < 0.01 ? "0" : step.stall_s.toPrecision(2) })]); // of streamed layers
  fill(part(".facts"), facts, ["div", "dt", "dd"], (node, [key, value]) => { put(node.firstChild, sayEither(`fact.${key}.${state.hardware.device}`, `fact.${key}`)); put(node.lastChild, value); });
}

// Which layers wait in RAM and which are on the device. A poll brings the readings of a second: they are shown one after another.
function drawLayers() {
  const ended = Boolean(state.outcome) || !(reply.live || reply.more), states = layerStates(state, ended);
  const fresh = state.readings, motionless = matchMedia("(prefers-reduced-motion: reduce)").matches;
  clearTimeout(layersTimer), state.readings = [];
  show(part(".layers"), states.length > 0);
  if (!states.length) return;
  const cells = part(".layers .cells"), counts = layerCounts(states, state);
  cells.style.setProperty("--columns", layersInRow(states.length, 64)), cells.style.setProperty("--narrow-columns", layersInRow(states.length, 27));
  part(".layers").dataset.split = Boolean(state.placement.processes);
  put(part(".layers small"), layersNote(state));
  describe(cells, counts.map(({ name, count, which }) => ({ name, value: count, tag: which && `(${which})` })));
  const step = (readings) => {
    const [buffers, ...later] = readings, shown = { ...state, buffers };
    drawLayerCells(layerStates(shown, ended), shown);
    if (later.length) layersTimer = setTimeout(step, (player ? 500 : 1000) / fresh.length, later);
  };
  step(motionless || ended || fresh.length < 2 ? [state.buffers] : fresh);
}

function drawLayerCells(states, shown) {
  const counts = layerCounts(states, shown), names = Object.fromEntries(counts.map(({ state, name }) => [state, name]));
  fill(part(".layers .cells"), states, ["i"], (cell, state) => {
    if (cell.dataset.layer === state) return;
    cell.dataset.layer = state, cell.title = say("layers.one", { layer: 1 + [...cell.parentNode.children].indexOf(cell), state: names[state] });
  });
  fill(part(".layers .legend"), counts, ["li", "i", "span", "b", "small"], (node, { state, name, count, which }) => {
    node.children[0].dataset.layer = state, node.dataset.layer = state;
    [name, formatCount(count), which].forEach((text, i) => put(node.children[i + 1], text));
  });
}

// A fine-tune's result in figures that can be read from afar.
function drawScore() {
  const tiles = scoreTiles(state);
  show(part(".score"), tiles.length > 0);
  fill(part(".score"), tiles, ["div", "dt", "dd", "dd"], (node, [name, value, more]) => {
    put(node.children[0], name), put(node.children[1], value), put(node.children[2], more);
  });
}

function drawProgress(working, share) {
  const bar = part(".progress"), filling = bar.firstChild, before = bar.dataset.state;
  const known = state.outcome === "done" ? 1 : working ? share : null;
  bar.dataset.state = state.outcome || (!working ? "still" : share === null ? "unknown" : "known");
  filling.style.width = known === null ? "" : `${100 * known}%`;
  bar.ariaValueNow = known === null ? null : Math.round(100 * known);
  if (before === bar.dataset.state) return;
  for (const animation of filling.getAnimations()) animation.cancel();
  // Animated from here, since Gradio nests a component's CSS and @keyframes can't be nested.
  if (bar.dataset.state === "unknown" && !matchMedia("(prefers-reduced-motion: reduce)").matches)
    filling.animate({ transform: ["none", "translateX(233%)"] }, { duration: 1600, easing: "ease-in-out", direction: "alternate", iterations: Infinity });
}

function drawMemory() {
  show(part(".memory"), state.memory.length > 0), show(part(".parts"), state.memory.length > 0);
  if (!state.memory.length) return;
  const lines = memoryKinds(state).map((kind) => ({ color: kind, kind: kind === "reserved" ? "dotted" : "line", name: say(`memory.${kind}`),
    value: formatBytes(state.latestMemory[kind]), tag: say("memory.peak", { peak: formatBytes(state.peaks[kind]) }) }));
  const latest = drawnPredictions(state).at(-1);
  if (latest) lines.push({ color: "predicted", kind: "dashdot", name: say("memory.predicted"), value: formatBytes(latest.prediction[latest.kind]), tag: say("predicted") });
  if (isNumber(state.hardware.capacity)) lines.push({ color: "capacity", kind: "dashed", name: say("memory.capacity"),
    value: formatBytes(state.hardware.capacity), tag: capacityInView(state) ? "" : say("memory.above") });
  const bands = unnamedPhases(state, memoryPlot.clientWidth, paint.small).map((name) => ({ color: bandColor(name), kind: "band", name: phaseName(name), value: "" }));
  drawLegend(memoryLegend, [...lines, ...bands]), describe(memoryPlot, lines);
  drawComparison(), drawParts();
  plot(memoryPlot, memoryFigure, state.memory.at(-1)[0], state.phases.at(-1)?.to, state.predictions.size);
}

function drawComparison() {
  const rows = comparisonRows(state);
  show(part(".comparison"), rows.length > 0);
  fill(part(".comparison tbody"), rows, ["tr", "th", "td", "td", "td"], (row, { job, figure, verdict, predicted, measured, error }) => {
    const [head, ...cells] = row.children;
    head.scope = "row";
    fill(head, [job, figure], ["span"], put);
    fill(cells[0], [predicted, verdict ? say(`verdict.${verdict}`) : ""], ["span"], put);
    cells[0].lastChild.dataset.verdict = verdict ?? "";
    put(cells[1], measured), put(cells[2], error);
  });
}

function drawParts() {
  const latest = [...state.predictions.values()].at(-1), measured = measuredParts(state), predicted = latest ? predictedParts(latest) : [];
  const total = (parts) => parts.reduce((sum, [, bytes]) => sum + bytes, 0), longest = Math.max(total(measured), total(predicted));
  const draw = (stack, list, parts, tag) => {
    const items = parts.map(([name, bytes, exact]) => ({ color: `part-${name}`, name: say(`part.${name}`), value: formatBytes(bytes), tag: tag(exact) }));
    drawLegend(list, items), describe(stack, items);
    stack.style.width = `${100 * total(parts) / longest}%`;
    fill(stack, parts, ["i"], (piece, [name, bytes]) => {
      piece.style.flexGrow = bytes;
      piece.style.setProperty("--swatch", `var(--live-part-${name})`);
    });
  };
  draw(measuredStack, measuredLegend, measured, (exact) => say(exact ? "exact" : "measured"));
  draw(predictedStack, predictedLegend, predicted, () => "");
  put(part(".measured-total"), say(state.partsAtFailure ? "parts.full" : "parts.now", { total: formatBytes(total(measured)) }));
  put(part(".predicted-total"), latest ? say("parts.predicted", { total: formatBytes(total(predicted)), job: jobName(latest.prediction.phase) }) : "");
  for (const node of [part(".predicted-total"), predictedStack, predictedLegend]) show(node, predicted.length > 0);
}

function drawLoss() {
  show(part(".loss"), state.losses.length > 0);
  if (!state.losses.length) return;
  const item = (key, loss, kind) => ({ color: key, kind, name: say(`loss.${key}`), value: formatLoss(loss) });
  const during = state.during.length ? [{ ...item("during", state.during.at(-1)[1], "dotted"), color: "after" }] : [];
  const items = [item("train", state.step.loss, "line"), ...during, ...evaluated(state).map((when) => item(when, state.evals[when][1], when))];
  drawLegend(lossLegend, items), describe(lossPlot, items);
  plot(lossPlot, lossFigure, state.step.step, items.length);
}

function drawMeasures() {
  const { measures } = state, figures = allFigures(state), names = Object.keys(METRICS).filter((name) => figures[name]);
  show(part(".measures"), names.length > 0);
  if (!names.length) return;
  const { rows, asked, limit, counts } = measures ?? {};
  put(part(".measures small"), rows ? say("measures.of", { rows }) : "");
  put(part(".forgotten"), forgettingTexts(state.forgetting).join(" "));
  put(part(".how"), [say("measures.how"), asked ? say("measures.asked", { asked, limit }) : ""].join(" "));
  fill(part(".measures tbody"), names, ["tr", "th", "td", "td", "td"], (row, name) => {
    const [head, ...cells] = row.children, { cells: texts, effect } = metricRow(name, figures[name]), whole = figures[name].whole;
    const values = { limit, rows: figures[name].rows, base: whole?.base.toFixed(1), tuned: whole?.tuned.toFixed(1) };
    head.scope = "row";
    fill(head, [say(`measures.${name}`), say(`measures.${name}.what`, values)], ["span"], put);
    cells.forEach((cell, i) => fill(cell, texts[i], ["span"], put));
    cells[2].dataset.effect = effect;
  });
  const lists = root.querySelectorAll(".rows"), headings = root.querySelectorAll(".measures h5");
  ["helped", "hurt"].forEach((key, i) => {
    show(headings[i], Boolean(counts)), show(lists[i], Boolean(counts));
    put(headings[i], say(`rows.${key}`, { count: counts?.[key] ?? 0 }));
    fill(lists[i], measures?.[key] ?? [], ["li", "details"], (item, row) => drawRow(item.firstChild, row, row === measures[key][0]));
  });
}

// A row that tuning helped or hurt, folded but for the first; a row that a person unfolds stays unfolded.
function drawRow(node, { question, reference, base, tuned }, first) {
  if (!node.firstChild) node.append(create("summary"), create("dl"));
  const [summary, list] = node.children, factsGained = Number(tuned.named ?? 0) - Number(base.named ?? 0);
  if (node.question !== question) node.open = first, node.question = question;
  const scores = say("rows.chrf", { base: base.chrf.toFixed(0), tuned: tuned.chrf.toFixed(0) });
  const change = factsGained ? say(factsGained > 0 ? "rows.gained" : "rows.lost") : "";
  fill(summary, [question, [scores, change].filter(Boolean).join(" · ")], ["span"], put);
  const texts = [["rows.reference", reference], ["measures.base", base.text], ["measures.tuned", tuned.text]];
  fill(list, texts, ["div", "dt", "dd"], (line, [key, text]) => { put(line.firstChild, say(key)), put(line.lastChild, text || "–"); });
}

function drawSamples() {
  const { samples } = state, slider = part(".samples input");
  show(part(".samples"), samples.length > 0);
  if (!samples.length) return;
  const index = Math.max(0, samples.findLastIndex(([step]) => step <= (pickedStep ?? Infinity))), [step, answers] = samples[index];
  show(slider, samples.length > 1);
  slider.max = samples.length - 1, slider.value = index, slider.ariaValueText = say("samples.at", { step });
  put(part(".samples small"), slider.ariaValueText);
  fill(part(".samples dl"), answers, ["div", "dt", "dd", "dd"], (node, { prompt, text, closed, reference, named }) => {
    const [question, answer, expected] = node.children;
    node.dataset.named = named ?? "";
    put(question, prompt), fill(answer, [text || "–", closed ? "" : say("samples.open"), named ? say("samples.named") : ""], ["span"], put);
    fill(expected, [say("rows.reference"), reference], ["span"], put);
  });
}

// Draw a figure if what it shows has changed. It waits while the tab is hidden (no width) or a zoom is being dragged (a redraw
// would break it off), and nine times as long as the last drawing took: a slow machine draws less often.
function plot(node, figure, ...shown) {
  const began = performance.now(), { clientWidth: width, clientHeight: height } = node;
  const key = [state.run, width, height, paint.text, paint.size, ...shown].join();
  if (key === node.drawnKey) return;
  if (!window.Plotly || !width || node._dragging || began < node.restsUntil) return void (needsDrawing = true);
  const [data, look] = figure(state, paint, width);
  Plotly.react(node, data, { ...look, width, height }, { displayModeBar: false, showTips: false });
  node.drawnKey = key;
  node.restsUntil = performance.now() + 9 * (performance.now() - began);
}

function draw() {
  needsDrawing = false;
  paint ??= readPaint();
  show(part(".empty"), !state.run), show(part(".filled"), Boolean(state.run));
  put(part(".waiting"), reply?.waits ?? ""), show(part(".waiting"), Boolean(reply?.waits));
  put(part(".empty"), say(connectionLost ? "lost" : props.follow ? "gone" : "empty"));
  if (!state.run) return;
  for (const drawPart of [drawStatus, drawLayers, drawScore, drawSamples, drawLoss, drawMemory, drawMeasures]) {
    try { drawPart(); } catch (error) { console.warn(error); } // of an event with fields of other types: the rest is shown
  }
  const phase = `${state.run} ${state.phases.length} ${state.outcome}`; // a screen reader hears of each phase once
  if (phase !== spokenPhase) put(part(".spoken"), [part(".phase").textContent, memoryPlot.ariaLabel, state.losses.length ? lossPlot.ariaLabel : ""].join(". "));
  spokenPhase = phase;
}

// The colors stand in the CSS, once for light and once for dark. Sizes of texts are in px; Present draws large and thick.
function readPaint() {
  const sizes = document.body.classList.contains("present") ? { size: 18, small: 18, least: 18, line: 1.8 } : { size: 13, small: 12, least: 11, line: 1 };
  const style = getComputedStyle(root), bands = Object.keys(props.words).filter((key) => key.startsWith("phase.")).map((key) => key.replace("phase.", "band-"));
  const names = [...MEMORY_KINDS.cuda, ...MEMORY_KINDS.cpu, "capacity", "predicted", "train", "before", "after", "grid", "back", ...bands];
  return { ...sizes, text: style.color, family: style.fontFamily, ...Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--live-${name}`).trim()])) };
}

// Nothing is known of a run yet; the step whose answers were picked on the page before this one is picked again.
function begin(run) {
  state = emptyState(run), pickedStep = kept.picked?.run === run ? kept.picked.step : null;
}

function receive(fresh) {
  needsDrawing ||= !reply || connectionLost || fresh.events.length > 0 || ["run", "engine", "live", "waiting"].some((key) => fresh[key] !== reply[key]);
  const catchingUp = fresh.more && fresh.run === state.run;
  if (fresh.run !== state.run) begin(fresh.run);
  reply = fresh, connectionLost = false, state.cursor = fresh.cursor;
  for (const event of fresh.events) reduceEvent(state, event);
  if (catchingUp) return;
  announce();
  if (needsDrawing) draw();
}

// Tell Gradio of every start and end of a job, and the status strip of everything.
function announce() {
  const run = reply.run.startsWith(RECORDING) ? "" : reply.run;
  if (player && run) return void announceStrip(emptyState()); // an ended run, played once more, is no news
  const value = JSON.stringify({ run, engine: reply.engine, ended: run !== "" && state.outcome !== "", loaded: reply.loaded });
  // The template doesn't mention the value, so that setting it redraws nothing; Gradio fires `change` by itself. As text: an
  // object is copied by Gradio at every comparison, counts as new each time, and can fire `change` without end.
  if (!reply.more && announcedValue !== value) props.value = announcedValue = value;
  announceStrip(run ? state : emptyState());
}

const announceStrip = (state) => document.dispatchEvent(new CustomEvent("playground-state", { detail: stripState(state, reply) }));

// Play a run's events from their beginning. Whatever is live comes before it: see `poll`.
function startPlayer(run, loops = false) {
  if (playedRun !== run) playedRun = run, started = play(run, loops); // what is pressed meanwhile waits for the same player
  return started;
}

async function play(run, loops) {
  const events = await server.all_events({ run }).catch(() => []);
  if (playedRun !== run) return; // another was chosen meanwhile
  if (!events.length) return void (playedRun = "");
  player?.end();
  player = createPlayer(events, { loops, change: drawStatus, rests: () => !root.clientWidth, play(batch, first) {
    if (first) begin(run), state.cursor = reply.cursor;
    receive({ ...reply, run, events: batch, live: true, more: false });
  } });
  player.seek(0);
  if (kept.played?.run === run) playOn(player, kept.played);
  kept.played = null;
}

function endPlayer() {
  player?.end();
  player = null, playedRun = "";
}

// Before the first run, its place is taken by a recorded one.
async function showRecording(fresh) {
  if (!reply) receive(fresh); // until its events are here
  if (player) return void (reply = { ...fresh, run: RECORDING, live: true }, announce());
  if (!playedRun) await startPlayer(RECORDING, true);
}

// What the server says of the run that is followed: one that is played goes on, unless it lives again.
function follow(fresh) {
  if (fresh.run === playedRun && player) {
    if (!fresh.live) return void (reply = { ...fresh, live: true }, announce());
    return void (endPlayer(), state = emptyState()); // resumed: the next poll reads all of it
  }
  if (fresh.run === playedRun) return receive(fresh); // its events are on their way
  const changed = fresh.run !== state.run;
  endPlayer(), receive(fresh);
  const wasPlayed = kept.played?.run === fresh.run && !fresh.live;
  if (changed && (fresh.run.startsWith(SHIPPED) || wasPlayed)) startPlayer(fresh.run);
}

async function poll() {
  clearTimeout(timer);
  if (!element.isConnected) {
    removed.abort(), resizes.disconnect(), themeChanges.disconnect(), endPlayer(), clearTimeout(layersTimer);
    return [memoryPlot, lossPlot].forEach((node) => window.Plotly?.purge(node));
  }
  if (document.hidden || polling) return;
  polling = true;
  try {
    const run = state.run === RECORDING ? "" : state.run, fresh = await server.since({ follow: props.follow ?? "", run, cursor: state.cursor });
    if (!reply && !fresh.run) props.follow = ""; // the run that was shown before is gone
    if (!fresh.run && !props.follow) await showRecording(fresh);
    else follow(fresh);
    if (!playedRun) kept.played = null;
  } catch (error) {
    if (!connectionLost) console.warn(error);
    connectionLost = true;
    draw();
  }
  polling = false;
  timer = setTimeout(poll, connectionLost ? 2000 : reply.more ? 0 : 1000 * (reply.wait_s ?? 1));
}

const resizes = new ResizeObserver(() => { if (reply) draw(); });
const themeChanges = new MutationObserver(() => { paint = null; if (reply) draw(); });
["layers", "memory", "loss", "measures", "samples", "comparison", "parts"].forEach((key) => put(part(`.${key} h4 span`), say(key)));
["predicted", "measured", "error"].forEach((key, i) => put(root.querySelectorAll(".comparison thead th")[i], say(key)));
["base", "tuned", "difference"].forEach((key, i) => put(root.querySelectorAll(".measures thead th")[i], say(`measures.${key}`)));
part(".samples input").setAttribute("aria-label", say("samples.slider"));
part(".samples input").addEventListener("input", ({ target }) => {
  pickedStep = Number(target.value) < state.samples.length - 1 ? state.samples[target.value][0] : null, kept.picked = null;
  drawSamples();
});
SPEEDS.forEach((speed) => part(".player select").append(new Option(`${speed}×`, speed)));
part(".player input").setAttribute("aria-label", say("player.position")), part(".player select").setAttribute("aria-label", say("player.speed"));
part(".player button").addEventListener("click", () => player ? player.toggle() : startPlayer(state.run));
part(".player input").addEventListener("input", async ({ target }) => {
  const time = Number(target.value);
  if (!player) await startPlayer(state.run);
  if (player?.playing) player.toggle();
  player?.seek(time);
});
part(".player select").addEventListener("change", async ({ target }) => {
  const speed = Number(target.value);
  if (!player) await startPlayer(state.run);
  player?.setSpeed(speed);
});
put(part(".memory h4 small"), say("measured")), root.setAttribute("aria-label", say("name")), part(".progress").setAttribute("aria-label", say("progress"));
if (!props.follow && kept.follow) props.follow = kept.follow;
addEventListener("pagehide", () => keepPlayed(props.follow ?? "", playedRun, player, pickedStep === null ? null : { run: state.run, step: pickedStep }), { signal: removed.signal });
document.addEventListener("visibilitychange", poll, { signal: removed.signal });
resizes.observe(root), themeChanges.observe(document.body, { attributeFilter: ["class"] });
watch("follow", poll);
poll();
