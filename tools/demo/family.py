"""What a checkpoint folder of this family holds beside its weights: config.json with every key, and the tokenizer."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
VISIBLE = ("<think>", "</think>")  # part of the text the model writes, so not flagged special
SPECIALS = (END_OF_TEXT, TURN_START, TURN_END, *VISIBLE, "<IMG_CONTEXT>", "<img>", "</img>")

# Keys that other implementations may read, and ours does not; as in published files.
LLM = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "max_position_embeddings_hw": 10_000,
    "rope_scaling": None,
    "sliding_window": None,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "use_cache": False,
    "use_sliding_window": False,
}
VISION = {
    "architectures": ["NEOVisionModel"],
    "attention_dropout": 0.0,
    "downsample_ratio": 0.5,
    "max_position_embeddings_vision": 10_000,
    "model_type": "neo_vision",
    "torch_dtype": "bfloat16",
}
WHOLE = {
    "P_mean": -0.8,
    "P_std": 0.8,
    "base_image_seq_len": 64,
    "base_shift": 0.5,
    "concat_time_token_num": 0,
    "extra_num_layers_post": 0,
    "fm_head_dim": 1536,
    "fm_head_mlp_ratio": 1,
    "max_image_seq_len": 4096,
    "max_shift": 1.15,
    "t_eps": 0.05,
    "tie_word_embeddings": False,
    "time_schedule": "standard",
    "time_shift_type": "exponential",
    "timestep_shift": 1.0,
    "torch_dtype": "bfloat16",
    "use_adaLN": False,
    "use_backbone_lora": 0,
    "use_llm_lora": 0,
}


def byte_level(model: models.BPE) -> Tokenizer:
    """A tokenizer of the family's kind that has no special tokens yet, and does not cut text into words."""
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def add_specials(tokenizer: Tokenizer) -> None:
    for special in SPECIALS:
        tokenizer.add_tokens([AddedToken(special, special=special not in VISIBLE, normalized=False)])


def completed(raw: Mapping[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    """A config.json with every key of published ones: `raw`, what follows from it and the tokenizer, and the rest."""
    ids = {name: tokenizer.token_to_id(name) for name in SPECIALS}
    llm, vision = raw["llm_config"], raw["vision_config"]
    pixels = {name: raw["max_pixels"] for name in ("min_pixels", "max_pixels")}
    llm_ids = {"bos_token_id": ids[END_OF_TEXT], "eos_token_id": ids[TURN_END]}
    sizes = {"vocab_size": tokenizer.get_vocab_size(), "max_window_layers": llm["num_hidden_layers"]}
    return (
        WHOLE
        | {"eos_token_id": ids[TURN_END], "pad_token_id": ids[END_OF_TEXT], "patch_size": vision["patch_size"]}
        | pixels
        | raw
        | {"llm_config": LLM | llm_ids | sizes | llm}
        | {"vision_config": VISION | pixels | {"llm_hidden_size": llm["hidden_size"]} | vision}
    )


def write_beside_weights(folder: Path, raw: Mapping[str, Any], tokenizer: Tokenizer) -> None:
    """config.json, tokenizer.json, tokenizer_config.json, generation_config.json. raw: of `completed`."""
    llm = raw["llm_config"]
    named = {"eos_token": TURN_END, "pad_token": END_OF_TEXT}
    generation = {name: llm[name] for name in ("bos_token_id", "eos_token_id")}
    tokenizer.save(str(folder / "tokenizer.json"))
    for name, values in {
        "config": raw,
        "tokenizer_config": named
        | {
            "clean_up_tokenization_spaces": False,
            "model_max_length": llm["max_position_embeddings"],
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
        "generation_config": generation | {"pad_token_id": raw["pad_token_id"], "do_sample": False},
    }.items():
        (folder / f"{name}.json").write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
