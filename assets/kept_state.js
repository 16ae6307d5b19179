// What a page keeps in this tab of the browser, over a reload and a switch of language: changed fields, and which tab and accordions are open.

const keptState = {
  fields: "playground.fields", tab: "playground.tab", folds: "playground.folds", // keys in sessionStorage
  most: 4e6, // characters of all fields; browsers keep some 5 million of a site, of which the rest of the page needs a few
  restored: false, reopened: false, // what Gradio sets and selects before that is nobody's choice
  touched: false, // whether somebody clicked or typed since the page came

  // Keep the values that differ from the page's start. listed: how many of the last ones are of lists that the program fills later;
  // while such a list is empty, what was kept of it stays.
  save(names, start, values, listed) {
    if (!this.restored) return;
    const kept = this.read(this.fields), late = names.length - listed;
    const now = names.map((name, i) => [name, i >= late && values[i] == null ? kept[name] : values[i], start[i]]);
    const changed = now.filter(([, value, first]) => value !== undefined && JSON.stringify(value) !== JSON.stringify(first));
    this.keepFields(changed.sort(([, one], [, other]) => JSON.stringify(one).length - JSON.stringify(other).length));
  },

  // Keep these fields, the smallest first, as far as they fit: a pasted text may be larger than all that a browser keeps.
  keepFields(fields) {
    const text = JSON.stringify(Object.fromEntries(fields));
    if (text.length <= this.most && this.write(this.fields, text) || !fields.length) return;
    console.warn("too large to be kept over a reload:", fields.at(-1)[0]);
    this.keepFields(fields.slice(0, -1));
  },

  // Whether it could be kept: there is a quota, and some browsers keep nothing of a page in a frame.
  write(key, text) {
    try { sessionStorage.setItem(key, text); return true; } catch { return false; }
  },

  // What was kept of a list that the program fills later, unless something is chosen in it by now; as the text "" for nothing.
  chosen(name, value) {
    const kept = this.read(this.fields)[name];
    return value == null && typeof kept === "string" ? kept : "";
  },

  read(key) {
    try { return JSON.parse(sessionStorage.getItem(key)) ?? {}; } catch { return {}; /* another version's: start anew */ }
  },

  // The kept values, and for the rest the page's own.
  restore(names, values) {
    const kept = this.read(this.fields);
    setTimeout(() => { this.restored = true; }, 500);
    return names.map((name, i) => Object.hasOwn(kept, name) ? kept[name] : values[i]);
  },

  // The conversation of Compare as text (assets/compare.js), as the page before this one left it.
  conversation: () => keptState.earlier,

  // A tab was opened. Gradio says so later, where the browser is busy even after the next tab was opened: the one that is open now counts.
  open(tab) {
    const open = document.querySelector("[role=tab][aria-selected=true]")?.dataset.tabId ?? tab;
    document.body.dataset.tab = open;
    if (this.reopened) this.write(this.tab, open);
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

  // Keep whether an accordion is open, which a person pressed just now. Those inside of others come as these are opened.
  keepFold(header) {
    const id = header.closest("[id^=fold-]")?.id;
    if (!id) return;
    delete this.waiting[id];
    setTimeout(() => this.write(this.folds, JSON.stringify({ ...this.read(this.folds), [id]: this.isOpen(header) })));
  },

  // Press the accordions that were pressed before; those of a tab that isn't built yet, once they stand there. Gradio may fold one
  // again just after it was built: it is looked at until it stayed for three looks.
  refold() {
    for (const [id, open] of Object.entries(this.waiting)) {
      const header = document.querySelector(`#${CSS.escape(id)} > .label-wrap`);
      if (!header?.checkVisibility()) continue;
      const looks = this.looks[id] ??= { pressed: 0, stayed: 0 };
      if (this.isOpen(header) === open) looks.stayed += 1;
      else header.click(), looks.pressed += 1, looks.stayed = 0;
      if (looks.stayed === 3 || looks.pressed === 5) delete this.waiting[id];
    }
    if (Object.keys(this.waiting).length) setTimeout(() => this.refold(), 300);
  },

  isOpen: (header) => header.classList.contains("open"),
};
keptState.earlier = sessionStorage.getItem("playground.conversation") ?? "";
keptState.waiting = keptState.read(keptState.folds), keptState.looks = {};
keptState.refold();
// A tab that was just opened is kept at that moment: the next click may be the one that leaves the page.
document.addEventListener("click", ({ target }) => {
  const tab = target.closest?.("[role=tab]")?.dataset.tabId;
  if (tab) queueMicrotask(() => keptState.open(tab));
});
document.addEventListener("click", ({ isTrusted, target }) => {
  const header = isTrusted && target.closest?.(".label-wrap");
  if (header) keptState.keepFold(header);
});

for (const kind of ["pointerdown", "keydown"]) {
  document.addEventListener(kind, () => { keptState.touched = true; }, { capture: true, once: true });
}
