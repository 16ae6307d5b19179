"""Models that also see or hear: their language model alone is loaded, planned, trained and answers."""

import json

import pytest
import torch
from family_sweep import families, small_config
from toys import keys, make_tokenizer
from transformers import AutoModelForCausalLM

from playground.engine.workbench import Workbench
from playground.errors import PlaygroundError
from playground.memory import ledger
from playground.model import adapt
from playground.model.language_part import check_text_alone, language_part, max_context_length, model_class
from playground.model.load import load_model, model_from_config
from playground.planning import forecast
from playground.predict.meta_model import config_of
from playground.settings import Load

# with the classes that hold their weights whole, towers included
WHOLE = {
    "gemma3": "Gemma3ForConditionalGeneration",
    "llava": "LlavaForConditionalGeneration",
    "llava_next": "LlavaNextForConditionalGeneration",
    "mistral3": "Mistral3ForConditionalGeneration",
    "qwen2_vl": "Qwen2VLForConditionalGeneration",
    "qwen2_5_vl": "Qwen2_5_VLForConditionalGeneration",
    "gemma3n": "Gemma3nForConditionalGeneration",
    "llama4": "Llama4ForConditionalGeneration",
    "qwen3_5": "Qwen3_5ForConditionalGeneration",
    "phi4_multimodal": "Phi4MultimodalForCausalLM",
}
NEEDS_ANOTHER_PACKAGE = {"gemma3n"}  # timm, to build the whole


def whole_model(kind):
    import transformers

    torch.manual_seed(0)
    return getattr(transformers, WHOLE[kind])(small_config(kind)).eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with a whole multimodal model, as it is published, one for each family."""
    made = {}

    def make(kind):
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp(kind) / kind
            model = whole_model(kind)
            model.generation_config.pad_token_id, model.generation_config.eos_token_id = 2, 1
            model.save_pretrained(made[kind])
            make_tokenizer(False).save_pretrained(made[kind])
        return made[kind]

    return make


def load(folder, bits=32):
    return load_model(folder, Load(model=str(folder), bits=bits, device="cpu"), lambda *done: None)


@pytest.mark.parametrize("kind", sorted(set(WHOLE) - NEEDS_ANOTHER_PACKAGE))
def test_the_language_part_answers_as_the_whole_and_takes_less_memory(folder, kind):
    whole, loaded = whole_model(kind), load(folder(kind))
    ids = torch.arange(3, 40)[None]
    with torch.no_grad():
        assert torch.equal(loaded.model(input_ids=ids).logits, whole(input_ids=ids).logits)
    size = sum(parameter.numel() for parameter in whole.parameters())
    assert sum(parameter.numel() for parameter in loaded.model.parameters()) < size
    [note] = loaded.notes
    assert note["key"] == "note.language_part" and note["values"]["path"] == kind
    assert not any(name.endswith("embed_tokens") or "language" in name for name in note["values"]["names"])


@pytest.mark.parametrize("kind", ["llava", "qwen2_vl", "gemma3"])
def test_a_multimodal_model_is_planned_trained_and_answers(folder, kind, chosen, lesson, tmp_path):
    values = {"load": {"model": str(folder(kind)), "bits": 4, "device": "cpu"}, "data": {"source": str(lesson)}}
    settings = chosen(**values, train={"max_steps": 2, "batch_size": 4, "sample_every": "off"})
    events = list(Workbench(tmp_path / "runs").tune(settings))
    assert events[-1]["kind"] == "done", events[-1]
    assert events[-1]["result"]["adapter"]
    plan = forecast.forecast(settings, 64, 8 * 2**30)
    assert plan["parameters"] == sum(p.numel() for p in load(folder(kind)).model.parameters())


def test_lora_adapts_the_language_model_alone(folder):
    model = load(folder("llava")).model
    name, _ = language_part(model)
    layers = adapt.linear_layers(model)
    assert layers and all(layer.startswith(f"{name}.") for layer in layers)
    assert any(isinstance(module, torch.nn.Linear) for path, module in model.named_modules() if "projector" in path)


def test_an_image_tower_of_another_package_is_never_built(tmp_path):
    model = model_from_config(small_config("gemma3n"), torch.float32)  # whose tower needs the package timm
    assert "model.vision_tower" in model.left_out
    assert "tower" not in str(dict(ledger.tensors_by_part(model)).keys())


@pytest.mark.parametrize("kind", ["blip-2", "whisper", "pix2struct"])
def test_a_model_that_needs_images_or_sound_is_refused(kind):
    from transformers import CONFIG_MAPPING

    with pytest.raises(PlaygroundError) as caught:
        model_class(CONFIG_MAPPING[kind]())
    assert keys(caught) == ["error.not_language_model"] and kind in caught.value.text("en")


def encoders():
    """Model types with a causal and a masked language model that aren't encoder-decoders."""
    from transformers.models.auto import modeling_auto

    both = set(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES) & set(modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES)
    return sorted(both - set(modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES))


