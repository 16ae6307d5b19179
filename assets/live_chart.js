// The live view of a run, on the page. Gradio runs live_view.js and this text once, as one function of (element, props,
// trigger, server, upload, watch).

const root = element.querySelector(".live"), part = (selector) => root.querySelector(selector);
const [memoryPlot, lossPlot] = root.querySelectorAll(".plot");
const [memoryLegend, lossLegend, partsLegend, foretoldLegend] = root.querySelectorAll(".legend");
const [partsStack, foretoldStack] = root.querySelectorAll(".stack");
const left = new AbortController();
let picked = null; // the step whose sample answers are looked at; null: the latest
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
  put(part(".where"), hardware.name ? say(hardware.pretended ? "where_card" : "where", { name: hardware.name, capacity: size(hardware.capacity) }) : "");
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
  show(part(".memory"), view.memory.length > 0), show(part(".parts"), view.memory.length > 0);
  if (!view.memory.length) return;
  const lines = kinds(view).map((kind) => ({ colour: kind, kind: kind === "reserved" ? "dotted" : "line", name: say(`memory.${kind}`),
    value: size(view.now[kind]), tag: say("memory.peak", { peak: size(view.peak[kind]) }) }));
  const latest = predicted(view).at(-1);
  if (latest) lines.push({ colour: "foretold", kind: "dashdot", name: say("memory.foretold"), value: size(latest.said[latest.kind]), tag: say("predicted") });
  if (isNumber(view.hardware.capacity)) lines.push({ colour: "capacity", kind: "dashed", name: say("memory.capacity"),
    value: size(view.hardware.capacity), tag: capacityInView(view) ? "" : say("memory.above") });
  legend(memoryLegend, lines), describe(memoryPlot, lines);
  drawBeside(), drawParts();
  plot(memoryPlot, memoryFigure, view.memory.at(-1)[0], view.phases.at(-1)?.to, view.told.size);
}

// Each phase's prediction beside what was measured of it, while it goes on as well.
function drawBeside() {
  const rows = [...view.told].flatMap(([phase, { said, kind, to, seen, found }]) => [{
    name: either(`job.${phase}`, "job.other"), what: say(`memory.${kind}`), fit: said.verdict, said: size(said[kind]), seen: seen ? size(seen) : "–",
    off: !seen ? "" : found ? `${said[kind] < seen ? "−" : "+"}${Math.abs(100 * (said[kind] / seen - 1)).toFixed(1)} %` : to ? "" : say("so_far"),
  }, ...[view.onCard.get(phase)].filter(Boolean).map(({ need_bytes, card_bytes, fit }) => ({
    name: either(`job.${phase}`, "job.other"), what: say("on_card", { capacity: size(card_bytes) }), fit, said: size(need_bytes), seen: "–", off: "",
  }))]);
  show(part(".beside"), rows.length > 0);
  fill(part(".beside tbody"), rows, ["tr", "th", "td", "td", "td"], (row, { name, what, fit, said, seen, off }) => {
    const [head, ...cells] = row.children;
    head.scope = "row";
    fill(head, [name, what], ["span"], put);
    fill(cells[0], [said, fit ? say(`verdict.${fit}`) : ""], ["span"], put);
    cells[0].lastChild.dataset.fit = fit ?? "";
    put(cells[1], seen), put(cells[2], off);
  });
}

function drawParts() {
  const latest = [...view.told.values()].at(-1), now = composition(view), then = latest ? foretold(latest) : [];
  const total = (parts) => parts.reduce((sum, [, bytes]) => sum + bytes, 0), most = Math.max(total(now), total(then));
  const draw = (node, list, parts, tag) => {
    const items = parts.map(([name, bytes, exact]) => ({ colour: `part-${name}`, name: say(`part.${name}`), value: size(bytes), tag: tag(exact) }));
    legend(list, items), describe(node, items);
    node.style.width = `${100 * total(parts) / most}%`;
    fill(node, parts, ["i"], (piece, [name, bytes]) => {
      piece.style.flexGrow = bytes;
      piece.style.setProperty("--swatch", `var(--live-part-${name})`);
    });
  };
  draw(partsStack, partsLegend, now, (exact) => say(exact ? "exact" : "measured"));
  draw(foretoldStack, foretoldLegend, then, () => "");
  put(part(".now"), say(view.full ? "parts.full" : "parts.now", { total: size(total(now)) }));
  put(part(".then"), latest ? say("parts.foretold", { total: size(total(then)), job: either(`job.${latest.said.phase}`, "job.other") }) : "");
  show(part(".then"), then.length > 0), show(foretoldStack, then.length > 0), show(foretoldLegend, then.length > 0);
}

function drawLoss() {
  show(part(".loss"), view.losses.length > 0);
  if (!view.losses.length) return;
  const item = (key, loss, kind) => ({ colour: key, kind, name: say(`loss.${key}`), value: lossText(loss) });
  const items = [item("train", view.step.loss, "line"), ...scored(view).map((when) => item(when, view.scores[when][1], when))];
  legend(lossLegend, items), describe(lossPlot, items);
  plot(lossPlot, lossFigure, view.step.step, items.length);
}

