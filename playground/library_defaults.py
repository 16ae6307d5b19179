"""What libraries would do unasked, switched off in every process before any of them is imported.

They count their users, look for updates, fetch code from a hub, and log what only their own developers can mend.
A message is dropped by its logger and its text alone, so that whatever else a library warns of is still seen.
"""

import logging
import os
import sys
import warnings

VARIABLES = {
    "HF_HUB_DISABLE_TELEMETRY": "1",  # huggingface_hub, transformers, datasets, gradio_client
    "HF_HUB_DISABLE_UPDATE_CHECK": "1",
    "GRADIO_ANALYTICS_ENABLED": "False",
    "PIP_DISABLE_PIP_VERSION_CHECK": "1",  # pip fetches the offline models' wheels
    # Read by torch when it first takes memory on CUDA: segments that grow leave far less of it reserved and unused.
    "PYTORCH_ALLOC_CONF": "expandable_segments:True",
}
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
    for package in BLOCKED_PACKAGES:
        sys.modules.setdefault(package, None)  # type: ignore[arg-type]  # None: importing it raises ImportError
    for name, texts in DROPPED_MESSAGES.items():
        logging.getLogger(name).addFilter(_MessageFilter(texts))
    for beginning in DROPPED_WARNINGS:
        warnings.filterwarnings("ignore", beginning, FutureWarning)


class _MessageFilter(logging.Filter):
    """Drops the records whose message contains one of the texts."""

    def __init__(self, texts: tuple[str, ...]):
        super().__init__()
        self._texts = texts

    def filter(self, record: logging.LogRecord) -> bool:
        message = record.getMessage()
        return not any(text in message for text in self._texts)
