"""Damaged GGUF files, and the whole ones that they are made of."""

import json
import random
import struct

import numpy as np
import pytest

from sensenova_core.checkpoint import open_checkpoint
from sensenova_core.checkpoint.gguf_file import read_gguf
from sensenova_core.checkpoint.safetensors_file import MAX_HEADER
from tests.checkpoint.hostile import COUNTED_SEEDS, LOADED, SEEDS, opens_or_is_refused, refused
from tests.support.each import each
from tests.support.geometries import geometry


def string(text: str | bytes) -> bytes:
    raw = text.encode() if isinstance(text, str) else text
    return struct.pack("<Q", len(raw)) + raw


def gguf(tensors: dict[str, np.ndarray], metadata: bytes = b"", entries: int = 0, prefix: str = "") -> bytes:
    """A file of float32 tensors, written without the package."""
    infos, data = b"", b""
    for name, value in tensors.items():
        infos += string(prefix + name) + struct.pack("<I", value.ndim)
        infos += struct.pack(f"<{value.ndim}Q", *value.shape[::-1]) + struct.pack("<IQ", 0, len(data))
        data += value.astype("<f4").tobytes()
        data += b"\0" * (-len(data) % 32)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), entries) + metadata + infos
    return head + b"\0" * (-len(head) % 32) + data


@pytest.fixture(scope="module")
def packed(tensors) -> bytes:
    metadata = string("general.architecture") + struct.pack("<I", 8) + string("sensenova")
    metadata += string("words") + struct.pack("<IIQ", 9, 8, 3) + string("a") + string("b") + string("c")
    metadata += string("numbers") + struct.pack("<IIQ3I", 9, 4, 3, 1, 2, 3)
    return gguf({name: value.numpy() for name, value in tensors.items()}, metadata, 3)


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "diffusion_model."])
def test_a_gguf_file_opens_by_its_shapes(tensors, written, prefix):
    content = gguf({name: value.numpy() for name, value in tensors.items()}, prefix=prefix)
    opened = open_checkpoint(written(content, "whole.gguf"))
    assert {name: header.shape for name, header in opened.headers.items()} == {
        name: tuple(value.shape) for name, value in tensors.items()
    }
    assert opened.config_from == "the tensors' shapes"
    for name, header in list(opened.headers.items())[:5]:
        stored = np.frombuffer(content, "<f4", header.numel, header.start)
        assert np.array_equal(stored, tensors[name].numpy().ravel())


def test_a_gguf_file_with_a_config_in_it(tensors, written):
    raw = geometry(4)
    raw["llm_config"] = raw["llm_config"] | {"rope_theta": 777.0}
    metadata = string("sensenova.config") + struct.pack("<I", 8) + string(json.dumps(raw))
    content = gguf({name: value.numpy() for name, value in tensors.items()}, metadata, 1)
    assert open_checkpoint(written(content, "x.gguf")).config.decoder.rope_theta == 777


def test_shapes_that_blocks_did_not_fit(tensors, written):
    """As ComfyUI-GGUF's tools note them."""
    name = next(name for name, value in tensors.items() if value.ndim == 4)
    shape = tuple(tensors[name].shape)
    metadata = string("comfy.gguf.orig_shape." + name) + struct.pack("<IIQ4i", 9, 5, 4, *shape)
    flat = {name: value.numpy() for name, value in tensors.items()} | {
        name: tensors[name].numpy().reshape(-1, shape[-1])
    }
    assert open_checkpoint(written(gguf(flat, metadata, 1), "x.gguf")).headers[name].shape == shape


