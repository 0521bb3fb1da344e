"""Checkpoints of random geometries with more layers than the tiny ones have, so that something can stream."""

import json
import random
from pathlib import Path

import torch
from safetensors.torch import save_file

from sensenova_core import Conditioning, Engine
from sensenova_core.checkpoint import checkpoint_name
from sensenova_core.model import SenseNovaU1
from sensenova_core.model.config import ModelConfig
from sensenova_core.settings import CONDITION, UNCONDITIONAL
from tools.tiny_checkpoint import CONFIG, byte_tokenizer, random_weights

EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "gen_num_experts": 3}
TOKENIZER = byte_tokenizer()


def geometry(seed: int) -> dict:
    """A config.json: 4 to 12 layers, dense or mixed, either head, any width of the vocabulary."""
    draw = random.Random(seed)
    heads = draw.choice([2, 4])
    llm = CONFIG["llm_config"] | {
        "num_hidden_layers": draw.randint(4, 12),
        "hidden_size": draw.choice([32, 48, 64]),
        "intermediate_size": draw.choice([64, 160, 512]),
        "num_attention_heads": heads,
        "num_key_value_heads": draw.choice([1, heads]),
        "head_dim": draw.choice([8, 16]),
        "vocab_size": TOKENIZER.get_vocab_size() + draw.choice([0, 3, 500, 1500]),
    }
    if draw.random() < 0.3:
        llm |= {"model_type": "qwen3_moe", **EXPERTS, "mlp_only_layers": draw.choice([[], [1]])}
    return CONFIG | {"llm_config": llm, "use_pixel_head": draw.random() < 0.5}


def scaled_down(seed: int) -> dict:
    """A config.json with the proportions of the published models, a 64th as wide, so that needs are in proportion too.

    An image token covers 4 x 4 pixels.
    """
    draw = random.Random(seed)
    llm = CONFIG["llm_config"] | {
        "num_hidden_layers": draw.randint(3, 5),
        "hidden_size": 64,
        "intermediate_size": draw.choice([128, 192]),
        "num_attention_heads": 4,
        "num_key_value_heads": draw.choice([1, 2]),
        "head_dim": 16,
        "vocab_size": TOKENIZER.get_vocab_size() + draw.choice([0, 1500]),
    }
    if draw.random() < 0.25:
        llm |= {"model_type": "qwen3_moe", **EXPERTS, "moe_intermediate_size": 24}
    return CONFIG | {"llm_config": llm, "vision_config": CONFIG["vision_config"] | {"hidden_size": 16, "patch_size": 2}}


def write_checkpoint(folder: Path, config: dict, dtype=torch.float32, norms=torch.float32, shards: int = 1) -> Path:
    """Random weights of a geometry; norms stored in a type of their own."""
    folder.mkdir(parents=True, exist_ok=True)
    model = SenseNovaU1.on_meta(ModelConfig.from_dict(config).with_head_width(64))
    names = {name: checkpoint_name(name) for name, _ in model.named_parameters()}
    tensors = {
        names[name]: value.to(norms if "norm" in name else dtype) for name, value in random_weights(model).items()
    }
    for shard in range(shards):
        inside = {name: tensors[name] for name in sorted(tensors)[shard::shards]}
        file = "model.safetensors" if shards == 1 else f"model-{shard + 1:05}-of-{shards:05}.safetensors"
        save_aligned(inside, folder / file)
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    TOKENIZER.save(str(folder / "tokenizer.json"))
    return folder


def save_aligned(tensors: dict[str, torch.Tensor], file: Path) -> None:
    """Tensors begin at multiples of 16 bytes, as far as their sizes go: see `tests.memory.conftest.ROUNDS`."""
    for padding in range(0, 64, 8):
        save_file(tensors, file, metadata={"format": "pt", "padding": "x" * padding})
        with open(file, "rb") as stream:
            if (8 + int.from_bytes(stream.read(8), "little")) % 64 == 0:
                return
    raise AssertionError("the header's length does not follow its content")


def short(engine: Engine, text: str = "") -> Conditioning:
    """A prompt without the page of instructions before it: as reading goes, next to nothing."""
    empty = engine.prompts.unconditional()
    asked = empty.followed_by(engine.tokenizer.encode([text])) if text else empty
    return Conditioning(engine.prompts.vocabulary, text, (), {CONDITION: asked, UNCONDITIONAL: empty})
