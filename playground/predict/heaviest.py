"""Predict a fine-tune's memory from its rows: find the heaviest step, the one with the most tokens."""

import math
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice

from transformers import PreTrainedConfig

from playground.data.batch import Example, epoch_batches, shares_of
from playground.errors import problem
from playground.model.streamed_load import splitting_problem
from playground.predict import meta_model, phases
from playground.settings import Load, Settings, Train
from playground.train.loop import total_steps
from playground.train.parallel import Team

# Of the capacity: where little more of it would change the plan, a process may find that and take the plan that needs
# more. Measured: 132.6 GiB where the other plan's 70.2 were predicted (two H200s, tests/bench/README.md).
CAPACITY_MARGIN = 1.02
EPOCHS_SEARCHED = 8  # at most, to bound the time: a later epoch may have a heavier batch


def predict_heaviest_step(
    config: PreTrainedConfig,
    settings: Settings,
    target: phases.Target,
    examples: Sequence[Example],
    batching: str | None = None,
) -> dict:
    """Predict the heaviest step on these rows (phases.predict_tune), with its rows' "lengths" and "labelled" tokens.

    Of several processes, the one with the heaviest share of a step. "mean_share": tokens of a mean step, as a share of
    this one's. batching: the mode of a batcher that tried the model with these rows; None: the first that the config
    allows.
    """
    for group_by_length in (config.is_encoder_decoder or batching == "padded", True):
        rows = heaviest_batch(examples, settings.train, group_by_length, target.processes)
        lengths, labelled = [len(e.ids) for e in rows], [e.labelled for e in rows]
        prediction = predict_share(config, settings, target, lengths, labelled, batching)
        if group_by_length or prediction["batching"] != "padded":  # only padded rows are batched by their length
            break
    tokens, steps = sum(len(example.ids) for example in examples), len(examples) / len(rows)
    share = tokens / steps / sum(lengths)
    return prediction | {"lengths": lengths, "labelled": labelled, "mean_share": share}


def predict_share(
    config: PreTrainedConfig,
    settings: Settings,
    target: phases.Target,
    lengths: Sequence[int],
    labelled: Sequence[int] = (),
    batching: str | None = None,
) -> dict:
    """Predict a step in which one of the target's processes computes rows of these lengths (phases.predict_tune)."""
    own = own_share(settings, target.processes)
    arguments = (lengths, labelled, 0, False, batching)
    prediction = phases.predict_tune(config, own, target, *arguments)
    if target.processes > 1 and target.capacity:
        roomier = replace(target, capacity=int(target.capacity * CAPACITY_MARGIN))
        other = phases.predict_tune(config, own, roomier, *arguments)
        if prediction["need"] < other["need"] <= target.capacity:
            prediction = other
    return prediction


def one_of_team(config: PreTrainedConfig, load: Load, target: phases.Target, team: Team) -> phases.Target:
    """The target that is one of the devices of a team that fine-tunes.

    Raises PlaygroundError where the team can't split this model's weights, or where that isn't predicted.
    """
    if team.sharded:
        layers = meta_model.model_facts(config, load, target.dtype, target.device).layers
        cannot_split = splitting_problem(config, layers)
        if cannot_split and not team.splits_numbers:  # FSDP2 itself can, of 16 and 32 bits
            raise cannot_split
        if not layers:
            raise problem("error.split_not_predicted", bits=load.bits)
    return replace(target, processes=team.size, split=team.sharded, waits=team.offloads)


def own_share(settings: Settings, processes: int) -> Settings:
    """The settings with the rows of a batch that one of several processes computes at most."""
    batch_size = -(-settings.train.batch_size // processes)
    return replace(settings, train=replace(settings.train, batch_size=batch_size))


def heaviest_batch(
    examples: Sequence[Example], train: Train, group_by_length: bool, processes: int = 1
) -> list[Example]:
    """The batch with the most tokens in a run's first epochs, padding included where rows are grouped by length.

    Of several processes, what one of them computes of a batch.
    """

    def tokens(batch: Sequence[Example]) -> int:
        lengths = [len(e.ids) for e in batch]
        return max(lengths) * len(lengths) if group_by_length else sum(lengths)

    steps = total_steps(len(examples), train)
    # several processes plan micro-batches no larger than the first epoch's largest share (memory_policy.most_tokens)
    epochs = min(EPOCHS_SEARCHED if processes == 1 else 1, math.ceil(steps * train.batch_size / len(examples)))
    batches = (
        batch
        for n in range(epochs)
        for batch in epoch_batches(examples, train.batch_size, train.seed + n, group_by_length)
    )
    shares = (share for batch in islice(batches, steps) for share in shares_of(batch, processes) if share)
    return max(shares, key=tokens)
