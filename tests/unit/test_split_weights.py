"""Quantized weights split over two processes (gloo): they train as whole ones do, and each process holds half of them.

Run as a script, this file is one of those processes: `test_split_weights.py JOB FOLDER`.
"""

import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from test_parallel import FSDP, distance, errors, finish, make_settings, start, train_loaded
from toys import keys

from playground.errors import PlaygroundError
from playground.settings import Load, Settings
from playground.train.parallel import Team

HERE = Path(__file__).resolve()
LAYERS = 6
WIDE = {"num_hidden_layers": LAYERS, "hidden_size": 128, "intermediate_size": 256}
# family, how weights are stored, type that is computed in, gradient checkpointing
CASES = [
    ("llama", {"bits": 4}, "float32", "off"),
    ("llama", {"bits": 4, "double_quant": False, "quant_type": "fp4"}, "float32", "all"),
    ("llama", {"bits": 8}, "float32", "2"),
    ("gemma2", {"bits": 4}, "float32", "all"),
    ("gpt_neox", {"bits": 8}, "float32", "off"),
    ("llama", {"bits": 4}, "bfloat16", "all"),
    ("llama", {"bits": 8}, "bfloat16", "off"),
]
TOLERANCE = {"float32": (2e-5, 1e-4), "bfloat16": (2e-2, 0.2)}  # of losses, in nats; of adapters, as a share


def train_case(team: Team, folder: Path, micro_batch: int, case: tuple) -> dict:
    """Train a toy that is loaded from its files, split if the team splits it; with the bytes that are held."""
    from playground.memory.ledger import bytes_by_part
    from playground.model.load import load_model
    from playground.model.streamed_load import layer_names
    from playground.model.streaming import streamable_tensors

    family, quantized, dtype, policy = case
    load = Load(model=str(folder / family), device="cpu", dtype=dtype, **quantized)
    loaded = load_model(folder / family, load, lambda *step: None, team.load_device, shares=team.shares())
    layers, model = layer_names(loaded.model).values(), loaded.model

    def weights() -> int:
        ledger = bytes_by_part(model)
        return ledger["weights"] + ledger["quant_constants"]

    before = weights()
    return train_loaded(team, loaded, make_settings(micro_batch, policy), 24) | {
        "held": loaded.split.bytes if loaded.split else sum(map(_block_bytes, map(streamable_tensors, layers))),
        "ledger": before,
        "saved": before - weights(),
        "ends": sum({id(p): p.numel() * p.itemsize for p in _ends(model)}.values()),
        "buffers": [buffer.numel() for buffer in loaded.split._buffers] if loaded.split else [],
    }


def _block_bytes(tensors) -> int:
    """Bytes of the block that a layer's tensors take together."""
    from playground import compat
    from playground.memory.constants import aligned

    storages = {compat.storage_id(tensor): tensor.untyped_storage().nbytes() for tensor in tensors}
    return sum(map(aligned, storages.values()))


def _ends(model) -> list:
    return [model.get_input_embeddings().weight, model.get_output_embeddings().weight]


def train_all(team: Team, folder: Path) -> None:
    """Every case, with weights split or whole as the environment says."""
    results = []
    for case in CASES:
        team.splits_bytes = team.sharded
        results.append(train_case(team, folder.parent, 4, case))
    torch.save(results, folder / f"{team.rank}.pt")
    team.leave()


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    import toys

    home = tmp_path_factory.mktemp("split")
    for family in {case[0] for case in CASES}:
        toys.save(home / family, family, **WIDE)
    return home


@pytest.fixture(scope="module")
def results(models):
    """Of two processes: {"whole" or "split": results of every case by rank}."""
    found = {}
    for how, environment in (("whole", {}), ("split", FSDP)):
        finish(start("train_all", models / how, HERE, **environment))
        found[how] = [torch.load(models / how / f"{rank}.pt") for rank in (0, 1)]
    return found


@pytest.fixture(scope="module")
def alone(models):
    """The results of one process, with micro-batches of all rows."""
    return cache(lambda number: train_case(Team("cpu"), models, 8, CASES[number]))


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(CASES)))
def test_split_weights_train_as_whole_ones_do_to_the_bit(results, number):
    for whole, split in zip(results["whole"], results["split"], strict=True):
        assert split[number]["losses"] == whole[number]["losses"]
        assert split[number]["adapter"].keys() == whole[number]["adapter"].keys() != set()
        for name, weight in split[number]["adapter"].items():
            assert weight.isfinite().all() and torch.equal(weight, whole[number]["adapter"][name]), name


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(CASES)))
def test_two_processes_with_split_weights_train_as_one_does(results, alone, number):
    (first, second), one = (ranks[number] for ranks in results["split"]), alone(number)
    losses, adapters = TOLERANCE[CASES[number][2]]
    assert first["mode"] == one["mode"]
    assert first["losses"] == second["losses"] == pytest.approx(one["losses"], abs=losses)
    assert distance(first["adapter"].values(), one["adapter"].values()) < adapters
    assert all(torch.equal(first["adapter"][name], weight) for name, weight in second["adapter"].items())


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(CASES)))
def test_each_process_holds_half_of_the_packed_bytes_and_two_gathered_layers(results, number):
    whole = results["whole"][0][number]
    for split in (ranks[number] for ranks in results["split"]):
        assert 0.5 <= split["held"] / whole["held"] < 0.53
        assert len(set(split["buffers"])) == 1
        layer = whole["held"] / LAYERS
        assert split["buffers"][0] == pytest.approx(layer, rel=0.05)
        rest = whole["ledger"] - whole["held"]
        assert split["ledger"] == pytest.approx(rest + whole["held"] / 2 + 2 * layer, rel=0.03)
        # embedding and head are split as training begins, where the loss is chunked (not with gemma2's capped logits)
        ends = 0 if CASES[number][0] == "gemma2" else split["ends"] / 2
        assert split["saved"] == pytest.approx(ends, rel=0.001)


