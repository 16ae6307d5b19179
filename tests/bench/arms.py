"""What the benchmarks share: arms in processes of their own, their medians, the peer as its guides write it, made-up models.

Nothing large is imported before it is needed: a process that only starts others stays out of their way.
"""

import json
import platform
import statistics
import subprocess
import sys
import time
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests")]  # playground, and tests/toys.py

LONGEST = 3600  # seconds an arm
PAD, RANK, BATCH = 2, 8, 32
LENGTHS = [round(58 + 198 * n / (BATCH - 1)) for n in range(BATCH)]
LABELLED = 0.6
SPECIAL = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": PAD, "tie_word_embeddings": False}
WIDE = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32}
SHAPES = {
    "calm": (
        "gpt_neox",
        {
            "intermediate_size": 16384,
            "vocab_size": 52224,
            "rotary_pct": 1.0,
            "use_parallel_residual": False,
            "max_position_embeddings": 2048,
        },
    ),
    "llama": (
        "llama",
        {"intermediate_size": 11008, "vocab_size": 32000, "num_key_value_heads": 32, "max_position_embeddings": 4096},
    ),
}
TINY = {
    "hidden_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": 512,
}


# --- arms in processes ---


def attempt(arm) -> dict:
    """What an arm measured, or {"failed": what it said}."""
    try:
        return arm()
    except Exception as error:
        return {"failed": str(error)[-2000:] or repr(error)}


def last_line(command: list[str], env: dict | None = None) -> dict:
    """The JSON that a process ends its output with. Raises RuntimeError with what it said instead."""
    ended = subprocess.run(command, check=False, cwd=PROJECT, env=env, capture_output=True, text=True, timeout=LONGEST)
    if ended.returncode:
        raise RuntimeError(f"exit status {ended.returncode}: {ended.stdout[-500:]} {ended.stderr[-1500:]}")
    return json.loads(ended.stdout.splitlines()[-1])


def returned(generator):
    """What a generator returns, once it is through."""
    while True:
        try:
            next(generator)
        except StopIteration as end:
            return end.value


# --- reports ---


def gib(size: int) -> float:
    return round(size / 2**30, 3)


def medians(found: list[dict]) -> dict:
    """Medians of what the rounds that worked measured; how many worked and failed; texts as they are."""
    right = [r for r in found if "failed" not in r]
    middle = {"worked": len(right), "failed": len(found) - len(right)}
    for name in dict.fromkeys(key for r in right for key in r if key not in ("round", "arm")):
        values = [r[name] for r in right if r.get(name) is not None]
        text = any(isinstance(v, str) for v in values)
        middle[name] = (
            "/".join(sorted(set(values))) if text else round(statistics.median(values), 4) if values else None
        )
    return middle


def ratios(our: dict, their: dict, compared: tuple[str, ...]) -> dict:
    return {c: round(our[c] / their[c], 3) for c in compared if our.get(c) is not None and their.get(c)}


def report(what: str, libraries: tuple[str, ...], rounds: list[dict], **more) -> dict:
    """What a result file holds: when, with which versions, the medians of each arm, and every round of it."""
    versions = {"python": platform.python_version()}
    for name in libraries:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            versions[name] = None
    arms = dict.fromkeys(r["arm"] for r in rounds)
    return {
        "what": what,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": versions,
        **more,
        "medians": {arm: medians([r for r in rounds if r["arm"] == arm]) for arm in arms},
        "rounds": rounds,
    }


