"""Compare fitcheck-llm's predictions with this program's, on the cells of predict_gpu.json that fitcheck-llm accepts.

    pip install fitcheck-llm==0.3.1 && python tests/bench/predict_peer.py

It accepts gated MLPs with LoRA, all layers checkpointed or none. It estimates transformers' Trainer, which makes all
logits and keeps more of a layer, and pads 20 rows of 256 tokens where 32 rows of 5,024 tokens in all were trained. So
its errors here say how much more a Trainer takes, not how well it knows a Trainer. Errors are signed, in % of this
program's measured step.
"""

import json
import statistics

import arms
import random_models

RESULTS = arms.PROJECT / "tests/bench/results"
QUANTIZED = {"32": "none", "16": "none", "8": "int8", "4": "nf4"}


def main() -> None:
    measured = json.loads((RESULTS / "predict_gpu.json").read_text(encoding="utf-8"))
    cells = [errors for cell in measured["cells"] if "error" in cell and (errors := both_errors(cell))]
    summary = {}
    for program in ("fitcheck", "ours"):
        for kind in ("allocated", "device"):
            sizes = [abs(cell[program][kind]) for cell in cells]
            summary[f"{program} {kind}"] = {"median": round(statistics.median(sizes), 2), "worst": max(sizes)}
    report = arms.report(
        "fitcheck-llm and this program, a fine-tune's step",
        ("fitcheck-llm",),
        [],
        measured=measured["date"],
        errors=summary,
        cells=cells,
    )
    arms.write(RESULTS / "predict_peer.json", report)
    print(json.dumps(summary, indent=1))


def both_errors(cell: dict) -> dict | None:
    """Both programs' errors in a cell, or None for a cell that fitcheck doesn't accept."""
    from fitcheck.config_parser import ModelConfig
    from fitcheck.estimator import TrainingConfig, estimate
    from fitcheck.gpu_db import GPU_DB
    from predict_gpu import MODELS

    from playground import catalog
    from playground.predict import meta_model

    name, *how = cell["cell"].split(":")
    if name == "load" or how[1] != "lora" or how[2] not in ("off", "all"):
        return None
    config = meta_model.config_of(MODELS[name])
    if config.model_type not in ("llama", "qwen2", "gemma"):
        return None
    heads = config.num_attention_heads
    model = ModelConfig(
        name=name,
        num_params=catalog.shapes()[MODELS[name]]["parameters"],
        hidden_size=config.hidden_size,
        num_layers=config.num_hidden_layers,
        num_attention_heads=heads,
        num_kv_heads=config.num_key_value_heads,
        intermediate_size=config.intermediate_size,
        vocab_size=config.vocab_size,
        head_dim=getattr(config, "head_dim", None) or config.hidden_size // heads,
        tie_word_embeddings=config.tie_word_embeddings,
    )
    rows, tokens = (20, 256) if how[3] == "mix" else map(int, how[3].split("x"))
    training = TrainingConfig(
        precision="bf16",
        quantization=QUANTIZED[how[0]],
        double_quant=how[0] == "4",
        batch_size=rows,
        seq_len=tokens,
        lora_rank=random_models.RANK,
        lora_targets=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        grad_checkpoint=how[2] == "all",
        flash_attn=True,
    )
    prediction = estimate(model, training, GPU_DB["h100"])
    allocated = prediction.total_mib - prediction.overhead_mib
    step = cell["measured"]["tune"]
    fitcheck = {
        kind: round(100 * (size * 2**20 / step[kind] - 1), 2)
        for kind, size in (("allocated", allocated), ("device", prediction.total_mib))
    }
    return {
        "cell": cell["cell"],
        "fitcheck": fitcheck,
        "ours": {kind: cell["error"]["tune"][kind] for kind in fitcheck},
    }


if __name__ == "__main__":
    main()
