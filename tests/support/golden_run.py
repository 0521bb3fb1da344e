"""A reference case drawn as a user would, with what goes in and out of the model recorded on the way."""

from types import SimpleNamespace

from sensenova_core import Conditioning, Engine
from tests.support.golden_set import Case, sample_settings, tensors

# ours -> as golden files spell them
BRANCHES = {"condition": "cond", "images_only": "img_cond", "unconditional": "uncond"}


def drawn_case(engine: Engine, case: Case, conditioning: Conditioning) -> SimpleNamespace:
    settings = sample_settings(case)
    generation, embedded, guesses = engine.model.generation, [], []
    hooks = [
        generation.vision.register_forward_pre_hook(lambda _, args: embedded.append(args[0].clone())),
        generation.head.register_forward_hook(lambda _, __, out: guesses.append(out.clone())),
    ]
    steps = list(engine.sample(conditioning, **settings))
    for hook in hooks:
        hook.remove()
    return SimpleNamespace(
        case=case,
        settings=settings,
        golden=tensors(case),
        engine=engine,
        conditioning=conditioning,
        steps=steps,
        embedded=embedded,
        guesses=guesses,
        grid=engine.config.grid(width=settings["width"], height=settings["height"]),
    )


def check_ids_and_positions(drawn: SimpleNamespace) -> set[str]:
    """Every branch that the case holds, and the image after it; returns these branches."""
    compared = set()
    for ours, theirs in BRANCHES.items():
        if f"input_ids_{theirs}" in drawn.golden:
            sequence = drawn.conditioning.sequences[ours]
            assert sequence.ids.tolist() == drawn.golden[f"input_ids_{theirs}"].tolist()
            assert sequence.positions.tolist() == drawn.golden[f"indexes_{theirs}"].tolist()
            image = drawn.grid.positions(sequence.last_t + 1)
            assert image.tolist() == drawn.golden[f"image_indexes_{theirs}"].tolist()
            compared.add(ours)
    return compared
