"""The one model of the process, and the adapters on it."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

from peft import LoraConfig, PeftModel
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from playground import runs
from playground.memory.release import release_memory
from playground.model import adapt, saved_adapter
from playground.model.embedding import embedding_rows, resize_embedding
from playground.model.load import LoadedModel
from playground.settings import PROMPT_FORMATS, Load

ADAPTER_NAMES = (adapt.ADAPTER_NAME, "second", "third", "fourth")  # in PEFT, in the order that they are loaded


@dataclass(frozen=True)
class Adapter:
    """Which adapter is on the model, and how its rows were written: template name and custom format.

    id: of the run that trained it, or the folder or hub id that an adapter from elsewhere was named by. tokenizer: that
    prompts are written with, if not the model's.
    """

    id: str
    template: str
    custom_format: str
    tokenizer: PreTrainedTokenizerBase | None = None


class ModelSlot:
    """At most one loaded model with its adapter, or several where they are compared; it outlives the jobs.

    loaded_as: the settings that it was loaded with; None for weights that have been trained themselves since. adapter:
    the first one; further: the others, for rows that name them (ADAPTER_NAMES).
    """

    def __init__(self) -> None:
        self.loaded: LoadedModel | None = None
        self.loaded_as: Load | None = None
        self.adapter: Adapter | None = None
        self.further: tuple[Adapter, ...] = ()
        self._rows = 0  # of the embedding before an adapter made it grow

    @property
    def adapters(self) -> tuple[Adapter, ...]:
        """All adapters on the model, named in PEFT by ADAPTER_NAMES."""
        return (self.adapter, *self.further) if self.adapter else ()

    def fill(self, loaded: LoadedModel, load: Load) -> None:
        """Take in a model that was loaded with these settings."""
        self.loaded, self.loaded_as, self.adapter = loaded, replace(load, force=False), None
        self.further = ()

    def is_loaded_as(self, load: Load) -> bool:
        """Whether the model is loaded with exactly these settings (`force` doesn't change what is loaded).

        Under "auto" it may have any number of streamed layers.
        """
        if self.loaded is None or self.loaded_as is None:
            return False
        streamed = load.streamed_layers in ("auto", str(self.loaded.streamed_count))
        asked = replace(load, force=False, streamed_layers=self.loaded_as.streamed_layers)
        return streamed and self.loaded_as == asked

    def get_model(self) -> nn.Module | None:
        return self.loaded.model if self.loaded else None

    def layers_in_buffers(self) -> dict[str, list[int]] | None:
        """StreamedLayers.states of the model, from any thread; None where no layers are streamed or split."""
        loaded = self.loaded
        layers = (loaded.streamed or loaded.split) if loaded else None
        return layers.states() if layers else None

    def free(self) -> None:
        """Drop the model with its adapter and release their memory."""
        self.loaded = self.loaded_as = self.adapter = None
        self.further = ()
        release_memory()

    def invalidate(self) -> None:
        """Note that the weights are about to be trained themselves, so that the next job loads the model anew."""
        self.loaded_as = None

    def load_adapter(self, folder: Path, adapter: Adapter, config: LoraConfig | None = None) -> None:
        """Put a saved adapter on the model. Raises PlaygroundError where it can't be read or doesn't fit.

        config: as of saved_adapter.load_lora.
        """
        assert self.loaded
        self._rows = embedding_rows(self.loaded.model)
        tuned = saved_adapter.load_lora(self.loaded.model, folder, self.loaded.dtype, config)
        self.loaded.model = cast(PreTrainedModel, tuned)  # PeftModel passes on all that is asked of the base model
        self.adapter = adapter

    def load_adapters(self, saved: Sequence[tuple[Path, Adapter]]) -> None:
        """Put saved adapters, at most as many as ADAPTER_NAMES, on the model. Raises PlaygroundError as load_adapter.

        None may add rows to the embedding but the first. Where one can't be loaded, none stays.
        """
        try:
            self.load_adapter(*saved[0])
            for name, (folder, adapter) in zip(ADAPTER_NAMES[1:], saved[1:], strict=False):
                assert self.loaded
                saved_adapter.load_further_lora(cast(PeftModel, self.loaded.model), folder, name, self.loaded.dtype)
                self.further = (*self.further, adapter)
        except BaseException:
            self.unload_adapter()
            raise

    def unload_adapter(self) -> None:
        """Take all adapters off the model, and the rows that the first one added to the embedding."""
        self.adapter, self.further = None, ()
        if self.loaded:
            self.loaded.model = adapt.remove_lora(self.loaded.model)
            if 0 < self._rows < embedding_rows(self.loaded.model):
                resize_embedding(self.loaded.model, self._rows)
        self._rows = 0

    def discard_unsaved_adapter(self) -> None:
        """After a job that didn't end: drop a half-trained adapter and freeze the weights. The model stays."""
        if self.loaded and self.adapter is None:
            self.unload_adapter()
            self.loaded.model.requires_grad_(False)


def adapter_of(run: runs.Run) -> Adapter:
    """The adapter that a fine-tune's run has saved."""
    data, template = run.settings().data, runs.last_result(run).get("template")
    # A run that was killed after it saved its adapter, or lost its events, has the format that was asked for.
    return Adapter(run.id, template if template in PROMPT_FORMATS else data.prompt_format, data.custom_format)
