// The card picture, on the page. Gradio runs card_picture_frames.js and this text once, as one function of
// (element, props, trigger, server, upload, watch), with WORDS, the page's texts, before them: as a property they could be
// lost, since Gradio (6.31) forgets the properties of a component that is updated before its tab was opened.

const GIB = 2 ** 30, VISITS_PER_SECOND = 12;
const root = element.querySelector(".picture"), part = (selector) => root.querySelector(selector);
const widths = part(".widths"), cells = part(".cells"), scrub = part(".scrub"), line = part(".line");
const removed = new AbortController(); // ends the listeners once the element has left the page
const PLACES = ["resident", "waiting", "ready", "copying"]; // of the weights of layers, some of which are streamed
let picture = null, tape = null, tapeText = "", frames = [], places = [], scale = null, at = 0;
let playing = false, played = false, inView = false, timer, readLayer = null; // readLayer: of the cell whose bytes are shown

const say = (key, values = {}) => (WORDS[key] ?? "").replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "–");
const formatBytes = (bytes) => bytes === undefined ? "–" : bytes >= GIB / 10 ? `${(bytes / GIB).toFixed(2)} GiB` : `${(bytes / 2 ** 20).toFixed(1)} MiB`;
const put = (node, text) => { if (node.textContent !== text) node.textContent = text; };
const color = (name) => `var(--live-part-${name})`;
// On a CPU the file of the weights is in memory beside the program, and can't be told from it.
const partName = (name) => name === "program" ? say("program") : say(`part.${name}`);
const listParts = (parts) => orderedParts(parts).map(([name, bytes]) => `${partName(name)} ${formatBytes(bytes)}`).join(" · ");

// As many children as items, kept from one drawing to the next, so that the focus and a selection stay where they are.
function fill(list, items, tag, update) {
  while (list.children.length > items.length) list.lastChild.remove();
  while (list.children.length < items.length) list.append(document.createElement(tag));
  items.forEach((item, i) => update(list.children[i], item, i));
}

function drawHeader() {
  const { job, room } = picture;
  put(part("header strong"), say(`title.${job}`)), put(part("header em"), say("predicted"));
  put(part("header .on"), room.capacity ? say("on", { name: room.name, capacity: formatBytes(room.capacity) }) : "");
}

function drawBars() {
  const { bars, chosen, room } = picture, full = barScale(bars, room.capacity), edge = room.capacity / full;
  widths.setAttribute("aria-label", say("widths"));
  widths.dataset.edge = room.capacity && edge <= 1 ? "in" : "beyond";
  widths.classList.toggle("streamed", bars.some(({ streamed }) => streamed));
  widths.style.setProperty("--edge", Math.min(edge, 1));
  fill(widths, bars, "button", (row, bar, i) => {
    row.type = "button", row.role = "radio", row.dataset.bits = bar.bits, row.dataset.verdict = bar.verdict ?? "";
    row.ariaChecked = String(bar.bits === chosen), row.tabIndex = bar.bits === chosen || (i === 0 && !bars.some(({ bits }) => bits === chosen)) ? 0 : -1;
    if (!row.firstChild) row.innerHTML = '<b></b><span class="area"><span class="bar"></span><span class="bar measured"></span></span><span class="need"></span>';
    const [name, area, need] = row.children, [predicted, measured] = area.children;
    put(name, say("bits", { bits: bar.bits }));
    drawBar(predicted, bar.parts ?? {}, full);
    measured.hidden = !bar.measured;
    if (bar.measured) drawBar(measured, bar.measured.parts, full);
    measured.classList.toggle("other", Boolean(bar.measured && !bar.measured.same));
    const texts = bar.trouble ? [bar.trouble] : [formatBytes(bar.need), bar.verdict ? say(`verdict.${bar.verdict}`) : ""];
    if (bar.time) texts.push(bar.time);
    if (bar.streamed) texts.push(say("streamed", { count: bar.streamed, layers: bar.layers }));
    if (bar.measured) texts.push(say(bar.measured.same ? "measured" : "measured_other", { total: formatBytes(bar.measured.total) }));
    fill(need, texts.filter(Boolean), "span", (node, text, n) => { put(node, text), node.className = !bar.trouble && n === 1 && bar.verdict ? "verdict" : ""; });
    row.ariaLabel = [say("bits", { bits: bar.bits }), bar.trouble ?? say("bar", { need: formatBytes(bar.need) }), ...texts.slice(1), bar.parts ? listParts(bar.parts) : ""].filter(Boolean).join(". ");
  });
  drawLegend();
}

function drawBar(node, parts, full) {
  fill(node, barSegments(parts, full), "i", (segment, { part: name, bytes, share, apart }) => {
    segment.style.width = `${100 * share}%`, segment.style.setProperty("--swatch", color(name));
    segment.classList.toggle("apart", apart), segment.title = `${partName(name)}: ${formatBytes(bytes)}`;
  });
}

