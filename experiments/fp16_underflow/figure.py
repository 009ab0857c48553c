"""Where the gradient lies in the format's range, what each layer loses, and what the loss scale does to training."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from research.records.runs import Run
from research.reporting.figures import PALETTE, band, depth_colours, exponent_map, new_figure
from research.theory.formats import EXPONENTS, FORMATS, layerwise_underflow

SCALES = (1, 8, 64, 1024)
DASHED: Any = (0, (4, 3))


def figure(runs: Sequence[Run]) -> Figure:
    """Exponents over layers and lost fraction over layers; final loss over the scale, the dynamic scale over steps."""
    canvas, axes = new_figure(7.2, 5.6, 2, 2)
    deep = [run for run in runs if run["model.depth"] == 60]
    trained = [run for run in runs if run["model.depth"] == 12]
    _exponents(canvas, axes[0, 0], [run for run in deep if run["precision.kind"] == "float32"])
    _lost(axes[0, 1], deep)
    _final(axes[1, 0], trained)
    _dynamic(axes[1, 1], [run for run in trained if run["precision.loss_scaling"] == "dynamic"])
    title = "float16 loses the gradient of deep layers; a loss scale of $2^k$ wins $2k$ layers back"
    canvas.suptitle(title, fontsize=9.5)
    return canvas


def _exponents(canvas: Figure, axes: Axes, runs: Sequence[Run]) -> None:
    histogram = np.mean([run.profiles["signal_exponent"][0] for run in runs], axis=0)
    named = {
        "float16": "float16 ends",
        "float8_e5m2": "float8 e5m2 ends",
        "float8_e4m3fn": "float8 e4m3 ends",
    }
    limits = {label: float(FORMATS[name].underflow) for name, label in named.items()}
    limits["float16: least normal number"] = float(FORMATS["float16"].smallest_normal)
    image = exponent_map(axes, EXPONENTS, histogram, limits)
    axes.set(
        xlabel="layer (0: the embedding's output)",
        ylabel="log₂ |∂L/∂h|, in float32",
        ylim=(-45, -4),
    )
    axes.set_title("the gradient's exponents")
    canvas.colorbar(image, ax=axes, label="share of nonzero elements")


def _group(runs: Sequence[Run], scale: float) -> list[Run]:
    return [
        run
        for run in runs
        if (run["precision.loss_scaling"], run["precision.loss_scale"]) == ("static", scale)
    ]


def _lost(axes: Axes, runs: Sequence[Run]) -> None:
    exact = [run for run in runs if run["precision.kind"] == "float32"]
    layers = np.arange(61)
    for scale, colour in zip(SCALES, depth_colours(len(SCALES)), strict=True):
        curves = np.stack([run.profiles["signal_lost"][0] for run in _group(runs, scale)])
        band(axes, layers, curves, color=colour, label=f"loss scale {scale}")
        foretold = [
            layerwise_underflow(run.profiles["signal_exponent"][0], "float16", scale) for run in exact
        ]
        axes.plot(
            layers,
            np.mean(foretold, axis=0),
            color=colour,
            linestyle=DASHED,
            linewidth=2.2,
            alpha=0.6,
        )
    handles = [*axes.get_legend_handles_labels()[0], Line2D([], [], color="0.3", linestyle=DASHED)]
    labels = [*axes.get_legend_handles_labels()[1], "foretold from float32"]
    axes.legend(handles, labels, loc="upper right", handlelength=1.2, bbox_to_anchor=(1.04, 1.0))
    axes.set(
        xlabel="layer (0: the embedding's output)",
        ylabel="fraction that is zero in float16 alone",
        xlim=(0, 60),
    )
    axes.set_title("lost in one step ($\\sigma_w^2=1$, ReLU)")


def _loss(runs: Sequence[Run]) -> np.ndarray:
    return np.array([run.info["final"]["train_loss"] for run in runs])


def _final(axes: Axes, runs: Sequence[Run]) -> None:
    static = [run for run in runs if run["precision.loss_scaling"] == "static"]
    scales = np.array(sorted({run["precision.loss_scale"] for run in static}))
    curves = np.stack([_loss(_group(runs, scale)) for scale in scales], axis=1)
    band(
        axes,
        np.log2(scales),
        curves,
        color=PALETTE[0],
        marker="o",
        markersize=3,
        label="float16, static scale",
    )
    ended = [
        np.log2(run["precision.loss_scale"]) for run in static if run.info["status"] == "diverged"
    ]
    heights = [
        run.info["final"]["train_loss"] for run in static if run.info["status"] == "diverged"
    ]
    axes.plot(
        ended, heights, "x", color=PALETTE[1], markersize=5, label="50 overflows in a row: ended"
    )
    for kind, colour, width in (("float32", "0.6", 2.6), ("mixed_bfloat16", PALETTE[2], 1)):
        losses = _loss([run for run in runs if run["precision.kind"] == kind])
        axes.axhline(
            losses.mean(),
            color=colour,
            linestyle=DASHED,
            linewidth=width,
            label=kind.removeprefix("mixed_"),
        )
    dynamic = _loss([run for run in runs if run["precision.loss_scaling"] == "dynamic"])
    axes.errorbar([25], [dynamic.mean()], [[dynamic.mean() - dynamic.min()], [dynamic.max() - dynamic.mean()]],
                  fmt="D", color=PALETTE[3], markersize=4, label="float16, dynamic from 2²⁵")  # fmt: skip
    axes.set(
        yscale="log",
        ylim=(0.04, 200),
        xlabel="log₂ of the loss scale",
        ylabel="training loss (nats), last epoch",
    )
    axes.legend(loc="upper left")
    axes.set_title("training: 12 layers of 64, Adam, 150 steps")


def _dynamic(axes: Axes, runs: Sequence[Run]) -> None:
    for run, colour in zip(runs, PALETTE, strict=False):
        scale = run.metrics["loss_scale"]
        skipped = run.metrics["skipped"] > 0
        axes.step(
            run.metrics["step"],
            np.log2(scale),
            where="post",
            color=colour,
            label=f"seed {run['seed']}",
        )
        axes.plot(
            run.metrics["step"][skipped], np.log2(scale[skipped]), "x", color=colour, markersize=4
        )
    axes.set(xlabel="training step", ylabel="log₂ of the loss scale", ylim=(0, 26))
    handles = [
        *axes.get_legend_handles_labels()[0],
        Line2D([], [], color="0.3", linestyle="", marker="x"),
    ]
    axes.legend(handles, [*axes.get_legend_handles_labels()[1], "step left out"], loc="lower right")
    axes.set_title("dynamic scaling finds its way down")
