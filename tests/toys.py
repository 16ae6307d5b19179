"""Toy models with real layers, real tokenizers, and helpers that tests share. Weights are random, with a fixed seed."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pytest
    from transformers import PreTrainedModel, PreTrainedTokenizerFast

    from playground.errors import PlaygroundError

PROJECT = Path(__file__).resolve().parent.parent
CHAT = (
    "{% for m in messages %}<|start|>{{ m['role'] }}\n{{ m['content'] }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}"
)
SMALL = {
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 336,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "pad_token_id": 2,
}
LLAMA = SMALL | {
    "intermediate_size": 128,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "initializer_range": 0.1,
}
SEQ2SEQ = {
    "d_model": 64,
    "d_kv": 16,
    "num_heads": 4,
    "d_ff": 128,
    "num_layers": 2,
    "vocab_size": 336,
    "eos_token_id": 1,
    "pad_token_id": 2,
    "decoder_start_token_id": 2,
    "dropout_rate": 0.0,
    "initializer_factor": 3.0,
}
FAMILIES = {
    "llama": ("llama", LLAMA),
    "llama-tied": ("llama", LLAMA | {"tie_word_embeddings": True}),
    "olmo": ("olmo", LLAMA),
    "olmo2": ("olmo2", LLAMA),
    "gpt_neox": (
        "gpt_neox",
        SMALL | {"intermediate_size": 128, "max_position_embeddings": 512, "initializer_range": 0.1},
    ),
    "gpt2": (
        "gpt2",
        {
            "n_embd": 64,
            "n_layer": 2,
            "n_head": 4,
            "n_positions": 512,
            "vocab_size": 336,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "initializer_range": 0.1,
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
        },
    ),
    "gemma3_text": (
        "gemma3_text",
        LLAMA
        | {
            "head_dim": 16,
            "sliding_window": 512,
            "layer_types": ["sliding_attention", "full_attention"],
            "query_pre_attn_scalar": 16,
        },
    ),
    "gemma3_window": (
        "gemma3_text",
        LLAMA
        | {
            "head_dim": 16,
            "sliding_window": 100,
            "layer_types": ["sliding_attention", "full_attention"],
            "query_pre_attn_scalar": 16,
        },
    ),
    "gemma2": ("gemma2", LLAMA | {"head_dim": 16, "final_logit_softcapping": 2.0, "query_pre_attn_scalar": 16}),
    "opt": (
        "opt",
        SMALL
        | {"ffn_dim": 128, "word_embed_proj_dim": 64, "max_position_embeddings": 512, "init_std": 0.1, "dropout": 0.0},
    ),
    "bloom": (
        "bloom",
        {
            "hidden_size": 64,
            "n_layer": 2,
            "n_head": 4,
            "vocab_size": 336,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 2,
            "initializer_range": 0.1,
        },
    ),
    "falcon": (
        "falcon",
        SMALL
        | {
            "initializer_range": 0.1,
            "new_decoder_architecture": False,
            "parallel_attn": True,
            "multi_query": True,
            "alibi": False,
        },
    ),
    "falcon_alibi": (
        "falcon",
        SMALL
        | {
            "initializer_range": 0.1,
            "new_decoder_architecture": False,
            "parallel_attn": False,
            "multi_query": False,
            "alibi": True,
        },
    ),
    "gptj": (
        "gptj",
        {
            "n_embd": 64,
            "n_layer": 2,
            "n_head": 4,
            "rotary_dim": 8,
            "n_positions": 512,
            "vocab_size": 336,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "initializer_range": 0.1,
            "resid_pdrop": 0.0,
            "embd_pdrop": 0.0,
            "attn_pdrop": 0.0,
        },
    ),
    "qwen2": ("qwen2", LLAMA),
    "qwen3": ("qwen3", LLAMA | {"head_dim": 16}),
    "phi3": ("phi3", LLAMA),
    "mistral": ("mistral", LLAMA),
    "smollm3": ("smollm3", LLAMA | {"no_rope_layers": [1, 0]}),
    "mixtral": ("mixtral", LLAMA | {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen2_moe": (
        "qwen2_moe",
        LLAMA
        | {
            "num_experts": 4,
            "num_experts_per_tok": 2,
            "moe_intermediate_size": 64,
            "shared_expert_intermediate_size": 64,
        },
    ),
    "t5": ("t5", SEQ2SEQ),
    "t5-gated": ("t5", SEQ2SEQ | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}),
    "mt5": ("mt5", SEQ2SEQ | {"feed_forward_proj": "gated-gelu"}),
    "umt5": ("umt5", SEQ2SEQ | {"feed_forward_proj": "gated-gelu"}),
    "switch": (
        "switch_transformers",
        SEQ2SEQ
        | {
            "num_decoder_layers": 2,
            "num_sparse_encoder_layers": 1,
            "num_sparse_decoder_layers": 1,
            "num_experts": 4,
            "expert_capacity": 64,
        },
    ),
    "bart": (
        "bart",
        {
            "d_model": 64,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 128,
            "decoder_ffn_dim": 128,
            "vocab_size": 336,
            "max_position_embeddings": 512,
            "bos_token_id": 0,
            "eos_token_id": 1,
            "pad_token_id": 2,
            "decoder_start_token_id": 1,
            "forced_eos_token_id": None,
            "init_std": 0.3,
            "dropout": 0.0,
        },
    ),
}


def make_tokenizer(chat: bool) -> "PreTrainedTokenizerFast":
    """Train a byte-level BPE tokenizer: bos 0, eos 1, pad 2, turn start 3, turn end 4. It can write any text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=330,
        special_tokens=["<s>", "</s>", "<pad>", "<|start|>", "<|end|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    backend.train_from_iterator(
        ["What is the answer to the question? The answer is blue. ### Instruction: Response:"] * 3, trainer
    )
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    tokenizer.chat_template = CHAT if chat else None
    return tokenizer