function drawLegend() {
  const names = new Set(picture.bars.flatMap((bar) => [...Object.keys(bar.parts ?? {}), ...Object.keys(bar.measured?.parts ?? {})]));
  for (const name of picture.tape?.names ?? []) names.add(name);
  const items = orderedParts(Object.fromEntries([...names].map((name) => [name, 1])));
  fill(part(".legend"), items, "li", (node, [name]) => {
    put(node, APART.includes(name) ? say("apart", { part: partName(name) }) : partName(name)), node.style.setProperty("--swatch", color(name));
  });
}

function drawTape() {
  const { reason, awaited } = picture, text = JSON.stringify(picture.tape ?? null);
  root.classList.toggle("awaited", Boolean(awaited));
  part(".reason").hidden = !reason, put(part(".reason"), reason ?? "");
  if (awaited || text === tapeText) return; // the old strip stays, dimmed, until the new one is here
  tape = picture.tape, tapeText = text, part(".steps").hidden = !tape, frames = tape ? tapeFrames(tape) : [], places = tape ? layerPlaces(tape) : [];
  if (!tape) return pause();
  scale = cellScale(frames), scrub.max = frames.length - 1;
  makeCells(tape.layers), drawLine();
  const moves = !matchMedia("(prefers-reduced-motion: reduce)").matches;
  if (playing || (moves && !played)) show(0), play();
  else show(peakFrame(tape));
}

// A layer's weights are somewhere where some are streamed, or split: then a strip above its cell says where.
const placeName = (place) => say([tape.split ? `layers.${place}.split` : picture.room.device === "cpu" ? `layers.${place}.cpu` : "", `layers.${place}`].find((key) => WORDS[key]));
function cellName(layer) {
  if (layer === OUTSIDE) return say(tape.waiting ? "outside_buffers" : "outside");
  const name = say("layer", { layer: layer + 1 }), place = places[at]?.[layer];
  return place ? say("placed", { layer: name, state: placeName(place) }) : name;
}

function makeCells(layers) {
  cells.replaceChildren();
  cells.dataset.split = Boolean(tape.split), cells.classList.toggle("placed", Boolean(tape.waiting));
  cells.setAttribute("aria-label", say("cells", { layers }));
  cells.style.setProperty("--columns", rowLength(layers + scale.columns, 48)), cells.style.setProperty("--narrow-columns", rowLength(layers + scale.columns, 22));
  for (const layer of [OUTSIDE, ...Array(layers).keys()]) {
    const cell = document.createElement("button");
    cell.type = "button", cell.className = "cell", cell.dataset.layer = layer, cell.tabIndex = layer === OUTSIDE ? 0 : -1;
    cell.ariaLabel = cellName(layer);
    if (layer === OUTSIDE) cell.style.gridColumn = `span ${scale.columns}`, cell.classList.add("outside");
    cells.append(cell);
  }
}

// One bar a visit, in a path for each stage.
function drawLine() {
  const paths = {};
  tape.visits.forEach(({ stage, allocated }, n) => {
    paths[stage] = `${paths[stage] ?? ""}M${n} 100V${(100 - (96 * allocated) / tape.allocated).toFixed(2)}H${n + 1}V100Z`;
  });
  const drawing = line.querySelector("svg");
  drawing.setAttribute("viewBox", `0 0 ${frames.length} 100`);
  drawing.innerHTML = Object.entries(paths).map(([stage, path]) => `<path data-stage="${stage}" d="${path}"/>`).join("");
}

function show(number) {
  at = Math.max(0, Math.min(frames.length - 1, number));
  const { visit, held } = frames[at], outside = visit.layer === OUTSIDE;
  const stage = say(outside ? `stage.${visit.stage}.outside` : `stage.${visit.stage}`, { layer: visit.layer + 1, layers: tape.layers });
  put(part(".stage"), stage), put(part(".bytes"), formatBytes(visit.allocated));
  put(part(".peak"), at === peakFrame(tape) ? say("peak") : say("of_peak", { bytes: formatBytes(tape.allocated) }));
  part(".stage").dataset.stage = visit.stage;
  put(part(".account"), accountOf(visit));
  scrub.value = at, scrub.setAttribute("aria-valuetext", `${stage}: ${formatBytes(visit.allocated)}`);
  part(".here").style.transform = `translateX(${(100 * (at + 0.5)) / frames.length}%)`;
  for (const cell of cells.children) {
    const layer = Number(cell.dataset.layer), parts = held.get(layer);
    const active = layer === visit.layer ? visit.stage : "";
    if (cell.dataset.stage !== active) cell.dataset.stage = active;
    const place = places[at][layer] ?? "";
    if (cell.dataset.place !== place) cell.dataset.place = place, cell.ariaLabel = cellName(layer);
    if (cell.drawn === parts) continue;
    cell.drawn = parts;
    fill(cell, orderedParts(parts), "i", (node, [name, bytes]) => {
      const full = scale.bytes * (layer === OUTSIDE ? scale.columns : 1);
      node.style.height = `${(100 * bytes) / full}%`;
      if (node.dataset.part !== name) node.dataset.part = name, node.style.background = color(name);
    });
  }
  drawPlaces(), tellCell();
}

