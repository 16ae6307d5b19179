"""The arms of train_gpu.py: what each is, by its name."""

from dataclasses import dataclass

import random_models


@dataclass(frozen=True)
class Arm:
    """One configuration that is measured."""

    bits: int
    checkpointing: str = "auto"
    compiled: bool = False
    gib: float = 0  # of the GPU's memory at most; 0: all
    max_tokens: int = 0  # of a micro-batch; 0: as many as fit
    peer_rows: int = 0  # rows at once, for an arm of the peer; 0: an arm of ours
    steps: int = 8
    unsloth: bool = False  # an arm of Unsloth
    labelled: float = random_models.LABELLED  # share of a row's tokens
    long: bool = False  # rows of 4,096 tokens and rank 16, as NVIDIA measures NeMo
    kind: str = ""  # "fp8" or "int8-fast" rather than int8 at 8 bits, "nf4-fast" rather than nf4 at 4 bits

    @property
    def lengths(self) -> list[int]:
        """Tokens of a step's rows."""
        return random_models.LONG_ROWS if self.long else random_models.LENGTHS

    @property
    def rank(self) -> int:
        """The adapter's."""
        return random_models.LONG_RANK if self.long else random_models.RANK


OURS = {
    "bf16-off": Arm(16, "off"),
    "bf16-off-compiled": Arm(16, "off", True),
    "nf4-off": Arm(4, "off"),
    "nf4-off-compiled": Arm(4, "off", True),
    "nf4-all": Arm(4, "all"),
    "nf4-all-compiled": Arm(4, "all", True),
    "nf4-22GiB": Arm(4, gib=22),
    "nf4-22GiB-compiled": Arm(4, compiled=True, gib=22),
    "nf4-7GiB": Arm(4, gib=7),
    "int8-all": Arm(8, "all"),
    "fp8-off": Arm(8, "off", kind="fp8"),
    "fp8-off-compiled": Arm(8, "off", True, kind="fp8"),
    "fp8-all": Arm(8, "all", kind="fp8"),
    "fp8-all-compiled": Arm(8, "all", True, kind="fp8"),
    "int8-fast-off": Arm(8, "off", kind="int8-fast"),
    "int8-fast-off-compiled": Arm(8, "off", True, kind="int8-fast"),
    "int8-fast-all": Arm(8, "all", kind="int8-fast"),
    "nf4-fast-off": Arm(4, "off", kind="nf4-fast"),
    "nf4-fast-off-compiled": Arm(4, "off", True, kind="nf4-fast"),
    "nf4-fast-all": Arm(4, "all", kind="nf4-fast"),
    "nf4-fast-all-compiled": Arm(4, "all", True, kind="nf4-fast"),
    "nf4-off-labelled": Arm(4, "off", labelled=1),
    "nf4-off-compiled-labelled": Arm(4, "off", True, labelled=1),
    "nf4-all-labelled": Arm(4, "all", labelled=1),
    "nf4-all-compiled-labelled": Arm(4, "all", True, labelled=1),
    "nf4-offload-labelled": Arm(4, "offload", labelled=1),
    "nf4-fast-all-labelled": Arm(4, "all", labelled=1, kind="nf4-fast"),
    "nf4-fast-offload-labelled": Arm(4, "offload", labelled=1, kind="nf4-fast"),
    "nf4-fast-offload-compiled-labelled": Arm(4, "offload", True, labelled=1, kind="nf4-fast"),
    "nf4-fast-off-labelled": Arm(4, "off", labelled=1, kind="nf4-fast"),
    "unsloth-nf4-off": Arm(4, "off", unsloth=True, steps=30),
    "unsloth-nf4-all": Arm(4, "all", unsloth=True, steps=30),
}
LONG = {
    f"{kind}-off{'-compiled' if compiled else ''}-long": Arm(
        bits, "off", compiled, labelled=1, long=True, kind="" if kind in ("bf16", "nf4") else kind
    )
    for kind, bits in (("bf16", 16), ("fp8", 8), ("nf4", 4), ("nf4-fast", 4))
    for compiled in (False, True)
}
PEERS = {
    "peer-int8-talk": Arm(8, "all", peer_rows=4, steps=4),
    "peer-nf4-talk": Arm(4, "all", peer_rows=4, steps=4),
    "peer-bf16-best": Arm(16, "off", peer_rows=32),
    "peer-nf4-best": Arm(4, "off", peer_rows=32),
}
WALL, UNSLOTH_WALL = "calm/wall-50", "calm/unsloth-wall-50"
ARMS = {
    **{f"{shape}/{name}": arm for shape in ("calm", "llama") for name, arm in OURS.items()},
    **{f"{shape}/{name}": arm for shape in ("llama3", "qwen") for name, arm in LONG.items()},
    **{f"calm/{name}": arm for name, arm in PEERS.items()},
    UNSLOTH_WALL: Arm(4, "all", unsloth=True, steps=50),
}
ALONE = (WALL, UNSLOTH_WALL)  # run with no other process ahead, after the others
