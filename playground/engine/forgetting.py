"""Measure forgetting: the loss on bundled neutral text, in each language, of the untouched and the fine-tuned model."""

from collections.abc import Generator

import torch

from playground.data.batch import Example
from playground.engine.job import JobContext
from playground.eval.neutral_text import Windows, forgetting_figures, neutral_windows
from playground.memory.meter import is_out_of_memory
from playground.memory.release import release_memory
from playground.model.load import LoadedModel
from playground.train.batching import padded_batch
from playground.train.loss import Loss
from playground.train.patches import patch_modules

Measured = dict[str, list[tuple[float, int]]]  # by language, each window's (nats, predicted tokens)


class Forgetting:
    """What a fine-tune makes a model forget, as `eval` events of which `when` is "forgetting".

    {"side": "base", "each"} before training and {"side": "tuned", "each", "figures"} after; each: by language, every
    window's [nats, predicted tokens]. The untouched model is measured before an adapter is made, so that whatever an
    adapter starts with isn't part of it; a run that is resumed has that in its events. Where memory is short, or the
    weights are split over processes, nothing is measured and training goes on.
    """

    def __init__(self, context: JobContext, loaded: LoadedModel, examples: list[Example], enabled: bool):
        """examples: the rows to train on. enabled: whether it is measured at all."""
        self._context, self._loaded = context, loaded
        self._enabled = enabled and context.team.main and not context.team.sharded
        self._windows: Windows = {}
        self._base: Measured | None = None
        if self._enabled:
            self._windows = neutral_windows(loaded, max(len(example.ids) for example in examples))

    def measure_base(self) -> Generator[dict]:
        """Measure the untouched model, once a run."""
        if not self._enabled:
            return
        self._base = self._recorded_base()
        if self._base is None:
            self._base = yield from self._measure()
            if self._base is not None:
                yield {"kind": "eval", "when": "forgetting", "side": "base", "each": self._base}
            release_memory()  # so that the memory plan of the training finds it free

    def measure_tuned(self) -> Generator[dict, None, dict | None]:
        """Measure the fine-tuned model; returns the figures by language, or None where a side wasn't measured."""
        if self._base is None:
            return None
        tuned = yield from self._measure()
        if tuned is None:
            return None
        figures = forgetting_figures(self._base, tuned)
        yield {"kind": "eval", "when": "forgetting", "side": "tuned", "each": tuned, "figures": figures}
        return figures or None

    def _recorded_base(self) -> Measured | None:
        """The untouched model's losses from the events of a run that is resumed, if they are of the same windows."""
        events = (e for e in self._context.run.events() if e["kind"] == "eval" and e.get("when") == "forgetting")
        each = next((event.get("each") for event in events if event.get("side") == "base"), None)
        if each is None or any(len(each.get(name, ())) != len(parts) for name, parts in self._windows.items()):
            return None
        return {name: [(nats, tokens) for nats, tokens in rows] for name, rows in each.items()}

    def _measure(self) -> Generator[dict, None, Measured | None]:
        """The losses of the model as it is now; None if it was stopped, or memory ran out (then a `note` says so)."""
        if self._context.stop.is_set():
            return None
        yield {"kind": "phase", "name": "evaluate"}
        try:
            return (yield from self._losses())
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
        release_memory()  # after the except block: the error's frames held the tensors until then
        yield {"kind": "note", "key": "note.forgetting_not_measured", "values": {}}
        return None

    def _losses(self) -> Generator[dict, None, Measured | None]:
        """One window at a time, with the layers that train: at 8 bits others would give other losses."""
        total = sum(len(example.ids) for parts in self._windows.values() for example in parts)
        measured: Measured = {language: [] for language in self._windows}
        loss_module, done = Loss(self._loaded.model).eval(), 0
        model, pad = loss_module.causal[0], self._loaded.tokenizer.pad_token_id or 0
        windows = [(language, example) for language, parts in self._windows.items() for example in parts]
        with patch_modules(loss_module, model), torch.no_grad():
            for language, example in windows:
                if self._context.stop.is_set():
                    return None
                batch = padded_batch(model, [example], pad, str(model.device))
                nats = loss_module(batch, per_token=True).double().sum().item()
                measured[language].append((round(nats, 4), example.labelled))
                done += len(example.ids)
                yield {"kind": "progress", "done": done, "total": total, "unit": "tokens"}
        return measured
