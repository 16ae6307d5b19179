"""Ways in which a run's folder can be malformed, for tests: each makes a run of `make` unreadable in one place."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from playground import runs
from playground.settings import Settings

LONE = "\ud83d"  # half an emoji
DEEP = "[" * 3000 + "]" * 3000
HUGE = 10**400
EVENTS, SETTINGS, LABEL, ANSWERS = "events.jsonl", "settings.json", "label.json", "answers.jsonl"
Malform = Callable[[Path], Any]


def make(root: Path, model: str = "smollm2-135m-instruct") -> runs.Run:
    """A fine-tune that has ended, with all that a run can have."""
    settings = Settings().with_values({"load": {"model": model, "bits": 16}})
    run = runs.create(root, "tune", settings, hardware={"device": "cpu", "name": "CPU"}, versions={"torch": "2"})
    run.append("loaded", model=model, bits=16)
    run.append("phase", name="tune")
    run.append("memory_predicted", phase="tune", parts={"weights": 3}, rss=10, need=10, capacity=100, verdict="fits")
    run.append("streamed", layers=[0, 2], total=4, bytes=7)
    run.append("memory", rss=11, parts={"weights": 3}, buffers={"ready": [0], "copying": [2]})
    for step in (1, 2):
        run.append("step", step=step, steps=2, loss=1.5, tokens=10, lr=0.1, tokens_per_s=5.0)
    run.append("sample", step=2, prompt="p", text="t")
    run.append("eval", when="after", loss=1.0)
    run.append("memory_measured", phase="tune", parts={"weights": 3}, peak={"rss": 11})
    result = {"steps": 2, "loss": {"before": 2.0, "after": 1.0}, "tokens_per_s": 5.0, "seconds": 2.0}
    run.append("done", job="tune", result=result)
    run.adapter.mkdir()
    (run.folder / LABEL).write_text('{"name": "mine", "note": "n"}')
    (run.folder / ANSWERS).write_text('{"instruction": "q", "base": "b", "tuned": "t"}\n')
    return run


def _write(name: str, text: str | bytes) -> Malform:
    data = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    return lambda folder: (folder / name).write_bytes(data)


def _remove(name: str) -> Malform:
    return lambda folder: (folder / name).unlink()


def _as_folder(name: str) -> Malform:
    return lambda folder: ((folder / name).unlink(), (folder / name).mkdir())


def _as_link(name: str, target: str) -> Malform:
    return lambda folder: ((folder / name).unlink(), (folder / name).symlink_to(target))


def _as_pipe(name: str) -> Malform:
    return lambda folder: ((folder / name).unlink(), os.mkfifo(folder / name))


def _all_events(**fields: Any) -> Malform:
    """Put values into every event."""

    def malform(folder: Path) -> None:
        lines = (folder / EVENTS).read_text().splitlines()
        events = [{**json.loads(line), **fields} for line in lines]
        (folder / EVENTS).write_text("".join(json.dumps(event) + "\n" for event in events))

    return malform


def _without(*names: str) -> Malform:
    """Take fields out of every event."""

    def malform(folder: Path) -> None:
        events = [json.loads(line) for line in (folder / EVENTS).read_text().splitlines()]
        kept = [{name: value for name, value in event.items() if name not in names} for event in events]
        (folder / EVENTS).write_text("".join(json.dumps(event) + "\n" for event in kept))

    return malform


def _started(**fields: Any) -> Malform:
    """Put values into the first event."""

    def malform(folder: Path) -> None:
        first, *rest = (folder / EVENTS).read_text().splitlines()
        (folder / EVENTS).write_text("\n".join([json.dumps({**json.loads(first), **fields}), *rest]) + "\n")

    return malform


def _added(line: str | bytes) -> Malform:
    """Append a line to the events."""
    data = line if isinstance(line, bytes) else line.encode("utf-8", "surrogatepass")

    def malform(folder: Path) -> None:
        with open(folder / EVENTS, "ab") as file:
            file.write(data + b"\n")

    return malform


WRONG: dict[str, Any] = {"none": None, "text": "x", "number": -1, "huge": HUGE, "list": [[]], "object": {"a": {}}}
FIELDS = (
    *(
        "t",
        "kind",
        "phase",
        "name",
        "parts",
        "peak",
        "step",
        "steps",
        "loss",
        "tokens",
        "tokens_per_s",
        "result",
        "job",
    ),
    *(
        "rss",
        "device_used",
        "when",
        "settings",
        "hardware",
        "versions",
        "began",
        "prompt",
        "text",
        "values",
        "problems",
        "layers",
        "total",
        "bytes",
        "buffers",
    ),
)
MALFORMED: dict[str, Malform] = {
    **{f"no {name}": _remove(name) for name in (EVENTS, SETTINGS, LABEL, ANSWERS)},
    **{f"{name} is a folder": _as_folder(name) for name in (EVENTS, SETTINGS, LABEL, ANSWERS)},
    **{f"{name} links nowhere": _as_link(name, "absent") for name in (EVENTS, SETTINGS, LABEL, ANSWERS)},
    **{f"{name} links to itself": _as_link(name, name) for name in (EVENTS, SETTINGS, LABEL, ANSWERS)},
    **{f"{name} is a pipe": _as_pipe(name) for name in (EVENTS, SETTINGS, LABEL, ANSWERS)},
    **{f"{name} is empty": _write(name, b"") for name in (EVENTS, SETTINGS, LABEL, ANSWERS)},
    **{f"{name} is no text": _write(name, b"\xff\xfe\x00\xd8" * 9) for name in (EVENTS, SETTINGS, LABEL, ANSWERS)},
    **{f"{name} is nested": _write(name, DEEP + "\n") for name in (EVENTS, SETTINGS, LABEL, ANSWERS)},
    **{f"{name} is a number": _write(name, f"{10**4000}\n") for name in (EVENTS, SETTINGS, LABEL, ANSWERS)},
    **{f"{name} has halves": _write(name, f'{{"name": "{LONE}"}}\n') for name in (EVENTS, SETTINGS, LABEL, ANSWERS)},
    **{f"{name} is endless": _as_link(name, "/dev/zero") for name in (SETTINGS, LABEL, ANSWERS)},
    **{f"every {field} is {kind}": _all_events(**{field: value}) for field in FIELDS for kind, value in WRONG.items()},
    **{f"no {field} in any event": _without(field) for field in FIELDS},
    **{f"it began at {value}": _started(began=value) for value in (1e300, -1e18, "x", float("nan"), 10**30)},
    **{
        f"settings are {kind}": _started(settings={"load": {"model": value, "bits": value}, "data": value, "x": value})
        for kind, value in {**WRONG, "halves": LONE, "nan": float("nan"), "nested": json.loads(DEEP[2900:3100])}.items()
    },
    "parts of another version": _all_events(parts={"future": 3, "weights": 0}, peak={"rss": 0, "future": 1}),
    "buffers of another form": _all_events(buffers={"ready": ["x", {}, 2**70], "copying": 7}, layers=[None, 2**70]),
    "a seed beyond 64 bits": _started(settings={"data": {"seed": 2**70}, "train": {"batch_size": 2**64}}),
    "halves of characters": _added(f'{{"t": 9, "kind": "note", "key": "{LONE}", "values": {{"{LONE}": "{LONE}"}}}}'),
    "escaped halves": _added('{"t": 9, "kind": "sample", "step": 1, "prompt": "\\ud83d", "text": "\\udc00"}'),
    "an event of 5 MB": _added('{"t": 9, "kind": "note", "key": "x", "values": {"x": "' + "y" * 5_000_000 + '"}}'),
    "an event of 20 MB": _added('{"t": 9, "kind": "note", "key": "x", "values": {"x": "' + "y" * 20_000_000 + '"}}'),
    "a nested event": _added('{"t": 9, "kind": "note", "key": "x", "values": ' + DEEP + "}"),
    "a step of 10^9": _added('{"t": 9, "kind": "step", "step": 1000000000, "steps": 1000000000, "loss": 1e300}'),
    "infinite times": _added('{"t": 1e999, "kind": "step", "step": 3, "loss": Infinity}'),
    "no beginning": lambda folder: (folder / EVENTS).write_text('{"t": 1, "kind": "done", "result": {}}\n'),
    "an unknown error": _added('{"t": 9, "kind": "error", "job": "tune", "problems": [3, {"key": [], "values": 3}]}'),
    "a problem's values": _added('{"t":9,"kind":"error","job":"tune","problems":[{"key":"error.busy","values":[1]}]}'),
    "adapter is a file": lambda folder: ((folder / "adapter").rmdir(), (folder / "adapter").write_text("x")),
    "adapter links nowhere": lambda folder: ((folder / "adapter").rmdir(), (folder / "adapter").symlink_to("absent")),
    "checkpoint is a folder": lambda folder: (folder / "checkpoint.pt").mkdir(),
    "export holds a pipe": lambda folder: ((folder / "export").mkdir(), os.mkfifo(folder / "export" / "adapter.zip")),
    "export is a file": lambda folder: (folder / "export").write_text("x"),
    "wrong measures": _added(
        '{"t": 9, "kind": "eval", "when": "measures", "helped": [3, {"instruction": 3}], "hurt": [[]], "measures": 3}'
    ),
}
