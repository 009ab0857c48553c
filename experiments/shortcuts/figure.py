"""Training loss for each kind of shortcut, its final value over the gate's bias, and by kind."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.records.queries import (
    at_best_rate,
    final_values,
    setting_values,
    where,
)
from research.records.runs import Run
from research.reporting.aggregation import average_with_range
from research.reporting.figures import PALETTE, new_figure
from research.reporting.panels import plot_error_bars, plot_metric, plot_theory, range_bars

LAYERS = 32


@dataclasses.dataclass(frozen=True)
class Shortcut:
    """The runs with one kind of shortcut.

    ``published`` is what Table 1 says of ResNet-110 on CIFAR-10: its error, or ``fail`` for an
    error above 20 %; empty where the table has no such row.
    """

    settings: Mapping[str, object]
    published: str = ""


SHORTCUTS = {
    "identity": Shortcut({"skip.kind": "scaled", "skip.shortcut_scale": 1.0}, "6.61 %"),
    "shortcut gate, b = −6": Shortcut({"skip.kind": "gated", "skip.gate_bias": -6}, "6.91 %"),
    "exclusive gate, b = −5": Shortcut({"skip.kind": "highway", "skip.gate_bias": -5}, "fail"),
    "constant 0.9": Shortcut({"skip.kind": "scaled", "skip.shortcut_scale": 0.9}),
    "shortcut gate, b = 0": Shortcut({"skip.kind": "gated", "skip.gate_bias": 0}, "12.86 %"),
    "constant 0.5": Shortcut({"skip.kind": "scaled", "skip.shortcut_scale": 0.5}, "fail"),
    "dropout 0.5": Shortcut({"skip.kind": "dropout"}, "fail"),
    "exclusive gate, b = −1": Shortcut({"skip.kind": "highway", "skip.gate_bias": -1}, "fail"),
}
# Of the shortcuts whose curves are shown. The dashes of two curves that coincide alternate.
LINESTYLES: dict[str, Any] = {
    "identity": "-",
    "constant 0.9": "--",
    "constant 0.5": (0, (2, 3)),
    "exclusive gate, b = −5": "-",
    "exclusive gate, b = −1": (2.5, (2, 3)),
}


def figure(runs: Sequence[Run]) -> Figure:
    """Left loss over steps, in the middle its end over the gate's bias, right its end by kind."""
    canvas, axes = new_figure(7.2, 3.1, 1, 3)
    _draw_curves(axes[0, 0], runs)
    _draw_biases(axes[0, 1], where(runs, {"skip.kind": "highway"}))
    _draw_kinds(axes[0, 2], runs)
    canvas.suptitle(
        "What multiplies a shortcut multiplies up over 32 layers: "
        "a factor of 0.5, or an open gate, stops training",
        fontsize=9,
    )
    return canvas


def _is_gated(name: str) -> bool:
    return "gate" in name


def _colour(name: str) -> str:
    return PALETTE[1] if _is_gated(name) else PALETTE[0]


def _final_losses(runs: Sequence[Run], settings: Mapping[str, object]) -> np.ndarray:
    best = at_best_rate(where(runs, settings))
    return np.array(final_values(best, "train_loss"))


def _draw_curves(axes: Axes, runs: Sequence[Run]) -> None:
    for name, linestyle in LINESTYLES.items():
        best = at_best_rate(where(runs, SHORTCUTS[name].settings))
        plot_metric(
            axes,
            best,
            "train_loss",
            window=10,
            label=name.removeprefix("exclusive "),
            color=_colour(name),
            linestyle=linestyle,
            marker="o" if _is_gated(name) else None,
            markevery=6,
            markersize=3,
        )
    axes.legend(loc="lower left", handlelength=1.8)
    axes.set(
        yscale="log",
        ylim=(1e-5, 5),
        xlabel="training step",
        ylabel="training loss\n(nats, mean of 10 steps)",
    )
    axes.set_title("best learning rates")


def _draw_biases(axes: Axes, runs: Sequence[Run]) -> None:
    biases = setting_values(runs, "skip.gate_bias")
    columns = [_final_losses(runs, {"skip.gate_bias": bias}) for bias in biases]
    averaged = average_with_range(np.stack(columns, axis=1))
    plot_error_bars(axes, biases, averaged, color=PALETTE[1], marker="o", markersize=4)
    axes.set(
        yscale="log",
        ylim=(5e-4, 5),
        xticks=biases,
        xlabel="exclusive gate's bias $b$",
        title="final loss, best rate",
    )
    _draw_product(axes, np.linspace(biases[0], biases[-1], 100))
    axes.text(-4.95, 1.3, "product of\nthe shortcuts\n(right axis)", fontsize=7)
    axes.text(-4.95, 0.013, "loss", fontsize=7, color=PALETTE[1])


def _draw_product(axes: Axes, biases: np.ndarray) -> None:
    """What all shortcuts together leave of the signal, on an axis at the right."""
    right = axes.twinx()
    gates = 1 / (1 + np.exp(-biases))
    plot_theory(right, biases, (1 - gates) ** LAYERS)
    right.set(ylim=(0, 1), yticks=[0, 1])
    right.set_ylabel("$(1-\\sigma(b))^{32}$", labelpad=-4)
    right.grid(False)
    right.spines["right"].set_visible(True)


def _draw_kinds(axes: Axes, runs: Sequence[Run]) -> None:
    """A row for each kind of shortcut: its final loss, and at the right what the paper says."""
    for row, (name, shortcut) in enumerate(SHORTCUTS.items()):
        losses = _final_losses(runs, shortcut.settings)
        axes.errorbar(
            losses.mean(),
            row,
            xerr=range_bars(losses),
            color=_colour(name),
            marker="o",
            markersize=4,
        )
        _write_right_of_axes(axes, row, shortcut.published)
    axes.set_yticks(range(len(SHORTCUTS)), list(SHORTCUTS), fontsize=6.5)
    _write_right_of_axes(axes, -0.75, "paper", style="italic")
    axes.set(
        xscale="log",
        xlim=(2e-4, 5),
        ylim=(len(SHORTCUTS) - 0.5, -1.1),
        xlabel="final training loss",
        title="by kind",
    )


def _write_right_of_axes(
    axes: Axes,
    row: float,
    text: str,
    style: Any = "normal",
) -> None:
    place = axes.get_yaxis_transform()
    axes.text(1.02, row, text, transform=place, fontsize=7, va="center", style=style)
