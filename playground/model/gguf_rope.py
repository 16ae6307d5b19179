"""How a GGUF file scales rotary positions (RoPE), written into the config that transformers makes of the file.

transformers (5.23) reads the base alone, so that a Llama 3.1 would be loaded as one without scaling. As in
llama.cpp, positions are divided by `rope.scaling.factor` ("linear", the default, or "yarn"), and each frequency by its
number in the tensor `rope_freqs` (Llama 3.1), or in `rope_factors_short` and, for long texts, `rope_factors_long`
(LongRoPE of Phi-3).
"""

import copy
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel

from playground import compat
from playground.errors import PlaygroundError, problem
from playground.model.config_file import CONFIG_ERRORS

TENSORS = ("rope_freqs.weight", "rope_factors_short.weight", "rope_factors_long.weight")
FULL = "full_attention"  # the kind of layers that a file's scaling is for, where a family's differ (Gemma 3)
LLAMA3 = (1.0, 4.0, 8192)  # low and high frequency factor, and length of the texts before: all of Meta's
ROUNDING = 1e-4  # relative: of float32, magnified between the two wavelengths of Llama 3
YARN_UNUSED = ("yarn_ext_factor", "yarn_log_multiplier")  # for which transformers has no setting


@dataclass(frozen=True)
class _Stored:
    """What a file says: "linear", "yarn", …, the factor, further values by name, and each tensor's numbers by name."""

    file: Path
    kind: str
    factor: float
    values: dict[str, Any]
    numbers: dict[str, list[float]]
    context: int

    def refused(self, name: str, value: Any) -> PlaygroundError:
        return problem("error.gguf_rope", file=self.file.name, detail=f"{name} = {value}")


def set_rope(file: Path, metadata: dict[str, Any], config: PreTrainedConfig) -> bool:
    """Write a file's scaling into its config; return whether it has any.

    Raises PlaygroundError for one that transformers can't compute.
    """
    rope, layers = _rope_of(config)
    if not rope or rope.get("rope_type") == "proportional":  # Gemma 4's, which its config class knows
        return False
    architecture = metadata.get("general.architecture", "")
    _set_rotated_share(metadata.get(f"{architecture}.rope.dimension_count"), config, rope)
    stored = _stored(file, metadata, f"{architecture}.rope.", config)
    scaled = _scaling(stored, config, rope, layers)
    if not scaled:
        return False
    _write(config, layers, _plain(rope) | scaled)
    try:
        type(config).from_dict(config.to_dict())
    except CONFIG_ERRORS as error:
        raise stored.refused("rope_type", scaled["rope_type"]) from error
    return True


def check_rope(file: Path, config: PreTrainedConfig, model: PreTrainedModel) -> None:
    """Raise PlaygroundError unless a network that was built from a config of `set_rope` has its frequencies."""
    rope, layers = _rope_of(config)
    wanted, scale = compat.rope_frequencies(config, layers)
    found = compat.rope_of_model(model, layers)
    if not found or not all(_fits(own, wanted) and math.isclose(s, scale, rel_tol=1e-6) for own, s in found):
        raise problem("error.gguf_rope", file=file.name, detail=f"{config.model_type}: {rope['rope_type']}")


def _rope_of(config: PreTrainedConfig) -> tuple[dict[str, Any], str]:
    """(settings, kind of layers) that a file's scaling is for; {} where the network has no rotary positions."""
    rope = getattr(config, "rope_parameters", None) or {}
    nested = isinstance(rope.get(FULL), dict)
    return (rope[FULL], FULL) if nested else (rope, "")


def _plain(rope: dict[str, Any]) -> dict[str, Any]:
    return {name: rope[name] for name in ("rope_theta", "partial_rotary_factor") if name in rope}


def _write(config: Any, layers: str, rope: dict[str, Any]) -> None:
    config.rope_parameters = config.rope_parameters | {layers: rope} if layers else rope
    if "original_max_position_embeddings" in rope and hasattr(config, "original_max_position_embeddings"):
        config.original_max_position_embeddings = rope["original_max_position_embeddings"]  # Phi-3's, which goes before


def _set_rotated_share(rotated: Any, config: Any, rope: dict[str, Any]) -> None:
    """Set how much of each head is rotated (three quarters in Phi-4-mini), which transformers doesn't read either."""
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if rotated and "partial_rotary_factor" in rope and 0 < rotated <= head:
        rope["partial_rotary_factor"] = rotated / head
        if hasattr(config, "partial_rotary_factor"):
            config.partial_rotary_factor = rotated / head


def _stored(file: Path, metadata: dict[str, Any], prefix: str, config: Any) -> _Stored:
    from gguf import GGUFReader, dequantize

    tensors = {tensor.name: tensor for tensor in GGUFReader(file).tensors if tensor.name in TENSORS}
    numbers = {name: dequantize(t.data, t.tensor_type).ravel().tolist() for name, t in tensors.items()}
    start = f"{prefix}scaling."
    values = {name.removeprefix(start): value for name, value in metadata.items() if name.startswith(start)}
    factor = float(values.get("factor") or metadata.get(f"{prefix}scale_linear") or 1.0)
    kind = "longrope" if TENSORS[1] in numbers or TENSORS[2] in numbers else values.get("type") or "linear"
    context = int(values.get("original_context_length") or config.max_position_embeddings)
    return _Stored(file, kind, 1.0 if kind == "none" else factor, values, numbers, context)


