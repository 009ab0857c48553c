"""Training loss for each kind of shortcut, its end over the gate's bias, and the published errors."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.records.queries import at_best_rate, final, where
from research.records.runs import Run
from research.reporting.figures import PALETTE, band, new_figure

STEPS = 10  # of a curve's means
LAYERS = 32
ARMS: dict[
    str, tuple[Mapping[str, Any], float | None]
] = {  # settings; error of ResNet-110 on CIFAR-10, %, Table 1
    "identity": ({"skip.kind": "scaled", "skip.shortcut_scale": 1.0}, 6.61),
    "shortcut gate, b = −6": ({"skip.kind": "gated", "skip.gate_bias": -6}, 6.91),
    "exclusive gate, b = −5": ({"skip.kind": "highway", "skip.gate_bias": -5}, None),
    "constant 0.9": ({"skip.kind": "scaled", "skip.shortcut_scale": 0.9}, None),
    "shortcut gate, b = 0": ({"skip.kind": "gated", "skip.gate_bias": 0}, 12.86),
    "constant 0.5": ({"skip.kind": "scaled", "skip.shortcut_scale": 0.5}, None),
    "dropout 0.5": ({"skip.kind": "dropout"}, None),
    "exclusive gate, b = −1": ({"skip.kind": "highway", "skip.gate_bias": -1}, None),
}
FAILED = {
    "exclusive gate, b = −5",
    "constant 0.5",
    "dropout 0.5",
    "exclusive gate, b = −1",
}  # there: error above 20 %
DRAWN: dict[str, Any] = {  # line styles; those of the two that lie on each other alternate
    "identity": "-",
    "constant 0.9": "--",
    "constant 0.5": (0, (2, 3)),
    "exclusive gate, b = −5": "-",
    "exclusive gate, b = −1": (2.5, (2, 3)),
}


def figure(runs: Sequence[Run]) -> Figure:
    """Left loss over steps, in the middle its end over the gate's bias with theory, right its end by kind."""
    canvas, axes = new_figure(7.2, 3.1, 1, 3)
    _curves(axes[0, 0], runs)
    _biases(axes[0, 1], runs)
    _kinds(axes[0, 2], runs)
    canvas.suptitle(
        "What multiplies a shortcut multiplies up over 32 layers: a factor of 0.5, or an open gate, stops training",
        fontsize=9,
    )
    return canvas


def _best(runs: Sequence[Run], settings: Mapping[str, Any]) -> list[Run]:
    return at_best_rate(where(runs, settings))


def _ends(runs: Sequence[Run], settings: Mapping[str, Any]) -> np.ndarray:
    return np.array([final(run, "train_loss") for run in _best(runs, settings)])


def _curves(axes: Axes, runs: Sequence[Run]) -> None:
    for name, style in DRAWN.items():
        best = _best(runs, ARMS[name][0])
        curves = np.stack(
            [run.metrics["train_loss"].reshape(-1, STEPS).mean(axis=1) for run in best]
        )
        steps = np.arange(curves.shape[1]) * STEPS + STEPS / 2
        gated = "gate" in name
        drawn = {"color": PALETTE[gated], "linestyle": style, "marker": "o" if gated else None}
        band(
            axes,
            steps,
            curves,
            label=name.removeprefix("exclusive "),
            markevery=6,
            markersize=3,
            **drawn,
        )
    axes.legend(loc="lower left", handlelength=1.8)
    axes.set(
        yscale="log",
        ylim=(1e-5, 5),
        xlabel="training step",
        ylabel="training loss\n(nats, mean of 10 steps)",
    )
    axes.set_title("best learning rates")


def _biases(axes: Axes, runs: Sequence[Run]) -> None:
    biases = sorted({run["skip.gate_bias"] for run in where(runs, {"skip.kind": "highway"})})
    ends = [_ends(runs, {"skip.kind": "highway", "skip.gate_bias": bias}) for bias in biases]
    means = np.array([end.mean() for end in ends])
    spread = np.array([[end.mean() - end.min(), end.max() - end.mean()] for end in ends]).T
    axes.errorbar(biases, means, spread, color=PALETTE[1], marker="o", markersize=4)
    axes.set(
        yscale="log",
        ylim=(5e-4, 5),
        xticks=biases,
        xlabel="exclusive gate's bias $b$",
        title="final loss, best rate",
    )
    product = axes.twinx()
    fine = np.linspace(biases[0], biases[-1], 100)
    product.plot(
        fine, (1 - 1 / (1 + np.exp(-fine))) ** LAYERS, color="black", linestyle="--", linewidth=0.9
    )
    product.set(ylim=(0, 1), yticks=[0, 1])
    product.set_ylabel("$(1-\\sigma(b))^{32}$", labelpad=-4)
    product.grid(False)
    product.spines["right"].set_visible(True)
    axes.text(-4.95, 1.3, "product of\nthe shortcuts\n(right axis)", fontsize=7)
    axes.text(-4.95, 0.013, "loss", fontsize=7, color=PALETTE[1])


def _kinds(axes: Axes, runs: Sequence[Run]) -> None:
    for row, (name, (settings, error)) in enumerate(ARMS.items()):
        ends = _ends(runs, settings)
        spread = [[ends.mean() - ends.min()], [ends.max() - ends.mean()]]
        axes.errorbar(
            ends.mean(), row, xerr=spread, color=PALETTE["gate" in name], marker="o", markersize=4
        )
        text = f"{error} %" if error else "fail" if name in FAILED else ""
        axes.text(1.02, row, text, transform=axes.get_yaxis_transform(), fontsize=7, va="center")
    axes.set_yticks(range(len(ARMS)), list(ARMS), fontsize=6.5)
    axes.text(
        1.02,
        -0.75,
        "paper",
        transform=axes.get_yaxis_transform(),
        fontsize=7,
        va="center",
        style="italic",
    )
    axes.set(
        xscale="log",
        xlim=(2e-4, 5),
        ylim=(len(ARMS) - 0.5, -1.1),
        xlabel="final training loss",
        title="by kind",
    )
