"""Configurations from recorded settings, with changes, and what theory says of them."""

import dataclasses
import math

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
    size = {"model__depth": 64, "model__base_depth": 2, "model__parametrization": name}
    parametrized = profile_with(settings(skip__kind="identity", **size))
    scaled = profile_with(settings(model__depth=64, skip__kind="scaled", skip__branch_scale=factor))
    assert parametrized is not None
    np.testing.assert_allclose(parametrized, scaled, rtol=1e-12)


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
