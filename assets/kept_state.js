// What a page keeps in this tab of the browser, over a reload and a switch of language: changed fields, and which tab is open.

const keptState = {
  fields: "playground.fields", tab: "playground.tab", // keys in sessionStorage
  restored: false, reopened: false, // what Gradio sets and selects before that is nobody's choice
  touched: false, // whether somebody clicked or typed since the page came

  // Keep the values that differ from the page's start.
  save(names, start, values) {
    if (!this.restored) return;
    const changed = names.map((name, i) => [name, values[i], start[i]]).filter(([, value, first]) => JSON.stringify(value) !== JSON.stringify(first));
    sessionStorage.setItem(this.fields, JSON.stringify(Object.fromEntries(changed)));
  },

  // The kept values, and for the rest the page's own.
  restore(names, values) {
    let kept = {};
    try { kept = JSON.parse(sessionStorage.getItem(this.fields)) ?? {}; } catch { /* another version's: start anew */ }
    setTimeout(() => { this.restored = true; }, 500);
    return names.map((name, i) => Object.hasOwn(kept, name) ? kept[name] : values[i]);
  },

  open(tab) {
    document.body.dataset.tab = tab;
    if (this.reopened) sessionStorage.setItem(this.tab, tab);
  },

  // Gradio's update of the tabs: the one that was open, or `?tab=…`, or the first.
  reopen(tabs) {
    const asked = new URLSearchParams(location.search).get("tab"), kept = sessionStorage.getItem(this.tab);
    const tab = [asked, kept].find((name) => tabs.includes(name)) ?? tabs[0];
    document.body.dataset.tab = tab, this.reopened = true;
    setTimeout(() => this.press(tab), 300); // after Gradio has had its turn
    return { selected: tab, __type__: "update" };
  },

  // Gradio ignores that update where it has not built the tab yet: press its header once it stands there.
  press(tab, attempts = 100) {
    const header = document.querySelector(`[role=tab][data-tab-id="${tab}"]`);
    if (this.touched || !attempts || header?.ariaSelected === "true") return;
    header?.click();
    setTimeout(() => this.press(tab, attempts - 1), 300);
  },
};

for (const kind of ["pointerdown", "keydown"]) {
  document.addEventListener(kind, () => { keptState.touched = true; }, { capture: true, once: true });
}
