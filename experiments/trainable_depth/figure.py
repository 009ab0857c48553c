"""Training accuracy over weight variance and depth, and how far information travels."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from research.records.queries import at_best_rate, final_values, setting_values, where
from research.records.runs import Run
from research.reporting.aggregation import average_with_range
from research.reporting.figures import depth_colours, new_figure, set_ticks
from research.reporting.panels import CellAxis, plot_error_bars, plot_map, plot_theory_on_map
from research.theory import mean_field

BIAS = 0.05  # σ_b²
# Depths in units of ξ_c: the axis on the right begins and ends there.
SHALLOWEST = 7e-4
DEEPEST = 60


def figure(runs: Sequence[Run]) -> Figure:
    """Left the map of all cells with 6 ξ_c, right the same cells over depth in units of ξ_c."""
    canvas, axes = new_figure(7.2, 3.0, 1, 2)
    depths = setting_values(runs, "model.depth")
    sigmas = setting_values(runs, "init.sigma_w")
    accuracies = np.array([_read_row(runs, depth, sigmas) for depth in depths])
    _draw_map(axes[0, 0], depths, np.square(sigmas), accuracies.mean(axis=2))
    _draw_collapse(axes[0, 1], depths, np.square(sigmas), accuracies)
    canvas.suptitle(
        "A random tanh network trains if information travels through it: to a few times $\\xi_c$",
        fontsize=9,
    )
    return canvas


def _read_row(
    runs: Sequence[Run],
    depth: int,
    sigmas: Sequence[float],
) -> list[list[float]]:
    """The accuracies at one depth by σ_w and seed, at the learning rate whose loss ends lower."""
    row = []
    for sigma in sigmas:
        group = where(runs, {"model.depth": depth, "init.sigma_w": sigma})
        row.append(final_values(at_best_rate(group), "train_accuracy"))
    return row


def _depth_scales(variances: np.ndarray) -> np.ndarray:
    """The correlation depth scale ξ_c by σ_w²."""
    scales = []
    for variance in variances:
        scales.append(mean_field.correlation_depth_scale("tanh", variance, BIAS))
    return np.array(scales)


def _draw_map(
    axes: Axes,
    depths: Sequence[int],
    variances: np.ndarray,
    accuracies: np.ndarray,
) -> None:
    """The mean accuracies [depths, variances] as colours, each with its number, and 6 ξ_c."""
    columns = CellAxis(variances)
    rows = CellAxis(np.array(depths), is_log=True)
    image = plot_map(axes, columns, rows, accuracies, norm=Normalize(0, 1))
    edges = columns.edges()
    shown = np.linspace(edges[0], edges[-1], 150)
    plot_theory_on_map(axes, shown, 6 * _depth_scales(shown))
    axes.annotate("$6\\,\\xi_c$", (0.62, 8.9), xytext=(0.72, 6.2), fontsize=8, color="black")
    set_ticks(axes.yaxis, depths)
    axes.set(
        xlabel="$\\sigma_w^2$",
        ylabel="depth, in layers",
        title="training accuracy after 200 steps",
    )
    axes.figure.colorbar(image, ax=axes, pad=0.02)


def _draw_collapse(
    axes: Axes,
    depths: Sequence[int],
    variances: np.ndarray,
    accuracies: np.ndarray,
) -> None:
    """The accuracies [depths, variances, seeds] over depth in units of ξ_c, all on one curve."""
    critical = mean_field.critical_sigma_w2("tanh", BIAS)
    scales = _depth_scales(variances)
    is_ordered = variances < critical
    is_chaotic = variances > critical
    colours = depth_colours(len(depths))
    for depth, colour, row in zip(depths, colours, accuracies, strict=True):
        relative = depth / scales
        label = f"depth {depth}"
        _draw_cells(axes, relative[is_ordered], row[is_ordered], fmt="o", color=colour, label=label)
        _draw_cells(axes, relative[is_chaotic], row[is_chaotic], fmt="s", color=colour)
    axes.plot([], [], "s", color="0.5", markersize=4, label="squares: chaos")
    _draw_threshold(axes, SHALLOWEST, 3, 0.8, "claim: above")
    _draw_threshold(axes, 12, DEEPEST, 0.3, "below")
    axes.axvline(6, color="black", linestyle="--", linewidth=0.9)
    axes.text(5.6, 0.02, "$6\\,\\xi_c$", fontsize=8, ha="right")
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 0.05))
    axes.set(
        xscale="log",
        xlim=(SHALLOWEST, DEEPEST),
        ylim=(0, 1.05),
        xlabel="depth / $\\xi_c$",
        ylabel="training accuracy",
    )


def _draw_cells(
    axes: Axes,
    x: np.ndarray,
    values: np.ndarray,
    **style: Any,
) -> None:
    """The mean of ``values`` [cells, seeds], with bars for the range over seeds."""
    plot_error_bars(axes, x, average_with_range(values.T), markersize=4, linewidth=0.8, **style)


def _draw_threshold(
    axes: Axes,
    left: float,
    right: float,
    height: float,
    text: str,
) -> None:
    axes.plot((left, right), (height, height), color="black", linestyle=":", linewidth=1)
    axes.text(right / 2, height - 0.02, text, fontsize=6.5, ha="right", va="top")
