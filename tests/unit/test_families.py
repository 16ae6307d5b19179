"""Every model family at every bit width: load, add an adapter, train, save, load again, answer and merge.

At toy size, with each family's real layers and real bitsandbytes. Two families have a mixture of experts. Six that
are unlike each other are tried at every width, the others at 16 and 4 bits, and at the rest by `--exhaustive`.
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
from playground.model import adapt, saved_adapter
from playground.model.load import load_model
from playground.settings import Generation, Lora

QKVO = "self_attn.q_proj self_attn.k_proj self_attn.v_proj self_attn.o_proj"
GATED = "mlp.gate_proj mlp.up_proj mlp.down_proj"
T5 = " ".join(f"{side}.{name}" for side in ("SelfAttention", "EncDecAttention") for name in "qkvo")
TARGETS = {  # layers adapted by "attention", and those that "all-linear" adds
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
# a tied random head repeats the last token forever
UNTIED = {name: {"tie_word_embeddings": False} for name in ("bloom", "opt", "gemma2", "gemma3_text", "smollm3")}
# T5 doesn't scale its attention scores
SMALL_WEIGHTS = {name: {"initializer_factor": 1.0, "decoder_start_token_id": 120} for name in ("t5", "mt5")}
LAYERS = {32: nn.Linear, 16: nn.Linear, 8: Linear8bitLt, 4: Linear4bit}
# one each with norms of RMS, fused projections, Conv1D, softcaps and norms after layers, an encoder, experts
AT_EVERY_WIDTH = ("llama", "gpt_neox", "gpt2", "gemma2", "t5", "qwen2_moe")
CASES = [
    pytest.param((family, bits), id=f"{family}-{bits}", marks=[pytest.mark.exhaustive] * (bits in (32, 8)))
    if family not in AT_EVERY_WIDTH
    else pytest.param((family, bits), id=f"{family}-{bits}")
    for family in TARGETS
    for bits in LAYERS
]
# What a fine-tune measures beside its losses depends on no width; these are the quickest.
UNMEASURED = {"sample_every": "off", "measure_forgetting": False, "eval_rows": 2}
PROMPT = [40, 99, 30, 31, 120, 121, 87, 75]


@pytest.fixture(scope="module", params=CASES)
def trained(request, toy, lesson, tmp_path_factory):
    """A family's toy model at a bit width after a `tune` job of two steps, and the same model freshly loaded."""
    from playground.settings import Settings

    family, bits = request.param
    folder = toy(family, **(UNTIED | SMALL_WEIGHTS).get(family, {}))
    settings = Settings().with_values(
        {
            "load": {"model": str(folder), "bits": bits, "dtype": "bfloat16", "device": "cpu"},
            "data": {"source": str(lesson), "held_out": 0.2},
            "lora": {"r": 4},
            "train": {"max_steps": 2, "batch_size": 4, "max_seq_length": 128, "lr": 3e-2}
            | (UNMEASURED if bits != 4 else {}),
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


def adapted_layers(model) -> set[str]:
    """The layers with an adapter: the last two parts of their names, without numbers."""
    names = {n.split(".lora_A")[0] for n, _ in model.named_parameters() if "lora_A" in n}
    return {".".join(re.sub(r"\.\d+\.", ".#.", name).split(".")[-2:]) for name in names}


def logits(model) -> torch.Tensor:
    ids = torch.tensor([PROMPT])
    inputs = {"input_ids": ids, "decoder_input_ids": ids} if model.config.is_encoder_decoder else {"input_ids": ids}
    with torch.no_grad():
        return model(**inputs).logits.float()


def answers(trained, model, sides, **generation) -> list[dict]:
    prompts = [Prompt(PROMPT, adapt.ADAPTER_NAME if tuned else None) for tuned in sides]
    return list(
        generate_answers(
            model, trained.fresh.tokenizer, prompts, [], Generation(max_new_tokens=6, **generation), threading.Event()
        )
    )


def base_model(trained):
    """The fresh model without an adapter."""
    trained.fresh.model = adapt.remove_lora(trained.fresh.model)
    return trained.fresh.model


def with_saved_adapter(trained):
    """The fresh model with the adapter that was saved."""
    trained.fresh.model = saved_adapter.load_lora(base_model(trained), trained.adapter, trained.fresh.dtype)
    return trained.fresh.model


@pytest.mark.slow
def test_lora_adapts_linear_layers_but_neither_head_nor_router(trained):
    attention, others = (set(names.split()) for names in TARGETS[trained.family])
    assert adapted_layers(trained.model) == attention | others
    trained.fresh.model = adapt.add_lora(
        base_model(trained), Lora(r=4, target_modules="attention"), trained.fresh.dtype, 0
    )
    assert adapted_layers(trained.fresh.model) == attention


def test_linear_layers_have_the_chosen_bit_width(trained):
    kinds = {name.split(".")[-1]: type(m) for name, m in adapt.linear_layers(base_model(trained)).items()}
    kinds.pop("wo", None)  # T5's needs float32's range
    if trained.family == "gpt2" and trained.bits >= 16:
        assert {kind.__name__ for kind in kinds.values()} == {"Conv1D"}
    else:
        assert set(kinds.values()) == {LAYERS[trained.bits]}


def test_the_share_left_in_16_bits_is_noted(trained):
    percents = [e["values"]["percent"] for e in trained.events if e.get("key") == "note.left_whole"]
    expected = {"t5": 20, "mt5": 17, "mixtral": 89, "qwen2_moe": 67}.get(trained.family) if trained.bits < 16 else None
    assert percents == ([expected] if expected else [])


def test_training_changes_every_adapter_and_no_base_weight(trained):
    losses = [e["loss"] for e in trained.events if e["kind"] == "step"]
    assert len(losses) == 2 and all(map(math.isfinite, losses))
    saved = load_file(trained.adapter / "adapter_model.safetensors")
    assert all(tensor.isfinite().all() and tensor.abs().max() > 0 for tensor in saved.values())
    with trained.model.disable_adapter():
        assert torch.equal(logits(trained.model), logits(base_model(trained)))


def test_a_saved_adapter_gives_the_same_logits(trained):
    after, before = logits(trained.model), logits(base_model(trained))
    assert torch.equal(logits(with_saved_adapter(trained)), after) and not torch.equal(after, before)


def test_base_and_tuned_stream_from_one_batch_as_they_do_alone(trained):
    events = answers(trained, trained.model, [False, True])
    assert [e["tokens"] for e in events[:-1]] == list(range(1, len(events))) and all("texts" in e for e in events)
    base, tuned = events[-1]["texts"]
    if trained.bits != 8:  # LLM.int8() looks for outliers over the whole batch
        assert answers(trained, base_model(trained), [False, False])[-1]["texts"] == [base, base]
        assert answers(trained, trained.model, [True, True])[-1]["texts"] == [tuned, tuned]
    assert base != tuned


def test_beam_search_answers_both_sides(trained):
    if trained.bits != 32:
        pytest.skip("beam search doesn't depend on bits")
    base, tuned = answers(trained, trained.model, [False, True], num_beams=3)[-1]["texts"]
    assert answers(trained, base_model(trained), [False, False], num_beams=3)[-1]["texts"] == [base, base]
    assert base != tuned


def test_an_adapter_merges_into_the_weights(trained):
    if trained.bits < 16:
        pytest.skip("merging into quantized weights quantizes them again")
    before = logits(base_model(trained))
    merged = logits(with_saved_adapter(trained).merge_and_unload())
    change, error = (logits(trained.model) - before).norm(), (logits(trained.model) - merged).norm()
    assert error < (1e-4 if trained.bits == 32 else 0.2) * change
