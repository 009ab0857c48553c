"""Gradients along a line of inputs, their autocorrelation, and the cosine between inputs."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.records.queries import autocorrelation, initial_inspections, setting_values, where
from research.records.runs import Run
from research.reporting.figures import PALETTE, CurveStyle, set_ticks
from research.reporting.panels import band, plot_over_setting, plot_theory
from research.theory.profiles import correlation_profile

LAGS = 30
SEED = 3  # of the networks whose gradient is shown
SHALLOW = CurveStyle("one hidden layer", PALETTE[2], "v")
PLAIN_24 = CurveStyle("24 layers", PALETTE[5], "s")
PLAIN_50 = CurveStyle("50 layers", PALETTE[1], "o")
RESIDUAL_50 = CurveStyle("50 layers, shortcuts", PALETTE[0], "D")
# The networks of one number: their settings, and the paper's autocorrelation at lag 5
LINE_SETTINGS = {
    SHALLOW: {"skip.kind": "rezero"},
    PLAIN_24: {"skip.kind": "none", "model.depth": 24},
    PLAIN_50: {"skip.kind": "none", "model.depth": 50},
    RESIDUAL_50: {"skip.kind": "scaled", "skip.branch_scale": 0.1},
}
PUBLISHED = {SHALLOW: 0.904, PLAIN_24: 0.553, PLAIN_50: 0.326, RESIDUAL_50: 0.880}
# The networks on random inputs
CURVE_SETTINGS = {
    CurveStyle("$1/\\sqrt{L}$ branches", PALETTE[0], "D"): {"skip.kind": "inv_sqrt_depth"},
    CurveStyle("batch norm, shortcuts", PALETTE[3], "^"): {"norm.kind": "batch"},
    CurveStyle("plain", PALETTE[1], "o"): {"activation.kind": "relu", "skip.kind": "none"},
}


def figure(runs: Sequence[Run]) -> Figure:
    """Above ∂f/∂x along the line; below left its autocorrelation, right cosines over depth."""
    canvas = Figure(figsize=(7.0, 4.9), layout="constrained")
    grid = canvas.add_gridspec(2, 4, height_ratios=(1, 2))
    line = where(runs, {"data.name": "function"})
    random = where(runs, {"data.name": "noise"})
    for column, (style, settings) in enumerate(LINE_SETTINGS.items()):
        axes = canvas.add_subplot(grid[0, column])
        _draw_gradient(axes, where(line, {**settings, "seed": SEED}), style)
        axes.set_yticks([-1, 0, 1], ["−1", "0", "1"] if column == 0 else [""] * 3)
    canvas.axes[0].set_ylabel("$\\partial f/\\partial x$\n(own scale)")
    _draw_autocorrelations(canvas.add_subplot(grid[1, :2]), line)
    _draw_cosines(canvas.add_subplot(grid[1, 2:]), random)
    canvas.suptitle(
        "Deep rectifier networks shatter their gradients; "
        "shortcuts with small branches keep them alike",
        fontsize=9,
    )
    return canvas


def _input_gradients(runs: Sequence[Run]) -> np.ndarray:
    """∂f/∂x at the points of the grid, [runs, points]."""
    return initial_inspections(runs, "input_gradient")[:, :, 0]


def _draw_gradient(
    axes: Axes,
    runs: Sequence[Run],
    style: CurveStyle,
) -> None:
    gradient = _input_gradients(runs)[0]
    inputs = np.linspace(-2, 2, len(gradient))
    scale = np.max(np.abs(gradient))
    axes.plot(inputs, gradient / scale, color=style.color, linewidth=0.9)
    axes.set(ylim=(-1.1, 1.1), xticks=[-2, 0, 2], xlabel="input $x$", title=style.label)


def _mean_autocorrelation(series: np.ndarray) -> np.ndarray:
    """The autocorrelation of each row by lag, mean over rows."""
    return np.mean([autocorrelation(row, LAGS) for row in series], axis=0)


def _draw_autocorrelations(axes: Axes, runs: Sequence[Run]) -> None:
    white_noise = np.random.default_rng(0).standard_normal((200, 256))
    brown_noise = np.cumsum(white_noise, axis=1)
    _draw_noise(axes, brown_noise, "brown noise", label_lag=22, label_offset=-16)
    _draw_noise(axes, white_noise, "white noise", label_lag=10, label_offset=-9)
    for style, settings in LINE_SETTINGS.items():
        gradients = _input_gradients(where(runs, settings))
        axes.plot(
            range(LAGS + 1),
            _mean_autocorrelation(gradients),
            color=style.color,
            marker=style.marker,
            markevery=5,
            markersize=3.5,
            label=style.label,
        )
        axes.plot(5, PUBLISHED[style], "x", color=style.color, markersize=6, markeredgewidth=1.5)
    axes.plot([], [], "x", color="0.3", markersize=5, label="reference, lag 5")
    axes.legend(loc="upper right", fontsize=6.5)
    axes.set(xlim=(0, LAGS), ylim=(-0.3, 1.25), xlabel="lag (points of the grid)")
    axes.set_ylabel("autocorrelation of $\\partial f/\\partial x$")


def _draw_noise(
    axes: Axes,
    series: np.ndarray,
    name: str,
    *,
    label_lag: int,
    label_offset: int,
) -> None:
    """A dotted curve with its name below the curve at one lag."""
    mean = _mean_autocorrelation(series)
    axes.plot(range(LAGS + 1), mean, color="0.45", linestyle=":", linewidth=1.1)
    axes.annotate(
        name,
        (label_lag, mean[label_lag]),
        xytext=(0, label_offset),
        textcoords="offset points",
        fontsize=6.5,
        color="0.3",
    )


def _cosines(runs: Sequence[Run]) -> np.ndarray:
    """The mean cosine of two inputs' gradients before each layer and after all, [runs, N+1]."""
    return initial_inspections(runs, "gradient_correlation")


