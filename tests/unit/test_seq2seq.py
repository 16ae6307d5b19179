"""Models with an encoder (T5, mT5, umT5, BART): their two sides, through the same rooms as models without one."""

import itertools
import threading

import pytest
import torch
from bitsandbytes.nn import Linear4bit, Linear8bitLt
from tokenizers.processors import TemplateProcessing
from torch import nn
from toys import keys, make_model, make_tokenizer

from playground.chat.generate import Prompt, generate_answers
from playground.data.batch import Example, collate_seq2seq, encode
from playground.data.source import Row
from playground.data.template import Template, Turn, choose_template
from playground.engine.workbench import Workbench
from playground.errors import PlaygroundError
from playground.memory import ledger
from playground.model import adapt
from playground.model.load import load_model
from playground.settings import Generation, Load, Lora
from playground.train.batching import Batcher
from playground.train.checkpointing import CheckpointedLayers, CheckpointPolicy
from playground.train.loss import Loss
from playground.train.patches import patch_modules

FAMILIES = ("t5", "t5-gated", "mt5", "umt5", "bart")
ROWS = [
    Example([9, 17, 33, 60, 70, 71, 1], 4),
    Example([12, 8, 40, 41, 42, 43, 44, 1], 2),
    Example([5, 6, 7, 8, 9, 1], 5),
]
ROW = Row("What is the answer?", "It is blue.")
PROMPTS = ([40, 41, 42, 60, 1], [99, 30, 31, 120, 121, 7, 8, 1])


def gentle(family, **changes):
    """Weights small enough that gradients aren't all rounding; T5 doesn't divide what its attention compares."""
    return make_model(family, **changes, **({"init_std": 0.1} if family == "bart" else {"initializer_factor": 1.0}))


def loaded(folder, bits=32, dtype="bfloat16"):
    return load_model(folder, Load(model=str(folder), bits=bits, device="cpu", dtype=dtype), lambda *_: None)


def tuned(model, dtype=torch.float32, **lora):
    """The model with an adapter that does something."""
    model = adapt.add_lora(model.requires_grad_(False), Lora(r=4, **lora), dtype, 0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return model.eval()


def learned(model, batches, policy=None) -> tuple[float, dict[str, torch.Tensor]]:
    """Summed loss of the batches, and the gradients of what is trained; the training loop's way where a dial is given."""
    model.zero_grad()
    loss_module, layers, total = Loss(model), CheckpointedLayers(model), 0.0
    for batch in batches:
        if policy is None:
            loss = loss_module(batch)
            loss.backward()
        else:
            with patch_modules(loss_module, model.get_base_model()):
                layers.set(policy)
                loss = loss_module(batch)
                loss.backward()
                layers.restore()
        total += loss.item()
    return total, {n: p.grad.clone() for n, p in model.named_parameters() if p.requires_grad}


def assert_same(ours, theirs):
    assert ours[0] == pytest.approx(theirs[0], rel=1e-5)
    assert ours[1].keys() == theirs[1].keys() and all(g.abs().max() > 0 for g in theirs[1].values())
    for name, gradient in theirs[1].items():
        torch.testing.assert_close(
            ours[1][name], gradient, rtol=1e-4, atol=1e-5 * max(1.0, gradient.abs().max().item()), msg=name
        )


# --- rows ---


def with_end(tokenizer):
    """As T5's tokenizer: every text that is encoded ends with the end-of-text token."""
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", tokenizer.eos_token_id)]
    )
    return tokenizer


def test_the_encoder_reads_the_prompt_with_its_end_and_the_decoder_writes_the_answer_with_its_own():
    tokenizer = with_end(make_tokenizer(False))
    template = choose_template("alpaca", tokenizer, [], encoder=True)
    [example], cut = encode([ROW], template, 512)
    asked, answered = example.ids[: example.trained_from], example.ids[example.trained_from :]
    assert cut == 0 and tokenizer.decode(asked) == template.prompt([Turn(ROW.instruction)]) + "</s>"
    assert tokenizer.decode(answered) == "It is blue.</s>" and example.labelled == len(answered)
    alone = Template("alpaca", tokenizer)  # without an encoder, the prompt mustn't end
    assert tokenizer.decode(alone.ids([Turn(ROW.instruction)])) == alone.prompt([Turn(ROW.instruction)])


def test_an_answer_that_is_too_long_loses_its_end():
    template = Template("talk", make_tokenizer(False), encoder=True)
    prompt = len(template.ids([Turn(ROW.instruction)]))
    [example], cut = encode([Row(ROW.instruction, "blue " * 200)], template, prompt + 12)
    assert (cut, example.trained_from, len(example.ids)) == (1, prompt, prompt + 12)


def test_an_encoder_s_prompt_cannot_be_trained_on():
    with pytest.raises(PlaygroundError) as caught:
        encode([ROW], Template("alpaca", make_tokenizer(False), encoder=True), 512, train_on_prompt=True)
    assert keys(caught) == ["error.prompt_is_read"] and caught.value.text("ja")


