"""Documents of text and pictures against the reference implementation."""

from types import SimpleNamespace

import pytest
import torch

from sensenova_core import Guidance, SamplingSettings
from sensenova_core.reading.images import reference_image
from sensenova_core.settings import DecodingSettings, DocumentSettings, edit_pixel_limits
from sensenova_core.writing.document import Drawing, End, Text
from tests.support.golden_run import BRANCHES
from tests.support.golden_set import Forced, cases, images, relative_error, tensors
from tests.support.watch import inputs

PICTURE = 1e-4  # worst measured: 6.7e-6
COMPONENT = 1e-5


def document_settings(case) -> DocumentSettings:
    params, sizes = case["params"], case["image_size_wh"]
    sizes = tuple(map(tuple, sizes if isinstance(sizes[0], list) else [sizes]))
    sampling = SamplingSettings(
        steps=params["num_steps"],
        guidance=Guidance(
            params["cfg_scale"], params["img_cfg_scale"], params["cfg_norm"], tuple(params["cfg_interval"])
        ),
        shift=params["timestep_shift"],
        t_eps=params["t_eps"],
        seed=params["seed"],
    )
    return DocumentSettings(
        sampling=sampling,
        sizes=sizes,
        decoding=DecodingSettings(max_tokens=params["max_new_tokens"]),
        max_images=params["max_images"] if len(sizes) == 1 else len(sizes),
        think=params["think_mode"],
        system=params["system_message"],
    )


@pytest.fixture(scope="module", params=cases("interleave"), ids=lambda case: case["name"])
def written(request, engines) -> SimpleNamespace:
    """One document. embedded: the tokens that each drawn image was read back as."""
    case = request.param
    engine, forced = engines(case["checkpoint"]), Forced(case["decode"]["forced_tokens"])
    given, settings, embedded = images(case), document_settings(case), []
    vision = engine.model.understanding.vision
    hook = vision.register_forward_hook(lambda _, __, out: embedded.append(out[0].clone()))
    engine.remembered.forget()
    with inputs(engine.model.generation.vision, torch.clone) as noisy:
        events = list(engine.interleave(case["prompt"], given, settings=settings, choose=forced))
    hook.remove()
    drawings = [event for event in events if isinstance(event, Drawing)]
    limits = edit_pixel_limits(len(given))
    references = tuple(reference_image(image, engine.config.token_pixels, limits=limits) for image in given)
    return SimpleNamespace(
        case=case,
        golden=tensors(case),
        engine=engine,
        settings=settings,
        sequences=engine.prompts.document(
            case["prompt"],
            references,
            system=settings.system,
            think=settings.think,
        ),
        forced=forced,
        events=events,
        noisy=noisy,
        drawings=drawings,
        finished=[event.step for event in drawings if event.step.index + 1 == event.step.total],
        embedded=embedded[len(references) :],
    )


def of_each_image(written, name: str):
    """(index, reference tensor) of the images that the case holds it for."""
    named = ((index, f"{name}_{index}") for index in range(written.case["n_images"]))
    return [(index, written.golden[key]) for index, key in named if key in written.golden]


def test_ids_and_positions(written):
    sequences = (*written.sequences, written.engine.prompts.unconditional())
    for sequence, theirs in zip(sequences, BRANCHES.values(), strict=True):
        assert sequence.ids.tolist() == written.golden[f"input_ids_{theirs}"].tolist()
        assert sequence.positions.tolist() == written.golden[f"indexes_{theirs}"].tolist()


def test_choices(written):
    steps = {step["step"]: step["natural"] for step in written.case["decode"]["decode_steps"]}
    ours = {step: token for step, token in enumerate(written.forced.natural) if step in steps}
    assert ours == {step: token for step, token in steps.items() if step < len(written.forced.natural)}


def test_logits(written):
    ours = torch.stack(written.forced.logits)
    assert relative_error(ours, written.golden["decode_logits"][: len(ours)]) < COMPONENT


def test_text_and_end(written):
    text, finished = "", 0
    for event in written.events:
        if isinstance(event, Text):
            text += event.text
        elif isinstance(event, Drawing) and event.step.index + 1 == event.step.total:
            text, finished = text + "<image>", finished + 1
    assert text == written.case["expected"]["text"]
    assert finished == written.case["n_images"]
    capped = "max_new_tokens" in written.case["name"]
    assert written.events[-1] == End("max_tokens" if capped else "end")


def test_noise_goes_on_from_image_to_image(written):
    steps = written.settings.sampling.steps
    for index, reference in of_each_image(written, "init_image"):
        assert torch.equal(written.noisy[index * steps], written.finished[index].grid.image_to_patches(reference))


def test_times(written):
    for index, reference in of_each_image(written, "timesteps"):
        ours = [event.step.t for event in written.drawings if event.index == index]
        assert ours == pytest.approx(reference[:-1].tolist(), abs=1e-6)


def test_images(written):
    compared = of_each_image(written, "image")
    assert compared
    for index, reference in compared:
        assert relative_error(written.finished[index].pixels(), reference) < PICTURE


def test_images_read_back(written):
    compared = of_each_image(written, "reencoded_vit_embeds")
    assert len(compared) == written.case["n_images"] == len(written.embedded)
    for index, reference in compared:
        assert relative_error(written.embedded[index], reference) < COMPONENT
