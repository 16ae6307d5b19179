"""app.py on an emulated ZeroGPU Space: `spaces` refuses a torch without CUDA, so it is imported as if there were none.

What it changes in torch, so that models can be moved to a GPU before there is one, is left out therefore.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
torch: None = None
sys.modules["torch"] = torch  # type: ignore[assignment]
import spaces  # noqa: E402, F401

del sys.modules["torch"]

import app  # noqa: E402

app.main()
