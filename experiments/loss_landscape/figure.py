"""The loss as a landscape: surfaces, the path of training, straight lines, and a saddle."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.records.queries import where
from research.records.runs import Run
from research.reporting.figures import PALETTE
from research.reporting.panels import band

SURFACES = {  # title by depth and kind of shortcut
    (4, "none"): "4 layers",
    (4, "inv_sqrt_depth"): "4 layers, shortcuts",
    (20, "none"): "20 layers",
    (20, "inv_sqrt_depth"): "20 layers, shortcuts",
}
SEED = 10  # of the networks whose surface is shown
LOG_LIMITS = (-2.5, 4.0)  # log₁₀ of the loss, the colour scale of all surfaces
TRAINED = -1
INSPECTED = ["loss_surface", "interpolation"]
COLOURS = "viridis"
ZOOM = 1.3  # of the surfaces, which leave much of their panels empty


def figure(runs: Sequence[Run]) -> Figure:
    """Above four surfaces on one scale; below the path, two straight lines, and a saddle."""
    canvas = Figure(figsize=(7.6, 4.6), layout="constrained")
    parts: Any = canvas.subfigures(2, 1, height_ratios=(0.8, 1.15))
    upper, lower = parts
    _draw_surfaces(upper, runs)
    grid = lower.add_gridspec(1, 3, width_ratios=(1.1, 1, 1))
    _draw_path(lower.add_subplot(grid[0, 0]), where(runs, {"measure.inspect": ["parameters"]})[0])
    _draw_lines(lower.add_subplot(grid[0, 1]), runs)
    (saddle,) = where(runs, {"init.kind": "zeros"})
    _draw_saddle(lower.add_subplot(grid[0, 2], projection="3d"), saddle)
    canvas.suptitle(
        "Depth turns the valley around the trained weights into a gorge; shortcuts keep it wide",
        fontsize=9.5,
    )
    return canvas


def _draw_surfaces(canvas: Any, runs: Sequence[Run]) -> None:
    for number, ((depth, skip), title) in enumerate(SURFACES.items()):
        settings = {"model.depth": depth, "skip.kind": skip, "measure.inspect": INSPECTED}
        (run,) = where(runs, settings | {"seed": SEED})
        axes: Any = canvas.add_subplot(1, len(SURFACES), number + 1, projection="3d")
        measured = run.inspections
        coordinates = measured["surface_coordinate"][TRAINED]
        logs = np.log10(measured["surface_loss"][TRAINED])
        _draw_relief(axes, coordinates, np.clip(logs, *LOG_LIMITS), LOG_LIMITS)
        axes.set_title(title, fontsize=8, y=1.08)
        axes.set_zlim(*LOG_LIMITS)
        axes.set_zticks([-2, 0, 2, 4])
        labels = ["0.01", "1", "100", "10⁴"] if number == 0 else [""] * 4
        axes.set_zticklabels(labels, fontsize=6)
        if number == 0:
            axes.text2D(1.0, 0.97, "loss", fontsize=7, transform=axes.transAxes)


def _draw_relief(
    axes: Any,
    coordinates: np.ndarray,
    heights: np.ndarray,
    limits: tuple[float, float],
) -> None:
    first, second = np.meshgrid(coordinates, coordinates, indexing="ij")
    axes.plot_surface(
        first,
        second,
        heights,
        cmap=COLOURS,
        vmin=limits[0],
        vmax=limits[1],
        rstride=1,
        cstride=1,
        linewidth=0.15,
        edgecolor=(0, 0, 0, 0.25),
        antialiased=True,
    )
    axes.set_xticks([-1, 0, 1], [""] * 3)
    axes.set_yticks([-1, 0, 1], [""] * 3)
    axes.view_init(elev=28, azim=-55)
    axes.set_box_aspect((1, 1, 0.85), zoom=ZOOM)


def _draw_path(axes: Axes, run: Run) -> None:
    from research.runner.landscape import losses_along_path

    plane = losses_along_path(run.directory, run.inspections["parameters"])
    logs = np.log10(plane.losses)
    axes.contourf(plane.first, plane.second, logs.T, 16, cmap=COLOURS)
    axes.plot(*plane.path.T, "o-", color="white", markersize=2.5, linewidth=1)
    axes.plot(*plane.path[0], "s", color=PALETTE[1], markersize=6, markeredgecolor="white")
    axes.plot(*plane.path[-1], "*", color=PALETTE[5], markersize=11, markeredgecolor="white")
    for name, point, offset in (
        ("start", plane.path[0], (6, 5)),
        ("trained", plane.path[-1], (-38, 6)),
    ):
        axes.annotate(
            name,
            point,
            xytext=offset,
            textcoords="offset points",
            color="white",
            fontsize=7.5,
        )
    shares = 100 * plane.shares
    axes.set(
        xlabel=f"first direction ({shares[0]:.0f} % of the way)",
        ylabel=f"second direction ({shares[1]:.0f} %)",
        title="The path downhill, seen from above",
        xticks=[],
        yticks=[],
    )
    axes.grid(False)


def _draw_lines(axes: Axes, runs: Sequence[Run]) -> None:
    from research.runner.landscape import losses_between

    group = where(runs, {"model.depth": 4, "skip.kind": "none", "measure.inspect": INSPECTED})
    downhill = np.stack([run.inspections["interpolation_loss"][TRAINED] for run in group])
    shares = np.linspace(0, 1, downhill.shape[1])
    band(axes, shares, downhill, color=PALETTE[0], label="from start to trained")
    solutions = where(runs, {"measure.inspect": ["parameters"]})[:4]
    ridges = []
    for first, second in zip(solutions, solutions[1:], strict=False):
        ridges.append(losses_between(first.directory, second.directory))
    band(
        axes,
        shares,
        np.stack(ridges),
        color=PALETTE[1],
        linestyle="--",
        label="between two solutions",
    )
    axes.legend(loc="lower center", fontsize=6.5, handlelength=1.5)
    axes.set(
        yscale="log",
        xlabel="share of the straight way",
        ylabel="loss (nats)",
        title="One way down, a ridge between",
        xticks=[0, 0.5, 1],
    )


def _draw_saddle(axes: Any, run: Run) -> None:
    measured = run.inspections
    losses = measured["saddle_loss"][TRAINED]
    coordinates = np.linspace(-1, 1, len(losses))
    _draw_relief(axes, coordinates, losses, (float(losses.min()), float(losses.max())))
    axes.set_title("A saddle: flat, up one way,\ndown the other", fontsize=8)
    axes.set_zticks([])
    axes.text2D(0.0, 0.78, "loss ↑", fontsize=7, transform=axes.transAxes)