def _draw_cosines(axes: Axes, runs: Sequence[Run]) -> None:
    for style, settings in CURVE_SETTINGS.items():
        group = where(runs, settings)
        depths = setting_values(group, "model.depth")
        plot_over_setting(
            axes, group, "model.depth", _cosine_after_all, markersize=4, **style.keywords
        )
        _draw_prediction(axes, settings, depths[-1])
    gates = where(runs, {"activation.kind": "linear", "skip.kind": "none"})
    _draw_random_gates(axes, gates)
    axes.legend(loc="lower left", fontsize=6.5)
    axes.set(
        xscale="log",
        yscale="log",
        ylim=(2e-3, 1.2),
        xlabel="layers $L$",
        ylabel="cosine of two inputs' gradients",
    )
    set_ticks(axes.xaxis, (1, 2, 4, 8, 16, 32, 64))


def _cosine_after_all(run: Run) -> float:
    return run.inspections["gradient_correlation"][0, 0]


def _draw_prediction(
    axes: Axes,
    settings: Mapping[str, object],
    deepest: int,
) -> None:
    depths = np.unique(np.geomspace(1, deepest, 40).round().astype(int))
    cosines = [_predict_cosine(settings, int(depth)) for depth in depths]
    plot_theory(axes, depths, cosines)


def _predict_cosine(settings: Mapping[str, object], depth: int) -> float:
    skip = settings.get("skip.kind")
    profile = correlation_profile(
        sigma_w2=2.0,
        depth=depth,
        q0=2.0,  # of inputs of variance 1 and He's weights
        norm=str(settings.get("norm.kind", "none")),
        branch_scale=depth**-0.5 if skip == "inv_sqrt_depth" else 1.0,
        shortcut_scale=0.0 if skip == "none" else 1.0,
    )
    return float(profile[0])


def _draw_random_gates(axes: Axes, runs: Sequence[Run]) -> None:
    """The cosine after 1 to 4 layers of one network, which halves in each of them."""
    from_output = _cosines(runs)[:, ::-1]
    band(
        axes,
        range(1, 5),
        from_output[:, 1:],
        color=PALETTE[4],
        marker="s",
        markersize=4,
        label="plain, gates by chance",
    )
    layers = np.arange(1, 7)
    plot_theory(axes, layers, 2.0**-layers, label="theory")
