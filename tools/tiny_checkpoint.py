"""Write a tiny checkpoint of this model family: random weights from a fixed seed, and a tokenizer of single bytes.

    python -m tools.tiny_checkpoint FOLDER [--layers N]

An ordinary Hugging Face folder, a thousandth of the real size and good for trying things out: it draws noise.
"""

import argparse
import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, models, pre_tokenizers

from sensenova_core.checkpoint import checkpoint_name
from sensenova_core.model import SenseNovaU1
from sensenova_core.model.config import ModelConfig
from tools.demo.family import SPECIALS, add_specials, byte_level

SEED = 1
HEAD_WIDTH = 128
LAYERS = 3

CONFIG = {
    "architectures": ["NEOChatModel"],
    "model_type": "neo_chat",
    "template": "neo1_0",
    "downsample_ratio": 0.5,
    "use_pixel_head": False,
    "fm_head_layers": 2,
    "noise_scale_mode": "resolution",
    "noise_scale": 1.0,
    "noise_scale_base_image_seq_len": 64,
    "noise_scale_max_value": 8.0,
    "add_noise_scale_embedding": True,
    "llm_config": {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 16,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 5e6,
        "rope_theta_hw": 1e4,
        "max_position_embeddings": 8192,
        "vocab_size": 256 + len(SPECIALS),
    },
    "vision_config": {"hidden_size": 32, "num_channels": 3, "patch_size": 16, "rope_theta_vision": 1e4},
}


def byte_tokenizer() -> Tokenizer:
    """One token a byte, and the family's special tokens."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = byte_level(models.BPE(vocab={letter: index for index, letter in enumerate(alphabet)}, merges=[]))
    add_specials(tokenizer)
    return tokenizer


def random_weights(model: SenseNovaU1) -> dict[str, torch.Tensor]:
    """Normal weights that keep the variance of what passes through; norms are one, biases zero."""
    generator = torch.Generator().manual_seed(SEED)
    weights = {}
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            weights[name] = (torch.ones if "norm" in name else torch.zeros)(parameter.shape)
        else:
            fan_in = math.prod(parameter.shape[1:])
            weights[name] = torch.randn(parameter.shape, generator=generator) / math.sqrt(fan_in)
    return weights


def write(folder: Path, layers: int = LAYERS) -> None:
    config = CONFIG | {"llm_config": CONFIG["llm_config"] | {"num_hidden_layers": layers}}
    folder.mkdir(parents=True, exist_ok=True)
    model = SenseNovaU1.on_meta(ModelConfig.from_dict(config).with_head_width(HEAD_WIDTH))
    tensors = {checkpoint_name(name): weight.bfloat16() for name, weight in random_weights(model).items()}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    byte_tokenizer().save(str(folder / "tokenizer.json"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--layers", type=int, default=LAYERS, help=f"of each expert (default: {LAYERS})")
    options = parser.parse_args()
    if options.layers < 1:
        parser.error(f"--layers is {options.layers}; give a whole number from 1")
    write(options.folder, options.layers)
