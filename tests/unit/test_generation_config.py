"""Answers come from the form's settings alone; a model's own are listed, and used where that is asked for."""

import json
import shutil
import threading

import pytest
from test_generate import PROMPTS, answers, both_sides, load, with_adapter
from transformers import AutoConfig, GenerationConfig

from playground.chat.answer_streamer import AnswerStreamer
from playground.chat.generate import Prompt, batches
from playground.chat.generation_config import depends_on_longest, own_settings
from playground.engine.workbench import Workbench
from playground.model.adapt import ADAPTER_NAME
from playground.settings import Generation

PLAIN = Generation(max_new_tokens=12)
HARMFUL = {
    "stop_strings": ["a"],
    "num_return_sequences": 2,
    "penalty_alpha": 0.6,
    "top_k": 4,
    "return_dict_in_generate": True,
    "output_scores": True,
    "min_length": 400,
    "no_repeat_ngram_size": 1,
    "guidance_scale": 3.0,
    "max_time": 0.001,
    "forced_bos_token_id": 5,
    "forced_eos_token_id": 7,
    "suppress_tokens": list(range(40, 300)),
    "max_length": 3,
    "cache_implementation": "static",
    "prompt_lookup_num_tokens": 3,
}


@pytest.mark.parametrize("name", sorted(HARMFUL))
def test_no_setting_of_the_model_changes_an_answer(toy, name):
    expected = answers(with_adapter(load(toy(), 32)), both_sides(PROMPTS[0]), PLAIN)[-1]
    model = with_adapter(load(toy(), 32))
    own = model.model.get_base_model().generation_config
    setattr(own, name, HARMFUL[name])
    event = answers(model, both_sides(PROMPTS[0]), PLAIN)[-1]
    assert event["texts"] == expected["texts"] and event["tokens"] == expected["tokens"]
    assert model.model.get_base_model().generation_config is own


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_a_model_with_an_encoder_starts_with_its_own_token_and_is_forced_to_nothing(toy, family):
    plain, model = load(toy(family), 32), load(toy(family), 32)
    model.model.generation_config.forced_bos_token_id = 9
    model.model.generation_config.min_length = 50
    prompts = [Prompt(PROMPTS[0])]
    assert answers(model, prompts, PLAIN)[-1]["ids"] == answers(plain, prompts, PLAIN)[-1]["ids"]


def test_the_models_own_settings_are_used_where_that_is_asked_for(toy):
    model, prompts = load(toy(), 32), [Prompt(PROMPTS[0])]
    model.model.generation_config = GenerationConfig(
        do_sample=True, temperature=0.7, top_k=20, suppress_tokens=[50], min_length=200, max_length=900, eos_token_id=1
    )
    assert own_settings(model.model) == {
        "do_sample": True,
        "temperature": 0.7,
        "top_k": 20,
        "min_length": 200,
        "suppress_tokens": [50],
    }
    greedy = answers(model, prompts, PLAIN)[-1]["ids"]
    seeds = [Generation(max_new_tokens=12, seed=seed, model_defaults=True) for seed in (0, 0, 1)]
    sampled = [answers(model, prompts, generation)[-1]["ids"] for generation in seeds]
    assert sampled[0] == sampled[1] != sampled[2] and greedy not in sampled


def test_a_model_without_settings_of_its_own_lists_none(toy):
    assert own_settings(load(toy(), 32).model) == {}


def test_own_settings_are_noted_with_the_answer(chosen, tmp_path, toy):
    folder = tmp_path / "model"
    shutil.copytree(toy(), folder)
    config = {"min_length": 30, "num_beams": 2, "stop_strings": ["x"], "eos_token_id": 1}
    (folder / "generation_config.json").write_text(json.dumps(config))
    turns = {"base": [{"instruction": "q", "answer": None}]}
    for model_defaults, key in ((False, "note.own_settings_unused"), (True, "note.own_settings_used")):
        generation = Generation(max_new_tokens=4, model_defaults=model_defaults)
        events = list(Workbench(tmp_path / "runs").chat(chosen(load={"model": str(folder)}), None, turns, generation))
        notes = {event["key"]: event["values"] for event in events if event["kind"] == "note"}
        assert set(notes[key]["settings"]) == {"min_length 30", "num_beams 2"}, notes
        assert events[-1]["kind"] == "done"


@pytest.mark.parametrize("kind", ["dynamic", "longrope"])
def test_a_longer_row_does_not_change_a_shorter_ones_answer_where_its_angles_would(toy, kind):
    model = with_adapter(load(toy(), 32))
    rope = {"rope_type": kind, "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 16}
    rope |= {"short_factor": [1.0] * 8, "long_factor": [9.0] * 8} if kind == "longrope" else {}
    model.model.config.rope_parameters = rope
    long = PROMPTS[1] * 3
    assert depends_on_longest(model.model.config, 17) and not depends_on_longest(model.model.config, 16)
    assert batches(model.model, [Prompt(PROMPTS[0]), Prompt(long, ADAPTER_NAME)], 4) == [[0], [1]]
    assert batches(model.model, both_sides(long), 4) == [[0, 1]]
    assert batches(model.model, [Prompt(PROMPTS[0]), Prompt(PROMPTS[1], ADAPTER_NAME)], 4) == [[0, 1]]


def test_plain_rotary_embeddings_do_not_depend_on_the_longest_row(toy):
    assert not depends_on_longest(AutoConfig.from_pretrained(toy()), 10**6)


class _ByteTokenizer:
    """Bytes as tokens, as fallback tokens of sentencepiece decode: a run of them is text only if all of it is UTF-8."""

    def decode(self, ids, skip_special_tokens=True):
        try:
            return bytes(ids).decode()
        except UnicodeDecodeError:
            return "\ufffd" * len(ids)


@pytest.mark.parametrize("text", ["", "絵", "a絵文字", "👍🏽 ok"])
def test_only_the_unfinished_character_of_a_run_of_bytes_waits(text):
    streamer = AnswerStreamer(_ByteTokenizer(), 0, PLAIN, threading.Event(), lambda _: None, [])
    whole = "".join(text)
    data = list(whole.encode())
    for end in range(len(data) + 1):
        assert streamer._text(data[:end]) == bytes(data[:end]).decode(errors="ignore").strip()


def test_bytes_that_are_no_text_do_not_hide_what_comes_before():
    class Tokenizer:
        def decode(self, ids, skip_special_tokens=True):
            return bytes(ids).decode(errors="replace")

    streamer = AnswerStreamer(Tokenizer(), 0, PLAIN, threading.Event(), lambda _: None, [])
    assert streamer._text([*b"good ", 0xFF, *b" end", 0xE3]) == "good \ufffd end"
    assert streamer._text([*b"good", 0xFF, 0xFF, 0xFF, 0xFF]) == "good"
