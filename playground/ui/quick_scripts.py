"""Quickens the page and loses no click: serves three of Gradio's scripts (6.31) with a few lines of them changed.

At each event, such as a streamed word, Gradio sets the status of all components that any listener has ever read or
written, changed or not, and looks each one up by walking the whole page. With 560 components an answer of 200 tokens
took 35 seconds of a processor, and takes 4 (tests/bench/page_cost.py). Here only a status that has changed is set, and
the page is walked once. When the page is opened, Gradio builds it twice, and looks through all listeners for each
component; here once. A click that Gradio would answer only after the next one is answered at once, and the last of
several changes is the one that is answered last. Where another version of Gradio has no such lines, its scripts are
served as they are.
"""

import re
from pathlib import Path

import gradio
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

SCRIPTS = Path(gradio.__file__).parent / "templates" / "frontend" / "assets"

EVERY_STATUS = re.compile(r"Object\.entries\(this\.loading_stati\.current\)\.map\(")
# A status that is still changing is set each time, as before.
CHANGED_STATUS = """Object.entries(this.loading_stati.current).filter(([id, status]) => {
  const text = JSON.stringify(status), last = (this.lastStatus ??= {});
  if (status.status === "complete" && last[id] === text) return false;
  last[id] = text;
  return true;
}).map("""

# The search for a component by its number in the tree of them all.
SEARCH = re.compile(
    r"function (\w+)\(e,t\)\{if\(e\.id===t\)return e;if\(e\.children\)for\(let n of e\.children\)"
    r"\{let e=\1\(n,t\);if\(e\)return e\}return null\}"
)
# Each tree is walked once. A part is replaced only by Gradio's `render`, which this page doesn't use.
REMEMBERED = r"""const foundById = new WeakMap();
function \1(tree, id) {
  if (!foundById.has(tree)) foundById.set(tree, new Map());
  const found = foundById.get(tree);
  if (!found.has(id)) \1All(tree, found);
  return found.get(id) ?? null;
}
function \1All(node, found) {
  if (!found.has(node.id)) found.set(node.id, node);
  for (const child of node.children ?? []) \1All(child, found);
}"""

# As the page is built, the search of all listeners for the events of one component, made for each.
EACH_LISTENER = re.compile(r"find_attached_events\(e,t\)\{let n=t\.filter\(.{0,200}?\.attached_events=n,e\}")
# The listeners are looked through once.
BY_COMPONENT = """find_attached_events(node, listeners) {
  const known = (this.attachedEvents ??= new WeakMap());
  if (!known.has(listeners)) {
    const events = new Map();
    for (const { targets } of listeners) {
      for (const [id, event] of new Map([...targets].reverse())) {
        if (event) events.set(id, [...(events.get(id) ?? []), event]);
      }
    }
    known.set(listeners, events);
  }
  node.props.shared_props.attached_events = [...(known.get(listeners).get(node.id) ?? [])];
  return node;
}"""

# The page that was just built is built again.
BUILT_TWICE = re.compile(r"\(\(\)=>\{(\w+)\(\),(\w+)\(\(\)=>\{(\w+)\.reload\(")
BUILT_ONCE = r"(()=>{if(\1()===0)return;\2(()=>{\3.reload("  # 0: it was never reloaded

# Gradio sends the answers of queued events over a stream that it ends after the last one. An event that was sent just
# before the page reads of the end is answered by nobody, until another event opens a stream. The page also breaks off
# what has ended, and with it perhaps a newer stream.
STREAM_ENDS = re.compile(r"(`close_stream`\)\{)\w+\((\w+),(\w+)\.abort_controller\);return\}")
ANOTHER_STREAM = r"\1\2.open=false;if(\3.unclosed_events.size)\3.open_stream();return}"

# Of the same listener's events only one is to be under way, but it isn't seen before the form's values are collected:
# two that come shortly after each other are both sent, and the later answer may be to the earlier one.
SENT_TWICE = re.compile(
    r"(let \w+=\w+\((\w+)\.trigger_modes,this\.submissions\.has\(\2\.id\))"
    r"(\);if.{0,80}?this\.queue\.add\(\2\.id\);continue\})"
    r"(\2\.functions\.backend&&.{0,800}?=await \2\.run\(this\.client,\w+,\w+\.event_data,\w+\);)"
)
SENT_ONCE = (
    r"\1||(this.sending??=new Set).has(\2.id)\3"
    r"if(\2.functions.backend&&!\2.functions.backend_js&&\2.connection_type!==`stream`)this.sending.add(\2.id);"
    r"\4this.sending.delete(\2.id);"
)
# And where an event fails, the one that waits for its end is sent, which Gradio forgets.
FAILED = re.compile(r"\}catch\{(this\.update_loading_status\(\{status:`error`,fn_index:(\w+)\.id)")
WAITING_SENT = (
    r"}catch{this.sending?.delete(\2.id);"
    r"if(this.queue.delete(\2.id))"
    r"setTimeout(()=>this.dispatch({type:`fn`,fn_index:\2.id,event_data:null,target_id:null}));\1"
)

CHANGES = (
    ("Blocks-*.js", EVERY_STATUS, CHANGED_STATUS),
    ("Blocks-*.js", BUILT_TWICE, BUILT_ONCE),
    ("Blocks-*.js", SENT_TWICE, SENT_ONCE),
    ("Blocks-*.js", FAILED, WAITING_SENT),
    ("core-*.js", SEARCH, REMEMBERED),
    ("core-*.js", EACH_LISTENER, BY_COMPONENT),
    ("index-*.js", STREAM_ENDS, ANOTHER_STREAM),
)


class QuickScripts:
    """Middleware that serves the changed scripts."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._scripts = quickened(SCRIPTS)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        _, _, name = scope.get("path", "").rpartition("/assets/")
        script = self._scripts.get(name) if scope.get("method") == "GET" else None
        if script is None:
            await self._app(scope, receive, send)
            return
        headers = {"cache-control": "no-cache"}  # under its name other programs at this address serve Gradio's own
        await Response(script, media_type="application/javascript", headers=headers)(scope, receive, send)


def quickened(folder: Path) -> dict[str, str]:
    """Names and changed texts of the scripts in `folder` with a line to change; a line that is there twice stays."""
    changed: dict[str, str] = {}
    for pattern, line, replacement in CHANGES:
        for path in folder.glob(pattern):
            text, count = line.subn(replacement, changed.get(path.name) or path.read_text(encoding="utf-8"))
            if count == 1:
                changed[path.name] = text
    return changed
