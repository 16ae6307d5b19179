"""Tapes of toy models: they end where the predictions do, and tell what each layer holds, stage by stage."""

from dataclasses import replace

import pytest
import torch
from streamed_toys import LAYERS, loss_and_gradients, tuned
from test_layer_extrapolation import ROWS, deep
from toys import toy_config

from playground.errors import PlaygroundError
from playground.planning import forecast, picture
from playground.predict import phases, tape
from playground.predict.allocation_trace import OUTSIDE, AllocationEvent
from playground.predict.buffered_layers import buffered_layers
from playground.settings import BIT_WIDTHS, Load, Lora, Settings, Train
from playground.train.checkpointing import CheckpointPolicy

CUDA = phases.Target("cuda", torch.bfloat16)


def settings(bits: int = 16, checkpointing: str = "off", **train) -> Settings:
    train = {"batch_size": 4, "gradient_checkpointing": checkpointing} | train
    return Settings(load=Load(bits=bits), lora=Lora(r=4), train=Train(**train))


def held(condensed: dict) -> list[dict[tuple[int, str], int]]:
    """What is held at each instant, by layer and part, from the changes."""
    now: dict[tuple[int, str], int] = {}
    instants = []
    for visit in condensed["visits"]:
        now |= {(layer, condensed["names"][name]): size for layer, name, size in visit["changes"]}
        instants.append(dict(now))
    return instants


def layers_of(condensed: dict, stage: str) -> list[int]:
    return [v["layer"] for v in condensed["visits"] if v["stage"] == stage and v["layer"] != OUTSIDE]


@pytest.mark.parametrize(
    ("family", "bits", "checkpointing"),
    [("llama", 16, "off"), ("llama", 4, "all"), ("gpt_neox", 8, "2"), ("t5", 16, "all"), ("gemma3_text", 4, "offload")],
)
def test_the_highest_instant_is_the_predicted_peak(family, bits, checkpointing):
    chosen, config = settings(bits, checkpointing), deep(family)
    for condensed, predicted in (
        (tape.tune_tape(config, chosen, CUDA, ROWS), phases.predict_tune(config, chosen, CUDA, ROWS)),
        (tape.chat_tape(config, chosen, CUDA, 64), phases.predict_chat(config, chosen, CUDA, 64)),
        (tape.load_tape(config, chosen, CUDA), phases.predict_load(config, chosen, CUDA)),
    ):
        assert condensed["allocated"] == max(v["allocated"] for v in condensed["visits"]) == predicted["allocated"]
        assert [sum(sizes.values()) for sizes in held(condensed)] == [v["allocated"] for v in condensed["visits"]]


def test_the_parts_at_the_highest_instant_are_those_predicted():
    chosen = settings(4, "all")
    condensed, predicted = (
        tape.tune_tape(deep("llama"), chosen, CUDA, ROWS),
        phases.predict_tune(deep("llama"), chosen, CUDA, ROWS),
    )
    parts: dict[str, int] = {}
    for (_, part), size in max(held(condensed), key=lambda sizes: sum(sizes.values())).items():
        parts[part] = parts.get(part, 0) + size
    assert {part: size for part, size in parts.items() if size} == condensed["parts"]
    assert condensed["parts"] | {"runtime": predicted["parts"]["runtime"]} == predicted["parts"]


def test_a_checkpointed_layer_is_computed_again_before_its_backward_pass():
    condensed = tape.tune_tape(deep("llama"), settings(16, "all"), CUDA, ROWS)
    layers = list(range(condensed["layers"]))
    assert layers_of(condensed, "forward") == layers
    assert layers_of(condensed, "recompute") == layers[::-1]
    order = [(v["stage"], v["layer"]) for v in condensed["visits"]]
    assert all(order.index(("recompute", n)) < order.index(("backward", n)) for n in layers[:-1])
    assert layers_of(tape.tune_tape(deep("llama"), settings(16, "2"), CUDA, ROWS), "recompute") == layers[::-2]
    assert layers_of(tape.tune_tape(deep("llama"), settings(16, "off"), CUDA, ROWS), "recompute") == []


