"""What tasks need on the device beside the weights: estimated from above, and not by much."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from sensenova_core import ModelConfig, SamplingSettings
from sensenova_core.checkpoint import TensorHeader, checkpoint_name
from sensenova_core.checkpoint.int8 import make_int8
from sensenova_core.drawing.canvas import Canvas
from sensenova_core.drawing.sampling import Denoiser
from sensenova_core.drawing.solving import Guess, Look
from sensenova_core.memory.activations import PAINTING, SOLVING, Activations
from sensenova_core.model import MixtureOfExperts, SenseNovaU1
from sensenova_core.reading.prefix import Prefix
from sensenova_core.reading.prompt import TokenSequence, text_positions
from sensenova_core.reading.reader import Reader
from sensenova_core.settings import DocumentSettings, Guidance
from sensenova_core.writing.document import growing
from tests.model.test_full_size import DENSE, SPARSE, config_json
from tests.support.each import each
from tests.support.mixtures import in_one_buffer
from tests.support.peak import PeakBytes
from tests.support.pictures import picture
from tests.support.watch import SMALL, last_of

GIB = 2**30
PREFIXES = {"condition": 400, "unconditional": 9}
TWO_REFERENCES = {"condition": 8600, "images_only": 8300, "unconditional": 9}  # each of 4096 tokens
FEW_EXPERTS = {**SPARSE, "num_hidden_layers": 3}  # of the real width
grouped = pytest.mark.skipif(
    not hasattr(torch.nn.functional, "grouped_mm"), reason="without numbers, experts are multiplied in groups alone"
)


def config(decoder=DENSE) -> ModelConfig:
    return ModelConfig.from_dict(config_json(decoder, True, 16.0))


def storageless(dtype: torch.dtype, decoder=DENSE) -> SenseNovaU1:
    """The 8B model, or another, on the meta device, where everything is computed but numbers."""
    model = SenseNovaU1.on_meta(config(decoder)).to(dtype)
    if decoder is not DENSE:
        for layer in (*model.understanding.decoder.layers, *model.generation.decoder.layers):
            in_one_buffer(layer)
    return model


def storageless_int8(decoder=DENSE, group: int = 256) -> SenseNovaU1:
    """The same with the linear layers of its decoders in INT8, rotated."""
    model = SenseNovaU1.on_meta(config(decoder)).to(torch.bfloat16)
    headers = {}
    for name, value in model.named_parameters():
        if "_proj" in name:
            scale = TensorHeader(Path("x"), "F32", (len(value), 1), 0)
            header = TensorHeader(Path("x"), "I8", tuple(value.shape), 0, scale=scale, group=group)
            headers[checkpoint_name(name)] = header
    make_int8(model, headers, headers)
    return model


def kernel(query, key, value, *, causal):
    """Attention as kernels on a card do it: without the matrix of scores."""
    return torch.empty_like(query)


def drawing_peak(model: SenseNovaU1, settings: SamplingSettings, prefixes: dict[str, int], **begun) -> int:
    decoder, dtype = model.config.decoder, model.dtype
    shape = (decoder.num_kv_heads, decoder.head_dim)
    with torch.inference_mode(), PeakBytes("meta") as peak:
        peak.leave_out(model.parameters())
        read = {}
        for name, tokens in prefixes.items():
            keys, values = (
                tuple(torch.empty(1, tokens, *shape, device="meta", dtype=dtype) for _ in range(decoder.num_layers))
                for _ in range(2)
            )
            read[name] = Prefix(keys, values, tokens - 1)
        for step in Denoiser(model, read, settings, kernel=kernel, edit=len(prefixes) > 2, **begun).steps():  # noqa: B007
            pass
        step.pixels()
    return peak.most


@each("dtype", [torch.bfloat16, torch.float32])
@each(
    "change, prefixes",
    [
        ({}, PREFIXES),
        ({"guidance": Guidance(1.0)}, {"condition": 400}),
        ({"width": 1024, "height": 1024}, PREFIXES),
        ({"batch_size": 2}, PREFIXES),
        ({}, {"condition": 8700, "unconditional": 8300}),
        ({"width": 4096, "height": 4096}, PREFIXES),
        ({"width": 3840, "height": 2160, "crop": True}, PREFIXES),
        ({"width": 4096, "height": 4096, "guidance": Guidance(4.0, 2.0)}, TWO_REFERENCES),
    ],
)
def test_drawing_at_full_size_is_estimated_closely_from_above(dtype, change, prefixes):
    settings = replace(SamplingSettings(steps=2), **change)
    peak = drawing_peak(storageless(dtype), settings, prefixes)
    estimate = Activations(config(), dtype.itemsize).drawing_bytes(settings, prefixes)
    assert peak <= estimate <= 1.35 * peak, (peak / GIB, estimate / GIB)


@pytest.mark.parametrize("decoder", [DENSE, FEW_EXPERTS], ids=["dense", "experts"])
@pytest.mark.parametrize("change", [{}, {"width": 1024, "height": 1024}, {"width": 512, "height": 512}], ids=str)
def test_drawing_as_int8_is_estimated_from_above(monkeypatch, decoder, change):
    """By torch alone, which takes more than comfy-kitchen's kernels."""
    if decoder is FEW_EXPERTS:  # without numbers, nobody knows how many rows each expert has: one has all of them
        monkeypatch.setattr(MixtureOfExperts, "_one_by_one", lambda self, rows, ends: self.experts[0].at_once(rows))
    settings = replace(SamplingSettings(steps=1), **change)
    peak = drawing_peak(storageless_int8(decoder), settings, PREFIXES)
    estimate = Activations(config(decoder), 2, int8=True).drawing_bytes(settings, PREFIXES)
    assert peak <= estimate <= (1.45 if decoder is DENSE else 1.7) * peak, (peak / GIB, estimate / GIB)


