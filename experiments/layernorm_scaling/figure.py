"""The residual stream over depth, at initialisation and after training, for three norms."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.records.queries import where
from research.records.runs import Run
from research.reporting.figures import PALETTE, CurveStyle, new_figure
from research.reporting.panels import band, plot_theory
from research.theory.profiles import pre_norm_variances

DEEP = 64
TRAINED = 32
STYLES = (
    ({"norm.placement": "pre", "norm.scale": "one"}, CurveStyle("Pre-LN", PALETTE[0])),
    (
        {"norm.placement": "pre", "norm.scale": "inv_sqrt_layer"},
        CurveStyle("Pre-LN $\\cdot\\,1/\\sqrt{l}$", PALETTE[2]),
    ),
    ({"norm.placement": "peri"}, CurveStyle("Peri-LN", PALETTE[1], linestyle="-.")),
)


def figure(runs: Sequence[Run]) -> Figure:
    """Left at initialisation, middle after training over depth, right over training."""
    canvas, axes = new_figure(7.5, 2.7, 1, 3)
    initial, over_depth, over_training = axes[0]
    deep = where(runs, {"model.depth": DEEP})
    trained = where(runs, {"model.depth": TRAINED})
    for settings, style in STYLES:
        _draw_initial(initial, where(deep, settings), style)
        _draw_final(over_depth, where(trained, settings), style)
        _draw_training(over_training, where(trained, settings), style)
    blocks = np.arange(1, DEEP + 1)
    label = "theory"
    for scales_norm in (False, True):
        theory = pre_norm_variances(DEEP, scales_norm=scales_norm)[1:]
        plot_theory(initial, blocks, theory, label=label)
        label = None
    initial.set(
        xscale="log",
        yscale="log",
        xlabel="block",
        ylabel="mean square of the stream,\nminus that of the first signal",
        title="initially",
    )
    over_depth.set(
        yscale="log", xlabel="block", ylabel="mean square of the stream", title="trained"
    )
    over_training.set(
        yscale="log",
        xlabel="step of training",
        ylabel="mean square of the last signal",
        title="over training",
    )
    initial.legend(loc="upper left")
    canvas.suptitle(
        "Pre-LN's stream grows with depth and with training; a scale of $1/\\sqrt{l}$ keeps it "
        "small",
        fontsize=9,
    )
    return canvas


def _squares(runs: Sequence[Run]) -> np.ndarray:
    """Mean squares of the signals [runs, steps, N+1]."""
    return np.stack([run.profiles["activation_rms"].astype(float) ** 2 for run in runs])


def _draw_initial(
    axes: Axes,
    runs: Sequence[Run],
    style: CurveStyle,
) -> None:
    first = _squares(runs)[:, 0]
    added = first[:, 1:] - first[:, :1]
    blocks = np.arange(1, added.shape[1] + 1)
    band(axes, blocks, added, **style.keywords)


def _draw_final(
    axes: Axes,
    runs: Sequence[Run],
    style: CurveStyle,
) -> None:
    last = _squares(runs)[:, -1]
    signals = np.arange(last.shape[1])
    band(axes, signals, last, **style.keywords)


def _draw_training(
    axes: Axes,
    runs: Sequence[Run],
    style: CurveStyle,
) -> None:
    curves = _squares(runs)[:, :, -1]
    steps = runs[0].profiles["step"].astype(int)
    band(axes, steps, curves, **style.keywords)
