"""Gradients along a line of inputs, their autocorrelation, and the cosine between inputs over depth."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.records.queries import autocorrelation, where
from research.records.runs import Run
from research.reporting.figures import PALETTE, band
from research.theory.profiles import correlation_profile

LAGS = 30
SEED = 3
RESIDUAL = {"skip.kind": "scaled", "skip.branch_scale": 0.1}
LINES: tuple[tuple[str, dict[str, Any], str, str], ...] = (
    ("one hidden layer", {"skip.kind": "rezero"}, PALETTE[2], "v"),
    ("24 layers", {"skip.kind": "none", "model.depth": 24}, PALETTE[5], "s"),
    ("50 layers", {"skip.kind": "none", "model.depth": 50}, PALETTE[1], "o"),
    ("50 layers, shortcuts", RESIDUAL, PALETTE[0], "D"),
)
PAPER = {
    "one hidden layer": 0.904,
    "24 layers": 0.553,
    "50 layers": 0.326,
    "50 layers, shortcuts": 0.880,
}
CURVES: tuple[tuple[str, dict[str, Any], str, str], ...] = (
    ("$1/\\sqrt{L}$ branches", {"skip.kind": "inv_sqrt_depth"}, PALETTE[0], "D"),
    ("batch norm, shortcuts", {"norm.kind": "batch"}, PALETTE[3], "^"),
    ("plain", {"activation.kind": "relu", "skip.kind": "none"}, PALETTE[1], "o"),
)


def figure(runs: Sequence[Run]) -> Figure:
    """Above ∂f/∂x along the line for four networks; below left its autocorrelation, right cosines over depth."""
    canvas = Figure(figsize=(7.0, 4.9), layout="constrained")
    places = canvas.add_gridspec(2, 4, height_ratios=(1, 2))
    line = where(runs, {"data.name": "function"})
    for column, (label, settings, colour, _) in enumerate(LINES):
        axes = canvas.add_subplot(places[0, column])
        _gradient(axes, where(line, {**settings, "seed": SEED})[0], label, colour)
        axes.set_yticks([-1, 0, 1], ["−1", "0", "1"] if column == 0 else [""] * 3)
    canvas.axes[0].set_ylabel("$\\partial f/\\partial x$\n(own scale)")
    _autocorrelations(canvas.add_subplot(places[1, :2]), line)
    _cosines(canvas.add_subplot(places[1, 2:]), where(runs, {"data.name": "noise"}))
    canvas.suptitle(
        "Deep rectifier networks shatter their gradients; shortcuts with small branches keep them alike",
        fontsize=9,
    )
    return canvas


def _of(run: Run) -> np.ndarray:
    return run.inspections["input_gradient"][0][:, 0]


def _gradient(axes: Axes, run: Run, label: str, colour: str) -> None:
    values = _of(run)
    axes.plot(
        np.linspace(-2, 2, len(values)),
        values / np.max(np.abs(values)),
        color=colour,
        linewidth=0.9,
    )
    axes.set(ylim=(-1.1, 1.1), xticks=[-2, 0, 2], xlabel="input $x$", title=label)


def _autocorrelations(axes: Axes, runs: Sequence[Run]) -> None:
    noise = np.random.default_rng(0).standard_normal((200, 256))
    for name, series, place, above in (
        ("brown", np.cumsum(noise, axis=1), 22, -16),
        ("white", noise, 10, -9),
    ):
        mean = np.mean([autocorrelation(row, LAGS) for row in series], axis=0)
        axes.plot(range(LAGS + 1), mean, color="0.45", linestyle=":", linewidth=1.1)
        axes.annotate(f"{name} noise", (place, mean[place]), xytext=(0, above), textcoords="offset points",
                      fontsize=6.5, color="0.3")  # fmt: skip
    for label, settings, colour, marker in LINES:
        mean = np.mean([autocorrelation(_of(run), LAGS) for run in where(runs, settings)], axis=0)
        axes.plot(
            range(LAGS + 1),
            mean,
            color=colour,
            marker=marker,
            markevery=5,
            markersize=3.5,
            label=label,
        )
        axes.plot(5, PAPER[label], "x", color=colour, markersize=6, markeredgewidth=1.5)
    axes.plot([], [], "x", color="0.3", markersize=5, label="reference, lag 5")
    axes.legend(loc="upper right", fontsize=6.5)
    axes.set(xlim=(0, LAGS), ylim=(-0.3, 1.25), xlabel="lag (points of the grid)")
    axes.set_ylabel("autocorrelation of $\\partial f/\\partial x$")


def _cosines(axes: Axes, runs: Sequence[Run]) -> None:
    for label, settings, colour, marker in CURVES:
        group = where(runs, settings)
        depths = sorted({run["model.depth"] for run in group})
        own = [where(group, {"model.depth": depth}) for depth in depths]
        measured = np.array(
            [[run.inspections["gradient_correlation"][0][0] for run in each] for each in own]
        )
        band(axes, depths, measured.T, color=colour, marker=marker, markersize=4, label=label)
        fine = np.unique(np.geomspace(1, depths[-1], 40).round().astype(int))
        axes.plot(
            fine,
            [_theory(settings, depth) for depth in fine],
            color="black",
            linestyle="--",
            linewidth=0.9,
        )
    gates = where(runs, {"activation.kind": "linear", "skip.kind": "none"})
    values = np.stack([run.inspections["gradient_correlation"][0][::-1] for run in gates])[:, 1:]
    band(
        axes,
        range(1, 5),
        values,
        color=PALETTE[4],
        marker="s",
        markersize=4,
        label="plain, gates by chance",
    )
    axes.plot(
        range(1, 7),
        2.0 ** -np.arange(1, 7),
        color="black",
        linestyle="--",
        linewidth=0.9,
        label="theory",
    )
    axes.legend(loc="lower left", fontsize=6.5)
    axes.set(
        xscale="log",
        yscale="log",
        ylim=(2e-3, 1.2),
        xlabel="layers $L$",
        ylabel="cosine of two inputs' gradients",
    )
    axes.set_xticks([1, 2, 4, 8, 16, 32, 64], ["1", "2", "4", "8", "16", "32", "64"])
    axes.set_xticks([], minor=True)


def _theory(settings: dict[str, Any], depth: int) -> float:
    norm = settings.get("norm.kind", "none")
    scaled = settings.get("skip.kind") == "inv_sqrt_depth"
    plain = settings.get("skip.kind") == "none"
    scales = {
        "branch_scale": depth**-0.5 if scaled else 1.0,
        "shortcut_scale": 0.0 if plain else 1.0,
    }
    return float(
        correlation_profile(sigma_w2=2.0, depth=int(depth), q0=2.0, norm=norm, **scales)[0]
    )