def later_token_changes_earlier_logits(model):
    for parameter in model.parameters():
        if parameter.ndim > 1:  # whose first values may be too small to tell
            parameter.data.normal_(0, 0.1)
    one = torch.arange(3, 15)[None]
    other = torch.cat((one[:, :-1], torch.tensor([[200]])), 1)
    with torch.no_grad():
        one, other = (model(input_ids=ids, use_cache=False).logits for ids in (one, other))
    return not torch.allclose(one[:, :-1], other[:, :-1], atol=1e-4)


def test_an_encoder_is_refused_unless_its_config_makes_it_a_decoder():
    from transformers import CONFIG_MAPPING

    kinds = [*encoders(), "bert-generation"]
    assert {"bert", "roberta", "electra", "xlm"} < set(kinds) and len(kinds) > 15
    for kind in kinds:
        with pytest.raises(PlaygroundError) as caught:
            model_class(CONFIG_MAPPING[kind]())
        assert keys(caught) == ["error.not_language_model"] and kind in caught.value.text("en")
        model_class(small_config(kind))  # is_decoder, or XLM's causal


@pytest.mark.parametrize("kind", ["bert", "xlm", "xlnet"])
def test_what_is_refused_sees_the_token_that_it_is_to_predict(kind):
    config = small_config(kind)
    assert not later_token_changes_earlier_logits(model_from_config(config, torch.float32).eval())
    for name, value in {"is_decoder": False, "causal": False, "attn_type": "bi"}.items():
        if hasattr(config, name):
            setattr(config, name, value)
    assert later_token_changes_earlier_logits(AutoModelForCausalLM.from_config(config).eval())
    with pytest.raises(PlaygroundError):
        model_from_config(config, torch.float32)


@pytest.mark.parametrize("kind", ["gemma3_text", "gemma4_text", "llama"])
def test_a_decoder_that_looks_both_ways_is_refused(kind):
    """EmbeddingGemma's config says so."""
    config = small_config(kind)
    model_class(config)
    if kind == "llama":
        config.is_causal = False
    else:
        config.use_bidirectional_attention = "all" if kind == "gemma4_text" else True
    assert later_token_changes_earlier_logits(AutoModelForCausalLM.from_config(config).eval())
    with pytest.raises(PlaygroundError) as caught:
        model_class(config)
    assert keys(caught) == ["error.not_language_model"]


def test_a_saved_masked_language_model_is_refused_when_it_is_loaded_and_planned(tmp_path):
    from transformers import BertForMaskedLM

    config = small_config("bert")
    config.is_decoder = False
    BertForMaskedLM(config).save_pretrained(tmp_path / "model")
    make_tokenizer(False).save_pretrained(tmp_path / "model")
    for attempt in (load, lambda folder: model_from_config(config_of(str(folder)), torch.float32)):
        with pytest.raises(PlaygroundError) as caught:
            attempt(tmp_path / "model")
        assert keys(caught) == ["error.not_language_model"]


# Families whose small config the library itself can't build or run alone (transformers 5.23).
WITHOUT_TOY = {
    *("cohere_compass_text", "dbrx", "gemma4_assistant", "gemma4_unified_assistant"),
    *("musicgen", "musicgen_melody", "qwen4_exp_text"),
}


@pytest.mark.exhaustive
@pytest.mark.parametrize("kind", sorted({kind for kind, form in families().items() if form == "causal"} - WITHOUT_TOY))
def test_no_accepted_family_sees_later_tokens(kind):
    try:
        model = model_from_config(small_config(kind), torch.float32).eval()
        check_text_alone(model)
    except PlaygroundError:
        return  # refused
    assert not later_token_changes_earlier_logits(model)


def test_a_model_whose_code_asks_for_an_image_is_refused_when_it_is_loaded(tmp_path):
    config = small_config("kosmos-2")
    model_from_config(config, torch.float32).save_pretrained(tmp_path / "model")
    make_tokenizer(False).save_pretrained(tmp_path / "model")
    with pytest.raises(PlaygroundError) as caught:
        load(tmp_path / "model")
    assert keys(caught) == ["error.not_language_model"]


def test_the_longest_text_is_the_language_models():
    assert max_context_length(small_config("llava")) == 512
    assert max_context_length(small_config("xlnet")) is None  # -1 in its config


def test_a_config_that_names_its_language_models_family_alone_is_read(tmp_path):
    """LLaVA's says "llama" and leaves its sizes to the family's defaults; a flat one without sizes is refused."""
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava", "text_config": {"model_type": "llama"}}))
    assert config_of(str(tmp_path / "config.json")).get_text_config().hidden_size == 4096
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(PlaygroundError) as caught:
        config_of(str(tmp_path / "config.json"))
    assert keys(caught) == ["error.config_sizes"]
