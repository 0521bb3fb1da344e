"""What torch's allocator takes: whole segments, and what libraries have of a card; a document's plan is its largest."""

import pytest
import torch

from sensenova_core import SamplingSettings, SettingsError
from sensenova_core.memory import Limits, make_plan
from sensenova_core.memory.activations import Activations
from sensenova_core.memory.allocator import MIB, POOLS, libraries, taken, taken_by
from sensenova_core.memory.forecast import explained
from sensenova_core.memory.plan import Work
from sensenova_core.reading.prefix import BLOCK_TOKENS, Context
from sensenova_core.settings import DocumentSettings
from tests.memory.test_activations import config
from tests.memory.test_plan_8b import GIB, PREFIXES, sizes_8b


@pytest.mark.parametrize(
    "each, count, segments",
    [
        (MIB, 84, 42 * 2 * MIB),
        (MIB + 1, 84, 5 * 20 * MIB),  # 19 to a segment
        (9 * MIB, 84, 42 * 20 * MIB),
        (10 * MIB + 1, 84, 84 * 12 * MIB),
        (16 * MIB, 84, 84 * 16 * MIB),
        (256, 84, 2 * MIB),
        (1, 0, 0),
    ],
)
def test_equal_tensors_take_whole_segments(each, count, segments):
    assert taken_by(each * count, count) == segments


def test_a_buffer_takes_whole_2_mib():
    assert [taken(size) for size in (95_744, 386 * MIB, 386 * MIB + 1)] == [95_744, 386 * MIB, 388 * MIB]


def test_what_comes_and_goes_loses_more_than_what_stays():
    whole, kept = Work(1000 * MIB), Work(1000 * MIB, stays=(800 * MIB, 50))
    assert kept.reserved == pytest.approx(800 * MIB + 200 * 1.23 * MIB) and kept.reserved < whole.reserved
    assert Work(1000 * MIB, stays=(800 * MIB, 50), uneven=True).reserved > kept.reserved


@pytest.mark.parametrize("capability, workspace", [((9, 0), 32), ((10, 0), 32), ((8, 9), 8.125), ((7, 5), 8.125)])
def test_cublas_has_its_workspace_in_the_plan(monkeypatch, capability, workspace):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert libraries(torch.device("cuda")) - POOLS == workspace * MIB
    assert libraries(torch.device("cpu")) == 0 and libraries(None) - POOLS == 32 * MIB


def test_libraries_are_within_the_budget():
    task = Activations(config(), 2).drawing(SamplingSettings(), PREFIXES, unread=True)
    beside = 70 * MIB
    plain, more = (
        make_plan(sizes_8b(), task, Limits("low", libraries=each), system_free=48 * GIB) for each in (0, beside)
    )
    assert more.device_bytes == plain.device_bytes + beside
    least, _ = sizes_8b().smallest(task, beside)
    limits = Limits("auto", least, libraries=beside)
    assert make_plan(sizes_8b(), task, limits, system_free=48 * GIB).device_bytes <= least
    with pytest.raises(SettingsError, match="the smallest that works"):
        make_plan(sizes_8b(), task, Limits("auto", least - 1, libraries=beside), system_free=48 * GIB)


def test_a_short_text_has_room_for_a_block_of_tokens():
    """As contexts begin with: 69 MB of the 8B models were in no plan."""
    activations, settings = Activations(config(), 2), config().decoder
    room = Context(settings, device=torch.device("meta"), dtype=torch.bfloat16, tokens=400 + BLOCK_TOKENS)
    assert activations.writing(400, 9, "text of").reading.activations >= room.nbytes


# A document.


def test_a_document_is_planned_as_far_as_each_of_its_pictures():
    settings = DocumentSettings(SamplingSettings(1536, 1536), max_images=4)
    written = {"condition": 400, "images_only": 9}
    tasks = Activations(config(), 2).documents(settings, written, 1, unconditional=True)
    assert [task.name.split(" of ")[0] for task in tasks] == ["picture 2", "picture 3", "picture 4"]
    takes = [task.most_activations for task in tasks]
    assert takes == sorted(set(takes))
    assert len(Activations(config(), 2).documents(settings, {"condition": 262_000}, 0, unconditional=True)) == 1


def test_what_is_told_of_a_document_bounds_all_of_its_plans(engines):
    engine = engines("tiny-u15")
    settings = SamplingSettings(64, 64)
    [largest] = engine.foresee(settings, task="interleave", card="200MiB")
    [first] = [engine.plan(engine.document_task(DocumentSettings(settings)), card=200 * MIB)]
    assert "picture 10 of a document" in largest.task and largest.plan.device_bytes > first.device_bytes
    assert "grows with each of up to 10 pictures" in explained([largest])
    assert "(CUDA's own context comes on top)" in explained([largest])
    between = (first.device_bytes + largest.plan.device_bytes) // 2
    [some] = engine.foresee(settings, task="interleave", card=f"{between // 2**10}KiB")
    told = explained([some])
    assert "fits as far as picture" in told and "of up to 10" in told
