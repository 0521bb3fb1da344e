"""Damaged files: always an error that names the file and what to do, at once; never a crash or a large allocation.

Allocations of Python and of numpy are counted; torch makes none before weights are placed but for scales, which are as
large as they are in the file. What opens in spite of its damage is loaded as far as that goes without a weight.
"""

import copy
import json
import random
import struct
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import contextmanager
from math import prod
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

import sensenova_core
from sensenova_core import CheckpointError
from sensenova_core.checkpoint import open_checkpoint
from sensenova_core.checkpoint.gguf_file import read_gguf
from sensenova_core.checkpoint.safetensors_file import MAX_HEADER, read_header
from sensenova_core.model import MixtureOfExperts
from tests.support.geometries import TOKENIZER, geometry, write_checkpoint

SECONDS = 1.0  # what one file may take; a busy machine is forgiven
MOST = 3 * MAX_HEADER  # bytes that one file may take
COUNTED = 2**20  # bytes of a file of which allocations are counted, which slows down what makes many
REMEDIES = ("fetch", "give", "download", "rename", "remove")
NORM = "language_model.model.norm.weight"
SEEDS, LOADED = 150, 12  # of each kind of file; of these the first are also loaded, if they open
COUNTED_SEEDS = 3  # of every third of them allocations are counted


@contextmanager
def within_bounds(counted: bool) -> Iterator[None]:
    if counted:
        tracemalloc.start(1)
    began = time.process_time()
    try:
        yield
        assert time.process_time() - began < SECONDS
        assert not counted or tracemalloc.get_traced_memory()[1] < MOST
    finally:
        tracemalloc.stop()


def refused(path: Path, name: str | None = None, counted: bool | None = None) -> str:
    counted = path.stat().st_size < COUNTED if counted is None else counted
    with within_bounds(counted), pytest.raises(CheckpointError) as error:
        open_checkpoint(path)
    message = str(error.value)
    assert (name or path.name) in message and any(word in message for word in REMEDIES), message
    return message


def opens_or_is_refused(path: Path, counted: bool = True, loads: bool = False) -> bool:
    """Whether it opens. Anything but a CheckpointError fails the test. loads: also of loading what opens."""
    with within_bounds(counted):
        try:
            open_checkpoint(path)
        except CheckpointError as error:
            assert path.name in str(error) and any(word in str(error) for word in REMEDIES), str(error)
            return False
    if loads:
        try:
            sensenova_core.load(path, place=False)
        except CheckpointError as error:
            assert any(word in str(error) for word in REMEDIES), str(error)
    return True


@pytest.fixture(scope="module")
def tensors(tmp_path_factory) -> dict[str, torch.Tensor]:
    folder = write_checkpoint(tmp_path_factory.mktemp("whole"), geometry(4))
    return load_file(folder / "model.safetensors")


@pytest.fixture(scope="module")
def whole(tensors, tmp_path_factory) -> bytes:
    file = tmp_path_factory.mktemp("bytes") / "x.safetensors"
    save_file(tensors, file)
    return file.read_bytes()


@pytest.fixture
def written(tmp_path):
    """(content, name) -> a file of that content, with a tokenizer beside it."""
    tokenizer = TOKENIZER.to_str()

    def write(content: bytes, name: str = "damaged.safetensors") -> Path:
        (tmp_path / "tokenizer.json").write_text(tokenizer)
        (tmp_path / name).write_bytes(content)
        return tmp_path / name

    return write


def with_header(whole: bytes, edit) -> bytes:
    """A file with its header's text changed: edit(content) changes the parsed one, or returns a text."""
    length = int.from_bytes(whole[:8], "little")
    content = json.loads(whole[8 : 8 + length])
    changed = edit(content)
    text = changed if isinstance(changed, str) else json.dumps(content)
    return len(text.encode()).to_bytes(8, "little") + text.encode() + whole[8 + length :]


