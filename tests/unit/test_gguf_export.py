"""GGUF files that this program writes, read back by transformers: logits, tokenizer, types, and what is refused."""

import pytest
import torch
from gguf import GGMLQuantizationType, GGUFReader
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import Unigram
from tokenizers.pre_tokenizers import Metaspace
from toys import keys
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaTokenizer, PreTrainedTokenizerFast

from playground.errors import PlaygroundError
from playground.export import gguf_file, logits
from playground.export.gguf_families import FAMILIES, family_of
from playground.export.gguf_tokenizer import vocabulary
from playground.export.order import GGUF_BITS
from playground.model.load import load_model
from playground.model.merged_weights import merged_model
from playground.settings import Load

IDS = torch.arange(3, 23)[None]
TEXTS = ["What is the answer? 12 <|start|>user\nこんにちは ", " two  blanks", "a<|end|>b"]
WIDE = {"hidden_size": 256, "intermediate_size": 512}  # rows of whole super-blocks
CONFIGS: dict[str, dict] = {  # where a GGUF file has no place for another value than the family's default
    "qwen3": WIDE | {"head_dim": 128},
    "gemma2": WIDE | {"head_dim": 256, "query_pre_attn_scalar": 256, "final_logit_softcapping": 30.0},
    "gemma3_text": WIDE | {"head_dim": 256, "query_pre_attn_scalar": 256, "num_hidden_layers": 7, "layer_types": None},
    "gpt2": {"n_embd": 256, "n_positions": 1024},
}


def load(folder):
    return load_model(folder, Load(model=str(folder), bits=32, device="cpu"), lambda *_: None)


def exported(folder, loaded, variant):
    steps: list = []
    merged = merged_model(loaded.model, torch.float32)
    file = folder / f"{variant}.gguf"
    gguf_file.write_gguf(merged, loaded.tokenizer, file, variant, "toy", lambda *step: steps.append(step))
    assert steps[-1][0] == steps[-1][1] == sum(t.nbytes for t in gguf_file.gguf_tensors(merged, variant))
    return file


def computed(model):
    with torch.no_grad():
        return model(IDS).logits.float()


def read_back(file):
    return AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32).eval()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_file_is_read_back_with_the_same_logits_and_tokens(toy, tmp_path, family):
    loaded = load(toy(family, chat=True, **CONFIGS.get(family, WIDE)))
    file = exported(tmp_path, loaded, "f16")
    expected = computed(loaded.model)
    assert (computed(read_back(file)) - expected).norm() / expected.norm() < 5e-3
    tokenizer = AutoTokenizer.from_pretrained(tmp_path, gguf_file=file.name)
    for text in TEXTS:
        assert tokenizer(text).input_ids == loaded.tokenizer(text).input_ids
    assert tokenizer.chat_template == loaded.tokenizer.chat_template
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (0, 1, 2)


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3_text", "gpt2"])
def test_llama_cpp_computes_the_same_from_a_file(toy, tmp_path, family):
    """Where it is installed: pip install llama-cpp-python, which compiles llama.cpp."""
    llama_cpp = pytest.importorskip("llama_cpp")
    loaded = load(toy(family, chat=True, **CONFIGS.get(family, WIDE)))
    file = exported(tmp_path, loaded, "f16")
    running = llama_cpp.Llama(str(file), n_ctx=64, logits_all=True, verbose=False)
    running.eval(IDS[0].tolist())
    expected, found = computed(loaded.model)[0], torch.tensor(running.scores[: IDS.shape[1]])
    assert (found - expected).norm() / expected.norm() < 2e-2
    for text in TEXTS:
        assert running.tokenize(text.encode(), add_bos=False, special=True) == loaded.tokenizer(text).input_ids


def test_fewer_bits_make_a_smaller_file_and_a_larger_error(toy, tmp_path):
    loaded = load(toy("llama", chat=True, **WIDE))
    expected, errors, sizes = computed(loaded.model), [], []
    for variant in GGUF_BITS:
        file = exported(tmp_path, loaded, variant)
        errors.append(float((computed(read_back(file)) - expected).norm() / expected.norm()))
        sizes.append(file.stat().st_size)
    assert errors == sorted(errors) and errors[0] < 2e-3 and errors[1] < 0.05
    assert sizes == sorted(sizes, reverse=True)


