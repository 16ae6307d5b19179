"""The project's import graph by rooms: `python tests/import_graph.py [FOLDER] [--mermaid] [--update FILE]`.

A room is a folder of playground/ or a single file next to them. Counts every import, also those inside functions. The
clients of engine and planning count as separate rooms: the page's process may import nothing else of those two.
"""

import argparse
import ast
import json
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[1]
CLIENTS = ("engine.client", "planning.client")
LABELS = {"__main__": "python -m playground"}  # shown in the picture instead of the room's name


def import_arrows(project: Path = PROJECT) -> dict[str, set[str]]:
    """{room: rooms that it imports} of every file of playground/ and app.py."""
    files = [project / "app.py", *sorted((project / "playground").rglob("*.py"))]
    known = {_module(project, file) for file in files}
    arrows: dict[str, set[str]] = {_room(module): set() for module in known}
    for file in files:
        room = _room(_module(project, file))
        arrows[room] |= {_room(name) for name in _imported(file, known)} - {room, "playground"}
    arrows.pop("playground", None)
    return arrows


def file_cycles(project: Path = PROJECT) -> list[list[str]]:
    """Every cycle among files by their imports at module level, as a list of modules."""
    files = [project / "app.py", *sorted((project / "playground").rglob("*.py"))]
    known = {_module(project, file) for file in files}
    edges = {
        _module(project, f): {n for n in _imported(f, known, top_only=True) if n != _module(project, f)} for f in files
    }
    return _cycles({m: {t for t in ts if not _is_own_package(t, m)} for m, ts in edges.items()})


def room_cycles(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Groups of rooms that import each other, directly or through others."""
    return _cycles(arrows)


def levels(arrows: dict[str, set[str]]) -> list[list[str]]:
    """Rooms from the lowest, which import none, upwards; each is one level above the highest that it imports."""
    remaining, placed, result = dict(arrows), set[str](), []
    while remaining:
        level = sorted(room for room, targets in remaining.items() if targets <= placed)
        if not level:
            raise ValueError(f"a cycle among {sorted(remaining)}")
        result.append(level)
        placed |= set(level)
        remaining = {room: targets for room, targets in remaining.items() if room not in placed}
    return result


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
    imported: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                imported |= {inner} if inner in known else {node.module} & known
        elif isinstance(node, ast.Import):
            imported |= {alias.name for alias in node.names} & known
    return imported


def _is_own_package(package: str, module: str) -> bool:
    """Whether `package` contains `module`: a package's __init__ re-exports its modules, which is no cycle."""
    return module.startswith(f"{package}.")


def _cycles(edges: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected components of more than one node (Tarjan 1972)."""
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    components: list[list[str]] = []

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
                components.append(sorted(component))

    for node in sorted(edges):
        if node not in index:
            visit(node)
    return components


def mermaid(arrows: dict[str, set[str]]) -> str:
    """The graph as Mermaid text, without arrows that follow from others: one line a room, and one for each odd name."""
    lines = ["flowchart TD"]
    lines += [f'  {_node(room)}["{LABELS.get(room, room)}"]' for room in sorted(arrows) if _node(room) != room]
    for room in sorted(arrows):
        targets = sorted(_direct(arrows, room))
        if targets:
            lines.append(f"  {_node(room)} --> {' & '.join(map(_node, targets))}")
    return "\n".join(lines)


def update_picture(document: Path, picture: str) -> None:
    """Replace the content of the first Mermaid block of a Markdown file."""
    before, opening, rest = document.read_text(encoding="utf-8").partition("```mermaid\n")
    _, closing, after = rest.partition("```")
    if not closing:
        raise ValueError(f"{document} has no Mermaid block")
    document.write_text(f"{before}{opening}{picture}\n{closing}{after}", encoding="utf-8")


def _node(room: str) -> str:
    """A room as a Mermaid node: no dots, no leading underscores."""
    return room.replace(".", "_").strip("_")


def _direct(arrows: dict[str, set[str]], room: str) -> set[str]:
    """The rooms that a room imports and that none of its other imports leads to (transitive reduction)."""
    reached: dict[str, set[str]] = {}

    def below(node: str) -> set[str]:
        if node not in reached:
            reached[node] = set().union(*({t} | below(t) for t in arrows.get(node, ())))
        return reached[node]

    targets = arrows[room]
    return {t for t in targets if not any(t in below(other) for other in targets - {t})}


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("folder", nargs="?", type=Path, default=PROJECT)
    parser.add_argument("--mermaid", action="store_true", help="print the graph as Mermaid text")
    parser.add_argument("--update", type=Path, metavar="FILE", help="write it into a Markdown file's Mermaid block")
    options = parser.parse_args()
    arrows = import_arrows(options.folder)
    if options.update:
        update_picture(options.update, mermaid(arrows))
        return
    if options.mermaid:
        print(mermaid(arrows))
        return
    cycles = room_cycles(arrows)
    for number, rooms in enumerate(levels(arrows) if not cycles else []):
        print(number, " ".join(rooms))
    count = sum(map(len, arrows.values()))
    print(
        json.dumps(
            {"rooms": len(arrows), "arrows": count, "room_cycles": cycles, "file_cycles": file_cycles(options.folder)}
        )
    )


if __name__ == "__main__":
    main()
