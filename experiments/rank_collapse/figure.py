"""How alike tokens become over depth, and what is left of the gradient of query weights."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.records.queries import initial_profiles, setting_values, where
from research.records.runs import Run
from research.reporting.figures import PALETTE, CurveStyle, new_figure, set_ticks
from research.reporting.panels import band, plot_over_setting
from research.theory.attention import attention_entropy

STYLES = {
    "none": CurveStyle("without shortcuts", PALETTE[1], "s"),
    "identity": CurveStyle("with shortcuts", PALETTE[0], "o"),
}
SMALLEST = 1e-17  # of a residual: smaller ones are the rounding error of float64


def figure(runs: Sequence[Run]) -> Figure:
    """Left the residual of tokens, middle the entropy, right the gradient of query weights."""
    canvas, axes = new_figure(7.5, 2.7, 1, 3)
    tokens, entropy, gradient = axes[0]
    for kind, style in STYLES.items():
        group = where(runs, {"skip.kind": kind})
        deepest = where(group, {"model.depth": max(setting_values(runs, "model.depth"))})
        residual = np.maximum(initial_profiles(deepest, "token_residual"), SMALLEST)
        _draw(tokens, np.arange(residual.shape[1]), residual, style)
        entropies = initial_profiles(deepest, "attention_entropy")
        _draw(entropy, np.arange(1, entropies.shape[1] + 1), entropies, style)
        plot_over_setting(
            gradient, group, "model.depth", _last_ratio, markersize=3, **style.keywords
        )
    length = runs[0]["data.shape"][0]
    entropy.plot(1, attention_entropy(length, 1.0), "k_", markersize=12, label="theory")
    entropy.axhline(
        np.log(length), color="black", linestyle=":", linewidth=0.9, label="uniform, $\\ln T$"
    )
    tokens.set(
        yscale="log",
        xlabel="attention layer",
        ylabel="difference of the tokens\n(share of their length)",
    )
    entropy.set(xlabel="attention layer", ylabel="entropy of attention (nats)")
    gradient.set(
        xscale="log",
        yscale="log",
        xlabel="number of layers",
        ylabel="gradient of query weights\nover that of value weights, last layer",
    )
    for panel in (tokens, entropy):
        set_ticks(panel.xaxis, (0, 4, 8, 12))
    set_ticks(gradient.xaxis, (1, 2, 4, 12))
    tokens.legend(loc="center right")
    entropy.legend(handles=entropy.lines[-2:], loc="lower left")
    canvas.suptitle(
        "Attention alone makes all tokens alike; then queries and keys get no gradient",
        fontsize=9,
    )
    return canvas


def _draw(
    axes: Axes,
    x: np.ndarray,
    curves: np.ndarray,
    style: CurveStyle,
) -> None:
    band(axes, x, curves, markersize=3, **style.keywords)


def _last_ratio(run: Run) -> float:
    """The gradient of the last layer's query weights over that of its value weights."""
    query = run.profiles["query_grad"][0, -1]
    value = run.profiles["value_grad"][0, -1]
    return max(query / value, SMALLEST)
