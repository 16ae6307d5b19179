"""Renew the recordings of a 7B model: `python -m tests.record_gpu [OUT]`, on a GPU with 40 GB or more.

A model of OpenCALM-7B's shape is saved with random weights, which take the memory and the time of trained ones and
say nothing. It is loaded, and fine-tuned by the talk's recipe to its end at each bit width; and under a cap of 24 GiB
once in 32 bits and once with all weights trained, which end in real out-of-memory errors. Writes a recording of each
run to OUT (assets/recordings). `--only`: runs whose names contain this. `--toy`: a tiny model, to try the script
anywhere.
"""

import argparse
import multiprocessing
import tempfile
from pathlib import Path
from typing import Any

from playground import ASSETS, catalog, runs
from playground.errors import PlaygroundError
from playground.runs import recordings
from playground.settings import Settings

SHAPE = "cyberagent/open-calm-7b"
WIDTHS = (32, 16, 8, 4)
CAP_GIB = 24
TOY = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
TOKENS = 8000  # of a vocabulary learned from the bundled Japanese texts: about as many a row as OpenCALM's own needs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", nargs="?", type=Path, default=ASSETS / "recordings")
    parser.add_argument("--only", default="")
    parser.add_argument("--toy", action="store_true")
    options = parser.parse_args()

    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "open-calm-7b"
        _in_process(_save_model, model, options.toy)
        for name, job, values in _cells(str(model), options.toy):
            if options.only not in name:
                continue
            _in_process(_record, Path(folder) / name, job, values, options.out / f"{name}.jsonl")


def _cells(model: str, toy: bool) -> list[tuple[str, str, dict]]:
    """(name of the recording, job, settings) of each run."""
    talk = catalog.presets()["talk"]["settings"]
    steps = {"sample_every": "off", "eval_rows": 0} | ({"max_steps": 2} if toy else {})
    tune = talk | {"train": talk["train"] | steps, "data": {"source": "plain-qa.ja"}}
    loads = {bits: {"load": {"model": model, "bits": bits, "force": True}} for bits in WIDTHS}
    capped = {bits: tune | {"load": loads[bits]["load"] | {"simulate_gpu_gib": CAP_GIB}} for bits in (32, 16)}
    full = capped[16] | {"train": tune["train"] | {"method": "full"}}
    return [
        *((f"calm-7b-load-{bits}", "load", load) for bits, load in loads.items()),
        *((f"calm-7b-lora-{bits}", "tune", tune | load) for bits, load in loads.items()),
        (f"calm-7b-lora-32-on-{CAP_GIB}-gib", "tune", capped[32]),
        (f"calm-7b-full-16-on-{CAP_GIB}-gib", "tune", full),
    ]


def _in_process(work: Any, *arguments: Any) -> None:
    """Run this work in a new process, so that no run finds the GPU memory of the one before."""
    process = multiprocessing.get_context("spawn").Process(target=work, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        raise SystemExit(f"{work.__name__} {arguments[0]} ended with {process.exitcode}")


def _save_model(folder: Path, toy: bool) -> None:
    """A model of the shape with random float16 weights, and a tokenizer."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(**catalog.shapes()[SHAPE]["config"] | (TOY if toy else {}))
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        torch.set_default_dtype(torch.float16)
        model = AutoModelForCausalLM.from_config(config)
        torch.set_default_dtype(torch.float32)
    model.save_pretrained(folder)
    _tokenizer().save_pretrained(folder)


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=TOKENS, special_tokens=["<|endoftext|>", "<|padding|>"])
    tokenizer.train([str(path) for path in (ASSETS / "data").glob("*.ja.*")], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|padding|>")


def _record(root: Path, job: str, values: dict, path: Path) -> None:
    """Run one job in its own runs folder and write its recording. An error of the run is part of it."""
    from playground.engine.workbench import Workbench

    workbench = Workbench(root)
    settings = Settings().with_values(values)
    try:
        for event in getattr(workbench, job)(settings):
            if event["kind"] in ("phase", "note"):
                print(path.stem, f"{event['t']:.1f} s", event.get("name") or event.get("key"), flush=True)
    except PlaygroundError as error:
        print(path.stem, error.text("en"), flush=True)
    [run] = runs.history(root)
    text = recordings.record(list(runs.find(root, run.id).events()), shape=SHAPE)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    print(path.stem, run.state, f"{len(text.encode()):,} bytes", flush=True)


if __name__ == "__main__":
    main()
