"""The two losses that part, what narrows the gap, and labels that were drawn at random."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.records.queries import final_values, metric_curves, where
from research.records.runs import Run
from research.reporting.figures import PALETTE
from research.reporting.panels import band, range_bars

PLAIN = {
    "activation.kind": "relu",
    "model.dropout": 0.0,
    "train.input_noise": 0.0,
    "optimizer.weight_decay": 0.0,
    "data.limit": 100,
    "data.label_noise": 0.0,
}
ARMS = {
    "plain": {},
    "dropout": {"model.dropout": 0.5},
    "weight\ndecay": {"optimizer.weight_decay": 0.01},
    "noisy\ninputs": {"train.input_noise": 1.0},
    "14 × the\nexamples": {"data.limit": 1400},
}
RANDOM_LABELS = {"data.label_noise": 1.0}
SEEN = PALETTE[0]
UNSEEN = PALETTE[1]
ON_WHITE = {"facecolor": "white", "linewidth": 0, "pad": 0.6}  # keeps lines out of a number
RIGHT_END = 2.0  # of the panel of accuracies, beyond its last bar


def figure(runs: Sequence[Run]) -> Figure:
    """Losses over steps, final held-out losses by remedy, and accuracies with random labels."""
    canvas = Figure(figsize=(7.6, 3.0), layout="constrained")
    axes = canvas.subplots(1, 3, squeeze=False, width_ratios=(1, 1.25, 1))
    _plot_gap(axes[0, 0], where(runs, PLAIN))
    _plot_remedies(axes[0, 1], runs)
    _plot_random_labels(axes[0, 2], runs)
    canvas.suptitle(
        "Learning the exam by heart: perfect on the 100 examples it saw, "
        "ever more wrong on those it did not",
        fontsize=9,
    )
    return canvas


def _plot_gap(axes: Axes, runs: Sequence[Run]) -> None:
    evaluated = np.flatnonzero(np.isfinite(runs[0].metrics["eval_loss"]))
    steps = evaluated + 1
    seen = metric_curves(runs, "train_loss")[:, evaluated]
    unseen = metric_curves(runs, "eval_loss")[:, evaluated]
    band(axes, steps, seen, color=SEEN)
    band(axes, steps, unseen, color=UNSEEN, linestyle="--")
    mean = unseen.mean(axis=0)
    best = int(np.argmin(mean))
    axes.plot(steps[best], mean[best], "o", color=UNSEEN, markersize=5)
    axes.annotate(
        "best moment\nto stop",
        (steps[best], mean[best]),
        xytext=(0.3, 0.55),
        textcoords="axes fraction",
        arrowprops={"arrowstyle": "->", "color": "0.4"},
        fontsize=7,
    )
    _write(axes, 0.93, "examples it never saw", UNSEEN)
    _write(axes, 0.3, "its own examples", SEEN)
    axes.set(
        yscale="log",
        xlabel="training step",
        ylabel="loss (nats)",
        title="Training goes on, learning stops",
    )


def _write(
    axes: Axes,
    height: float,
    text: str,
    colour: str,
) -> None:
    """Writes a name at the right end of a panel, at a share of its height."""
    axes.text(
        0.98,
        height,
        text,
        color=colour,
        fontsize=7.5,
        horizontalalignment="right",
        transform=axes.transAxes,
    )


def _plot_remedies(axes: Axes, runs: Sequence[Run]) -> None:
    plain = float(np.mean(final_values(where(runs, PLAIN), "eval_loss")))
    for position, settings in enumerate(ARMS.values()):
        losses = final_values(where(runs, PLAIN | settings), "eval_loss")
        mean = float(np.mean(losses))
        axes.bar(
            position,
            mean,
            yerr=range_bars(losses),
            color=PALETTE[2] if mean < plain else PALETTE[1],
            width=0.7,
            error_kw={"elinewidth": 1},
        )
        axes.annotate(
            f"{mean:.2f}",
            (position, max(losses)),
            xytext=(0, 2),
            textcoords="offset points",
            ha="center",
            fontsize=7,
            bbox=ON_WHITE,
        )
    axes.axhline(plain, color="black", linestyle="--", linewidth=0.9)
    axes.set_xticks(range(len(ARMS)), list(ARMS))
    axes.set_axisbelow(True)
    axes.grid(False, axis="x")
    axes.set(ylabel="final loss on unseen examples", title="What helps, and what does not")


def _plot_random_labels(axes: Axes, runs: Sequence[Run]) -> None:
    groups = {"true\nlabels": PLAIN, "labels drawn\nat random": PLAIN | RANDOM_LABELS}
    for position, settings in enumerate(groups.values()):
        group = where(runs, settings)
        for shift, name, colour in ((-0.2, "train", SEEN), (0.2, "eval", UNSEEN)):
            shares = 100 * np.array(final_values(group, f"{name}_accuracy"))
            mean = float(shares.mean())
            axes.bar(position + shift, mean, yerr=range_bars(shares), color=colour, width=0.38)
            axes.annotate(
                f"{mean:.0f} %",
                (position + shift, shares.max()),
                xytext=(0, 2),
                textcoords="offset points",
                ha="center",
                fontsize=7,
            )
    axes.axhline(10, color="black", linestyle="--", linewidth=0.9)
    axes.text(RIGHT_END, 12, "guessing", fontsize=7, ha="right")
    axes.bar(0, 0, color=SEEN, label="its own examples")
    axes.bar(0, 0, color=UNSEEN, label="unseen examples")
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncols=2, handlelength=1)
    axes.set_xticks(range(len(groups)), list(groups))
    axes.set_axisbelow(True)
    axes.grid(False, axis="x")
    axes.set(
        xlim=(-0.5, RIGHT_END),
        ylim=(0, 112),
        ylabel="answered correctly (%)",
        title="It can memorise nonsense",
    )