def test_a_layer_keeps_more_activations_without_checkpointing():
    kept = {}
    for checkpointing in ("off", "all"):
        condensed = tape.tune_tape(deep("llama"), settings(16, checkpointing), CUDA, ROWS)
        kept[checkpointing] = next(v["kept"] for v in condensed["visits"] if (v["stage"], v["layer"]) == ("forward", 5))
    assert kept["off"] > 3 * kept["all"] > 0


def test_quantized_weights_are_made_dense_in_the_layer_at_work():
    work = {}
    for bits in (16, 4):
        condensed = tape.tune_tape(deep("llama"), settings(bits), CUDA, ROWS)
        work[bits] = [v["work"] for v in condensed["visits"] if v["stage"] == "forward" and v["layer"] == 5]
    assert max(work[16]) < max(work[4])


def test_loading_visits_one_layer_after_another_and_stages_its_weights_there():
    condensed = tape.load_tape(deep("llama"), settings(4), CUDA)
    assert layers_of(condensed, "load") == list(range(condensed["layers"]))
    buffers = condensed["names"].index("buffers")
    staged = [
        (visit["layer"], layer)
        for visit in condensed["visits"]
        for layer, name, size in visit["changes"]
        if size and name == buffers and layer != OUTSIDE
    ]
    assert staged == [(layer, layer) for layer in range(condensed["layers"])]


def test_activations_are_gone_after_the_step():
    condensed = tape.tune_tape(deep("llama"), settings(), CUDA, ROWS)
    assert condensed["visits"][-1]["stage"] == "optimizer"
    last = condensed["visits"][-1]
    most = max(v["allocated"] for v in condensed["visits"])
    assert last["end"] < last["allocated"] <= most


def test_tape_of_a_shallow_network_equals_that_of_all_layers(monkeypatch):
    chosen = settings(16, "all")
    shallow = tape.tune_tape.__wrapped__(deep("llama"), chosen, CUDA, ROWS)
    monkeypatch.setattr("playground.predict.trace_cache.choose_shallow_model", lambda *_: None)
    assert tape.tune_tape.__wrapped__(deep("llama"), chosen, CUDA, ROWS) == shallow


def test_a_long_tape_keeps_its_highest_instant(monkeypatch):
    monkeypatch.setattr(tape, "MAX_VISITS", 10)
    chosen = settings(16, "all", max_tokens_per_micro_batch=60)
    condensed = tape.tune_tape.__wrapped__(deep("llama"), chosen, CUDA, ROWS)
    assert len(condensed["visits"]) <= 10 and max(v["allocated"] for v in condensed["visits"]) == condensed["allocated"]
    assert [sum(sizes.values()) for sizes in held(condensed)] == [v["allocated"] for v in condensed["visits"]]


def test_frees_alone_are_no_visit():
    events = [
        AllocationEvent(0, 512, "activations", layer=0, stage="forward"),
        AllocationEvent(1, 1024, "activations", layer=1, stage="forward"),
        AllocationEvent(0, 512, "activations", True, 0, stage="forward"),
    ]
    condensed = tape.condense(events, 2)
    assert [(v["stage"], v["layer"], v["freed"], v["kept"]) for v in condensed["visits"]][1:] == [
        ("forward", 0, 0, 512),
        ("forward", 1, 512, 1024),
    ]


