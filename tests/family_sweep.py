"""Try every causal and seq2seq family of the installed transformers as a toy: plan, load, train, save, chat.

    python tests/family_sweep.py --save FILE [--only llama gpt2] [--resume]
    python tests/family_sweep.py --save FILE --merge FILE FILE ...

A toy is the family's default config with small sizes and random weights. Each step works, is refused in a sentence
(PlaygroundError), or crashes with anything else; "no toy" where transformers itself can't build or run the small one.
"""

import argparse
import copy
import json
import shutil
import signal
import sys
import tempfile
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

PROJECT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(PROJECT), str(PROJECT / "tests")]

SECONDS = 300  # for all of a family
MAX_PARAMETERS = 50_000_000
VOCABULARY = 336
SIZES: dict[str, Any] = {
    **dict.fromkeys(
        ["hidden_size", "d_model", "n_embd", "n_embed", "dim", "emb_dim", "embedding_size", "word_embed_proj_dim"], 64
    ),
    **dict.fromkeys(["num_hidden_layers", "n_layer", "n_layers", "num_layers", "encoder_layers", "decoder_layers"], 2),
    **dict.fromkeys(["num_decoder_layers", "num_encoder_layers", "depth"], 2),
    **dict.fromkeys(["num_attention_heads", "n_head", "n_heads", "num_heads", "encoder_attention_heads"], 4),
    **dict.fromkeys(["decoder_attention_heads", "num_encoder_attention_heads", "num_decoder_attention_heads"], 4),
    **dict.fromkeys(["num_key_value_heads", "num_kv_heads", "n_head_kv"], 2),
    **dict.fromkeys(["intermediate_size", "ffn_dim", "d_ff", "n_inner", "encoder_ffn_dim", "decoder_ffn_dim"], 128),
    **dict.fromkeys(["moe_intermediate_size", "shared_expert_intermediate_size", "expert_dim", "ffn_hidden_size"], 64),
    **dict.fromkeys(["head_dim", "d_kv", "v_head_dim", "qk_nope_head_dim", "attention_head_dim"], 16),
    **dict.fromkeys(["qk_rope_head_dim", "kv_lora_rank", "rotary_dim", "global_head_dim", "index_head_dim"], 16),
    **dict.fromkeys(["q_lora_rank", "qk_head_dim"], 32),
    **dict.fromkeys(["num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts", "num_moe_experts"], 4),
    **dict.fromkeys(["num_experts_per_tok", "moe_topk", "moe_k", "num_experts_per_token", "top_k_experts"], 2),
    **dict.fromkeys(["n_group", "topk_group", "first_k_dense_replace", "n_shared_experts"], 1),
    **dict.fromkeys(["state_size", "mamba_d_state", "time_step_rank", "mamba_dt_rank"], 16),
    **dict.fromkeys(["mamba_n_heads", "num_mamba_heads"], 8),
    **dict.fromkeys(["max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length", "seq_length"], 512),
    **dict.fromkeys(["sliding_window", "attention_window_size", "window_size"], 256),
    "vocab_size": VOCABULARY,
    "pad_token_id": 2,
    "bos_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 2,
    "hidden_size_per_layer_input": 16,
    "vocab_size_per_layer_input": VOCABULARY,
}
THREE_AXES = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [4, 2, 2]}  # of images
HEADS_OF_16 = {"head_dim": 16}
ENCODERS = (
    "bert", "bert-generation", "big_bird", "camembert", "data2vec-text", "electra", "ernie", "megatron-bert", "rembert",
    "roberta", "roberta-prelayernorm", "roc_bert", "roformer", "xlm-roberta", "xlm-roberta-xl",
)  # fmt: skip
# What a family's toy needs besides, where its parts must agree with each other.
OVERRIDES: dict[str, dict[str, Any]] = {
    "bamba": {"attn_layer_indices": [1]},
    "gemma3n_text": {"num_kv_shared_layers": 0},
    "gpt_neo": {"attention_types": [[["global", "local"], 1]]},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "dots1": {"n_routed_experts": 4, "n_shared_experts": 1, "num_experts_per_tok": 2, "n_group": 1, "topk_group": 1},
    "granitemoehybrid": {"layer_types": ["mamba", "attention"]},
    "hunyuan_v1_dense": HEADS_OF_16,
    "hunyuan_v1_moe": HEADS_OF_16,
    "hunyuan_vl_text": HEADS_OF_16,
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1},
    "kosmos_2_text_model": {"layers": 2, "embed_dim": 64, "attention_heads": 4, "ffn_dim": 128},
    "lfm2_moe": {"layer_types": ["conv", "full_attention"]},
    "mamba2": {"num_heads": 8},
    "ministral": HEADS_OF_16,
    "mistral4": {"num_key_value_heads": 4, "head_dim": 32},
    "nemotron": {"num_key_value_heads": 2},
    "paddleocr_vl_text": {"rope_parameters": THREE_AXES},
    "prophetnet": {"num_encoder_layers": 2, "num_decoder_layers": 2},
    "recurrent_gemma": {"num_hidden_layers": 3},
    **{kind: {"vision_start_token_id": 300} for kind in ("qwen2_5_omni_thinker", "qwen3_omni_moe_thinker")},
    # Encoders that are language models where their config says that they are decoders.
    **{kind: {"is_decoder": True} for kind in ENCODERS},
    "xlm": {"causal": True},
    "xlnet": {"attn_type": "uni"},
    "reformer": {"is_decoder": True, "axial_pos_embds_dim": [16, 48], "axial_pos_shape": [16, 32]},
    "step3p5": {"sliding_window": 256},
    "xmod": {"default_language": "en_XX", "is_decoder": True},
    **{kind: {"rope_parameters": THREE_AXES} for kind in ("qwen2_vl_text", "qwen2_5_vl_text", "qwen2_5_omni_text")},
    **{kind: {"rope_parameters": THREE_AXES} for kind in ("glm4v_text", "glm_ocr_text")},
    "glm4v_moe_text": {"rope_parameters": THREE_AXES | {"mrope_section": [2, 1, 1], "partial_rotary_factor": 0.5}},
    "zaya": {"num_experts_per_tok": 1},
}


