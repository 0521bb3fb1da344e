"""What runs while a test looks on: how often a module is called, and with how much."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from sensenova_core import Conditioning, Engine, Thought
from sensenova_core.drawing.sampling import Step
from sensenova_core.reading.tokenizer import markup
from tests.support.golden_set import Forced

SMALL = {"width": 64, "height": 64, "steps": 4, "seed": 5}


def last_of(steps: Iterator[Step]) -> Tensor:
    *_, step = steps
    return step.pixels()


def thought_through(thoughts: Iterator[Thought]) -> Conditioning:
    *_, thought = thoughts
    assert thought.conditioning is not None
    return thought.conditioning


def draw(engine: Engine, prompt: str = "a red circle", images=(), **settings) -> Tensor:
    """The picture as the model sees it; reference images are made small, which is fast."""
    return last_of(engine.sample(engine.encode(prompt, images, max_pixels=16_384), **SMALL | settings))


@contextmanager
def inputs(module: nn.Module, measure: Callable[[Tensor], Any]) -> Iterator[list]:
    """What `measure` says of a module's first argument at each call, in order."""
    seen: list = []
    hook = module.register_forward_hook(lambda _, args, __: seen.append(measure(args[0])))
    yield seen
    hook.remove()


def calls(module: nn.Module):
    """The batch sizes a module is called with."""
    return inputs(module, lambda x: x.shape[0])


def tokens_read(engine: Engine):
    """How many tokens the understanding expert is given at a time."""
    return inputs(engine.model.understanding.decoder.layers[0], lambda x: x.shape[1])


def images_embedded(engine: Engine):
    """How many tokens each reference image that is embedded comes to."""
    return inputs(engine.model.understanding.vision, lambda x: x.shape[1])


@contextmanager
def calls_of_linears(layers: nn.Module) -> Iterator[dict[str, list[int]]]:
    """Name -> batch sizes, of every linear layer below. A feed-forward layer's rows are the batch's tokens."""
    seen: dict[str, list[int]] = {name: [] for name, part in layers.named_modules() if isinstance(part, nn.Linear)}
    tokens = 1

    def note(name: str, shape: torch.Size) -> None:
        nonlocal tokens
        tokens = shape[1] if len(shape) == 3 else tokens
        seen[name].append(shape[0] if len(shape) == 3 else shape[0] // tokens)

    hooks = [
        layers.get_submodule(name).register_forward_hook(lambda _, args, __, name=name: note(name, args[0].shape))
        for name in seen
    ]
    yield seen
    for hook in hooks:
        hook.remove()


def saying(engine: Engine, text: str) -> Forced:
    """Chooses the tokens of `text`, in which special tokens may be spelled, whatever the model would have said."""
    return Forced(dict(enumerate(engine.tokenizer.encode(markup(text)))))
