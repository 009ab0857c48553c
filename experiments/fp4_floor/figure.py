"""What rounding to 4 bits does to a step, to the gradient, and to the loss."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from research.config.options import BlockScale
from research.records.queries import metric_curves, where, window_means
from research.records.runs import Run
from research.reporting.figures import PALETTE, new_figure
from research.reporting.panels import band, plot_theory
from research.reproduce.experiments import load_module
from research.theory.quantization import THRESHOLD, step_share

WINDOW = 20  # steps that one point is the mean of
COLOURS = {"nv": PALETTE[0], "mx": PALETTE[1], "float32": PALETTE[2]}


def figure(runs: Sequence[Run]) -> Figure:
    """Left the law of a noisy step, middle gradient over noise, right the loss."""
    claims = load_module("fp4_floor", "claims")
    canvas, axes = new_figure(7.5, 2.7, 1, 3)
    law, ratio, loss = axes[0]
    for block_scale in BlockScale:
        steps = [claims.rounded_step(size, block_scale) for size in claims.SIZES]
        law.plot(
            [step.gradient_over_noise for step in steps],
            [step.share for step in steps],
            "o",
            markersize=4,
            color=COLOURS[block_scale.name],
            label=block_scale.name,
        )
    ratios = np.logspace(-0.6, 1.7, 100)
    plot_theory(law, ratios, step_share(1 / ratios), label="$1/(1+\\rho^2)$")
    law.set(xscale="log", xlabel="gradient over noise", ylabel="share of the best step's gain")
    law.legend(loc="lower right")
    for name in ("nv", "mx"):
        group = claims.of_blocks(runs, name)
        curves = np.stack([claims.gradient_over_noise(run) for run in group])
        steps = group[0].inspections["step"]
        band(ratio, steps, curves, color=COLOURS[name], marker="o", markersize=3, label=name)
    ratio.set(yscale="log", xlabel="step", ylabel="gradient over noise")
    for panel in (law, ratio):
        line = panel.axvline if panel is law else panel.axhline
        line(THRESHOLD, color="black", linestyle=":", linewidth=0.9)
    ratio.legend(loc="upper right")
    groups = {name: claims.of_blocks(runs, name) for name in ("nv", "mx")}
    groups["float32"] = where(runs, {"precision.kind": "float32"})
    for name, group in groups.items():
        curves = metric_curves(group, "train_loss")
        means = np.stack([window_means(curve, WINDOW) for curve in curves])
        steps = np.arange(means.shape[1]) * WINDOW + WINDOW / 2
        band(loss, steps, means, color=COLOURS[name], label=name)
    loss.set(yscale="log", xlabel="step", ylabel="training loss")
    loss.legend(loc="upper right")
    canvas.suptitle(
        "Below √3 times the noise a step loses a quarter of its gain; small steps average it out",
        fontsize=9,
    )
    return canvas
