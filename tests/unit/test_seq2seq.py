"""Encoder-decoder models (T5, mT5, umT5, BART): batches, training, bit widths and answers."""

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
from playground.data.template import Template, Turn
from playground.data.template_choice import choose_template
from playground.engine.workbench import Workbench
from playground.errors import PlaygroundError
from playground.memory import ledger
from playground.model import adapt
from playground.model.adapt import ADAPTER_NAME
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


def small_model(family, **changes):
    """A toy with weights so small that gradients aren't lost in rounding; T5 doesn't scale its attention scores."""
    return make_model(family, **changes, **({"init_std": 0.1} if family == "bart" else {"initializer_factor": 1.0}))


def load(folder, bits=32, dtype="bfloat16"):
    return load_model(folder, Load(model=str(folder), bits=bits, device="cpu", dtype=dtype), lambda *_: None)


def with_adapter(model, dtype=torch.float32, **lora):
    """The model with an adapter that changes its answers."""
    model = adapt.add_lora(model.requires_grad_(False), Lora(r=4, **lora), dtype, 0)
    for name, parameter in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(parameter, std=0.1)
    return model.eval()


def loss_and_gradients(model, batches, policy=None) -> tuple[float, dict[str, torch.Tensor]]:
    """Summed loss and gradients of the trained parameters; with a policy, computed as in the training loop."""
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


def assert_same(actual, expected):
    assert actual[0] == pytest.approx(expected[0], rel=1e-5)
    assert actual[1].keys() == expected[1].keys() and all(g.abs().max() > 0 for g in expected[1].values())
    for name, gradient in expected[1].items():
        torch.testing.assert_close(
            actual[1][name], gradient, rtol=1e-4, atol=1e-5 * max(1.0, gradient.abs().max().item()), msg=name
        )


def with_end_token(tokenizer):
    """Make a tokenizer append the end-of-text token to every text, as T5's does."""
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", tokenizer.eos_token_id)]
    )
    return tokenizer


def test_prompt_and_answer_each_end_with_an_end_token():
    tokenizer = with_end_token(make_tokenizer(False))
    template = choose_template("alpaca", tokenizer, [], encoder=True)
    [example], cut = encode([ROW], template, 512)
    prompt, answer = example.ids[: example.trained_from], example.ids[example.trained_from :]
    assert cut == 0 and tokenizer.decode(prompt) == template.prompt([Turn(ROW.instruction)]) + "</s>"
    assert tokenizer.decode(answer) == "It is blue.</s>" and example.labelled == len(answer)
    decoder_only = Template("alpaca", tokenizer)  # without an encoder, the prompt mustn't end
    turns = [Turn(ROW.instruction)]
    assert tokenizer.decode(decoder_only.ids(turns)) == decoder_only.prompt(turns)


def test_a_truncated_answer_has_no_end_token():
    template = Template("talk", make_tokenizer(False), encoder=True)
    prompt = len(template.ids([Turn(ROW.instruction)]))
    [example], cut = encode([Row(ROW.instruction, "blue " * 200)], template, prompt + 12)
    assert (cut, example.trained_from, len(example.ids)) == (1, prompt, prompt + 12)


def test_training_on_an_encoder_s_prompt_is_an_error():
    with pytest.raises(PlaygroundError) as caught:
        encode([ROW], Template("alpaca", make_tokenizer(False), encoder=True), 512, train_on_prompt=True)
    assert keys(caught) == ["error.prompt_is_read"] and caught.value.text("ja")


def test_collation_pads_encoder_and_decoder_and_shifts_the_targets():
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


def test_micro_batches_keep_the_token_budget_of_encoder_and_decoder():
    batcher = Batcher(Loss(make_model("t5")), ROWS, 2, "cpu")
    assert not batcher.packed and batcher.computed_tokens(ROWS) == 3 * (5 + 6)
    assert [len(part) for part in batcher.micro_batches(ROWS, 3, 20)] == [2, 1] and batcher.computed_tokens(
        ROWS[:2]
    ) == 2 * (4 + 6)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_chunked_loss_equals_the_model_s_own(family):
    model = make_model(family).requires_grad_(False)
    loss_module = Loss(model)
    assert loss_module.chunked and "forward" not in vars(model.lm_head)
    labels = torch.tensor([[70, 71, 1, -100, -100, -100], [40, 41, 42, 43, 44, 1]])
    batch = Batcher(loss_module, ROWS[:2], 2, "cpu").batch(ROWS[:2])
    expected = model(
        input_ids=batch.inputs["input_ids"], attention_mask=batch.inputs["attention_mask"], labels=labels
    ).loss
    assert loss_module(batch).item() == pytest.approx(expected.item() * batch.labelled, rel=1e-5)


