"""Errors of numerical derivatives over their step, and what the gradient of four kinds of networks keeps."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.records.queries import where
from research.records.runs import Run
from research.reporting.figures import PALETTE, band, new_figure

KINDS = {"forward": ("-", "o"), "central": ("--", "s")}
PRECISIONS = {"float32": PALETTE[1], "float64": PALETTE[0]}
ACTIVATIONS = {"relu": ("ReLU", PALETTE[0], "o"), "tanh": ("tanh", PALETTE[1], "s")}
GAINS = (1.0, 10.0, 100.0, 1000.0, 10000.0, 100000.0)
COSINES = (
    ("batch", "unit_cosine", "batch norm, a unit's weights", PALETTE[0], "o"),
    ("layer", "layer_cosine", "layer norm, a layer's", PALETTE[2], "^"),
    ("layer", "unit_cosine", "layer norm, a unit's", PALETTE[1], "s"),
)


def figure(runs: Sequence[Run]) -> Figure:
    """Numerical derivatives; products over layers; orthogonality over the weights' size; balance over training."""
    canvas, axes = new_figure(7.0, 5.4, 2, 2)
    _differences(axes[0, 0], runs)
    _products(axes[0, 1], runs)
    _cosines(axes[1, 0], runs)
    _balance(axes[1, 1], runs)
    canvas.suptitle(
        "Automatic differentiation is exact to rounding, and gradients keep what symmetries demand",
        fontsize=9,
    )
    return canvas


def _differences(axes: Axes, runs: Sequence[Run]) -> None:
    group = where(runs, {"measure.inspect": ["difference_errors"]})
    for precision, colour in PRECISIONS.items():
        own = where(group, {"precision.kind": precision})
        steps = own[0].inspections["difference_step"][0]
        for kind, (line, marker) in KINDS.items():
            errors = np.stack([run.inspections[f"{kind}_difference_error"][0] for run in own])
            shown = np.exp(np.mean(np.log(np.maximum(errors, 1e-16)), axis=0))
            style = {"linestyle": line, "marker": marker, "markersize": 3, "linewidth": 1.0}
            filled = colour if precision == "float64" else "white"
            axes.plot(
                steps,
                shown,
                color=colour,
                markerfacecolor=filled,
                label=f"{kind}, {precision}",
                **style,
            )
        floor = np.median([run.inspections["mode_error"][0] for run in own])
        axes.axhline(floor, color=colour, linestyle=":", linewidth=1.2)
        axes.text(1e-14, floor / 2, f"automatic, {precision}", fontsize=6.5, color=colour, va="top")
    axes.set(
        xscale="log", yscale="log", ylim=(1e-18, 1e7), xlabel="step $h$ (in lengths of the weights)"
    )
    axes.set(
        ylabel="relative error of the derivative",
        title="a numerical derivative against the automatic one",
    )
    axes.legend(loc="upper right", ncols=2, fontsize=6, handlelength=2.2, columnspacing=1)


def _products(axes: Axes, runs: Sequence[Run]) -> None:
    for activation, (label, colour, marker) in ACTIVATIONS.items():
        group = where(
            runs,
            {"activation.kind": activation, "model.bias": False, "optimizer.learning_rate": 0.001},
        )
        found = [run.inspections for run in group]
        ratios = np.stack(
            [own["scale_derivative"][0] / own["output_scale_derivative"][0] for own in found]
        )
        layers = np.arange(1, ratios.shape[1] + 1)
        band(axes, layers, ratios, color=colour, marker=marker, markersize=3, label=label)
    axes.axhline(1, color="black", linestyle="--", linewidth=0.9, label="theory (homogeneous)")
    axes.set(xlabel="layer", ylabel="$\\langle W_l,\\partial L/\\partial W_l\\rangle$ over "
             "$\\langle f,\\partial L/\\partial f\\rangle$", title="networks without biases")  # fmt: skip
    axes.legend(loc="best")


def _cosines(axes: Axes, runs: Sequence[Run]) -> None:
    for norm, name, label, colour, marker in COSINES:
        groups = [where(runs, {"norm.kind": norm, "init.gain": gain}) for gain in GAINS]
        greatest = np.array(
            [[np.max(np.abs(run.inspections[name][0])) for run in group] for group in groups]
        )
        band(axes, GAINS, greatest.T, color=colour, marker=marker, markersize=3, label=label)
    guide = 1e-5 * np.array(GAINS) ** -2.0
    axes.plot(
        GAINS, guide, color="black", linestyle="--", linewidth=0.9, label="slope −2: the norm's ε"
    )
    axes.set(xscale="log", yscale="log", ylim=(1e-19, 1e3), xlabel="initial weights, in He's")
    axes.set(
        ylabel="greatest $|\\cos(w,\\partial L/\\partial w)|$", title="weights in front of a norm"
    )
    axes.legend(loc="upper right", bbox_to_anchor=(1.0, 0.83), fontsize=6.5)


def _balance(axes: Axes, runs: Sequence[Run]) -> None:
    for activation, (label, colour, marker) in ACTIVATIONS.items():
        for rate, line in ((0.001, "-"), (0.01, "--")):
            settings = {
                "activation.kind": activation,
                "model.bias": False,
                "optimizer.learning_rate": rate,
            }
            group = where(runs, settings)
            kept = np.stack([run.inspections["balance"] for run in group])
            drift = np.max(np.abs(kept - kept[:, :1]), axis=(2, 3))[:, 1:]
            style = {"color": colour, "linestyle": line, "marker": marker, "markersize": 3}
            band(
                axes,
                group[0].inspections["step"][1:],
                drift,
                label=f"{label}, $\\eta={rate:g}$",
                **style,
            )
    axes.axhline(1e-4, color="0.5", linestyle=":", linewidth=0.9)
    axes.set(yscale="log", ylim=(3e-6, 5), xlabel="step of gradient descent")
    axes.set(title="balance of a unit, networks without biases")
    axes.set(ylabel="greatest change of\n$\\|w_{in}\\|^2-\\|w_{out}\\|^2$")
    axes.legend(loc="upper left", ncols=2, fontsize=6.5)