def heun(ask, z, course):
    """As ComfyUI has it."""
    for index, t in enumerate(course.times[:-1].tolist()):
        guess = ask(Guess(z, t))
        ask(Look(index, z, guess, t))
        direction = z - guess
        ahead = z - direction * 0.5
        z = z - (direction + (ahead - ask(Guess(ahead, t)))) / 2 * 0.5
    return z


@each("change", [{}, {"width": 4096, "height": 4096, "feather": 32}, {"batch_size": 2}])
@each("solver", [None, heun])
def test_painting_at_full_size_is_estimated_closely_from_above(change, solver):
    settings = replace(SamplingSettings(steps=2, denoise=0.5), **change)
    size = settings.batch_size, settings.height, settings.width
    canvas = Canvas(torch.empty(*size, 3, device="meta"), torch.empty(size, device="meta"))
    peak = drawing_peak(storageless(torch.bfloat16), settings, PREFIXES, canvas=canvas, solver=solver)
    beside = PAINTING + (SOLVING if solver else 0)
    estimate = Activations(config(), 2).drawing_bytes(settings, PREFIXES, beside)
    assert peak <= estimate <= 1.35 * peak, (peak / GIB, estimate / GIB)


@grouped
@pytest.mark.parametrize("change", [{}, {"width": 1024, "height": 1024}, {"batch_size": 2}], ids=str)
def test_drawing_by_experts_is_estimated_from_above(change):
    """Less closely: these models have half as many K/V heads for as many others, which the estimate does not count."""
    settings = replace(SamplingSettings(steps=1), **change)
    peak = drawing_peak(storageless(torch.bfloat16, FEW_EXPERTS), settings, PREFIXES)
    estimate = Activations(config(FEW_EXPERTS), 2).drawing_bytes(settings, PREFIXES)
    assert peak <= estimate <= 1.55 * peak, (peak / GIB, estimate / GIB)


