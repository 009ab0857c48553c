"""Loss scaling: what overflows never reaches the weights, and the scale follows its rule step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.config import schema as config
from research.training.program import make_program
from research.training.scaling import (
    MAX_SKIPPED_STEPS,
    MIN_LOSS_SCALE,
    can_go_on,
    is_finite,
    next_scale,
)
from research.training.state import LossScale

MODES = [option.name for option in config.LossScaling]
BEYOND = 2.0**40  # times any gradient here, more than float16 holds


@pytest.fixture
def prepared(make_spec, make_numbers, make_data):
    """A program in float16 with Adam, its numbers, its data."""

    def make(mode, *, precision="float16", norm="none", **numbers):
        changes = {f"precision.{name}": value for name, value in numbers.items()}
        how = {"norm": norm, "optimizer": "adam", "level": "off", "depth": 1}
        spec = make_spec(precision=precision, loss_scaling=mode, **how)
        return spec, make_numbers(changes | {"optimizer.learning_rate": 0.01}), make_data()

    return make


def everything_but_the_clock(state):
    return state.params, state.opt_state, state.model_state


OVERFLOWS = [
    ("static", "float16", "batch"),
    ("dynamic", "float16", "none"),
    *(
        pytest.param("dynamic", kind, "batch", marks=pytest.mark.slow)
        for kind in ("mixed_float16", "float8_e4m3")
    ),
]


@pytest.mark.parametrize(("mode", "precision", "norm"), OVERFLOWS)
def test_an_overflow_leaves_everything_as_it_was(
    prepared, train, assert_equal, mode, precision, norm
):
    spec, numbers, data = prepared(mode, precision=precision, norm=norm, loss_scale=BEYOND)
    start = make_program(spec).init(numbers)
    after, rows = train(spec, numbers, data, (3,))
    assert_equal(everything_but_the_clock(after), everything_but_the_clock(start))
    assert np.all(rows["skipped"]) and np.all(np.isfinite(rows["train_loss"]))
    assert np.all(rows["finite"])
    assert after.step == 3


def test_what_overflows_without_scaling_leaves_the_weights_too(
    prepared, train, assert_equal, make_spec, make_numbers
):
    spec, numbers, data = prepared("none")
    numbers |= make_numbers({"init.gain": 4e4})
    after, rows = train(spec, numbers, data, (2,))
    assert not np.any(rows["finite"])
    assert_equal(after.params, make_program(spec).init(numbers).params)


def test_the_dynamic_scale_follows_its_rule(prepared, train):
    """From beyond the format down by 1/4, up by 2 behind every third finite step, and down again."""
    rule = {"growth_factor": 2.0, "backoff_factor": 0.25, "growth_interval": 3}
    spec, numbers, data = prepared("dynamic", loss_scale=BEYOND, **rule)
    _, rows = train(spec, numbers, data, (16, 16, 16))
    scale = BEYOND
    clean = 0
    for recorded, skipped in zip(rows["loss_scale"][0], rows["skipped"][0], strict=True):
        assert recorded == scale
        clean = 0 if skipped else clean + 1
        scale *= 0.25 if skipped else 2.0 if clean == 3 else 1.0
        clean %= 3
    assert np.all(rows["finite"]) and rows["skipped"][0, 0] and not rows["skipped"][0, -16:].all()
    downs = np.flatnonzero(np.diff(rows["skipped"][0].astype(int)) == 1)
    assert len(downs) > 0, "it has grown beyond the format again"


def test_steps_that_are_left_out_are_as_if_they_had_not_been(prepared, train, distance):
    """Adam counts the updates that were made: its first one has the bias correction of a first one."""
    spec, numbers, data = prepared("dynamic", loss_scale=BEYOND, growth_interval=10**6)
    after, rows = train(spec, numbers, data, (16, 16))
    (count,) = {
        int(leaf[0]) for leaf in jax.tree.leaves(after.opt_state) if leaf.dtype == jnp.int32
    }
    assert count == np.sum(~rows["skipped"]) < 32 == after.step


def test_in_float32_the_scale_changes_no_bit(prepared, train, assert_equal):
    """Powers of two move exponents alone."""
    scales = (1.0, 2.0**15)
    one, other = (
        train(*prepared("dynamic", precision="float32", loss_scale=scale), (10,))
        for scale in scales
    )
    assert_equal(everything_but_the_clock(one[0]), everything_but_the_clock(other[0]))
    assert [run[1]["loss_scale"][0, -1] for run in (one, other)] == list(scales)


def test_scales_share_one_program(prepared):
    programs = {make_program(prepared("static", loss_scale=scale)[0]) for scale in (1.0, 1024.0)}
    assert len(programs) == 1


@pytest.mark.parametrize("mode", MODES)
def test_a_run_goes_on_behind_an_overflow_only_where_a_lower_scale_may_help(mode):
    def answer(value, loss, finite, clean=0):
        scale = LossScale(jnp.float32(value), jnp.int32(clean))
        return bool(can_go_on(mode, scale, jnp.float32(loss), jnp.array(finite)))

    assert answer(1.0, 2.0, True)
    assert answer(1.0, 2.0, False) == (mode != "none")
    assert answer(MIN_LOSS_SCALE, 2.0, False) == (mode == "static")
    assert answer(1.0, 2.0, False, 1 - MAX_SKIPPED_STEPS) == (mode == "dynamic")
    assert not answer(1.0, np.nan, False) and not answer(1.0, np.inf, True)


def test_the_scale_stays_in_its_range(make_numbers):
    hp = make_numbers({"precision.growth_interval": 1}, runs=None)
    ends = [(MIN_LOSS_SCALE, False, MIN_LOSS_SCALE), (2.0**127, True, 2.0**127)]
    for value, finite, expected in ends:
        after = next_scale(
            "dynamic", LossScale(jnp.float32(value), jnp.int32(0)), jnp.array(finite), hp
        )
        assert after.value == expected


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_one_element_that_is_no_number_is_found(value, dtype):
    tree = {"a": jnp.ones(300, dtype), "b": jnp.full((3, 40), 2.0, jnp.float32)}
    assert jax.jit(is_finite)(tree)
    for place in (0, 137, 299):
        assert not jax.jit(is_finite)(tree | {"a": tree["a"].at[place].set(value)})
