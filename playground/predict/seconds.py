"""Predict the seconds of a training step and of a chat's token from what they ask of a device and what it reaches.

Each kernel takes the longer of two times, that of its operations and that of its bytes. A CPU also spends time on
calling operators; a GPU computes while the processor calls the next ones, so there the longer of both sums counts.
"""

from collections.abc import Iterable

from playground.predict.work import OF_ALL_LAYERS, ONCE_A_STEP, Calls
from playground.speed.rates import Rates


def predict_seconds(calls: Iterable[Calls], rates: Rates, phase: str) -> dict | None:
    """Seconds of these calls on that device; None where there are none, or a kind among them was never measured.

    phase: "tune" or "chat", whose calls cost differently. Returns {"seconds", "kernels" and "calls" (the two sums),
    "kinds": {kind: seconds of its kernels}, "bound": "compute" or "launch", "source": "measured", "rough" or
    "estimated" (Rates.trust)}.
    """
    calls = list(calls)
    if phase not in rates.call or not calls:
        return None
    kinds: dict[str, float] = {}
    calling = 0.0
    for stage, kind, operations, size, repeats in calls:
        calling += repeats * rates.calling(kind, phase, stage)
        if kind == "view" or (not operations and not size):
            continue
        seconds = rates.seconds(kind, operations, size)
        if seconds is None:
            return None
        kinds[kind] = kinds.get(kind, 0.0) + seconds * repeats
    kernels = sum(kinds.values())
    total = kernels + calling if rates.device == "cpu" else max(kernels, calling)
    return {
        "seconds": total,
        "kernels": kernels,
        "calls": calling,
        "kinds": kinds,
        "bound": "compute" if kernels >= calling else "launch",
        "source": rates.trust,
    }


def predict_step_seconds(calls: Iterable[Calls], rates: Rates, share: float = 1.0) -> dict | None:
    """Seconds of a training step with this share of the predicted step's tokens; see `predict_seconds`.

    What weights and optimizer take doesn't depend on tokens.
    """
    scaled = [
        one
        if one.stage in (ONCE_A_STEP, OF_ALL_LAYERS) or one.kind.startswith("dequantize")
        else one._replace(operations=one.operations * share, bytes=one.bytes * share)
        for one in calls
    ]
    return predict_seconds(scaled, rates, "tune")


def predict_token_seconds(calls: Iterable[Calls], rates: Rates) -> dict | None:
    """Seconds of one token of a chat, from a chat's calls: its model and what is between two tokens."""
    decode = [one for one in calls if one.stage == "decode"]
    predicted = predict_seconds(decode, rates, "chat")
    return predicted and predicted | {"seconds": predicted["seconds"] + rates.token}
