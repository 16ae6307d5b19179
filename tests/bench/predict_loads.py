"""Cells of predict_seconds.py that load models: predicted and measured seconds, files in the page cache and not.

A cell is load:model:width, on a CPU in a new process. Models are the offline ones and random weights of other
shapes, types and formats of files, saved for the benchmark. A toy is loaded first, so that libraries and kernels are
there. Each is loaded REPEATS times with its files in the page cache ("load warm") and as often after they were dropped
from it ("load cold", posix_fadvise); the medians count, of predictions too. On a CPU a load beside other work doesn't
count (`disturbed_loads`) and is repeated, MOST times in all, as the program doesn't keep such a calibration. `disk` has
the predicted seconds of waiting for the disk, `each` all that counted.
"""

import gc
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

CALIBRATE = "load:calibrate"
REPEATS, MOST = 3, 8
QUIET_SECONDS = 60.0  # of waiting until other work ends, before a load
OFFLINE = {"smollm2": "smollm2-135m-instruct", "gemma3": "gemma-3-270m"}
WIDE = {"hidden_size": 1536, "intermediate_size": 4096, "num_attention_heads": 12, "num_key_value_heads": 4}
LARGE = {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32, "num_key_value_heads": 32}
SHAPES: dict[str, tuple[str, str, dict[str, Any]]] = {  # the form of the files (loading.py), the family, the shape
    "llama": ("bfloat16", "llama", WIDE | {"num_hidden_layers": 16, "vocab_size": 32000}),
    "llama-float32": ("float32", "llama", WIDE | {"num_hidden_layers": 6, "vocab_size": 32000}),
    "llama-bin": ("bfloat16, .bin", "llama", WIDE | {"num_hidden_layers": 8, "vocab_size": 32000}),
    "deep": ("bfloat16, shards", "llama", {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 64}),
    "neox": (
        "bfloat16",
        "gpt_neox",
        {"hidden_size": 2048, "intermediate_size": 8192, "num_hidden_layers": 8, "vocab_size": 52000},
    ),
    "llama-3b": ("bfloat16", "llama", LARGE | {"num_hidden_layers": 14, "vocab_size": 32000}),
    "bloom": ("float16", "bloom", {"hidden_size": 1536, "n_layer": 24, "n_head": 16, "vocab_size": 250880}),
}
MODELS = {
    "cpu": (*OFFLINE, "llama", "llama-float32", "llama-bin", "deep", "neox"),
    "cuda": ("llama", "llama-float32", "llama-bin", "deep", "neox", "bloom", "llama-3b"),
}
WIDTHS = {"cpu": ("32", "16", "int8", "nf4"), "cuda": ("16", "int8", "nf4", "fp8")}
FURTHER = ("load:llama:fp4",)  # of a CPU


def cells(device: str) -> list[str]:
    """The names of all cells of a device."""
    return [f"load:{m}:{w}" for m in MODELS[device] for w in WIDTHS[device]] + [*(FURTHER if device == "cpu" else ())]


def other_cells(out: Path) -> list[dict]:
    """The cells of a result file that aren't of loads, as they stand there."""
    stored = json.loads(out.read_text(encoding="utf-8"))["cells"] if out.is_file() else []
    return [cell for cell in stored if not cell["cell"].startswith("load:")]


def run_cell(name: str, device: str, work: Path, toy: bool) -> dict:
    """Measure one cell, or calibrate and keep what was measured in the folder `work`."""
    from playground import catalog, compat

    compat.import_libraries(catalog.cache_folder())  # as the engine does, and then:
    gc.freeze()
    return _calibrate(device, work) if name == CALIBRATE else _measure(name, device, work, toy)


def _calibrate(device: str, work: Path) -> dict:
    import playground.train.loop  # noqa: F401  # the engine has it imported when it calibrates
    from playground.memory.meter import hardware
    from playground.model.load import load_model
    from playground.predict.load_calibration import measure_loads
    from playground.settings import Load

    offline = catalog_folder(OFFLINE["smollm2"])  # in the program a model was loaded before
    if device == "cpu" and offline:
        load_model(offline, Load(model=str(offline), bits=16, device="cpu"), lambda *step: None)
    for _ in range(MOST):
        (loads, seconds), others = _beside_others(lambda: _timed(lambda: measure_loads(device)), device)
        if not _is_disturbed(others, device):
            break
    (work / "loads").write_text(json.dumps(loads), encoding="utf-8")
    return {
        "seconds": round(seconds, 2),
        "percent_of_others": round(others, 1),
        "hardware": hardware(device),
        "loads": loads,
    }


def _timed(run: Callable[[], Any]) -> tuple[Any, float]:
    began = time.perf_counter()
    return run(), time.perf_counter() - began


def _beside_others(run: Callable[[], Any], device: str) -> tuple[Any, float]:
    """The result of a call once nothing else runs, if that is soon, and what part of the processor others used."""
    import psutil

    from playground.predict.calibration import BUSY_PERCENT, BUSY_SECONDS, percent_of_others, processor_seconds

    until = time.perf_counter() + QUIET_SECONDS
    while device == "cpu" and time.perf_counter() < until and psutil.cpu_percent(BUSY_SECONDS) > BUSY_PERCENT:
        pass
    before = processor_seconds()
    result = run()
    return result, percent_of_others(before, processor_seconds())


