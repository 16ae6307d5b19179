"""fitcheck-llm beside this program, on the cells of predict_gpu.json that it accepts: gated MLPs, LoRA, all layers or none computed twice.

    pip install fitcheck-llm==0.3.1 && python tests/bench/predict_peer.py

It estimates transformers' Trainer, which makes all logits and keeps more of a layer, and pads 20 rows of 256 tokens where
32 rows of 5,024 tokens in all were trained. So its errors here say what a Trainer would take more, not how well it knows a
Trainer. Errors are signed, in % of what was measured of this program's step.
"""

import json
import statistics

import arms  # beside this file

RESULTS = arms.PROJECT / "tests/bench/results"
QUANTIZED = {"32": "none", "16": "none", "8": "int8", "4": "nf4"}


def main() -> None:
    measured = json.loads((RESULTS / "predict_gpu.json").read_text(encoding="utf-8"))
    cells = [found for cell in measured["cells"] if "error" in cell and (found := beside(cell))]
    middle = {}
    for whose in ("fitcheck", "ours"):
        for kind in ("allocated", "device"):
            sizes = [abs(cell[whose][kind]) for cell in cells]
            middle[f"{whose} {kind}"] = {"median": round(statistics.median(sizes), 2), "worst": max(sizes)}
    found = arms.report(
        "fitcheck-llm beside this program, a fine-tune's step",
        ("fitcheck-llm",),
        [],
        measured=measured["date"],
        errors=middle,
        cells=cells,
    )
    arms.write(RESULTS / "predict_peer.json", found)
    print(json.dumps(middle, indent=1))


def beside(cell: dict) -> dict | None:
    """Both errors of a cell, or None for what fitcheck doesn't take."""
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
        lora_rank=arms.RANK,
        lora_targets=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        grad_checkpoint=how[2] == "all",
        flash_attn=True,
    )
    told = estimate(model, training, GPU_DB["h100"])
    allocated = told.total_mib - told.overhead_mib
    step = cell["measured"]["tune"]
    theirs = {
        kind: round(100 * (size * 2**20 / step[kind] - 1), 2)
        for kind, size in (("allocated", allocated), ("device", told.total_mib))
    }
    return {"cell": cell["cell"], "fitcheck": theirs, "ours": {kind: cell["error"]["tune"][kind] for kind in theirs}}


if __name__ == "__main__":
    main()
