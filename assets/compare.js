// Keep the answer that is being written in view, above the question bar, unless the reader has scrolled up; and keep the
// conversation in this tab of the browser, for the page that comes next: playground/ui/conversation.py takes it up.
const KEPT = "playground.conversation"; // key in sessionStorage
const NEAR = 160; // px between the end of the comparison and the bar within which the reader follows the answer

const bar = () => document.querySelector(".compare-ask");
const below = () => element.getBoundingClientRect().bottom - (bar()?.getBoundingClientRect().top ?? innerHeight);

let turns = 0;
let distance = 0;
addEventListener("scroll", () => { distance = below(); }, { passive: true });
const keep = () => {
  const text = element.querySelector("[data-kept]")?.dataset.kept;
  try { if (text) sessionStorage.setItem(KEPT, text); } catch { /* too long to keep: what was kept before stays */ }
};
new MutationObserver(() => {
  keep();
  if (!element.offsetParent) return;
  const now = element.querySelectorAll(".turn").length;
  const follows = now > turns || (distance < NEAR && element.querySelector('[aria-busy="true"]'));
  turns = now;
  if (follows && below() > 0) scrollBy({ top: below() });
  distance = below();
}).observe(element, { childList: true, subtree: true });
