// A recorded run, played in the live view until there is a real one. live_view.js, which follows in the same text, draws it.

const RECORDING = "recording"; // stands for the id of a run
const PLAYED_IN = 40, RESTS = 8, TICK = 0.5; // seconds: a longer recording is played faster; before it starts anew; between two drawings

// play(batch, first) is called with the events that are due. Returns a function that ends it.
function playRecording(events, play) {
  const length = events.at(-1)?.t ?? 0, speed = Math.max(1, length / PLAYED_IN);
  let next = 0, time = 0;
  const timer = setInterval(() => {
    if (document.hidden) return;
    const first = next === 0, from = next;
    time += TICK * speed;
    while (next < events.length && events[next].t <= time) next += 1;
    if (next > from) play(events.slice(from, next), first);
    if (time > length + RESTS * speed) next = time = 0;
  }, 1000 * TICK);
  return () => clearInterval(timer);
}
