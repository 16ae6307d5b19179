// The player of a recording or of a run that has ended: its events at their own speed or faster, paused, or moved to any moment.
// live_view.js, which follows in the same text, draws what it plays. Unit tests: tests/js/live_recording.test.js.

const RECORDING = "recording"; // stands for the id of a run: the recorded demo, until there is a real run
const SHIPPED = "recording:"; // begins the id of a recording that comes with the program
const SPEEDS = [1, 2, 5, 10, 20];
const PLAYED_IN = 40, RESTS = 8, TICK = 0.5; // seconds: a longer run is played faster; before it starts anew; between two drawings

// play(batch, first) is called with the events that are due; first: they are the first of the run. change() after each tick and act.
// rests(): whether nobody can see it now, and it waits.
function createPlayer(events, { play, change = () => {}, loops = false, rests = () => false }) {
  const length = events.at(-1)?.t ?? 0;
  const player = { time: 0, length, playing: true, speed: SPEEDS.find((speed) => length / speed <= PLAYED_IN) ?? SPEEDS.at(-1), toggle, seek, setSpeed, end };
  let next = 0;
  const timer = setInterval(tick, 1000 * TICK);

  function tick() {
    if (document.hidden || !player.playing || rests()) return;
    advance(player.time + TICK * player.speed);
    if (loops && player.time > length + RESTS * player.speed) next = player.time = 0;
    else if (!loops && player.time >= length) player.playing = false;
    change();
  }
  function advance(time) {
    const from = next;
    player.time = time;
    while (next < events.length && events[next].t <= time) next += 1;
    if (next > from) play(events.slice(from, next), from === 0);
  }
  function toggle() {
    if (!player.playing && player.time >= length) next = player.time = 0;
    player.playing = !player.playing;
    change();
  }
  function seek(time) {
    if (time < player.time) next = 0;
    advance(Math.min(Math.max(time, events[0]?.t ?? 0), length)); // the first event is always shown
    change();
  }
  function setSpeed(speed) {
    player.speed = speed;
    change();
  }
  function end() {
    clearInterval(timer);
  }
  return player;
}

// What is shown and how far it was played, for the page that comes next in this tab of the browser: the other language's, or the
// same one again.
const KEPT = "playground.live"; // key in sessionStorage

function keepPlayed(follow, run, player, picked = null) {
  const { time, length, speed, playing } = player ?? {};
  const played = player && { run, part: length ? Math.min(1, time / length) : 0, speed, playing };
  try { sessionStorage.setItem(KEPT, JSON.stringify({ follow, played, picked })); } catch { /* no room: what was kept before stays */ }
}

// {follow: id of a run or "", played: of keepPlayed, or null, picked: {run, step} whose sample answers were picked, or null}
function readKept() {
  try {
    const { follow, played, picked } = JSON.parse(sessionStorage.getItem(KEPT));
    return { follow: typeof follow === "string" ? follow : "", played: played?.part >= 0 ? played : null, picked: picked?.step >= 0 ? picked : null };
  } catch { // the first page, or one of another version
    return { follow: "", played: null, picked: null };
  }
}

// Go on where a player was. In the other language the demo's recording has another length: at the same part of it.
function playOn(player, { part, speed, playing }) {
  if (SPEEDS.includes(speed)) player.setSpeed(speed);
  player.seek(part * player.length);
  if (playing === false && player.playing) player.toggle();
}
