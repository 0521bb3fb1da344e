"""A picture of time against memory. Needs matplotlib, which nothing else does."""

from collections.abc import Mapping, Sequence
from pathlib import Path

MISSING = "no plot: matplotlib is not installed here (pip install matplotlib)"

Points = Mapping[str, tuple[float, float]]  # label -> (GiB, seconds)


def plot(series: Mapping[str, Points], title: str, path: Path) -> str:
    """Write a PNG with each series' points; returns what to tell the user."""
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        return MISSING
    figure = Figure(figsize=(9, 6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for marker, (name, points) in zip("os^Dv", series.items(), strict=False):
        if points:
            _scatter(axes, name, points, marker)
    axes.set(title=title, xlabel="peak memory of the device, GiB", ylabel="seconds", xscale="log", yscale="log")
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter("{x:g}")
    axes.grid(True, which="both", alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=120)
    return str(path)


def _scatter(axes, name: str, points: Points, marker: str) -> None:
    x, y = zip(*points.values(), strict=True)
    drawn: Sequence = axes.scatter(x, y, marker=marker, label=name, alpha=0.8)
    for label, place in points.items():
        axes.annotate(
            label, place, xytext=(5, 4), textcoords="offset points", fontsize=8, color=drawn.get_facecolor()[0][:3]
        )