def test_a_trained_head_uses_the_model_s_own_loss():
    loss_module = Loss(make_model("t5"))
    assert not loss_module.chunked
    batch = Batcher(loss_module, ROWS, 2, "cpu").batch(ROWS)
    assert loss_module(batch).item() == pytest.approx(
        Loss(make_model("t5").requires_grad_(False))(batch).item(), rel=1e-5
    )


@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_gives_the_gradients_of_its_rows(family):
    model = with_adapter(small_model(family))
    batcher = Batcher(Loss(model), ROWS, 2, "cpu")
    assert_same(
        loss_and_gradients(model, [batcher.batch(ROWS)]),
        loss_and_gradients(model, [batcher.batch([row]) for row in ROWS]),
    )


@pytest.mark.parametrize("checkpointing", ["off", "2", "all", "offload"])
@pytest.mark.parametrize("family", ["t5", "bart"])
def test_patched_and_checkpointed_layers_give_the_same_gradients(family, checkpointing):
    model = with_adapter(small_model(family, **{"dropout_rate" if family == "t5" else "dropout": 0.1})).train()
    batch = [Batcher(Loss(model), ROWS, 2, "cpu").batch(ROWS)]
    assert len(CheckpointedLayers(model).all) == 4
    torch.manual_seed(4)
    expected = loss_and_gradients(model, batch)
    torch.manual_seed(4)
    assert_same(loss_and_gradients(model, batch, CheckpointPolicy(checkpointing)), expected)


@pytest.mark.parametrize(
    "count,layers",
    [
        (0, ["encoder.block.0", "encoder.block.1", "decoder.block.0", "decoder.block.1"]),
        (1, ["decoder.block.1"]),
        (3, ["encoder.block.1", "decoder.block.0", "decoder.block.1"]),
    ],
)
def test_the_last_layers_are_the_decoder_s_before_the_encoder_s(count, layers):
    model = with_adapter(make_model("t5"), layers=count, target_modules="attention")
    adapted = {
        name.split("base_model.model.")[1].split(".layer.")[0]
        for name, p in model.named_parameters()
        if p.requires_grad
    }
    assert sorted(adapted) == sorted(layers)
    assert model.peft_config["default"].task_type == "SEQ_2_SEQ_LM"


@pytest.mark.parametrize("family", ["t5", "mt5"])
@pytest.mark.parametrize("bits,kind", [(32, nn.Linear), (16, nn.Linear), (8, Linear8bitLt), (4, Linear4bit)])
def test_all_linear_layers_but_wo_and_the_head_have_the_bit_width(toy, family, bits, kind):
    loaded = load(toy(family), bits)
    kinds = {name: type(m) for name, m in adapt.linear_layers(loaded.model).items()}
    assert len(kinds) == 2 * 4 + 2 * 8 + 4 * (2 if family == "t5" else 3)
    assert {k for name, k in kinds.items() if not name.endswith("wo")} == {kind} and {
        k for name, k in kinds.items() if name.endswith("wo")
    } == {nn.Linear}
    assert type(loaded.model.lm_head) is nn.Linear


@pytest.mark.parametrize("bits", [16, 4])
def test_wo_and_its_adapter_stay_float32_in_a_float16_model(toy, bits):
    loaded = load(toy("t5"), bits, "float16")
    model = with_adapter(loaded.model, loaded.dtype).train()
    types = {name.split("lora_")[0][-3:-1]: p.dtype for name, p in model.named_parameters() if "lora_" in name}
    assert types.pop("wo") == torch.float32 and set(types.values()) == {torch.float16}
    _, gradients = loss_and_gradients(
        model, [Batcher(Loss(model), ROWS, 2, "cpu").batch(ROWS)], CheckpointPolicy("all")
    )
    assert all(torch.isfinite(g).all() and g.abs().max() > 0 for g in gradients.values())