BAD_HEADS = {
    "magic": b"GGUX" + struct.pack("<IQQ", 3, 0, 0),
    "version 1": b"GGUF" + struct.pack("<IQQ", 1, 0, 0),
    "big-endian": b"GGUF" + struct.pack(">IQQ", 3, 0, 0),
    "no tensors": b"GGUF" + struct.pack("<IQQ", 3, 0, 0),
    "tensors": b"GGUF" + struct.pack("<IQQ", 3, 2**62, 0),
    "entries": b"GGUF" + struct.pack("<IQQ", 3, 0, 2**62),
    "long name": b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**62) + b"x" * 100,
    "kind": b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + string("a") + struct.pack("<I", 99) + b"x" * 100,
    "array": b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + string("a") + struct.pack("<IIQ", 9, 4, 2**62) + b"x" * 100,
    "texts": b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + string("a") + struct.pack("<IIQ", 9, 8, 2**62) + b"\0" * 999,
    "nested": b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + string("a") + struct.pack("<IIQ", 9, 9, 2) + b"x" * 100,
    "not UTF-8": b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + string(b"\xff\xfe") + b"x" * 100,
    "axes": b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + string("a") + struct.pack("<I", 2**31) + b"x" * 100,
    "type": b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + string("a") + struct.pack("<IQIQ", 1, 4, 77, 0) + b"x" * 100,
    "shape": b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + string("a") + struct.pack("<I4QIQ", 4, *[2**62] * 4, 0, 0),
    "offset": b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + string("a") + struct.pack("<IQIQ", 1, 4, 0, 2**62),
    "blocks": b"GGUF" + struct.pack("<IQQ", 3, 1, 0) + string("a") + struct.pack("<IQIQ", 1, 31, 8, 0) + b"x" * 99,
    "alignment": b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + string("general.alignment") + struct.pack("<II", 4, 0),
}


@pytest.mark.parametrize("kind", BAD_HEADS)
def test_gguf_headers_that_cannot_be(written, kind):
    refused(written(BAD_HEADS[kind], "damaged.gguf"))


@pytest.mark.parametrize("kind, count", [(8, 2**62), (8, 2**21 - 16), (8, 2**20), (10, 2**20), (0, 2**23)])
def test_long_lists_in_a_gguf_file_are_passed_over(written, kind, count):
    """Texts of no letters, and numbers, as many as a header holds or says it does."""
    content = b"GGUF" + struct.pack("<IQQ", 3, 0, 1) + string("a") + struct.pack("<IIQ", 9, kind, count)
    refused(written(content + b"\0" * (MAX_HEADER + 2**20), "damaged.gguf"), counted=kind != 8)


def test_gguf_tensors_in_one_another(written):
    value = np.ones((8, 8), np.float32)
    content = bytearray(gguf({"a": value, "b": value}))
    at = content.index(b"\1\0\0\0\0\0\0\0b") + 9 + 4 + 16 + 4
    content[at : at + 8] = struct.pack("<Q", 32)
    assert "'b' begins within 'a'" in refused(written(bytes(content), "damaged.gguf"))


@each("seed", range(SEEDS))
def test_random_damage(packed, written, seed):
    content = _damaged(packed, random.Random(seed))
    opens_or_is_refused(written(content, "damaged.gguf"), seed % COUNTED_SEEDS == 0, seed < LOADED)


def _damaged(packed: bytes, draw: random.Random) -> bytes:
    content = bytearray(packed)
    header = packed.index(b"lm_head") + 4000
    for _ in range(draw.randint(1, 4)):
        where = draw.randrange(draw.choice([24, 100, header, header, len(content)]))
        if draw.random() < 0.6:
            content[where] = draw.choice([0, 1, 127, 128, 255, draw.randrange(256)])
        elif draw.random() < 0.5:
            content[where : where + 8] = struct.pack("<Q", draw.choice([0, 2**31, 2**32, 2**62, 2**64 - 1]))
        else:
            del content[draw.randrange(len(content)) :]
            content += b"G" * (24 - len(content))
    return bytes(content)


def test_our_reader_reads_what_the_package_writes(tmp_path):
    gguf_package = pytest.importorskip("gguf", reason="the gguf package is not installed")
    writer = gguf_package.GGUFWriter(tmp_path / "x.gguf", "sensenova")
    writer.add_string("a.config", "{}")
    writer.add_array("words", ["a", "b"])
    writer.add_array("counts", [1, 2])
    writer.add_tensor("plain", np.arange(12, dtype=np.float32).reshape(3, 4))
    kind = gguf_package.GGMLQuantizationType.Q8_0
    blocks = gguf_package.quants.quantize(np.ones((4, 64), np.float32), kind)
    writer.add_tensor("packed", blocks, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    tensors, metadata = read_gguf(tmp_path / "x.gguf")
    theirs = {each.name: each for each in gguf_package.GGUFReader(tmp_path / "x.gguf").tensors}
    for name, header in tensors.items():
        assert (header.dtype, header.start) == (theirs[name].tensor_type.name, int(theirs[name].data_offset))
        assert header.numel == theirs[name].n_elements
    assert tensors["plain"].shape == (3, 4) and tensors["packed"].shape == (4, 64)
    assert metadata["a.config"] == "{}" and metadata["counts"] is metadata["words"] is None
