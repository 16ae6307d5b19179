// Removes the opening picture once a tab of the page is open (assets/kept_state.js).
{
  const picture = document.querySelector(".opening");
  const PATIENCE = 30000; // ms: should the page never come, its own message isn't hidden for ever
  const remove = () => { picture.remove(); waiting.disconnect(); };
  const waiting = new MutationObserver(() => { if (document.body.dataset.tab) remove(); });
  const theme = new URLSearchParams(location.search).get("__theme");
  picture.classList.toggle("dark", theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches);
  waiting.observe(document.body, { attributes: true, attributeFilter: ["data-tab"] });
  setTimeout(remove, PATIENCE);
}
