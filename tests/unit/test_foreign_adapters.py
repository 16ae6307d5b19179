"""Adapters that other programs wrote answer as with plain transformers and PEFT, or a sentence says why not."""

import json
import shutil

import pytest
import torch
from peft import LoraConfig, PeftModel, PrefixTuningConfig, get_peft_model
from safetensors.torch import load_file, save_file
from toys import CHAT, keys
from transformers import AutoModelForCausalLM, AutoTokenizer

from playground.engine.workbench import Workbench
from playground.errors import PlaygroundError
from playground.model.adapter_check import check_fit
from playground.model.adapter_file import read_adapter
from playground.predict.meta_model import config_of
from playground.settings import Generation, Settings
from playground.ui.foreign_adapter import is_foreign

ASKED = [{"instruction": "What is the answer?", "answer": None}]
TOKENS = 12
CUT = "\ufffd"  # a character of which the last tokens are missing
LINEAR = {"gpt2": ["c_attn", "c_proj"], "gpt_neox": ["query_key_value"]}


@pytest.fixture
def make(toy, tmp_path):
    """`make(family, **LoraConfig's)`: the folder of an adapter that plain PEFT has saved, its B matrices not zero."""

    def adapter(family="llama", rows=0, name="adapter", base=None, **config):
        model = AutoModelForCausalLM.from_pretrained(base or toy(family, chat=True), dtype=torch.float32)
        if rows:
            model.resize_token_embeddings(rows)
        config = {"r": 4, "target_modules": LINEAR.get(family, ["q_proj", "v_proj"]), "task_type": "CAUSAL_LM"} | config
        tuned = get_peft_model(model, LoraConfig(**config))
        torch.manual_seed(5)
        for parameter_name, parameter in tuned.named_parameters():
            if "lora_B" in parameter_name or ".modules_to_save." in parameter_name or "_delta" in parameter_name:
                torch.nn.init.normal_(parameter, std=0.3)
        tuned.save_pretrained(tmp_path / name)
        return tmp_path / name

    return adapter


@pytest.fixture
def ask(chosen, toy, tmp_path):
    """`ask(adapter, family, load={...}, sides=...)`: answers by side, the job's result and the notes."""
    workbench = Workbench(tmp_path / "runs")

    def answers(adapter, family="llama", **load) -> tuple[dict, dict, dict]:
        model = {"model": str(toy(family, chat=True))} | load
        settings = Settings().with_values({"load": {"bits": 32, "device": "cpu"} | model})
        sides = {"base": ASKED, "tuned": ASKED} if adapter else {"base": ASKED}
        events = list(workbench.chat(settings, adapter and str(adapter), sides, Generation(max_new_tokens=TOKENS)))
        last = [event for event in events if event["kind"] == "answer"][-1]
        notes = {event["key"]: event["values"] for event in events if event["kind"] == "note"}
        return {side: last[side].rstrip(CUT).strip() for side in sides}, events[-1]["result"], notes

    return answers


