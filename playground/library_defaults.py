"""What libraries would do unasked, switched off in every process before any of them is imported.

They count their users, look for updates, fetch code from a hub, log what only their own developers can mend, and keep
cores busy with waiting. A message is dropped by its logger and its text alone, so that whatever else a library warns of
is still seen.
"""

import logging
import os
import platform
import sys
import warnings

VARIABLES = {
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub, transformers, datasets, gradio_client
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
    # Gradio (6.31) makes a table of its last 10,000 events at each event's end, for a view that the page doesn't have:
    # 0.02 to 0.03 s of a processor. Now it makes one every so many events.
    "GRADIO_ANALYTICS_CACHE_FREQUENCY": "1000000000",
    "GRADIO_ANALYTICS_MAX_EVENTS": "1",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",  # pip fetches the offline models' wheels
    # On a CPU oneDNN compiles code for each shape of a product in 16 bits, of which torch and oneDNN keep 1,024 each,
    # while rows make a new shape in nearly every step. With 32, enough for one layer after the other, 40 steps of
    # SmolLM2 take 65 MiB less and no longer, 60 of a toy 290 MiB less (tests/bench/README.md).
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32",
    "LRU_CACHE_CAPACITY": "32",  # torch's (ideep)
    # Read by torch when it first takes memory on CUDA: segments that grow leave far less of it reserved and unused.
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",
}
# How often a thread of GNU's OpenMP, torch's on Linux, looks whether the others are done before it sleeps. By itself it
# looks 300,000 times, some milliseconds, in which it takes a core from whichever thread the others wait for: the demo
# trained at 1,201 tokens/s on two quiet cores and 237 beside two busy processes. With this it makes 1,130 and 428, and
# without looking 789 and 347 (tests/bench/busy_cpu.py). A look takes an instruction's pause on x86 and next to nothing
# on other processors.
SPINS, SPINS_VARIABLE = "10000", "GOMP_SPINCOUNT"
WAITING_VARIABLES = (SPINS_VARIABLE, "OMP_WAIT_POLICY")  # by which a person decides it
# With this package, bitsandbytes (0.50) fetches compiled code from a hub when it is imported, and transformers when it
# builds a model. Without it both take their own, as they do on machines that don't have it.
BLOCKED_PACKAGES = ("kernels",)
DROPPED_MESSAGES = {
    "bitsandbytes.backends.cpu.ops": ("Failed to load CPU gemm_4bit_forward",),  # at import, about `kernels`
    "bitsandbytes.autograd._functions": ("MatMul8bitLt: inputs will be cast",),  # at every call at int8
    # What this program says in sentences, or does on purpose: a table of tensors that are missing or unused, and an
    # attention that a tower which was left out can't be asked about.
    "transformers.modeling_utils": ("LOAD REPORT", "without finding the associated sub-model"),
    "transformers.quantizers.quantizer_gguf": ("",),  # all of them: on the dtypes of packed weights
}
# Warnings that one library raises about another: beginnings of their messages, as regular expressions.
DROPPED_WARNINGS = ("`is_gradient_checkpointing` is deprecated",)  # PEFT (0.21) asks transformers (5.23) for it


def apply() -> None:
    """Set the variables that aren't set, block the packages that aren't imported, and drop the known messages."""
    for name, value in VARIABLES.items():
        os.environ.setdefault(name, value)
    if spins_are_known(sys.platform, platform.machine()) and not any(map(os.environ.get, WAITING_VARIABLES)):
        os.environ[SPINS_VARIABLE] = SPINS
    for package in BLOCKED_PACKAGES:
        sys.modules.setdefault(package, None)  # type: ignore[arg-type]  # None: importing it raises ImportError
    for name, texts in DROPPED_MESSAGES.items():
        logging.getLogger(name).addFilter(_MessageFilter(texts))
    for beginning in DROPPED_WARNINGS:
        warnings.filterwarnings("ignore", beginning, FutureWarning)


def spins_are_known(system: str, processor: str) -> bool:
    """Whether SPINS fits: torch has another OpenMP on Windows and macOS, and a look is shorter on other processors."""
    return system == "linux" and processor in ("x86_64", "AMD64")


class _MessageFilter(logging.Filter):
    """Drops the records whose message contains one of the texts."""

    def __init__(self, texts: tuple[str, ...]):
        super().__init__()
        self._texts = texts

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return not any(text in message for text in self._texts)