def _is_disturbed(others: float, device: str) -> bool:
    from playground.predict.calibration import BUSY_PERCENT

    return device == "cpu" and others > BUSY_PERCENT


def catalog_folder(model: str) -> Path | None:
    """The folder of a catalog's model, if it is on this machine."""
    from playground.model.source import local_folder

    return local_folder(model)


def _measure(name: str, device: str, work: Path, toy: bool) -> dict:
    import loading

    from playground.speed.rates import Rates

    _, model, width = name.split(":")
    folder = _folder(model, work, toy)
    rates = Rates(device, "", {}, {}, loads=json.loads((work / "loads").read_text(encoding="utf-8")))
    first = work / "first"
    if not first.is_dir():
        loading.save_toy(first, 2)
    _load(first, width, device)
    runs: dict[str, list[dict]] = {}
    others, disturbed = [], 0
    for state, prepare in (("warm", _read), ("cold", _drop)):
        counted: list[dict] = []
        spoilt: list[dict] = []
        while len(counted) < REPEATS and len(counted) + len(spoilt) < MOST:
            _for_each_file(folder, prepare)
            run, percent = _beside_others(lambda: _predict_and_load(folder, width, device, rates), device)
            (spoilt if _is_disturbed(percent, device) else counted).append(run)
            others += [percent] if run in counted else []
        disturbed += len(spoilt)
        runs[state] = counted or spoilt
    return _cell(runs) | {
        "stored_bytes": sum(file.stat().st_size for file in _files(folder)),
        "percent_of_others": round(max(others, default=0.0), 1),
        "disturbed_loads": disturbed,
        "disturbed": min(map(len, runs.values())) < REPEATS or not others,
    }


def _cell(runs: dict[str, list[dict]]) -> dict:
    def median(state: str, what: str) -> float:
        return statistics.median(run[what] for run in runs[state])

    predicted = {f"load {state}": median(state, "predicted") for state in runs}
    measured = {f"load {state}": median(state, "measured") for state in runs}
    return {
        "predicted": {what: round(value, 3) for what, value in predicted.items()},
        "measured": {what: round(value, 3) for what, value in measured.items()},
        "error": {what: round(100 * (predicted[what] / measured[what] - 1), 1) for what in predicted},
        "disk": {state: round(median(state, "disk"), 3) for state in runs},
        "each": {state: [round(run["measured"], 3) for run in of_state] for state, of_state in runs.items()},
    }


def _predict_and_load(folder: Path, width: str, device: str, rates: Any) -> dict:
    """A prediction made before a load as the program makes it, and what the load then took."""
    import torch

    from playground.memory import page_cache
    from playground.memory.release import release_memory
    from playground.model.dtype import compute_dtype
    from playground.predict import meta_model
    from playground.predict.load_seconds import predict_load_seconds

    release_memory()
    page_cache._rates.clear()  # each load has the disk's rate of its time
    load, config = _settings(folder, width, device), meta_model.config_of(str(folder))
    found = predict_load_seconds(config, load, compute_dtype(load, device)[0], rates)
    assert found, width
    began = time.perf_counter()
    _load(folder, width, device)
    if device == "cuda":
        torch.cuda.synchronize()
    measured = time.perf_counter() - began
    return {"predicted": found["seconds"], "measured": measured, "disk": found["disk"]}


def _settings(folder: Path, width: str, device: str) -> Any:
    from playground.settings import Load

    options: dict[str, Any] = {"bits": int(width)} if width.isdigit() else {"bits": 4, "quant_type": width}
    if width in ("int8", "int8-fast", "fp8"):
        options = {"bits": 8, "quant_type_8bit": width}
    return Load(model=str(folder), device=device, **options)


def _load(folder: Path, width: str, device: str) -> Any:
    from playground.model.load import load_model

    return load_model(folder, _settings(folder, width, device), lambda *step: None)


def _folder(model: str, work: Path, toy: bool) -> Path:
    """The folder of a model, saved if it isn't there yet."""
    import loading

    if model in OFFLINE and not toy:
        folder = catalog_folder(OFFLINE[model])
        assert folder, f"python -m playground fetch {OFFLINE[model]}"
        return folder
    folder = work / model
    if not folder.is_dir():
        loading.FORMATS["float16"] = ("float16", "100GB", "safetensors")
        form, family, shape = SHAPES.get(model, ("bfloat16", "llama", {}))
        loading.save_model(folder, form, family, **({"num_hidden_layers": 2} if toy else shape))
    return folder


def _files(folder: Path) -> list[Path]:
    return [file for file in folder.iterdir() if file.suffix in (".safetensors", ".bin")]


def _for_each_file(folder: Path, prepare: Callable[[int], object]) -> None:
    for file in _files(folder):
        descriptor = os.open(file, os.O_RDONLY)
        try:
            prepare(descriptor)
        finally:
            os.close(descriptor)


def _read(descriptor: int) -> None:
    while os.read(descriptor, 2**24):
        pass


def _drop(descriptor: int) -> None:
    os.fsync(descriptor)  # pages that wait to be written stay
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
