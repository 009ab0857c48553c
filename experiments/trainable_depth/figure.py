"""Training accuracy over weight variance and depth, with the depth to which information travels."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.records.queries import at_best_rate, final, where
from research.records.runs import Run
from research.reporting.figures import depth_colours, new_figure
from research.theory import mean_field

BIAS = 0.05  # σ_b²


def figure(runs: Sequence[Run]) -> Figure:
    """Left the map of all cells with 6 ξ_c, right the same cells over depth in units of ξ_c."""
    canvas, axes = new_figure(7.2, 3.0, 1, 2)
    depths = sorted({run["model.depth"] for run in runs})
    sigmas = sorted({run["init.sigma_w"] for run in runs})
    cells = np.array([[_accuracies(runs, depth, sigma) for sigma in sigmas] for depth in depths])
    _map(axes[0, 0], depths, np.square(sigmas), cells.mean(axis=2))
    _collapse(axes[0, 1], depths, np.square(sigmas), cells)
    canvas.suptitle(
        "A random tanh network trains if information travels through it: to a few times $\\xi_c$",
        fontsize=9,
    )
    return canvas


def _accuracies(runs: Sequence[Run], depth: int, sigma: float) -> list[float]:
    cell = where(runs, {"model.depth": depth, "init.sigma_w": sigma})
    best = at_best_rate(cell)
    return [final(run, "train_accuracy") for run in best]


def _map(axes: Axes, depths: Sequence[int], variances: np.ndarray, accuracy: np.ndarray) -> None:
    columns = _edges(variances)
    rows = np.exp(_edges(np.log(np.array(depths))))
    image = axes.pcolormesh(
        columns, rows, accuracy, cmap="viridis", vmin=0, vmax=1, rasterized=True
    )
    for row, depth in enumerate(depths):
        for column, variance in enumerate(variances):
            value = accuracy[row, column]
            colour = "black" if value > 0.6 else "white"
            axes.text(
                variance,
                depth,
                f"{value:.2f}".lstrip("0"),
                fontsize=5.5,
                ha="center",
                va="center",
                color=colour,
                bbox={"facecolor": image.cmap(value), "edgecolor": "none", "pad": 0.6},
                zorder=4,
            )
    fine = np.linspace(columns[0], columns[-1], 150)
    scales = np.array(
        [mean_field.correlation_depth_scale("tanh", variance, BIAS) for variance in fine]
    )
    axes.plot(fine, 6 * scales, color="black", linewidth=1.2)
    axes.plot(fine, 6 * scales, color="white", linestyle="--", linewidth=1.2)
    axes.annotate("$6\\,\\xi_c$", (0.62, 8.9), xytext=(0.72, 6.2), fontsize=8, color="black")
    axes.grid(False)
    axes.set(
        yscale="log", ylim=(rows[0], rows[-1]), xlabel="$\\sigma_w^2$", ylabel="depth, in layers"
    )
    axes.set_yticks(depths, [str(depth) for depth in depths])
    axes.minorticks_off()
    axes.set_title("training accuracy after 200 steps")
    axes.figure.colorbar(image, ax=axes, pad=0.02)


def _edges(centres: np.ndarray) -> np.ndarray:
    middles = (centres[1:] + centres[:-1]) / 2
    return np.concatenate([[2 * centres[0] - middles[0]], middles, [2 * centres[-1] - middles[-1]]])


def _collapse(axes: Axes, depths: Sequence[int], variances: np.ndarray, cells: np.ndarray) -> None:
    edge = mean_field.critical_sigma_w2("tanh", BIAS)
    scales = np.array(
        [mean_field.correlation_depth_scale("tanh", variance, BIAS) for variance in variances]
    )
    for depth, colour, row in zip(depths, depth_colours(len(depths)), cells, strict=True):
        for side, marker in ((variances < edge, "o"), (variances > edge, "s")):
            x = depth / scales[side]
            values = row[side]
            mean = values.mean(axis=1)
            spread = [mean - values.min(axis=1), values.max(axis=1) - mean]
            label = f"depth {depth}" if marker == "o" else None
            axes.errorbar(
                x, mean, spread, fmt=marker, color=colour, markersize=4, linewidth=0.8, label=label
            )
    axes.plot([], [], "s", color="0.5", markersize=4, label="squares: chaos")
    for relative, limit, text in ((3, 0.8, "claim: above"), (12, 0.3, "below")):
        left, right = (7e-4, relative) if relative == 3 else (relative, 60)
        axes.plot((left, right), (limit, limit), color="black", linestyle=":", linewidth=1)
        axes.text(right / 2, limit - 0.02, text, fontsize=6.5, ha="right", va="top")
    axes.axvline(6, color="black", linestyle="--", linewidth=0.9)
    axes.text(5.6, 0.02, "$6\\,\\xi_c$", fontsize=8, ha="right")
    axes.legend(loc="lower left", bbox_to_anchor=(0.0, 0.05))
    axes.set(
        xscale="log",
        xlim=(7e-4, 60),
        ylim=(0, 1.05),
        xlabel="depth / $\\xi_c$",
        ylabel="training accuracy",
    )
