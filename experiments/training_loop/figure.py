"""A network of two hidden layers with every number on its arrow, before and after one step."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from research.records.runs import Run
from research.reporting.figures import PALETTE
from research.reproduce.experiments import load_module

FORWARD = PALETTE[0]
BACKWARD = PALETTE[1]
CHANGED = PALETTE[2]
OFF = "0.6"
LAYOUT: list[Any] = [["predict", "score"], ["blame", "correct"], ["repeat", "repeat"]]
CODE = load_module("training_loop", "claims")


def figure(runs: Sequence[Run]) -> Figure:
    """The four stages for one example, and the loss of all seeds over the steps that follow."""
    examples = CODE.select_examples(runs)
    run = _select_shown(examples)
    canvas = Figure(figsize=(7.4, 7.3), layout="constrained")
    panels = canvas.subplot_mosaic(LAYOUT, height_ratios=[1, 1, 0.62])
    _draw_predict(panels["predict"], run)
    _draw_score(panels["score"], run)
    _draw_blame(panels["blame"], run)
    _draw_correct(panels["correct"], run)
    _draw_repeat(panels["repeat"], examples)
    return canvas


def _select_shown(runs: Sequence[Run]) -> Run:
    """The first run in which a hidden unit is off at first, and which still blames the first
    weights.
    """
    for run in runs:
        x, _ = CODE.read_example(run)
        forward = CODE.run_forward(CODE.unpack(run.inspections["parameters"][0]), x)
        gradients = CODE.unpack(run.inspections["parameter_gradient"][0])
        has_off_unit = not np.all(np.concatenate(forward.slopes))
        if has_off_unit and np.any(gradients[0].kernel):
            return run
    return runs[0]


@dataclasses.dataclass(frozen=True)
class Shown:
    """What a step of a run did.

    Attributes:
        before: the network before the step.
        after: the network after it.
        gradients: the gradient of the loss.
        forward: the forward pass before the step.
        forward_after: the forward pass after it.
        target: what the output should be.
    """

    before: Any
    after: Any
    gradients: Any
    forward: Any
    forward_after: Any
    target: float


def _read_step(run: Run) -> Shown:
    """The first step of a run."""
    before = CODE.unpack(run.inspections["parameters"][0])
    after = CODE.unpack(run.inspections["parameters"][1])
    x, target = CODE.read_example(run)
    return Shown(
        before=before,
        after=after,
        gradients=CODE.unpack(run.inspections["parameter_gradient"][0]),
        forward=CODE.run_forward(before, x),
        forward_after=CODE.run_forward(after, x),
        target=target,
    )


def _node_texts(forward: Any) -> list[list[str]]:
    values = [*forward.values, np.array([forward.output])]
    return [_format_numbers(layer).tolist() for layer in values]


def _off_units(forward: Any) -> list[list[bool]]:
    hidden = [(slopes == 0).tolist() for slopes in forward.slopes]
    return [[False, False], *hidden, [False]]


def _draw_predict(axes: Axes, run: Run) -> None:
    step = _read_step(run)
    _draw_network(
        axes,
        nodes=_node_texts(step.forward),
        edges=[_format_numbers(connection.kernel) for connection in step.before],
        is_off=_off_units(step.forward),
        colour=FORWARD,
    )
    axes.text(0, -0.55, "inputs", ha="center", fontsize=7, color=FORWARD)
    axes.text(3, 0.15, "prediction", ha="center", fontsize=7, color=FORWARD)
    axes.text(1, 1.52, "off: its sum\nis below 0", ha="center", fontsize=6.5, color=OFF)
    _caption(axes, "1  Predict: multiply by the weights, add up")


def _draw_score(axes: Axes, run: Run) -> None:
    step = _read_step(run)
    output = step.forward.output
    target = step.target
    reach = abs(output - target)
    line = np.linspace(target - 1.35 * reach, target + 1.35 * reach, 200)
    axes.plot(line, 0.5 * (line - target) ** 2, color="0.4")
    loss = 0.5 * reach**2
    slope = output - target
    axes.plot(output, loss, "o", color=FORWARD)
    axes.plot(target, 0, "*", color=CHANGED, markersize=11)
    axes.vlines(output, 0, loss, color=FORWARD, linestyle=":", linewidth=1)
    near = np.array([output - 0.3 * reach, output + 0.3 * reach])
    axes.plot(near, loss + slope * (near - output), color=BACKWARD, linewidth=1.8)
    side = "right" if slope > 0 else "left"
    sign = -1 if slope > 0 else 1
    axes.annotate(
        f"prediction {_format_number(output)}: loss ½·{reach:.2f}² = {loss:.2f}",
        (output, loss),
        xytext=(sign * 10, 8),
        textcoords="offset points",
        ha=side,
        fontsize=7,
        color=FORWARD,
    )
    axes.annotate(
        f"slope {_format_number(slope)}: here blame begins",
        (output, loss),
        xytext=(sign * 12, -14),
        textcoords="offset points",
        ha=side,
        fontsize=7,
        color=BACKWARD,
    )
    axes.annotate(
        f"target {_format_number(target)}",
        (target, 0),
        xytext=(0, 9),
        textcoords="offset points",
        ha="center",
        fontsize=7,
        color=CHANGED,
    )
    axes.set(xlabel="output of the network", ylabel="loss", ylim=(-0.08 * loss, 1.9 * loss))
    _caption(axes, "2  Score: how far from the target?")


def _draw_blame(axes: Axes, run: Run) -> None:
    step = _read_step(run)
    hidden_and_output = [_format_numbers(gradient.bias) for gradient in step.gradients]
    _draw_network(
        axes,
        nodes=[["x₁", "x₂"], *hidden_and_output],
        edges=[_format_numbers(gradient.kernel) for gradient in step.gradients],
        is_off=_off_units(step.forward),
        colour=BACKWARD,
        is_backward=True,
    )
    axes.text(3, 0.15, "the slope", ha="center", fontsize=7, color=BACKWARD)
    axes.text(1, 1.52, "off: no blame", ha="center", fontsize=6.5, color=OFF)
    _caption(axes, "3  Blame: the slope flows back to every weight")


def _draw_correct(axes: Axes, run: Run) -> None:
    step = _read_step(run)
    _draw_network(
        axes,
        nodes=_node_texts(step.forward_after),
        edges=_changes(step),
        is_off=_off_units(step.forward_after),
        colour=CHANGED,
    )
    rate = run["optimizer.learning_rate"]
    axes.text(3, 0.82, "prediction now", ha="center", fontsize=7, color=CHANGED)
    axes.text(1, -0.55, "biases (not drawn) change too", ha="center", fontsize=6.5, color="0.4")
    _caption(axes, f"4  Correct: weight − {rate:g} × blame, and predict again")


def _changes(step: Shown) -> list[np.ndarray]:
    """The old and the new number of each weight that changes."""
    texts = []
    for before, after in zip(step.before, step.after, strict=True):
        olds = _format_numbers(before.kernel)
        news = _format_numbers(after.kernel)
        is_changed = before.kernel != after.kernel
        both = np.char.add(np.char.add(olds, "\n→"), news)
        texts.append(np.where(is_changed, both, olds))
    return texts


def _draw_repeat(axes: Axes, runs: Sequence[Run]) -> None:
    for run in runs:
        losses = run.metrics["train_loss"]
        shares = losses / losses[0]
        axes.plot(np.maximum(shares, 1e-16), color=FORWARD, linewidth=1, alpha=0.8)
    axes.axhline(0.01, color="black", linestyle="--", linewidth=0.9)
    axes.text(44, 0.014, "1 % of the start", fontsize=7)
    num_off = sum(map(_is_off, runs))
    axes.text(
        23,
        0.1,
        f"{num_off} of them: every unit off, only the output's bias learns",
        color=FORWARD,
        fontsize=7,
    )
    axes.set(
        yscale="log",
        xlim=(0, 60),
        ylim=(1e-6, 2),
        xlabel="steps: predict, score, blame, correct, again and again",
        ylabel="loss over its start",
    )
    _caption(axes, "Repeat: five networks, each from other random weights")


def _is_off(run: Run) -> bool:
    """Whether all units before the output are off at the end, so that nothing passes them."""
    x, _ = CODE.read_example(run)
    forward = CODE.run_forward(CODE.unpack(run.inspections["parameters"][-1]), x)
    return not np.any(forward.slopes[-1])


def _draw_network(
    axes: Axes,
    *,
    nodes: Sequence[Sequence[str] | np.ndarray],
    edges: Sequence[np.ndarray],
    is_off: Sequence[Sequence[bool]],
    colour: str,
    is_backward: bool = False,
) -> None:
    """Draws units as circles and weights as arrows with their numbers.

    Args:
        axes: where to draw.
        nodes: what stands in each unit, by layer.
        edges: what stands on each arrow [inputs, outputs], by layer.
        is_off: whether each unit is off, by layer.
        colour: the colour of units and arrows.
        is_backward: whether the arrows point from the output to the inputs.
    """
    for layer, texts in enumerate(edges):
        for (source, end), text in np.ndenumerate(texts):
            is_dead = is_off[layer][source] or is_off[layer + 1][end]
            _draw_edge(
                axes,
                _place(layer, source, len(nodes[layer])),
                _place(layer + 1, end, len(nodes[layer + 1])),
                text,
                colour=OFF if is_dead else colour,
                is_backward=is_backward,
            )
    for layer, texts in enumerate(nodes):
        for unit, text in enumerate(texts):
            x, y = _place(layer, unit, len(texts))
            shade = OFF if is_off[layer][unit] else colour
            axes.plot(x, y, "o", markersize=25, color=shade, zorder=4)
            axes.text(
                x,
                y,
                text,
                ha="center",
                va="center",
                fontsize=7.5,
                color="white",
                weight="bold",
                zorder=5,
            )
    axes.set(xlim=(-0.35, 3.35), ylim=(-0.62, 1.8))
    axes.axis("off")


def _draw_edge(
    axes: Axes,
    start: np.ndarray,
    end: np.ndarray,
    text: str,
    *,
    colour: str,
    is_backward: bool,
) -> None:
    first, last = (end, start) if is_backward else (start, end)
    axes.annotate(
        "",
        xy=tuple(last),
        xytext=tuple(first),
        arrowprops={
            "arrowstyle": "-|>",
            "color": colour,
            "linewidth": 1,
            "shrinkA": 12,
            "shrinkB": 12,
        },
        zorder=1,
    )
    # A level arrow has its number in the middle; arrows that cross have theirs before they do.
    share = 0.5 if start[1] == end[1] else 0.36
    middle = start + share * (end - start)
    axes.text(
        middle[0],
        middle[1],
        text,
        ha="center",
        va="center",
        fontsize=6.2,
        color=colour,
        bbox={"boxstyle": "round,pad=0.12", "facecolor": "white", "edgecolor": "none"},
        zorder=3,
    )


def _place(
    layer: int,
    unit: int,
    count: int,
) -> np.ndarray:
    """Where a unit is drawn."""
    height = 0.5 if count == 1 else 1.25 - 1.5 * unit
    return np.array([float(layer), height])


def _format_number(number: float) -> str:
    return "0" if number == 0 else f"{number:.2f}".replace("-", "−")


def _format_numbers(numbers: np.ndarray) -> np.ndarray:
    return np.vectorize(_format_number, otypes=[str])(numbers)


def _caption(axes: Axes, text: str) -> None:
    axes.set_title(text, fontsize=8.5, loc="left")
