"""Linear probes, spread within classes, and maps against NumPy, in float64."""

import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose

from research.gauges.probes import (
    RIDGE,
    class_spread,
    fit_probe,
    principal_plane,
    token_spread,
)
from research.training.precision import precision_context

EXAMPLES = 40
WIDTH = 6
CLASSES = 3


@pytest.fixture(autouse=True)
def in_float64():
    with precision_context("float64"):
        yield


@pytest.fixture
def generator():
    return np.random.default_rng(0)


@pytest.fixture
def labels(generator):
    return generator.integers(CLASSES, size=EXAMPLES)


@pytest.fixture
def features(generator, labels):
    """Clusters that overlap, of different size along each axis, off the origin."""
    centres = generator.standard_normal((CLASSES, WIDTH))
    noise = generator.standard_normal((EXAMPLES, WIDTH)) * np.arange(1, WIDTH + 1)
    return 5 + centres[labels] + 0.7 * noise


def predict_by_least_squares(features, labels):
    """Ridge regression as least squares of an extended system, with an unpenalised offset."""
    centred = features - features.mean(axis=0)
    one_hot = np.eye(CLASSES)[labels]
    shares = one_hot.mean(axis=0)
    penalty = RIDGE * np.var(features, axis=0).mean() * EXAMPLES
    rows = np.vstack([centred, np.sqrt(penalty) * np.eye(WIDTH)])
    targets = np.vstack([one_hot - shares, np.zeros((WIDTH, CLASSES))])
    weights = np.linalg.lstsq(rows, targets, rcond=None)[0]
    scores = centred @ weights + shares
    return weights, np.argmax(scores, axis=1)


def test_a_probe_is_ridge_regression_of_one_hot_labels(features, labels):
    weights, predicted = predict_by_least_squares(features, labels)
    probe = fit_probe(jnp.asarray(features), jnp.asarray(labels), CLASSES)
    assert_allclose(probe.weights, weights, rtol=1e-6)
    error = np.mean(predicted != labels)
    assert 0 < error < 0.5
    measured = probe.error(jnp.asarray(features), jnp.asarray(labels))
    assert_allclose(measured, error, rtol=1e-12)


def test_a_probe_does_not_depend_on_scale_and_offset(features, labels):
    probe = fit_probe(jnp.asarray(features), jnp.asarray(labels), CLASSES)
    scaled = fit_probe(jnp.asarray(1e-6 * features + 3), jnp.asarray(labels), CLASSES)
    assert_allclose(1e-6 * scaled.weights, probe.weights, rtol=1e-5)


def test_the_spread_is_the_variance_within_over_between_classes(features, labels):
    mean = features.mean(axis=0)
    within = 0.0
    between = 0.0
    for number in range(CLASSES):
        members = features[labels == number]
        centre = members.mean(axis=0)
        within += np.sum((members - centre) ** 2)
        between += len(members) * np.sum((centre - mean) ** 2)
    for classes in (CLASSES, CLASSES + 2):  # a class without an example changes nothing
        spread = class_spread(jnp.asarray(features), jnp.asarray(labels), classes)
        assert_allclose(spread, within / between, rtol=1e-10)


def test_the_principal_plane_has_the_two_greatest_variances(features):
    coordinates = np.asarray(principal_plane(jnp.asarray(features)))
    covariance = np.cov(features.T, bias=True)
    values, vectors = np.linalg.eigh(covariance)
    assert_allclose(np.var(coordinates, axis=0), values[::-1][:2], rtol=1e-10)
    expected = (features - features.mean(axis=0)) @ vectors[:, ::-1][:, :2]
    assert_allclose(np.abs(coordinates), np.abs(expected), rtol=1e-6, atol=1e-9)
    reversed_order = principal_plane(jnp.asarray(features[::-1]))
    assert_allclose(reversed_order, coordinates[::-1], atol=1e-9)


def test_the_spread_of_tokens_leaves_padding_out(generator):
    h = generator.standard_normal((2, 4, 3))
    mask = jnp.array([[True, True, True, True], [True, True, False, False]])
    expected = []
    for text in (h[0], h[1, :2]):
        rest = text - text.mean(axis=0)
        expected.append(np.linalg.norm(rest) / np.linalg.norm(text))
    assert_allclose(token_spread(jnp.asarray(h), mask), np.mean(expected), rtol=1e-10)
    alike = np.broadcast_to(h[:, :1], h.shape)
    assert token_spread(jnp.asarray(alike), mask) < 1e-12
