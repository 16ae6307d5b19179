"""The offloaded optimizer's streams, without a GPU: whatever two of them touch, an event has ordered.

Streams and events are stand-ins that keep vector clocks (Lamport 1978; Mattern 1989), and every operator that runs is
taken to run on the stream that is current. A tensor may be read where its last write is known to be over, written where
its last reads are too, and freed where the stream that it was allocated on knows of all of them: its memory is reused
there.
"""

import contextlib
import weakref

import pytest
import torch
from torch import nn

from playground import compat
from playground.train import offloaded_optimizer
from playground.train.offloaded_optimizer import OffloadedOptimizer

SLICE = 2048  # bytes; the pieces of a tensor that are updated, and watched one by one


class Event:
    def __init__(self):
        self.clock: dict[int, int] = {}

    def record(self, stream):
        self.clock = dict(stream.clock)


class Stream:
    def __init__(self):
        self.clock: dict[int, int] = {id(self): 0}

    def wait_event(self, event):
        for stream, time in event.clock.items():
            self.clock[stream] = max(time, self.clock.get(stream, 0))

    def wait_stream(self, other):
        self.wait_event(other)

    def record_event(self):
        event = Event()
        event.record(self)
        return event

    def tick(self) -> tuple[int, int]:
        """A moment of this stream: what runs on it now."""
        self.clock[id(self)] += 1
        return id(self), self.clock[id(self)]

    def knows(self, moment: tuple[int, int]) -> bool:
        return self.clock.get(moment[0], 0) >= moment[1]


class Watch(compat.dispatch_mode()):
    """Notes which stream reads and writes which storage, and `races`: what no event has ordered."""

    def __init__(self):
        super().__init__()
        self.current = Stream()
        self.races: list[str] = []
        self.reads: dict[tuple[int, int], list] = {}  # since the last write, by storage and piece of it
        self.writes: dict[tuple[int, int], tuple] = {}
        self.shared = 0  # accesses to what another stream touched before

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **kwargs or {})
        moment, name = self.current.tick(), compat.operator_name(function)
        arguments, _ = compat.operator_arguments(function)
        if function.is_view:
            return result
        given_storages = set()
        for argument, given in zip(arguments, args):
            written = argument.alias_info is not None and argument.alias_info.is_write
            for tensor in given if isinstance(given, (list, tuple)) else [given]:
                if isinstance(tensor, torch.Tensor):
                    given_storages.add(compat.storage_id(tensor))
                    self.touch(tensor, written, moment, name)
        for tensor in result if isinstance(result, (list, tuple)) else [result]:
            if isinstance(tensor, torch.Tensor) and compat.storage_id(tensor) not in given_storages:
                storage = tensor.untyped_storage()
                freed = weakref.finalize(storage, self.freed, compat.storage_id(tensor), storage.nbytes(), self.current)
                freed.atexit = False
                self.touch(tensor, True, moment, name)
        return result

    def touch(self, tensor, written, moment, name):
        storage = compat.storage_id(tensor)
        start = tensor.storage_offset() * tensor.itemsize // SLICE
        for part in range(start, -(-(tensor.storage_offset() * tensor.itemsize + tensor.nbytes) // SLICE)):
            self.touch_part((storage, part), written, moment, f"{name} {tuple(tensor.shape)}")

    def touch_part(self, key, written, moment, what):
        before = [self.writes[key]] if key in self.writes else []
        before += self.reads.get(key, []) if written else []
        self.shared += any(one[0] != moment[0] for one in before)
        if not all(self.current.knows(one) for one in before):
            self.races.append(f"{what} {'writes' if written else 'reads'}")
        if written:
            self.writes[key], self.reads[key] = moment, []
        else:
            self.reads.setdefault(key, []).append(moment)

    def freed(self, storage, size, stream):
        for part in range(-(-size // SLICE)):
            touched = [self.writes.pop((storage, part), None), *self.reads.pop((storage, part), [])]
            if not all(stream.knows(moment) for moment in touched if moment):
                self.races.append(f"{size} bytes are freed too early")


@pytest.fixture
def watch(monkeypatch):
    """A Watch whose streams torch.cuda has."""
    watch = Watch()

    @contextlib.contextmanager
    def on(stream):
        before, watch.current = watch.current, stream
        yield
        watch.current = before

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "stream", on)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda: watch.current)
    monkeypatch.setattr(offloaded_optimizer, "SLICE_BYTES", SLICE)
    return watch


def train(watch):
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(40, 40) for _ in range(6)))
    optimizer = OffloadedOptimizer(model.named_parameters())
    optimizer._out, optimizer._in = Stream(), Stream()
    with watch:
        for _ in range(3):
            for _ in range(3):
                optimizer.backward((model(torch.randn(8, 40)) ** 2).sum())
            optimizer.step(1e-2)
    return model


def test_every_access_is_ordered(watch):
    model = train(watch)
    assert watch.races == [] and watch.shared > 500
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("waits", ["wait_event", "wait_stream"])
def test_a_missing_wait_is_noticed(watch, monkeypatch, waits):
    monkeypatch.setattr(Stream, waits, lambda self, other: None)
    train(watch)
    assert watch.races
