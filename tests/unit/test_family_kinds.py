"""What model families do that no plain decoder does.

Norms without weights, layers that differ, weights read as numbers, caches of another kind, experts, code that fails in
half precision.
"""

import json

import pytest
import torch
from bitsandbytes.nn import Linear4bit
from family_sweep import PROJECT, families, small_config
from toys import keys, make_tokenizer
from transformers import AutoModelForCausalLM

from playground.chat.generate import supports_mixed_batches
from playground.data.chat_template import ChatTemplate
from playground.data.conversation import Turn
from playground.engine.workbench import Workbench
from playground.errors import PlaygroundError, as_playground_error
from playground.model import adapt
from playground.model.load import load_model, model_from_config
from playground.model.tokenizer import PROCESSOR_TEMPLATE, load_tokenizer
from playground.planning import forecast
from playground.predict import meta_model
from playground.settings import Generation, Load, Lora, Settings
from playground.train.attention import supports_packed_rows
from playground.train.loss import Loss
from playground.train.norms import efficient_norms


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a toy model of a family, one for each family."""
    made = {}

    def make(kind):
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp("model") / kind
            torch.manual_seed(0)
            model = model_from_config(small_config(kind), torch.float32).eval()
            model.generation_config.pad_token_id, model.generation_config.eos_token_id = 2, 1
            model.save_pretrained(made[kind])
            make_tokenizer(False).save_pretrained(made[kind])
        return made[kind]

    return make


def load(folder, bits):
    return load_model(folder, Load(model=str(folder), bits=bits, device="cpu"), lambda *done: None)


def settings_for(folder, lesson, bits, **groups):
    values = {"load": {"model": str(folder), "bits": bits, "device": "cpu"}, "data": {"source": str(lesson)}}
    train = {"max_steps": 2, "batch_size": 4, "max_seq_length": 256, "sample_every": "off", "eval_rows": 4}
    train["measure_forgetting"] = bits == 16  # it depends on no width
    return Settings().with_values(values | {"train": train} | groups)


def toy(kind, dtype=torch.float32):
    return model_from_config(small_config(kind), dtype).requires_grad_(False).eval()


@pytest.mark.parametrize("kind", ["nanochat", "gemma3n_text", "diffllama"])
def test_norms_without_a_weight_are_left_to_the_model(kind):
    model = toy(kind)
    model.stands_for = "cuda"  # where norms are swapped
    assert all(isinstance(norm.weight, torch.Tensor) for norm in efficient_norms(model))
    assert any(getattr(module, "weight", 0) is None or not hasattr(module, "weight") for module in model.modules())


def test_layers_may_differ_in_their_heads():
    model = toy("gemma4_text", torch.bfloat16)
    model.stands_for = "cuda"
    assert not supports_packed_rows(model)  # those with full attention have 512 numbers each
    model = toy("llama", torch.bfloat16)
    model.stands_for = "cuda"
    assert supports_packed_rows(model)
    odd = small_config("llama")
    odd.head_dim = 12  # not a multiple of 8
    other = model_from_config(odd, torch.bfloat16)
    other.stands_for = "cuda"
    assert not supports_packed_rows(other)


@pytest.mark.parametrize("kind, layer", [("longt5", "wo"), ("mamba", "dt_proj"), ("gemma3n_text", "correction_coefs")])
def test_weights_that_the_models_code_reads_as_numbers_stay_unquantized(folder, kind, layer):
    real = dict(load(folder(kind), 4).model.named_modules())
    built = meta_model.build(small_config(kind), Load(bits=4), torch.bfloat16, "cpu")
    planned = dict(built.named_modules())
    names = [name for name in real if name.split(".")[-1] == layer]
    assert names and not any(isinstance(network[name], Linear4bit) for network in (real, planned) for name in names)
    quantized = {name for name, module in real.items() if isinstance(module, Linear4bit)}
    assert quantized == {name for name, module in planned.items() if isinstance(module, Linear4bit)} != set()


@pytest.mark.parametrize("kind", ["mamba", "rembert"])
def test_a_head_that_something_precedes_is_left_to_the_models_own_loss(kind):
    """Mamba's head gets float32 numbers in a 16-bit model, RemBERT's another width than the network's."""
    assert not Loss(toy(kind, torch.bfloat16)).chunked
    assert Loss(toy("llama", torch.bfloat16)).chunked


@pytest.mark.parametrize("kind", ["mamba2", "bert", "openai-gpt", "qwen3_next", "bamba", "deepseek_v3", "gemma4_text"])
def test_memory_is_planned_for_caches_of_another_kind_and_for_experts(folder, lesson, kind):
    plan = forecast.forecast(settings_for(folder(kind), lesson, 4), 64, 8 * 2**30)
    assert plan["phases"]["tune"]["need"] > plan["phases"]["chat"]["parts"]["weights"] > 0
    assert ("kv_cache" in plan["phases"]["chat"]["parts"]) == (kind != "openai-gpt")


def test_an_8_bit_dora_on_a_cpu_is_refused_before_anything_is_loaded(folder, lesson, tmp_path):
    settings = settings_for(folder("llama"), lesson, 8, lora={"use_dora": True})
    events = []
    with pytest.raises(PlaygroundError) as caught:
        for event in Workbench(tmp_path / "runs").tune(settings):
            events.append(event)
    assert keys(caught) == ["error.dora_8bit"] and not any(event["kind"] == "progress" for event in events)


