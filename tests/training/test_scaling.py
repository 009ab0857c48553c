"""Loss scaling: an overflow never reaches the weights, and the scale follows its rule."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.config.options import LossScaling
from research.config.schema import make_option
from research.training.program import make_program
from research.training.scaling import (
    MAX_SKIPPED_STEPS,
    MIN_LOSS_SCALE,
    has_not_diverged,
    is_finite,
    next_scale,
)
from research.training.state import LossScale

from ..builders import make_hparams, make_program_config, trace_option
from .programs import assert_equal, train

MODES = [option.name for option in LossScaling]
TOO_LARGE = 2.0**40  # times any gradient here exceeds the range of float16


def make_spec(
    mode,
    precision="float16",
    norm="none",
):
    return make_program_config(
        loss_scaling=mode,
        precision=precision,
        norm=norm,
        optimizer="adam",
        level="off",
        depth=1,
    )


def make_hp(spec, **precision):
    numbers = {"optimizer.learning_rate": 0.01}
    for name, value in precision.items():
        numbers[f"precision.{name}"] = value
    return make_hparams(spec, numbers)


def trained_parts(state):
    return state.params, state.opt_state, state.model_state


@pytest.mark.parametrize(
    ("mode", "precision", "norm"),
    [
        ("static", "float16", "batch"),
        ("dynamic", "float16", "none"),
        pytest.param("dynamic", "mixed_float16", "batch", marks=pytest.mark.slow),
        pytest.param("dynamic", "float8_e4m3", "batch", marks=pytest.mark.slow),
    ],
)
def test_a_step_that_overflows_leaves_the_state_as_it_is(
    mode,
    precision,
    norm,
):
    spec = make_spec(mode, precision, norm)
    hp = make_hp(spec, loss_scale=TOO_LARGE)
    before = make_program(spec).init(hp)
    after, rows = train(spec, hp, chunks=(3,))
    assert_equal(trained_parts(after), trained_parts(before))
    assert np.all(rows["skipped"])
    assert np.all(np.isfinite(rows["train_loss"]))
    assert np.all(rows["finite"])
    assert after.step == 3


def test_an_overflow_without_scaling_leaves_the_weights_and_ends_the_run():
    spec = make_spec("none")
    hp = make_hparams(spec, {"init.gain": 4e4})
    before = make_program(spec).init(hp)
    after, rows = train(spec, hp, chunks=(2,))
    assert not np.any(rows["finite"])
    assert_equal(after.params, before.params)


def test_the_dynamic_scale_follows_its_rule():
    """From a scale that overflows down by 1/4, up by 2 after every third finite step, and down."""
    spec = make_spec("dynamic")
    hp = make_hp(
        spec,
        loss_scale=TOO_LARGE,
        growth_factor=2.0,
        backoff_factor=0.25,
        growth_interval=3,
    )
    _, rows = train(spec, hp, chunks=(16, 16, 16))
    skipped = rows["skipped"][0]
    expected = TOO_LARGE
    finite_streak = 0
    for recorded, is_skipped in zip(rows["loss_scale"][0], skipped, strict=True):
        assert recorded == expected
        if is_skipped:
            expected *= 0.25
            finite_streak = 0
            continue
        finite_streak += 1
        if finite_streak == 3:
            expected *= 2.0
            finite_streak = 0
    assert np.all(rows["finite"])
    assert skipped[0]
    assert not np.all(skipped[-16:])
    overflows = np.flatnonzero(np.diff(skipped.astype(int)) == 1)
    assert len(overflows) > 0, "the scale has not grown until it overflowed again"


def test_adam_does_not_count_skipped_steps():
    """So its first update has the bias correction of a first update."""
    spec = make_spec("dynamic")
    hp = make_hp(spec, loss_scale=TOO_LARGE, growth_interval=10**6)
    after, rows = train(spec, hp, chunks=(16, 16))
    counts = [leaf for leaf in jax.tree.leaves(after.opt_state) if leaf.dtype == jnp.int32]
    (count,) = set(np.concatenate(counts))
    assert count == np.sum(~rows["skipped"])
    assert count < 32
    assert after.step == 32


def test_in_float32_a_power_of_two_as_scale_changes_no_bit():
    spec = make_spec("dynamic", precision="float32")
    unscaled, unscaled_rows = train(spec, make_hp(spec, loss_scale=1.0))
    scaled, scaled_rows = train(spec, make_hp(spec, loss_scale=2.0**15))
    assert_equal(trained_parts(unscaled), trained_parts(scaled))
    assert unscaled_rows["loss_scale"][0, -1] == 1.0
    assert scaled_rows["loss_scale"][0, -1] == 2.0**15


def test_scales_share_one_program():
    small = make_program_config(loss_scaling="static", loss_scale=1.0)
    large = make_program_config(loss_scaling="static", loss_scale=1024.0)
    assert make_program(small) is make_program(large)


@pytest.mark.parametrize("mode", MODES)
def test_a_run_goes_on_after_an_overflow_only_where_a_lower_scale_may_help(mode):
    precision = make_option("precision", "float16", loss_scaling=LossScaling[mode])

    def goes_on(
        value,
        *,
        loss=2.0,
        finite,
        finite_streak=0,
    ):
        scale = LossScale(jnp.float32(value), jnp.int32(finite_streak))
        return bool(has_not_diverged(precision, scale, jnp.float32(loss), jnp.array(finite)))

    last_chance = 1 - MAX_SKIPPED_STEPS
    assert goes_on(1.0, finite=True)
    assert goes_on(1.0, finite=False) == (mode != "none")
    assert goes_on(MIN_LOSS_SCALE, finite=False) == (mode == "static")
    assert goes_on(1.0, finite=False, finite_streak=last_chance) == (mode == "dynamic")
    assert not goes_on(1.0, loss=np.nan, finite=False)
    assert not goes_on(1.0, loss=np.inf, finite=True)


@pytest.mark.parametrize(("value", "finite"), [(MIN_LOSS_SCALE, False), (2.0**127, True)])
def test_the_scale_stays_in_its_range(value, finite):
    precision = trace_option(
        make_option("precision", "float16", loss_scaling=LossScaling.dynamic, growth_interval=1)
    )
    scale = LossScale(jnp.float32(value), jnp.int32(0))
    assert next_scale(precision, scale, jnp.array(finite)).value == value


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32"])
def test_one_element_that_is_not_finite_is_found(value, dtype):
    ones = jnp.ones(300, dtype)
    others = jnp.full((3, 40), 2.0, jnp.float32)
    assert jax.jit(is_finite)({"a": ones, "b": others})
    for place in (0, 137, 299):
        changed = ones.at[place].set(value)
        assert not jax.jit(is_finite)({"a": changed, "b": others})