def test_the_whole_file_opens(whole, written):
    assert opens_or_is_refused(written(whole))


@pytest.mark.parametrize("length", [0, 1, 7, 2**24 + 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1])
def test_lengths_of_the_header(whole, written, length):
    refused(written(length.to_bytes(8, "little") + whole[8:]))


def test_a_header_that_is_there_but_far_too_long(written):
    message = refused(written((MAX_HEADER + 1).to_bytes(8, "little") + b" " * (MAX_HEADER + 1)))
    assert "header has 16,777,217 bytes" in message


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 9, 100, 5000, -100_000, -1])
def test_truncated(whole, written, kept):
    assert "truncated" in refused(written(whole[:kept]))


def test_bytes_after_the_last_tensor(whole, written):
    assert "not fully covered" in refused(written(whole + b"\0"))


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "3", '"a"', "\xff", "[" * 50_000, '{"a":' * 50_000, '{"a": 1}', '{"__metadata__": 3}'],
    ids=lambda text: repr(text[:20]),
)
def test_headers_that_are_none(whole, written, text):
    refused(written(with_header(whole, lambda _: text)))


def test_a_tensor_named_twice(whole, written):
    def twice(content):
        return json.dumps(content)[:-1] + f', "{NORM}": {json.dumps(content[NORM])}}}'

    assert f"names '{NORM}' twice" in refused(written(with_header(whole, twice)))


def test_many_names_and_the_last_one_twice(written):
    empty = '{"dtype":"F32","shape":[0],"data_offsets":[0,0]}'
    entries = [f'"x{number}":{empty}' for number in range(30_000)]
    header = "{" + ",".join([*entries, entries[-1]]) + "}"
    message = refused(written(len(header).to_bytes(8, "little") + header.encode()))
    assert "names 'x29999' twice" in message


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data_offsets", [0, 2**62]),
        ("data_offsets", [2**62, 2**62 + 192]),
        ("data_offsets", [-192, 0]),
        ("data_offsets", [192, 0]),
        ("data_offsets", [0]),
        ("data_offsets", [0.0, 192.0]),
        ("data_offsets", ["0", "192"]),
        ("data_offsets", [True, True]),
        ("data_offsets", None),
        ("data_offsets", [0, 192]),  # within another
        ("shape", [2**62, 2**62]),
        ("shape", [2**62, 0]),
        ("shape", [-1]),
        ("shape", [1] * 100_000),
        ("shape", [float("nan")]),
        ("shape", "48"),
        ("shape", []),
        ("dtype", "F128"),
        ("dtype", None),
        ("dtype", ["F32"]),
        ("dtype", "F64"),
        (None, None),
        (None, [1]),
    ],
)
def test_entries_that_cannot_be(whole, written, key, value):
    def edit(content):
        if key is None:
            content[NORM] = value
        else:
            content[NORM][key] = value

    refused(written(with_header(whole, edit)))


def test_overlaps_and_gaps(whole, written):
    def overlap(content):
        names = sorted((name for name in content if name != "__metadata__"), key=lambda n: content[n]["data_offsets"])
        same = [name for name in names if content[name]["shape"] == content[names[5]]["shape"]]
        content[same[1]]["data_offsets"] = content[same[0]]["data_offsets"]

    assert "invalid offset" in refused(written(with_header(whole, overlap)))
    assert "invalid offset" in refused(written(with_header(whole, lambda content: content.pop(NORM) and None)))


@pytest.mark.parametrize("kind", ["a list", "type in braces", "many axes", "a long axis"])
def test_what_safetensors_lets_pass(whole, written, kind):
    def edit(content):
        entry = content[NORM]
        if kind == "a list":
            content[NORM] = [entry["dtype"], entry["shape"], entry["data_offsets"]]
        elif kind == "type in braces":
            entry["dtype"] = {entry["dtype"]: None}
        elif kind == "many axes":
            entry["shape"] += [1] * 100_000
        else:
            content["nothing"] = {"dtype": "F32", "shape": [0, 2**63], "data_offsets": [0, 0]}

    file = written(with_header(whole, edit))
    with safe_open(file, "numpy") as stream:
        assert NORM in list(stream.keys())
    refused(file)


