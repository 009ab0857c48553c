"""How often networks train, against how often it was predicted."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.diagnosis.coefficients import WITH_TRIAL, WITHOUT_TRIAL
from research.records.runs import Run
from research.reporting.figures import PALETTE, new_figure
from research.reporting.panels import plot_theory
from research.reproduce.experiments import load_module

EDGES = (0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0001)
NAMES = {"without": "two batches", "with": "and 20 steps on one"}

claims = load_module("predict", "claims")
fitting = load_module("predict", "fit")


def figure(runs: Sequence[Run]) -> Figure:
    """Left the calibration, middle each run by its probability, right what decides."""
    canvas, axes = new_figure(8.5, 2.9, 1, 3)
    calibration, sample, reasons = axes[0]
    rows = fitting.read_rows("held_out")
    for name, coefficients, colour in (
        ("without", WITHOUT_TRIAL, PALETTE[0]),
        ("with", WITH_TRIAL, PALETTE[2]),
    ):
        probabilities = np.asarray(fitting.probabilities(rows, coefficients))
        _draw_calibration(calibration, probabilities, rows, colour, label=NAMES[name])
    plot_theory(calibration, np.asarray([0, 1]), np.asarray([0, 1]), label="calibrated")
    calibration.set(
        xlabel="predicted probability",
        ylabel="share that trains",
        title=f"{len(rows)} held-out runs",
    )
    calibration.legend(loc="lower right")
    _draw_sample(sample, runs)
    _draw_reasons(reasons, rows)
    canvas.suptitle("Whether a network trains, before it does", fontsize=9)
    return canvas


def _draw_calibration(
    axes: Axes,
    probabilities: np.ndarray,
    rows: Sequence,
    colour: str,
    *,
    label: str,
) -> None:
    """The share that trains with its 95 % interval (Wilson 1927), in bins of the probability."""
    trained = np.asarray([row.has_trained for row in rows], float)
    places = []
    shares = []
    errors = []
    for low, high in zip(EDGES[:-1], EDGES[1:], strict=True):
        is_inside = (probabilities >= low) & (probabilities < high)
        count = int(is_inside.sum())
        if not count:
            continue
        share = float(trained[is_inside].mean())
        shrunk = 1 / (1 + 1.96**2 / count)
        centre = shrunk * (share + 1.96**2 / (2 * count))
        half = shrunk * 1.96 * np.sqrt(share * (1 - share) / count + (1.96 / (2 * count)) ** 2)
        places.append(float(probabilities[is_inside].mean()))
        shares.append(share)
        errors.append([max(0, share - centre + half), max(0, centre + half - share)])
    axes.errorbar(
        places,
        shares,
        yerr=np.asarray(errors).T,
        fmt="o-",
        color=colour,
        markersize=4,
        label=label,
    )


def _draw_sample(axes: Axes, runs: Sequence[Run]) -> None:
    expected = claims.predictions(runs)
    losses = []
    for run in runs:
        values = np.asarray(run.metrics["train_loss"], float)
        loss = claims.declared.final_loss(values) if run.status == "done" else np.nan
        losses.append(min(loss / claims.declared.CHANCE, 2.0) if np.isfinite(loss) else 2.0)
    axes.plot([each.probability for each in expected], losses, "o", color=PALETTE[0], markersize=4)
    axes.axhline(1 - claims.declared.MARGIN, color="black", linestyle=":", linewidth=0.9)
    axes.set(
        xlabel="predicted probability",
        ylabel="final loss / loss of chance, ≤ 2",
        title=f"{len(runs)} of them, trained here",
    )


def _draw_reasons(axes: Axes, rows: Sequence) -> None:
    """How often each feature is the weightiest, of the runs that are predicted not to train."""
    counts: dict[str, int] = dict.fromkeys(WITHOUT_TRIAL.weights, 0)
    for row in rows:
        weighted = {}
        for name, weight in WITHOUT_TRIAL.weights.items():
            weighted[name] = weight * row.features[name]
        if sum(weighted.values()) > WITHOUT_TRIAL.intercept:
            counts[max(weighted, key=weighted.__getitem__)] += 1
    in_order = sorted(counts, key=counts.__getitem__)
    names = [name.replace("_", " ") for name in in_order]
    axes.barh(names, [counts[name] for name in in_order], color=PALETTE[1])
    axes.set(xlabel="held-out runs", title="what decides against")
