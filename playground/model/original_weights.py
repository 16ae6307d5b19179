"""Read single weights of a model as its files have them, before they were quantized: safetensors, tensor by tensor."""

from pathlib import Path

from safetensors import SafetensorError, safe_open
from torch import Tensor
from transformers import PreTrainedModel

from playground.errors import problem


class OriginalWeights:
    """The weights in the folder that a model was loaded from, by the names of its layers."""

    def __init__(self, model: PreTrainedModel):
        self.folder = Path(str(model.name_or_path))
        self.prefix = f"{model.base_model_prefix}."
        self.files: dict[str, Path] = {}  # of each tensor
        if model.device.type == "meta":
            return
        try:
            for file in sorted(self.folder.glob("*.safetensors")):
                with safe_open(file, "pt") as tensors:
                    self.files |= dict.fromkeys(tensors.keys(), file)
        except (OSError, SafetensorError):
            self.files = {}  # so `weight` names the first layer

    def weight(self, layer: str, shape: tuple[int, ...], transposed: bool) -> Tensor:
        """The weight (out, in) of a linear layer. Raises PlaygroundError unless the files have it in that shape.

        transposed: whether the files have it as (in, out), as GPT-2's.
        """
        names = (f"{layer}.weight", f"{layer.removeprefix(self.prefix)}.weight", f"{self.prefix}{layer}.weight")
        name = next((name for name in names if name in self.files), None)
        if name is not None:
            with safe_open(self.files[name], "pt") as tensors:
                weight = tensors.get_tensor(name)
            weight = weight.T if transposed and weight.ndim == 2 else weight
            if weight.is_floating_point() and weight.shape == shape:  # else quantized in the file already
                return weight
        raise problem("error.loftq_weights", path=self.folder.name, layer=layer)
