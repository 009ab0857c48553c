"""Schedules and clipping against their formulas."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from numpy.testing import assert_allclose

from research.training.optimizers import clip_gradient, learning_rate, make_optimizer

from ..builders import trace_option
from .formulas import (
    CELL,
    CLIPS,
    SCHEDULES,
    clip_arrays,
    draw_arrays,
    learning_rate_at,
    make_optimizer_option,
    split_layers,
)


def compute_rates(
    option,
    steps,
    total_steps,
):
    optimizer = trace_option(option)
    rates = []
    for step in steps:
        rate = learning_rate(optimizer, jnp.int32(step), jnp.int32(total_steps))
        rates.append(float(rate))
    return rates


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize(("total_steps", "warmup"), [(12, 3), (7, 0), (1, 0), (4, 9)])
def test_schedules_follow_their_formulas(
    schedule,
    total_steps,
    warmup,
):
    option = make_optimizer_option(schedule=schedule, warmup_steps=warmup)
    rates = compute_rates(option, range(total_steps), total_steps)
    expected = [learning_rate_at(option, step, total_steps) for step in range(total_steps)]
    assert_allclose(rates, expected, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        ("constant", {0: 2.0, 99: 2.0}),
        ("linear", {0: 2.0, 50: 1.0, 99: 0.02}),
        ("warmup", {0: 0.2, 9: 2.0, 10: 2.0, 99: 2.0}),
        ("warmup_cosine", {0: 0.2, 9: 2.0, 10: 2.0, 55: 1.0}),
        ("step", {0: 2.0, 49: 2.0, 50: 0.2, 74: 0.2, 75: 0.02, 99: 0.02}),
    ],
)
def test_schedules_have_these_rates_at_a_peak_of_two(schedule, expected):
    option = make_optimizer_option(
        schedule=schedule, learning_rate=2.0, warmup_steps=10, decay_factor=0.1
    )
    rates = compute_rates(option, expected, total_steps=100)
    assert_allclose(rates, list(expected.values()), rtol=1e-5)


def join_after_warmup(
    schedule,
    peak,
    warmup,
):
    """The warm-up of Fathom, whose first step is not lost, before a schedule of Optax."""
    rising = optax.linear_schedule(peak / warmup, peak, warmup - 1)
    return optax.join_schedules([rising, schedule], [warmup])


OPTAX_SCHEDULES = [  # Optax's name, settings of 40 steps at a peak of 2, and Optax's schedule
    ("constant_schedule", {}, optax.constant_schedule(2.0)),
    ("cosine_decay_schedule", {}, optax.cosine_decay_schedule(2.0, 40)),
    (
        "cosine_decay_schedule",
        {"decay_steps": 25, "end_value": 0.5},
        optax.cosine_decay_schedule(2.0, 25, alpha=0.25),
    ),
    (
        "warmup_cosine_decay_schedule",
        {"warmup_steps": 8},
        join_after_warmup(optax.cosine_decay_schedule(2.0, 32), 2.0, 8),
    ),
    (
        "warmup_cosine_decay_schedule",
        {"warmup_steps": 8, "decay_steps": 30, "end_value": 0.2},
        join_after_warmup(optax.cosine_decay_schedule(2.0, 22, alpha=0.1), 2.0, 8),
    ),
    ("warmup_constant", {"warmup_steps": 8}, optax.linear_schedule(0.25, 2.0, 7)),
    ("linear_schedule", {}, optax.linear_schedule(2.0, 0.0, 40)),
    (
        "linear_schedule",
        {"end_value": 0.3, "transition_steps": 15},
        optax.linear_schedule(2.0, 0.3, 15),
    ),
    (
        "polynomial_schedule",
        {"power": 3.0, "end_value": 0.1, "transition_steps": 30},
        optax.polynomial_schedule(2.0, 0.1, 3.0, 30),
    ),
    (
        "exponential_decay",
        {"decay_rate": 0.5, "transition_steps": 10},
        optax.exponential_decay(2.0, 10, 0.5),
    ),
    (
        "exponential_decay",
        {"decay_rate": 0.5, "transition_steps": 10, "staircase": True, "end_value": 0.3},
        optax.exponential_decay(2.0, 10, 0.5, staircase=True, end_value=0.3),
    ),
    (
        "warmup_exponential_decay_schedule",
        {"warmup_steps": 8, "decay_rate": 0.5, "transition_steps": 10},
        join_after_warmup(optax.exponential_decay(2.0, 10, 0.5), 2.0, 8),
    ),
    (
        "piecewise_constant_schedule",
        {"boundaries": (5, 12, 30), "decay_factor": 0.5},
        optax.piecewise_constant_schedule(2.0, {5: 0.5, 12: 0.5, 30: 0.5}),
    ),
]
OPTAX_IDS = [f"{name}-{len(settings)}" for name, settings, _ in OPTAX_SCHEDULES]


@pytest.mark.parametrize(("name", "settings", "expected"), OPTAX_SCHEDULES, ids=OPTAX_IDS)
def test_a_schedule_of_optax_has_optax_s_name_and_rates(name, settings, expected):
    usual = {"learning_rate": 2.0, "power": 2.0, "decay_rate": 0.1}
    option = make_optimizer_option(schedule=name, **(usual | settings))
    steps = range(40)
    rates = compute_rates(option, steps, total_steps=40)
    assert_allclose(rates, [float(expected(step)) for step in steps], rtol=2e-5, atol=1e-6)


def test_a_cosine_ends_near_zero():
    option = make_optimizer_option(schedule="warmup_cosine", learning_rate=2.0, warmup_steps=10)
    (rate,) = compute_rates(option, [99], total_steps=100)
    assert rate < 0.001


# Two stacked layers, a cell of three gates and a head, as programs hold them.
SHAPES = CELL | {
    "stages": {"0": {"kernel": (2, 4, 4), "bias": (2, 4), "alpha": (2,)}},
    "head": {"kernel": (4, 3)},
}
compiled_clip = jax.jit(clip_gradient)


def to_float64(tree):
    return jax.tree.map(lambda array: np.asarray(array, np.float64), tree)


def assert_clipped(kind, size):
    option = make_optimizer_option(clip=kind, clip_threshold=0.1)
    params = draw_arrays(SHAPES, 0, "float32")
    directions = draw_arrays(SHAPES, 1, "float32")
    grads = jax.tree.map(lambda leaf: size * leaf, directions)
    clipped = compiled_clip(trace_option(option), grads, params)
    expected = clip_arrays(
        option, split_layers(to_float64(grads)), split_layers(to_float64(params))
    )
    for path, values in split_layers(clipped).items():
        assert values.shape == expected[path].shape, path
        assert_allclose(values, expected[path], rtol=1e-5, atol=1e-30, err_msg=str(path))


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3, 1e12])
@pytest.mark.parametrize("kind", CLIPS)
def test_clipping_follows_its_formulas(kind, size):
    assert_clipped(kind, size)


@pytest.mark.parametrize("size", [1e20, 1e30])
@pytest.mark.parametrize("kind", CLIPS)
def test_a_gradient_whose_squares_overflow_is_as_long_as_the_threshold_allows(kind, size):
    assert_clipped(kind, size)


FUNCTIONS = {
    "kind": make_optimizer,
    "schedule": lambda optimizer: learning_rate(optimizer, jnp.int32(0), jnp.int32(1)),
    "clip": lambda optimizer: clip_gradient(optimizer, {}, {}),
}


@pytest.mark.parametrize("setting", FUNCTIONS)
def test_an_unknown_option_is_refused(setting):
    optimizer = dataclasses.replace(trace_option(make_optimizer_option()), **{setting: "newton"})
    with pytest.raises(ValueError, match="unknown .* newton"):
        FUNCTIONS[setting](optimizer)
