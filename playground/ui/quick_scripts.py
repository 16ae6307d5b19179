"""Quickens the page: serves two of Gradio's scripts (6.31) with a line of each changed.

At each event, such as a streamed word, Gradio sets the status of all components that any listener has ever read or
written, changed or not, and looks each one up by walking the whole page. With 560 components an answer of 200 tokens
took 38 seconds of a processor, and takes 4 (tests/bench/page_cost.py). Here only a status that has changed is set, and
a component that was found once is remembered. Where another version of Gradio has no such lines, its scripts are
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
    r"function (\w+)\(e,t\)\{(if\(e\.id===t\)return e;if\(e\.children\)for\(let n of e\.children\)"
    r"\{let e=)\1(\(n,t\);if\(e\)return e\}return null\})"
)
# Remembered for each tree. A part is replaced only by Gradio's `render`, which this page doesn't use.
REMEMBERED = r"""const foundById = new WeakMap();
function \1(tree, id) {
  if (!foundById.has(tree)) foundById.set(tree, new Map());
  const found = foundById.get(tree);
  if (!found.has(id)) {
    const node = \1Walk(tree, id);
    if (!node) return null;
    found.set(id, node);
  }
  return found.get(id);
}
function \1Walk(e,t){\2\1Walk\3"""

CHANGES = (("Blocks-*.js", EVERY_STATUS, CHANGED_STATUS), ("core-*.js", SEARCH, REMEMBERED))


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
    """Names and changed texts of the scripts in `folder` with a line that is changed; none that has it twice."""
    changed = {}
    for pattern, line, replacement in CHANGES:
        for path in folder.glob(pattern):
            text, count = line.subn(replacement, path.read_text(encoding="utf-8"))
            if count == 1:
                changed[path.name] = text
    return changed
