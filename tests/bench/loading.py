"""Peak of main memory while a model is loaded, against the bytes of the loaded model: each width, file and way.

    python tests/bench/loading.py --save tests/bench/results/loading.json
    python tests/bench/loading.py --device cuda --only '-> (16|8|4)( streamed)?$' --save FILE    # a GPU takes the model

Models have random weights: a Llama of 206 million parameters in 64 layers, whose largest weight is 0.5 % of them, as
in a model of 7 billion. Each arm is a process by itself, which loads a toy first, so that libraries and kernels are
there; what it holds then is the base. The peak is the kernel's own mark of the highest resident size (VmHWM), which is
reset before the load, less the base: anonymous memory and mapped files. How they share it, a parent reads every
millisecond from /proc/<pid>/status; smaps_rollup counted blocks twice that were mapped meanwhile. Several processes
are started as `accelerate launch` does and measured until the weights are split; what counts is the sum of their peaks,
shared pages twice. Subtracted is what a network of as many layers takes that has next to no weights: Python's objects,
17 MB in this one at 4 bits, whatever its width. Linux alone.
Onto a GPU a Llama of 1.2 billion parameters in 24 layers is loaded, of which nothing stays in main memory unless it is
streamed. Where the kernel's mark can't be reset, the highest of the readings is the peak.
"""

import argparse
import json
import multiprocessing
import os
import platform
import re
import shutil
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve()
PROJECT = HERE.parents[2]
sys.path[:0] = [str(PROJECT), str(HERE.parents[1])]

SHAPE = {"hidden_size": 512, "intermediate_size": 1408, "num_key_value_heads": 4, "initializer_range": 0.02}
LAYERS = 64
SHAPE_ON_GPU = {"hidden_size": 2048, "intermediate_size": 5632, "num_attention_heads": 16, "num_key_value_heads": 16}
LAYERS_ON_GPU = 24
WIDTHS = ("32", "16", "8", "4")
PERIOD = 0.001  # seconds between two readings
FORMATS = {  # dtype, bytes of the largest shard, suffix
    "float32": ("float32", "100GB", "safetensors"),
    "bfloat16": ("bfloat16", "100GB", "safetensors"),
    "bfloat16, shards": ("bfloat16", "100MB", "safetensors"),
    "bfloat16, .bin": ("bfloat16", "100GB", "bin"),
}
KINDS: dict[str, dict[str, Any]] = {
    "32": {"bits": 32},
    "16": {"bits": 16, "dtype": "bfloat16"},
    "8": {"bits": 8, "dtype": "bfloat16"},
    "4": {"bits": 4, "dtype": "bfloat16"},
    "fp8": {"bits": 8, "dtype": "bfloat16", "quant_type_8bit": "fp8"},
    "16 streamed": {"bits": 16, "dtype": "bfloat16", "streamed_layers": "3"},
    "4 streamed": {"bits": 4, "dtype": "bfloat16", "streamed_layers": "3"},
}
IMPORTED = ("toys", "transformers", "accelerate", "bitsandbytes", "playground.model.load", "playground.train.parallel")
SPLIT = {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}