def _scaling(stored: _Stored, config: Any, rope: dict[str, Any], layers: str) -> dict[str, Any]:
    """`rope_parameters` for what is stored, but for the base; {} for positions as they are."""
    if stored.kind not in ("none", "linear", "yarn", "longrope"):
        raise stored.refused("rope.scaling.type", stored.kind)
    if not 0 < stored.factor < math.inf:
        raise stored.refused("rope.scaling.factor", stored.factor)
    if stored.factor == 1 and not stored.numbers and stored.kind != "longrope":
        return {}
    length = len(_frequencies(config, layers, _plain(rope) | {"rope_type": "linear", "factor": 1.0}))
    for name, numbers in stored.numbers.items():
        wrong = next((number for number in numbers if not 0 < number < math.inf), None)
        if len(numbers) != length or wrong is not None:
            raise stored.refused(name, f"[{len(numbers)} ≠ {length}]" if wrong is None else wrong)
    if stored.kind == "longrope":
        return _longrope(stored)
    divisors = stored.numbers.get(TENSORS[0])
    if divisors and set(divisors) != {1.0}:
        return _divided(stored, divisors, config, rope, layers)
    if stored.factor == 1:
        return {}
    if stored.kind == "yarn":
        return _yarn(stored, type(config)())
    if config.model_type == "phi3":  # which takes nothing but LongRoPE
        return _each([stored.factor] * length, config)
    return {"rope_type": "linear", "factor": stored.factor}


def _yarn(stored: _Stored, default: Any) -> dict[str, Any]:
    values = stored.values
    for name, harmless in zip(YARN_UNUSED, ((None, 1.0, -1.0), (None, 0.0))):
        if values.get(name) not in harmless:
            raise stored.refused(f"rope.scaling.{name}", values[name])
    rope = {"rope_type": "yarn", "factor": stored.factor, "original_max_position_embeddings": stored.context}
    rope |= {name: values[f"yarn_{name}"] for name in ("beta_fast", "beta_slow") if values.get(f"yarn_{name}")}
    more = values.get("attn_factor", 1.0) * values.get("yarn_attn_factor", 1.0)
    if more != 1:  # on top of YaRN's own
        rope["attention_factor"] = more * (0.1 * math.log(max(stored.factor, 1.0)) + 1.0)
    truncated = (getattr(default, "rope_parameters", None) or {}).get("truncate")
    return rope if truncated is None else rope | {"truncate": truncated}  # GPT-OSS, whose files can't say so


def _longrope(stored: _Stored) -> dict[str, Any]:
    """Phi-3's: one list up to the length of the texts before, another beyond it."""
    missing = [name for name in TENSORS[1:] if name not in stored.numbers]
    if missing:
        raise stored.refused(missing[0], "–")
    if stored.factor != 1 or TENSORS[0] in stored.numbers:
        raise stored.refused("rope.scaling.factor", f"{stored.factor}, longrope")
    return {
        "rope_type": "longrope",
        "short_factor": stored.numbers[TENSORS[1]],
        "long_factor": stored.numbers[TENSORS[2]],
        "original_max_position_embeddings": stored.context,
        "attention_factor": float(stored.values.get("attn_factor") or 1.0),
    }


def _divided(stored: _Stored, divisors: list[float], config: Any, rope: dict[str, Any], layers: str) -> dict[str, Any]:
    """Frequencies that are divided one by one: Llama 3's settings where they give these numbers, else the numbers."""
    if stored.kind == "yarn":
        raise stored.refused("rope.scaling.type", f"yarn, {TENSORS[0]}")
    whole = torch.tensor(divisors, dtype=torch.float64) * stored.factor
    plain = _plain(rope)
    frequencies = _frequencies(config, layers, plain | {"rope_type": "linear", "factor": 1.0}).double()
    for candidate in _llama3_candidates(whole, frequencies):
        if config.model_type != "phi3" and _fits(_frequencies(config, layers, plain | candidate), frequencies / whole):
            return candidate
    return _each(whole.tolist(), config)


def _each(divisors: list[float], config: Any) -> dict[str, Any]:
    """A divisor for each frequency, as LongRoPE's with the same list at any length."""
    length, lists = config.max_position_embeddings, {"short_factor": divisors, "long_factor": divisors}
    return {"rope_type": "longrope", **lists, "original_max_position_embeddings": length, "attention_factor": 1.0}


def _llama3_candidates(divisors: torch.Tensor, frequencies: torch.Tensor) -> list[dict[str, Any]]:
    """Llama 3's settings that may give these divisors: Meta's, and a fit of those between 1 and the largest.

    There, 1/divisor is (1 − s)/factor + s, and s is linear in the frequency; the low factor is 1 by choice of unit.
    """
    factor = round(float(divisors.max()), 4)
    if factor <= 1:
        return []
    found = [LLAMA3]
    between = (divisors > 1 + ROUNDING) & (divisors < divisors.max() * (1 - ROUNDING))
    if between.sum() > 1:
        share = (1 / divisors[between] - 1 / factor) / (1 - 1 / factor)
        wave = frequencies[between] / (2 * math.pi)
        slope = float((share[0] - share[-1]) / (wave[0] - wave[-1]))
        offset = slope * float(wave[0]) - float(share[0])
        if slope > 0 and offset > 0:
            found.append((1.0, round(1 + 1 / offset, 3), round(slope / offset)))
    names = ("low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
    return [{"rope_type": "llama3", "factor": factor, **dict(zip(names, values))} for values in found]


def _frequencies(config: PreTrainedConfig, layers: str, rope: dict[str, Any]) -> torch.Tensor:
    """The inverse frequencies that transformers computes from these settings."""
    other = copy.deepcopy(config)
    _write(other, layers, rope)
    return compat.rope_frequencies(other, layers)[0]


def _fits(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.allclose(one.double().cpu(), other.double(), rtol=ROUNDING, atol=0)