@pytest.mark.parametrize("seed", range(SEEDS))
def test_random_damage(whole, written, seed):
    """Bytes changed, cut out or put in, mostly in the header; what opens all the same has damaged weights only."""
    draw = random.Random(seed)
    content, header = bytearray(whole), 8 + int.from_bytes(whole[:8], "little")
    for _ in range(draw.randint(1, 4)):
        where = draw.randrange(draw.choice([8, header, header, len(content)]))
        kind = draw.choice(["byte", "byte", "digit", "cut", "put", "end"])
        if kind == "byte":
            content[where] = draw.randrange(256)
        elif kind == "digit":
            digits = [at for at in range(8, header) if 48 <= content[at] < 58]
            content[draw.choice(digits or [where])] = draw.randrange(48, 58)
        elif kind == "cut":
            del content[where : where + draw.randint(1, 50)]
        elif kind == "put":
            content[where:where] = draw.randbytes(draw.randint(1, 50))
        else:
            del content[max(9, draw.randrange(len(content))) :]
        header = min(header, len(content))
    file = written(bytes(content))
    if opens_or_is_refused(file, seed % COUNTED_SEEDS == 0, seed < LOADED):
        assert len(content) == len(whole)


# GGUF


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


@pytest.mark.parametrize("seed", range(SEEDS))
def test_random_damage_of_gguf(packed, written, seed):
    draw = random.Random(seed)
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
    opens_or_is_refused(written(bytes(content), "damaged.gguf"), seed % COUNTED_SEEDS == 0, seed < LOADED)


# Configs, indexes, scales


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("llm_config", "num_hidden_layers", 10**9),
        ("llm_config", "num_hidden_layers", 1000),
        ("llm_config", "hidden_size", 2**62),
        ("llm_config", "num_experts", 10**9),
        ("llm_config", "num_experts", 100),
        ("llm_config", "head_dim", 12),
        ("llm_config", "num_key_value_heads", 3),
        ("llm_config", "vocab_size", -1),
        ("llm_config", "vocab_size", 1e300),
        ("vision_config", "patch_size", 2**40),
        ("vision_config", "hidden_size", 2**30),
        (None, "noise_scale", float("nan")),
        (None, "noise_scale", 10**400),
        (None, "architectures", "[" * 20_000),
    ],
    ids=lambda value: str(value)[:20],
)
def test_configs_of_no_model(tmp_path, section, key, value):
    raw = geometry(4) | {
        "llm_config": geometry(4)["llm_config"] | {"num_experts_per_tok": 2, "moe_intermediate_size": 8}
    }
    folder = write_checkpoint(tmp_path / "model", geometry(4))
    raw = copy.deepcopy(raw)
    (raw[section] if section else raw)[key] = value
    (folder / "config.json").write_text(json.dumps(raw).replace('"' + "[" * 20_000 + '"', "[" * 20_000))
    refused(folder, "config.json")


