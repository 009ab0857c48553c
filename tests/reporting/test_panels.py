"""The panels that ``fathom plot`` and the experiments draw."""

import numpy as np
import pytest
from matplotlib.colors import Normalize

from research.records.runs import find_runs
from research.reporting.aggregation import Averaged
from research.reporting.figures import new_figure
from research.reporting.panels import (
    CellAxis,
    plot_ended,
    plot_map,
    plot_metric,
    plot_over_setting,
    plot_profile,
    relative_gradient,
)

from .conftest import write_run


@pytest.fixture
def axes():
    _, axes = new_figure(3, 2)
    return axes[0, 0]


def write_seeds(outputs, settings, profiles, losses):
    """A run for each seed, with its profile at the only step and its losses."""
    for seed, (profile, loss) in enumerate(zip(profiles, losses, strict=True)):
        changed = {**settings, "seed": seed}
        write_run(outputs / str(changed), changed, signal=[profile], loss=loss)


def test_a_relative_gradient_is_squared_and_one_at_the_last_layer(outputs):
    profiles = [[0.5, 2.0], [8.0, 2.0]]
    write_seeds(outputs, {"model.depth": 1}, profiles, np.ones((2, 3)))

    gradient = relative_gradient(find_runs(outputs))

    np.testing.assert_allclose(gradient.mean, [1.0, 1.0])  # the geometric mean of 1/16 and 16
    np.testing.assert_allclose(gradient.low, [1 / 16, 1.0])
    np.testing.assert_allclose(gradient.high, [16.0, 1.0])


def test_theory_starts_at_the_last_layer_of_a_profile(axes):
    measured = np.array([8.0, 4.0, 2.0])

    plot_profile(axes, Averaged(measured, measured, measured), factor=2.0)

    line, theory = axes.lines
    assert line.get_ydata() == pytest.approx(measured)
    assert theory.get_linestyle() == "--"
    assert theory.get_ydata() == pytest.approx(measured)


def test_a_metric_is_drawn_in_the_middle_of_its_windows(axes, outputs):
    losses = np.array([[4.0, 2.0, 3.0, 1.0], [6.0, 4.0, 5.0, 3.0]])
    write_seeds(outputs, {"model.depth": 1}, np.ones((2, 2)), losses)

    plot_metric(axes, find_runs(outputs), "train_loss", window=2)

    (line,) = axes.lines
    assert line.get_xdata() == pytest.approx([0.5, 2.5])
    assert line.get_ydata() == pytest.approx([4.0, 3.0])
    (shade,) = axes.collections
    heights = shade.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == (2.0, 5.0)


def test_a_run_that_ended_early_ends_in_a_cross(axes):
    plot_ended(axes, np.arange(3), np.array([1.0, 5.0, 25.0]), "red")

    _, cross = axes.lines
    assert cross.get_marker() == "x"
    assert (cross.get_xdata(), cross.get_ydata()) == ([2], [25.0])


def test_a_number_over_a_setting_has_a_point_for_each_value(axes, outputs):
    for depth in (2, 4):
        ones = np.ones((2, depth + 1))
        losses = np.full((2, 3), float(depth))
        write_seeds(outputs, {"model.depth": depth}, ones, losses)

    plot_over_setting(
        axes,
        find_runs(outputs),
        "model.depth",
        lambda run: run.metrics["train_loss"][-1],
        label="loss",
    )

    (line,) = axes.lines
    assert line.get_xdata() == pytest.approx([2, 4])
    assert line.get_ydata() == pytest.approx([2, 4])


def test_the_edges_of_cells_are_halfway_between_their_centres():
    linear = CellAxis(np.array([1.0, 2.0, 4.0]))
    logarithmic = CellAxis(np.array([1.0, 4.0]), is_log=True)

    assert linear.edges() == pytest.approx([0.5, 1.5, 3.0, 5.0])
    assert logarithmic.edges() == pytest.approx([0.5, 2.0, 8.0])
    assert linear.narrowest() == pytest.approx(1 / 4.5)
    assert logarithmic.narrowest() == pytest.approx(0.5)


def test_a_map_writes_its_numbers_into_cells_that_have_room(axes):
    few = CellAxis(np.arange(2.0))
    values = np.array([[0.25, np.nan], [1.0, 0.987]])

    plot_map(axes, few, few, values, norm=Normalize(0, 1))

    texts = [text.get_text() for text in axes.texts]
    assert texts == [".25", "1.00", ".99"]


def test_a_map_of_many_cells_has_no_numbers(axes):
    many = CellAxis(np.arange(20.0))
    few = CellAxis(np.arange(2.0))

    plot_map(axes, many, few, np.zeros((2, 20)), norm=Normalize(0, 1))

    assert not axes.texts