@pytest.mark.parametrize("bits", [4, 8])
def test_what_a_process_holds_is_predicted(models, bits):
    from playground.memory.ledger import bytes_by_part, tensors_by_part
    from playground.model.load import load_model
    from playground.model.shares import Shares
    from playground.predict import phases

    load = Load(model=str(models / "llama"), device="cpu", bits=bits, dtype="bfloat16")
    for processes in (1, 2, 4):
        loaded = load_model(models / "llama", load, lambda *step: None, shares=Shares("cpu", 0, processes))
        target = phases.Target("cpu", torch.bfloat16, 0, processes, True)
        predicted = phases.predict_load(loaded.model.config, Settings(load=load), target)["parts"]
        held = bytes_by_part(loaded.model)
        whole = predicted["weights"] + predicted.get("quant_constants", 0)
        rounding = 512 * len(list(tensors_by_part(loaded.model)))
        assert 0 <= whole - held["weights"] - held["quant_constants"] <= rounding


def test_the_plan_of_a_process_is_that_of_its_share():
    from toys import toy_config

    from playground.data.batch import Example
    from playground.predict import phases
    from playground.predict.heaviest import predict_heaviest_step

    config = toy_config("llama", num_hidden_layers=12, hidden_size=256, intermediate_size=512, vocab_size=4096)
    rows = [Example([5] * 60, 20)] * 16
    settings = Settings().with_values(
        {"load": {"bits": 4}, "train": {"batch_size": 8, "gradient_checkpointing": "off", "compile": "off"}}
    )
    one, both, split = (
        predict_heaviest_step(config, settings, phases.Target("cuda", torch.bfloat16, 0, *how), rows, "padded")
        for how in ((1, False), (2, False), (2, True))
    )
    assert [p["rows"] for p in (one, both, split)] == [8, 4, 4]
    assert both["parts"]["activations"] == pytest.approx(one["parts"]["activations"] / 2, rel=0.1)
    assert both["parts"]["weights"] == one["parts"]["weights"]
    matrix = 4096 * 256 * 2  # bytes of the embedding, and of the head
    layers = one["parts"]["weights"] + one["parts"]["quant_constants"] - 2 * matrix
    held = split["parts"]["weights"] + split["parts"].get("quant_constants", 0)
    assert held == pytest.approx(layers / 2 + 2 * layers / 12 + matrix, rel=0.05)


def test_measuring_the_plan_gathers_no_head_and_keeps_a_share_of_free_memory():
    import toys

    from playground.data.batch import Example
    from playground.model.adapt import add_lora
    from playground.settings import Lora
    from playground.train import memory_policy
    from playground.train.batching import Batcher
    from playground.train.checkpointing import CheckpointedLayers
    from playground.train.loss import Loss

    model = toys.make_model("llama").requires_grad_(False)
    loss_module = Loss(add_lora(model, Lora(r=4), torch.float32, 0))
    rows, seen, kept = [Example(list(range(5, 205)), 4)], [], []
    batcher, layers = Batcher(loss_module, rows, 2, "cpu", "padded"), CheckpointedLayers(model)

    def forward(batch, return_hidden=False):
        seen.append((batch.inputs["input_ids"].numel(), return_hidden))
        return Loss.forward(loss_module, batch, return_hidden)

    loss_module.forward = forward
    for gathered, free in ((0, 2**60), (2**20, 2**60), (2**20, 2**20)):
        loss_module.gathered_bytes = gathered
        kept.append(memory_policy.measure_cost(loss_module, batcher, layers, rows, free_bytes=free))
    (first, with_head), (second, without), (small, _) = seen
    assert (first, with_head) == (second, not without) == (memory_policy.SAMPLE_TOKENS, False)
    assert memory_policy.LEAST_SAMPLE <= small < first
    assert small * kept[2].layer * kept[2].layers < 2**20 / 2
    assert kept[1].layer == pytest.approx(kept[0].layer, rel=0.05) == pytest.approx(kept[2].layer, rel=0.1)


