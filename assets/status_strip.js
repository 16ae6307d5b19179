// The status strip. Gradio runs this once, as a function of (element, props, watch, …). It draws what the live view announces.

const strip = element.querySelector(".strip"), cell = (name) => strip.querySelector(`.${name}`);
const put = (node, text) => { if (node.textContent !== text) node.textContent = text; };
const say = (key, values = {}) => (props.words[key] ?? "").replace(/\{(\w+)\}/g, (_, name) => values[name] ?? "–");

// main: what is read first; more: after it; share: of the gauge, null for none.
function show(name, main, more = "", share = null, state = "") {
  const node = cell(name), [bold, small] = node.querySelectorAll("dd > *"), gauge = node.querySelector(".gauge");
  put(bold, main), put(small, more);
  node.dataset.state = state;
  if (!gauge) return;
  gauge.hidden = share === null;
  gauge.firstChild.style.width = `${100 * Math.min(1, share ?? 0)}%`;
}

function showData() {
  let data = {};
  try { data = JSON.parse(props.data || "{}"); } catch {}
  show("data", data.name || "–", data.rows);
}

function showState({ detail: { loaded, run, memory } }) {
  show("model", loaded ? loaded.name : say("nothing"), loaded ? say("bits", loaded) : "", null, loaded ? "on" : "");
  show("run", run.text || say("idle"), run.more, run.share, run.state);
  show("memory", memory.text, memory.capacity ? say("of", memory) : "", memory.share);
}

for (const name of ["model", "data", "run", "memory"]) put(cell(name).querySelector("dt"), say(name));
showData(), show("model", say("nothing")), show("run", say("idle")), show("memory", "–");
watch("data", showData);
document.addEventListener("playground-state", showState);
