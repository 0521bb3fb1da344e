"""Damaged safetensors files."""

import json
import random

import pytest
from safetensors import safe_open
from safetensors.torch import save_file

from tests.checkpoint.hostile import (
    COUNTED_SEEDS,
    LOADED,
    MAX_HEADER,
    NORM,
    SEEDS,
    opens_or_is_refused,
    refused,
)
from tests.support.each import each


@pytest.fixture(scope="module")
def whole(tensors, tmp_path_factory) -> bytes:
    file = tmp_path_factory.mktemp("bytes") / "x.safetensors"
    save_file(tensors, file)
    return file.read_bytes()


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


@each("seed", range(SEEDS))
def test_random_damage(whole, written, seed):
    """Bytes changed, cut out or put in, mostly in the header; what opens all the same has damaged weights only."""
    content = _damaged(whole, random.Random(seed))
    if opens_or_is_refused(written(content), seed % COUNTED_SEEDS == 0, seed < LOADED):
        assert len(content) == len(whole)


def _damaged(whole: bytes, draw: random.Random) -> bytes:
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
    return bytes(content)
