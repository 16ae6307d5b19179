// Keep the answer that is being written in view, above the question bar, unless the reader has scrolled up.
const NEAR = 160; // px between the end of the comparison and the bar within which the reader follows the answer

const bar = () => document.querySelector(".compare-ask");
const below = () => element.getBoundingClientRect().bottom - (bar()?.getBoundingClientRect().top ?? innerHeight);

let turns = 0;
let distance = 0;
addEventListener("scroll", () => { distance = below(); }, { passive: true });
new MutationObserver(() => {
  if (!element.offsetParent) return;
  const now = element.querySelectorAll(".turn").length;
  const follows = now > turns || (distance < NEAR && element.querySelector('[aria-busy="true"]'));
  turns = now;
  if (follows && below() > 0) scrollBy({ top: below() });
  distance = below();
}).observe(element, { childList: true, subtree: true });
