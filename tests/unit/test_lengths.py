"""Token counts of rows agree with what `encode` keeps of them, at every cutoff."""

import numpy as np
import pytest
from toy_rows import varied_rows
from toys import make_tokenizer

from playground.data.batch import collate, collate_seq2seq, encode, epoch_batches
from playground.data.lengths import Lengths, count_tokens, cutoff_effect, histogram, padding
from playground.data.template import Template

TOKENIZER = make_tokenizer(False)
ROWS = varied_rows()


@pytest.mark.parametrize("encoder", [False, True])
@pytest.mark.parametrize("cutoff", [40, 90, 150, 5000])
def test_cutoff_effect_counts_what_encode_keeps(cutoff, encoder):
    template = Template("talk", TOKENIZER, encoder=encoder)
    examples, shortened = encode(ROWS, template, cutoff)
    lengths = count_tokens(ROWS, template)
    effect = cutoff_effect(lengths, cutoff)
    assert effect["kept"] == len(examples)
    assert effect["left_out"] == len(ROWS) - len(examples)
    assert effect["left_out"] + effect["truncated"] == shortened
    assert effect["lost_share"] == shortened / len(ROWS)
    assert effect["tokens"] == sum(len(e.ids) for e in examples)
    assert effect["trained"] == sum(e.labelled for e in examples)
    assert effect["uncut"] == sum(len(e.ids) for e in encode(ROWS, template, 10**6)[0])
    stand_ins = lengths.within(cutoff).examples()
    assert [(len(e.ids), e.trained_from) for e in stand_ins] == [(len(e.ids), e.trained_from) for e in examples]
    assert cutoff_effect(lengths, cutoff, True)["trained"] == sum(len(e.ids) - 1 for e in examples)


@pytest.mark.parametrize("encoder", [False, True])
def test_padding_is_that_of_a_runs_batches(encoder):
    template = Template("talk", TOKENIZER, encoder=encoder)
    examples, _ = encode(ROWS, template, 120)
    batches = epoch_batches(examples, 8, 3)
    if encoder:
        inputs = [collate_seq2seq(batch, 2, 0, "cpu").inputs for batch in batches]
        padded = sum(batch["input_ids"].numel() + batch["decoder_input_ids"].numel() for batch in inputs)
    else:
        padded = sum(collate(batch, 2, "cpu").inputs["input_ids"].numel() for batch in batches)
    tokens = sum(len(e.ids) for e in examples)
    assert padding(count_tokens(ROWS, template).within(120), 8, 3) == {
        "tokens": tokens,
        "padded": padded,
        "saved": pytest.approx(1 - tokens / padded),
    }


@pytest.mark.parametrize(
    "sizes", [[1], [5] * 40, list(range(1, 400)), [*range(1, 400), 100_000]], ids=["one", "alike", "even", "tail"]
)
def test_histogram_puts_every_row_in_the_bar_of_its_tokens(sizes):
    lengths = Lengths(np.ones(len(sizes), np.int32), np.array(sizes, np.int32) - 1)
    for cutoff in (1, 37, 250, 10**6):
        result = histogram(lengths, cutoff)
        width, bars = result["width"], len(result["counts"])
        for bar, (count, over) in enumerate(zip(result["counts"], result["over"])):
            inside = [n for n in sizes if n // width == bar or (bar == bars - 1 and n >= bars * width)]
            assert (count, over) == (len(inside), sum(n > cutoff for n in inside))
        assert sum(result["counts"]) == len(sizes) and result["open"] == (max(sizes) >= bars * width) and bars <= 62
        assert result["longest"] == max(sizes) and result["median"] == np.median(sizes)


def test_counting_reports_progress_and_can_be_stopped():
    template = Template("talk", TOKENIZER)
    reports = []
    count_tokens(ROWS * 6, template, lambda *progress: reports.append(progress))
    assert reports[0] == (0, 900, "rows") and len(reports) == 4
    with pytest.raises(InterruptedError):
        count_tokens(ROWS, template, lambda *_: (_ for _ in ()).throw(InterruptedError))
