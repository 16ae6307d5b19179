// The static Space: the live view on recordings instead of a server, and the filter of the table of models.

const { lang, words, recordings, first } = window.playgroundData;

const dark = matchMedia("(prefers-color-scheme: dark)");
const setTheme = () => document.body.classList.toggle("dark", dark.matches);
dark.addEventListener("change", setTheme);
setTheme();

// What Gradio and the server's two functions are to the live view. A recording has all its events at once.
const watchers = [];
const SHIPPED_BEGINNING = "recording:";
const events = (run) => recordings[run.startsWith(SHIPPED_BEGINNING) ? run.slice(SHIPPED_BEGINNING.length) : first] ?? [];
const server = {
  since: async ({ follow, run }) => ({
    run: follow, cursor: follow ? 1 : 0, events: follow && follow !== run ? events(follow) : [], more: false, live: false,
    busy: false, engine: "off", loaded: null, memory: null,
  }),
  all_events: async ({ run }) => events(run),
};
const props = { lang, words, follow: "", value: "" };
liveView(document.querySelector(".live-view"), props, () => {}, server, null, (name, callback) => watchers.push(callback));
document.querySelector(".recordings").addEventListener("change", ({ target }) => {
  props.follow = SHIPPED_BEGINNING + target.value;
  watchers.forEach((callback) => callback());
});

const room = document.querySelector(".room");
function filter() {
  const rows = [...document.querySelectorAll(".models tbody tr")];
  for (const row of rows) row.hidden = room.value !== "" && Number(row.dataset.need) > Number(room.value);
  document.querySelector(".filter output").textContent = `${rows.filter((row) => !row.hidden).length} / ${rows.length}`;
}
room.addEventListener("change", filter);
filter();
