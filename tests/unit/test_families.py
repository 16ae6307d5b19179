"""Every family of models at every bit width: loaded, adapted, trained, saved, read back, asked and merged by the program itself.

At toy size, with each family's real layers and real bitsandbytes. Two families hold a mixture of experts.
"""

import gc
import math
import re
import threading
from types import SimpleNamespace

import pytest
import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from safetensors.torch import load_file
from torch import nn

from playground.chat.generate import Prompt, generate_answers
from playground.engine.workbench import Workbench
from playground.model import adapt
from playground.model.load import load_model
from playground.settings import Generation, Lora

QKVO = "self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.o_proj"
GATED = "mlp.gate_proj mlp.up_proj mlp.down_proj"
T5 = " ".join(f"{side}.{name}" for side in ("SelfAttention", "EncDecAttention") for name in "qkvo")
ADAPTED = {  # by itself: by "attention", and beside them by "all-linear"
    "gpt_neox": ("attention.query_key_value attention.dense", "mlp.dense_h_to_4h mlp.dense_4h_to_h"),
    "falcon": ("self_attention.query_key_value self_attention.dense", "mlp.dense_h_to_4h mlp.dense_4h_to_h"),
    "bloom": ("self_attention.query_key_value self_attention.dense", "mlp.dense_h_to_4h mlp.dense_4h_to_h"),
    "llama": (QKVO, GATED),
    "opt": (QKVO.replace("o_proj", "out_proj"), "#.fc1 #.fc2"),
    "gptj": ("attn.q_proj attn.k_proj attn.v_proj attn.out_proj", "mlp.fc_in mlp.fc_out"),
    "gpt2": ("attn.c_attn attn.c_proj", "mlp.c_fc mlp.c_proj"),
    "qwen2": (QKVO, GATED),
    "qwen3": (QKVO, GATED),
    "gemma2": (QKVO, GATED),
    "gemma3_text": (QKVO, GATED),
    "phi3": ("self_attn.qkv_proj self_attn.o_proj", "mlp.gate_up_proj mlp.down_proj"),
    "mistral": (QKVO, GATED),
    "smollm3": (QKVO, GATED),
    "t5": (T5, "DenseReluDense.wi DenseReluDense.wo"),
    "mt5": (T5, "DenseReluDense.wi_0 DenseReluDense.wi_1 DenseReluDense.wo"),
    "mixtral": (QKVO, ""),  # its experts are one parameter
    "qwen2_moe": (QKVO, "shared_expert.gate_proj shared_expert.up_proj shared_expert.down_proj"),
}
UNTIED = dict.fromkeys(
    ("bloom", "opt", "gemma2", "gemma3_text", "smollm3"), {"tie_word_embeddings": False}
)  # tied and random, a head repeats the last token for ever
GENTLE = dict.fromkeys(
    ("t5", "mt5"), {"initializer_factor": 1.0, "decoder_start_token_id": 120}
)  # T5 doesn't divide what its attention compares
LAYERS = {32: nn.Linear, 16: nn.Linear, 8: Linear8bitLt, 4: Linear4bit}
PROMPT = [40, 99, 30, 31, 120, 121, 87, 75]


@pytest.fixture(
    scope="module", params=[(family, bits) for family in ADAPTED for bits in LAYERS], ids=lambda p: f"{p[0]}-{p[1]}"
)
def taught(request, toy, lesson, tmp_path_factory):
    """A family's toy model at a bit width after two steps of the job `tune`, and the same model as it was loaded."""
    from playground.settings import Settings

    family, bits = request.param
    folder = toy(family, **(UNTIED | GENTLE).get(family, {}))
    settings = Settings().with_values(
        {
            "load": {"model": str(folder), "bits": bits, "dtype": "bfloat16", "device": "cpu"},
            "data": {"source": str(lesson), "held_out": 0.2},
            "lora": {"r": 4},
            "train": {"max_steps": 2, "batch_size": 4, "max_seq_length": 128, "lr": 3e-2},
        }
    )
    bench = Workbench(tmp_path_factory.mktemp("runs"))
    events = list(bench.tune(settings))
    fresh = load_model(folder, settings.load, lambda *_: None)
    yield SimpleNamespace(
        family=family,
        bits=bits,
        events=events,
        model=bench.loaded.model,
        fresh=fresh,
        adapter=bench.run.adapter,
        lora=settings.lora,
    )
    bench.free()
    gc.collect()