function drawMeasures() {
  const { measures } = view;
  show(part(".measures"), Boolean(measures));
  if (!measures) return;
  const { figures, rows, asked, limit, counts } = measures, names = Object.keys(FIGURES).filter((name) => figures[name]);
  put(part(".measures small"), say("measures.of", { rows }));
  put(part(".how"), [say("measures.how"), asked ? say("measures.asked", { asked, limit }) : ""].join(" "));
  fill(part(".measures tbody"), names, ["tr", "th", "td", "td", "td"], (row, name) => {
    const [head, ...cells] = row.children, { cells: texts, sure } = compared(name, figures[name]), whole = figures[name].whole;
    const values = { limit, rows: figures[name].rows, base: whole?.base.toFixed(1), tuned: whole?.tuned.toFixed(1) };
    head.scope = "row";
    fill(head, [say(`measures.${name}`), say(`measures.${name}.what`, values)], ["span"], put);
    cells.forEach((cell, i) => fill(cell, texts[i], ["span"], put));
    cells[2].dataset.sure = sure;
  });
  const lists = root.querySelectorAll(".rows"), heads = root.querySelectorAll(".measures h5");
  ["helped", "hurt"].forEach((key, i) => {
    show(heads[i], Boolean(counts)), show(lists[i], Boolean(counts));
    put(heads[i], say(`rows.${key}`, { count: counts?.[key] ?? 0 }));
    fill(lists[i], measures[key] ?? [], ["li", "details"], (item, row) => drawRow(item.firstChild, row, row === measures[key][0]));
  });
}

// A row that tuning helped or hurt, folded but for the first; what somebody unfolds stays so.
function drawRow(node, { question, reference, base, tuned }, first) {
  if (!node.firstChild) node.append(create("summary"), create("dl"));
  const [head, list] = node.children, named = Number(tuned.named ?? 0) - Number(base.named ?? 0);
  if (node.about !== question) node.open = first, node.about = question;
  const worth = [say("rows.chrf", { base: base.chrf.toFixed(0), tuned: tuned.chrf.toFixed(0) }), named ? say(named > 0 ? "rows.gained" : "rows.lost") : ""];
  fill(head, [question, worth.filter(Boolean).join(" · ")], ["span"], put);
  const texts = [["rows.reference", reference], ["measures.base", base.text], ["measures.tuned", tuned.text]];
  fill(list, texts, ["div", "dt", "dd"], (line, [key, text]) => { put(line.firstChild, say(key)), put(line.lastChild, text || "–"); });
}

function drawSamples() {
  const { samples } = view, slider = part(".samples input");
  show(part(".samples"), samples.length > 0);
  if (!samples.length) return;
  const at = samples.findLastIndex(([step]) => step <= (picked ?? Infinity)), [step, answers] = samples[Math.max(0, at)];
  show(slider, samples.length > 1);
  slider.max = samples.length - 1, slider.value = Math.max(0, at), slider.ariaValueText = say("samples.at", { step });
  put(part(".samples small"), slider.ariaValueText);
  fill(part(".samples dl"), answers, ["div", "dt", "dd", "dd"], (node, { prompt, text, closed, reference }) => {
    const [question, given, wanted] = node.children;
    put(question, prompt), fill(given, [text || "–", closed ? "" : say("samples.open")], ["span"], put);
    fill(wanted, [say("rows.reference"), reference], ["span"], put);
  });
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
  drawStatus(), drawMemory(), drawLoss(), drawMeasures(), drawSamples();
  const phase = `${view.run} ${view.phases.length} ${view.outcome}`; // a screen reader hears of each phase once
  if (phase !== spoken) put(part(".spoken"), [part(".phase").textContent, memoryPlot.ariaLabel, view.losses.length ? lossPlot.ariaLabel : ""].join(". "));
  spoken = phase;
}

// The colours stand in the CSS, once for light and once for dark.
function readPaint() {
  const style = getComputedStyle(root), bands = Object.keys(props.words).filter((key) => key.startsWith("phase.")).map((key) => key.replace("phase.", "band-"));
  const names = [...SERIES.cuda, ...SERIES.cpu, "capacity", "foretold", "train", "before", "after", "grid", "back", ...bands];
  return { text: style.color, family: style.fontFamily, ...Object.fromEntries(names.map((name) => [name, style.getPropertyValue(`--live-${name}`).trim()])) };
}

function receive(fresh) {
  stale ||= !answer || lost || fresh.events.length > 0 || ["run", "engine", "live"].some((key) => fresh[key] !== answer[key]);
  const catchingUp = fresh.more && fresh.run === view.run;
  if (fresh.run !== view.run) view = blank(fresh.run), picked = null;
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
["memory", "loss", "measures", "samples", "beside", "parts"].forEach((key, i) => put(root.querySelectorAll("h4 span")[i], say(key)));
["predicted", "measured", "error"].forEach((key, i) => put(root.querySelectorAll(".beside thead th")[i], say(key)));
["base", "tuned", "difference"].forEach((key, i) => put(root.querySelectorAll(".measures thead th")[i], say(`measures.${key}`)));
part(".samples input").setAttribute("aria-label", say("samples.slider"));
part(".samples input").addEventListener("input", ({ target }) => {
  picked = Number(target.value) < view.samples.length - 1 ? view.samples[target.value][0] : null;
  drawSamples();
});
put(part("h4 small"), say("measured")), part(".progress").setAttribute("aria-label", say("progress"));
document.addEventListener("visibilitychange", ask, { signal: left.signal });
resized.observe(root), themed.observe(document.body, { attributeFilter: ["class"] });
watch("follow", ask);
ask();