def make_unigram() -> "PreTrainedTokenizerFast":
    """Make a unigram tokenizer like sentencepiece, with byte fallback and NFKC: bos 1 begins every text, eos 2."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    vocabulary = [(letter, -3.0) for letter in "▁abcdefghijklmnopqrstuvwxyzWT.?:"] + [
        ("▁the", -1.0),
        ("▁answer", -1.0),
        ("▁is", -1.0),
    ]
    backend = Tokenizer(
        models.Unigram(
            [
                ("<unk>", 0.0),
                ("<s>", 0.0),
                ("</s>", 0.0),
                *((f"<0x{byte:02X}>", -9.0) for byte in range(256)),
                *vocabulary,
            ],
            0,
            byte_fallback=True,
        )
    )
    backend.normalizer, backend.pre_tokenizer = normalizers.NFKC(), pre_tokenizers.Metaspace()
    backend.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse(), decoders.Metaspace()])
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="<unk>"
    )


def make_model(family: str, **changes: Any) -> "PreTrainedModel":
    """Build a toy model of a family in float32. changes: fields of its config."""
    import torch

    from playground.model.load import model_from_config

    torch.manual_seed(0)
    return model_from_config(toy_config(family, **changes), torch.float32).eval()


def toy_config(family: str, **changes: Any) -> Any:
    """The config of a family's toy, with these fields changed."""
    from transformers import AutoConfig

    kind, values = FAMILIES[family]
    return AutoConfig.for_model(kind, **values | changes)


def save(folder: Path, family: str = "llama", chat: bool = False, **changes: Any) -> Path:
    """Save a toy model and its tokenizer into `folder`; return it. chat: whether it has a chat template."""
    make_model(family, **changes).save_pretrained(folder)
    make_tokenizer(chat).save_pretrained(folder)
    return folder


def keys(caught: "pytest.ExceptionInfo[PlaygroundError]") -> list[str]:
    """Return the words keys of a caught PlaygroundError."""
    return [problem.key for problem in caught.value.problems]


def too_large(folder: Path, **changes: int) -> Path:
    """Save a model too large for any test machine: a real config and tokenizer, and a web page as weights.

    changes: of the config.
    """
    make_tokenizer(False).save_pretrained(folder)
    config = {
        "model_type": "llama",
        "hidden_size": 65536,
        "intermediate_size": 262144,
        "num_hidden_layers": 60,
        "num_attention_heads": 512,
        "vocab_size": 336,
    }
    (folder / "config.json").write_text(json.dumps(config | changes))
    (folder / "model.safetensors").write_text("<html>")
    return folder