class TooLong(Exception):
    """A family took longer than SECONDS."""


def families() -> dict[str, str]:
    """{model type: "causal", "seq2seq" or "multimodal"} of the installed transformers."""
    from transformers.models.auto import modeling_auto

    multimodal = dict.fromkeys(modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES, "multimodal")
    seq2seq = dict.fromkeys(modeling_auto.MODEL_FOR_SEQ_TO_SEQ_CAUSAL_LM_MAPPING_NAMES, "seq2seq")
    return dict.fromkeys(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES, "causal") | multimodal | seq2seq


def small_config(kind: str) -> Any:
    """A family's default config with the sizes of a toy, in its parts too."""
    from transformers import CONFIG_MAPPING

    return _shrunk(CONFIG_MAPPING[kind])


def _shrunk(config_class: Any) -> Any:
    from transformers import PreTrainedConfig

    default = config_class()
    values = {name: value for name, value in SIZES.items() if _can_be_set(default, name, value)}
    if "kv_lora_rank" in values and "num_key_value_heads" in values:
        values["num_key_value_heads"] = values["num_attention_heads"]  # latent attention has a key for every query
    for name, value in vars(default).items():
        if isinstance(value, PreTrainedConfig):
            values[name] = _shrunk(type(value)).to_dict()
        elif name.endswith(("_token_id", "_token_index")) and isinstance(value, int) and value >= VOCABULARY:
            values[name] = VOCABULARY - 1 - len(name) % 40
        elif name in ("layer_types", "layers_block_type") and value:
            values[name] = values["layer_types"] = _one_of_each(value)
            values["num_hidden_layers"] = len(values[name])
        elif isinstance(value, dict) and "mrope_section" in value:
            values[name] = value | {"mrope_section": _sections(value, default)}
    return config_class(**values | OVERRIDES.get(default.model_type, {}))


def _can_be_set(config: Any, name: str, value: Any) -> bool:
    """Whether a config has such a setting, and takes a value for it."""
    with suppress(Exception):
        if getattr(config, name, None) is not None:
            setattr(copy.deepcopy(config), name, value)
            return True
    return False


def _one_of_each(kinds: list[str]) -> list[str]:
    """Kinds of layers: each once, the first again at the end, at least two layers."""
    each = list(dict.fromkeys(kinds))
    return [*each, each[-1]] if len(each) < 3 else each