def test_the_heaviest_share_is_one_of_the_first_epoch_by_which_micro_batches_are_limited():
    from playground.data.batch import Example, epoch_batches, shares_of
    from playground.predict.heaviest import heaviest_batch
    from playground.settings import Train

    rows = [Example([5] * (10 + 7 * n), 2) for n in range(16)]
    train = Train(batch_size=16, max_steps=8)
    (batch,) = epoch_batches(rows, 16, train.seed, False)
    most = max(sum(len(row.ids) for row in share) for share in shares_of(batch, 2))
    later = [shares_of(epoch_batches(rows, 16, train.seed + n, False)[0], 2) for n in range(1, 8)]
    assert any(sum(len(row.ids) for row in share) > most for shares in later for share in shares)
    assert sum(len(row.ids) for row in heaviest_batch(rows, train, False, 2)) == most


def test_a_process_at_the_edge_of_another_plan_is_predicted_with_the_worse(monkeypatch):
    from toys import toy_config

    from playground.data.batch import Example
    from playground.predict import heaviest, phases

    needs = {100: 40, 102: 90}
    monkeypatch.setattr(
        heaviest.phases,
        "predict_tune",
        lambda config, settings, target, *_: {"need": needs[target.capacity], "batching": "padded"},
    )

    def predicted(processes):
        target = phases.Target("cuda", torch.bfloat16, 100, processes)
        return heaviest.predict_heaviest_step(toy_config("llama"), Settings(), target, [Example([5] * 9, 2)] * 4)

    assert (predicted(1)["need"], predicted(2)["need"]) == (40, 90)
    needs[102] = 101  # which isn't there
    assert predicted(2)["need"] == 40


def test_the_head_is_whole_from_the_last_layer_to_the_backward_pass():
    from playground.predict.allocation_trace import AllocationEvent
    from playground.predict.streamed_events import with_split_ends

    def event(block, size, stage, layer=-1, part="activations", is_free=False):
        return AllocationEvent(block, size, part, is_free, layer, False, stage)

    events = [
        event(0, 8192, "", part="weights"),  # head
        event(1, 4096, "", part="weights"),  # embedding
        event(2, 512, "", part="weights"),
        event(3, 1024, "forward", 0),
        event(4, 1024, "forward", 1),
        event(5, 2048, "forward"),
        event(3, 1024, "backward", 0, is_free=True),
        event(6, 512, "backward", 0),
    ]
    found = [(e.size, e.stage, e.is_free) for e in with_split_ends(events, [8192, 4096], 2)[0]]
    assert found == [
        (4096, "", False),
        (2048, "", False),
        (512, "", False),
        (4096, "forward", False),
        (4096, "forward", True),
        (1024, "forward", False),
        (1024, "forward", False),
        (8192, "forward", False),
        (2048, "forward", False),
        (8192, "forward", True),
        (1024, "backward", True),
        (512, "backward", False),
    ]
    elsewhere, waiting = with_split_ends(events, [8192, 4096], 2, waits=True)
    assert [(e.size, e.stage, e.is_free) for e in elsewhere] == found[2:] and waiting == 4096 + 2048


@pytest.fixture
def splitting(monkeypatch) -> Team:
    """A single process whose team claims to split quantized weights."""
    team = Team("cpu")
    team.sharded = team.splits_bytes = True
    return team


def test_offloaded_quantized_weights_are_refused(splitting, monkeypatch):
    monkeypatch.setenv("FSDP_OFFLOAD_PARAMS", "true")
    settings = Settings().with_values({"load": {"bits": 4}})
    assert errors(splitting, settings) == {"error.sharded_bits": {"bits": 4}}


def test_start_values_that_read_all_weights_are_refused(splitting):
    settings = Settings().with_values({"load": {"bits": 8}, "lora": {"init": "pissa", "use_dora": True}})
    assert errors(splitting, settings) == {"error.split_start": {"fields": ["lora.init", "lora.use_dora"]}}
    splitting.check(Settings().with_values({"load": {"bits": 8}}))


def test_weights_of_16_bits_are_left_to_fsdp(monkeypatch):
    for name, value in FSDP.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("playground.train.parallel._accelerator", lambda device: None)
    four, sixteen = Team("cpu", 4), Team("cpu", 16)
    assert four.splits_bytes and four.shares() and not four.splits_numbers
    assert sixteen.splits_numbers and sixteen.shares() is None


def test_a_model_with_an_encoder_cannot_be_split(toy):
    from playground.model.load import load_model
    from playground.model.shares import Shares

    load = Load(model=str(toy("t5")), device="cpu", bits=4)
    with pytest.raises(PlaygroundError) as caught:
        load_model(toy("t5"), load, lambda *step: None, shares=Shares("cpu", 0, 2))
    assert keys(caught) == ["error.split_family"]


if __name__ == "__main__":
    torch.set_num_threads(1)
    globals()[sys.argv[1]](Team("cpu"), Path(sys.argv[2]))
