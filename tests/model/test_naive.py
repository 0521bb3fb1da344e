"""The engine's fast ways against slow ones that are plain to read."""

from itertools import pairwise

import pytest
import torch

import sensenova_core
from sensenova_core.drawing import flow
from sensenova_core.model.grid import Grid
from sensenova_core.reading.prefix import ReadingAttention
from sensenova_core.reading.prompt import positions, runs
from tests.support.each import each
from tests.support.golden_set import checkpoint, relative_error
from tests.support.naive import Naive

TOLERANCE = 1e-5


@pytest.fixture(autouse=True)
def inference():
    with torch.inference_mode():
        yield


def naive_picture(folder, engine, width, height, steps, cfg, shift, t_eps, seed) -> torch.Tensor:
    """The whole picture by the formula: each branch reads prompt and image anew at every step."""
    model, sequences = Naive(folder), engine.encode("a red circle").sequences
    scale = model.noise_scale(width * height // engine.config.token_pixels**2)
    z = scale * flow.starting_noise(flow.noise_stream(seed), batch=1, height=height, width=width)[0]
    sigma = 1 - torch.linspace(0, 1, steps + 1, dtype=torch.float64)
    times = (1 - shift * sigma / (1 + (shift - 1) * sigma)).tolist()
    for t, t_next in pairwise(times):
        condition, nothing = (
            (model.guess(sequences[name].ids, z, t, scale) - z) / max(1 - t, t_eps)
            for name in ("condition", "unconditional")
        )
        z = z + (t_next - t) * (nothing + cfg * (condition - nothing))
    return z


def no_renormalising(raw):
    raw["llm_config"].pop("norm_topk_prob")


def untold_noise(raw):
    raw["add_noise_scale_embedding"] = False


def no_noise_embedder(tensors):
    for name in [name for name in tensors if "noise_scale_embedder" in name]:
        del tensors[name]


def strong_noise(raw):
    raw.update(noise_scale=40.0, noise_scale_max_value=5.0)  # so that the cap is reached


def noise_mode(mode: str):
    return lambda raw: raw.update(noise_scale_mode=mode, noise_scale=0.7)


VARIANTS = {
    "dense": ("tiny-u15", None, None),
    "experts": ("tiny-a3b", None, None),
    "experts, not renormalised": ("tiny-a3b", no_renormalising, None),
    "not told the noise": ("tiny-u15", untold_noise, no_noise_embedder),
    "capped noise": ("tiny-a3b", strong_noise, None),
    "one noise for every size": ("tiny-u15", noise_mode("static"), None),
    "noise by the root of the root": ("tiny-u15", noise_mode("dynamic_sqrt"), None),
}


@pytest.mark.parametrize("variant", VARIANTS)
def test_whole_picture(copy_of, variant):
    name, config, weights = VARIANTS[variant]
    folder = copy_of(name, config=config, weights=weights)
    engine = sensenova_core.load(folder)
    # t_eps large enough to matter at the last step
    settings = {"width": 96, "height": 64, "steps": 3, "cfg": 3.0, "shift": 2.0, "t_eps": 0.6, "seed": 3}
    *_, last = engine.sample(engine.encode("a red circle"), **settings)
    assert relative_error(last.pixels()[0], naive_picture(folder, engine, **settings)) < 10 * TOLERANCE


def naive_attention(query, key, value, visible) -> torch.Tensor:
    """(batch, tokens, heads, head_dim), heads repeated where there are fewer."""
    repeat = query.shape[2] // key.shape[2]
    key, value = key.repeat_interleave(repeat, 2), value.repeat_interleave(repeat, 2)
    scores = torch.einsum("bqhd,bkhd->bhqk", query, key) / query.shape[-1] ** 0.5
    weights = scores.masked_fill(~visible, float("-inf")).softmax(-1)
    return torch.einsum("bhqk,bkhd->bqhd", weights, value)


@pytest.fixture(scope="module", params=["sdpa", "auto"])
def kernel(request):
    return sensenova_core.load(checkpoint("tiny-u15"), attention=request.param, place=False).reader.kernel


@each("causal", [True, False])
@each("new, seen", [(1, 1), (1, 9), (5, 5), (5, 9)])
@each("kv_heads", [4, 2, 1])
def test_attention(kernel, causal, new, seen, kv_heads):
    random = torch.Generator().manual_seed(0)
    query = torch.randn(2, new, 4, 16, generator=random)
    key, value = torch.randn(2, 2, seen, kv_heads, 16, generator=random)
    visible = torch.ones(new, seen, dtype=torch.bool)
    if causal:  # the last new token sees the last key
        visible = torch.arange(seen)[None] <= torch.arange(seen - new, seen)[:, None]
    out = kernel(query, key, value, causal=causal)
    assert relative_error(out, naive_attention(query, key, value, visible)) < TOLERANCE


# two images, of 6 and 4 tokens, in text
IDS = torch.tensor([39, 72, 220, 510, *[509] * 6, 511, 277, 220, 510, *[509] * 4, 511, 266, 74, 510])
GRIDS = (Grid(2, 3, 32), Grid(2, 2, 32))


@each("name", ["tiny-u15", "tiny-a3b"])
@each("cut", [1, 3, 10, 11, 13, 18, 21])
def test_reading_in_two_parts(engines, name, cut):
    """Cut anywhere but inside an image, the second part on the first one's prefix."""
    model, reader = engines(name).model, engines(name).reader
    decoder, kernel = model.understanding.decoder, reader.kernel
    embedded = engines(name).memory.residency.embed(IDS)[None]
    where = positions(IDS, start_id=510, slot_id=509, grids=GRIDS)

    def read(part: slice, context):
        context.reserve(context.tokens + where[:, part].shape[1])
        reading = ReadingAttention(context, runs(where[0, part]), kernel)
        hidden = decoder(
            embedded[:, part], model.rotation(where[None, :, part]), reading.attend_at, layers=decoder.layers
        )
        context.advance(hidden.shape[1], int(where[0, part][-1]))
        return hidden, context.prefix()

    context = reader.new_context(cut)  # so that its buffers grow in between
    whole, at_once = read(slice(None), reader.new_context(len(IDS)))
    first, past = read(slice(cut), context)
    second, prefix = read(slice(cut, None), context)
    assert past.tokens == cut and past.last_t == where[0, cut - 1]
    assert relative_error(torch.cat([first, second], 1), whole) < TOLERANCE
    assert prefix.tokens == at_once.tokens == len(IDS) and prefix.last_t == at_once.last_t
    for ours, expected in zip((*prefix.keys, *prefix.values), (*at_once.keys, *at_once.values), strict=True):
        assert relative_error(ours, expected) < TOLERANCE


def test_an_image_sees_itself_and_not_what_follows(engines):
    """Changing a token moves what may see it and nothing else."""
    model, reader = engines("tiny-u15").model, engines("tiny-u15").reader
    where = positions(IDS, start_id=510, slot_id=509, grids=GRIDS)
    embedded = engines("tiny-u15").memory.residency.embed(IDS)[None]

    def moved(token: int) -> list[int]:
        out = []
        for x in (embedded, embedded.index_fill(1, torch.tensor([token]), 0.5)):
            reading = ReadingAttention(reader.new_context(len(IDS)), runs(where[0]), reader.kernel)
            decoder = model.understanding.decoder
            out.append(decoder(x, model.rotation(where[None]), reading.attend_at, layers=decoder.layers)[0])
        return (out[0] != out[1]).any(-1).nonzero().flatten().tolist()

    assert moved(9) == list(range(4, 22))  # the last token of the first image, tokens 4 to 9
    assert moved(12) == list(range(12, 22))  # text


def test_golden_and_naive_agree(engines):
    """That the slow way is right, from a reference case."""
    from tests.support.golden_set import case_named, tensors

    case = case_named("a3b_t2i_64x64_cfg1_shift3")
    golden, model = tensors(case), Naive(checkpoint("tiny-a3b"))
    noise = (
        case["noise_scale"]
        * flow.starting_noise(flow.noise_stream(case["params"]["seed"]), batch=1, height=64, width=64)[0]
    )
    guess = model.guess(golden["input_ids_cond"].long(), noise, 0.0, case["noise_scale"])
    t = golden["timesteps"][1]
    z = noise + t * (guess - noise)
    side = engines("tiny-a3b").config.token_pixels
    tokens = z.view(3, 64 // side, side, 64 // side, side).permute(1, 3, 2, 4, 0).reshape(1, -1, side * side * 3)
    assert relative_error(tokens, golden["z_steps"][0]) < TOLERANCE
