"""Losses against NumPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from research.config.options import LossKind
from research.config.schema import make_option
from research.training.losses import loss_and_accuracy
from research.training.precision import precision_context

from ..builders import trace_option
from .formulas import softmax

KINDS = [option.name for option in LossKind]
CLASSES = 5
GENERATOR = np.random.default_rng(0)
LOGITS = 3 * GENERATOR.standard_normal((6, CLASSES))
LABELS = GENERATOR.integers(CLASSES, size=6)


def make_loss(
    kind,
    smoothing=0.0,
    dtype="float32",
):
    return trace_option(make_option("loss", kind, label_smoothing=smoothing), dtype)


def mean_loss_and_accuracy(
    loss,
    logits,
    labels,
):
    losses, hits = loss_and_accuracy(loss, jnp.asarray(logits), jnp.asarray(labels))
    return jnp.mean(losses), jnp.mean(hits)


def mean_cross_entropy(
    logits,
    labels,
    smoothing=0.0,
):
    loss = make_loss("cross_entropy", smoothing)
    return mean_loss_and_accuracy(loss, np.asarray(logits, np.float32), labels)[0]


def formula(
    kind,
    logits,
    labels,
    smoothing,
):
    """In float64: the mean over B of -Σ_c t_c ln p_c (nats), or of Σ_c (f_c - t_c)² / 2."""
    targets = (1 - smoothing) * np.eye(CLASSES)[labels] + smoothing / CLASSES
    if kind == "mse":
        return half_mean_square_distance(logits, targets)
    shifted = logits - np.max(logits, axis=1, keepdims=True)
    normalizers = np.sum(np.exp(shifted), axis=1, keepdims=True)
    log_probabilities = shifted - np.log(normalizers)
    return -np.mean(np.sum(targets * log_probabilities, axis=1))


def half_mean_square_distance(logits, targets):
    squares = (logits - targets) ** 2
    return np.mean(np.sum(squares, axis=1)) / 2


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("kind", KINDS)
def test_losses_are_those_of_their_formulas(kind, smoothing):
    logits = LOGITS.astype(np.float32)
    loss, accuracy = mean_loss_and_accuracy(make_loss(kind, smoothing), logits, LABELS)
    assert_allclose(loss, formula(kind, LOGITS, LABELS, smoothing), rtol=1e-6)
    assert_allclose(accuracy, np.mean(np.argmax(LOGITS, axis=1) == LABELS))


@pytest.mark.parametrize("kind", KINDS)
def test_float64_keeps_its_precision(kind):
    with precision_context("float64"):
        loss, accuracy = mean_loss_and_accuracy(make_loss(kind, 0.1, "float64"), LOGITS, LABELS)
        assert loss.dtype == accuracy.dtype == jnp.float64
        assert_allclose(loss, formula(kind, LOGITS, LABELS, 0.1), rtol=1e-14)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("kind", KINDS)
def test_narrow_logits_are_widened_first(kind, dtype):
    logits = jnp.asarray(100 * LOGITS, dtype)  # their squares exceed the range of float16
    loss, accuracy = mean_loss_and_accuracy(make_loss(kind, 0.1), logits, LABELS)
    assert loss.dtype == accuracy.dtype == jnp.float32
    expected = formula(kind, np.asarray(logits, np.float64), LABELS, 0.1)
    assert_allclose(loss, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("probability", "cost"),
    [(0.1, 2.302585), (0.51, 0.673345), (0.25, np.log(4)), (1.0, 0.0)],
)
def test_cross_entropy_is_minus_the_log_probability_of_the_label(probability, cost):
    logits = np.log([[probability, max(1 - probability, 1e-30)]])
    assert_allclose(mean_cross_entropy(logits, [0]), cost, rtol=1e-6, atol=1e-7)


def test_cross_entropy_of_equal_logits_is_log_classes():
    logits = np.full((3, 10), 7.0)
    loss = mean_cross_entropy(logits, [1, 2, 3], smoothing=0.3)
    assert_allclose(loss, np.log(10), rtol=1e-6)


def test_the_gradient_of_cross_entropy_is_probability_minus_target():
    with precision_context("float64"):
        loss = make_loss("cross_entropy", 0.1, "float64")

        def mean_loss(logits):
            return mean_loss_and_accuracy(loss, logits, LABELS)[0]

        grad = jax.grad(mean_loss)(jnp.asarray(LOGITS))
    targets = 0.9 * np.eye(CLASSES)[LABELS] + 0.1 / CLASSES
    expected = (softmax(LOGITS) - targets) / len(LABELS)
    assert_allclose(grad, expected, atol=1e-14)


@pytest.mark.parametrize("size", [1e4, 1e30])
def test_the_loss_is_linear_in_huge_logits_without_overflow(size):
    logits = [[0.0, size]]
    assert_allclose(mean_cross_entropy(logits, [0]), size, rtol=1e-6)
    assert mean_cross_entropy(logits, [1]) == 0


@pytest.mark.parametrize("kind", KINDS)
def test_positions_of_a_sequence_are_averaged(kind):
    logits = GENERATOR.standard_normal((3, 4, CLASSES))
    labels = GENERATOR.integers(CLASSES, size=(3, 4))
    losses, hits = loss_and_accuracy(
        make_loss(kind), jnp.asarray(logits, "float32"), jnp.asarray(labels)
    )
    is_hit = np.argmax(logits, axis=-1) == labels
    for example in range(3):
        expected = formula(kind, logits[example], labels[example], 0.0)
        assert_allclose(losses[example], expected, rtol=1e-6)
        assert_allclose(hits[example], np.mean(is_hit[example]))


def test_real_targets_cost_half_their_squared_distance_and_have_no_accuracy():
    targets = GENERATOR.standard_normal((6, CLASSES))
    logits = LOGITS.astype(np.float32)
    labels = targets.astype(np.float32)
    loss, accuracy = mean_loss_and_accuracy(make_loss("mse"), logits, labels)
    assert_allclose(loss, half_mean_square_distance(LOGITS, targets), rtol=1e-6)
    assert np.isnan(accuracy)
