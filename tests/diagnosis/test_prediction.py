"""Configurations from recorded settings, with changes, and what theory says of them."""

import dataclasses
import math
from typing import Any

import numpy as np
import pytest

from research.config.schema import OPTIONS, Config, flatten, make_option
from research.diagnosis.advice import critical_gain, is_set, keeps_gradient
from research.diagnosis.prediction import (
    config_from_settings,
    factor_with,
    profile_with,
    with_change,
)

from .profiles import settings

EVERY_OPTION = [(group, name) for group, names in OPTIONS.items() for name in names]


@pytest.mark.parametrize(("group", "name"), EVERY_OPTION)
def test_a_configuration_is_read_back_from_its_settings(group, name):
    config = dataclasses.replace(Config(), **{group: make_option(group, name)})
    read_back = config_from_settings(flatten(config))
    assert getattr(read_back, group) == getattr(config, group)
    assert read_back == config


def test_a_change_of_an_option_keeps_the_settings_that_both_have():
    before = settings(optimizer__learning_rate=0.5, optimizer__clip="global_norm")
    config = config_from_settings(with_change(before, "optimizer=adam optimizer.beta1=0.8"))
    assert config.optimizer == make_option(
        "optimizer", "adam", learning_rate=0.5, clip=config.optimizer.clip, beta1=0.8
    )
    assert config.optimizer.clip.name == "global_norm"
    assert "optimizer.momentum" not in with_change(before, "optimizer=adam")


def test_numbers_of_a_change_get_the_type_of_their_setting():
    changed = with_change(settings(), "optimizer.schedule=warmup optimizer.warmup_steps=100")
    config = config_from_settings(with_change(changed, "skip=scaled skip.shortcut_scale=1"))
    assert isinstance(config.optimizer.warmup_steps, int)
    assert isinstance(getattr(config.skip, "shortcut_scale", None), float)


@pytest.mark.parametrize(
    ("changes", "factor"),
    [
        ({}, 1.0),
        ({"init__kind": "lecun"}, 0.5),
        ({"activation__kind": "linear", "init__kind": "orthogonal"}, 1.0),
        ({"activation__kind": "relu", "init__kind": "orthogonal"}, 0.5),
        ({"model__kind": "rnn"}, None),
    ],
)
def test_factors_of_recorded_settings(changes, factor):
    predicted = factor_with(settings(**changes))
    assert predicted == (None if factor is None else pytest.approx(factor, rel=1e-6))


@pytest.mark.parametrize(
    ("name", "factor"), [("mup", 1.0), ("depth_mup", 32**-0.5), ("complete_p", 1 / 32)]
)
def test_a_parametrization_scales_branches_as_a_scaled_shortcut_does(name, factor):
    size: dict[str, Any] = {
        "model__depth": 64,
        "model__base_depth": 2,
        "model__parametrization": name,
    }
    parametrized = profile_with(settings(skip__kind="identity", **size))
    scaled = profile_with(settings(model__depth=64, skip__kind="scaled", skip__branch_scale=factor))
    assert parametrized is not None
    assert scaled is not None
    np.testing.assert_allclose(parametrized, scaled, rtol=1e-12)


SCHUR = {"init__kind": "schur", "model__bias": False}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("activation", "spectral_radius", "nonnormality"),
    [("linear", 0.8, 1.0), ("relu", 0.0, 2.0)],
)
def test_theory_of_schur_holds_for_networks_where_it_says_something(
    activation, spectral_radius, nonnormality
):
    width, depth = 100, 12
    rng = np.random.default_rng(0)
    slopes = []
    for _ in range(10):
        h = rng.standard_normal(width)
        jacobian = np.eye(width)
        for _ in range(depth):
            basis, _ = np.linalg.qr(rng.standard_normal((width, width)))
            upper = np.triu(rng.standard_normal((width, width)), 1) / width**0.5
            triangular = spectral_radius * np.eye(width) + nonnormality * upper
            weights = basis @ triangular @ basis.T
            slope = np.ones(width) if activation == "linear" else (h > 0).astype(float)
            h = weights @ (slope * h)
            jacobian = weights @ (slope[:, None] * jacobian)
        slopes.append(np.log(np.sum(jacobian**2) / width) / depth)

    recorded = settings(
        **SCHUR,
        activation__kind=activation,
        init__spectral_radius=spectral_radius,
        init__nonnormality=nonnormality,
        model__width=width,
    )

    assert factor_with(recorded) == pytest.approx(np.exp(np.mean(slopes)), rel=0.1)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"activation__kind": "linear", "norm__kind": "batch"},
        {"activation__kind": "linear", "skip__kind": "identity"},
        {"activation__kind": "tanh", "init__nonnormality": 1.0},
    ],
)
def test_theory_says_nothing_of_weights_that_leave_each_unit_where_it_was(changes):
    assert factor_with(settings(**SCHUR, **changes)) is None


def test_a_change_that_theory_calls_bad_is_refused():
    deep = settings(model__depth=32)
    assert keeps_gradient(deep, "")
    assert not keeps_gradient(deep, "init=orthogonal")
    assert not keeps_gradient(deep, "skip=identity")
    assert keeps_gradient(deep, "skip=inv_sqrt_depth")


@pytest.mark.parametrize("sigma_w", [1.0, 2.0])
def test_the_critical_scale_of_a_rectifier_is_the_square_root_of_two(sigma_w):
    remedy = critical_gain(settings(init__kind="gaussian", init__sigma_w=sigma_w, init__gain=1.0))
    assert remedy is not None
    path, _, value = remedy.change.partition("=")
    assert path == "init.sigma_w"
    assert float(value) == pytest.approx(math.sqrt(2), abs=0.005)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ("init=he", True),
        ("init=glorot", False),
        ("init.gain=1", True),
        ("init.gain=1.0 init=he", True),
        ("init=he init.gain=2", False),
        ("another phrase", False),
    ],
)
def test_whether_a_run_has_a_change_already(change, expected):
    assert is_set(change, settings()) is expected


def test_a_record_with_an_unknown_value_has_no_predicted_profile():
    assert profile_with(settings(norm__placement="sideways")) is None
    known = profile_with(settings(model__depth=4))
    assert known is not None
    assert len(known) == 5
