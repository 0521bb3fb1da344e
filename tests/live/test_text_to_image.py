"""The shipped text-to-image workflow on a real server: pictures, progress, previews, caching, interruption."""

import re
from collections.abc import Callable
from itertools import pairwise

from PIL import Image, ImageChops

from sensenova_core.memory.plan_text import IN_PLACE
from tests.live.client import Client, Run
from tests.live.workflows import (
    ENCODE,
    LOADER,
    REDRAW,
    RESOLUTION,
    SAMPLER,
    SAVE,
    SIDE,
    STEPS,
    text_to_image,
)

PREVIEW_SIDE = 512


def test_progress_counts_the_steps(first_run):
    run, _ = first_run
    assert [data["value"] for data in run.of("progress", SAMPLER)] == list(range(STEPS + 1))
    assert {data["max"] for data in run.of("progress", SAMPLER)} == {STEPS}


def test_plan_time_left_and_what_it_took_are_told(first_run):
    run, _ = first_run
    texts = run.texts(SAMPLER)
    assert texts[0] == IN_PLACE and len(texts) == STEPS + 2
    assert [text.partition("\n")[0] for text in texts] == [IN_PLACE] * len(texts)
    assert texts[1] == f"{IN_PLACE}\nstep 1 of {STEPS}"
    assert re.search(rf"\nstep 2 of {STEPS}, \d+\.\d\d s each, about \d+ s left$", texts[2])
    assert re.search(r"\n\d+\.\d s in all; peak \d+\.\d\d GiB of system memory$", texts[-1])


def test_every_step_shows_another_preview(first_run):
    previews = first_run[0].previews
    assert len(previews) == STEPS
    assert {preview.data["node_id"] for preview in previews} == {SAMPLER}
    for preview in previews:
        assert preview.image.format == "JPEG"
        assert max(preview.image.size) <= PREVIEW_SIDE
    assert all(one.image.tobytes() != other.image.tobytes() for one, other in pairwise(previews))


def test_preview_of_a_wide_picture_keeps_its_shape(client):
    run = client.run(text_to_image(Resolution={"size.width": 1024, "size.height": 256}, FlowMatchSampler={"steps": 1}))
    assert [preview.image.size for preview in run.previews] == [(PREVIEW_SIDE, PREVIEW_SIDE // 4)]


def test_no_preview_when_switched_off(client):
    run = client.run(text_to_image(FlowMatchSampler={"seed": 2}), preview_method="none")
    assert run.of("progress", SAMPLER)
    assert not run.previews


def after_the_same(client: Client, other: Callable[[int], dict]) -> Run:
    """A run right after the plain workflow. Now and then ComfyUI forgets that one by itself: three attempts."""
    for attempt in range(1, 4):
        client.run(text_to_image())
        run = client.run(other(attempt))
        if {LOADER, RESOLUTION} <= run.cached:
            break
    return run


def test_another_seed_samples_again_and_nothing_else(client, first_run):
    run = after_the_same(client, lambda attempt: text_to_image(FlowMatchSampler={"seed": 3 + attempt}))
    assert run.executed == [SAMPLER, SAVE]
    assert run.cached == {LOADER, ENCODE, RESOLUTION}
    assert _pixels(client, run) != first_run[1]


def test_another_prompt_encodes_and_samples_again(client, first_run):
    run = after_the_same(client, lambda attempt: text_to_image(TextEncode={"prompt": "a lighthouse in fog" * attempt}))
    assert run.executed == [ENCODE, SAMPLER, SAVE]
    assert run.cached == {LOADER, RESOLUTION}
    assert _pixels(client, run) != first_run[1]


def test_a_batch_draws_different_pictures_the_first_as_alone(client, first_run):
    images = client.images(client.run(text_to_image(FlowMatchSampler={"batch_size": 3})), SAVE)
    assert len({image.tobytes() for image in images}) == 3
    alone = Image.frombytes("RGB", (SIDE, SIDE), first_run[1])
    differences = ImageChops.difference(images[0], alone).getextrema()
    assert max(most for _, most in differences) <= 1  # a level; sums of a larger batch may round differently


def test_interruption_stops_within_one_step(client, first_run):
    long = text_to_image(Resolution={"size.width": 1024, "size.height": 1024}, FlowMatchSampler={"steps": 600})
    run, later, _ = client.interrupted(long, lambda message: message.type == "progress" and message.data["value"] == 3)
    assert [message.data["value"] for message in later if message.type == "progress"] in ([], [4])  # 4: on its way
    [interruption] = run.of("execution_interrupted")
    assert interruption["node_id"] == SAMPLER

    assert _pixels(client, client.run(text_to_image(FlowMatchSampler=REDRAW))) == first_run[1]


def _pixels(client, run: Run) -> bytes:
    return client.images(run, SAVE)[0].tobytes()