def write(path: Path, found: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def table(middle: dict[str, dict], columns: dict[str, str]) -> str:
    """Medians as a markdown table; columns: {measure: how it is written}."""
    lines = ["| arm | worked | " + " | ".join(columns) + " |", "|---|---|" + "---|" * len(columns)]
    for arm, row in middle.items():
        cells = [form.format(row[name]) if row.get(name) is not None else "-" for name, form in columns.items()]
        lines.append(f"| {arm} | {row['worked']} of {row['worked'] + row['failed']} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def failures(rounds: list[dict]) -> str:
    return "".join(f"\nFAILED {r['arm']}, round {r['round']}: {r['failed'].strip()}\n" for r in rounds if "failed" in r)


# --- the peer ---


def hf_trainer(model, tokenizer, examples, train, out: str, collator: dict | None = None, **more):
    """transformers.Trainer over those examples with those settings (a playground.settings.Train).

    `collator` and `more` go to the collator and to TrainingArguments. Returns it and its clock: `at` holds the moments of
    its beginning and of every step's end, `tokens` how many tokens were seen by then, if it is told to count them.
    """
    from transformers import DataCollatorForSeq2Seq, Trainer, TrainerCallback, TrainingArguments

    class Clock(TrainerCallback):
        def __init__(self):
            self.at, self.tokens = [], []

        def on_train_begin(self, arguments, state, control, **_):
            wait()
            self.at.append(time.perf_counter())
            self.tokens.append(0)

        def on_step_end(self, arguments, state, control, **_):
            wait()
            self.at.append(time.perf_counter())
            self.tokens.append(int(state.num_input_tokens_seen))

    rows = [
        {
            "input_ids": e.ids,
            "attention_mask": [1] * len(e.ids),
            "labels": [-100] * e.trained_from + e.ids[e.trained_from :],
        }
        for e in examples
    ]
    clock, micro = Clock(), train.micro_batch_size or train.batch_size
    arguments = TrainingArguments(
        out,
        per_device_train_batch_size=micro,
        gradient_accumulation_steps=train.batch_size // micro,
        num_train_epochs=train.epochs,
        max_steps=train.max_steps or -1,
        learning_rate=train.lr,
        lr_scheduler_type=train.schedule,
        warmup_steps=train.warmup,
        seed=train.seed,
        optim="adamw_torch_fused",
        logging_strategy="no",
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        **more,
    )
    made = DataCollatorForSeq2Seq(tokenizer, padding=True, **(collator or {}))
    return Trainer(model, arguments, data_collator=made, train_dataset=rows, callbacks=[clock]), clock


def wait() -> None:
    """Until the card has done what it was given: only then is it known when that was."""
    import torch

    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.synchronize()


# --- made-up models, and rows for them ---


def shape_of(name: str, toy: bool):
    """A model of that shape that has no weights yet, and all its code imported: what can be done without the card."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, values = SHAPES[name]
    config = AutoConfig.for_model(kind, **SPECIAL | WIDE | values | (TINY | {"num_key_value_heads": 4} if toy else {}))
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)


def made_up(model, bits: int, device: str):
    """The model with random weights, made where it is used in the bits it is used in, as playground's `load` would leave it."""
    import torch
    from torch import nn
    from transformers.pytorch_utils import Conv1D
    from transformers.quantizers.base import get_keys_to_not_convert

    from playground.model.load import defragment_after_load, disable_cpu_repacking

    torch.manual_seed(0)
    kept = (
        [*get_keys_to_not_convert(model), *(model._keep_in_fp32_modules or ())] if bits < 16 else []
    )  # as transformers leaves them

    def drawn(name: str, tensor: torch.Tensor) -> torch.Tensor:
        made = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
        return (
            made.normal_(0, 0.02) if tensor.ndim > 1 else made.fill_(float("norm" in name and name.endswith("weight")))
        )

    drawn_once: dict[int, nn.Parameter] = {}  # tied weights stay tied
    for name, module in list(model.named_modules()):
        for leaf, tensor in list(module.named_parameters(recurse=False)):
            if id(tensor) not in drawn_once:
                drawn_once[id(tensor)] = nn.Parameter(drawn(f"{name}.{leaf}", tensor), requires_grad=False)
            setattr(module, leaf, drawn_once[id(tensor)])
        if any(
            buffer.is_meta for buffer in module.buffers(recurse=False)
        ):  # a rotary embedding's, which follow from the config
            with torch.device(device):
                module._buffers.update(type(module)(config=model.config)._buffers)
        for leaf, tensor in module.named_buffers(recurse=False):
            module._buffers[leaf] = tensor.to(device)
        if (
            bits < 16
            and type(module) in (nn.Linear, Conv1D)
            and not any(name == one or name.endswith("." + one) for one in kept)
        ):
            model.set_submodule(name, _quantized(module, bits))
    drawn_once.clear()  # what was quantized is not to be kept
    if bits < 16:
        setattr(model, f"is_loaded_in_{bits}bit", True)  # as transformers says it to PEFT
        if device == "cuda":
            defragment_after_load(model)
    disable_cpu_repacking(model)
    return model.eval()


def _quantized(layer, bits: int):
    from bitsandbytes import nn as quantized

    weight = (
        layer.weight.data if hasattr(layer, "in_features") else layer.weight.data.T.contiguous()
    )  # GPT-2's lie the other way round
    sizes, device = (weight.shape[1], weight.shape[0], layer.bias is not None), weight.device
    if bits == 4:
        made = quantized.Linear4bit(*sizes, compute_dtype=weight.dtype, quant_type="nf4", device="meta")
        made.weight = quantized.Params4bit(weight, quant_type="nf4", module=made).to(device)
    else:
        made = quantized.Linear8bitLt(*sizes, has_fp16_weights=False, threshold=6.0, device="meta")
        made.weight = quantized.Int8Params(weight, requires_grad=False, has_fp16_weights=False)._quantize(
            device
        )  # .to() only does that from the CPU
    made.bias = layer.bias
    return made


def rows() -> list:
    """One step's examples."""
    import random

    from playground.data.batch import Example

    draw = random.Random(0)
    return [
        Example([draw.randrange(5, 500) for _ in range(length)], round(length * (1 - LABELLED))) for length in LENGTHS
    ]


def work_of(model) -> tuple[float, float]:
    """Floating-point operations that a trained token needs at least, and those of computing every layer a second time.

    Two a weight for the forward pass, two for the gradient of a layer's input, two more where the weight itself learns;
    attention over half of its own row. 29,400 and 19,800 tokens/s for the OpenCALM shape at 790 TFLOP/s.
    """
    from playground.model import adapt

    layers, head = adapt.linear_layers(model).values(), model.get_output_embeddings()
    frozen = sum(m.in_features * m.out_features for m in layers)
    learned = sum(RANK * (m.in_features + m.out_features) for m in layers)
    seen = sum(n * n for n in LENGTHS) / 2 / sum(LENGTHS)
    looking = 4 * seen * model.config.hidden_size * model.config.num_hidden_layers
    return 4 * (frozen + head.in_features * head.out_features) + 6 * learned + 3 * looking, 2 * (
        frozen + learned
    ) + looking
