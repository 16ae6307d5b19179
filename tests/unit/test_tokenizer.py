"""Tokenizers as repos really have them: without a pad or end token, of another size, or changing the text."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import toys
from toys import keys

from playground.data.batch import encode
from playground.data.source import Row
from playground.data.template import Turn
from playground.data.template_choice import choose_template_for
from playground.engine.workbench import Workbench
from playground.errors import PlaygroundError
from playground.model.load import LoadedModel
from playground.model.tokenizer import load_tokenizer, round_trip_notes
from playground.settings import Generation

JAPANESE = "全角の（ＡＢＣ　１２３）と 半角の space、改行\nそして「鍵」。ｶﾀｶﾅも。"


@pytest.fixture
def folder(tmp_path, toy) -> Path:
    return Path(shutil.copytree(toy(), tmp_path / "m"))


def with_settings(folder: Path, **values) -> Path:
    """The folder with tokenizer settings changed; None removes one."""
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k, v in (config | values).items() if v is not None}))
    return folder


def test_the_vocabulary_is_kept_once(folder):
    from transformers import AutoTokenizer

    with_settings(folder, tokenizer_class="GPT2Tokenizer")
    plain, loaded = AutoTokenizer.from_pretrained(folder), load_tokenizer(folder, toys.make_model("llama"))
    # the copies that transformers keeps next to the tokenizers library's own
    assert type(loaded) is type(plain) and len(plain._vocab) > 300 and len(plain._merges) > 30
    assert loaded._vocab is None and loaded._merges is None
    assert loaded(JAPANESE).input_ids == plain(JAPANESE).input_ids
    assert loaded.get_vocab() == plain.get_vocab() and len(loaded) == len(plain)
    loaded.save_pretrained(folder / "again")
    assert AutoTokenizer.from_pretrained(folder / "again")(JAPANESE).input_ids == plain(JAPANESE).input_ids


def write_sentencepiece(folder: Path) -> Path:
    """Write a tokenizer that consists of a sentencepiece model alone, as in many Japanese repos."""
    import sentencepiece as spm

    folder.mkdir(parents=True, exist_ok=True)
    text = ["The answer is blue.", "これは青い空です。", "半角と全角の（ＡＢＣ　１２３）。", "What is the key?"] * 20
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter(text),
        model_prefix=str(folder / "spiece"),
        vocab_size=330,
        byte_fallback=True,
        character_coverage=1.0,
        model_type="bpe",
        pad_id=-1,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        hard_vocab_limit=False,
        minloglevel=2,
        normalization_rule_name="identity",
    )
    (folder / "spiece.model").rename(folder / "tokenizer.model")
    (folder / "spiece.vocab").unlink()
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"})
    )
    return folder


def test_a_missing_pad_token_becomes_the_end_token(folder):
    model = toys.make_model("llama")
    tokenizer = load_tokenizer(with_settings(folder, pad_token=None), model)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 1


def test_a_pad_token_outside_the_embedding_is_not_used(folder):
    tokenizer = load_tokenizer(folder, toys.make_model("llama"))
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})
    tokenizer.save_pretrained(folder)
    small = toys.make_model("llama", vocab_size=330)
    assert tokenizer.pad_token_id >= 330 or len(tokenizer) <= 330
    small.resize_token_embeddings(tokenizer.pad_token_id)
    assert load_tokenizer(folder, small).pad_token_id == 1


def test_a_missing_end_token_is_taken_from_the_model(folder):
    tokenizer = load_tokenizer(with_settings(folder, eos_token=None, pad_token=None), toys.make_model("llama"))
    assert tokenizer.eos_token == "</s>" and tokenizer.pad_token == "</s>"


def test_a_tokenizer_of_another_model_is_an_error(folder):
    with pytest.raises(PlaygroundError) as caught:
        load_tokenizer(
            with_settings(folder, eos_token="<|end|>"),
            toys.make_model("llama", vocab_size=4, eos_token_id=1, pad_token_id=1),
        )
    assert keys(caught) == ["error.tokenizer_rows"] and "only 4" in str(caught.value)


def test_a_folder_without_a_tokenizer_is_an_error_that_lists_its_files(tmp_path):
    (tmp_path / "merges.txt").write_text("")
    with pytest.raises(PlaygroundError) as caught:
        load_tokenizer(tmp_path, toys.make_model("llama"))
    assert keys(caught) == ["error.tokenizer"] and "merges.txt" in str(caught.value)


def test_a_sentencepiece_model_alone_is_loaded(tmp_path):
    tokenizer = load_tokenizer(write_sentencepiece(tmp_path / "m"), toys.make_model("llama", vocab_size=400))
    assert (
        tokenizer.encode("blue", add_special_tokens=False)
        and tokenizer.eos_token == "</s>"
        and tokenizer.pad_token == "</s>"
    )
    assert round_trip_notes(tokenizer, ["これは青い空です。", "（ＡＢＣ　１２３）"]) == []


def test_a_tokenizer_that_changes_characters_or_drops_spaces_is_noted_with_an_example():
    from tokenizers import normalizers

    tokenizer = toys.make_tokenizer(False)
    tokenizer.backend_tokenizer.normalizer = normalizers.NFKC()
    [note] = round_trip_notes(tokenizer, ["これは青い空です。", "全角の（ＡＢＣ　１２３）。"])
    assert note["key"] == "note.tokenizer_changes" and note["values"] == {
        "changed": 1,
        "rows": 2,
        "before": "全角の（ＡＢＣ　",
        "after": "全角の(ABC ",
    }
    tokenizer.backend_tokenizer.normalizer = normalizers.Replace(" ", "")
    [note] = round_trip_notes(tokenizer, ["半角の space も"])
    assert (note["values"]["before"], note["values"]["after"]) == ("半角の spac", "半角のspace")


def test_text_that_survives_a_round_trip_gives_no_note():
    assert round_trip_notes(toys.make_tokenizer(False), [JAPANESE, "", "plain"]) == []


def test_unknown_characters_are_noted():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({"<unk>": 0, "blue": 1}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    [note] = round_trip_notes(PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>"), ["blue 青 blue blue"])
    assert note["key"] == "note.tokenizer_unknown" and note["values"]["percent"] == 25
    assert "青" in note["values"]["before"] and "<unk>" in note["values"]["after"]


def with_chat_template(model, template=toys.CHAT) -> LoadedModel:
    tokenizer = toys.make_tokenizer(True)
    tokenizer.chat_template = template
    return LoadedModel(model, tokenizer, "cpu", torch.float32, "")


def test_an_untrained_end_of_turn_token_is_replaced_by_the_model_s_end_token():
    model = toys.make_model("llama")
    head = model.get_output_embeddings().weight.data
    template, notes = choose_template_for(with_chat_template(model), "auto", ["?"])
    assert template.end_ids() == [4] and notes == []  # random rows point in different directions
    head[300:310] = head[4] + 0.001 * torch.randn(10, head.shape[1])  # rows that no text has moved apart
    template, [note] = choose_template_for(with_chat_template(model), "auto", ["?"])
    assert (
        template.end_ids() == [1]
        and note["key"] == "note.end_never_learned"
        and note["values"] == {"end": "<|end|>", "instead": "</s>"}
    )
    [example], _ = encode([Row("What?", "Blue.")], template, 512)
    assert example.ids[-1] == 1 and template.prompt([Turn("What?")]).endswith("<|start|>assistant\n")
    model.generation_config.eos_token_id = [1, 4]  # the model's own files name it as an end token
    assert choose_template_for(with_chat_template(model), "auto", ["?"])[0].end_ids() == [4]


@pytest.mark.parametrize(
    "template,why",
    [
        ("{{ raise_exception('only once') }}", "only once"),
        ("{{ messages[5].content }}", ""),
        ("{{ broken", ""),
        ("hello", "Q1, A1, Q2 lost"),
    ],
)
def test_a_broken_chat_template_is_ignored_with_a_note(template, why):
    loaded = with_chat_template(toys.make_model("llama"), template)
    chosen_template, [note] = choose_template_for(loaded, "auto", ["?"])
    assert (
        chosen_template.name == "alpaca"
        and note["key"] == "note.chat_template_broken"
        and why in note["values"]["detail"]
    )
    assert choose_template_for(loaded, "auto", ["なに？"])[0].name == "talk"


def test_a_model_tunes_and_answers_with_a_tokenizer_without_special_tokens(chosen, tmp_path, toy):
    """No pad, end or beginning token and no chat template, as in repos of old base models."""
    folder = with_settings(
        Path(shutil.copytree(toy("falcon"), tmp_path / "m")), pad_token=None, eos_token=None, bos_token=None
    )
    bench = Workbench(tmp_path / "runs")
    settings = chosen(load={"model": str(folder)}, train={"max_steps": 2})
    run = list(bench.tune(settings))[-1]["result"]["run"]
    turns = {
        "base": [{"instruction": "one?", "answer": None}],
        "tuned": [{"instruction": "a longer one, please?", "answer": None}],
    }
    events = list(bench.chat(settings, run, turns, Generation(max_new_tokens=3)))
    assert set(
        events[-2] if events[-2]["kind"] == "answer" else next(e for e in reversed(events) if e["kind"] == "answer")
    ) >= {"base", "tuned"}


def test_reasoning_that_only_a_prompt_opens_is_said():
    opened = toys.CHAT.replace("<|start|>assistant\n{% endif %}", "<|start|>assistant\n<think>\n{% endif %}")
    template, [note] = choose_template_for(with_chat_template(toys.make_model("llama"), opened), "auto", ["?"])
    assert note["key"] == "note.opened" and note["values"] == {"text": "<think>"}
    assert template.prompt([Turn("What?")]).endswith("<think>\n")
    [(prompt, answer)] = template.tokens([Row("What?", "Blue.")])
    assert template.tokenizer.decode(prompt).endswith("assistant\n")
    assert template.tokenizer.decode(answer) == "Blue.<|end|>"
