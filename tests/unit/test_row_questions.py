"""Questions about rows in the planning process: one row, the rows that remain, a cutoff's cost."""

import functools
import json
import shutil

import pytest
import torch
import toys
from data_files import messages, write_jsonl
from safetensors.torch import load_file, save_file
from toy_rows import write_numbered_rows
from toys import keys, make_tokenizer

from playground import runs
from playground.data import source
from playground.data.batch import encode
from playground.data.source import Row
from playground.data.template import Template
from playground.data.template_choice import choose_template_for
from playground.errors import PlaygroundError
from playground.i18n import LANGUAGES, translate
from playground.model.load import LoadedModel
from playground.planning import rows as row_questions
from playground.settings import Settings
from playground.ui import xray_view


@pytest.fixture
def settings(toy, tmp_path) -> Settings:
    file = write_numbered_rows(tmp_path / "rows.jsonl")
    return Settings().with_values(
        {
            "load": {"model": str(toy(chat=True)), "bits": 16},
            "data": {"source": str(file), "held_out": 0.0},
            "train": {"max_seq_length": 64, "batch_size": 4},
        }
    )


def test_a_row_is_found_by_its_number(settings):
    answer = row_questions.xray(settings, 7)
    assert answer["row"]["instruction"] == "What is 6?" and answer["rows"] == 120 and answer["template"] == "chat"
    [example], _ = encode([Row("What is 6?", "blue " * 7)], Template("chat", make_tokenizer(True)), 64)
    assert [token["id"] for token in answer["tokens"]][: answer["kept"]] == example.ids
    sliced = settings.with_values({"data": {"start_row": 11}})
    assert row_questions.xray(sliced, 1)["row"]["instruction"] == "What is 10?"
    with pytest.raises(PlaygroundError) as caught:
        row_questions.xray(settings, 121)
    assert keys(caught) == ["error.no_row"]


def test_rows_that_remain_are_counted_with_reasons_for_the_rest(settings):
    with open(settings.data.source, "a", encoding="utf-8") as file:
        file.write(json.dumps({"instruction": "", "output": "an answer without a question"}) + "\n")
    counts = row_questions.count_rows(settings.with_values({"data": {"start_row": 11, "held_out": 0.5}}))
    assert counts["train"] + counts["held_out"] == 110 and counts["held_out"] > 0
    assert counts["total"] == 121 and counts["left_out"] == {"empty": 1, "outside": 10}
    assert list(counts["where"].values()) == [[121]]


@pytest.mark.parametrize("source", ["helpdesk.en", "plain-qa.ja", "duplicates", "conversations"])
@pytest.mark.parametrize("selection", [{}, {"start_row": 3, "end_row": 6}, {"sample": 4}, {"contains": "a"}])
def test_all_rows_are_accounted_for(tmp_path, source, selection):
    records = {
        "duplicates": [{"instruction": f"What about a{n % 7}?", "output": "blue" if n % 4 else ""} for n in range(12)],
        "conversations": [{"messages": messages(f"a{n}?", "1", "b?", "2")} for n in range(12)],
    }
    in_file = {"helpdesk.en": 420, "plain-qa.ja": 200, "duplicates": 12}.get(source)
    if source in records:
        source = str(write_jsonl(tmp_path / "rows.jsonl", records[source]))
    settings = Settings().with_values({"data": {"source": source, "held_out": 0.3, **selection}})
    counts = row_questions.count_rows(settings)
    assert counts["train"] + counts["held_out"] + sum(counts["left_out"].values()) == counts["total"]
    assert in_file in (None, counts["total"])
    assert "outside" in counts["left_out"] or "start_row" not in selection
    assert "not_sampled" in counts["left_out"] or "sample" not in selection


def test_a_changed_prompt_format_is_used_at_once(settings):
    custom = settings.with_values({"data": {"prompt_format": "custom", "custom_format": "<{instruction}|{answer}>"}})
    assert "<What is 0?|" in "".join(token["text"] for token in row_questions.xray(custom, 1)["tokens"])


def test_a_changed_file_is_read_again(settings):
    before = row_questions.cutoff_cost(settings)
    with open(settings.data.source, "a", encoding="utf-8") as file:
        file.write(json.dumps({"instruction": "One more?", "output": "yes"}) + "\n")
    assert (before["rows"], row_questions.cutoff_cost(settings)["rows"]) == (120, 121)