@pytest.mark.parametrize("device", ["cuda", "cpu"])
@pytest.mark.parametrize("job", ["load", "chat", "tune"])
def test_parts_of_a_bar_add_up_to_its_need_and_shrink_with_the_bits(toy, job, device):
    chosen = Settings().with_values({"load": {"model": str(toy())}, "train": {"batch_size": 2, "max_seq_length": 64}})
    weights = []
    for bits in BIT_WIDTHS:
        of_width = chosen.with_values({"load": {"bits": bits}})
        bar = picture.bar(of_width, job, 64, 8 * 2**30, device)
        assert sum(bar["parts"].values()) == bar["need"] and bar["bits"] == bits and bar["verdict"] == "fits"
        assert ("program" if device == "cpu" else "runtime") in bar["parts"]
        weights.append(bar["parts"]["weights"])
    assert weights == sorted(weights, reverse=True) and weights[0] > weights[-1]


def test_a_network_without_repeated_layers_has_no_tape(toy, monkeypatch):
    monkeypatch.setattr("playground.predict.traced_model.repeated_layers", lambda model: [])
    monkeypatch.setattr("playground.predict.trace_cache.choose_shallow_model", lambda *_: None)
    chosen = Settings().with_values(
        {"load": {"model": str(toy("gpt2")), "bits": 16}, "train": {"batch_size": 3, "max_seq_length": 64}}
    )
    assert picture.job_tape(chosen, "tune") == {"tape": None, "reason": "layers"}


def visits_of_a_run(checkpointing: str, count: int) -> list[tuple[str, int, list[int], list[int]]]:
    """(pass, layer, streamed layers in a buffer or on their way, those there for sure) of each layer of a real step."""
    model, streamed = tuned("llama", "16", count, "cpu")
    seen: list[tuple[str, int, list[int], list[int]]] = []

    def note(stage: str, number: int) -> None:
        states = streamed.states()
        seen.append((stage, number, sorted(states["ready"] + states["copying"]), states["ready"]))

    for number, layer in enumerate(streamed.layers):
        layer.register_forward_pre_hook(lambda *_, number=number: note("forward", number))
    before_backward = streamed._order.before_backward

    def noted_backward(number: int) -> None:
        before_backward(number)
        note("backward", number)

    streamed._order.before_backward = noted_backward
    policy = CheckpointPolicy(checkpointing)
    loss_and_gradients(model, "cpu", policy)
    seen.clear()
    loss_and_gradients(model, "cpu", policy)  # the first one began with empty buffers
    return seen


@pytest.mark.parametrize("count,numbers", [(3, [0, 2, 4]), (5, [0, 1, 2, 3, 4])])
@pytest.mark.parametrize("checkpointing", ["off", "all", "2"])
def test_a_tape_has_in_the_buffers_what_a_run_has_there(checkpointing, count, numbers):
    ran = visits_of_a_run(checkpointing, count)
    chosen = settings(16, checkpointing, max_tokens_per_micro_batch=0)
    chosen = replace(chosen, load=replace(chosen.load, streamed_layers=str(count)))
    condensed = tape.tune_tape(toy_config("llama", num_hidden_layers=LAYERS), chosen, CUDA, [70, 40])
    assert condensed["waiting"] == numbers and condensed["layers"] == LAYERS
    visits, passes = [], {"forward": "forward", "recompute": "backward", "backward": "backward"}
    for visit in condensed["visits"]:
        entry = passes.get(visit["stage"]), visit["layer"], sorted(visit["ready"] + visit["copying"])
        if entry[0] and visit["layer"] != OUTSIDE and entry[:2] not in [earlier[:2] for earlier in visits]:
            visits.append(entry)
            assert visit["layer"] in visit["ready"] or visit["layer"] not in numbers
    assert visits == [one[:3] for one in ran[-len(visits) :]] and len(visits) == 2 * LAYERS
    assert any(visit["copying"] for visit in condensed["visits"])


def test_without_streamed_layers_a_tape_names_none_and_split_ones_all_wait(monkeypatch):
    condensed = tape.tune_tape(deep("llama"), settings(), CUDA, ROWS)
    assert "waiting" not in condensed and "ready" not in condensed["visits"][0]
    split = tape.tune_tape(deep("llama"), settings(4), replace(CUDA, processes=2, split=True), ROWS)
    assert split["waiting"] == list(range(split["layers"])) and split["split"] == 2