def plain_answer(base, adapter, tokenizer=None, rows=0, template="chat") -> str:
    """The greedy answer of transformers and PEFT alone."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer or base)
    if rows:
        model.resize_token_embeddings(rows)
    if adapter:
        model = PeftModel.from_pretrained(model, adapter)
    messages = [{"role": "user", "content": ASKED[0]["instruction"]}]
    prompt = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    output = model.eval().generate(
        **prompt, max_new_tokens=TOKENS, do_sample=False, eos_token_id=[1, tokenizer.convert_tokens_to_ids("<|end|>")]
    )
    return tokenizer.decode(output[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True).rstrip(CUT).strip()


def edit(adapter, **values):
    file = adapter / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def problem_of(adapter, base):
    with pytest.raises(PlaygroundError) as error:
        check_fit(read_adapter(adapter), config_of(str(base)), str(base))
    return keys(error), error.value.problems[0].values


@pytest.mark.parametrize(
    "family,config",
    [
        ("llama", {}),
        ("gpt2", {}),
        ("gpt_neox", {"use_rslora": True}),
        ("opt", {}),
        ("llama", {"use_dora": True, "rank_pattern": {"layers.0.self_attn.q_proj": 2}}),
        ("llama", {"alpha_pattern": {"v_proj": 32}, "target_modules": "all-linear"}),
        ("llama", {"modules_to_save": ["lm_head"]}),
        ("llama", {"trainable_token_indices": {"embed_tokens": [40, 41]}}),
    ],
)
def test_both_sides_answer_as_with_plain_peft(make, ask, toy, family, config):
    adapter, base = make(family, **config), toy(family, chat=True)
    answers, result, notes = ask(adapter, family)
    assert answers == {"base": plain_answer(base, None), "tuned": plain_answer(base, adapter)}
    assert answers["base"] != answers["tuned"] and result["adapter"] == "adapter"
    assert not [key for key in notes if key.startswith("note.adapter")]
    again, _, _ = ask(None, family)
    assert again["base"] == answers["base"]  # nothing of the adapter stays


def test_a_grown_vocabulary_with_its_tokenizer_and_template_answers_and_leaves_the_base_unchanged(make, ask, toy):
    adapter, base = make(rows=340), toy(chat=True)
    tokenizer = AutoTokenizer.from_pretrained(base)
    tokenizer.add_tokens(["<|user|>"], special_tokens=True)
    tokenizer.chat_template = CHAT.replace("<|start|>", "<|user|>")
    tokenizer.save_pretrained(adapter)
    before = ask(None)[0]["base"]
    answers, result, _ = ask(adapter)
    assert answers["tuned"] == plain_answer(base, adapter, adapter, rows=340) and result["template"] == "chat"
    assert answers["tuned"] != plain_answer(base, adapter, rows=340)  # with the model's own template
    assert ask(None)[0]["base"] == before


def test_folders_of_llama_factory_unsloth_and_alpaca_lora_are_read(make, ask, toy):
    adapter, base = make(), toy(chat=True)
    expected = plain_answer(base, adapter)
    values = json.loads((adapter / "adapter_config.json").read_text())
    alpaca = adapter.with_name("alpaca-lora")
    alpaca.mkdir()
    kept = {name: values[name] for name in ("peft_type", "task_type", "r", "lora_alpha", "target_modules")}
    old = kept | {"bias": "none", "enable_lora": None, "merge_weights": False, "fan_in_fan_out": None}
    old |= {"base_model_name_or_path": "decapoda-research/llama-7b-hf", "lora_dropout": 0.05}
    (alpaca / "adapter_config.json").write_text(json.dumps(old))
    torch.save(load_file(adapter / "adapter_model.safetensors"), alpaca / "adapter_model.bin")
    answers, _, notes = ask(alpaca)
    assert answers["tuned"] == expected
    assert notes["note.adapter_other_base"]["trained_on"] == "decapoda-research/llama-7b-hf"
    assert "note.adapter_config_ignored" not in notes

    factory = adapter.with_name("saves 工場 🏭's")
    for step in (9, 100):
        shutil.copytree(adapter, factory / f"checkpoint-{step}")
        (factory / f"checkpoint-{step}" / "trainer_state.json").write_text("{}")
    (factory / "training_loss.png").write_bytes(b"x")
    edit(factory / "checkpoint-100", base_model_name_or_path="/home/alice/models/x")
    answers, result, notes = ask(factory)
    assert answers["tuned"] == expected and result["adapter"] == factory.name
    assert notes["note.adapter_checkpoint"]["chosen"] == "checkpoint-100"
    assert notes["note.adapter_other_base"]["trained_on"] == "x"

    edit(adapter, base_model_name_or_path="unsloth/llama-toy-bnb-4bit", tomorrows_setting=3, corda_config=None)
    answers, _, notes = ask(adapter)
    assert answers["tuned"] == expected
    assert notes["note.adapter_config_ignored"]["names"] == ["tomorrows_setting"]


def test_a_wrong_base_is_refused_with_both_names_before_it_is_loaded(make, toy, tmp_path, chosen):
    adapter = make()
    wide = toy(hidden_size=32)
    keys_, values = problem_of(adapter, wide)
    assert keys_ == ["error.adapter_shapes"]
    assert (values["trained_on"], values["model"]) == (toy(chat=True).name, wide.name)
    assert values["layer"] == "model.layers.0.self_attn.q_proj"
    assert (values["given"], values["wanted"], values["missing"]) == ("4 × 64", "4 × 32", 0)
    keys_, values = problem_of(adapter, toy(num_hidden_layers=1))
    assert keys_ == ["error.adapter_layers"] and (values["missing"], values["count"]) == (2, 4)
    keys_, values = problem_of(adapter, toy("gpt2"))
    assert keys_ == ["error.adapter_layers"] and values["missing"] == values["count"] == 4
    keys_, values = problem_of(adapter, toy(num_hidden_layers=4))
    assert keys_ == ["error.adapter_lacks"] and values["layer"] == "model.layers.2.self_attn.q_proj"
    workbench = Workbench(tmp_path / "runs")
    settings = chosen(load={"model": str(wide)})
    with pytest.raises(PlaygroundError) as error:
        list(workbench.chat(settings, str(adapter), {"base": ASKED, "tuned": ASKED}, Generation()))
    assert keys(error) == ["error.adapter_shapes"] and workbench.loaded is None


def _cut(folder):
    file = folder / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])


def _lfs(folder):
    (folder / "adapter_model.safetensors").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\n")


def _empty(folder):
    save_file({}, folder / "adapter_model.safetensors")


def _pickle(folder):
    (folder / "adapter_model.safetensors").unlink()
    torch.save({"x": shutil.rmtree}, folder / "adapter_model.bin")


@pytest.mark.parametrize(
    "damage,key",
    [
        (_cut, "error.cut_off"),
        (_lfs, "error.lfs_pointer"),
        (_empty, "error.adapter_empty"),
        (_pickle, "error.unsafe_weights"),
        (lambda folder: (folder / "adapter_model.safetensors").unlink(), "error.adapter_no_weights"),
        (lambda folder: (folder / "adapter_config.json").unlink(), "error.adapter_not_here"),
        (lambda folder: (folder / "adapter_config.json").write_text('{"peft_type": "LO'), "error.adapter_config"),
        (lambda folder: (folder / "adapter_config.json").write_text("[]"), "error.adapter_config"),
        (lambda folder: (folder / "adapter_config.json").write_text("[" * 5000), "error.adapter_config"),
        (lambda folder: edit(folder, peft_type="IA3"), "error.adapter_type"),
        (lambda folder: edit(folder, task_type="SEQ_CLS"), "error.adapter_task"),
        (lambda folder: edit(folder, bias="all"), "error.adapter_changes_base"),
        (lambda folder: edit(folder, init_lora_weights="pissa_niter_4"), "error.adapter_changes_base"),
        (lambda folder: edit(folder, r="8"), "error.adapter_value"),
        (lambda folder: edit(folder, lora_alpha=True), "error.adapter_value"),
        *(
            (lambda folder, values=values: edit(folder, **values), "error.adapter_value")
            for values in (
                *({"rank_pattern": "x"}, {"rank_pattern": {"q_proj": 0}}, {"alpha_pattern": {"q_proj": "x"}}),
                *({"target_modules": [3]}, {"target_modules": {}}, {"modules_to_save": [None]}, {"lora_dropout": 1}),
                *({"r": 2**40}, {"r": True}, {"lora_alpha": float("nan")}, {"lora_alpha": 1e300}, {"use_dora": "yes"}),
                *({"alora_invocation_tokens": [3]}, {"megatron_config": "x"}, {"modules_to_save": "a("}),
            )
        ),
        (shutil.rmtree, "error.no_folder"),
    ],
)
def test_a_damaged_adapter_is_refused_in_a_sentence(make, toy, damage, key):
    adapter = make()
    damage(adapter)
    assert problem_of(adapter, toy(chat=True))[0] == [key]


def test_an_adapter_of_another_kind_is_refused_by_its_type(toy, tmp_path):
    model = AutoModelForCausalLM.from_pretrained(toy())
    get_peft_model(model, PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)).save_pretrained(
        tmp_path / "prefix"
    )
    keys_, values = problem_of(tmp_path / "prefix", toy())
    assert keys_ == ["error.adapter_type"] and values["type"] == "PREFIX_TUNING"


def test_at_4_bits_the_adapter_answers_over_the_quantized_base(make, ask):
    answers, _, _ = ask(make(), bits=4)
    assert answers["tuned"] != answers["base"]


def test_layers_that_the_config_does_not_name_are_noted_or_refused_where_they_are_the_most(make, ask, toy):
    adapter = make(target_modules=["q_proj", "v_proj"])
    edit(adapter, target_modules=["q_proj"])
    answers, _, notes = ask(adapter)
    assert answers["tuned"] == plain_answer(toy("llama", chat=True), adapter)  # PEFT passes over them in silence
    assert notes["note.adapter_unused"]["unused"] == 2 and notes["note.adapter_unused"]["count"] == 4
    assert "model.layers.0.self_attn.v_proj" in notes["note.adapter_unused"]["names"]
    most = make(name="most", target_modules=["q_proj", "k_proj", "v_proj"])
    edit(most, target_modules=["q_proj"])
    found, values = problem_of(most, toy("llama", chat=True))
    assert found == ["error.adapter_unused"] and values["unused"] == 4 and values["count"] == 6
    edit(most, target_modules=["q_proj", "k_proj", "v_proj"])
    assert "note.adapter_unused" not in ask(most)[2]


def test_a_hub_id_without_a_network_is_an_error_and_from_the_cache_it_answers(make, ask, tmp_path, monkeypatch):
    with pytest.raises(PlaygroundError) as error:
        ask("somebody/some-lora")
    assert keys(error) == ["error.adapter_hub_unreachable"]
    adapter = make()
    monkeypatch.setattr("playground.model.hub.cached_file", lambda repo, name: adapter / name)
    answers, result, _ = ask("somebody/some-lora")
    assert answers["tuned"] and result["adapter"] == "somebody/some-lora"


def test_the_command_takes_a_folder_and_finds_or_is_told_its_base(make, toy, tmp_path, capsys):
    from playground.__main__ import main

    adapter, base = make(), toy(chat=True)
    flags = ["--prompt", ASKED[0]["instruction"], "--max-new-tokens", str(TOKENS), "--runs", str(tmp_path / "runs")]

    def run(*arguments) -> tuple[int, dict]:
        status = main(["compare", str(adapter), *flags, "--bits", "32", "--device", "cpu", *arguments])
        return status, json.loads(capsys.readouterr().out.splitlines()[-1])

    status, result = run()
    assert status == 0 and result["tuned"] == plain_answer(base, adapter) and result["base"] == plain_answer(base, None)
    edit(adapter, base_model_name_or_path="/home/alice/models/x")
    status, failed = run()
    assert status == 1 and "/home/alice/models/x" in failed["error"] and "--model" in failed["error"]
    assert run("--model", str(base))[1]["tuned"] == result["tuned"]


@pytest.mark.parametrize(
    "adapter,foreign",
    [("me/lora", True), ("C:\\lora", True), ("20261127-202848-tune", False), ("", False), (None, False)],
)
def test_choices_with_slashes_are_adapters_from_elsewhere(adapter, foreign):
    assert is_foreign(adapter) is foreign