function drawPlaces() {
  const list = part(".places"), shown = PLACES.filter((place) => place !== "resident" || places[0].includes(place));
  list.hidden = !tape.waiting, list.setAttribute("aria-label", say("where"));
  fill(list, tape.waiting ? shown : [], "li", (node, place) => {
    if (!node.firstChild) node.innerHTML = "<i></i><span></span><b></b>";
    node.children[0].dataset.place = place, list.dataset.split = Boolean(tape.split);
    put(node.children[1], placeName(place)), put(node.children[2], String(places[at].filter((one) => one === place).length));
  });
}

function accountOf({ stage, made, kept, freed, work }) {
  const texts = [];
  if (stage === "recompute") texts.push(say("account.again", { bytes: formatBytes(made) }));
  if (kept) texts.push(say("account.kept", { bytes: formatBytes(kept) }));
  if (freed) texts.push(say("account.freed", { bytes: formatBytes(freed) }));
  if (work) texts.push(say("account.work", { bytes: formatBytes(work) }));
  return texts.join(" · ");
}

// The bytes of the cell that is pointed at or focused, else of the one at work.
function tellCell() {
  if (!frames.length) return;
  const { visit, held } = frames[at], layer = readLayer ?? visit.layer, parts = held.get(layer);
  const list = listParts(parts), text = `${cellName(layer)}: ${formatBytes(heldBytes(parts))}${list && ` = ${list}`}`;
  put(part(".cell-text"), text);
  const cell = readLayer === null ? null : cells.children[readLayer + 1];
  if (cell) cell.ariaLabel = text;
}

function setPlaying(now) {
  playing = now;
  put(part(".play"), say(now ? "pause" : "play"));
  clearTimeout(timer);
  if (now) step();
}

const pause = () => setPlaying(false);

function play() {
  played = true;
  if (at >= frames.length - 1) show(0);
  setPlaying(true);
}

function step() {
  clearTimeout(timer);
  if (!playing || !inView || document.hidden) return; // goes on once it is seen again
  timer = setTimeout(() => {
    if (at >= frames.length - 1) return pause();
    show(at + 1), step();
  }, 1000 / (VISITS_PER_SECOND * Number(part(".speed").value)));
}

function choose(row) {
  const bits = Number(row.dataset.bits);
  for (const other of widths.children) other.ariaChecked = String(other === row), other.tabIndex = other === row ? 0 : -1;
  row.focus();
  trigger("select", { index: [...widths.children].indexOf(row), value: bits });
}

// Arrow keys move within a group of buttons of which one is in the tab order.
function moveFocus(event, group, chosen) {
  const move = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key], items = [...group.children];
  const next = items[items.indexOf(event.target.closest("button")) + move];
  if (!move || !next) return;
  event.preventDefault();
  if (chosen) return chosen(next);
  for (const item of items) item.tabIndex = item === next ? 0 : -1;
  next.focus();
}

function redraw() {
  if (!props.picture) return put(part("header strong"), say("awaited"));
  picture = JSON.parse(props.picture);
  root.classList.add("drawn");
  drawHeader(), drawBars(), drawTape();
}

const listen = (node, kind, handler) => node.addEventListener(kind, handler, { signal: removed.signal });
const readCell = (event) => { const cell = event.target.closest?.(".cell"); readLayer = cell ? Number(cell.dataset.layer) : null, tellCell(); };
listen(widths, "click", ({ target }) => { const row = target.closest("button"); if (row && row.ariaChecked !== "true") choose(row); });
listen(widths, "keydown", (event) => moveFocus(event, widths, choose));
listen(cells, "keydown", (event) => moveFocus(event, cells));
listen(cells, "pointerover", readCell), listen(cells, "focusin", readCell);
listen(cells, "pointerleave", () => { readLayer = null, tellCell(); }), listen(cells, "focusout", () => { readLayer = null, tellCell(); });
listen(part(".play"), "click", () => (playing ? pause() : play()));
listen(scrub, "input", () => { pause(), show(Number(scrub.value)); });
listen(line, "pointerdown", ({ clientX }) => { const box = line.getBoundingClientRect(); pause(), show(Math.floor((frames.length * (clientX - box.left)) / box.width)); });
listen(part(".speed"), "change", step);
listen(document, "visibilitychange", step);
const sight = new IntersectionObserver((entries) => {
  inView = entries.at(-1).isIntersecting, step();
  if (!element.isConnected) removed.abort(), sight.disconnect();
});
sight.observe(root);
part(".play").textContent = say("play"), scrub.setAttribute("aria-label", say("scrub")), part(".speed").setAttribute("aria-label", say("speed"));
watch("picture", redraw);
redraw();