@pytest.mark.parametrize("decoder", [DENSE, pytest.param(FEW_EXPERTS, marks=grouped)], ids=["dense", "experts"])
@pytest.mark.parametrize("tokens", [400, 4500, 9000])
def test_reading_at_full_size_is_estimated_closely_from_above(tokens, decoder):
    sequence = TokenSequence(torch.zeros(tokens, dtype=torch.long), text_positions(0, tokens), torch.zeros(tokens) > 0)
    reader = Reader(storageless(torch.bfloat16, decoder), kernel)
    with torch.inference_mode(), PeakBytes("meta") as peak:
        peak.leave_out(reader.model.parameters())
        reader.prefix(sequence)
    activations = Activations(config(decoder), 2)
    estimate = activations.kv_bytes(tokens) + activations.reading_bytes(tokens)
    assert peak.most <= estimate <= 1.35 * peak.most


def test_the_counter_sees_what_is_given_back():
    with PeakBytes("cpu") as peak:
        first = torch.zeros(1000)
        torch.ones(500)
        second = first + 1
        third = second[:10]
        del first, second
    assert (peak.now, peak.most) == (4000, 8000)
    del third
    assert peak.now == 0


@pytest.mark.parametrize("change", [{"width": 4096}, {"height": 3072}, {"batch_size": 2}])
def test_drawing_needs_more_for_more(change):
    settings, activations = SamplingSettings(), Activations(config(), 2)
    sizes = [activations.drawing_bytes(each, PREFIXES) for each in (settings, replace(settings, **change))]
    assert sizes[0] < sizes[1]


@pytest.mark.parametrize("decoder", [DENSE, SPARSE], ids=["dense", "experts"])
def test_needs_grow_with_what_is_read(decoder):
    geometry = config({"max_position_embeddings": 262_144, **decoder})
    activations = Activations(geometry, 2)
    tokens = [1, 10, 1000, 16_384, 262_144]
    drawing = [activations.drawing_bytes(SamplingSettings(), {"condition": length}) for length in tokens]
    writing = [activations.writing(length, 1000, "").reading.activations for length in tokens]
    for estimates in (drawing, writing):
        assert estimates == sorted(set(estimates))
    kv = 2 * geometry.decoder.num_kv_heads * geometry.decoder.head_dim * 2 * geometry.decoder.num_layers
    assert all(estimate >= kv * length for estimate, length in zip(writing, tokens, strict=True))


def test_documents_need_more_as_they_grow():
    """Both contexts with cfg alone, one of them without guidance; a picture and usual text are still to come."""
    settings = DocumentSettings(SamplingSettings(1536, 1536), max_images=3)
    unguided = DocumentSettings(SamplingSettings(1536, 1536, guidance=Guidance(1.0)), max_images=3)
    activations = Activations(config(), 2)
    document = partial(activations.document, index=0, unconditional=False)
    assert (growing(settings), growing(unguided)) == (("condition", "images_only"), ("condition",))
    tasks = [document(settings, dict.fromkeys(growing(settings), n)) for n in (400, 3000, 9000)]
    tasks.insert(0, document(unguided, {"condition": 400}))
    for part in ("reading", "drawing"):
        sizes = [getattr(task, part).activations for task in tasks]
        assert sizes == sorted(set(sizes))
    assert tasks[1].reading.activations >= activations.kv_bytes(2 * (400 + 2304))
    text = replace(settings, max_images=0)
    assert document(text, {"condition": 400}).drawing is None


@pytest.mark.parametrize("images", [(), (picture(),)], ids=["text to image", "edit"])
def test_what_is_held_after_drawing_was_estimated_before(engine, images):
    conditioning = engine.encode("a red circle", images)
    task = engine.drawing_task(conditioning, SamplingSettings(width=64, height=64))
    last_of(engine.sample(conditioning, **SMALL, img_cfg=2.0))
    assert engine.remembered.prefixes.nbytes <= task.reading.activations
    assert task.drawing.activations > 0
