"""What a user did wrong is said at the node where it was done, before or instead of a run."""

import shutil

import pytest

from tests.live.client import Rejected
from tests.live.workflows import ENCODE, LOADER, REDRAW, SAMPLER, SAVE, text_to_image

REFUSED = {
    "unknown checkpoint": (LOADER, {"Loader": {"checkpoint": "not-there"}}, "not-there"),
    "unknown norm": (SAMPLER, {"FlowMatchSampler": {"cfg_norm": "local"}}, "local"),
    "no steps": (SAMPLER, {"FlowMatchSampler": {"steps": 0}}, "steps"),
}
FAILS = {
    "reversed interval": (
        SAMPLER,
        {"FlowMatchSampler": {"cfg_start": 0.8, "cfg_end": 0.2}},
        "cfg_interval 0.8 to 0.2 is not an interval",
    ),
    "odd size": (
        SAMPLER,
        {"Resolution": {"size.width": 260}},
        "width is 260; this model draws multiples of 32, such as 256",
    ),
    "image in the prompt": (
        ENCODE,
        {"TextEncode": {"prompt": "like <image> but red"}},
        "names 1 more <image> than there are images",
    ),
    "damaged checkpoint": (LOADER, {"Loader": {"checkpoint": "damaged"}}, "truncated or damaged"),
    "no flash-attn": (LOADER, {"Loader": {"attention": "flash"}}, "install flash-attn, or choose"),
    "unreadable limit": (LOADER, {"Loader": {"max_memory": "lots"}}, "cannot read 'lots'; write a size such as 13GiB"),
}


@pytest.fixture(scope="module", autouse=True)
def damaged(models):
    folder = models / "damaged"
    shutil.copytree(models / "demo", folder)
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])
    yield
    shutil.rmtree(folder)


@pytest.mark.parametrize("case", REFUSED)
def test_refused_before_the_run(client, case):
    node, changes, text = REFUSED[case]
    with pytest.raises(Rejected) as refusal:
        client.queue(text_to_image(**changes))
    assert list(refusal.value.errors) == [node]
    assert text in str(refusal.value.errors[node])


@pytest.mark.parametrize("case", FAILS)
def test_reported_by_the_node(client, case):
    node, changes, text = FAILS[case]
    run = client.run(text_to_image(**changes))
    assert run.outcome == "execution_error"
    assert run.error["node_id"] == node
    assert text in run.error["exception_message"]


def test_the_next_run_is_fine(client, first_run):
    run = client.run(text_to_image(FlowMatchSampler=REDRAW))
    assert client.images(run, SAVE)[0].tobytes() == first_run[1]
