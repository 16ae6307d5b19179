"""See and do it: load a language model at a chosen bit width, fine-tune it with LoRA, watch the memory."""

from pathlib import Path

from playground import library_defaults

ASSETS = Path(__file__).resolve().parent.parent / "assets"

library_defaults.apply()
