"""Toy models of real layers: random weights, a real tokenizer, saved once a session. No network, no cache of the person's."""

import json
import os
import tempfile
from pathlib import Path

import pytest

_HOME = Path(tempfile.mkdtemp(prefix="playground-tests-"))
os.environ |= {
    "HF_HUB_OFFLINE": "1", "HF_HOME": str(_HOME / "hf"), "PLAYGROUND_CACHE": str(_HOME / "cache"), "TOKENIZERS_PARALLELISM": "false",
    "GRADIO_ANALYTICS_ENABLED": "False", "OMP_NUM_THREADS": "1",  # threads that wait for each other cost toys more than they save
}  # fmt: skip

PROJECT = Path(__file__).resolve().parent.parent
CHAT = (
    "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
SMALL = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 336, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
LLAMA = SMALL | {"intermediate_size": 128, "num_key_value_heads": 2, "max_position_embeddings": 512, "initializer_range": 0.1}
FAMILIES = {
    "llama": ("llama", LLAMA),
    "llama-tied": ("llama", LLAMA | {"tie_word_embeddings": True}),
    "gpt_neox": ("gpt_neox", SMALL | {"intermediate_size": 128, "max_position_embeddings": 512, "initializer_range": 0.1}),
    "gpt2": ("gpt2", {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 512, "vocab_size": 336, "bos_token_id": 0, "eos_token_id": 1, "initializer_range": 0.1,
                      "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}),
    "gemma3_text": ("gemma3_text", LLAMA | {"head_dim": 16, "sliding_window": 512, "layer_types": ["sliding_attention", "full_attention"], "query_pre_attn_scalar": 16}),
    "gemma3_window": ("gemma3_text", LLAMA | {"head_dim": 16, "sliding_window": 100, "layer_types": ["sliding_attention", "full_attention"], "query_pre_attn_scalar": 16}),
    "gemma2": ("gemma2", LLAMA | {"head_dim": 16, "final_logit_softcapping": 2.0, "query_pre_attn_scalar": 16}),
    "opt": ("opt", SMALL | {"ffn_dim": 128, "word_embed_proj_dim": 64, "max_position_embeddings": 512, "init_std": 0.1, "dropout": 0.0}),
    "bloom": ("bloom", {"hidden_size": 64, "n_layer": 2, "n_head": 4, "vocab_size": 336, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2, "initializer_range": 0.1}),
    "falcon": ("falcon", SMALL | {"initializer_range": 0.1, "new_decoder_architecture": False, "parallel_attn": True, "multi_query": True, "alibi": False}),
    "falcon_alibi": ("falcon", SMALL | {"initializer_range": 0.1, "new_decoder_architecture": False, "parallel_attn": False, "multi_query": False, "alibi": True}),
}  # fmt: skip


def make_tokenizer(chat: bool):
    """Byte-level BPE: bos 0, eos 1, pad 2, the chat's two marks 3 and 4; every text can be written, and read back."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330, special_tokens=["<s>", "</s>", "<pad>", "<|start|>", "<|end|>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )  # fmt: skip
    inner.train_from_iterator(["What is the answer to the question? The answer is blue. ### Instruction: Response:"] * 3, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    tokenizer.chat_template = CHAT if chat else None
    return tokenizer


def make_model(family: str, **changes):
    """A network of that family with random weights, the same every time."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    kind, values = FAMILIES[family]
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **values | changes)
    return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def toy(tmp_path_factory):
    """`toy(family, chat=False)`: the folder of a toy model, made on first use."""
    home, made = tmp_path_factory.mktemp("models"), {}

    def folder(family: str = "llama", chat: bool = False, **changes) -> Path:
        name = f"{family}{'-chat' if chat else ''}{''.join(f'-{k}-{v}' for k, v in changes.items())}"
        if name not in made:
            make_model(family, **changes).save_pretrained(home / name)
            make_tokenizer(chat).save_pretrained(home / name)
            made[name] = home / name
        return made[name]

    return folder


@pytest.fixture(scope="session")
def lesson(tmp_path_factory) -> Path:
    """A data file of 24 short rows."""
    path = tmp_path_factory.mktemp("data") / "lesson.jsonl"
    rows = [{"instruction": f"What is the answer to question {n}?", "output": f"The answer is {n * 7 % 10}."} for n in range(24)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def chosen(toy, lesson):
    """`chosen(load={...}, train={...})`: quick settings for the toy model."""
    from playground.settings import Settings

    def settings(**groups) -> Settings:
        quick = {
            "load": {"model": str(toy()), "bits": 32, "device": "cpu"}, "data": {"source": str(lesson)},
            "train": {"steps": 3, "batch": 4, "length": 128, "lr": 1e-2},
        }  # fmt: skip
        return Settings().with_values({g: quick.get(g, {}) | groups.get(g, {}) for g in {**quick, **groups}})

    return settings


def keys(caught) -> list[str]:
    """The words keys of a caught PlaygroundError."""
    return [problem.key for problem in caught.value.problems]
