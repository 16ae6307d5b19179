"""The bit-width lab's job on a toy model: its points, what is measured again, and the weights after it."""

import dataclasses
import json
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional
from toys import keys

from playground import __main__ as cli
from playground import runs
from playground.engine import lab
from playground.engine.workbench import Workbench
from playground.errors import PlaygroundError
from playground.lab import layers
from playground.lab.layers import quantizable_layers
from playground.lab.question import LabQuestion, parse_question
from playground.lab.text_loss import windows
from playground.memory.ledger import bytes_by_part
from playground.runs.lab_points import all_points, find_points

TEXT = " ".join(["The quick brown fox jumps over the lazy dog, and nobody asks why."] * 20)


@pytest.fixture
def question():
    return lambda formats, **values: LabQuestion(formats, **{"text": TEXT, "answer_tokens": 4, **values})


def _points(events):
    return {event["format"]: event for event in events if event["kind"] == "lab_point"}


def _loaded(settings, tmp_path):
    workbench = Workbench(tmp_path)
    list(workbench.load(settings))
    return workbench.loaded.model


def _settings(chosen, **load):
    return chosen(load={"bits": 16, "dtype": "bfloat16", **load})


def test_each_format_has_a_point_and_the_weights_are_as_before(chosen, question, tmp_path):
    workbench, settings = Workbench(tmp_path), _settings(chosen)
    list(workbench.load(settings))
    model = workbench.loaded.model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    events = list(workbench.lab(settings, question("int2,int4,bf16")))
    points = _points(events)
    assert list(points) == ["bf16", "int2", "int4"]
    assert points["int2"]["weight_error"] > points["int4"]["weight_error"] > points["bf16"]["weight_error"] == 0
    assert points["int2"]["bytes"] < points["int4"]["bytes"] < points["bf16"]["bytes"]
    for point in points.values():
        assert point["model_bits"] == pytest.approx(8 * point["bytes"], rel=1e-3)
        assert len(point["answer"]) > 0 and point["finish"] in ("limit", "end")
        assert (point["tokens_per_s"] is not None) == (point["format"] == "bf16")
    assert points["bf16"]["bytes"] == sum(2 * parameter.numel() for parameter in model.parameters())
    assert points["bf16"]["more_loss"] is None and points["int2"]["more_loss_interval"] > 0
    assert workbench.loaded.model is model
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert events[-1]["result"]["points"] == [
        {name: value for name, value in points[format].items() if name not in ("kind", "t")} for format in points
    ]


def test_loss_is_the_models_own(chosen, question, tmp_path):
    workbench, settings = Workbench(tmp_path), _settings(chosen)
    point = _points(workbench.lab(settings, question("bf16")))["bf16"]
    model, tokenizer = workbench.loaded.model, workbench.loaded.tokenizer
    losses = []
    for part in windows(model, tokenizer, TEXT):
        ids = torch.tensor([part])
        losses.append(functional.cross_entropy(model(ids).logits[0, :-1].float(), ids[0, 1:], reduction="none"))
    assert point["loss"] == pytest.approx(float(torch.cat(losses).mean()), abs=1e-4)


@pytest.mark.slow
def test_simulated_nf4_is_what_bitsandbytes_computes(chosen, question, tmp_path):
    workbench, settings = Workbench(tmp_path), _settings(chosen)
    points = _points(workbench.lab(settings, question("nf4,bitsandbytes-nf4,bf16,int3,bitsandbytes-int8")))
    simulated, real = points["nf4"], points["bitsandbytes-nf4"]
    assert simulated["loss"] == pytest.approx(
        real["loss"], abs=0.1 * abs(points["int3"]["loss"] - points["bf16"]["loss"])
    )
    model = _loaded(settings, tmp_path)
    tables = 64 * len(quantizable_layers(model))  # bitsandbytes keeps its 16 values beside each layer
    buffers = sum(bytes_by_part(model).values()) - sum(2 * parameter.numel() for parameter in model.parameters())
    assert real["bytes"] == simulated["bytes"] + tables + buffers
    assert real["kernel"] and real["tokens_per_s"] and not simulated["kernel"]
    assert points["bitsandbytes-int8"]["bytes"] > real["bytes"]