def test_what_peft_refuses_is_told_in_its_words():
    with pytest.raises(PlaygroundError) as caught:
        adapt.add_lora(toy("deepseek_v3"), Lora(dropout=0.1), torch.float32, 0)
    assert keys(caught) == ["error.peft"] and "dropout" in caught.value.text("en")


def test_an_error_of_the_models_own_code_is_told_as_such():
    try:
        toy("xlnet", torch.bfloat16)(input_ids=torch.arange(3, 9)[None])
    except RuntimeError as error:
        shown = as_playground_error(error).problems[0]
    assert shown.key == "error.model_code" and shown.values["family"] == "xlnet"
    assert as_playground_error(RuntimeError("ours")).problems[0].key == "error.unexpected"


def test_families_with_tokens_first_answer_base_and_tuned_one_after_the_other(folder, lesson, tmp_path):
    assert supports_mixed_batches(toy("bart")) and not supports_mixed_batches(toy("led"))
    settings = settings_for(folder("led"), lesson, 16)
    run = list(Workbench(tmp_path / "runs").tune(settings))[-1]["result"]["run"]
    turn = [{"instruction": "q 3?", "answer": None}]
    generation = Generation(max_new_tokens=4)
    *_, last = Workbench(tmp_path / "runs").chat(settings, run, {"base": turn, "tuned": turn}, generation)
    assert last["kind"] == "done"


def test_a_template_that_takes_contents_in_parts_alone_gets_them():
    tokenizer = make_tokenizer(True)
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role }}: {% for part in m.content %}"
        "{% if part.type == 'image' %}<image>{% elif part.type == 'text' %}{{ part.text }}{% endif %}{% endfor %}\n"
        "{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )
    template = ChatTemplate(tokenizer)
    assert template.defect() is None
    assert template.prompt([Turn("Q", "A"), Turn("R")]) == "user: Qassistant: Auser: Rassistant: "
    plain = "{% for m in messages %}{{ m.content }}|{% endfor %}"
    tokenizer.chat_template = plain
    assert ChatTemplate(tokenizer).prompt([Turn("Q")]) == "Q|"


def test_a_chat_template_in_the_processors_file_is_used(folder, tmp_path):
    make_tokenizer(False).save_pretrained(tmp_path)
    (tmp_path / PROCESSOR_TEMPLATE).write_text(json.dumps({"chat_template": "{{ messages[0].content }}"}))
    model = AutoModelForCausalLM.from_pretrained(folder("llama"))
    assert load_tokenizer(tmp_path, model).chat_template == "{{ messages[0].content }}"


def test_the_saved_sweep_has_the_counts_of_the_documents_and_no_crash():
    found = json.loads((PROJECT / "tests" / "bench" / "results" / "families.json").read_text())["families"]
    steps = [list(tried.values()) for tried in found.values()]
    assert not any(outcome.startswith(("crash", "ended", "took")) for outcomes in steps for outcome in outcomes)
    no_toy = sum(tried["toy"].startswith("no toy") for tried in found.values())
    planned = sum(set(outcomes) == {"works"} for outcomes in steps)
    works = sum({tried[step] for step in tried if step != "plan"} == {"works"} for tried in found.values())
    table = (PROJECT / "tests" / "bench" / "README.md").read_text()
    refused = len(found) - works - no_toy
    for line in (f"memory planned | {planned} |", f"in a sentence | {works - planned} |", f"small | {no_toy} |"):
        assert line in table
    assert f"half precision | {refused} |" in table
    readme = " ".join((PROJECT / "README.md").read_text().split())
    assert f"Of the {len(found)} model types" in readme and f"tried as toys, {works} load" in readme
    assert f"{refused} are refused in a sentence, and {no_toy} have no toy" in readme


def test_the_sweep_names_every_family_that_transformers_can_answer_with():
    found = families()
    assert {"llama", "t5", "llava", "mamba", "deepseek_v3", "gemma3"} <= set(found) and len(found) > 250


# Those of the sweep that are least alike. OLMo 2 is trained in test_plain_peft.py too.
SWEPT = ["falcon_mamba", "hy_v4", "rwkv", "glm4_moe", "gpt_oss", "t5gemma"]


@pytest.mark.parametrize("kind", [*SWEPT, pytest.param("olmo2", marks=pytest.mark.exhaustive)])
def test_a_family_of_the_sweep_trains_and_answers(folder, lesson, tmp_path, kind):
    """As in `tests/family_sweep.py`, which tries them all; its results are in tests/bench/results/families.json."""
    for bits in (16, 4):
        settings = settings_for(folder(kind), lesson, bits)
        *_, last = Workbench(tmp_path / "runs").tune(settings)
        assert last["kind"] == "done"
        turn = [{"instruction": "q 3?", "answer": None}]
        chat = {"base": turn, "tuned": turn}
        *_, end = Workbench(tmp_path / "runs").chat(settings, last["result"]["run"], chat, Generation(max_new_tokens=3))
        assert end["kind"] == "done"
