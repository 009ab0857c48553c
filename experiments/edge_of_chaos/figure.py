"""The phases of tanh networks, gradients over depth on both sides of the edge, the depth scale."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.records.queries import initial_factors, setting_values, where
from research.records.runs import Run
from research.reporting.figures import PALETTE, depth_colours, new_figure, set_log_scale
from research.reporting.panels import plot_profile, plot_theory, relative_gradient
from research.theory import mean_field

BIAS = 0.05  # σ_b²


def figure(runs: Sequence[Run]) -> Figure:
    """Order and chaos, the gradient over depth, and the depth scale over σ_w²."""
    canvas, axes = new_figure(7.2, 2.7, 1, 3)
    groups = _group_by_variance(runs)
    _plot_phases(axes[0, 0], list(groups))
    _plot_gradients(axes[0, 1], groups)
    _plot_depth_scales(axes[0, 2], groups)
    canvas.suptitle(
        "Random tanh networks: gradients vanish in order, explode in chaos, "
        "and travel far only between",
        fontsize=9,
    )
    return canvas


def _group_by_variance(runs: Sequence[Run]) -> dict[float, list[Run]]:
    """The runs by σ_w², in ascending order."""
    groups = {}
    for sigma in setting_values(runs, "init.sigma_w"):
        groups[round(sigma**2, 6)] = where(runs, {"init.sigma_w": sigma})
    return groups


def _plot_phases(axes: Axes, variances: Sequence[float]) -> None:
    biases = np.linspace(0, 0.55, 30) ** 2
    edge = np.array([mean_field.critical_sigma_w2("tanh", bias) for bias in biases], float)
    axes.fill_betweenx(biases, 0, edge, color="0.9", linewidth=0)
    axes.plot(edge, biases, color="black", linewidth=1.2)
    axes.text(0.35, 0.21, "order:\ngradients\nvanish", fontsize=7)
    axes.text(2.6, 0.21, "chaos:\ngradients\nexplode", fontsize=7)
    axes.annotate(
        "$\\chi_1=1$",
        (edge[23], biases[23]),
        xytext=(2.75, 0.12),
        fontsize=7,
        arrowprops={"arrowstyle": "-"},
    )
    colours = depth_colours(len(variances))
    axes.scatter(variances, [BIAS] * len(variances), c=colours, s=16, zorder=3, clip_on=False)
    axes.set(
        xlim=(0, 4),
        ylim=(0, 0.3),
        xlabel="$\\sigma_w^2$",
        ylabel="$\\sigma_b^2$",
        title="phases; dots: measured here",
    )


def _plot_gradients(axes: Axes, groups: dict[float, list[Run]]) -> None:
    for colour, (variance, group) in zip(depth_colours(len(groups)), groups.items(), strict=True):
        gradient = relative_gradient(group)
        chi = mean_field.chi_1("tanh", variance, BIAS)
        plot_profile(axes, gradient, factor=chi, color=colour)
        axes.annotate(
            f"{variance:g}",
            (0, gradient.mean[0]),
            xytext=(-3, 0),
            textcoords="offset points",
            fontsize=5.5,
            ha="right",
            va="center",
        )
    plot_theory(axes, [], [], label="theory $\\chi_1$")
    axes.legend(loc="lower right")
    set_log_scale(axes)
    axes.set(xlim=(-7, 50), xlabel="layer", title="squared gradient, last layer = 1")


def _plot_depth_scales(axes: Axes, groups: dict[float, list[Run]]) -> None:
    variances = np.linspace(0.4, 4.1, 120)
    theory = [mean_field.depth_scale("tanh", variance, BIAS) for variance in variances]
    plot_theory(axes, variances, theory, label="theory $1/|\\ln\\chi_1|$")
    for variance, group in groups.items():
        log_factors = np.log(initial_factors(group))
        scale = 1 / abs(float(np.mean(log_factors)))
        label = "measured" if variance == 4 else None
        axes.plot(variance, scale, "o", color=PALETTE[0], markersize=4, label=label)
    axes.legend(loc="upper right")
    axes.set(yscale="log", ylim=(1, 400), xlabel="$\\sigma_w^2$", title="depth scale, in layers")
