"""The price of a cutoff: counted like `encode` counts, memory as a run predicts it, seconds near those measured on an H100."""

import functools
import json
import random
import shutil

import numpy as np
import pytest
import torch
import toys
from safetensors.torch import load_file, save_file
from toys import PROJECT, keys, make_tokenizer

from playground import runs
from playground.catalog.cards import verdict
from playground.data import source
from playground.data.batch import collate, collate_seq2seq, encode, epoch_batches
from playground.data.lengths import Lengths, count_tokens, cutoff_effect, histogram, padding
from playground.data.source import Row
from playground.data.template import Template, choose_template_for
from playground.errors import PlaygroundError
from playground.i18n import LANGUAGES, translate
from playground.planning import rows as row_questions
from playground.planning.cost import Place, cutoff_cost, known_peak_rates
from playground.predict import meta_model, phases
from playground.predict.heaviest import predict_heaviest_step
from playground.settings import Settings
from playground.train.loop import total_steps
from playground.ui import cost_view as drawing

PLAIN = make_tokenizer(False)
TALK = Template("talk", PLAIN)
GIB = 2**30


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    draw = random.Random(1)
    return [
        Row("what " * draw.randint(1, 60), "blue " * draw.randint(1, 80), input="青い" * draw.randint(0, 3))
        for _ in range(150)
    ]


def settings(model="", **groups) -> Settings:
    chosen = {"load": {"bits": 16} | ({"model": str(model)} if model else {})}
    return Settings().with_values(
        {group: chosen.get(group, {}) | groups.get(group, {}) for group in {**chosen, **groups}}
    )


@pytest.mark.parametrize("encoder", [False, True])
@pytest.mark.parametrize("cutoff", [40, 90, 150, 5000])
def test_a_cutoff_does_what_it_does_to_a_run(rows, cutoff, encoder):
    template = Template("talk", PLAIN, encoder=encoder)
    examples, lost = encode(rows, template, cutoff)
    lengths = count_tokens(rows, template)
    found = cutoff_effect(lengths, cutoff)
    assert (found["kept"], found["left_out"] + found["truncated"], found["left_out"]) == (
        len(examples),
        lost,
        len(rows) - len(examples),
    )
    assert found["tokens"] == sum(len(e.ids) for e in examples) and found["trained"] == sum(
        e.labelled for e in examples
    )
    assert found["lost_share"] == lost / len(rows) and found["uncut"] == sum(
        map(len, (e.ids for e in encode(rows, template, 10**6)[0]))
    )
    alike = lengths.within(cutoff).examples()
    assert [(len(e.ids), e.trained_from) for e in alike] == [(len(e.ids), e.trained_from) for e in examples]
    assert cutoff_effect(lengths, cutoff, True)["trained"] == sum(len(e.ids) - 1 for e in examples)


@pytest.mark.parametrize("encoder", [False, True])
def test_padding_is_that_of_the_batches_a_run_makes(rows, encoder):
    template = Template("talk", PLAIN, encoder=encoder)
    examples, _ = encode(rows, template, 120)
    made = epoch_batches(examples, 8, 3)
    if encoder:
        inputs = [collate_seq2seq(batch, 2, 0, "cpu").inputs for batch in made]
        padded = sum(one["input_ids"].numel() + one["decoder_input_ids"].numel() for one in inputs)
    else:
        padded = sum(collate(batch, 2, "cpu").inputs["input_ids"].numel() for batch in made)
    tokens = sum(len(e.ids) for e in examples)
    assert padding(count_tokens(rows, template).within(120), 8, 3) == {
        "tokens": tokens,
        "padded": padded,
        "saved": pytest.approx(1 - tokens / padded),
    }


