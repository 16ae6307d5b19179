"""Number formats of weights by name: what `python -m playground lab MODEL --formats nf4,int3:64` and the page take.

bf16                                  not quantized: what the others are compared with
int4 float4 quantile4 [:block]        2 to 8 bits, one scale of 16 bits a block
ternary [:block]                      -1, 0 or 1 times a scale
hqq4 [:block]                         4 bits and a zero point, found by half-quadratic quantization
nf4 fp4 [:block]                      as bitsandbytes stores them, a float32 scale a block
fp8 nvfp4 mxfp4                       formats of today's GPUs
gguf-q8_0 … gguf-q2_k gguf-tq1_0      as llama.cpp stores them
bitsandbytes-int8 bitsandbytes-nf4 …  not simulated: loaded at that width and computed with its kernels
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from playground.errors import PlaygroundError, Problem

BITS = tuple(range(2, 9))
BLOCKS = (32, 64, 128, 256, 512, 1024, 2048, 4096)
DEFAULT_BLOCK = 64
WITH_BITS = ("int", "float", "quantile", "hqq")
WITH_BLOCK = (*WITH_BITS, "ternary", "nf4", "fp4")
FIXED = {"bf16": 16, "ternary": 2, "nf4": 4, "fp4": 4, "fp8": 8, "nvfp4": 4, "mxfp4": 4}
GGUF = ("q8_0", "q6_k", "q5_k", "q5_1", "q5_0", "q4_k", "q4_1", "q4_0", "q3_k", "q2_k", "tq2_0", "tq1_0")
KERNELS = {"int8": 8, "nf4": 4, "fp4": 4}  # of bitsandbytes, with the bit width to load at
MAX_FORMATS = 64  # in one question
UNQUANTIZED = "bf16"
# What the page begins with: one format of each width, and nf4.
DEFAULT = ("bf16", "int8", "int6", "int5", "nf4", "int4", "int3", "int2")

_NAME = re.compile(r"(?P<kind>[a-z]+?)(?P<bits>\d{0,4})(?::(?P<block>\d{1,9}))?")


@dataclass(frozen=True)
class Format:
    """A number format. kind: "int", "nf4", "gguf", …; bits: of a code; block: weights that share a scale, 0 if fixed.

    variant: which of the GGUF types or of bitsandbytes' kernels.
    """

    name: str
    kind: str
    bits: int
    block: int = 0
    variant: str = ""


def parse_formats(text: str | Iterable[str]) -> list[Format]:
    """Formats by their names, separated by commas, without repetitions.

    Raises PlaygroundError with every name that is none.
    """
    names = text.split(",") if isinstance(text, str) else list(text)
    cleaned = [name.strip().lower() for name in names if name.strip()]
    found: dict[str, Format] = {}
    problems: list[Problem] = []
    for name in cleaned:
        try:
            parsed = parse_format(name)
            found[parsed.name] = parsed
        except PlaygroundError as error:
            problems += error.problems
    if not cleaned:
        problems.append(Problem("error.lab_no_format"))
    if len(found) > MAX_FORMATS:
        problems.append(Problem("error.lab_many_formats", {"count": len(found), "most": MAX_FORMATS}))
    if problems:
        raise PlaygroundError(*problems)
    return list(found.values())


def parse_format(name: str) -> Format:
    """A format by its name. Raises PlaygroundError for a name, a bit width or a block size that there isn't."""
    if name.startswith("gguf-") and name[5:] in GGUF:
        variant = name[5:]
        return Format(name, "gguf", int(re.sub(r"\D.*", "", variant.lstrip("tq"))), 0, variant)
    if name.startswith("bitsandbytes-") and name[13:] in KERNELS:
        return Format(name, "bitsandbytes", KERNELS[name[13:]], 0, name[13:])
    base, colon, _ = name.partition(":")
    match = _NAME.fullmatch(name)
    if match is None:
        raise PlaygroundError(Problem("error.lab_format", {"name": name[:60]}))
    kind, bits, block = match["kind"], match["bits"], match["block"]
    if base in FIXED:
        kind, width = base, FIXED[base]
    elif kind in WITH_BITS and bits and int(bits) in BITS:
        width = int(bits)
    else:
        raise PlaygroundError(Problem("error.lab_format", {"name": name[:60]}))
    if not colon:
        return _with_block(kind, width, DEFAULT_BLOCK if kind in WITH_BLOCK else 0)
    if kind not in WITH_BLOCK or int(block) not in BLOCKS:
        allowed = list(BLOCKS) if kind in WITH_BLOCK else []
        raise PlaygroundError(Problem("error.lab_block", {"name": name[:60], "blocks": allowed or "–"}))
    return _with_block(kind, width, int(block))


def _with_block(kind: str, bits: int, block: int) -> Format:
    """The format under its one name: without the block size where that is the usual one."""
    name = f"{kind}{bits}" if kind in WITH_BITS else kind
    return Format(name if block in (0, DEFAULT_BLOCK) else f"{name}:{block}", kind, bits, block)