def _sections(rope: dict, config: Any) -> list[int]:
    """How a toy's rotary dimensions are shared by the three axes of images."""
    share = rope.get("partial_rotary_factor") or getattr(config, "partial_rotary_factor", None) or 1
    half = int(SIZES["head_dim"] * share) // 2
    return [half - 2 * (half // 3), half // 3, half // 3]


def try_family(kind: str, folder: Path) -> dict[str, str]:
    """{step: "works", "refused: sentence" or "crash: error"} of a family; only "toy" where there is no toy."""
    import torch
    import toys
    from transformers.models.auto import modeling_auto

    from playground.errors import PlaygroundError
    from playground.model.language_part import model_class
    from playground.model.load import model_from_config

    torch.manual_seed(0)
    multimodal = modeling_auto.MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES
    try:
        config = small_config(kind)
        with torch.device("meta"):
            size = sum(
                tensor.numel() for tensor in model_from_config(copy.deepcopy(config), torch.float32).parameters()
            )
        if size > MAX_PARAMETERS:
            return {"toy": f"no toy: {size:,} parameters"}
        model = model_from_config(config, torch.float32).eval()
        model.generation_config.pad_token_id, model.generation_config.eos_token_id = 2, 1
        model.save_pretrained(folder / "model")
        toys.make_tokenizer(False).save_pretrained(folder / "model")
        if kind not in multimodal:  # where what text alone can't do is refused when it is loaded
            names = ("input_ids", "decoder_input_ids") if config.is_encoder_decoder else ("input_ids",)
            with torch.no_grad():
                model(**dict.fromkeys(names, torch.arange(3, 40)[None]))
        model_class(config).from_pretrained(folder / "model")
    except PlaygroundError as error:
        return {"toy": f"refused: {error.text('en').splitlines()[0][:200]}"}
    except Exception as error:
        return {"toy": f"no toy: {_line(error)}"}
    del model
    steps = {"toy": "works"}
    for name, step in _steps(folder).items():
        steps[name] = _outcome(step)
    return steps


def _steps(folder: Path) -> dict[str, Callable[[], Any]]:
    from playground.engine.workbench import Workbench
    from playground.planning import forecast
    from playground.settings import Generation, Settings

    rows = folder / "rows.jsonl"
    rows.write_text("".join(json.dumps({"question": f"q {n}?", "answer": f"a {n}."}) + "\n" for n in range(12)))
    runs: dict[str, str] = {}

    def settings(bits: int) -> Settings:
        return Settings().with_values(
            {
                "load": {"model": str(folder / "model"), "bits": bits, "device": "cpu"},
                "data": {"source": str(rows)},
                "train": {"max_steps": 2, "batch_size": 4, "max_seq_length": 256, "lr": 1e-2, "sample_every": "off"},
                "lora": {"target_modules": "all-linear"},
            }
        )

    def plan() -> None:
        forecast.forecast(settings(4), 64, 8 * 2**30)

    def tune(bits: int) -> None:
        events = list(Workbench(folder / "runs").tune(settings(bits)))
        runs[str(bits)] = events[-1]["result"]["run"]

    def chat(bits: int) -> None:
        turn = [{"instruction": "q 3?", "answer": None}]
        events = Workbench(folder / "runs").chat(
            settings(bits), runs.get(str(bits)), {"base": turn, "tuned": turn}, Generation(max_new_tokens=4)
        )
        last = list(events)[-1]
        assert last["kind"] == "done", last

    return {
        "plan": plan,
        "tune 16": lambda: tune(16),
        "chat 16": lambda: chat(16),
        "tune 4": lambda: tune(4),
        "chat 4": lambda: chat(4),
    }


def _outcome(step: Callable[[], Any]) -> str:
    from playground.errors import PlaygroundError

    try:
        step()
    except PlaygroundError as error:
        if error.problems and error.problems[0].key.startswith("error.unexpected"):
            return f"crash: {error.text('en').splitlines()[0][:200]}"
        return f"refused: {error.text('en').splitlines()[0][:200]}"
    except TooLong:
        raise
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)
        own = next(
            (f"{f.filename.split('/')[-1]}:{f.lineno}" for f in reversed(where) if "playground/" in f.filename), ""
        )
        last = where[-1]
        return f"crash: {_line(error)} [{own}; {last.filename.split('/')[-1]}:{last.lineno}]"
    return "works"


def _line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"


@contextmanager
def time_limit() -> Iterator[None]:
    def stop(*_: Any) -> None:
        raise TooLong

    signal.signal(signal.SIGALRM, stop)
    signal.alarm(SECONDS)
    try:
        yield
    finally:
        signal.alarm(0)


def save(path: Path, found: dict[str, dict[str, str]]) -> None:
    """Write what was found, with the versions that it was found with."""
    versions = {name: version(name) for name in ("torch", "transformers", "peft", "bitsandbytes")}
    path.write_text(json.dumps({"versions": versions, "families": dict(sorted(found.items()))}, indent=1) + "\n")


def main() -> None:
    flags = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    flags.add_argument("--save", type=Path, required=True)
    flags.add_argument("--only", nargs="*")
    flags.add_argument("--resume", action="store_true", help="keep what the file has, and try the others")
    flags.add_argument("--merge", type=Path, nargs="*", help="join these files into one instead")
    chosen = flags.parse_args()
    warnings.simplefilter("ignore")
    files = chosen.merge or ([chosen.save] if chosen.resume and chosen.save.is_file() else [])
    found = {kind: steps for file in files for kind, steps in json.loads(file.read_text())["families"].items()}
    for kind in [] if chosen.merge else chosen.only or families():
        if kind in found:
            continue
        found[kind] = {"toy": "ended the process"}  # unless it is replaced below
        save(chosen.save, found)
        folder = Path(tempfile.mkdtemp())
        try:
            with time_limit():
                found[kind] = try_family(kind, folder)
        except TooLong:
            found[kind] = {"toy": f"took more than {SECONDS} s"}
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        save(chosen.save, found)
        print(kind, {name: text for name, text in found[kind].items() if text != "works"} or "works", flush=True)
    save(chosen.save, found)


if __name__ == "__main__":
    main()
