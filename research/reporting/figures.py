"""The one plotting style, and panels that more than one figure uses."""

import dataclasses
import io
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from PIL import Image

from research.records.queries import metric_curves
from research.records.runs import Run

# Okabe & Ito 2008: distinguishable with any colour vision. The order alternates in lightness, for grey prints.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
STYLE: dict[Any, Any] = {
    "font.size": 8,
    "axes.titlesize": 8.5,
    "axes.labelsize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "0.9",
    "grid.linewidth": 0.5,
    "legend.frameon": False,
    "legend.fontsize": 7,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "lines.linewidth": 1.3,
    "savefig.dpi": 200,
    "svg.hashsalt": "fathom",
    "pdf.fonttype": 42,
}


def style() -> AbstractContextManager:
    """The context in which figures are made and saved: matplotlib reads its settings at both times."""
    return mpl.rc_context(STYLE)


def new_figure(
    width: float, height: float, rows: int = 1, columns: int = 1
) -> tuple[Figure, np.ndarray]:
    """A figure of ``width`` × ``height`` inches, and its axes [rows, columns]; within ``style()``."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def depth_colours(count: int) -> list[tuple[float, ...]]:
    """Colours that order ``count`` depths or steps, light to dark, legible in grey."""
    return [tuple(colour) for colour in mpl.colormaps["viridis_r"](np.linspace(0.12, 0.95, count))]


def band(
    axes: Axes,
    x: Sequence[float] | np.ndarray,
    curves: np.ndarray,
    *,
    label: str | None = None,
    **style: object,
) -> None:
    """The mean of ``curves`` [seeds, len(x)] as a line, their range over seeds as a shade."""
    (line,) = axes.plot(x, np.nanmean(curves, axis=0), label=label, **style)  # type: ignore[arg-type]
    if len(curves) > 1:
        low = np.nanmin(curves, axis=0)
        high = np.nanmax(curves, axis=0)
        axes.fill_between(x, low, high, color=line.get_color(), alpha=0.2, linewidth=0)


@dataclasses.dataclass(frozen=True)
class CurveStyle:
    """How one group of runs looks in every panel of a figure."""

    label: str
    color: str
    marker: str | None = None
    linestyle: str = "-"


def plot_metric(
    axes: Axes, runs: Sequence[Run], name: str, *, window: int, label: str, **style: object
) -> None:
    """A metric over training steps: the mean over seeds as a line, their range as a shade.

    Args:
        axes: where to draw.
        runs: one run for each seed.
        name: a column of the metrics, such as ``train_loss``.
        window: how many steps one point is the mean of.
        label: the name in the legend.
        style: settings of the line.
    """
    curves = metric_curves(runs, name, window)
    steps = np.arange(curves.shape[1]) * window + window / 2
    band(axes, steps, curves, label=label, **style)


def range_bars(values: Sequence[float] | np.ndarray) -> list[list[float]]:
    """The range of ``values`` around their mean, as ``yerr`` of one bar or one point."""
    mean = float(np.mean(values))
    return [[mean - min(values)], [max(values) - mean]]


def plot_theory(
    axes: Axes, x: Any, y: Any, *, label: str | None = None, linewidth: float = 0.9
) -> None:
    """Draws a prediction as a dashed black line; empty ``x`` and ``y`` add only a legend entry."""
    axes.plot(x, y, color="black", linestyle="--", linewidth=linewidth, label=label)


def set_ticks(axis: Axis, ticks: Sequence[float]) -> None:
    """Shows exactly these ticks on ``axes.xaxis`` or ``axes.yaxis``, as plain numbers."""
    axis.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    axis.set_ticks([], minor=True)


def beside_published(
    axes: Axes, measured: Mapping[str, Sequence[float]], published: Mapping[str, float]
) -> None:
    """A row a name, from above: the mean of what was measured with its range, and the paper's number as a diamond."""
    for row, (name, values) in enumerate(measured.items()):
        axes.plot([min(values), max(values)], [row, row], color=PALETTE[0], alpha=0.5)
        axes.plot(
            sum(values) / len(values),
            row,
            "o",
            color=PALETTE[0],
            label="measured, range over seeds" * (row == 0),
        )
        if name in published:
            label = "" if axes.get_legend_handles_labels()[1][1:] else "the paper"
            axes.plot(
                published[name], row, "D", markerfacecolor="none", color=PALETTE[1], label=label
            )
    axes.set_yticks(range(len(measured)), list(measured))
    axes.invert_yaxis()
    axes.legend(loc="best")


def decades(axes: Axes) -> None:
    """Names the ticks of an axis of log₁₀ values as powers of ten."""
    axes.yaxis.set_major_formatter(lambda value, _: f"$10^{{{value:g}}}$")


def exponent_map(
    axes: Axes, exponents: np.ndarray, histogram: np.ndarray, limits: Mapping[str, float]
) -> Any:
    """The share of each layer's nonzero elements by exponent: layers across, powers of two up; for a colour bar.

    ``histogram`` [N, K] holds the share of elements between 2^e and 2^(e+1) for each of ``exponents`` [K]. ``limits``
    are drawn as lines, named, at these powers of two.
    """
    seen = np.flatnonzero(histogram.max(axis=0) > 0)
    shown = slice(seen[0], seen[-1] + 1)
    shares = histogram[:, shown] / histogram.sum(axis=1, keepdims=True)
    image = axes.pcolormesh(
        np.arange(len(histogram) + 1) - 0.5,
        np.append(exponents[shown], exponents[shown][-1] + 1),
        np.ma.masked_less_equal(shares.T, 0),
        cmap="Blues",
        rasterized=True,
    )
    for (label, limit), colour in zip(limits.items(), PALETTE[1:], strict=False):
        axes.axhline(limit, color=colour, linestyle="--", linewidth=1)
        axes.annotate(label, (0.02, limit), xycoords=("axes fraction", "data"), color=colour, fontsize=6.5,
                      xytext=(0, 2), textcoords="offset points", ha="left")  # fmt: skip
    axes.grid(False)
    return image


def heat_map(steps: np.ndarray, profile: np.ndarray, *, label: str) -> Image.Image:
    """A picture of log₁₀ of a profile [S, N] over steps (across) and layers (up)."""
    with style():
        return _rendered(_heat_map(steps, profile, label))


def _heat_map(steps: np.ndarray, profile: np.ndarray, label: str) -> Figure:
    figure, axes = new_figure(4.5, 3.2)
    with np.errstate(divide="ignore"):
        logs = np.log10(np.asarray(profile, np.float64)).T
    logs = np.ma.masked_invalid(logs)
    image = axes[0, 0].pcolormesh(
        _edges(steps), np.arange(len(logs) + 1) - 0.5, logs, cmap="viridis", rasterized=True
    )
    axes[0, 0].set(xlabel="training step", ylabel="layer", facecolor="0.85")
    axes[0, 0].grid(False)
    figure.colorbar(image, ax=axes[0, 0], label=label)
    return figure


def _rendered(figure: Figure) -> Image.Image:
    """The figure as a picture, without pyplot and its global state."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return Image.open(buffer)


def _edges(steps: np.ndarray) -> np.ndarray:
    width = steps[1] - steps[0] if len(steps) > 1 else 1
    return np.append(steps, steps[-1] + width)