@pytest.mark.parametrize("kind", ["another shard", "nowhere", "not all", "not a shard", "no names", "deep"])
def test_wrong_indexes(tmp_path, kind):
    folder = write_checkpoint(tmp_path / "model", geometry(4), shards=2)
    files = sorted(path.name for path in folder.glob("*.safetensors"))
    where = {name: file for file in files for name in read_header(folder / file)[0]}
    if kind == "another shard":
        where[NORM] = next(file for file in files if file != where[NORM])
    elif kind == "nowhere":
        where["language_model.more"] = files[0]
    elif kind == "not all":
        del where[NORM]
    elif kind == "not a shard":
        where[NORM] = "config.json"
    text = json.dumps({"weight_map": {} if kind == "no names" else where})
    index = folder / "model.safetensors.index.json"
    index.write_text("[" * 100_000 if kind == "deep" else text)
    refused(folder, index.name)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_scales_that_are_no_numbers(tensors, written, tmp_path, bad):
    name = next(name for name, value in tensors.items() if "q_proj" in name and value.ndim == 2)
    scaled = tensors | {name: tensors[name].to(torch.float8_e4m3fn), name.replace(".weight", ".scale_weight"): None}
    for scale in (0.5, bad):
        scaled[name.replace(".weight", ".scale_weight")] = torch.tensor(scale)
        save_file(scaled, tmp_path / "fp8.safetensors")
        if scale == 0.5:
            assert open_checkpoint(tmp_path / "fp8.safetensors").headers[name].scale is not None
    assert f"the scale of {name} is not a finite number" in refused(tmp_path / "fp8.safetensors")


@pytest.mark.parametrize("second", ["weight_scale", "weight_scale_inv"])
def test_two_scales_for_one_weight(tensors, tmp_path, second):
    name = next(name for name, value in tensors.items() if "q_proj" in name and value.ndim == 2)
    layer = name.removesuffix(".weight")
    scaled = tensors | {name: tensors[name].to(torch.float8_e4m3fn)}
    scaled |= {f"{layer}.{suffix}": torch.ones(1, 1) for suffix in ("scale_weight", second)}
    save_file(scaled, tmp_path / "fp8.safetensors")
    assert f"{layer} has two scales" in refused(tmp_path / "fp8.safetensors")


def test_a_scale_of_another_shape_is_not_read(tensors, written):
    """Of a million numbers for a small weight."""
    name = next(name for name, value in tensors.items() if "q_proj" in name and value.ndim == 2)
    scaled = tensors | {name: tensors[name].to(torch.float8_e4m3fn)}
    scaled[name.replace(".weight", ".weight_scale")] = torch.full((2**20,), float("nan"))
    file = written(b"", "fp8.safetensors")
    save_file(scaled, file)
    assert open_checkpoint(file).headers[name].scale.numel == 2**20
    with pytest.raises(CheckpointError, match="of an unknown scale"):
        sensenova_core.load(file)


@pytest.mark.parametrize("of", ["experts.3.", "mlp.gate.weight", "q_proj"])
def test_what_is_missing_is_said_before_a_model_is_built(tmp_path, monkeypatch, of):
    """One of many experts takes seconds to build."""
    experts = {"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
    raw = geometry(4) | {"llm_config": geometry(4)["llm_config"] | experts}
    file = write_checkpoint(tmp_path / "model", raw) / "model.safetensors"
    tensors, built = load_file(file), []
    del tensors[next(name for name in tensors if of in name)]
    save_file(tensors, file)
    real = MixtureOfExperts.__init__
    monkeypatch.setattr(
        MixtureOfExperts, "__init__", lambda self, *rest: built.append(rest[1].num_experts) or real(self, *rest)
    )
    with pytest.raises(CheckpointError, match=rf"1 missing: \S*{of}"):
        sensenova_core.load(file.parent)
    assert set(built) == {1}


def test_a_config_without_end(tmp_path):
    folder = write_checkpoint(tmp_path / "model", geometry(4))
    (folder / "config.json").write_bytes(b" " * (2**24 + 1))
    assert "16,777,217 bytes, which is no file of this kind" in refused(folder, "config.json")


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
    for name, (dtype, shape, start) in tensors.items():
        assert (dtype, start) == (theirs[name].tensor_type.name, int(theirs[name].data_offset))
        assert prod(shape) == theirs[name].n_elements
    assert tensors["plain"][1] == (3, 4) and tensors["packed"][1] == (4, 64)
    assert metadata["a.config"] == "{}" and metadata["counts"] is metadata["words"] is None