def test_while_a_model_is_loaded_no_buffer_holds_a_layer():
    chosen = settings(16)
    chosen = replace(chosen, load=replace(chosen.load, streamed_layers="5"))
    condensed = tape.load_tape(deep("llama"), chosen, CUDA)
    assert len(condensed["waiting"]) == 5 and all(
        visit["ready"] == visit["copying"] == [] for visit in condensed["visits"]
    )


def test_the_picture_streams_under_auto_as_many_layers_as_the_forecast(toy):
    model = toy("llama", num_hidden_layers=12, hidden_size=256, intermediate_size=512)
    train = {"batch_size": 1, "max_seq_length": 32, "gradient_checkpointing": "all"}
    chosen = Settings().with_values({"load": {"model": str(model), "bits": 32}, "train": train})
    none, most = (chosen.with_values({"load": {"streamed_layers": count}}) for count in ("0", "12"))
    whole, least = (picture.bar(fixed, "tune")["need"] for fixed in (none, most))
    capacity = (whole + least) // 2
    plan = forecast.forecast(chosen, 64, capacity)
    condensed = plan["streamed"]
    bar = picture.bar(chosen, "tune", 64, capacity)
    assert (bar["streamed"], bar["layers"]) == (condensed["layers"], 12)
    for job in ("load", "chat", "tune"):
        assert plan["phases"][job]["need"] == picture.bar(chosen, job, 64, capacity)["need"]
    for explained in (plan["explained"], forecast.forecast(most, 64)["explained"]):
        assert all(line["agrees"] for line in explained if line["part"] == "weights")
    assert 2 < bar["streamed"] < 12 and least < bar["need"] <= capacity < whole
    assert len(picture.job_tape(chosen, "tune", 64, capacity)["tape"]["waiting"]) == condensed["layers"]
    assert "streamed" not in picture.bar(chosen, "tune", 64, 2 * whole)
    assert picture.bar(none, "tune", 64, capacity)["verdict"] == "no"


def test_for_a_chat_auto_streams_what_loading_needs(toy):
    model = toy("llama", num_hidden_layers=12, hidden_size=256, intermediate_size=512)
    chosen = Settings().with_values({"load": {"model": str(model), "bits": 32}})
    capacity = picture.bar(chosen, "load")["need"] - 2**22
    loads, chats = (picture.bar(chosen, job, 64, capacity) for job in ("load", "chat"))
    assert loads["streamed"] == chats["streamed"] > 2 and loads["need"] <= capacity


@pytest.mark.parametrize("count", ["2", "13"])
def test_a_number_of_layers_that_no_run_streams_is_refused_by_picture_and_forecast(toy, count):
    model = toy("llama", num_hidden_layers=12)
    chosen = Settings().with_values({"load": {"model": str(model), "bits": 16, "streamed_layers": count}})
    for ask in (lambda: picture.bar(chosen, "tune"), lambda: forecast.forecast(chosen, 64)):
        with pytest.raises(PlaygroundError) as refused:
            ask()
        assert [problem.key for problem in refused.value.problems] == ["error.streamed_count"]


def test_without_a_backward_pass_the_first_layers_come_next():
    model, streamed = tuned("llama", "16", 3, "cpu")
    seen: list[list[int]] = []
    for layer in streamed.layers:
        layer.register_forward_pre_hook(lambda *_: seen.append(streamed.states()["ready"]))
    with torch.no_grad():
        for _ in range(2):
            model(torch.arange(5, 25)[None])
    condensed = buffered_layers([("decode", number) for number in range(LAYERS)], [0, 2, 4])
    assert [sorted(buffered.ready + buffered.copying) for buffered in condensed] == seen[LAYERS:]
