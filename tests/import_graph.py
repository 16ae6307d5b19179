"""The project's import graph by rooms: `python tests/import_graph.py [FOLDER] [--mermaid]`.

A room is a folder of playground/ or a file beside them. Counts every import, also those inside functions. `client` of
engine and planning are rooms of their own: they are all that the page's process may know of the other two processes.
"""

import argparse
import ast
import json
from collections import defaultdict
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
CLIENTS = ("engine.client", "planning.client")


def import_arrows(project: Path = PROJECT) -> dict[str, set[str]]:
    """{room: rooms that it imports} of every file of playground/ and app.py."""
    files = [project / "app.py", *sorted((project / "playground").rglob("*.py"))]
    known = {_module(project, file) for file in files}
    arrows: dict[str, set[str]] = {_room(module): set() for module in known}
    for file in files:
        here = _room(_module(project, file))
        for name in _imported(file, known):
            there = _room(name)
            if there not in (here, "playground"):
                arrows[here].add(there)
    arrows.pop("playground", None)
    return arrows


def file_cycles(project: Path = PROJECT) -> list[list[str]]:
    """Every cycle among files by their imports at module level, as a list of modules."""
    files = [project / "app.py", *sorted((project / "playground").rglob("*.py"))]
    known = {_module(project, file) for file in files}
    edges = {
        _module(project, f): {n for n in _imported(f, known, top_only=True) if n != _module(project, f)} for f in files
    }
    return _cycles({m: {t for t in ts if not _is_face_of(t, m)} for m, ts in edges.items()})


def room_cycles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Groups of rooms that import each other, directly or through others."""
    return _cycles(arrows)


def levels(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Rooms from the lowest, which import none, upwards; each stands above all that it imports."""
    left, placed, found = dict(arrows), set(), []
    while left:
        level = sorted(room for room, targets in left.items() if targets <= placed)
        if not level:
            raise ValueError(f"a cycle among {sorted(left)}")
        found.append(level)
        placed |= set(level)
        left = {room: targets for room, targets in left.items() if room not in placed}
    return found


def _module(project: Path, file: Path) -> str:
    name = ".".join(file.relative_to(project).with_suffix("").parts)
    return name.removesuffix(".__init__")


def _room(module: str) -> str:
    """playground.engine.client → engine.client; playground.train.loop → train; app → app."""
    inner = module.removeprefix("playground.")
    if inner in CLIENTS:
        return inner
    return inner.split(".")[0]


def _imported(file: Path, known: set[str], top_only: bool = False) -> set[str]:
    """The project's modules that a file imports."""
    tree = ast.parse(file.read_text(encoding="utf-8"))
    nodes = tree.body if top_only else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found |= {inner} if inner in known else {node.module} & known
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & known
    return found


def _is_face_of(module: str, of: str) -> bool:
    """Whether a module is the package that the other stands in: its __init__ re-exports it."""
    return of.startswith(f"{module}.")


def _cycles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected components of more than one node (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found = []

    def visit(node: str) -> None:
        index[node] = low[node] = len(index)
        stack.append(node)
        for target in sorted(edges.get(node, ())):
            if target not in index:
                visit(target)
                low[node] = min(low[node], low[target])
            elif target in stack:
                low[node] = min(low[node], index[target])
        if low[node] == index[node]:
            at = stack.index(node)
            component = stack[at:]
            del stack[at:]
            if len(component) > 1:
                found.append(sorted(component))

    for node in sorted(edges):
        if node not in index:
            visit(node)
    return found


def mermaid(arrows: dict[str, set[str]]) -> str:
    """The graph as Mermaid text, without arrows that follow from others."""
    lines = ["flowchart TD"]
    for room, targets in sorted(arrows.items()):
        lines += [f"  {room} --> {target}" for target in sorted(_direct(arrows, room, targets))]
    return "\n".join(lines)


def _direct(arrows: dict[str, set[str]], room: str, targets: set[str]) -> set[str]:
    reached: dict[str, set[str]] = defaultdict(set)

    def below(node: str) -> set[str]:
        if node not in reached:
            reached[node] = set().union(*({t} | below(t) for t in arrows.get(node, ())), set())
        return reached[node]

    return {t for t in targets if not any(t in below(other) for other in targets - {t})}


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=PROJECT)
    parser.add_argument("--mermaid", action="store_true", help="print the graph as Mermaid text")
    options = parser.parse_args()
    arrows = import_arrows(options.folder)
    if options.mermaid:
        print(mermaid(arrows))
        return
    cycles = room_cycles(arrows)
    for floor, rooms in enumerate(levels(arrows) if not cycles else []):
        print(floor, " ".join(rooms))
    count = sum(map(len, arrows.values()))
    print(
        json.dumps(
            {"rooms": len(arrows), "arrows": count, "room_cycles": cycles, "file_cycles": file_cycles(options.folder)}
        )
    )


if __name__ == "__main__":
    main()
