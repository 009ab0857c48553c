"""Losses against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.config import schema as config
from research.training.losses import loss_and_accuracy
from research.training.precision import scope

GENERATOR = np.random.default_rng(0)
LOGITS = 3 * GENERATOR.standard_normal((6, 5))
LABELS = GENERATOR.integers(5, size=6)


def measure(kind, logits, labels, smoothing=0.0, dtype="float32"):
    wide = jnp.promote_types(dtype, "float32")
    each = loss_and_accuracy(
        kind, jnp.asarray(logits, dtype), jnp.asarray(labels), jnp.asarray(smoothing, wide)
    )
    return tuple(map(jnp.mean, each))


def formula(kind, logits, labels, smoothing):
    """In float64: the mean over B of -Σ_c t_c ln p_c (nats), or of Σ_c (f_c - t_c)² / 2."""
    targets = (1 - smoothing) * np.eye(5)[labels] + smoothing / 5
    if kind == "mse":
        return np.mean(np.sum((logits - targets) ** 2, axis=1) / 2)
    shifted = logits - np.max(logits, axis=1, keepdims=True)
    return -np.mean(
        np.sum(targets * (shifted - np.log(np.sum(np.exp(shifted), axis=1, keepdims=True))), axis=1)
    )


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("kind", [option.name for option in config.LossKind])
def test_formula(kind, smoothing):
    loss, accuracy = measure(kind, LOGITS, LABELS, smoothing)
    np.testing.assert_allclose(loss, formula(kind, LOGITS, LABELS, smoothing), rtol=1e-6)
    np.testing.assert_allclose(accuracy, np.mean(np.argmax(LOGITS, axis=1) == LABELS))


@pytest.mark.parametrize("kind", [option.name for option in config.LossKind])
def test_float64_keeps_its_precision(kind):
    with scope("float64"):
        loss, accuracy = measure(kind, LOGITS, LABELS, 0.1, "float64")
        assert loss.dtype == accuracy.dtype == jnp.float64
        np.testing.assert_allclose(loss, formula(kind, LOGITS, LABELS, 0.1), rtol=1e-14)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("kind", [option.name for option in config.LossKind])
def test_narrow_logits_are_widened_first(kind, dtype):
    rounded = np.asarray(jnp.asarray(100 * LOGITS, dtype), np.float64)  # squares beyond float16
    loss, accuracy = measure(kind, rounded, LABELS, 0.1, dtype)
    assert loss.dtype == accuracy.dtype == jnp.float32
    np.testing.assert_allclose(loss, formula(kind, rounded, LABELS, 0.1), rtol=1e-5)


@pytest.mark.parametrize(
    "right, cost", [(0.1, 2.302585), (0.51, 0.673345), (0.25, np.log(4)), (1.0, 0.0)]
)
def test_cross_entropy_costs_minus_the_log_of_the_probability_of_the_right_class(right, cost):
    logits = np.log([[right, max(1 - right, 1e-30)]])
    np.testing.assert_allclose(measure("cross_entropy", logits, [0])[0], cost, rtol=1e-6, atol=1e-7)


def test_cross_entropy_of_equal_logits_is_log_classes():
    np.testing.assert_allclose(
        measure("cross_entropy", np.full((3, 10), 7.0), [1, 2, 3], 0.3)[0], np.log(10), rtol=1e-6
    )


def test_the_gradient_of_cross_entropy_is_probability_minus_target():
    with scope("float64"):
        smoothing = jnp.asarray(0.1)
        grad = jax.grad(
            lambda f: loss_and_accuracy("cross_entropy", f, jnp.asarray(LABELS), smoothing)[
                0
            ].mean()
        )(jnp.asarray(LOGITS))
    probabilities = np.exp(LOGITS) / np.sum(np.exp(LOGITS), axis=1, keepdims=True)
    np.testing.assert_allclose(
        grad, (probabilities - 0.9 * np.eye(5)[LABELS] - 0.02) / 6, atol=1e-14
    )


@pytest.mark.parametrize("size", [1e4, 1e30])
def test_huge_logits_cost_their_difference(size):
    """Confident and wrong: the loss is linear in the logits, without overflow."""
    np.testing.assert_allclose(measure("cross_entropy", [[0.0, size]], [0])[0], size, rtol=1e-6)
    assert measure("cross_entropy", [[0.0, size]], [1])[0] == 0


@pytest.mark.parametrize("kind", [option.name for option in config.LossKind])
def test_positions_of_a_sequence_are_averaged(kind):
    logits = GENERATOR.standard_normal((3, 4, 5))
    labels = GENERATOR.integers(5, size=(3, 4))
    losses, hits = loss_and_accuracy(
        kind, jnp.asarray(logits, "float32"), jnp.asarray(labels), jnp.zeros(())
    )
    expected = [formula(kind, logits[i], labels[i], 0.0) for i in range(3)]
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    np.testing.assert_allclose(hits, np.mean(np.argmax(logits, axis=-1) == labels, axis=1))


def test_numbers_to_be_met_are_met_by_distance_and_have_no_accuracy():
    targets = GENERATOR.standard_normal((6, 5))
    loss, accuracy = measure("mse", LOGITS, targets.astype(np.float32))
    np.testing.assert_allclose(
        loss, np.mean(np.sum((LOGITS - targets) ** 2, axis=1) / 2), rtol=1e-6
    )
    assert np.isnan(accuracy)
