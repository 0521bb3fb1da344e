"""Train the demo checkpoint, both experts together, on scenes that a script draws. Needs torch 2.9, which has Muon.

    python -m tools.demo.train FOLDER

FOLDER gets state.safetensors, from which the same command goes on, log.txt, and the checkpoint itself in
FOLDER/checkpoint, written each time the state is. With more --steps it goes on as a training of that length would.
"""

import argparse
import json
import math
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, distributed, multiprocessing, nn
from torch.utils.data import DataLoader, Dataset

from sensenova_core.checkpoint import checkpoint_name
from sensenova_core.model.config import ModelConfig
from sensenova_core.reading.prompt import PromptBuilder
from tools.demo.batches import Batch, batches_of_step
from tools.demo.family import completed, write_beside_weights
from tools.demo.initial import new_model
from tools.demo.learning import KindReadout, Losses, losses
from tools.demo.rows import RememberingTokenizer
from tools.demo.stages import TASKS, Stage, stage_at
from tools.demo.vocabulary import trained_tokenizer

CONFIG = {
    "architectures": ["NEOChatModel"],
    "model_type": "neo_chat",
    "template": "neo1_0",
    "downsample_ratio": 0.5,
    "use_pixel_head": True,
    "fm_head_layers": 2,
    "noise_scale_mode": "resolution",
    "noise_scale": 1.0,
    "noise_scale_base_image_seq_len": 1,
    "max_pixels": 16384,
    "noise_scale_max_value": 8.0,
    "add_noise_scale_embedding": True,
    "llm_config": {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "hidden_size": 192,
        "intermediate_size": 512,
        "num_hidden_layers": 6,
        "num_attention_heads": 6,
        "num_key_value_heads": 3,
        "head_dim": 32,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e4,
        "rope_theta_hw": 1e1,
        "max_position_embeddings": 8192,
    },
    "vision_config": {"hidden_size": 128, "num_channels": 3, "patch_size": 16, "rope_theta_vision": 1e4},
}
HEAD_WIDTH = 256  # of the pixel head as it is trained
PUBLISHED_HEAD_WIDTH = 1024  # the only one that other implementations know
BETAS, WEIGHT_DECAY, LONGEST_GRADIENT = (0.9, 0.98), 0.01, 1.0
WARM_UP, DECAY = 200, 0.2  # steps; part of the training over which the rate falls to nothing
AVERAGING = 0.998
SMALL_PART = 0.15  # of the rate, for weights that are small
STATE, LINE_EVERY = "state.safetensors", 50  # steps
WRITING, KIND = 0.5, 0.5  # weights of the cross entropies beside the velocity's error


def widened(name: str, value: Tensor) -> Tensor:
    """A weight of the pixel head with zeros up to the published width, which change nothing that it draws."""
    missing = {"conv1.weight": (0, 1), "conv1.bias": (0, 1), "conv2.weight": (1, 4)}.get(".".join(name.split(".")[-2:]))
    if missing is None or "head." not in name:
        return value
    axis, share = missing
    shape = [*value.shape]
    shape[axis] = PUBLISHED_HEAD_WIDTH // share - shape[axis]
    return torch.cat([value, value.new_zeros(shape)], axis)


