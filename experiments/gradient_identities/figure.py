"""Errors of numerical derivatives over their step, and what the gradient of networks conserves."""

import dataclasses
from collections.abc import Sequence
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.records.queries import where
from research.records.runs import Run
from research.reporting.figures import PALETTE, CurveStyle, new_figure
from research.reporting.panels import band, plot_over_setting, plot_theory

PRECISIONS = {"float32": PALETTE[1], "float64": PALETTE[0]}
ACTIVATIONS = {
    "relu": CurveStyle("ReLU", PALETTE[0], "o"),
    "tanh": CurveStyle("tanh", PALETTE[1], "s"),
}
LEARNING_RATES = {0.001: "-", 0.01: "--"}
GAINS = (1.0, 10.0, 100.0, 1000.0, 10000.0, 100000.0)


@dataclasses.dataclass(frozen=True)
class Cosine:
    """A cosine between weights and their gradient, before a norm."""

    norm: str
    gauge: str
    style: CurveStyle


COSINES = (
    Cosine("batch", "unit_cosine", CurveStyle("batch norm, a unit's weights", PALETTE[0], "o")),
    Cosine("layer", "layer_cosine", CurveStyle("layer norm, a layer's", PALETTE[2], "^")),
    Cosine("layer", "unit_cosine", CurveStyle("layer norm, a unit's", PALETTE[1], "s")),
)


def figure(runs: Sequence[Run]) -> Figure:
    """Numerical derivatives; products by layer; orthogonality over gain; balance over training."""
    canvas, axes = new_figure(7.0, 5.4, 2, 2)
    _plot_differences(axes[0, 0], where(runs, {"measure.inspect": ["difference_errors"]}))
    _plot_products(axes[0, 1], runs)
    _plot_cosines(axes[1, 0], runs)
    _plot_balance(axes[1, 1], runs)
    canvas.suptitle(
        "Automatic differentiation is exact to rounding, and gradients keep what symmetries demand",
        fontsize=9,
    )
    return canvas


def _plot_differences(axes: Axes, runs: Sequence[Run]) -> None:
    for precision in PRECISIONS:
        group = where(runs, {"precision.kind": precision})
        _plot_quotient(axes, group, "forward", precision, linestyle="-", marker="o")
        _plot_quotient(axes, group, "central", precision, linestyle="--", marker="s")
        _plot_automatic(axes, group, precision)
    axes.set(
        xscale="log",
        yscale="log",
        ylim=(1e-18, 1e7),
        xlabel="step $h$ (in lengths of the weights)",
        ylabel="relative error of the derivative",
        title="a numerical derivative against the automatic one",
    )
    axes.legend(loc="upper right", ncols=2, fontsize=6, handlelength=2.2, columnspacing=1)


def _plot_quotient(
    axes: Axes,
    runs: Sequence[Run],
    kind: str,
    precision: str,
    *,
    linestyle: str,
    marker: str,
) -> None:
    """Draws the geometric mean over seeds of a difference quotient's error.

    Args:
        axes: where to draw.
        runs: the runs of one number format.
        kind: ``forward`` or ``central``.
        precision: the number format.
        linestyle: the style of the line.
        marker: the shape of the markers, filled for float64.
    """
    errors = np.stack([run.inspections[f"{kind}_difference_error"][0] for run in runs])
    colour = PRECISIONS[precision]
    axes.plot(
        runs[0].inspections["difference_step"][0],
        np.exp(np.mean(np.log(np.maximum(errors, 1e-16)), axis=0)),
        color=colour,
        linestyle=linestyle,
        linewidth=1.0,
        marker=marker,
        markersize=3,
        markerfacecolor=colour if precision == "float64" else "white",
        label=f"{kind}, {precision}",
    )


def _plot_automatic(
    axes: Axes,
    runs: Sequence[Run],
    precision: str,
) -> None:
    colour = PRECISIONS[precision]
    error = np.median([run.inspections["mode_error"][0] for run in runs])
    axes.axhline(error, color=colour, linestyle=":", linewidth=1.2)
    axes.text(1e-14, error / 2, f"automatic, {precision}", fontsize=6.5, color=colour, va="top")


def _select_homogeneous(
    runs: Sequence[Run],
    activation: str,
    learning_rate: float,
) -> list[Run]:
    """The networks without biases, at one learning rate."""
    settings = {
        "activation.kind": activation,
        "model.bias": False,
        "optimizer.learning_rate": learning_rate,
    }
    return where(runs, settings)


def _plot_products(axes: Axes, runs: Sequence[Run]) -> None:
    for activation, style in ACTIVATIONS.items():
        ratios = []
        for run in _select_homogeneous(runs, activation, 0.001):
            layers = run.inspections["scale_derivative"][0]
            output = run.inspections["output_scale_derivative"][0]
            ratios.append(layers / output)
        band(
            axes,
            range(1, len(ratios[0]) + 1),
            np.stack(ratios),
            markersize=3,
            **style.keywords,
        )
    axes.axhline(1, color="black", linestyle="--", linewidth=0.9, label="theory (homogeneous)")
    axes.set(
        xlabel="layer",
        ylabel="$\\langle W_l,\\partial L/\\partial W_l\\rangle$ over "
        "$\\langle f,\\partial L/\\partial f\\rangle$",
        title="networks without biases",
    )
    axes.legend(loc="best")


def _plot_cosines(axes: Axes, runs: Sequence[Run]) -> None:
    for cosine in COSINES:
        plot_over_setting(
            axes,
            where(runs, {"norm.kind": cosine.norm}),
            "init.gain",
            partial(_greatest, name=cosine.gauge),
            markersize=3,
            **cosine.style.keywords,
        )
    guide = 1e-5 * np.array(GAINS) ** -2.0
    plot_theory(axes, GAINS, guide, label="slope −2: the norm's ε")
    axes.set(
        xscale="log",
        yscale="log",
        ylim=(1e-19, 1e3),
        xlabel="initial weights, in He's",
        ylabel="greatest $|\\cos(w,\\partial L/\\partial w)|$",
        title="weights in front of a norm",
    )
    axes.legend(loc="upper right", bbox_to_anchor=(1.0, 0.83), fontsize=6.5)


def _greatest(run: Run, name: str) -> float:
    """The greatest absolute value over layers at the first inspected step."""
    return np.max(np.abs(run.inspections[name][0]))


def _plot_balance(axes: Axes, runs: Sequence[Run]) -> None:
    for activation, style in ACTIVATIONS.items():
        for learning_rate, linestyle in LEARNING_RATES.items():
            group = _select_homogeneous(runs, activation, learning_rate)
            balance = np.stack([run.inspections["balance"] for run in group])
            change = np.abs(balance - balance[:, :1])
            band(
                axes,
                group[0].inspections["step"][1:],
                np.max(change, axis=(2, 3))[:, 1:],
                color=style.color,
                linestyle=linestyle,
                marker=style.marker,
                markersize=3,
                label=f"{style.label}, $\\eta={learning_rate:g}$",
            )
    axes.axhline(1e-4, color="0.5", linestyle=":", linewidth=0.9)
    axes.set(
        yscale="log",
        ylim=(3e-6, 5),
        xlabel="step of gradient descent",
        ylabel="greatest change of\n$\\|w_{in}\\|^2-\\|w_{out}\\|^2$",
        title="balance of a unit, networks without biases",
    )
    axes.legend(loc="upper left", ncols=2, fontsize=6.5)
