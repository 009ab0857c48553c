"""Backward signal over depth, at initialisation and during training, plain against skip; training loss beneath."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from research.records.runs import Run
from research.reporting.figures import PALETTE, band, decades, new_figure

ACTIVATIONS = ("sigmoid", "tanh", "relu")
LABELS = {"none": "plain", "inv_sqrt_depth": "skip, branch /√depth"}
LOOKS: dict[str, dict[str, Any]] = {
    "none": {"color": PALETTE[1], "marker": "v", "markersize": 4},
    "inv_sqrt_depth": {"color": PALETTE[0], "marker": "o", "markersize": 3.5},
}
DEPTHS = (4, 16, 64)
DASHED: Any = (0, (4, 3))
STYLES: dict[int, Any] = {4: ":", 16: "--", 64: "-"}
SHADES = {0: 0.3, 30: 0.5, 100: 0.75, 299: 1.0}  # by training step


def figure(runs: Sequence[Run]) -> Figure:
    """Three columns, one an activation; rows: initialisation, training (depth 64), loss."""
    canvas, axes = new_figure(7.2, 6.4, 3, 3)
    for column, activation in enumerate(ACTIVATIONS):
        mine = [run for run in runs if run["activation.kind"] == activation]
        _initial(axes[0, column], mine)
        _training(axes[1, column], mine)
        _loss(axes[2, column], mine)
        axes[0, column].set_title(activation)
    _legends(axes)
    axes[0, 0].set_ylabel("at initialisation\n‖∂L/∂h‖² relative to last layer")
    axes[1, 0].set_ylabel("depth 64 during training\n‖∂L/∂h‖² relative to last layer")
    axes[2, 0].set_ylabel("training loss\n(nats, mean of 10 steps)")
    canvas.suptitle(
        "With depth, plain networks lose their gradient; scaled skip connections keep it",
        fontsize=9.5,
    )
    return canvas


def _group(runs: Sequence[Run], skip: str, depth: int) -> list[Run]:
    return [run for run in runs if run["skip.kind"] == skip and run["model.depth"] == depth]


def _relative(run: Run, row: int) -> np.ndarray:
    signal = run.profiles["signal_grad"][row].astype(float)
    return 2 * np.log10(signal / signal[-1])


def _initial(axes: Axes, runs: Sequence[Run]) -> None:
    for skip, look in LOOKS.items():
        for depth in DEPTHS:
            curves = np.stack([_relative(run, 0) for run in _group(runs, skip, depth)])
            band(
                axes,
                np.arange(depth + 1),
                curves,
                **look,
                markevery=list(range(8, depth, 12)),
                linestyle=STYLES[depth],
            )
        slope = np.log10(_group(runs, skip, 64)[0].info["verdict"]["theory"])
        layers = np.arange(65)
        axes.plot(layers, slope * (64 - layers), color="black", linestyle=DASHED, linewidth=0.9)
    _log_axis(axes)


def _training(axes: Axes, runs: Sequence[Run]) -> None:
    for skip, look in LOOKS.items():
        group = _group(runs, skip, 64)
        for step, shade in SHADES.items():
            mean = np.mean([_relative(run, step) for run in group], axis=0)
            axes.plot(np.arange(65), mean, **look, markevery=13, alpha=shade, linewidth=1.1)
    _log_axis(axes)
    axes.set_xlabel("layer (0: the embedding's output)")


def _log_axis(axes: Axes) -> None:
    """At least six decades, so that fluctuations do not look like trends."""
    low, high = axes.get_ylim()
    axes.set(xlim=(0, 64), ylim=(min(low, -3), max(high, 3)))
    axes.yaxis.set_major_locator(MaxNLocator(6, integer=True))
    decades(axes)


def _loss(axes: Axes, runs: Sequence[Run]) -> None:
    for skip, look in LOOKS.items():
        for depth in DEPTHS:
            curves = np.stack(
                [_smoothed(run.metrics["train_loss"]) for run in _group(runs, skip, depth)]
            )
            steps = np.arange(curves.shape[1]) * 10 + 5
            band(
                axes,
                steps,
                curves,
                **look,
                markevery=(DEPTHS.index(depth) * 2, 6),
                linestyle=STYLES[depth],
            )
    axes.set(yscale="log", ylim=(3e-4, 5), xlabel="training step")


def _legends(axes: np.ndarray) -> None:
    handles = [Line2D([], [], **look, label=LABELS[skip]) for skip, look in LOOKS.items()]
    handles.append(
        Line2D([], [], color="black", linestyle=DASHED, linewidth=0.9, label="mean-field theory")
    )
    axes[0, 0].legend(handles=handles, loc="lower right")
    plain = LOOKS["none"]["color"]
    shades = [
        Line2D([], [], color=plain, alpha=shade, label=f"step {step}")
        for step, shade in SHADES.items()
    ]
    axes[1, 1].legend(handles=shades, loc="lower right")
    depths = [
        Line2D([], [], color="0.3", linestyle=STYLES[depth], label=f"depth {depth}")
        for depth in DEPTHS
    ]
    axes[2, 0].legend(handles=depths, loc="lower left")


def _smoothed(loss: np.ndarray) -> np.ndarray:
    return loss[: len(loss) // 10 * 10].reshape(-1, 10).mean(axis=1)
