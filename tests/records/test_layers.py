"""What trackers get of a profile: numbers that summarise it, and single layers."""

import numpy as np
import pytest

from research.config.options import TrackedLayers
from research.gauges.table import GRAD_NORM, METRICS, TRACKED_DIAGNOSTICS
from research.records.trackers.layers import (
    MAX_LAYERS,
    QUANTILES,
    diagnostic_row,
    every_layer,
    gauge_rows,
    spread_of_layers,
    summarize_layers,
)

DEPTHS = [1, 2, 3, 7, 16, 17, 50, 64, 1000]


def numbered(num_layers):
    """A profile of one step whose values are the numbers of the layers."""
    return np.arange(num_layers, dtype=float)[np.newaxis]


def test_the_numbers_that_summarise_a_profile():
    profile = np.array([[8.0, 1.0, 5.0, 3.0, 4.0]])
    summary = {name: float(column[0]) for name, column in summarize_layers(profile).items()}
    assert summary == {
        "first": 8.0,
        "last": 4.0,
        "ratio": 2.0,
        "min": 1.0,
        "quantile_25": 3.0,
        "median": 4.0,
        "quantile_75": 5.0,
        "max": 8.0,
    }


@pytest.mark.parametrize("num_layers", [1, 2, 4, 6, 7])
def test_quantiles_are_those_of_numpy(num_layers):
    profile = np.random.default_rng(0).random((3, num_layers))
    summary = summarize_layers(profile)
    for name, share in QUANTILES.items():
        np.testing.assert_allclose(summary[name], np.quantile(profile, share, axis=1), rtol=1e-12)


@pytest.mark.parametrize("last", [0.0, np.nan, np.inf])
def test_a_profile_that_is_not_finite_is_summarised_without_a_warning(last):
    summary = summarize_layers(np.array([[1.0, 2.0, last]]))
    assert summary["min"][0] == min(1.0, last if last == 0 else 1.0)
    assert summary["first"][0] == 1.0


@pytest.mark.parametrize("num_layers", DEPTHS)
def test_the_spread_holds_at_most_16_layers_with_the_first_and_the_last(num_layers):
    columns = spread_of_layers("x", numbered(num_layers))
    layers = [int(column[0]) for column in columns.values()]
    assert len(layers) == min(num_layers, 16)
    assert layers == sorted(layers)
    assert layers[0] == 0
    assert layers[-1] == num_layers - 1
    assert columns["x_layers/depth_000"][0] == 0


@pytest.mark.parametrize("num_layers", DEPTHS[1:])
def test_the_name_of_a_layer_in_the_spread_says_where_it_is(num_layers):
    for key, column in spread_of_layers("x", numbered(num_layers)).items():
        percent = int(key.removeprefix("x_layers/depth_"))
        exact = 100 * column[0] / (num_layers - 1)
        assert percent == pytest.approx(exact, abs=100 / 15 / 2 + 0.5)


@pytest.mark.parametrize(
    ("num_layers", "first", "last"),
    [(1, "layer_000", "layer_000"), (1001, "layer_0000", "layer_1000")],
)
def test_layers_have_names_of_one_width_and_are_not_too_many(num_layers, first, last):
    columns = every_layer("grad_norm", numbered(num_layers))
    names = list(columns)
    assert len(names) == min(num_layers, MAX_LAYERS)
    assert len({len(name) for name in names}) == 1
    assert names == sorted(names)
    assert names[0] == f"grad_norm_layers/{first}"
    assert names[-1] == f"grad_norm_layers/{last}"
    for name, column in columns.items():
        assert int(name.rpartition("_")[2]) == column[0]


def all_diagnostics(num_layers):
    """A value of everything that trackers get of what is measured on an interval."""
    values = {}
    for diagnostic in TRACKED_DIAGNOSTICS:
        values[diagnostic.name] = 1.0 if diagnostic.is_number else numbered(num_layers)[0]
    return values


def test_a_project_has_at_most_100_keys_whatever_the_depths_of_its_networks():
    keys = {metric.key for metric in METRICS}
    for num_layers in DEPTHS:
        profiles = {"step": np.array([0]), GRAD_NORM.name: numbered(num_layers)}
        (row,) = gauge_rows(profiles, TrackedLayers.spread, 10).values()
        keys |= row.keys()
        keys |= diagnostic_row(all_diagnostics(num_layers), TrackedLayers.spread).keys()
    assert len(keys) <= 90  # the row of the pictures and the verdict have some more


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (TrackedLayers.none, []),
        (TrackedLayers.spread, ["depth_000", "depth_053", "depth_100"]),
        (TrackedLayers.all, ["layer_000", "layer_001", "layer_002"]),
    ],
)
def test_single_layers_are_logged_as_asked_for(layers, expected):
    profiles = {"step": np.array([10, 15]), GRAD_NORM.name: np.ones((2, 3))}
    rows = gauge_rows(profiles, layers, 10)
    single = [key.partition("/")[2] for key in rows[10] if "_layers/" in key]
    assert single == expected
    assert not any("_layers/" in key for key in rows[15])
    assert "grad_norm/median" in rows[15]


def test_diagnostics_of_each_layer_are_asked_for():
    values = all_diagnostics(2)
    assert diagnostic_row(values, TrackedLayers.none) == diagnostic_row(
        values, TrackedLayers.spread
    )
    row = diagnostic_row(values, TrackedLayers.all)
    assert row["gradient_correlation_layers/input"] == 0.0
    assert row["gradient_correlation_layers/layer_000"] == 1.0
    assert row["gradient_correlation/max"] == 1.0
    assert row["inspect/sharpness"] == 1.0
