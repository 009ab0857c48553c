"""Schedules and clipping against their formulas."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.training.optimizers import clip, learning_rate, make_optimizer

from .formulas import CELL, CLIPS, NUMBERS, SCHEDULES, apart, clipped, rate


@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps, warmup", [(12, 3), (7, 0), (1, 0), (4, 9)])
def test_schedule(schedule, steps, warmup, make_numbers):
    numbers = NUMBERS | {"train.steps": steps, "optimizer.warmup_steps": warmup}
    hp = make_numbers(numbers, runs=None)
    rates = [float(learning_rate(schedule, jnp.int32(step), hp)) for step in range(steps)]
    np.testing.assert_allclose(
        rates, [rate(schedule, step, numbers) for step in range(steps)], rtol=1e-5, atol=1e-8
    )


def test_schedules_begin_and_end_where_they_say(make_numbers):
    hp = make_numbers(
        {"train.steps": 100, "optimizer.warmup_steps": 10, "optimizer.learning_rate": 2.0},
        runs=None,
    )

    def at(schedule, step):
        return float(learning_rate(schedule, jnp.int32(step), hp))

    assert [at("constant", step) for step in (0, 99)] == [2.0, 2.0]
    np.testing.assert_allclose(
        [at("linear", step) for step in (0, 50, 99)], [2.0, 1.0, 0.02], rtol=1e-5
    )
    np.testing.assert_allclose(
        [at("warmup", step) for step in (0, 9, 10, 99)], [0.2, 2.0, 2.0, 2.0], rtol=1e-5
    )
    np.testing.assert_allclose(
        [at("warmup_cosine", step) for step in (0, 9, 10, 55)], [0.2, 2.0, 2.0, 1.0], rtol=1e-5
    )
    assert at("warmup_cosine", 99) < 0.001
    np.testing.assert_allclose(
        [at("step", step) for step in (0, 49, 50, 74, 75, 99)],
        [2, 2, 0.2, 0.2, 0.02, 0.02],
        rtol=1e-5,
    )


def gradient_and_weights(size):
    """Two stacked layers, a cell of three gates and a head, as programs hold them."""
    generator = np.random.default_rng(0)

    def draw(scale):
        shapes = {
            "stages": {"0": {"kernel": (2, 4, 4), "bias": (2, 4), "alpha": (2,)}},
            "head": {"kernel": (4, 3)},
        }

        def is_shape(node):
            return isinstance(node, tuple)

        return jax.tree.map(
            lambda s: jnp.asarray(scale * generator.standard_normal(s), jnp.float32),
            shapes | CELL,
            is_leaf=is_shape,
        )

    return draw(size), draw(1.0)


compiled_clip = jax.jit(clip, static_argnums=0)


def assert_clipped(kind, grads, params, bound=0.1):
    measured = compiled_clip(kind, grads, params, jnp.float32(bound))
    wide_grads, wide_params = (
        {path: np.asarray(x, np.float64) for path, x in apart(tree).items()}
        for tree in (grads, params)
    )
    expected = clipped(kind, wide_grads, wide_params, bound)
    for path, values in apart(measured).items():
        np.testing.assert_allclose(values, expected[path], rtol=1e-5, atol=1e-30, err_msg=str(path))


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3, 1e12])
@pytest.mark.parametrize("kind", CLIPS)
def test_clip(kind, size):
    assert_clipped(kind, *gradient_and_weights(size))


@pytest.mark.parametrize("size", [1e20, 1e30])
@pytest.mark.parametrize("kind", CLIPS)
def test_clip_bounds_a_gradient_whose_squares_overflow(kind, size):
    """An exploded gradient keeps its direction: it comes out as long as the threshold allows, not as zero."""
    assert_clipped(kind, *gradient_and_weights(size))


REFUSED = {
    "optimizer": lambda hp: make_optimizer("newton", hp),
    "schedule": lambda hp: learning_rate("newton", jnp.int32(0), hp),
    "clip": lambda hp: clip("newton", {}, {}, hp["optimizer.clip_threshold"]),
}


@pytest.mark.parametrize("what", REFUSED)
def test_unknown_names_are_refused(what, make_numbers):
    with pytest.raises(ValueError, match=f"{what} must be .*, got newton"):
        REFUSED[what](make_numbers(runs=None))
