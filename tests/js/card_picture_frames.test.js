// Figures of the card picture: bars, and instants of a tape. Run by `node --test tests/js/`.

const test = require("node:test");
const assert = require("node:assert/strict");
const { readFileSync } = require("node:fs");
const { join } = require("node:path");

const text = readFileSync(join(__dirname, "../../assets/card_picture_frames.js"), "utf8");
const { orderedParts, barScale, barSegments, tapeFrames, cellScale, peakFrame, heldBytes, rowLength, layerPlaces, OUTSIDE } = new Function(
  `${text}\nreturn { orderedParts, barScale, barSegments, tapeFrames, cellScale, peakFrame, heldBytes, rowLength, layerPlaces, OUTSIDE };`)();

const TAPE = {
  layers: 2, names: ["weights", "activations"],
  visits: [
    { stage: "prepare", layer: OUTSIDE, allocated: 40, changes: [[OUTSIDE, 0, 20], [0, 0, 10], [1, 0, 10]] },
    { stage: "forward", layer: 0, allocated: 47, changes: [[0, 1, 7]] },
    { stage: "forward", layer: 1, allocated: 49, changes: [[0, 1, 2], [1, 1, 7]] },
    { stage: "backward", layer: 1, allocated: 42, changes: [[1, 1, 0]] },
  ],
};

test("every instant holds what its tape says is allocated", () => {
  const totals = tapeFrames(TAPE).map(({ held }) => [...held.values()].reduce((total, parts) => total + heldBytes(parts), 0));
  assert.deepEqual(totals, TAPE.visits.map(({ allocated }) => allocated));
});

test("an instant doesn't change those before it, and layers that didn't change stay the same object", () => {
  const frames = tapeFrames(TAPE);
  assert.deepEqual(frames[1].held.get(0), { weights: 10, activations: 7 });
  assert.deepEqual(frames[2].held.get(0), { weights: 10, activations: 2 });
  assert.equal(frames[1].held.get(1), frames[0].held.get(1));
  assert.notEqual(frames[2].held.get(1), frames[1].held.get(1));
});

test("the peak is the instant with the most bytes", () => assert.equal(peakFrame(TAPE), 2));

test("what lies outside the layers is drawn wider, to the same scale", () => {
  const frames = tapeFrames(TAPE), { bytes, columns } = cellScale(frames);
  assert.deepEqual({ bytes, columns }, { bytes: 17, columns: 2 });
  const heavy = { ...TAPE, visits: [{ ...TAPE.visits[0], changes: [[OUTSIDE, 0, 1000], [0, 0, 10]] }] };
  assert.deepEqual(cellScale(tapeFrames(heavy)), { bytes: 125, columns: 8 });
});

test("the card's edge is in view unless the bars would be too short to read", () => {
  const bars = [{ need: 10, measured: { total: 12 } }, { trouble: "no such width" }];
  assert.equal(barScale(bars, 20), 1.06 * 20);
  assert.equal(barScale(bars, 5), 1.06 * 12);
  assert.equal(barScale(bars, 100), 1.06 * 12);
  assert.ok(barScale([], 0) > 0);
});

test("what the program itself takes stands last and apart", () => {
  assert.deepEqual(orderedParts({ program: 4, weights: 3, loss: 0 }), [["weights", 3], ["program", 4]]);
  assert.deepEqual(barSegments({ runtime: 1, activations: 3 }, 8), [
    { part: "activations", bytes: 3, share: 0.375, apart: false },
    { part: "runtime", bytes: 1, share: 0.125, apart: true },
  ]);
});

test("rows of cells are equally long", () => {
  assert.deepEqual([rowLength(34, 48), rowLength(90, 48), rowLength(34, 22)], [34, 45, 17]);
});

test("each layer is where the tape says its weights are, and nowhere before it is loaded", () => {
  const visit = (stage, layer, ready = [], copying = []) => ({ stage, layer, ready, copying });
  const tape = { layers: 4, waiting: [0, 2, 3], visits: [visit("prepare", OUTSIDE, [0, 2]), visit("forward", 0, [0], [2]), visit("forward", 1, [2], [3])] };
  assert.deepEqual(layerPlaces(tape), [
    ["ready", "resident", "ready", "waiting"], ["ready", "resident", "copying", "waiting"], ["waiting", "resident", "ready", "copying"],
  ]);
  const load = { layers: 3, waiting: [0, 2], visits: [visit("prepare", OUTSIDE), visit("load", 0), visit("load", 1), visit("load", OUTSIDE), visit("load", 2)] };
  assert.deepEqual(layerPlaces(load), [["", "", ""], ["waiting", "", ""], ["waiting", "resident", ""], ["waiting", "resident", ""], ["waiting", "resident", "waiting"]]);
  assert.deepEqual(layerPlaces(TAPE)[1], []);
});
