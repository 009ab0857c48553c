"""Which words of one paragraph count, how alike words become over depth, and what is learned."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from research.config.data_options import TextData, Unit
from research.data.python_docs import load_python_docs
from research.data.text import UNKNOWN
from research.records.queries import final_values
from research.records.runs import Run
from research.reporting.figures import PALETTE, CurveStyle
from research.reporting.panels import band, range_bars
from research.reproduce.experiments import load_module

CODE = load_module("sentences", "claims")
STYLES = {
    CODE.WITH: CurveStyle("with shortcuts", PALETTE[0], "o"),
    CODE.WITHOUT: CurveStyle("without shortcuts", PALETTE[1], "s", "--"),
}
VERDICTS = {
    CODE.WITH: "every word counts, some more than others",
    CODE.WITHOUT: "no word counts, the answer is always the same",
}
ONE_HOT_POSITION = 3.5  # of the last bar
COLUMNS = 92  # characters of a line
LAYOUT: list[Any] = [["words", "words"], ["depth", "learned"]]
RIGHT: Any = {"fontsize": 7.5, "ha": "right"}
SHADES = mpl.colormaps["Blues"]


@dataclasses.dataclass(frozen=True)
class Paragraph:
    """A text, and how much the loss changes with each of its words.

    Attributes:
        words: the words that the network reads.
        gradients: by kind of shortcut, the norm of the gradient of each word's vector.
    """

    words: list[str]
    gradients: dict[str, np.ndarray]


def figure(runs: Sequence[Run]) -> Figure:
    """Above one paragraph twice, its words shaded; below the spread over depth and accuracies."""
    canvas = Figure(figsize=(7.4, 4.4), layout="constrained")
    panels = canvas.subplot_mosaic(LAYOUT, height_ratios=[1, 2])
    _draw_words(panels["words"], runs)
    _draw_spread(panels["depth"], runs)
    _draw_accuracies(panels["learned"], runs)
    return canvas


def _read_paragraph(runs: Sequence[Run]) -> Paragraph:
    """The first training text that fills few positions and has no rare word."""
    pair = {}
    for skip in STYLES:
        pair[skip] = CODE.select(runs, CODE.DEEP, skip)[0]
    run = pair[CODE.WITH]
    data = TextData(label="topic", unit=Unit.words, length=run["data.length"])
    dataset = load_python_docs(data)
    gradients = run.inspections["token_gradient"][CODE.TRAINED]
    for number in range(len(gradients)):
        tokens = dataset.x[number]
        words = [dataset.symbols[token - 1] for token in tokens if token]
        if len(words) < len(tokens) and len(words) > 12 and UNKNOWN not in words:
            break
    shown = {}
    for skip, of_skip in pair.items():
        shown[skip] = CODE.word_gradients(of_skip, CODE.TRAINED)[number]
    return Paragraph(words, shown)


def _draw_words(axes: Axes, runs: Sequence[Run]) -> None:
    paragraph = _read_paragraph(runs)
    greatest = max(norms.max() for norms in paragraph.gradients.values())
    row = 0
    for skip, style in STYLES.items():
        axes.text(0, row, style.label, color=style.color, fontsize=8.5, va="center", weight="bold")
        column = len(style.label) + 2
        axes.text(column, row, VERDICTS[skip], color=style.color, fontsize=8.5, va="center")
        row = _write(axes, paragraph.words, paragraph.gradients[skip] / greatest, row + 1) + 1.2
    axes.set(
        xlim=(0, COLUMNS),
        ylim=(row - 0.6, -0.6),
        title="Which words decide the answer of a trained network with 12 blocks? "
        "The darker a word, the more it counts",
    )
    axes.axis("off")


def _write(
    axes: Axes,
    words: Sequence[str],
    shares: np.ndarray,
    row: float,
) -> float:
    """Writes words on shaded boxes, line by line; returns the last row.

    Args:
        axes: a panel whose units are characters and lines.
        words: what to write.
        shares: how dark each word's box is, 0 to 1.
        row: the first line.
    """
    column = 0
    for word, share in zip(words, shares, strict=True):
        if column + len(word) + 1 > COLUMNS:
            column = 0
            row += 1
        width = len(word) + 1
        box = Rectangle(
            (column, row - 0.42),
            width,
            0.84,
            facecolor=SHADES(0.85 * share),
            linewidth=0,
        )
        axes.add_patch(box)
        axes.text(
            column + width / 2,
            row,
            word,
            ha="center",
            va="center",
            family="monospace",
            fontsize=7.5,
            color="white" if share > 0.6 else "black",
        )
        column += width + 0.3
    return row


def _draw_spread(axes: Axes, runs: Sequence[Run]) -> None:
    for skip, style in STYLES.items():
        group = CODE.select(runs, CODE.DEEP, skip)
        curves = np.stack([CODE.block_spreads(run, CODE.INITIAL) for run in group])
        band(
            axes,
            np.arange(curves.shape[1]),
            curves,
            markersize=3.5,
            **style.keywords,
        )
    axes.text(12, 0.015, "with shortcuts:\nwords stay different", color=PALETTE[0], **RIGHT)
    axes.text(12, 6e-7, "without: all words alike", color=PALETTE[1], **RIGHT)
    axes.set(
        yscale="log",
        ylim=(3e-8, 3),
        xlabel="blocks of attention that the text has passed",
        ylabel="difference between words\n(share of their length)",
        title="Without shortcuts attention blurs the words",
    )


def _draw_accuracies(axes: Axes, runs: Sequence[Run]) -> None:
    depths = (CODE.SHALLOW, CODE.MIDDLE, CODE.DEEP)
    for position, depth in enumerate(depths):
        for shift, (skip, style) in zip((-0.2, 0.2), STYLES.items(), strict=True):
            group = CODE.select(runs, depth, skip)
            _draw_bar(axes, position + shift, group, style.color)
    one_hot = CODE.select(runs, CODE.SHALLOW, CODE.WITH, "one_hot")
    _draw_bar(axes, ONE_HOT_POSITION, one_hot, PALETTE[4])
    constant = 100 * CODE.most_frequent_share()
    axes.axhline(constant, color="black", linestyle="--", linewidth=0.9)
    axes.text(
        2.79,
        constant + 3,
        "always the\nsame answer",
        fontsize=7,
        ha="center",
        va="bottom",
    )
    names = [f"{depth} blocks" for depth in depths]
    axes.set_xticks([0, 1, 2, ONE_HOT_POSITION], [*names, "2 blocks,\none-hot words"])
    axes.set_axisbelow(True)
    axes.grid(False, axis="x")
    axes.set(
        ylabel="new paragraphs whose topic is right (%)", title="Then a deep network cannot learn"
    )


def _draw_bar(
    axes: Axes,
    position: float,
    runs: Sequence[Run],
    colour: str,
) -> None:
    """The mean accuracy as a bar, its range over seeds as an error bar, and its number."""
    shares = 100 * np.array(final_values(runs, "eval_accuracy"))
    mean = float(shares.mean())
    axes.bar(
        position,
        mean,
        yerr=range_bars(shares),
        color=colour,
        width=0.38,
        error_kw={"elinewidth": 1},
    )
    axes.annotate(
        f"{mean:.0f}",
        (position, shares.max()),
        xytext=(0, 2),
        textcoords="offset points",
        ha="center",
        fontsize=7,
    )
