"""Squared gradient over depth, at initialisation and during training, and the training loss."""

from collections.abc import Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from research.records.queries import where
from research.records.runs import Run
from research.reporting.figures import PALETTE, new_figure, set_log_scale
from research.reporting.panels import (
    plot_metric,
    plot_profile,
    relative_gradient,
    theory_handle,
)

ACTIVATIONS = ("sigmoid", "tanh", "relu")
LABELS = {"none": "plain", "inv_sqrt_depth": "skip, branch /√depth"}
SKIP_STYLES: dict[str, dict[str, Any]] = {
    "none": {"color": PALETTE[1], "marker": "v", "markersize": 4},
    "inv_sqrt_depth": {"color": PALETTE[0], "marker": "o", "markersize": 3.5},
}
DEEPEST = 64
DEPTH_LINES: dict[int, Any] = {4: ":", 16: "--", DEEPEST: "-"}
OPACITIES = {0: 0.3, 30: 0.5, 100: 0.75, 299: 1.0}  # by training step
WINDOW = 10  # steps that one mean of the loss covers


def figure(runs: Sequence[Run]) -> Figure:
    """A column for each activation; rows: initialisation, training at depth 64, training loss."""
    canvas, axes = new_figure(7.2, 6.4, 3, 3)
    for column, activation in enumerate(ACTIVATIONS):
        group = where(runs, {"activation.kind": activation})
        _draw_initial(axes[0, column], group)
        _draw_training(axes[1, column], group)
        _draw_loss(axes[2, column], group)
        axes[0, column].set_title(activation)
    _add_skip_legend(axes[0, 0])
    _add_step_legend(axes[1, 1])
    _add_depth_legend(axes[2, 0])
    axes[0, 0].set_ylabel("at initialisation\n‖∂L/∂h‖² relative to last layer")
    axes[1, 0].set_ylabel("depth 64 during training\n‖∂L/∂h‖² relative to last layer")
    axes[2, 0].set_ylabel("training loss\n(nats, mean of 10 steps)")
    canvas.suptitle(
        "With depth, plain networks lose their gradient; scaled skip connections keep it",
        fontsize=9.5,
    )
    return canvas


def _group(
    runs: Sequence[Run],
    skip: str,
    depth: int,
) -> list[Run]:
    return where(runs, {"skip.kind": skip, "model.depth": depth})


def _draw_initial(axes: Axes, runs: Sequence[Run]) -> None:
    for skip, style in SKIP_STYLES.items():
        for depth, line in DEPTH_LINES.items():
            group = _group(runs, skip, depth)
            plot_profile(
                axes,
                relative_gradient(group),
                factor=group[0].info["verdict"]["theory"] if depth == DEEPEST else None,
                markevery=list(range(8, depth, 12)),
                linestyle=line,
                **style,
            )
    _set_log_axis(axes)


def _draw_training(axes: Axes, runs: Sequence[Run]) -> None:
    for skip, style in SKIP_STYLES.items():
        group = _group(runs, skip, DEEPEST)
        for step, opacity in OPACITIES.items():
            mean = relative_gradient(group, step).mean
            axes.plot(mean, markevery=13, alpha=opacity, linewidth=1.1, **style)
    _set_log_axis(axes)
    axes.set_xlabel("layer (0: the embedding's output)")


def _set_log_axis(axes: Axes) -> None:
    """Shows at least six decades, so that fluctuations do not look like trends."""
    set_log_scale(axes)
    low, high = axes.get_ylim()
    axes.set(xlim=(0, DEEPEST), ylim=(min(low, 1e-3), max(high, 1e3)))


def _draw_loss(axes: Axes, runs: Sequence[Run]) -> None:
    for skip, style in SKIP_STYLES.items():
        for number, (depth, line) in enumerate(DEPTH_LINES.items()):
            plot_metric(
                axes,
                _group(runs, skip, depth),
                "train_loss",
                window=WINDOW,
                markevery=(number * 2, 6),
                linestyle=line,
                **style,
            )
    axes.set(yscale="log", ylim=(3e-4, 5), xlabel="training step")


def _add_skip_legend(axes: Axes) -> None:
    handles = []
    for skip, style in SKIP_STYLES.items():
        handles.append(Line2D([], [], label=LABELS[skip], **style))
    handles.append(theory_handle())
    axes.legend(handles=handles, loc="lower right")


def _add_step_legend(axes: Axes) -> None:
    colour = SKIP_STYLES["none"]["color"]
    handles = []
    for step, opacity in OPACITIES.items():
        handles.append(Line2D([], [], color=colour, alpha=opacity, label=f"step {step}"))
    axes.legend(handles=handles, loc="lower right")


def _add_depth_legend(axes: Axes) -> None:
    handles = []
    for depth, line in DEPTH_LINES.items():
        handles.append(Line2D([], [], color="0.3", linestyle=line, label=f"depth {depth}"))
    axes.legend(handles=handles, loc="lower left")
