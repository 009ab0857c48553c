"""Signal and gradients over depth under both initialisations, and the training loss."""

import dataclasses
import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from research.records.queries import at_best_rate, initial_profiles, where
from research.records.runs import Run
from research.reporting.figures import PALETTE, CurveStyle, new_figure, set_log_scale
from research.reporting.panels import band, plot_metric, plot_theory, theory_handle
from research.theory import profiles as theory


@dataclasses.dataclass(frozen=True)
class Scheme:
    """An initialisation: its name in words, its colour, and σ_w²."""

    label: str
    color: str
    variance: float


SCHEMES = {
    "old_uniform": Scheme("$U(\\pm1/\\sqrt{n})$", PALETTE[1], 1 / 3),
    "glorot_uniform": Scheme("normalised", PALETTE[0], 1.0),
}
MARKERS = {"tanh": "o", "softsign": "^", "sigmoid": "s"}
TRAINED = {
    "sigmoid": CurveStyle("sigmoid", PALETTE[1], "s"),
    "tanh": CurveStyle("tanh", PALETTE[0], "o"),
    "relu": CurveStyle("ReLU", PALETTE[2], "v"),
}
WINDOW = 10  # training steps that one point of a curve is the mean of


def figure(runs: Sequence[Run]) -> Figure:
    """Signal and gradient above, weights' gradient and training loss beneath."""
    canvas, axes = new_figure(7.0, 5.0, 2, 2)
    noise = where(runs, {"data.name": "noise"})
    _plot_signal(axes[0, 0], noise)
    _plot_gradient(axes[0, 1], noise)
    _plot_weight_gradient(axes[1, 0], noise)
    _plot_training(axes[1, 1], where(runs, {"data.name": "digits"}))
    canvas.suptitle(
        "Normalised initial weights keep the back-propagated gradient; a sigmoid loses it anyhow",
        fontsize=9,
    )
    return canvas


def _squares(
    runs: Sequence[Run],
    gauge: str,
    scheme: str,
    activation: str,
) -> np.ndarray:
    """The square of a gauge at the first step, [seeds, layers]."""
    group = where(runs, {"init.kind": scheme, "activation.kind": activation})
    return initial_profiles(group, gauge).astype(float) ** 2


def _plot_profiles(
    axes: Axes,
    first: int,
    curves: np.ndarray,
    scheme: str,
    activation: str,
) -> None:
    layers = np.arange(first, first + curves.shape[1])
    color = SCHEMES[scheme].color
    band(axes, layers, curves, color=color, marker=MARKERS[activation], markersize=3.5)


def _plot_signal(axes: Axes, runs: Sequence[Run]) -> None:
    """The sigmoid is left out: its outputs have the mean 1/2, which is another matter."""
    for scheme in SCHEMES:
        for activation in ("tanh", "softsign"):
            squares = _squares(runs, "activation_rms", scheme, activation)
            _plot_profiles(axes, 0, squares / squares[:, :1], scheme, activation)
    _finish_profiles(axes, "signal: square of $h$, first layer = 1")
    handles = []
    for scheme in SCHEMES.values():
        handles.append(Line2D([], [], color=scheme.color, label=scheme.label))
    axes.legend(handles=handles, loc="lower left")


def _plot_gradient(axes: Axes, runs: Sequence[Run]) -> None:
    for name, scheme in SCHEMES.items():
        for activation in MARKERS:
            squares = _squares(runs, "signal_grad", name, activation)
            _plot_profiles(axes, 0, squares / squares[:, -1:], name, activation)
            predicted = _predict_gradient(activation, scheme.variance)
            plot_theory(axes, range(len(predicted)), predicted, linewidth=0.7)
    _finish_profiles(axes, "back-propagated: squared $\\partial L/\\partial h$, last layer = 1")
    axes.legend(handles=_activation_handles(), loc="lower right")


def _activation_handles() -> list[Line2D]:
    """Legend entries of the markers and of the theory."""
    common = {"color": "0.3", "linestyle": "none", "markersize": 3.5}
    handles = []
    for activation, marker in MARKERS.items():
        handles.append(Line2D([], [], marker=marker, label=activation, **common))
    handles.append(theory_handle("theory"))
    return handles


def _plot_weight_gradient(axes: Axes, runs: Sequence[Run]) -> None:
    for scheme in SCHEMES:
        for activation in MARKERS:
            squares = _squares(runs, "grad_norm", scheme, activation)
            _plot_profiles(axes, 1, squares / squares[:, -1:], scheme, activation)
    _finish_profiles(axes, "squared gradient of the weights, last layer = 1")


def _finish_profiles(axes: Axes, title: str) -> None:
    set_log_scale(axes)
    axes.set(xlabel="layer", title=title)


def _predict_gradient(activation: str, variance: float) -> np.ndarray:
    """The squared gradient over the layers, relative to the last."""
    profile = theory.predict_profile(
        activation=activation,
        norm="none",
        placement="pre",
        depth=10,
        batch=128,
        sigma_w2=variance,
        sigma_b2=0.0,
        q0=variance,
        branch_scale=1.0,
        shortcut_scale=0.0,
    )
    assert profile is not None
    return np.exp(profile)


def _plot_training(axes: Axes, runs: Sequence[Run]) -> None:
    for activation, style in TRAINED.items():
        best = at_best_rate(where(runs, {"activation.kind": activation}))
        plot_metric(
            axes,
            best,
            "train_loss",
            window=WINDOW,
            markevery=5,
            markersize=3.5,
            **style.keywords,
        )
    axes.axhline(math.log(10), color="0.5", linestyle=":", linewidth=0.8)
    axes.text(300, math.log(10) * 1.35, "chance: ln 10", fontsize=7, ha="right")
    axes.legend(loc="lower left")
    axes.set(
        yscale="log",
        ylim=(2e-4, 6),
        xlabel="step",
        title="training loss on digits, best learning rate",
    )
