"""Compare loss curves of adapters in bfloat16 and in float32: 200 steps at learning rate 3e-4.

    python tests/bench/curves.py            # SmolLM2-135M on the CPU; a few minutes

  reference        float32 throughout: PEFT's own layers, padded rows, all logits, torch's AdamW
  ours-bf16        playground's fine-tune: model and adapters in bfloat16, float32 copies in the optimizer
  bf16-no-copies   the same, but AdamW works on the bfloat16 adapters themselves

All arms train on the same rows in the same order from the same initial weights: helpdesk.en, r 8, alpha 16, all
linear layers, 2 rows a step. Each runs in a separate process. `away`: root mean square over the steps of the
difference from the reference, of losses averaged over 10 steps (one step's loss is noisy); `bias`: the mean of that
difference. In nats a token.
"""

import argparse
import json
import statistics
import sys
import threading
from pathlib import Path

import arms

ARMS = ("reference", "ours-bf16", "bf16-no-copies")
LIBRARIES = ("torch", "transformers", "peft", "accelerate")
COLOURS = {"reference": "#1f2937", "ours-bf16": "#2563eb", "bf16-no-copies": "#dc2626"}


def main() -> None:
    parser = argparse.ArgumentParser(description=str(__doc__).split("\n")[0])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--out", type=Path, default=arms.PROJECT / "tests/bench/results/curves.json")
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.arm:
        print(json.dumps(train_arm(options.arm, options.steps)))
        return
    rounds: list[dict] = []
    smooth: dict[str, list[float]] = {}
    hardware = None
    for arm in ARMS:
        result = arms.last_line([sys.executable, __file__, "--arm", arm, "--steps", str(options.steps)])
        hardware = result.pop("hardware")
        smooth[arm] = [statistics.mean(result["losses"][at : at + 10]) for at in range(options.steps - 9)]
        differences = [loss - reference for loss, reference in zip(smooth[arm], smooth["reference"])]
        result = {
            "away": round(statistics.mean(d * d for d in differences) ** 0.5, 5),
            "bias": round(statistics.mean(differences), 5),
            "last": round(smooth[arm][-1], 4),
        } | result
        print({"arm": arm} | {name: value for name, value in result.items() if name != "losses"}, flush=True)
        rounds.append({"round": 1, "arm": arm} | result)
    report = arms.report(
        "loss curves at learning rate 3e-4",
        LIBRARIES,
        [{k: v for k, v in r.items() if k != "losses"} for r in rounds],
        hardware=hardware,
    )
    arms.write(options.out, report | {"losses": {r["arm"]: r["losses"] for r in rounds}})
    options.out.with_suffix(".svg").write_text(figure(smooth), encoding="utf-8")


def train_arm(arm: str, steps: int) -> dict:
    """Train one arm; returns {"hardware", "losses": of every step}."""
    import torch

    from playground import catalog
    from playground.data.batch import collate, encode, epoch_batches
    from playground.data.source import read
    from playground.data.template_choice import choose_template
    from playground.memory.meter import hardware
    from playground.model import adapt
    from playground.model.load import load_model
    from playground.model.source import local_folder
    from playground.settings import Lora, Settings, Train
    from playground.train.loop import fine_tune, learning_rate_at
    from playground.train.parallel import Team
    from playground.train.prepare import prepare_trainer

    preset = Settings().with_values(catalog.presets()["demo-en"]["settings"])
    train = Train(
        batch_size=2,
        max_steps=steps,
        lr=3e-4,
        max_seq_length=256,
        gradient_checkpointing="off",
        max_tokens_per_micro_batch=2048,
    )
    bits = {"bits": 32} if arm == "reference" else {"bits": 16, "dtype": "bfloat16"}
    load = preset.with_values({"load": bits | {"device": "cpu"}}).load
    loaded = load_model(local_folder(load.model), load, lambda *_: None)
    rows = read(preset.data)
    template = choose_template(preset.data.prompt_format, loaded.tokenizer, [r.instruction for r in rows.train])
    examples, _ = encode(rows.train, template, train.max_seq_length)
    machine = {"hardware": hardware("cpu")}
    if arm != "reference":
        trainer = prepare_trainer(loaded, Settings(lora=Lora(), train=train), examples, [], Team("cpu"))
        if arm == "bf16-no-copies":
            named = [(n, p) for n, p in loaded.model.named_parameters() if p.requires_grad]
            trainer.optimizer = type(trainer.optimizer)(named, copies=False)
        events = fine_tune(trainer, examples, train, threading.Event())
        return machine | {"losses": [e["loss"] for e in events if e["kind"] == "step"]}
    model = adapt.add_lora(loaded.model, Lora(), torch.float32, train.seed)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer, losses, epoch = torch.optim.AdamW(trained, weight_decay=0.0), [], []
    model.train()
    for step in range(steps):
        epoch = epoch or epoch_batches(
            examples, train.batch_size, train.seed + step // -(-len(examples) // train.batch_size), False
        )
        batch = collate(epoch.pop(0), loaded.tokenizer.pad_token_id or 0, "cpu")
        logits = model(**batch.inputs, use_cache=False).logits.flatten(0, 1)[batch.positions]
        loss = torch.nn.functional.cross_entropy(logits, batch.targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(trained, 1.0)
        optimizer.param_groups[0]["lr"] = learning_rate_at(step, steps, train)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(round(loss.item(), 5))
    return machine | {"losses": losses}


def figure(
    curves: dict[str, list[float]], width: int = 720, height: int = 320, colours: dict[str, str] = COLOURS
) -> str:
    """Draw the curves as an SVG. colours: by name of the curve."""
    low, high = 0.95 * min(map(min, curves.values())), max(map(max, curves.values()))
    steps = max(map(len, curves.values()))

    def x(step: int) -> float:
        return 50 + step / (steps - 1) * (width - 70)

    def y(loss: float) -> float:
        return 20 + (high - loss) / (high - low) * (height - 60)

    first = next(iter(curves))
    lines = [
        f'<polyline fill="none" stroke="{colours[arm]}" stroke-width="{3 if arm == first else 1.5}" points="'
        + " ".join(f"{x(step):.1f},{y(loss):.1f}" for step, loss in enumerate(losses))
        + '"/>'
        for arm, losses in curves.items()
    ]
    names = [
        f'<text x="{width - 190}" y="{40 + 20 * n}" fill="{colours[arm]}">{arm}</text>' for n, arm in enumerate(curves)
    ]
    marks = [f'<text x="8" y="{y(loss) + 4:.0f}">{loss:.1f}</text>' for loss in (high, (high + low) / 2, low)]
    foot = (
        f'<text x="50" y="{height - 12}">step 10</text><text x="{width - 75}" y="{height - 12}">step {steps + 9}</text>'
    )
    size = f'width="{width}" height="{height}"'
    background = f'<rect {size} fill="white"/>'
    opening = f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="sans-serif" font-size="13">'
    return f"{opening}{background}{''.join(lines + names + marks)}{foot}</svg>\n"


if __name__ == "__main__":
    main()
