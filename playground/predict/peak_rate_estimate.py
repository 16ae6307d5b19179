"""Estimate a fine-tune's seconds on a GPU from floating-point operations and the GPU's peak rate.

Two operations a weight of the layers and token in a forward pass (Kaplan et al. 2020, arXiv 2001.08361), as many
again in the backward pass of frozen weights, and once more where weights are trained or a layer is recomputed;
attention over the preceding tokens; the head for labelled tokens alone. A GPU is assumed to reach the share of its
peak that whole passes reached on an H100 (tests/bench/README.md), and a micro-batch to take at least as long as its
kernels take to launch.
"""

import math
from dataclasses import dataclass, replace

import torch
from transformers import PreTrainedConfig

from playground import compat
from playground.predict import meta_model
from playground.settings import Load, Settings
from playground.speed.plan_rates import ASSUMED_RATE, LAUNCH_SECONDS, RATE_REACHED
from playground.train.layer_rates import linear_weights
from playground.train.memory_policy import FIXED_TOKENS, OFFLOAD_COST

# Time of a trained token relative to 16 bits, by bit width: OpenCALM-7B on an H100 (tests/bench/README.md).
RELATIVE_TOKEN_SECONDS = {16: 1.0, 8: 1.14, 4: 1.05}
RELATIVE_FAST_SECONDS = {"fp8": 0.78, "int8-fast": 0.85, "nf4-fast": 0.9}  # multiplied in 8 bits; Llama-2-7B
H100_PEAK = (
    989.4e12  # operations a second by its data sheet: the GPU that ASSUMED_RATE and RATE_REACHED were measured on
)
UTILIZATION = RATE_REACHED * ASSUMED_RATE / H100_PEAK  # share of a GPU's peak that a whole pass reaches: 0.48
EXPERT_COUNTS = (
    "num_experts",
    "num_local_experts",
    "n_routed_experts",
)  # config fields: a token uses only some experts


def relative_token_seconds(load: Load) -> float:
    """Time of a trained token relative to 16 bits, at a width of RELATIVE_TOKEN_SECONDS."""
    kind = {8: load.quant_type_8bit, 4: load.quant_type}.get(load.bits, "")
    return RELATIVE_FAST_SECONDS.get(kind, RELATIVE_TOKEN_SECONDS[load.bits])


@dataclass(frozen=True)
class MeanStep:
    """An optimizer step of a run, on average."""

    rows: int
    tokens: float  # computed: padding included where rows are padded
    trained_tokens: float  # tokens whose loss is computed
    row_length: float  # tokens of the row that a token belongs to, averaged over tokens


@dataclass(frozen=True)
class StepWork:
    """What an optimizer step asks of a GPU: floating-point operations, and the least seconds that its launches take."""

    operations: float
    launch_seconds: float


def step_work(config: PreTrainedConfig, settings: Settings, prediction: dict, step: MeanStep) -> StepWork | None:
    """The work of an optimizer step, or None where it isn't known: models with an encoder, or with experts.

    settings: with a bit width of RELATIVE_TOKEN_SECONDS. prediction: of the fine-tune's memory, whose "checkpointing"
    and "budget" (tokens a micro-batch) say how a step is computed.
    """
    text_config, train = config.get_text_config(), settings.train
    if config.is_encoder_decoder or any((getattr(text_config, name, None) or 0) > 1 for name in EXPERT_COUNTS):
        return None
    weights = _weight_counts(config)
    full = train.method == "full"
    backward = 1.0 if full else min(settings.lora.layers or weights.depth, weights.depth) / weights.depth
    passes = 1 + backward * (1 + _recomputed_share(prediction["checkpointing"])) + full
    micro_batches = max(
        math.ceil(step.tokens / prediction["budget"]) if prediction["budget"] else 1,
        math.ceil(step.rows / (train.micro_batch_size or train.batch_size)),
    )
    operations = (
        passes * 2 * weights.layers * (step.tokens + FIXED_TOKENS * micro_batches)
        + (passes + 1) * 2 * step.row_length * weights.attention_width * weights.depth * step.tokens
        + 2 * 2 * weights.head * step.trained_tokens
    )
    return StepWork(
        operations * relative_token_seconds(settings.load),
        micro_batches * weights.depth * passes * LAUNCH_SECONDS,
    )


def estimate_seconds(work: StepWork, peak: dict, steps: int) -> dict:
    """Seconds of that many steps on a GPU of that peak rate, and what they rest on.

    {"card", "seconds", "bound" ("compute" or "launch"), "tflops", "source", "utilized"}.
    """
    compute_seconds = work.operations / (UTILIZATION * peak["tflops"] * 1e12)
    return {
        "card": peak["name"],
        "seconds": round(max(compute_seconds, work.launch_seconds) * steps, 1),
        "bound": "compute" if compute_seconds >= work.launch_seconds else "launch",
        "tflops": peak["tflops"],
        "source": peak["source"],
        "utilized": round(UTILIZATION, 2),
    }


def _recomputed_share(checkpointing: str) -> float:
    """The share of layers that are computed twice, plus the cost of offloading as a share of a forward pass."""
    if checkpointing in ("off", "all", "offload"):
        return {"off": 0.0, "all": 1.0, "offload": 1.0 + OFFLOAD_COST}[checkpointing]
    return 1 / int(checkpointing)


@dataclass(frozen=True)
class _WeightCounts:
    layers: int  # weights of the layers that every token is multiplied with
    head: int  # weights of the head
    depth: int  # layers
    attention_width: int  # numbers of all heads' queries of a token


def _weight_counts(config: PreTrainedConfig) -> _WeightCounts:
    model = meta_model.build(config, replace(Settings().load, bits=16), torch.bfloat16, "cuda")
    head, text_config = model.get_output_embeddings(), compat.layer_configs(config.get_text_config())[0]
    head_dim = getattr(text_config, "head_dim", None) or text_config.hidden_size // text_config.num_attention_heads
    return _WeightCounts(
        layers=sum(linear_weights(module) for module in model.modules() if module is not head),
        head=linear_weights(head) if head is not None else 0,
        depth=config.get_text_config().num_hidden_layers,
        attention_width=text_config.num_attention_heads * head_dim,
    )