@pytest.mark.parametrize(
    "sizes", [[1], [5] * 40, list(range(1, 400)), [*range(1, 400), 100_000]], ids=["one", "alike", "even", "tail"]
)
def test_every_row_is_in_the_bar_of_its_tokens(sizes):
    lengths = Lengths(np.ones(len(sizes), np.int32), np.array(sizes, np.int32) - 1)
    for cutoff in (1, 37, 250, 10**6):
        found = histogram(lengths, cutoff)
        width, bars = found["width"], len(found["counts"])
        for bar, (count_, over) in enumerate(zip(found["counts"], found["over"])):
            here = [n for n in sizes if n // width == bar or (bar == bars - 1 and n >= bars * width)]
            assert (count_, over) == (len(here), sum(n > cutoff for n in here))
        assert sum(found["counts"]) == len(sizes) and found["open"] == (max(sizes) >= bars * width) and bars <= 62
        assert found["longest"] == max(sizes) and found["median"] == np.median(sizes)


def test_counting_tells_how_far_it_is_and_can_be_stopped(rows):
    told = []
    count_tokens(rows * 6, TALK, lambda *progress: told.append(progress))
    assert told[0] == (0, 900, "rows") and len(told) == 4
    with pytest.raises(InterruptedError):
        count_tokens(rows, TALK, lambda *_: (_ for _ in ()).throw(InterruptedError))


# --- memory and seconds ---


def test_its_memory_is_what_a_run_predicts(rows, toy):
    chosen = settings(toy(), train={"max_seq_length": 90, "batch_size": 64, "gradient_checkpointing": "off"})
    config, lengths = meta_model.config_of(str(toy())), count_tokens(rows, TALK)
    found = cutoff_cost(lengths, chosen, config, Place(capacity=GIB))
    examples, _ = encode(rows, TALK, 90)
    told = predict_heaviest_step(config, chosen, phases.Target("cuda", torch.bfloat16, GIB), examples)
    assert found["memory"] == {
        "bytes": told["device_used"],
        "capacity": GIB,
        "verdict": verdict(told["device_used"], GIB),
    } | {name: told[name] for name in ("checkpointing", "budget", "batching", "tokens", "rows")}
    assert found["steps"] == total_steps(len(examples), chosen.train) and found["estimates"] == []  # no card was named
    longer = cutoff_cost(
        lengths,
        settings(toy(), train={"max_seq_length": 400, "batch_size": 64, "gradient_checkpointing": "off"}),
        config,
        Place(),
    )
    assert longer["memory"]["bytes"] > found["memory"]["bytes"] and longer["memory"]["verdict"] is None


MEASURED = json.loads((PROJECT / "tests" / "bench" / "results" / "train_gpu.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    "arm,bits", [("calm/bf16-off", 16), ("calm/nf4-all", 4), ("llama/nf4-off", 4), ("calm/int8-all", 8)]
)
def test_its_seconds_are_near_those_measured_on_an_h100(arm, bits):
    model = {"calm": "cyberagent/open-calm-7b", "llama": "meta-llama/Llama-2-7b-hf"}[arm.split("/")[0]]
    policy, tokens = MEASURED["medians"][arm]["dial"].split()
    sizes = np.array(MEASURED["lengths"], np.int32)
    chosen = settings(
        model,
        load={"bits": bits},
        train={
            "batch_size": len(sizes),
            "max_seq_length": 256,
            "max_steps": 100,
            "gradient_checkpointing": policy,
            "max_tokens_per_micro_batch": int(tokens),
        },
    )
    found = cutoff_cost(
        Lengths(sizes // 3, sizes - sizes // 3), chosen, meta_model.config_of(model), Place("cuda", 80 * GIB, "h100")
    )
    [_, h100] = found["estimates"]
    assert h100["card"] == "H100" and h100["bound"] == "compute"
    assert found["tokens"] * 100 / h100["seconds"] == pytest.approx(MEASURED["medians"][arm]["tokens_per_s"], rel=0.15)
    assert found["memory"]["bytes"] / GIB == pytest.approx(MEASURED["medians"][arm]["device_gib"], rel=0.05)


def test_seconds_grow_with_epochs_and_a_sample_stands_for_all(rows, toy):
    lengths, config = count_tokens(rows, TALK), meta_model.config_of(str(toy()))

    def seconds(scale=1.0, **train):
        return cutoff_cost(
            lengths,
            settings(toy(), train={"batch_size": 2, "max_seq_length": 300} | train),
            config,
            Place(card="rtx-4090"),
            scale=scale,
        )["estimates"][0]["seconds"]

    assert (
        seconds(epochs=8.0)
        == pytest.approx(4 * seconds(epochs=2.0), rel=0.02)
        == pytest.approx(seconds(4.0, epochs=2.0), rel=0.02)
    )


@pytest.mark.parametrize("family", ["t5", "mixtral", "qwen2_moe"])
def test_where_operations_are_not_known_no_time_is_invented(rows, toy, family):
    template, chosen = (
        Template("talk", PLAIN, encoder=family == "t5"),
        settings(toy(family), train={"max_seq_length": 120}),
    )
    found = cutoff_cost(
        count_tokens(rows, template), chosen, meta_model.config_of(str(toy(family))), Place(card="h100")
    )
    assert found["memory"]["bytes"] > 0 and found["estimates"] == [] and found["measured"] is None
    assert translate("en", "price.no_time") in _page(found, "en")


@pytest.mark.parametrize(
    "card,names",
    [
        ("rtx-4090", ["RTX 3090", "RTX 4090", "L4"]),
        ("rtx-4060", []),
        ("NVIDIA H100 80GB HBM3", ["H100"]),
        ("NVIDIA A100-SXM4-40GB", ["A100"]),
        ("Tesla T4", ["T4"]),
        ("NVIDIA GeForce RTX 4090", ["RTX 4090"]),
        ("NVIDIA GeForce RTX 4090 Laptop GPU", []),
        ("NVIDIA GeForce RTX 3090 Ti", []),
        ("NVIDIA H100 PCIe", []),
        ("Tesla V100-SXM2-16GB", ["V100"]),
        ("Tesla V100-PCIE-16GB", []),
        ("NVIDIA A100 80GB PCIe", ["A100"]),
        ("NVIDIA L4", ["L4"]),
        ("NVIDIA L40", []),
        ("NVIDIA L40S", ["L40S"]),
        ("Intel(R) Xeon(R)", []),
        ("", []),
    ],
)
def test_a_card_s_speed_is_told_only_where_it_is_that_card(card, names):
    assert [peak["name"] for peak in known_peak_rates(card)] == names
    assert all(peak["tflops"] > 10 and peak["source"] for peak in known_peak_rates(card))


def test_a_cutoff_that_the_model_cannot_read_or_no_row_passes_is_told_beside_the_counts(rows, toy):
    config = meta_model.config_of(str(toy()))
    long = cutoff_cost(count_tokens(rows, TALK), settings(toy(), train={"max_seq_length": 600}), config, Place())
    short = cutoff_cost(count_tokens(rows, TALK), settings(toy(), train={"max_seq_length": 8}), config, Place())
    assert [one["trouble"]["problems"][0]["key"] for one in (long, short)] == ["error.length", "error.all_too_long"]
    assert long["tokens"] and long["memory"] is None and short["left_out"] == len(rows)
    for lang in LANGUAGES:
        assert "600" in _page(long, lang) and "8" in _page(short, lang)


# --- questions ---


@pytest.fixture
def asked(toy, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text(
        "".join(
            json.dumps({"instruction": f"What is {n}?", "output": "blue " * (n % 50 + 1)}) + "\n" for n in range(120)
        ),
        encoding="utf-8",
    )
    return settings(
        toy(chat=True), data={"source": str(path), "held_out": 0.0}, train={"max_seq_length": 64, "batch_size": 4}
    )


def test_a_question_about_a_row_finds_it_by_number(asked):
    found = row_questions.xray(asked, 7)
    assert found["row"]["instruction"] == "What is 6?" and found["rows"] == 120 and found["template"] == "chat"
    [example], _ = encode([Row("What is 6?", "blue " * 7)], Template("chat", make_tokenizer(True)), 64)
    assert [token["id"] for token in found["tokens"]][: found["kept"]] == example.ids
    sliced = asked.with_values({"data": {"start_row": 11}})
    assert row_questions.xray(sliced, 1)["row"]["instruction"] == "What is 10?"
    with pytest.raises(PlaygroundError) as caught:
        row_questions.xray(asked, 121)
    assert keys(caught) == ["error.no_row"]


def test_a_changed_form_or_file_is_seen_at_once(asked):
    own = asked.with_values({"data": {"prompt_format": "custom", "custom_format": "<{instruction}|{answer}>"}})
    assert "<What is 0?|" in "".join(token["text"] for token in row_questions.xray(own, 1)["tokens"])
    with pytest.raises(PlaygroundError) as caught:
        row_questions.xray(
            asked.with_values({"data": {"prompt_format": "custom", "custom_format": "<{instruction}>"}}), 1
        )
    assert keys(caught) == ["problem.custom_format_no_answer"]
    before = row_questions.cutoff_cost(asked)
    with open(asked.data.source, "a", encoding="utf-8") as file:
        file.write(json.dumps({"instruction": "One more?", "output": "yes"}) + "\n")
    assert (before["rows"], row_questions.cutoff_cost(asked)["rows"]) == (120, 121)


def test_a_sample_is_said_to_be_one(asked):
    found = row_questions.cutoff_cost(asked, cutoff=40, sample=30)
    assert (
        found["counted"] == 30
        and found["rows"] == 120
        and found["cutoff"] == 40
        and sum(found["histogram"]["counts"]) == 30
    )
    for lang in LANGUAGES:
        assert translate(lang, "price.sample", counted="30", rows="120") in _page(found, lang)
    assert row_questions.cutoff_cost(asked, cutoff=40)["counted"] == 120


def test_rows_are_counted_once_however_often_the_cutoff_moves(asked, monkeypatch):
    row_questions.cutoff_cost(asked, cutoff=40)
    monkeypatch.setattr(row_questions, "count_tokens", None)
    assert row_questions.cutoff_cost(asked, cutoff=50)["tokens"] > row_questions.cutoff_cost(asked, cutoff=30)["tokens"]


def test_a_tokenizer_that_is_not_here_is_not_fetched(asked):
    for ask in (row_questions.xray, row_questions.cutoff_cost):
        with pytest.raises(PlaygroundError) as caught:
            ask(asked.with_values({"load": {"model": "smollm2-135m-instruct"}}))
        assert keys(caught) == ["error.tokenizer_absent"] and "SmolLM2" in str(caught.value)


def test_an_end_of_turn_that_the_model_never_learned_is_known_before_it_is_loaded(asked, toy, tmp_path):
    folder = shutil.copytree(toy(chat=True), tmp_path / "base")
    weights = load_file(folder / "model.safetensors")
    weights["lm_head.weight"][300:310] = weights["lm_head.weight"][4] + 0.001 * torch.randn(10, 64)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    for model, end in ((toy(chat=True), 4), (folder, 1)):
        found = row_questions.xray(asked.with_values({"load": {"model": str(model)}}), 1)
        assert found["tokens"][-1]["id"] == end
        model = toys.make_model("llama")
        model.load_state_dict(
            load_file(folder / "model.safetensors") if end == 1 else load_file(toy(chat=True) / "model.safetensors")
        )
        loaded = row_questions.Known(model, make_tokenizer(True))
        assert choose_template_for(loaded, "auto", ["?"])[0].end_ids() == [end]


def test_on_a_cpu_the_speed_of_an_earlier_run_is_taken_and_said_to_be_measured(asked, tmp_path):
    root, name = tmp_path / "runs", "some processor"
    chosen = asked.with_values({"load": {"bits": 32}})
    nothing = row_questions.cutoff_cost(chosen, device="cpu", card=name, root=str(root))
    assert nothing["measured"] is None and nothing["estimates"] == [] and nothing["memory"]["bytes"] > 0
    for hardware, speed in ((name, 50.0), ("another", 999.0)):
        run = runs.create(root, "tune", chosen, hardware={"name": hardware})
        run.append("done", job="tune", result={"tokens_per_s": speed})
    found = row_questions.cutoff_cost(chosen, device="cpu", card=name, root=str(root))
    assert found["measured"]["tokens_per_s"] == 50 and found["measured"]["seconds"] == pytest.approx(
        found["tokens"] * 3 / 50, abs=0.1
    )
    assert "50 tokens/s measured here" in _page(found, "en")


# --- as HTML ---


def _page(found: dict, lang: str) -> str:
    whole = {
        "histogram": {"width": 5, "counts": [1], "over": [0], "open": False, "longest": 1, "median": 1.0, "mean": 1.0},
        "counted": 1,
        "rows": 1,
    } | found
    return drawing.draw(functools.partial(translate, lang), lang, whole)


@pytest.mark.parametrize("lang", LANGUAGES)
def test_the_figure_has_a_bar_for_every_length_and_marks_what_is_longer(asked, lang):
    found = row_questions.cutoff_cost(asked, cutoff=60, capacity=8 * GIB, card="rtx-4090")
    page = _page(found, lang)
    bars = found["histogram"]
    assert page.count('<rect class="over"') == sum(map(bool, bars["over"])) > 0
    assert (
        page.count('<rect class="within"')
        == sum(count_ > over for count_, over in zip(bars["counts"], bars["over"]))
        > 0
    )
    assert (
        translate(lang, "price.cutoff", cutoff="60") in page
        and translate(lang, "plan.verdict.fits") in page
        and page.count("<li>") >= 6
    )
    assert f"{found['truncated'] / 120:.1%}" in page and all(
        peak["name"] in page for peak in known_peak_rates("rtx-4090")
    )


def test_a_bundled_set_is_priced_as_its_rows_are(toy):
    found = row_questions.cutoff_cost(settings(toy(), data={"source": "helpdesk.ja"}), cutoff=2048 // 8)
    assert (
        found["rows"] == len(source.read(settings(data={"source": "helpdesk.ja"}).data).train)
        and found["template"] == "talk"
    )
