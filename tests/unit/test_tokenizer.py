"""Tokenizers as people really meet them: without a pad token, without an end, of another size, that change what they read."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import toys
from toys import keys

from playground.data.batch import encode
from playground.data.source import Row
from playground.data.template import Turn, choose_template_for
from playground.engine.workbench import Workbench
from playground.errors import PlaygroundError
from playground.model import tokenizer as room
from playground.model.load import LoadedModel
from playground.settings import Generation

JAPANESE = "全角の（ＡＢＣ　１２３）と 半角の space、改行\nそして「鍵」。ｶﾀｶﾅも。"


@pytest.fixture
def folder(tmp_path, toy) -> Path:
    return Path(shutil.copytree(toy(), tmp_path / "m"))


def changed(folder: Path, **values) -> Path:
    """The folder, with tokenizer settings changed; None takes one away."""
    file = folder / "tokenizer_config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k, v in (config | values).items() if v is not None}))
    return folder


def test_a_vocabulary_is_kept_once(folder):
    from transformers import AutoTokenizer

    changed(folder, tokenizer_class="GPT2Tokenizer")
    theirs, ours = AutoTokenizer.from_pretrained(folder), room.load_tokenizer(folder, toys.make_model("llama"))
    assert (
        type(ours) is type(theirs) and len(theirs._vocab) > 300 and len(theirs._merges) > 30
    )  # what would be kept beside the library's
    assert ours._vocab is None and ours._merges is None
    assert (
        ours(JAPANESE).input_ids == theirs(JAPANESE).input_ids
        and ours.get_vocab() == theirs.get_vocab()
        and len(ours) == len(theirs)
    )
    ours.save_pretrained(folder / "again")
    assert AutoTokenizer.from_pretrained(folder / "again")(JAPANESE).input_ids == theirs(JAPANESE).input_ids


def sentencepiece(folder: Path) -> Path:
    """A tokenizer that consists of a sentencepiece model alone, as many Japanese repos have it."""
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


def test_a_missing_pad_token_is_the_end_token_and_rows_are_padded_all_the_same(folder):
    model = toys.make_model("llama")
    found = room.load_tokenizer(changed(folder, pad_token=None), model)
    assert found.pad_token_id == found.eos_token_id == 1


def test_a_pad_token_beyond_the_model_s_rows_is_not_used(folder):
    found = room.load_tokenizer(folder, toys.make_model("llama"))
    found.add_special_tokens({"pad_token": "[PAD]"})
    found.save_pretrained(folder)
    small = toys.make_model("llama", vocab_size=330)
    assert found.pad_token_id >= 330 or len(found) <= 330
    small.resize_token_embeddings(found.pad_token_id)
    assert room.load_tokenizer(folder, small).pad_token_id == 1


def test_an_end_token_that_only_the_model_names_is_taken_from_it(folder):
    found = room.load_tokenizer(changed(folder, eos_token=None, pad_token=None), toys.make_model("llama"))
    assert found.eos_token == "</s>" and found.pad_token == "</s>"


def test_a_tokenizer_of_another_model_is_told(folder):
    with pytest.raises(PlaygroundError) as caught:
        room.load_tokenizer(
            changed(folder, eos_token="<|end|>"), toys.make_model("llama", vocab_size=4, eos_token_id=1, pad_token_id=1)
        )
    assert keys(caught) == ["error.tokenizer_rows"] and "only 4" in str(caught.value)


def test_a_folder_without_a_tokenizer_says_what_it_has(tmp_path):
    (tmp_path / "merges.txt").write_text("")
    with pytest.raises(PlaygroundError) as caught:
        room.load_tokenizer(tmp_path, toys.make_model("llama"))
    assert keys(caught) == ["error.tokenizer"] and "merges.txt" in str(caught.value)


def test_a_sentencepiece_model_alone_is_a_tokenizer(tmp_path):
    found = room.load_tokenizer(sentencepiece(tmp_path / "m"), toys.make_model("llama", vocab_size=400))
    assert found.encode("blue", add_special_tokens=False) and found.eos_token == "</s>" and found.pad_token == "</s>"
    assert room.round_trip_notes(found, ["これは青い空です。", "（ＡＢＣ　１２３）"]) == []


def test_a_tokenizer_that_narrows_characters_or_drops_spaces_is_told_with_what_becomes_of_them():
    from tokenizers import normalizers

    found = toys.make_tokenizer(False)
    found.backend_tokenizer.normalizer = normalizers.NFKC()
    [note] = room.round_trip_notes(found, ["これは青い空です。", "全角の（ＡＢＣ　１２３）。"])
    assert note["key"] == "note.tokenizer_changes" and note["values"] == {
        "changed": 1,
        "rows": 2,
        "before": "全角の（ＡＢＣ　",
        "after": "全角の(ABC ",
    }
    found.backend_tokenizer.normalizer = normalizers.Replace(" ", "")
    [note] = room.round_trip_notes(found, ["半角の space も"])
    assert (note["values"]["before"], note["values"]["after"]) == ("半角の spac", "半角のspace")


def test_text_that_comes_back_as_it_was_needs_no_word():
    assert room.round_trip_notes(toys.make_tokenizer(False), [JAPANESE, "", "plain"]) == []


def test_characters_that_a_tokenizer_does_not_know_are_told():
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.WordLevel({"<unk>": 0, "blue": 1}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    [note] = room.round_trip_notes(
        PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>"), ["blue 青 blue blue"]
    )
    assert note["key"] == "note.tokenizer_unknown" and note["values"]["percent"] == 25
    assert "青" in note["values"]["before"] and "<unk>" in note["values"]["after"]


def chatty(model, template=toys.CHAT) -> LoadedModel:
    tokenizer = toys.make_tokenizer(True)
    tokenizer.chat_template = template
    return LoadedModel(model, tokenizer, "cpu", torch.float32, "")


def test_an_end_of_turn_that_the_model_never_learned_is_replaced_by_its_own_end():
    model = toys.make_model("llama")
    head = model.get_output_embeddings().weight.data
    template, notes = choose_template_for(chatty(model), "auto", ["?"])
    assert template.end_ids() == [4] and notes == []  # random rows are told apart
    head[300:310] = head[4] + 0.001 * torch.randn(10, head.shape[1])  # rows that no text has moved apart
    template, [note] = choose_template_for(chatty(model), "auto", ["?"])
    assert (
        template.end_ids() == [1]
        and note["key"] == "note.end_never_learned"
        and note["values"] == {"end": "<|end|>", "instead": "</s>"}
    )
    [example], _ = encode([Row("What?", "Blue.")], template, 512)
    assert example.ids[-1] == 1 and template.prompt([Turn("What?")]).endswith("<|start|>assistant\n")
    model.generation_config.eos_token_id = [1, 4]  # its makers say that it ends with it
    assert choose_template_for(chatty(model), "auto", ["?"])[0].end_ids() == [4]


@pytest.mark.parametrize(
    "template,why",
    [
        ("{{ raise_exception('only once') }}", "only once"),
        ("{{ messages[5].content }}", ""),
        ("{{ broken", ""),
        ("hello", "Q1, A1, Q2 lost"),
    ],
)
def test_a_chat_template_that_does_not_work_is_left_out_with_a_word(template, why):
    loaded = chatty(toys.make_model("llama"), template)
    found, [note] = choose_template_for(loaded, "auto", ["?"])
    assert found.name == "alpaca" and note["key"] == "note.chat_template_broken" and why in note["values"]["detail"]
    assert choose_template_for(loaded, "auto", ["なに？"])[0].name == "talk"


def test_a_tuned_model_answers_with_a_tokenizer_that_lacks_everything(chosen, tmp_path, toy):
    """No pad, no end, no beginning and no chat template: what the repo of an old base model looks like."""
    folder = changed(
        Path(shutil.copytree(toy("falcon"), tmp_path / "m")), pad_token=None, eos_token=None, bos_token=None
    )
    bench = Workbench(tmp_path / "runs")
    settings = chosen(load={"model": str(folder)}, train={"max_steps": 2})
    run = list(bench.tune(settings))[-1]["result"]["run"]
    asked = {
        "base": [{"instruction": "one?", "answer": None}],
        "tuned": [{"instruction": "a longer one, please?", "answer": None}],
    }
    events = list(bench.chat(settings, run, asked, Generation(max_new_tokens=3)))
    assert set(
        events[-2] if events[-2]["kind"] == "answer" else next(e for e in reversed(events) if e["kind"] == "answer")
    ) >= {"base", "tuned"}
