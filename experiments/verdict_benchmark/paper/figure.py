"""The confusion matrix of the larger runs, and precision and recall of each kind of finding."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from research.records.runs import Run
from research.reproduce.experiments import load_module

FIGURE = load_module("verdict_benchmark", "figure")
LABELS = load_module("verdict_benchmark", "labels")
SCORES = load_module("verdict_benchmark", "scores")
KEY = "paper/verdict_benchmark"


def figure(runs: Sequence[Run]) -> Figure:
    """Which verdict the runs get, and how sure each kind of finding is."""
    labels = LABELS.label_runs(runs, KEY)
    judged = SCORES.read_judged(runs, labels, "test")
    return FIGURE.draw_verdicts(judged)
