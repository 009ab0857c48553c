"""Growth of the gradient over depth: rectifier branches of four scales, and tanh branches."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.diagnosis.verdict import log_profile
from research.records.queries import initial_profiles, where
from research.records.runs import Run
from research.reporting.aggregation import average_with_range
from research.reporting.figures import PALETTE, CurveStyle, new_figure
from research.reporting.panels import band, plot_error_bars, plot_theory

DEPTHS = (25, 50, 100)
STYLES = {  # by the branch's scale a in a network of L layers
    "1": CurveStyle("$a=1$", PALETTE[1], "^"),
    "1/2": CurveStyle("$a=1/2$", PALETTE[3], "s"),
    "1/√L": CurveStyle("$a=1/\\sqrt{L}$", PALETTE[0], "o"),
    "1/L": CurveStyle("$a=1/L$", PALETTE[2], "v"),
}
SMALL_SCALES = ("1/√L", "1/L")  # those that keep the gradient
SQUARED_GRADIENT = CurveStyle("ln of gradient's growth", PALETTE[0], "o")
VARIANCE = CurveStyle("variance of $h_l$", PALETTE[5], "D")
COEFFICIENT = 8 / 3 / math.sqrt(2 * math.pi)  # of √l under tanh branches


def figure(runs: Sequence[Run]) -> Figure:
    """Left rectifiers of all scales, in the middle the two that keep the gradient, right tanh."""
    canvas, axes = new_figure(7.2, 2.8, 1, 3)
    rectifiers = where(runs, {"activation.kind": "relu"})
    _draw_all_scales(axes[0, 0], rectifiers)
    _draw_small_scales(axes[0, 1], rectifiers)
    _draw_tanh(axes[0, 2], where(runs, {"activation.kind": "tanh"}))
    canvas.suptitle(
        "Residual networks keep their gradient at any depth if branches are scaled by 1/√depth",
        fontsize=9,
    )
    return canvas


def _draw_all_scales(axes: Axes, runs: Sequence[Run]) -> None:
    for scale in STYLES:
        _draw_scale(axes, runs, scale, unit=math.log(10))
    axes.set(xlim=(0, 106), xlabel="depth $L$")
    axes.legend(loc="upper left")
    axes.yaxis.set_major_formatter("$10^{{{x:g}}}$")
    axes.set(title="ReLU: squared gradient,\nfirst layer over last")


def _draw_small_scales(axes: Axes, runs: Sequence[Run]) -> None:
    for scale in SMALL_SCALES:
        _draw_scale(axes, runs, scale, unit=1.0)
    axes.set(xlim=(0, 106), xlabel="depth $L$")
    plot_theory(axes, [], [], linewidth=0.8, label="$L\\,\\ln(1+a^2)$")
    axes.legend(loc="upper right")
    axes.axhline(0, color="0.6", linewidth=0.6)
    axes.set(ylim=(-0.3, 2.3), title="ReLU, nearer: ln of that ratio")


def _draw_scale(
    axes: Axes,
    runs: Sequence[Run],
    scale: str,
    *,
    unit: float,
) -> None:
    """Ln of the ratio over depth, divided by ``unit``: bars show the range over seeds."""
    style = STYLES[scale]
    depths = np.linspace(1, 100, 100)
    squared_scales = _branch_scale(scale, depths) ** 2
    plot_theory(axes, depths, depths * np.log1p(squared_scales) / unit, linewidth=0.8)
    for depth in DEPTHS:
        logs = log_profile(initial_profiles(_group(runs, scale, depth), "signal_grad"))
        plot_error_bars(
            axes,
            [depth],
            average_with_range(logs[:, :1] / unit),
            color=style.color,
            marker=style.marker,
            markersize=4.5,
            capsize=2,
            label=style.label if depth == DEPTHS[-1] else None,
        )


def _branch_scale(scale: str, depth: np.ndarray) -> np.ndarray:
    scales = {
        "1": np.ones_like(depth),
        "1/2": np.full_like(depth, 0.5),
        "1/√L": depth**-0.5,
        "1/L": 1 / depth,
    }
    return scales[scale]


def _group(
    runs: Sequence[Run],
    scale: str,
    depth: int,
) -> list[Run]:
    value = float(_branch_scale(scale, np.array(float(depth))))
    group = where(runs, {"model.depth": depth})
    return [run for run in group if math.isclose(run["skip.branch_scale"], value)]


def _draw_tanh(axes: Axes, runs: Sequence[Run]) -> None:
    """On logarithmic axes the gradient's growth has slope 1/2, the signal's variance slope 1."""
    logs = log_profile(initial_profiles(runs, "signal_grad"))
    growth = logs[:, :1] - logs[:, 1:]
    variances = initial_profiles(runs, "activation_rms")[:, 1:] ** 2
    layers = np.arange(1, growth.shape[1] + 1)
    for curves, style in ((variances, VARIANCE), (growth, SQUARED_GRADIENT)):
        band(axes, layers, curves, markevery=0.12, markersize=3.5, **style.keywords)
    root_law = COEFFICIENT * np.sqrt(layers)
    axes.plot(layers, root_law, "k--", linewidth=0.9, label="$1.064\\,\\sqrt{l}$")
    axes.plot(layers, layers, "k:", linewidth=0.9, label="$l$")
    axes.legend(loc="upper left")
    axes.set(xscale="log", yscale="log", ylim=(0.5, 3000), xlabel="layer $l$", title="tanh, $a=1$")
