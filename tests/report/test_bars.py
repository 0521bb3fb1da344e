"""Plans and profiles as pictures: how long each bar is."""

from collections import Counter
from dataclasses import replace

import pytest
import torch
from PIL import ImageColor

import sensenova_core
from sensenova_core.memory import Limits, Sizes, Task, Work, make_plan
from sensenova_core.memory.budget import GIB
from sensenova_core.memory.forecast import InPlace
from sensenova_core.report.bars import EMPTY, LIMIT, MARGIN, WIDTH, Bar, Chart, Piece, picture, spans
from sensenova_core.report.plan_picture import (
    FIXED,
    STAYS,
    STREAMS,
    WORK,
    charts_in_place,
    charts_of,
    forecast_picture,
)
from sensenova_core.report.profile import Profile
from sensenova_core.report.profile_picture import in_seconds, time_chart

INSIDE = WIDTH - 2 * MARGIN
SIZES = Sizes(units={"understanding": (100,) * 7, "generation": (100,) * 6}, head_pieces=1, fixed=50, stored_bytes=1350)
TASK = Task("a picture", Work(100), drawing=Work(200, passes=50))


@pytest.fixture
def streaming():
    return make_plan(SIZES, TASK, Limits("auto", device=780), system_free=10 * GIB)


def test_pieces_follow_each_other_in_proportion():
    bars = (Bar("one", (Piece("a", 1, "#111111"), Piece("b", 2, "#222222"))), Bar("other", (Piece("c", 6, "#333333"),)))
    chart = Chart("both", bars, str)
    assert spans(chart, 600) == [[(0, 100), (100, 300)], [(0, 600)]]
    assert spans(replace(chart, bars=(replace(bars[0], limit=(12, "")),)), 600) == [[(0, 50), (50, 150)]]
    assert spans(Chart("nothing", (Bar("none", (Piece("a", 0, "#111111"),)),), str), 600) == [[(0, 0)]]


def test_a_picture_has_so_many_pixels_of_each():
    chart = Chart("all", (Bar("one", (Piece("a", 1, "#010203"),), limit=(4, "of")),), str)
    columns = {(x, pixel) for x, pixel in _row_of(picture([chart]), "#010203")}
    count = Counter(pixel for _, pixel in columns)
    assert count[ImageColor.getrgb("#010203")] == INSIDE // 4
    assert count[ImageColor.getrgb(EMPTY)] + count[ImageColor.getrgb(LIMIT)] == pytest.approx(INSIDE * 3 / 4, abs=3)


def test_a_plan_s_bars_are_what_it_takes(streaming):
    card, beside = charts_of(streaming)
    (reading, drawing), (system,) = card.bars, beside.bars
    phases = streaming.phases
    assert reading.title == "reading, on the card" and drawing.title == "drawing, on the card"
    assert reading.total == phases["understanding"].device_bytes and drawing.total == phases["generation"].device_bytes
    assert drawing.limit == reading.limit == (780, "to use:")
    amounts = {piece.colour: piece.amount for piece in drawing.pieces}
    assert amounts == {STAYS: 100 * len(phases["generation"].resident), STREAMS: 300, FIXED: 50, WORK: 246}
    assert system.total == streaming.page_locked_bytes and system.limit == (10 * GIB, "free:")


def test_a_forecast_without_a_plan():
    system, files = (chart.bars[0] for chart in charts_in_place("a picture", InPlace(30, 0, stored=950, free=1000)))
    assert system.total == 30 and system.limit == (1000, "free:") and len(system.pieces) == 1
    assert files.total == 950


def test_pictures_of_forecasts_grow_with_their_runs():
    engine = sensenova_core.load(sensenova_core.DEMO)
    settings = sensenova_core.SamplingSettings(128, 128)
    one, two = (forecast_picture(engine.foresee(settings, card="1GiB", think_tokens=tokens)) for tokens in (0, 10))
    assert one.width == two.width == WIDTH and one.height < two.height < 2000


def test_time_is_of_each_kind_of_work_and_the_rest():
    profile = Profile(torch.device("cpu"), load_seconds=4, generation_seconds=10)
    profile.spent.update(reading=1.0, drawing=7.0, waiting=2.0)
    chart = time_chart(profile)
    told = {bar.title: bar.total for bar in chart.bars}
    assert told == {"loading": 4, "reading": 1, "drawing": 7, "everything else": 2, "of these, waiting for copies": 2}
    assert chart.most == 7 and chart.words is in_seconds
    assert spans(chart, 700)[2] == [(0, 700)]


def _row_of(image, colour: str):
    """(x, colour) of the row of pixels, margins left out, that has most of a colour."""
    rgb = ImageColor.getrgb(colour)
    rows = ([image.getpixel((x, y)) for x in range(MARGIN, WIDTH - MARGIN)] for y in range(image.height))
    return [*enumerate(max(rows, key=lambda row: row.count(rgb)))]
