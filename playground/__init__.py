"""See and do it: load a language model at a chosen bit width, fine-tune it with LoRA, watch the memory."""

import os
from pathlib import Path

ASSETS = Path(__file__).resolve().parent.parent / "assets"

# Read by torch when it first takes memory on CUDA: segments that grow leave far less of it reserved and unused.
os.environ.setdefault("PYTORCH_ALLOC_CONF", "expandable_segments:True")
