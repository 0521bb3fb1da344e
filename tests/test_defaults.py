"""Another package's defaults of torch, set before or after the import of ours: same pictures and texts, to the bit."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.golden_set import checkpoint

# Draws, edits, thinks, asks, writes a document and corrects a picture; prints what came out of each as a hash.
TASKS = """
import hashlib, itertools, sys
import torch
torch.set_num_threads(1)
{before}
import sensenova_core
from sensenova_core import Guidance, SamplingSettings
from sensenova_core.settings import CorrectionSettings, DecodingSettings, DocumentSettings
from sensenova_core.writing.document import Drawing
from tests.support.pictures import picture
from tests.support.watch import saying
{after}
def shown(name, *parts):
    whole = b"".join(p.numpy().tobytes() if isinstance(p, torch.Tensor) else repr(p).encode() for p in parts)
    kinds = [(p.dtype, p.device.type, tuple(p.shape)) for p in parts if isinstance(p, torch.Tensor)]
    print(name, hashlib.sha256(whole).hexdigest()[:16], kinds)
engine = sensenova_core.load(sys.argv[1])
def last(conditioning, **settings):
    for step in engine.sample(conditioning, width=64, height=32, steps=3, seed=4, **settings):
        pass
    return step.image()
decoding = DecodingSettings(max_tokens=5, sample=True, seed=3, repetition_penalty=1.2, top_p=0.9)
shown("drawn", last(engine.encode("a cat"), cfg=4.0, cfg_norm="cfg_zero_star", shift=3.0))
images = [picture(80, 60, mode="RGBA"), picture(40, 90, seed=2)]
edit = engine.encode("make it blue", images, max_pixels=16384)
shown("edited", last(edit, cfg=4.0, img_cfg=2.0, cfg_norm="channel"))
*_, thought = engine.think(engine.encode("a dog", images[:1], max_pixels=16384), decoding)
shown("thought", thought.text, last(thought.conditioning, cfg=3.0))
for answer in engine.understand("what is it?", images[:1], settings=decoding):
    pass
shown("answered", answer.text)
sampling = SamplingSettings(steps=2, guidance=Guidance(3.0, 2.0), seed=5)
document = DocumentSettings(sampling=sampling, sizes=((64, 32),), decoding=DecodingSettings(max_tokens=20), system="")
choose = saying(engine, "one <img> two <img> end<|im_end|>")
events = list(engine.interleave("a story", images[:1], settings=document, max_pixels=16384, choose=choose))
shown("written", *[e.step.image() if isinstance(e, Drawing) else getattr(e, "text", "") for e in events])
first = torch.rand((1, 32, 64, 3), generator=torch.Generator("cpu").manual_seed(1), dtype=torch.float32, device="cpu")
choose = saying(engine, "too dark <img> well<|im_end|>")
corrected = CorrectionSettings(SamplingSettings(steps=2, guidance=Guidance(3.0, 2.0), seed=5))
events = list(engine.self_correct("a star", settings=corrected, first=first, choose=choose))
shown("corrected", *[e.step.image() if isinstance(e, Drawing) else getattr(e, "text", "") for e in events])
"""
DEFAULTS = [
    "torch.set_default_dtype(torch.float64)",
    "torch.set_default_dtype(torch.bfloat16)",
    "torch.set_default_dtype(torch.float16)",
    'torch.set_default_device("meta")',  # what is made without a device of its own holds no numbers there
]


def results(name: str, before: str = "", after: str = "") -> list[str]:
    script = TASKS.format(before=before, after=after)
    command = [sys.executable, "-c", script, str(checkpoint(name))]
    root = Path(__file__).parent.parent
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, env={"PYTHONPATH": str(root)})
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 6
    return lines


@pytest.fixture(scope="module")
def expected() -> dict[str, list[str]]:
    return {name: results(name) for name in ("tiny-u15", "tiny-a3b")}


@pytest.mark.parametrize("default", DEFAULTS)
def test_defaults_of_other_packages_change_nothing(expected, default):
    assert results("tiny-u15", before=default) == expected["tiny-u15"]


def test_defaults_set_after_the_import(expected):
    assert results("tiny-u15", after=DEFAULTS[1]) == expected["tiny-u15"]


@pytest.mark.parametrize("default", DEFAULTS[::3])
def test_nor_of_experts(expected, default):
    assert results("tiny-a3b", before=default) == expected["tiny-a3b"]
