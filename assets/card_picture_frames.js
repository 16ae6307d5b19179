// Figures of the card picture, without the page: the bars of the bit widths, and the instants of a tape (predict/tape.py).

// Parts in the order in which they are drawn. What the program itself takes stands last, apart from what the model takes.
const PART_ORDER = ["weights", "quant_constants", "adapters", "gradients", "optimizer", "activations", "loss", "kv_cache", "buffers", "working"];
const APART = ["rest_cpu", "program", "runtime"];
const OUTSIDE = -1; // the layer of what lies outside the layers
const WIDEST_OUTSIDE = 8; // cells

const sum = (numbers) => numbers.reduce((total, number) => total + number, 0);

// {part: bytes} as [[part, bytes]] in the order of drawing, parts without bytes left out.
function orderedParts(parts) {
  const order = [...PART_ORDER, ...APART];
  return Object.entries(parts).filter(([, bytes]) => bytes > 0).sort(([a], [b]) => order.indexOf(a) - order.indexOf(b));
}

// Bytes of a bar of full width. The card's edge is in view unless that would make the bars too short to read.
function barScale(bars, capacity) {
  const longest = Math.max(0, ...bars.flatMap((bar) => [bar.need ?? 0, bar.measured?.total ?? 0]));
  return 1.06 * (capacity && capacity <= 2.5 * longest ? Math.max(longest, capacity) : longest) || 1;
}

// A bar as [{part, bytes, share (of the full width), apart}].
const barSegments = (parts, scale) => orderedParts(parts).map(([part, bytes]) => ({ part, bytes, share: bytes / scale, apart: APART.includes(part) }));

// The instants of a tape, each what is held then: {visit, held: Map(layer → {part: bytes})}. A layer that didn't change
// from one instant to the next has the same object in both, so that only what changed need be drawn.
function tapeFrames(tape) {
  let held = new Map([OUTSIDE, ...Array(tape.layers).keys()].map((layer) => [layer, {}]));
  return tape.visits.map((visit) => {
    held = new Map(held);
    const fresh = new Set();
    for (const [layer, name, bytes] of visit.changes) {
      if (!fresh.has(layer)) fresh.add(layer), held.set(layer, { ...held.get(layer) });
      held.get(layer)[tape.names[name]] = bytes;
    }
    return { visit, held };
  });
}

// Where the weights of a tape's layers are in each frame: [[state by layer]], [] where all of them stay on the device. A layer that
// isn't loaded yet is nowhere: "".
function layerPlaces(tape) {
  const waiting = new Set(tape.waiting), isLoading = tape.visits.some(({ stage }) => stage === "load"), numbers = [...Array(tape.layers).keys()];
  let loaded = isLoading ? OUTSIDE : tape.layers;
  return tape.visits.map(({ layer, ready = [], copying = [] }) => {
    loaded = Math.max(loaded, layer);
    return waiting.size ? numbers.map((n) => n > loaded ? "" : !waiting.has(n) ? "resident" : copying.includes(n) ? "copying" : ready.includes(n) ? "ready" : "waiting") : [];
  });
}

const heldBytes = (parts) => sum(Object.values(parts));

// How cells are drawn to scale: `bytes` of a full cell, and how many cells wide what lies outside the layers is.
function cellScale(frames) {
  let layer = 1, outside = 0;
  for (const { held } of frames) {
    for (const [number, parts] of held) {
      if (number === OUTSIDE) outside = Math.max(outside, heldBytes(parts));
      else layer = Math.max(layer, heldBytes(parts));
    }
  }
  const columns = Math.max(2, Math.min(WIDEST_OUTSIDE, Math.ceil(outside / layer)));
  return { bytes: Math.max(layer, outside / columns), columns };
}

// Cells in a row, so that rows of at most `most` are equally long.
const rowLength = (cells, most) => Math.ceil(cells / Math.ceil(cells / most));

// The number of the instant at which the most bytes are allocated.
const peakFrame = (tape) => tape.visits.reduce((best, visit, n) => (visit.allocated > tape.visits[best].allocated ? n : best), 0);