def test_rows_that_are_no_whole_blocks_get_another_type(toy, tmp_path):
    file = exported(tmp_path, load(toy("llama", chat=True)), "q4_k")
    kinds = {tensor.name: tensor.tensor_type for tensor in GGUFReader(file).tensors}
    assert (
        kinds["blk.0.attn_q.weight"] == GGMLQuantizationType.Q5_0
        and kinds["output.weight"] == GGMLQuantizationType.Q8_0
    )
    assert kinds["blk.0.attn_norm.weight"] == GGMLQuantizationType.F32


@pytest.mark.parametrize(
    "family,changes,key",
    [
        ("gpt_neox", {}, "error.export_family"),
        ("t5", {}, "error.export_family"),
        ("gemma2", {}, "error.export_field"),
        ("gemma3_text", {"query_pre_attn_scalar": 256}, "error.export_field"),
        ("gemma3_text", {"query_pre_attn_scalar": 256, "layer_types": None}, "error.export_field"),
        ("llama", {"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, "error.export_field"),
        ("qwen3", {}, "error.export_field"),
        ("llama", {"attention_bias": True}, "error.export_field"),
        ("llama", {"mlp_bias": True}, "error.export_field"),
    ],
)
def test_what_cannot_be_checked_is_refused(toy, family, changes, key):
    from toys import toy_config

    with pytest.raises(PlaygroundError) as error:
        family_of(toy_config(family, **changes))
    assert keys(error) == [key]


def sentencepiece_like():
    """A tokenizer as Llama 2's: merges of pieces, bytes to fall back on, a word start before the first word."""
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    letters = ["▁", "a", "b", "n", "s", "w", "e", "r"]
    merges = [("a", "n"), ("s", "w"), ("e", "r"), ("an", "sw"), ("answ", "er"), ("▁", "answer"), ("▁", "a")]
    tokens = ["<unk>", "<s>", "</s>", *bytes_, *letters, *("".join(pair) for pair in merges)]
    tokenizer = LlamaTokenizer(vocab={token: id for id, token in enumerate(tokens)}, merges=merges)
    tokenizer.add_tokens([AddedToken("<tool>", special=False, normalized=False)])
    return tokenizer


def test_a_tokenizer_with_bytes_to_fall_back_on_is_read_back(toy, tmp_path):
    loaded = load(toy("llama", **WIDE))
    loaded.tokenizer = sentencepiece_like()
    file = exported(tmp_path, loaded, "q8_0")
    logits.check_tokenizer(file, loaded.tokenizer, ["answer an answer", "swan 犬 bananas", "a <tool> b", "  er"])
    words = vocabulary(loaded.tokenizer, 336)
    assert words.kind == "llama" and words.tokens[-1] == "[PAD335]"
    by_token = dict(zip(words.tokens, words.scores))
    assert by_token["an"] > by_token["sw"] > by_token["▁a"]  # earlier merges first, as llama.cpp chooses


def test_a_unigram_tokenizer_is_refused_by_its_name(toy, tmp_path):
    """llama.cpp's kind for such a vocabulary ("t5") has no bytes to fall back on, and transformers (5.23) reads it
    as T5's: unknown text is the token 2, line breaks and further spaces are lost, a hundred tokens are added."""
    loaded = load(toy("llama", **WIDE))
    unigram = Unigram([("<unk>", 0.0), ("</s>", 0.0), ("▁a", -1.0), ("n", -2.0)], unk_id=0, byte_fallback=False)
    backend = Tokenizer(unigram)
    backend.pre_tokenizer = Metaspace()
    loaded.tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", eos_token="</s>")
    with pytest.raises(PlaygroundError, match="Unigram") as error:
        exported(tmp_path, loaded, "q8_0")
    assert keys(error) == ["error.export_tokenizer"] and "Export the merged model instead" in str(error.value)


def test_a_tokenizer_that_would_read_differently_is_an_error(toy, tmp_path):
    loaded = load(toy("llama", **WIDE))
    file = exported(tmp_path, loaded, "q8_0")
    with pytest.raises(PlaygroundError) as error:
        logits.check_tokenizer(file, sentencepiece_like(), ["answer"])
    assert keys(error) == ["error.export_tokenizer_differs"]


def test_an_untied_gemma_has_no_place_in_a_file(toy):
    merged = merged_model(load(toy("gemma2", chat=True, **CONFIGS["gemma2"])).model, torch.float32)
    untied = type(merged)(merged.base, merged.tensors, True)
    with pytest.raises(PlaygroundError) as error:
        gguf_file.gguf_tensors(untied, "f16")
    assert keys(error) == ["error.export_untied"]