def test_both_sides_are_padded_and_every_position_predicts_the_token_that_comes_in_next():
    batch = collate_seq2seq(ROWS[:2], 2, 0, "cpu")
    assert batch.inputs["input_ids"].tolist() == [[9, 17, 33, 60], [12, 8, 2, 2]]
    assert batch.inputs["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 0, 0]]
    assert batch.inputs["decoder_input_ids"].tolist() == [[0, 70, 71, 2, 2, 2], [0, 40, 41, 42, 43, 44]]
    assert batch.positions.tolist() == [0, 1, 2, 6, 7, 8, 9, 10, 11] and batch.targets.tolist() == [
        70,
        71,
        1,
        40,
        41,
        42,
        43,
        44,
        1,
    ]


def test_micro_batches_keep_the_token_budget_of_both_sides():
    batcher = Batcher(Loss(make_model("t5")), ROWS, 2, "cpu")
    assert not batcher.packed and batcher.size(ROWS) == 3 * (5 + 6)
    assert [len(part) for part in batcher.parts(ROWS, 3, 20)] == [2, 1] and batcher.size(ROWS[:2]) == 2 * (4 + 6)


# --- what is learned ---


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_is_the_model_s_own_without_all_logits(family):
    model = make_model(family).requires_grad_(False)
    loss_module = Loss(model)
    assert loss_module.chunked and "forward" not in vars(model.lm_head)
    labels = torch.tensor([[70, 71, 1, -100, -100, -100], [40, 41, 42, 43, 44, 1]])
    batch = Batcher(loss_module, ROWS[:2], 2, "cpu").batch(ROWS[:2])
    own = model(input_ids=batch.inputs["input_ids"], attention_mask=batch.inputs["attention_mask"], labels=labels).loss
    assert loss_module(batch).item() == pytest.approx(own.item() * batch.labelled, rel=1e-5)


def test_a_trained_head_keeps_the_model_s_own_loss():
    loss_module = Loss(make_model("t5"))
    assert not loss_module.chunked
    batch = Batcher(loss_module, ROWS, 2, "cpu").batch(ROWS)
    assert loss_module(batch).item() == pytest.approx(
        Loss(make_model("t5").requires_grad_(False))(batch).item(), rel=1e-5
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_teaches_what_its_rows_teach_alone(family):
    model = tuned(gentle(family))
    batcher = Batcher(Loss(model), ROWS, 2, "cpu")
    assert_same(learned(model, [batcher.batch(ROWS)]), learned(model, [batcher.batch([row]) for row in ROWS]))


@pytest.mark.parametrize("how", ["off", "2", "all", "offload"])
@pytest.mark.parametrize("family", ["t5", "bart"])
def test_lean_layers_and_layers_computed_twice_teach_the_same_on_both_sides(family, how):
    model = tuned(gentle(family, **{"dropout_rate" if family == "t5" else "dropout": 0.1})).train()
    batch = [Batcher(Loss(model), ROWS, 2, "cpu").batch(ROWS)]
    assert len(CheckpointedLayers(model).all) == 4
    torch.manual_seed(4)
    targets = learned(model, batch)
    torch.manual_seed(4)
    assert_same(learned(model, batch, CheckpointPolicy(how)), targets)


@pytest.mark.parametrize(
    "count,places",
    [
        (0, ["encoder.block.0", "encoder.block.1", "decoder.block.0", "decoder.block.1"]),
        (1, ["decoder.block.1"]),
        (3, ["encoder.block.1", "decoder.block.0", "decoder.block.1"]),
    ],
)
def test_the_last_layers_are_the_decoder_s_before_they_are_the_encoder_s(count, places):
    model = tuned(make_model("t5"), layers=count, target_modules="attention")
    found = {
        name.split("base_model.model.")[1].split(".layer.")[0]
        for name, p in model.named_parameters()
        if p.requires_grad
    }
    assert sorted(found) == sorted(places)
    assert model.peft_config["default"].task_type == "SEQ_2_SEQ_LM"


# --- bits ---


@pytest.mark.parametrize("family", ["t5", "mt5"])
@pytest.mark.parametrize("bits,kind", [(32, nn.Linear), (16, nn.Linear), (8, Linear8bitLt), (4, Linear4bit)])
def test_each_bit_width_holds_all_linear_layers_but_wo_and_the_head(toy, family, bits, kind):
    found = loaded(toy(family), bits)
    kinds = {name: type(m) for name, m in adapt.linear_layers(found.model).items()}
    assert len(kinds) == 2 * 4 + 2 * 8 + 4 * (2 if family == "t5" else 3)
    assert {k for name, k in kinds.items() if not name.endswith("wo")} == {kind} and {
        k for name, k in kinds.items() if name.endswith("wo")
    } == {nn.Linear}
    assert type(found.model.lm_head) is nn.Linear


@pytest.mark.parametrize("bits", [16, 4])
def test_wo_stays_in_float32_beside_float16_and_so_does_its_adapter(toy, bits):
    found = loaded(toy("t5"), bits, "float16")
    model = tuned(found.model, found.dtype).train()
    types = {name.split("lora_")[0][-3:-1]: p.dtype for name, p in model.named_parameters() if "lora_" in name}
    assert types.pop("wo") == torch.float32 and set(types.values()) == {torch.float16}
    assert_finite = learned(model, [Batcher(Loss(model), ROWS, 2, "cpu").batch(ROWS)], CheckpointPolicy("all"))
    assert all(torch.isfinite(g).all() and g.abs().max() > 0 for g in assert_finite[1].values())


@pytest.mark.parametrize("family,tied", [("t5", True), ("t5-gated", False)])
@pytest.mark.parametrize("bits", [32, 4])
def test_one_table_serves_both_sides_and_the_head_if_that_is_tied(tmp_path, family, tied, bits):
    model = make_model(family)
    if not tied:  # as in T5's later versions, whose files hold a head of its own
        model.lm_head.weight = nn.Parameter(torch.randn(336, 64))
    model.save_pretrained(tmp_path)
    make_tokenizer(False).save_pretrained(tmp_path)
    found = loaded(tmp_path, bits)
    assert (found.model.lm_head.weight is found.model.shared.weight) == tied
    size, parts = found.dtype.itemsize, ledger.bytes_by_part(found.model)
    tables = (1 if tied else 2) * 336 * 64 * size
    layers = {name: m.in_features * m.out_features for name, m in adapt.linear_layers(found.model).items()}
    quantized = (
        sum(count for name, count in layers.items() if not name.endswith("wo"))
        // (2 if bits == 4 else 1)
        * (1 if bits == 4 else size)
    )
    others = sum(
        p.nbytes
        for name, p in found.model.named_parameters()
        if name.endswith(("layer_norm.weight", "relative_attention_bias.weight"))
    )
    assert (
        parts["weights"]
        == tables + quantized + sum(count for name, count in layers.items() if name.endswith("wo")) * size + others
    )
    assert (parts["quant_constants"] > 0) == (bits == 4)


# --- answers ---


def said(model, tokenizer, asked, generation, stop=None) -> list[dict]:
    return list(generate_answers(model, tokenizer, asked, [1], generation, stop or threading.Event()))


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_base_and_tuned_answer_in_one_batch_as_they_do_alone(toy, family, beams):
    found, bare = loaded(toy(family)), loaded(toy(family))
    model, generation = tuned(found.model), Generation(max_new_tokens=12, num_beams=beams)
    together = said(
        model,
        found.tokenizer,
        [Prompt(PROMPTS[0], False), Prompt(PROMPTS[1], False), Prompt(PROMPTS[1], True)],
        generation,
    )[-1]["texts"]
    base = [said(bare.model, found.tokenizer, [Prompt(ids, False)], generation)[-1]["texts"][0] for ids in PROMPTS]
    only_tuned = said(model, found.tokenizer, [Prompt(PROMPTS[1], True)], generation)[-1]["texts"][0]
    assert together == [*base, only_tuned] and only_tuned != base[1]


def test_answers_stream_from_the_first_token_on_and_stop(toy):
    found = loaded(toy("mt5"))
    model, stop = tuned(found.model), threading.Event()
    both, events = [Prompt(PROMPTS[0], False), Prompt(PROMPTS[0], True)], []
    for event in generate_answers(model, found.tokenizer, both, [], Generation(max_new_tokens=300), stop):
        events.append(event)
        if len(events) == 4:
            stop.set()
    assert [e["tokens"] for e in events[:4]] == [1, 2, 3, 4] and 4 <= events[-1]["tokens"] < 300
    for before, after in itertools.pairwise(events):
        assert all(new.startswith(old) for old, new in zip(before["texts"], after["texts"]))


# --- the jobs ---


@pytest.mark.parametrize("family,bits", [("t5", 32), ("mt5", 16), ("t5", 8), ("mt5", 4)])
def test_a_fine_tune_learns_and_its_adapter_answers_after_reading_it_back(chosen, toy, tmp_path, family, bits):
    settings = chosen(
        load={"model": str(toy(family)), "bits": bits, "dtype": "bfloat16"},
        data={"held_out": 0.2},
        train={"max_steps": 6},
    )
    turn = [{"instruction": "What is the answer to question 3?", "answer": None}]

    def ask(bench):
        return [
            e
            for e in bench.chat(settings, result["run"], {"base": turn, "tuned": turn}, Generation(max_new_tokens=8))
            if e["kind"] == "answer"
        ][-1]

    bench = Workbench(tmp_path)
    events = list(bench.tune(settings))
    result = events[-1]["result"]
    assert result["loss"]["after"] < result["loss"]["before"] and not result["packed"]
    first = ask(bench)
    assert ask(Workbench(tmp_path)) == first and first["tuned"] != first["base"]


def test_prompt_and_answer_have_the_model_s_length_each_for_themselves(chosen, toy, tmp_path):
    settings = chosen(load={"model": str(toy("bart"))})

    def ask(words, tokens):
        turns = [{"instruction": "what " * words, "answer": None}]
        return list(Workbench(tmp_path).chat(settings, None, {"base": turns}, Generation(max_new_tokens=tokens)))

    assert ask(100, 450)[-1]["kind"] == "done"
    with pytest.raises(PlaygroundError) as caught:
        ask(400, 8)
    assert keys(caught) == ["error.context"]
