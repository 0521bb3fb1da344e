"""Write a checkpoint folder of a named geometry: random weights of real shapes, in real bytes.

    python benchmarks/checkpoint.py FOLDER --geometry u1-8b                # 35 GB, as the published files
    python benchmarks/checkpoint.py FOLDER --geometry u1-8b --layers 4     # 5.6 GB

Safetensors shards in bfloat16 with an index, config.json and a tokenizer. Nothing larger than a shard's header and one
block of random numbers is held in memory, and nothing is sparse, so reading the files costs what real ones cost.
"""

import argparse
import json
import shutil
from collections.abc import Iterator
from functools import cache
from math import prod
from pathlib import Path

import torch
from geometry import GEOMETRIES, model_config
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from sensenova_core.checkpoint import checkpoint_name
from sensenova_core.checkpoint.files import INDEX_NAME
from sensenova_core.model import SenseNovaU1
from sensenova_core.model.config import ModelConfig
from sensenova_core.reading.prompt import system_message
from sensenova_core.reading.tokenizer import SPECIALS, THINK_END, THINK_START

GIB = 2**30
SHARD_BYTES = 5 * 10**9  # as published checkpoints have
SPARE_BYTES = GIB  # of the disk, left to everybody else
BLOCK = 2**24  # random numbers, written over and over
STRIDE = 1_000_003  # numbers by which a tensor's beginning in the block differs from the one's before

Shapes = dict[str, tuple[int, ...]]  # by published name


def raw_config(config: ModelConfig) -> dict:
    """The content of the config.json that reads as `config`."""
    decoder, vision, noise = config.decoder, config.vision, config.noise
    return {
        "architectures": ["NEOChatModel"],
        "model_type": "neo_chat",
        "template": "neo1_0",
        "downsample_ratio": 0.5,
        "use_pixel_head": config.pixel_head,
        "fm_head_layers": 2,
        "noise_scale_mode": noise.mode,
        "noise_scale": noise.scale,
        "noise_scale_base_image_seq_len": noise.base_tokens,
        "noise_scale_max_value": noise.max_scale,
        "add_noise_scale_embedding": noise.embedded,
        "llm_config": {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            "hidden_size": decoder.hidden_size,
            "intermediate_size": decoder.intermediate_size,
            "num_hidden_layers": decoder.num_layers,
            "num_attention_heads": decoder.num_heads,
            "num_key_value_heads": decoder.num_kv_heads,
            "head_dim": decoder.head_dim,
            "hidden_act": "silu",
            "rms_norm_eps": decoder.rms_norm_eps,
            "rope_theta": decoder.rope_theta,
            "rope_theta_hw": decoder.rope_theta_hw,
            "max_position_embeddings": decoder.max_positions,
            "vocab_size": decoder.vocab_size,
        },
        "vision_config": {
            "hidden_size": vision.hidden_size,
            "num_channels": vision.channels,
            "patch_size": vision.patch_size,
            "rope_theta_vision": vision.rope_theta,
        },
    }


def word_tokenizer(vocabulary: int) -> Tokenizer:
    """About a token a word for the family's own system messages, so that prompts are as long as with the real one."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=vocabulary - len(SPECIALS), initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator([system_message("GEN"), system_message("INTERLEAVE")], trainer)
    for special in SPECIALS:
        tokenizer.add_tokens([AddedToken(special, special=special not in (THINK_START, THINK_END), normalized=False)])
    return tokenizer


def stored_shapes(config: ModelConfig) -> Shapes:
    """Every tensor of a checkpoint, in the order it is written."""
    return {checkpoint_name(name): tuple(value.shape) for name, value in SenseNovaU1.on_meta(config).named_parameters()}


def stored_bytes(shapes: Shapes) -> int:
    return sum(2 * prod(shape) for shape in shapes.values())


def write_checkpoint(folder: Path, config: ModelConfig, shard_bytes: int = SHARD_BYTES) -> int:
    """Write all of it; returns the bytes of its tensors. Exits with a message where the disk lacks room."""
    folder.mkdir(parents=True, exist_ok=True)
    shapes = stored_shapes(config)
    total, free = stored_bytes(shapes), shutil.disk_usage(folder).free
    if free < total + SPARE_BYTES:
        raise SystemExit(
            f"{folder}: {total / GIB:.1f} GiB to write and {SPARE_BYTES / GIB:.0f} to spare, but {free / GIB:.1f} GiB "
            "free; choose another folder or fewer --layers"
        )
    shards, places = list(_shards(shapes, shard_bytes)), {}
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        _write_shard(folder / name, shard, len(places))
        places |= dict.fromkeys(shard, name)
    index = {"metadata": {"total_size": total}, "weight_map": places}
    (folder / INDEX_NAME).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(raw_config(config), indent=2) + "\n", encoding="utf-8")
    word_tokenizer(config.decoder.vocab_size).save(str(folder / "tokenizer.json"))
    return total


def _shards(shapes: Shapes, most: int) -> Iterator[Shapes]:
    """The tensors in order, in groups of `most` bytes or of a single larger tensor."""
    shard, size = {}, 0
    for name, shape in shapes.items():
        nbytes = 2 * prod(shape)
        if shard and size + nbytes > most:
            yield shard
            shard, size = {}, 0
        shard[name] = shape
        size += nbytes
    yield shard


def _write_shard(file: Path, shard: Shapes, first: int) -> None:
    """first: the number of its first tensor among all of the checkpoint."""
    header, end = {"__metadata__": {"format": "pt"}}, 0
    for name, shape in shard.items():
        begin, end = end, end + 2 * prod(shape)
        header[name] = {"dtype": "BF16", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(file, "wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for number, (name, shape) in enumerate(shard.items(), first):
            for piece in _values(name, shape, number):
                stream.write(piece)


def _values(name: str, shape: tuple[int, ...], number: int) -> Iterator[memoryview]:
    """A tensor's bytes: ones for norms, zeros for biases, else numbers that keep the variance of what passes."""
    if len(shape) == 1:
        yield _bytes((torch.ones if "norm" in name else torch.zeros)(shape))
        return
    block, left, begin = _block(prod(shape[1:])), 2 * prod(shape), 2 * (number * STRIDE % BLOCK)
    while left:
        piece = block[begin : begin + left]
        yield piece
        left, begin = left - len(piece), 0


@cache
def _block(fan_in: int) -> memoryview:
    numbers = torch.randn(BLOCK, generator=torch.Generator().manual_seed(1))
    return _bytes(numbers * fan_in**-0.5)


def _bytes(values: torch.Tensor) -> memoryview:
    return memoryview(values.bfloat16().view(torch.uint8).numpy())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--geometry", choices=GEOMETRIES, default="small")
    parser.add_argument("--layers", type=int, help="fewer or more layers than the geometry has")
    options = parser.parse_args()
    total = write_checkpoint(options.folder, model_config(options.geometry, options.layers))
    print(f"{options.folder}: {total / GIB:.2f} GiB of weights")


if __name__ == "__main__":
    main()
