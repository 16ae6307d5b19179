"""Try an adapter's patterns of module names in a process of their own, before PEFT matches a network's names with them.

Python's regular expressions can take years for a name of twenty letters, hold the interpreter meanwhile, and can't be
interrupted. So a pattern has to match common names of modules within a second of the processor's time.
"""

import json
import subprocess
import sys
from typing import Any

from playground.errors import problem

SECONDS, MOST_WAITING = 1, 60.0  # of the processor's time, and of time where other programs have it
MAX_CHARACTERS, MAX_PATTERNS = 20_000, 5_000  # of one; PEFT tries each on every module
QUANTIFIERS = frozenset("*+{")
NAMES = (
    *("model.language_model.layers.31.self_attn.q_proj", "model.layers.31.mlp.experts.127.down_proj", "lm_head"),
    *("transformer.h.11.attn.c_attn", "gpt_neox.layers.15.attention.query_key_value", "model.embed_tokens"),
    *("decoder.block.23.layer.1.EncDecAttention.wi_0", "a" * 64, "1." * 32, "model.visual.blocks.31.norm2" * 2),
)
PROGRAM = """
import json, re, sys
try:
    import resource
    resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
except ImportError:  # Windows: the caller's limit of time is left
    pass
patterns, names = json.load(sys.stdin)
for pattern in patterns:
    try:
        compiled = [re.compile(form.replace("PATTERN", pattern)) for form in (r"(?:PATTERN)\\Z", r"(.*\\.)?(PATTERN)$")]
    except (re.error, OverflowError, RecursionError):
        continue  # PEFT says what is wrong with it
    for expression in compiled:
        for name in names:
            expression.match(name)
""".replace("SECONDS", str(SECONDS))


def check_patterns(values: dict[str, Any], shown: str) -> None:
    """Raise PlaygroundError for patterns in an adapter's config that are too long, too many, or too slow to match.

    shown: how the error calls the adapter. Values of other types than patterns have are left to others.
    """
    texts = [values.get(name) for name in ("target_modules", "exclude_modules", "layers_pattern")]
    named = [values.get(name) for name in ("rank_pattern", "alpha_pattern")]
    patterns = [*texts, *(key for pattern in named if isinstance(pattern, dict) for key in pattern)]
    tried = [pattern for pattern in patterns if isinstance(pattern, str) and QUANTIFIERS & set(pattern)]
    if any(len(pattern) > MAX_CHARACTERS for pattern in tried) or len(patterns) > MAX_PATTERNS:
        raise problem("error.adapter_pattern_large", path=shown, most=MAX_CHARACTERS, most_patterns=MAX_PATTERNS)
    if not tried:
        return
    command = [sys.executable, "-I", "-S", "-c", PROGRAM]
    given = json.dumps([tried, NAMES])
    try:
        is_quick = subprocess.run(command, input=given, text=True, timeout=MOST_WAITING, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        is_quick = False
    if not is_quick:
        raise problem("error.adapter_pattern", path=shown, pattern=max(tried, key=len)[:80], seconds=SECONDS)
