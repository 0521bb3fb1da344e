"""System memory while layers stream: of N GB of weights, what is kept is in memory once, and what is not never is."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sensenova_core.checkpoint import checkpoint_name
from sensenova_core.model import SenseNovaU1
from sensenova_core.model.config import ModelConfig
from tests.conftest import REPOSITORY
from tests.support.geometries import TOKENIZER, scaled_down, write_checkpoint
from tools.tiny_checkpoint import CONFIG

MB = 10**6
pytestmark = pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="reads Linux's view of memory")

SCRIPT = """
import json, sys, threading, time
import torch
import sensenova_core
from tests.support.geometries import short

warm, folder, settings = sys.argv[1], sys.argv[2], json.loads(sys.argv[3])
torch.set_num_threads(1)

def resident():
    kinds = ("RssAnon", "RssFile", "RssShmem")
    with open("/proc/self/status") as status:
        return sum(int(line.split()[1]) * 1024 for line in status if line.startswith(kinds))

def draw(folder):
    engine = sensenova_core.load(folder, **settings)
    for step in engine.sample(short(engine, "x"), width=32, height=32, steps=2):
        pass
    return engine

draw(warm)  # imports everything
before = most = resident()
done = threading.Event()

def sample():
    global most
    while not done.wait(0.002):
        most = max(most, resident())

sampler = threading.Thread(target=sample)
sampler.start()
engine = draw(folder)
done.set()
sampler.join()
memory = engine.memory
most = max(most, resident())
held = memory.residency.nbytes + memory.residency.store.nbytes if not memory.in_place else 0
engine.release()
print(json.dumps({"most": most - before, "held": held, "after": resident() - before}))
"""


@pytest.fixture(scope="module")
def large(tmp_path_factory) -> Iterator[Path]:
    """593 MB of random weights: 12 layers of 21 MB an expert, and a head."""
    folder = tmp_path_factory.mktemp("large")
    llm = {"hidden_size": 1024, "intermediate_size": 2560, "num_hidden_layers": 12, "head_dim": 64}
    llm |= {"num_attention_heads": 16, "num_key_value_heads": 4, "vocab_size": TOKENIZER.get_vocab_size() + 20_000}
    raw = CONFIG | {"llm_config": CONFIG["llm_config"] | llm}
    model = SenseNovaU1.on_meta(ModelConfig.from_dict(raw).with_head_width(64))
    pool = torch.randn(40 * MB, generator=torch.Generator().manual_seed(0)).mul_(0.02).bfloat16()
    tensors = {}
    for index, (name, value) in enumerate(model.named_parameters()):
        begin = index * 7919
        tensors[checkpoint_name(name)] = pool[begin : begin + value.numel()].view(value.shape).clone()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(raw), encoding="utf-8")
    TOKENIZER.save(str(folder / "tokenizer.json"))
    del tensors, pool
    yield folder
    (folder / "model.safetensors").unlink()


def measured(large: Path, warm: Path, **settings: str) -> dict[str, int]:
    """In a process of its own: beyond what the interpreter and the libraries take."""
    write_checkpoint(warm, scaled_down(0), dtype=torch.bfloat16)
    command = [sys.executable, "-c", SCRIPT, str(warm), str(large), json.dumps(settings)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


LAYER, LAYERS = 22 * MB, 12
SMALL = 60 * MB  # tensors that stay, the rows that are looked up, activations, and what an allocator holds


def test_one_expert_is_kept_once_and_the_other_never(large, tmp_path):
    size = (large / "model.safetensors").stat().st_size
    used = measured(large, tmp_path, vram_mode="balanced", max_memory="0=64GiB,cpu=1GiB")
    assert size > 590 * MB
    assert used["held"] > LAYERS * LAYER, "one expert is to be kept"
    assert used["most"] < LAYERS * LAYER + 3 * LAYER + SMALL < 0.75 * size, used
    assert used["after"] < SMALL, used


def test_what_is_not_kept_takes_no_more_than_the_buffers(large, tmp_path):
    used = measured(large, tmp_path, vram_mode="low")
    assert used["most"] < 2 * LAYER + SMALL, used