def adapted(model) -> set[str]:
    """What an adapter is on, in two words, numbers left out."""
    names = {n.split(".lora_A")[0] for n, _ in model.named_parameters() if "lora_A" in n}
    return {".".join(re.sub(r"\.\d+\.", ".#.", name).split(".")[-2:]) for name in names}


def logits(model) -> torch.Tensor:
    ids = torch.tensor([PROMPT])
    inputs = {"input_ids": ids, "decoder_input_ids": ids} if model.config.is_encoder_decoder else {"input_ids": ids}
    with torch.no_grad():
        return model(**inputs).logits.float()


def said(found, model, sides, **generation) -> list[dict]:
    asked = [Prompt(PROMPT, side) for side in sides]
    return list(
        generate_answers(
            model, found.fresh.tokenizer, asked, [], Generation(max_new_tokens=6, **generation), threading.Event()
        )
    )


def bare(found):
    """The fresh model without any adapter."""
    found.fresh.model = adapt.remove_lora(found.fresh.model)
    return found.fresh.model


def read_back(found):
    """The fresh model with the adapter as it was saved."""
    found.fresh.model = adapt.load_lora(bare(found), found.adapter, found.fresh.dtype)
    return found.fresh.model


def test_lora_finds_a_family_s_layers_but_neither_its_head_nor_a_router(taught):
    attention, others = (set(names.split()) for names in ADAPTED[taught.family])
    assert adapted(taught.model) == attention | others
    taught.fresh.model = adapt.add_lora(bare(taught), Lora(r=4, target_modules="attention"), taught.fresh.dtype, 0)
    assert adapted(taught.fresh.model) == attention


def test_linear_layers_are_in_the_bits_that_were_asked_for(taught):
    kinds = {name.split(".")[-1]: type(m) for name, m in adapt.linear_layers(bare(taught)).items()}
    kinds.pop("wo", None)  # T5's needs float32's range
    if taught.family == "gpt2" and taught.bits >= 16:
        assert {kind.__name__ for kind in kinds.values()} == {"Conv1D"}
    else:
        assert set(kinds.values()) == {LAYERS[taught.bits]}


def test_what_stays_in_16_bits_is_said(taught):
    told = [e["values"]["percent"] for e in taught.events if e.get("key") == "note.left_whole"]
    wanted = {"t5": 20, "mt5": 17, "mixtral": 89, "qwen2_moe": 67}.get(taught.family) if taught.bits < 16 else None
    assert told == ([wanted] if wanted else [])


def test_two_steps_teach_every_adapter_and_leave_the_weights_as_they_were(taught):
    losses = [e["loss"] for e in taught.events if e["kind"] == "step"]
    assert len(losses) == 2 and all(map(math.isfinite, losses))
    saved = load_file(taught.adapter / "adapter_model.safetensors")
    assert all(tensor.isfinite().all() and tensor.abs().max() > 0 for tensor in saved.values())
    with taught.model.disable_adapter():
        assert torch.equal(logits(taught.model), logits(bare(taught)))


def test_an_adapter_that_is_read_back_answers_as_the_one_that_was_saved(taught):
    after, before = logits(taught.model), logits(bare(taught))
    assert torch.equal(logits(read_back(taught)), after) and not torch.equal(after, before)


def test_base_and_tuned_stream_from_one_batch_as_each_does_alone(taught):
    events = said(taught, taught.model, [False, True])
    assert [e["tokens"] for e in events[:-1]] == list(range(1, len(events))) and all("texts" in e for e in events)
    base, tuned = events[-1]["texts"]
    if taught.bits != 8:  # LLM.int8() looks for outliers over the whole batch
        assert said(taught, bare(taught), [False, False])[-1]["texts"] == [base, base]
        assert said(taught, taught.model, [True, True])[-1]["texts"] == [tuned, tuned]
    assert base != tuned


def test_beams_answer_both_sides(taught):
    if taught.bits != 32:
        pytest.skip("beams know nothing of bits")
    base, tuned = said(taught, taught.model, [False, True], num_beams=3)[-1]["texts"]
    assert said(taught, bare(taught), [False, False], num_beams=3)[-1]["texts"] == [base, base]
    assert base != tuned


def test_an_adapter_can_be_merged_into_the_weights(taught):
    if taught.bits < 16:
        pytest.skip("merging into quantized weights rounds them anew")
    before = logits(bare(taught))
    merged = logits(read_back(taught).merge_and_unload())
    moved, off = (logits(taught.model) - before).norm(), (logits(taught.model) - merged).norm()
    assert off < (1e-4 if taught.bits == 32 else 0.2) * moved