def optimisers(parameters: dict[str, nn.Parameter]) -> list[torch.optim.Optimizer]:
    """Muon for the matrices of the layers, which learn twice as fast with it; AdamW for all else.

    The rate suits weights of about 0.1. What looks at patches, and what draws them, has far smaller ones, and at that
    rate would be lost in its own noise.
    """
    inner = [value for name, value in parameters.items() if ".layers." in name and value.dim() == 2]
    outer = {name: value for name, value in parameters.items() if ".layers." not in name and value.dim() > 1}
    words = [value for name, value in outer.items() if "embed_tokens" in name or "readout." in name]
    small = [value for name, value in outer.items() if "embed_tokens" not in name and "readout." not in name]
    vectors = [value for value in parameters.values() if value.dim() == 1]
    groups = [
        {"params": words, "weight_decay": WEIGHT_DECAY, "part": 1.0},
        {"params": small, "weight_decay": WEIGHT_DECAY, "part": SMALL_PART},
        {"params": vectors, "weight_decay": 0.0, "part": 1.0},
    ]
    return [
        torch.optim.Muon(inner, weight_decay=WEIGHT_DECAY, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(groups, betas=BETAS, fused=True),
    ]


def rate(step: int, steps: int, peak: float) -> float:
    """Up in a straight line, level, and down along a cosine over the last part."""
    if step < WARM_UP:
        return peak * (step + 1) / WARM_UP
    left = (steps - step) / (DECAY * steps)
    return peak * (0.5 - 0.5 * math.cos(math.pi * left) if left < 1 else 1.0)


class Training:
    """Model, optimiser, running average and step: all that a state file holds."""

    def __init__(self, config: ModelConfig, seed: int):
        self.seed, self.step, self.seconds = seed, 0, 0.0
        self.model, self.readout = new_model(config, seed), KindReadout(config)
        self.parameters = dict(self.model.named_parameters())
        self.parameters |= {f"readout.{name}": value for name, value in self.readout.named_parameters()}
        self.average = {name: value.detach().clone() for name, value in self.parameters.items()}
        self.optimisers = optimisers(self.parameters)
        # Gradients of all parameters and losses of all tasks, which processes add up at once.
        sizes = [value.numel() for value in self.parameters.values()]
        found = len(TASKS) * len(Losses._fields) * 2
        self._shared = torch.zeros(sum(sizes) + found)
        *gradients, losses_ = self._shared.split([*sizes, found])
        pairs = zip(self.parameters.items(), gradients, strict=True)
        self._gradients = {name: flat.view(value.shape) for (name, value), flat in pairs}
        self._found = losses_.view(len(TASKS), len(Losses._fields), 2)  # (tasks, losses, sum and count)

    def learn(self, batches: list[Batch], learning_rate: float, stage: Stage) -> dict[str, float]:
        """One step over the sum of the losses of these batches, and of those that other processes have."""
        for name, parameter in self.parameters.items():
            parameter.grad = self._gradients[name].zero_()
        self._found.zero_()
        for batch in batches:
            place = TASKS.index(batch.task)
            stream = torch.Generator().manual_seed((self.seed * 1_000_003 + self.step) * len(TASKS) + place)
            found = losses(self.model, self.readout, batch, stream, stage)
            (found.draw + WRITING * found.write + KIND * found.kind).backward()
            for kind, loss in enumerate(found):
                if loss.requires_grad:
                    self._found[place, kind] += torch.tensor([float(loss.detach()), 1.0])
        if distributed.is_initialized():
            distributed.all_reduce(self._shared)
        length = torch.nn.utils.clip_grad_norm_(self.parameters.values(), LONGEST_GRADIENT)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = learning_rate * group.get("part", 1.0)
            optimiser.step()
        self.step += 1
        with torch.no_grad():
            keep = min(AVERAGING, self.step / (self.step + 10))
            torch._foreach_lerp_([*self.average.values()], [*self.parameters.values()], 1 - keep)
        return self._losses() | {"gradient": float(length)}

    def _losses(self) -> dict[str, float]:
        """Of every task that was learnt in the last step, by name."""
        means = self._found[..., 0] / self._found[..., 1]
        return {
            f"{task} {kind}": float(means[place, index])
            for place, task in enumerate(TASKS)
            for index, kind in enumerate(Losses._fields)
            if self._found[place, index, 1]
        }

    def save(self, folder: Path) -> None:
        """Write the state beside the old one, then put it in its place."""
        tensors = {}
        for name, value in self.parameters.items():
            tensors[f"weight/{name}"], tensors[f"average/{name}"] = value.detach(), self.average[name]
        by_value = {value: name for name, value in self.parameters.items()}
        for optimiser in self.optimisers:
            for value, moments in optimiser.state.items():
                tensors |= {f"{part}/{by_value[value]}": moment for part, moment in moments.items()}
        about = {"step": self.step, "seed": self.seed, "seconds": round(self.seconds)}
        save_file(tensors, folder / "state.new", metadata={"state": json.dumps(about)})
        os.replace(folder / "state.new", folder / STATE)

    def resume(self, folder: Path) -> None:
        """Go on from what `save` wrote. Raises ValueError for a training with another seed."""
        tensors = load_file(folder / STATE)
        with safe_open(folder / STATE, "pt") as file:
            about = json.loads(file.metadata()["state"])
        if about["seed"] != self.seed:
            raise ValueError(f"{folder} holds a training of seed {about['seed']}, not {self.seed}; give that --seed")
        self.step, self.seconds = about["step"], about["seconds"]
        by_value = {value: name for name, value in self.parameters.items()}
        for name, value in self.parameters.items():
            value.data.copy_(tensors[f"weight/{name}"])
            self.average[name].copy_(tensors[f"average/{name}"])
        for optimiser, parts in zip(
            self.optimisers, (("momentum_buffer",), ("step", "exp_avg", "exp_avg_sq")), strict=True
        ):
            for value in (value for group in optimiser.param_groups for value in group["params"]):
                optimiser.state[value] = {part: tensors[f"{part}/{by_value[value]}"].clone() for part in parts}

    def export(self, folder: Path, dtype: torch.dtype = torch.bfloat16) -> None:
        """The running average as the checkpoint's weights; its other files lie there already."""
        averages = {name: self.average[name] for name, _ in self.model.named_parameters()}
        tensors = {checkpoint_name(name): widened(name, value).to(dtype) for name, value in averages.items()}
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


class Steps(Dataset):
    """The batches of every step that are one process's part, made in another process."""

    def __init__(self, prompts: PromptBuilder, training: Training, arguments: argparse.Namespace, rank: int):
        self.prompts, self.seed, self.start, self.steps = prompts, training.seed, training.step, arguments.steps
        self.part = slice(rank, None, arguments.processes)

    def __len__(self) -> int:
        return self.steps - self.start

    def __getitem__(self, index: int) -> list[Batch]:
        step = self.start + index
        return batches_of_step(self.prompts, self.seed, step, stage_at(step / self.steps), self.part)


def prepared(folder: Path, raw: dict) -> tuple[dict, PromptBuilder]:
    """Write a checkpoint folder but for its weights; the whole config.json, and what makes prompts."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = trained_tokenizer()
    raw = completed(raw, tokenizer)
    write_beside_weights(folder, raw, tokenizer)
    return raw, prompts_of(folder, raw)


def prompts_of(folder: Path, raw: dict) -> PromptBuilder:
    positions = raw["llm_config"]["max_position_embeddings"]
    return PromptBuilder(RememberingTokenizer(folder), positions, 2 * raw["vision_config"]["patch_size"])


def train(rank: int, folder: Path, raw: dict, arguments: argparse.Namespace, meeting: int) -> None:
    """One of `processes` that learn together. meeting: the port where they meet."""
    torch.set_num_threads(arguments.threads)
    if arguments.processes > 1:
        store = distributed.TCPStore("localhost", meeting, is_master=rank == 0)
        distributed.init_process_group("gloo", store=store, rank=rank, world_size=arguments.processes)
    training = Training(ModelConfig.from_dict(raw).with_head_width(HEAD_WIDTH), arguments.seed)
    if (folder / STATE).is_file():
        training.resume(folder)
    data = Steps(prompts_of(folder / "checkpoint", raw), training, arguments, rank)
    loader = DataLoader(data, batch_size=None, num_workers=1, prefetch_factor=4)
    if rank:
        for _ in _steps(training, loader, None, arguments):
            pass
        return
    counted = sum(value.numel() for value in training.parameters.values())
    with open(folder / "log.txt", "a", encoding="utf-8") as log:
        _say(log, f"{counted:,} parameters, steps {training.step} to {arguments.steps}: {vars(arguments)}")
        for line in _steps(training, loader, folder, arguments):
            _say(log, line)
    training.save(folder)
    training.export(folder / "checkpoint")


def _steps(training: Training, loader: DataLoader, folder: Path | None, arguments: argparse.Namespace) -> Iterator[str]:
    """Take all steps, with a line now and then. folder: where the state is kept, by one process."""
    began, saved, waited, recent = time.monotonic(), time.monotonic(), 0.0, []
    asked = time.monotonic()
    for batches in loader:
        waited += time.monotonic() - asked
        learning_rate = rate(training.step, arguments.steps, arguments.rate)
        with torch.autocast("cpu", torch.bfloat16, enabled=not arguments.float32):
            recent.append(training.learn(batches, learning_rate, stage_at(training.step / arguments.steps)))
        now = time.monotonic()
        if training.step % LINE_EVERY == 0:
            training.seconds += now - began
            names = sorted({name for one in recent for name in one})
            means = [f"{name} {_mean(recent, name):.4f}" for name in names]
            speed = f"{(now - began) / len(recent):.2f} s a step, {waited:.0f} s waited"
            rated = f"rate {learning_rate:.2e}, {speed}, {training.seconds:.0f} s in all"
            yield f"step {training.step}: {', '.join(means)}, {rated}"
            began, waited, recent = now, 0.0, []
        if folder and now - saved > arguments.save_seconds:
            training.save(folder)
            training.export(folder / "checkpoint")
            saved = now
        asked = time.monotonic()


def _mean(found: list[dict[str, float]], name: str) -> float:
    values = [one[name] for one in found if name in one]
    return sum(values) / len(values)


def _say(log, line: str) -> None:
    print(line, flush=True)
    print(line, file=log, flush=True)


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--steps", type=int, default=15700, help="of the whole training")
    parser.add_argument("--rate", type=float, default=2e-3, help="highest learning rate")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--processes", type=int, default=min(2, os.cpu_count() or 1), help="that share a step's tasks")
    parser.add_argument("--threads", type=int, default=1, help="of each process; a second one helps little")
    parser.add_argument("--save-seconds", type=float, default=300)
    parser.add_argument("--float32", action="store_true", help="matrix products in float32 instead of bfloat16")
    return parser.parse_args()


def main() -> None:
    chosen = parsed()
    raw, _ = prepared(chosen.folder / "checkpoint", CONFIG)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(train, (chosen.folder, raw, chosen, port), chosen.processes)


if __name__ == "__main__":
    main()