@pytest.mark.parametrize("family,tied", [("t5", True), ("t5-gated", False)])
@pytest.mark.parametrize("bits", [32, 4])
def test_the_shared_embedding_is_counted_once_and_the_head_only_if_untied(tmp_path, family, tied, bits):
    model = make_model(family)
    if not tied:  # as in T5's later versions, whose files have a separate head
        model.lm_head.weight = nn.Parameter(torch.randn(336, 64))
    model.save_pretrained(tmp_path)
    make_tokenizer(False).save_pretrained(tmp_path)
    loaded = load(tmp_path, bits)
    assert (loaded.model.lm_head.weight is loaded.model.shared.weight) == tied
    size, parts = loaded.dtype.itemsize, ledger.bytes_by_part(loaded.model)
    tables = (1 if tied else 2) * 336 * 64 * size
    layers = {name: m.in_features * m.out_features for name, m in adapt.linear_layers(loaded.model).items()}
    quantized = (
        sum(count for name, count in layers.items() if not name.endswith("wo"))
        // (2 if bits == 4 else 1)
        * (1 if bits == 4 else size)
    )
    others = sum(
        p.nbytes
        for name, p in loaded.model.named_parameters()
        if name.endswith(("layer_norm.weight", "relative_attention_bias.weight"))
    )
    assert (
        parts["weights"]
        == tables + quantized + sum(count for name, count in layers.items() if name.endswith("wo")) * size + others
    )
    assert (parts["quant_constants"] > 0) == (bits == 4)


def answers(model, tokenizer, prompts, generation, stop=None) -> list[dict]:
    return list(generate_answers(model, tokenizer, prompts, [1], generation, stop or threading.Event()))


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_base_and_tuned_answer_in_one_batch_as_they_do_alone(toy, family, beams):
    loaded, base_model = load(toy(family)), load(toy(family))
    model, generation = with_adapter(loaded.model), Generation(max_new_tokens=12, num_beams=beams)
    together = answers(
        model,
        loaded.tokenizer,
        [Prompt(PROMPTS[0]), Prompt(PROMPTS[1]), Prompt(PROMPTS[1], ADAPTER_NAME)],
        generation,
    )[-1]["texts"]
    base = [answers(base_model.model, loaded.tokenizer, [Prompt(ids)], generation)[-1]["texts"][0] for ids in PROMPTS]
    only_tuned = answers(model, loaded.tokenizer, [Prompt(PROMPTS[1], ADAPTER_NAME)], generation)[-1]["texts"][0]
    assert together == [*base, only_tuned] and only_tuned != base[1]


def test_answers_stream_token_by_token_and_stop(toy):
    loaded = load(toy("mt5"))
    model, stop = with_adapter(loaded.model), threading.Event()
    both, events = [Prompt(PROMPTS[0]), Prompt(PROMPTS[0], ADAPTER_NAME)], []
    for event in generate_answers(model, loaded.tokenizer, both, [], Generation(max_new_tokens=300), stop):
        events.append(event)
        if len(events) == 4:
            stop.set()
    assert [e["tokens"] for e in events[:4]] == [1, 2, 3, 4] and 4 <= events[-1]["tokens"] < 300
    for before, after in itertools.pairwise(events):
        assert all(new.startswith(old) for old, new in zip(before["texts"], after["texts"]))


@pytest.mark.slow
@pytest.mark.parametrize("family,bits", [("t5", 32), ("mt5", 16), ("t5", 8), ("mt5", 4)])
def test_training_lowers_the_loss_and_the_saved_adapter_answers_the_same(chosen, toy, tmp_path, family, bits):
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


@pytest.mark.slow
def test_prompt_and_answer_each_have_the_full_context_length(chosen, toy, tmp_path):
    settings = chosen(load={"model": str(toy("bart"))})

    def ask(words, tokens):
        turns = [{"instruction": "what " * words, "answer": None}]
        return list(Workbench(tmp_path).chat(settings, None, {"base": turns}, Generation(max_new_tokens=tokens)))

    assert ask(100, 450)[-1]["kind"] == "done"
    with pytest.raises(PlaygroundError) as caught:
        ask(400, 8)
    assert keys(caught) == ["error.context"]
