"""The peer Unsloth in its own recommended way: trl's SFTTrainer over packed rows, its kernels, its compiling.

Needs `unsloth` and what it needs (transformers 5.17 or older). It must be imported before transformers is.
"""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

PACKED_ROWS = 5100  # tokens of a packed row at most: the rows of one of our steps, as near as packing comes
TARGETS = {
    "calm": ["query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"],
    "llama": ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
}
ENVIRONMENT = {
    "HF_HUB_OFFLINE": "1",
    "UNSLOTH_DISABLE_STATISTICS": "1",  # it counts its users over the network otherwise
    "UNSLOTH_RETURN_LOGITS": "0",
}


def trainer(folder: Path, shape: str, bits: int, checkpointing: bool, lengths: Sequence[int], steps: int, rank: int):
    """(SFTTrainer, clock, tokens of a step on average) for a saved model; rows of random tokens, all of them labelled.

    The clock's `at` has the moments of the beginning and of every step's end, as peer.hf_trainer's. checkpointing:
    Unsloth's own, which keeps activations in main memory; else none.
    """
    os.environ.update(ENVIRONMENT)
    os.environ.setdefault("UNSLOTH_COMPILE_LOCATION", tempfile.mkdtemp(prefix="unsloth-compiled-"))
    from unsloth import FastLanguageModel  # isort: skip  before trl and transformers, which it changes
    import torch
    from datasets import Dataset
    from peer import clock_callback
    from trl import SFTConfig, SFTTrainer

    model, tokenizer = FastLanguageModel.from_pretrained(
        str(folder), max_seq_length=PACKED_ROWS, dtype=torch.bfloat16, load_in_4bit=bits == 4, local_files_only=True
    )
    model = FastLanguageModel.get_peft_model(
        model,
        r=rank,
        lora_alpha=2 * rank,
        target_modules=TARGETS[shape],
        use_gradient_checkpointing="unsloth" if checkpointing else False,
    )
    rows = Dataset.from_list([{"input_ids": row} for row in _random_rows(lengths, steps + 2)])
    arguments: dict[str, Any] = {
        "max_length": PACKED_ROWS,
        "packing": True,
        "per_device_train_batch_size": 1,
        "gradient_accumulation_steps": 1,
        "max_steps": steps,
        "learning_rate": 3e-4,
        "lr_scheduler_type": "constant",
        "optim": "adamw_torch_fused" if torch.cuda.is_available() else "adamw_torch",
        "bf16": torch.cuda.is_available(),
        "logging_strategy": "no",
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "dataset_num_proc": 1,
    }
    with tempfile.TemporaryDirectory() as out:
        clock = clock_callback()
        made = SFTTrainer(
            model=model,
            processing_class=tokenizer,
            train_dataset=rows,
            args=SFTConfig(out, **arguments),
            callbacks=[clock],
        )
    packed = made.train_dataset
    return made, clock, sum(map(len, packed["input_ids"])) / len(packed)


def _random_rows(lengths: Sequence[int], times: int) -> list[list[int]]:
    import random

    draw = random.Random(0)
    return [[draw.randrange(5, 500) for _ in range(length)] for _ in range(times) for length in lengths]
