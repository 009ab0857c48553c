"""Growth of the gradient over depth: rectifier branches of four scales, and tanh branches."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.diagnosis.verdict import log_profile
from research.records.queries import where
from research.records.runs import Run
from research.reporting.figures import PALETTE, decades, new_figure

DEPTHS = (25, 50, 100)
SCALES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "1": np.ones_like,
    "1/2": lambda depth: 0.5 * np.ones_like(depth),
    "1/\\sqrt{L}": lambda depth: depth**-0.5,
    "1/L": lambda depth: 1 / depth,
}
STYLES = dict(
    zip(
        SCALES,
        ((PALETTE[1], "^"), (PALETTE[3], "s"), (PALETTE[0], "o"), (PALETTE[2], "v")),
        strict=True,
    )
)
COEFFICIENT = 8 / 3 / math.sqrt(2 * math.pi)  # of √l under tanh branches


def figure(runs: Sequence[Run]) -> Figure:
    """Left rectifiers of all scales, in the middle the two that keep the gradient, right tanh."""
    canvas, axes = new_figure(7.2, 2.8, 1, 3)
    rectifiers = where(runs, {"activation.kind": "relu"})
    _scales(axes[0, 0], rectifiers, tuple(SCALES), math.log(10))
    _scales(axes[0, 1], rectifiers, ("1/\\sqrt{L}", "1/L"), 1.0)
    _tanh(axes[0, 2], where(runs, {"activation.kind": "tanh"}))
    canvas.suptitle(
        "Residual networks keep their gradient at any depth if branches are scaled by 1/√depth",
        fontsize=9,
    )
    return canvas


def _scales(axes: Axes, runs: Sequence[Run], names: Sequence[str], unit: float) -> None:
    """The logarithm of the ratio in units of ``unit`` over depth, its range over seeds as a bar, theory dashed."""
    fine = np.linspace(1, 100, 100)
    for name in names:
        colour, marker = STYLES[name]
        axes.plot(
            fine,
            fine * np.log1p(SCALES[name](fine) ** 2) / unit,
            color="black",
            linestyle="--",
            linewidth=0.8,
        )
        for depth in DEPTHS:
            logs = np.array([_log_ratio(run) for run in _group(runs, name, depth)]) / unit
            bar = [[logs.mean() - logs.min()], [logs.max() - logs.mean()]]
            label = f"$a={name}$" if depth == DEPTHS[-1] else None
            axes.errorbar(
                depth,
                logs.mean(),
                bar,
                color=colour,
                marker=marker,
                markersize=4.5,
                capsize=2,
                label=label,
            )
    axes.set(xlim=(0, 106), xlabel="depth $L$")
    if unit == 1.0:
        axes.plot([], [], color="black", linestyle="--", linewidth=0.8, label="$L\\,\\ln(1+a^2)$")
        axes.legend(loc="upper right")
        axes.axhline(0, color="0.6", linewidth=0.6)
        axes.set(ylim=(-0.3, 2.3), title="ReLU, nearer: ln of that ratio")
    else:
        axes.legend(loc="upper left")
        decades(axes)
        axes.set(title="ReLU: squared gradient,\nfirst layer over last")


def _group(runs: Sequence[Run], name: str, depth: int) -> list[Run]:
    scale = float(SCALES[name](np.array(float(depth))))
    return [
        run
        for run in where(runs, {"model.depth": depth})
        if math.isclose(run["skip.branch_scale"], scale)
    ]


def _log_ratio(run: Run) -> float:
    return float(log_profile(run.profiles["signal_grad"][0])[0])


def _tanh(axes: Axes, runs: Sequence[Run]) -> None:
    """Both laws on logarithmic axes: the gradient's growth has the slope 1/2, the signal's the slope 1."""
    growth = np.stack([_growth(run) for run in runs])
    squares = np.stack([run.profiles["activation_rms"][0, 1:] ** 2 for run in runs])
    layers = np.arange(1, growth.shape[1] + 1)
    for curves, colour, marker, label in (
        (squares, PALETTE[5], "D", "variance of $h_l$"),
        (growth, PALETTE[0], "o", "ln of gradient's growth"),
    ):
        axes.plot(
            layers,
            curves.mean(0),
            color=colour,
            marker=marker,
            markevery=0.12,
            markersize=3.5,
            label=label,
        )
        axes.fill_between(
            layers, curves.min(0), curves.max(0), color=colour, alpha=0.25, linewidth=0
        )
    axes.plot(
        layers, COEFFICIENT * np.sqrt(layers), "k--", linewidth=0.9, label="$1.064\\,\\sqrt{l}$"
    )
    axes.plot(layers, layers, "k:", linewidth=0.9, label="$l$")
    axes.legend(loc="upper left")
    axes.set(xscale="log", yscale="log", ylim=(0.5, 3000), xlabel="layer $l$", title="tanh, $a=1$")


def _growth(run: Run) -> np.ndarray:
    """Ln of the first layer's squared gradient over that of layer l = 1..N."""
    logs = log_profile(run.profiles["signal_grad"][0])
    return logs[0] - logs[1:]
