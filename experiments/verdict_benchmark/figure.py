"""The confusion matrix of the test runs, and precision and recall of each kind of finding."""

from collections.abc import Sequence
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


def figure(runs: Sequence[Run]) -> Figure:
    """On the left which verdict the runs get, on the right how sure each kind of finding is."""
    judged = SCORES.read_judged(runs, LABELS.frozen_labels(), "test")
    canvas = Figure(figsize=(7.4, 4.2), layout="constrained")
    matrix, scores = canvas.subplots(1, 2, width_ratios=[1.35, 1])
    _draw_matrix(matrix, judged)
    _draw_scores(scores, judged)
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


def _title(kind: str) -> str:
    return kind.replace("_", " ")