def test_what_an_earlier_run_has_measured_is_not_measured_again(chosen, question, tmp_path, monkeypatch):
    workbench, settings = Workbench(tmp_path), _settings(chosen)
    measured = []
    measure = lab._measure

    def counted(context, loaded, format, measurements):
        measured.append(format.name)
        return measure(context, loaded, format, measurements)

    monkeypatch.setattr(lab, "_measure", counted)
    first = _points(workbench.lab(settings, question("bf16,int4")))
    again = _points(workbench.lab(settings, question("bf16,int4")))
    assert measured == ["bf16", "int4"] and again["int4"]["run"] != workbench.run.id
    assert again["int4"]["loss"] == first["int4"]["loss"]
    more = _points(workbench.lab(settings, question("int4,int3")))
    assert measured[2:] == ["int3"] and set(more) == {"int4", "int3"}
    _points(workbench.lab(settings, question("int4", prompt="Who?")))
    assert measured[3:] == ["int4"]  # of another prompt
    subject = question("bf16").subject()
    here = (subject, "cpu", "bfloat16")
    assert set(find_points(tmp_path, settings.load.model, *here)) == {"bf16", "int4", "int3"}
    assert find_points(tmp_path, "another", *here) == {}
    for elsewhere in ((subject, "cuda", "bfloat16"), (subject, "cpu", "float32")):
        assert find_points(tmp_path, settings.load.model, *elsewhere) == {}
    assert {format for _, format in all_points(tmp_path, subject)} == {"bf16", "int4", "int3"}


def test_a_stopped_lab_keeps_its_points_and_restores_the_weights(chosen, question, tmp_path):
    workbench, settings = Workbench(tmp_path), _settings(chosen)
    list(workbench.load(settings))
    model = workbench.loaded.model
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    events = []
    for event in workbench.lab(settings, question("int2,int3")):
        events.append(event)
        if event["kind"] == "lab_point":
            workbench.stop.set()
    assert list(_points(events)) == ["int2"] and events[-1]["result"]["stopped"]
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert list(find_points(tmp_path, settings.load.model, question("").subject(), "cpu", "bfloat16")) == ["int2"]


@pytest.mark.parametrize(
    ("family", "values", "key"),
    [
        ("t5", {}, "error.lab_seq2seq"),
        ("llama", {"text": "Short."}, "error.lab_text"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_sentence(chosen, question, toy, tmp_path, family, values, key):
    workbench = Workbench(tmp_path)
    settings = _settings(chosen, model=str(toy(family)))
    with pytest.raises(PlaygroundError) as caught:
        list(workbench.lab(settings, question("int4", **values)))
    assert keys(caught) == [key]
    assert runs.history(tmp_path)[0].state == "failed"


def test_all_problems_of_a_question_are_named_at_once():
    with pytest.raises(PlaygroundError) as caught:
        parse_question({"formats": "int4,int99", "language": "fr", "answer_tokens": -1, "text": "x" * 300_000})
    assert keys(caught) == ["error.lab_language", "error.lab_long_text", "error.lab_tokens", "error.lab_format"]


def test_bundled_texts_are_long_enough_in_both_languages():
    for language in ("en", "ja"):
        question = LabQuestion(language=language)
        assert len(question.full_text()) > 1000 and question.full_prompt()
    assert LabQuestion(language="ja").subject() != LabQuestion().subject()
    assert dataclasses.replace(LabQuestion(), formats="int4").subject() == LabQuestion().subject()


@pytest.mark.slow
def test_the_command_ends_in_one_json_object(toy, tmp_path, capsys):
    text = tmp_path / "text.txt"
    text.write_text(TEXT, encoding="utf-8")
    command = ["lab", str(toy()), "--formats", "bf16,int3", "--text", str(text)]
    command += ["--runs", str(tmp_path / "runs"), "--device", "cpu", "--answer-tokens", "0"]
    status, output = cli.main(command), capsys.readouterr()
    assert not status, output.err
    result = json.loads(output.out)
    assert [point["format"] for point in result["points"]] == ["bf16", "int3"]
    assert "answer" not in result["points"][0]


class _Model(nn.Module):
    """As much of a model as the lab looks at. head: its output embeddings."""

    def __init__(self, **layers):
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.config = SimpleNamespace(model_type="toy")

    def get_output_embeddings(self):
        return getattr(self, "head", None)


def test_models_without_weights_to_quantize_are_refused(monkeypatch):
    monkeypatch.setattr(layers, "layers_left_unquantized", lambda config: ())
    stored = nn.Linear(4, 4)
    stored.weight = nn.Parameter(torch.zeros(8, 1, dtype=torch.uint8), requires_grad=False)
    cases = {
        "error.lab_no_linear": _Model(norm=nn.LayerNorm(4), head=nn.Linear(4, 8)),
        "error.lab_quantized": _Model(q=nn.Linear(4, 4), k=stored),
    }
    for key, model in cases.items():
        with pytest.raises(PlaygroundError) as caught:
            layers.quantizable_layers(model)
        assert keys(caught) == [key]
    assert list(layers.quantizable_layers(_Model(q=nn.Linear(4, 4), head=nn.Linear(4, 8)))) == ["q"]
