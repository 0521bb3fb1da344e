"""Files that are not what their names say, or cannot be read: the message has the real reason, and what helps."""

import errno
import json
import os
import shutil
import struct
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import sensenova_core
from sensenova_core import CheckpointError
from sensenova_core.checkpoint import locate, open_checkpoint
from sensenova_core.checkpoint.weights import file_state
from sensenova_core.lora import read_lora
from tests.checkpoint.test_checkpoint import picture, shard
from tests.support.golden_set import checkpoint

TINY = "tiny-u15"


def refusal(path: Path) -> str:
    with pytest.raises(CheckpointError) as refused:
        sensenova_core.load(path)
    return str(refused.value)


@pytest.mark.parametrize(
    "content, said, helps",
    [
        (b"", "is empty", "fetch it again"),
        (b"\0" * 4096, "nothing but zeros", "fetch it again"),
        (b"  \n<!doctype HTML><html>", "a web page", "fetch the file itself"),
        (b"\xef\xbb\xbf<HTML lang=en>", "a web page", "fetch the file itself"),
        (b"<?xml version='1.0'?><Error>", "a web page or a server's answer", "fetch the file itself"),
        (b"Access to model a/b is restricted.", "a text, which begins 'Access to model a/b", "logged in"),
        (b'{"error":"Repository not found"}', "a text", "fetch the file itself"),
        ("Seite nicht gefunden: \u00fc\u00f6\u00e4".encode(), "a text", "fetch the file itself"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:1", "Git LFS", "git lfs pull"),
        (b"\x1f\x8b\x08\0" + bytes(99), "packed by gzip", "unpack"),
        (b"\x28\xb5\x2f\xfd" + bytes(99), "packed by zstd", "unpack"),
        (b"\x80\x04\x95" + bytes(99), "a pickle", "fetch the safetensors version"),
    ],
)
@pytest.mark.parametrize("name", ["m.safetensors", "m.gguf"])
def test_what_a_file_is(tmp_path, content, said, helps, name):
    (tmp_path / name).write_bytes(content)
    message = refusal(tmp_path / name)
    assert str(tmp_path / name) in message and said in message and helps in message


def test_wrong_endings(tmp_path):
    shutil.copy(checkpoint(TINY) / "model.safetensors", tmp_path / "a.gguf")
    assert "a safetensors file; rename it to .safetensors" in refusal(tmp_path / "a.gguf")
    (tmp_path / "b.safetensors").write_bytes(b"GGUF" + struct.pack("<IQQ", 3, 0, 0))
    assert "a GGUF file; rename it to .gguf" in refusal(tmp_path / "b.safetensors")
    (tmp_path / "c.gguf").write_bytes(np.random.default_rng(0).bytes(4096))
    assert "no GGUF file, whatever its name" in refusal(tmp_path / "c.gguf")
    (tmp_path / "d.gguf").write_bytes(b"tjgg" + bytes(99))
    assert "of the kinds before GGUF" in refusal(tmp_path / "d.gguf")


@pytest.mark.parametrize("version", [1, 2, 3])
def test_big_endian(tmp_path, version):
    (tmp_path / "m.gguf").write_bytes(b"GGUF" + struct.pack(">IQQ", version, 5, 5) + bytes(99))
    message = refusal(tmp_path / "m.gguf")
    assert "big-endian" in message and "gguf-convert-endian" in message


@pytest.mark.parametrize("names", [["token_embd.weight", "blk.0.attn_q.weight"], ["v.blk.0.ln1.weight", "mm.0.weight"]])
def test_names_of_llama_cpp(tmp_path, names):
    gguf = pytest.importorskip("gguf")
    writer = gguf.GGUFWriter(tmp_path / "qwen3.gguf", "qwen3")
    for name in [*names, "output_norm.weight"]:
        writer.add_tensor(name, np.ones((4, 32), np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    message = refusal(tmp_path / "qwen3.gguf")
    assert "names of llama.cpp" in message and names[0] in message and "published names" in message


@pytest.mark.parametrize("end", [".part", ".incomplete", ".crdownload", ".aria2", ".partial"])
def test_downloads_that_have_not_ended(tmp_path, end):
    whole = (checkpoint(TINY) / "model.safetensors").read_bytes()
    (tmp_path / f"m.safetensors{end}").write_bytes(whole[:5000])
    for given in (tmp_path / f"m.safetensors{end}", tmp_path / "m.safetensors", tmp_path):
        assert "a download that has not ended" in refusal(given)
    (tmp_path / "m.safetensors").write_bytes(whole[:5000] + bytes(len(whole) - 5000 - 1))
    message = refusal(tmp_path / "m.safetensors")
    assert f"m.safetensors{end} lies beside it" in message and "fetch it again" not in message
    with pytest.raises(CheckpointError, match="a download that has not ended"):
        read_lora(tmp_path / f"m.safetensors{end}", {})


@pytest.mark.parametrize(
    "number, said",
    [(errno.EACCES, "may not be read"), (errno.EIO, "check the disk"), (errno.EPERM, "right")],
)
def test_files_that_may_not_be_read(copy_of, monkeypatch, number, said):
    import builtins

    real, folder = open, copy_of()

    def refusing(file, *rest, **settings):
        if str(file).endswith(".safetensors"):
            raise OSError(number, os.strerror(number), str(file))
        return real(file, *rest, **settings)

    monkeypatch.setattr(builtins, "open", refusing)
    with pytest.raises(CheckpointError, match=said) as error:
        open_checkpoint(folder)
    assert "fetch" not in str(error.value) and "model.safetensors" in str(error.value)


def test_folders_called_like_files(tmp_path):
    for name in ("m.safetensors", "m.gguf"):
        (tmp_path / name).mkdir()
        assert "no config.json in it" in refusal(tmp_path / name)
    shutil.copy(checkpoint(TINY) / "config.json", tmp_path)
    assert "is a folder that is called like a file" in refusal(tmp_path)


# JSON


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-32", "utf-16-le"])
@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_byte_order_marks_are_no_part_of_json(copy_of, encoding, name):
    folder = shard(copy_of())
    text = (folder / name).read_text(encoding="utf-8")
    (folder / name).write_bytes(text.encode(encoding))
    assert len(open_checkpoint(folder).files.weights) == 2


@pytest.mark.parametrize(
    "content, said",
    [
        (b"", "the file is empty; fetch the file again"),
        (b"\0" * 300, "nothing but zeros"),
        (b'{\n  // of the base model\n  "a": 1\n}', "JSON has no comments, and there is one"),
        (b'# mine\n{"a": 1}', "remove them"),
        (b'{"a": 1,}', "in line 1, column 9; mend it"),
        (b"{'a': 1}", "in line 1, column 2; mend it"),
        (b'{"a": [1, 2', "it does not end as JSON does"),
        (b'{"a": "\xfc"}', "its letters are not in UTF-8"),
        (b"version https://git-lfs.github.com/spec/v1", "git lfs pull"),
        (b"<!DOCTYPE html>", "a web page"),
    ],
)
@pytest.mark.parametrize("name", ["config.json", "model.safetensors.index.json"])
def test_what_is_no_json(copy_of, content, said, name):
    folder = shard(copy_of())
    (folder / name).write_bytes(content)
    message = refusal(folder)
    assert str(folder / name) in message and said in message


# What lies beside a model, and what is missing


@pytest.mark.parametrize("name", ["adapter_model.safetensors", "style_lora.safetensors", "a.safetensors"])
def test_a_lora_beside_the_model_is_passed_over(copy_of, name):
    folder = copy_of()
    place = "language_model.model.layers.0.self_attn.q_proj"
    save_file({f"{place}.lora_{end}.weight": torch.ones(4, 4) for end in "AB"}, folder / name)
    assert locate(folder).weights == (folder / "model.safetensors",)
    assert open_checkpoint(folder).headers


@pytest.mark.parametrize("base", ["SenseNova/SenseNova-U1-8B-MoT", None, 7])
def test_the_folder_of_a_lora_is_no_model(tmp_path, base):
    save_file({"a.lora_A.weight": torch.ones(4, 4)}, tmp_path / "adapter_model.safetensors")
    (tmp_path / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base}))
    message = refusal(tmp_path)
    assert "the folder of a LoRA (adapter_model.safetensors)" in message and "give it to the LoRA node" in message
    assert (f"made for {base}" in message) == isinstance(base, str)
    assert "is a LoRA" in refusal(tmp_path / "adapter_model.safetensors")


def test_a_model_is_no_lora():
    for given in (checkpoint(TINY), checkpoint(TINY) / "model.safetensors"):
        shapes = {name: header.shape for name, header in open_checkpoint(checkpoint(TINY)).headers.items()}
        with pytest.raises(CheckpointError, match=r"checkpoint.*give it as the model"):
            read_lora(given, shapes)


@pytest.mark.parametrize("kept", [{2}, {1}, {1, 3, 4}, {4}])
def test_shards_that_are_missing_without_an_index(copy_of, kept):
    folder = copy_of()
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    for number in range(1, 5):
        inside = {name: tensors[name] for name in sorted(tensors)[number - 1 :: 4]}
        save_file(inside, folder / f"model-{number:05}-of-00004.safetensors")
    assert open_checkpoint(folder).headers  # all of them
    for number in {1, 2, 3, 4} - kept:
        (folder / f"model-{number:05}-of-00004.safetensors").unlink()
    first = min({1, 2, 3, 4} - kept)
    for given in (folder, folder / f"model-{max(kept):05}-of-00004.safetensors"):
        message = refusal(given)
        assert f"{4 - len(kept)} of 4 shards missing, model-{first:05}-of-00004.safetensors" in message


# Names


@pytest.mark.parametrize(
    "before", ["module.", "_orig_mod.module.", "state_dict.model.", "ema.", "pipe.dit.", "model.model.diffusion_model."]
)
def test_wrappers_before_a_checkpoint_s_names(tmp_path, copy_of, before):
    folder = copy_of()
    tensors = load_file(folder / "model.safetensors")
    expected = picture(sensenova_core.load(folder))
    wrapped = {before + name.replace("layers.0.", "layers.0._fsdp_wrapped_module."): v for name, v in tensors.items()}
    save_file(wrapped | {"n_averaged": torch.tensor(3)}, folder / "model.safetensors")
    assert (picture(sensenova_core.load(folder)) - expected).abs().max() < 1e-4


def test_two_sets_of_weights_in_one_file(copy_of):
    folder = copy_of()
    tensors = load_file(folder / "model.safetensors")
    both = {f"{before}.{name}": value.clone() for before in ("ema", "model") for name, value in tensors.items()}
    save_file(both, folder / "model.safetensors")
    assert "mixed prefixes" in refusal(folder) and "one set of weights" in refusal(folder)
    name = "language_model.model.norm.weight"
    save_file(tensors | {f"module.{name}": tensors[name].clone()}, folder / "model.safetensors")
    assert f"are both {name}" in refusal(folder)


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are texts elsewhere")
def test_names_that_are_not_utf_8(copy_of):
    folder = copy_of()
    expected = picture(sensenova_core.load(folder))
    for name in (b"caf\xe9", b"\xff\xfe", "模型 \u202e".encode()):
        other = folder.parent / os.fsdecode(name)
        shutil.copytree(folder, other)
        assert torch.equal(picture(sensenova_core.load(other)), expected)
        (other / "config.json").write_text("{")
        refusal(other).encode()  # which a terminal can print


# Files that are replaced


def test_an_old_copy_of_the_same_size_and_time_is_another_file(tmp_path):
    for content in (b"old", b"new", b"mid"):
        (tmp_path / content.decode()).write_bytes(content)
        os.utime(tmp_path / content.decode(), ns=(10**18, 10**18))
    os.link(tmp_path / "old", tmp_path / "model") if hasattr(os, "link") else pytest.skip("no links")
    seen = {file_state(tmp_path / "model")}
    for content in ("new", "mid"):
        os.replace(tmp_path / content, tmp_path / "model")
        seen.add(file_state(tmp_path / "model"))
    assert len(seen) == 3