def save_model(folder: Path, form: str, family: str = "llama", **shape: Any) -> Path:
    """Save a model with random weights in one of FORMATS, with a tokenizer; return its folder."""
    import torch
    import toys

    dtype, shard, suffix = FORMATS[form]
    model = toys.make_model(family, **(SHAPE | {"num_hidden_layers": LAYERS} | shape)).to(getattr(torch, dtype))
    model.save_pretrained(folder, max_shard_size=shard)
    if suffix == "bin":
        torch.save(dict(model.state_dict()), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
    toys.make_tokenizer(False).save_pretrained(folder)
    return folder


def save_toy(folder: Path, layers: int = LAYERS) -> Path:
    """Save a model of so many layers with next to no weights."""
    small = {"hidden_size": 64, "intermediate_size": 64, "vocab_size": 336}
    return save_model(folder, "bfloat16", num_hidden_layers=layers, **small)


def resident(pid: int) -> dict[str, int]:
    """Resident bytes of a process: now, anonymous, of files, and `mark`, the highest since the mark was reset."""
    kinds = {"VmRSS:": "rss", "RssAnon:": "anonymous", "RssFile:": "file", "VmHWM:": "mark"}
    lines = [line.split() for line in Path(f"/proc/{pid}/status").read_text().splitlines()]
    return {kinds[words[0]]: int(words[1]) * 1024 for words in lines if words and words[0] in kinds}


def reset_mark(pid: int) -> bool:
    """Have the highest resident size count from now on; False where the kernel doesn't do that."""
    try:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
    except OSError:
        return False
    now = resident(pid)
    return "mark" in now and now["mark"] < 1.01 * now["rss"]


class Loader:
    """A process that loads a model on request and reports its bytes; see `child`.

    load: Load's fields and `device`. On a CPU all such processes are forks of one that has imported the libraries.
    """

    def __init__(self, folder: Path, toy: Path, load: dict, environment: dict[str, str]):
        load = {"device": "cpu"} | load
        context = multiprocessing.get_context("forkserver" if load["device"] == "cpu" else "spawn")
        if load["device"] == "cpu":
            context.set_forkserver_preload(list(IMPORTED))
        self._pipe, its_end = context.Pipe()
        self._process = context.Process(target=child, args=(its_end, folder, toy, load, environment), daemon=True)
        self._process.start()
        its_end.close()  # else its end would not be noticed here
        self.pid = self._process.pid

    @property
    def has_answered(self) -> bool:
        """Whether there is an answer to read."""
        return self._pipe.poll()

    def answer(self) -> Any:
        """Its next answer. Raises EOFError if it has ended."""
        return self._pipe.recv()

    def go(self) -> None:
        """Let it continue."""
        self._pipe.send(True)

    def end(self) -> None:
        """Wait for its end, once all may go on."""
        self._process.join(60)
        assert self._process.exitcode == 0


def measure(folder: Path, toy: Path, load: dict, processes: int = 1, objects: int = 0) -> dict[str, Any]:
    """Load a model in some processes: bytes of it, and of their memory over their bases, at the peak and after it.

    objects: bytes of the peak of a toy with as many layers; share: of the peak without them in the model's bytes.
    """
    ports = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "ACCELERATE_MIXED_PRECISION": "no"}
    sizes = {"WORLD_SIZE": str(processes), "LOCAL_WORLD_SIZE": str(processes)}
    environments = [{"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(processes)]
    common = ports | sizes | SPLIT if processes > 1 else {}
    loaders = [Loader(folder, toy, load, common | own if common else {}) for own in environments]
    for loader in loaders:
        loader.answer()
    base = [resident(loader.pid) for loader in loaders]
    marked = len([1 for loader in loaders if reset_mark(loader.pid)]) == len(loaders)
    for loader in loaders:
        loader.go()
    began = time.perf_counter()
    peak: dict[str, int] = {}
    for sums in _readings(loaders):
        over = {kind: sums[kind] - sum(b[kind] for b in base) for kind in sums}
        peak |= {f"highest {kind}": max(size, peak.get(f"highest {kind}", 0)) for kind, size in over.items()}
    seconds = time.perf_counter() - began
    stored = [loader.answer() for loader in loaders]
    counted = peak["highest rss"]
    if marked:
        counted = sum(resident(loader.pid)["mark"] for loader in loaders) - sum(b["rss"] for b in base)
    for loader in loaders:
        loader.go()
    for loader in loaders:
        loader.end()
    after = {f"after {kind}": size for kind, size in over.items()}
    share = (counted - objects) / sum(stored)
    result = {"stored": sum(stored), "peak": counted, "objects": objects, "share": share, "seconds": seconds}
    result |= {"base": sum(b["rss"] for b in base), "by mark": marked}
    return result | peak | after


def _readings(loaders: Sequence[Loader]) -> Iterator[dict[str, int]]:
    """The sum of the processes' memory, again and again until all have loaded; each then has an answer to read."""
    while True:
        done = all(loader.has_answered for loader in loaders)
        all_of_them = [resident(loader.pid) for loader in loaders]
        yield {kind: sum(one[kind] for one in all_of_them) for kind in all_of_them[0]}
        if done:
            return
        time.sleep(PERIOD)


def child(pipe: Connection, folder: Path, toy: Path, load: dict, environment: dict[str, str]) -> None:
    """Load a toy, say so and wait; load the model, say how many bytes it has in this process, and wait."""
    os.environ |= environment
    from playground.memory.release import release_memory
    from playground.train.parallel import Team

    def say(answer: Any) -> None:
        pipe.send(answer)
        pipe.recv()

    team = Team(load["device"], load["bits"])
    _load(team, toy, load)
    release_memory()
    say(True)
    kept = _load(team, folder, load)
    say(kept[1])
    team.leave()


def _load(team: Any, folder: Path, load: dict) -> tuple[Any, int]:
    """The loaded model, split if this process is one of several, and the bytes of its tensors here."""
    from playground.model.load import load_model
    from playground.settings import Load
    from playground.train.loss import Loss

    chosen, on_progress = Load(model=str(folder), **load), lambda *step: None
    loaded = load_model(folder, chosen, on_progress, team.load_device, team.splits_numbers, team.shares())
    if team.splits_numbers:
        loss = Loss(loaded.model, tries=False)
        loss.tried = True  # a forward pass isn't part of loading
        team.shard_weights(loss, loaded.pages)
    return loaded, _stored(loaded)


def _stored(loaded: Any) -> int:
    """Bytes of the tensors of a loaded model that are in this process."""
    from playground.memory.ledger import bytes_by_part

    if layers := loaded.streamed or loaded.split:  # what waits, the buffers that it is copied to, and the rest
        return layers.bytes + sum(p.nbytes for p in _outside(loaded, layers))
    parts = [getattr(p, "_local_tensor", p).nbytes for p in loaded.model.parameters()]
    return (
        sum(parts)
        if any(hasattr(p, "_local_tensor") for p in loaded.model.parameters())
        else sum(bytes_by_part(loaded.model).values())
    )


def _outside(loaded: Any, layers: Any) -> list[Any]:
    inside = {id(p) for number in layers.numbers for p in layers.layers[number].parameters()}
    return [p for p in loaded.model.parameters() if id(p) not in inside] + layers._buffers


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--save", type=Path)
    parser.add_argument("--only", default="", help="arms whose names match this regular expression")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    given = parser.parse_args()
    os.environ |= {"OMP_NUM_THREADS": "1", "PLAYGROUND_CALIBRATE": "0"}
    arms = [(form, kind, 1) for form in FORMATS for kind in KINDS if form in ("float32", "bfloat16") or kind in WIDTHS]
    arms += [(form, kind, 2) for form in ("float32", "bfloat16") for kind in ("32", "16", "8", "4")]
    home = Path(tempfile.mkdtemp())
    try:
        _measure_all([arm for arm in arms if re.search(given.only, _name(*arm))], home, given.device, given.save)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def _name(form: str, kind: str, processes: int) -> str:
    return f"{form} -> {kind}{f', {processes} processes' if processes > 1 else ''}"


def _measure_all(arms: Sequence[tuple[str, str, int]], home: Path, device: str, save: Path | None) -> None:
    """Measure arms one after another, print them, and save what was measured so far after each."""
    layers, shape = (LAYERS, {}) if device == "cpu" else (LAYERS_ON_GPU, SHAPE_ON_GPU)
    toy, results, objects = save_toy(home / "toy", layers), {}, {}
    for form, kind, processes in arms:
        key, folder, load = (kind, processes), home / form.replace(" ", ""), KINDS[kind] | {"device": device}
        if not folder.is_dir():
            save_model(folder, form, num_hidden_layers=layers, **shape)
        if key not in objects:
            objects[key] = measure(toy, toy, load, processes)["peak"]
        name = _name(form, kind, processes)
        results[name] = measure(folder, toy, load, processes, objects[key])
        print(_line(name, results[name]), flush=True)
        if save:
            save.write_text(json.dumps(_facts(device) | {"arms": results}, indent=1) + "\n")


def _line(name: str, result: dict) -> str:
    shown = ("stored", "peak", "objects", "highest anonymous", "highest file", "after rss")
    return f"{name:45} {result['share']:.3f} {result['seconds']:5.1f} s " + " ".join(
        f"{kind} {result[kind] / 2**20:.0f}" for kind in shown
    )


def _facts(device: str) -> dict:
    from playground.memory.meter import hardware

    libraries = ("torch", "transformers", "safetensors", "bitsandbytes", "accelerate")
    return {
        "hardware": hardware(device)["name"],
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "versions": {name: version(name) for name in libraries},
    }


if __name__ == "__main__":
    main()
