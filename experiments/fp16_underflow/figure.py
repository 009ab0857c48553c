"""Where gradients lie in float16's range, what layers lose, and what the loss scale does."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from research.records.queries import initial_profiles, setting_values, where
from research.records.runs import Run
from research.reporting.aggregation import average_with_range
from research.reporting.figures import PALETTE, depth_colours, new_figure
from research.reporting.panels import band, exponent_map, plot_error_bars
from research.theory.formats import EXPONENTS, FORMATS, layerwise_underflow

SCALES = (1, 8, 64, 1024)
DASHED: Any = (0, (4, 3))


def figure(runs: Sequence[Run]) -> Figure:
    """Above exponents and lost fraction over layers; below final loss and the dynamic scale."""
    canvas, axes = new_figure(7.2, 5.6, 2, 2)
    deep = where(runs, {"model.depth": 60})
    trained = where(runs, {"model.depth": 12})
    _plot_exponents(canvas, axes[0, 0], where(deep, {"precision.kind": "float32"}))
    _plot_lost(axes[0, 1], deep)
    _plot_final_losses(axes[1, 0], trained)
    _plot_dynamic_scale(axes[1, 1], where(trained, {"precision.loss_scaling": "dynamic"}))
    title = "float16 loses the gradient of deep layers; a loss scale of $2^k$ wins $2k$ layers back"
    canvas.suptitle(title, fontsize=9.5)
    return canvas


def _plot_exponents(
    canvas: Figure,
    axes: Axes,
    runs: Sequence[Run],
) -> None:
    histogram = np.mean(initial_profiles(runs, "signal_exponent"), axis=0)
    limits = {
        "float16 ends": float(FORMATS["float16"].underflow),
        "float8 e5m2 ends": float(FORMATS["float8_e5m2"].underflow),
        "float8 e4m3 ends": float(FORMATS["float8_e4m3fn"].underflow),
        "float16: least normal number": float(FORMATS["float16"].smallest_normal),
    }
    image = exponent_map(axes, EXPONENTS, histogram, limits)
    axes.set(
        xlabel="layer (0: the embedding's output)",
        ylabel="log₂ |∂L/∂h|, in float32",
        ylim=(-45, -4),
    )
    axes.set_title("the gradient's exponents")
    canvas.colorbar(image, ax=axes, label="share of nonzero elements")


def _select_static(runs: Sequence[Run], scale: float) -> list[Run]:
    """The runs with one constant loss scale."""
    return where(runs, {"precision.loss_scaling": "static", "precision.loss_scale": scale})


def _plot_lost(axes: Axes, runs: Sequence[Run]) -> None:
    exact = where(runs, {"precision.kind": "float32"})
    for scale, colour in zip(SCALES, depth_colours(len(SCALES)), strict=True):
        curves = initial_profiles(_select_static(runs, scale), "signal_lost")
        layers = np.arange(curves.shape[1])
        band(axes, layers, curves, color=colour, label=f"loss scale {scale}")
        axes.plot(
            layers,
            _predict_lost(exact, scale),
            color=colour,
            linestyle=DASHED,
            linewidth=2.2,
            alpha=0.6,
        )
    predicted = Line2D([], [], color="0.3", linestyle=DASHED, label="predicted from float32")
    axes.legend(
        handles=[*axes.get_legend_handles_labels()[0], predicted],
        loc="upper right",
        handlelength=1.2,
        bbox_to_anchor=(1.04, 1.0),
    )
    axes.set(
        xlabel="layer (0: the embedding's output)",
        ylabel="fraction that is zero in float16 alone",
        xlim=(0, 60),
    )
    axes.set_title("lost in one step ($\\sigma_w^2=1$, ReLU)")


def _predict_lost(runs: Sequence[Run], scale: float) -> np.ndarray:
    """The lost fraction by layer that the exponents of float32 runs predict, mean over seeds."""
    predicted = []
    for exponents in initial_profiles(runs, "signal_exponent"):
        predicted.append(layerwise_underflow(exponents, "float16", scale))
    return np.mean(predicted, axis=0)


def _last_losses(runs: Sequence[Run]) -> np.ndarray:
    """The last recorded training losses, those of diverged runs included."""
    return np.array([run.info["final"]["train_loss"] for run in runs])


def _plot_final_losses(axes: Axes, runs: Sequence[Run]) -> None:
    static = where(runs, {"precision.loss_scaling": "static"})
    _plot_static_scales(axes, static)
    _plot_diverged(axes, [run for run in static if run.info["status"] == "diverged"])
    float32 = _last_losses(where(runs, {"precision.kind": "float32"})).mean()
    axes.axhline(float32, color="0.6", linestyle=DASHED, linewidth=2.6, label="float32")
    bfloat16 = _last_losses(where(runs, {"precision.kind": "mixed_bfloat16"})).mean()
    axes.axhline(bfloat16, color=PALETTE[2], linestyle=DASHED, linewidth=1, label="bfloat16")
    dynamic = _last_losses(where(runs, {"precision.loss_scaling": "dynamic"}))
    plot_error_bars(
        axes,
        [25],
        average_with_range(dynamic[:, None]),
        fmt="D",
        color=PALETTE[3],
        markersize=4,
        label="float16, dynamic from 2²⁵",
    )
    axes.set(
        yscale="log",
        ylim=(0.04, 200),
        xlabel="log₂ of the loss scale",
        ylabel="training loss (nats), last epoch",
    )
    axes.legend(loc="upper left")
    axes.set_title("training: 12 layers of 64, Adam, 150 steps")


def _plot_static_scales(axes: Axes, runs: Sequence[Run]) -> None:
    scales = setting_values(runs, "precision.loss_scale")
    columns = [_last_losses(_select_static(runs, scale)) for scale in scales]
    band(
        axes,
        np.log2(scales),
        np.stack(columns, axis=1),
        color=PALETTE[0],
        marker="o",
        markersize=3,
        label="float16, static scale",
    )


def _plot_diverged(axes: Axes, runs: Sequence[Run]) -> None:
    scales = [run["precision.loss_scale"] for run in runs]
    axes.plot(
        np.log2(scales),
        _last_losses(runs),
        "x",
        color=PALETTE[1],
        markersize=5,
        label="50 overflows in a row: ended",
    )


def _plot_dynamic_scale(axes: Axes, runs: Sequence[Run]) -> None:
    for run, colour in zip(runs, PALETTE, strict=False):
        steps = run.metrics["step"]
        log_scale = np.log2(run.metrics["loss_scale"])
        is_skipped = run.metrics["skipped"] > 0
        axes.step(steps, log_scale, where="post", color=colour, label=f"seed {run['seed']}")
        axes.plot(steps[is_skipped], log_scale[is_skipped], "x", color=colour, markersize=4)
    axes.set(xlabel="training step", ylabel="log₂ of the loss scale", ylim=(0, 26))
    skipped = Line2D([], [], color="0.3", linestyle="", marker="x", label="step left out")
    axes.legend(handles=[*axes.get_legend_handles_labels()[0], skipped], loc="lower right")
    axes.set_title("dynamic scaling finds its way down")
