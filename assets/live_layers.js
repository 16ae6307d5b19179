// Where the weights of a model's layers are, for the live view: on the GPU, in a buffer there, on the way, waiting in RAM; or,
// where they are split over several GPUs, a share on each. live_view.js, which follows in the same text, draws it. Unit tests:
// tests/js/live_layers.test.js.

const MAX_LAYERS = 1024; // that are drawn; a run's file may name any number
const LAYER_STATES = ["resident", "waiting", "ready", "copying"];

// The state of each layer, [] where none is streamed. Once the run is over, as `ended` says, nothing is on its way any more.
function layerStates({ placement, buffers, outcome }, ended = Boolean(outcome)) {
  if (!placement) return [];
  const within = (numbers) => new Set((Array.isArray(numbers) ? numbers : []).filter(isNumber));
  const streamed = within(placement.layers), ready = within(buffers?.ready), copying = within(buffers?.copying);
  return Array.from({ length: Math.min(placement.total ?? 0, MAX_LAYERS) }, (_, layer) =>
    !streamed.has(layer) ? "resident" : copying.has(layer) ? ended ? "ready" : "copying" : ready.has(layer) ? "ready" : "waiting");
}

// Each state with how many layers have it, and which these are where they are few: [{state, name, count, which}].
function layerCounts(states, { placement, hardware }) {
  const kind = placement.processes ? ".split" : hardware.device === "cpu" ? ".cpu" : "";
  return LAYER_STATES.filter((state) => state !== "resident" || states.includes(state)).map((state) => {
    const numbers = states.flatMap((one, layer) => one === state ? [layer + 1] : []), named = ["ready", "copying"].includes(state) && numbers.length;
    return {
      state, name: sayEither(`layers.${state}${kind}`, `layers.${state}`), count: numbers.length,
      which: named ? say(numbers.length > 1 ? "layers.which_more" : "layers.which", { numbers: numbers.join(", ") }) : "",
    };
  });
}

// What stands beside the heading: how many layers wait, with how many bytes. RAM keeps them while a buffer has them too.
function layersNote({ placement }) {
  const { layers = [], total, bytes, processes } = placement;
  return say(processes ? "layers.of_split" : "layers.of", { count: layers.length, layers: total, size: formatBytes(bytes), processes });
}

// Cells in a row, so that rows of at most `most` are equally long.
const layersInRow = (layers, most) => Math.ceil(layers / Math.ceil(layers / most));
