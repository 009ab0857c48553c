"""The style of all figures: colours, sizes, axes, files. ``panels.py`` has what is drawn."""

import dataclasses
import math
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, Locator, MaxNLocator

from research.config.arguments import describe_argument

# Okabe & Ito 2008: distinguishable with any colour vision. Lightness alternates, for grey prints.
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
# Metadata of a figure file by its format. Without dates, the same runs give the same bytes.
FIGURE_FORMATS = {
    "png": None,
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
}
OTHER_FORMATS = (
    *(".jpg", ".jpeg", ".eps", ".gif", ".tif", ".tiff", ".webp", ".bmp"),
    *(".html", ".md", ".txt", ".csv", ".json", ".tex", ".ps", ".pgf"),
    *(".docx", ".doc", ".pptx", ".ppt", ".xlsx", ".odt", ".odp", ".svgz", ".emf", ".heic"),
)


def style() -> AbstractContextManager:
    """The context in which a figure is drawn and saved; both read matplotlib's settings."""
    return mpl.rc_context(STYLE)


def new_figure(
    width: float,
    height: float,
    rows: int = 1,
    columns: int = 1,
) -> tuple[Figure, np.ndarray]:
    """Makes a figure; call it within ``style()``.

    Args:
        width: in inches.
        height: in inches.
        rows: number of rows of panels.
        columns: number of columns of panels.

    Returns:
        The figure and its axes [rows, columns].
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False)


def check_target(name: str, value: str | Path) -> Path:
    """Where a figure is written.

    Args:
        name: the option or argument that says so.
        value: the file.

    Raises:
        TypeError: it is no path.
        ValueError: the file has an ending that is no format of figures, or is a folder.
    """
    if not isinstance(value, str | Path):
        raise TypeError(f"{name} must be a file such as figure.pdf, got {describe_argument(value)}")
    target = Path(value)
    suffix = target.suffix.lower()
    valid = [f".{each}" for each in FIGURE_FORMATS]
    if suffix in OTHER_FORMATS:
        raise ValueError(f"{name} must end in {', '.join(valid)} or in none of them, got {value}")
    if not target.name or target.is_dir():
        raise ValueError(f"{name} must be a file, got the folder {value}")
    return target


def save_figure(
    figure: Figure,
    directory: Path,
    name: str,
    formats: Sequence[str] = tuple(FIGURE_FORMATS),
) -> None:
    """Saves a figure as ``NAME.png``, ``.svg`` and ``.pdf``; call it within ``style()``.

    Args:
        figure: the figure.
        directory: the folder of the files.
        name: their name without an ending.
        formats: those of ``FIGURE_FORMATS`` that are written.
    """
    # The panels are placed once; else it is done for each file, which takes longer.
    figure.draw_without_rendering()
    figure.set_layout_engine(None)
    for suffix in formats:
        figure.savefig(directory / f"{name}.{suffix}", metadata=FIGURE_FORMATS[suffix])


def depth_colours(count: int) -> list[tuple[float, ...]]:
    """Colours for ``count`` depths or steps in order, from light to dark, legible in grey."""
    positions = np.linspace(0.12, 0.95, count)
    colours = mpl.colormaps["viridis_r"](positions)
    return [tuple(colour) for colour in colours]


@dataclasses.dataclass(frozen=True)
class CurveStyle:
    """How one group of runs looks in every panel of a figure."""

    label: str
    color: Any
    marker: str | None = None
    linestyle: str = "-"

    @property
    def keywords(self) -> dict[str, Any]:
        """What ``axes.plot`` is called with."""
        return dataclasses.asdict(self)


def set_ticks(axis: Axis, ticks: Sequence[float]) -> None:
    """Shows exactly these ticks on ``axes.xaxis`` or ``axes.yaxis``, as plain numbers."""
    axis.set_ticks(ticks, labels=[f"{tick:g}" for tick in ticks])
    axis.set_ticks([], minor=True)


class _PowersOfTen(Locator):
    """At most six ticks at powers of ten, evenly spaced, with 1 among them where it is shown."""

    def __call__(self) -> np.ndarray:
        low, high = self.axis.get_view_interval()  # type: ignore[union-attr]
        return self.tick_values(low, high)

    def tick_values(self, vmin: float, vmax: float) -> np.ndarray:
        linear = MaxNLocator(6, integer=True)
        exponents = linear.tick_values(np.log10(vmin), np.log10(vmax))
        return 10.0 ** np.asarray(exponents)


def label_short_log_axes(axes: Axes) -> None:
    """Gives logarithmic axes on which fewer than two powers of ten are shown a few plain numbers.

    Axes whose ticks were chosen one by one stay as they are.
    """
    for axis in (axes.xaxis, axes.yaxis):
        is_chosen = isinstance(axis.get_major_locator(), FixedLocator)
        if axis.get_scale() != "log" or is_chosen:
            continue
        low, high = sorted(axis.get_view_interval())
        first_power = math.ceil(math.log10(low))
        last_power = math.floor(math.log10(high))
        if last_power - first_power < 1:
            set_ticks(axis, _plain_ticks(low, high))


def _plain_ticks(low: float, high: float) -> list[float]:
    """Round numbers between two positive ones: 1, 2 and 5 times powers of ten, or evenly spaced."""
    ticks = []
    lowest = math.floor(math.log10(low))
    highest = math.ceil(math.log10(high))
    for exponent in range(lowest, highest + 1):
        for digit in (1, 2, 5):
            ticks.append(float(f"{digit}e{exponent}"))
    inside = [tick for tick in ticks if low <= tick <= high]
    if len(inside) >= 2:
        return inside
    evenly = MaxNLocator(4).tick_values(low, high)
    return [float(tick) for tick in evenly if low <= tick <= high]


def set_log_scale(axes: Axes) -> None:
    """Makes the vertical axis logarithmic, with ticks that a reader can count from 1."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(_PowersOfTen())