def test_a_sample_counts_only_its_rows(settings):
    answer = row_questions.cutoff_cost(settings, cutoff=40, sample=30)
    assert (answer["counted"], answer["rows"], answer["cutoff"]) == (30, 120, 40)
    assert sum(answer["histogram"]["counts"]) == 30
    assert row_questions.cutoff_cost(settings, cutoff=40)["counted"] == 120


def test_rows_are_counted_once_for_all_cutoffs(settings, monkeypatch):
    row_questions.cutoff_cost(settings, cutoff=40)
    monkeypatch.setattr(row_questions, "count_tokens", None)
    longer, shorter = (row_questions.cutoff_cost(settings, cutoff=cutoff) for cutoff in (50, 30))
    assert longer["tokens"] > shorter["tokens"]


def test_a_cutoff_that_is_no_valid_length_is_refused(settings):
    with pytest.raises(PlaygroundError) as caught:
        row_questions.cutoff_cost(settings, cutoff=7)
    assert keys(caught) == ["problem.max_seq_length"]


@pytest.mark.parametrize("question", [row_questions.xray, row_questions.cutoff_cost])
def test_a_missing_tokenizer_is_not_fetched(settings, question):
    with pytest.raises(PlaygroundError) as caught:
        question(settings.with_values({"load": {"model": "smollm2-135m-instruct"}}))
    assert keys(caught) == ["error.tokenizer_absent"] and "SmolLM2" in str(caught.value)


def test_an_untrained_end_of_turn_token_is_recognized_from_the_files(settings, toy, tmp_path):
    folder = shutil.copytree(toy(chat=True), tmp_path / "base")
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"][300:310] = weights["lm_head.weight"][4] + 0.001 * torch.randn(10, 64)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    for path, end in ((toy(chat=True), 4), (folder, 1)):
        answer = row_questions.xray(settings.with_values({"load": {"model": str(path)}}), 1)
        assert answer["tokens"][-1]["id"] == end
        model = toys.make_model("llama")
        model.load_state_dict(load_file(path / "model.safetensors"))
        loaded = LoadedModel(model, make_tokenizer(True), "cpu", torch.float32, "dtype.float32")
        assert choose_template_for(loaded, "auto", ["?"])[0].end_ids() == [end]


def test_on_a_cpu_the_measured_speed_of_an_earlier_run_is_used(settings, tmp_path):
    root, cpu = tmp_path / "runs", "some processor"
    settings = settings.with_values({"load": {"bits": 32}})
    without = row_questions.cutoff_cost(settings, device="cpu", card=cpu, root=str(root))
    assert without["measured"] is None and without["estimates"] == [] and without["memory"]["bytes"] > 0
    for hardware, speed in ((cpu, 50.0), ("another", 999.0)):
        run = runs.create(root, "tune", settings, hardware={"name": hardware})
        run.append("done", job="tune", result={"tokens_per_s": speed})
    measured = row_questions.cutoff_cost(settings, device="cpu", card=cpu, root=str(root))
    assert measured["measured"]["tokens_per_s"] == 50
    assert measured["measured"]["seconds"] == pytest.approx(measured["tokens"] * 3 / 50, abs=0.1)


def test_a_bundled_set_is_counted_whole(toy):
    settings = Settings().with_values(
        {"load": {"model": str(toy()), "bits": 16}, "data": {"source": "helpdesk.ja"}, "train": {"max_seq_length": 256}}
    )
    answer = row_questions.cutoff_cost(settings)
    assert answer["rows"] == len(source.read(settings.data).train) and answer["template"] == "talk"


def test_what_is_special_about_a_row_is_said_with_its_tokens(settings):
    assert row_questions.xray(settings, 1)["notes"] == []
    with open(settings.data.source, "a", encoding="utf-8") as file:
        file.write(json.dumps({"instruction": "What ends a turn?", "output": "It is <|end|>."}) + "\n")
    answer = row_questions.xray(settings, 121)
    assert [note["key"] for note in answer["notes"]] == ["note.special_as_text"]
    for lang in LANGUAGES:
        drawn = xray_view.draw(functools.partial(translate, lang), answer)
        assert "&lt;|end|&gt;" in drawn.split('class="tokens"')[0]
