"""The confusion matrix of the test runs, and precision and recall of each kind of finding."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.records.runs import Run
from research.reporting.figures import PALETTE
from research.reproduce.experiments import load_module

LABELS = load_module("verdict_benchmark", "labels")
SCORES = load_module("verdict_benchmark", "scores")
HEIGHT = 0.18  # by which the two marks of a kind are apart
WIDTH = 7.4  # inches
HEIGHT_OF_MATRIX = 4.2
HEIGHT_OF_TOOLS = 1.9


def figure(runs: Sequence[Run]) -> Figure:
    """Which verdict the runs get, how sure each kind of finding is, and what peers find."""
    labels = LABELS.frozen_labels()
    judged = SCORES.read_judged(runs, labels, "test")
    return draw_verdicts(judged, SCORES.compare_tools(runs, labels))


def draw_verdicts(judged: Sequence[Any], compared: Mapping[str, Any] | None = None) -> Figure:
    """The confusion matrix and the scores of verdicts.

    Args:
        judged: verdicts and labels.
        compared: the confusion of each tool, drawn below them; None draws none.
    """
    heights = [HEIGHT_OF_MATRIX, HEIGHT_OF_TOOLS] if compared else [HEIGHT_OF_MATRIX]
    canvas = Figure(figsize=(WIDTH, sum(heights)), layout="constrained")
    grid = canvas.add_gridspec(len(heights), 1, height_ratios=heights)
    upper = grid[0].subgridspec(1, 2, width_ratios=[1.35, 1])
    _draw_matrix(canvas.add_subplot(upper[0]), judged)
    _draw_scores(canvas.add_subplot(upper[1]), judged)
    if compared:
        _draw_tools(canvas.add_subplot(grid[1]), compared)
    return canvas


def _draw_matrix(axes: Axes, judged: Sequence[Any]) -> None:
    kinds, counts = SCORES.headline_matrix(judged)
    is_used = (counts.sum(axis=0) + counts.sum(axis=1)) > 0
    names = [_title(kind) for kind, used in zip(kinds, is_used, strict=True) if used]
    shown = counts[is_used][:, is_used]
    shares = shown / np.maximum(shown.sum(axis=1, keepdims=True), 1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1.2)
    for row, column in zip(*np.nonzero(shown), strict=True):
        color = "white" if shares[row, column] > 0.6 else "black"
        text = str(shown[row, column])
        axes.text(column, row, text, ha="center", va="center", color=color, fontsize=8)
    ticks = range(len(names))
    axes.set_xticks(ticks, names, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_yticks(ticks, names)
    axes.grid(False)
    balanced = SCORES.confuse(judged).balanced_accuracy
    axes.set(
        xlabel="verdict",
        ylabel="what is wrong",
        title=f"Verdicts of {shown.sum()} test runs:\nbalanced accuracy {balanced:.3f}",
    )


def _draw_scores(axes: Axes, judged: Sequence[Any]) -> None:
    scores = SCORES.score_kinds(judged)[::-1]
    rows = np.arange(len(scores))
    precision = [score.precision for score in scores]
    recall = [score.recall for score in scores]
    axes.plot(precision, rows + HEIGHT, "o", color=PALETTE[0], label="precision")
    axes.plot(recall, rows - HEIGHT, "s", color=PALETTE[1], label="recall")
    names = [f"{_title(score.kind)} ({score.hits + score.misses})" for score in scores]
    axes.set_yticks(rows, names)
    axes.set(
        xlim=(-0.03, 1.03),
        xlabel="share of runs",
        title="Each kind of finding\n(runs that have it)",
    )
    axes.legend(loc="lower left", fontsize=7)


def _draw_tools(axes: Axes, compared: Mapping[str, Any]) -> None:
    """What each tool says of the plain networks, Fathom first."""
    rows = np.arange(len(compared))[::-1]
    found = [confusion.sensitivity for confusion in compared.values()]
    clear = [confusion.specificity for confusion in compared.values()]
    axes.plot(found, rows + HEIGHT, "o", color=PALETTE[0], label="unhealthy runs that it finds")
    axes.plot(clear, rows - HEIGHT, "s", color=PALETTE[1], label="healthy runs that it leaves")
    axes.set_yticks(rows, list(compared))
    first = next(iter(compared.values()))
    num_unhealthy = first.found + first.missed
    num_healthy = first.clear + first.alarmed
    axes.set(
        xlim=(-0.03, 1.03),
        xlabel="share of runs",
        title=f"Plain networks, {num_unhealthy} unhealthy and {num_healthy} healthy",
    )
    axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7)


def _title(kind: str) -> str:
    return kind.replace("_", " ")
