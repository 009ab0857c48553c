"""Normalisations by their formulas, in every number format."""

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from research import config
from research.models.norm import apply_norm, make_norm

KINDS = [option.name for option in config.NormKind]
H = np.random.default_rng(0).standard_normal((16, 8)) * np.arange(1, 9)
AXIS, EPSILON = {"layer": 1, "batch": 0}, {"layer": 1e-6, "batch": 1e-5}


def normed(kind, h, dtype="float32"):
    norm = make_norm(kind, 8, dtype=jnp.dtype(dtype), param_dtype=jnp.dtype("float32"), rngs=nnx.Rngs(0))
    return np.asarray(apply_norm(norm, jnp.asarray(h, dtype), train=True), np.float64)


def formula(kind, h):
    if kind == "none":
        return h
    axis = AXIS[kind]
    return (h - h.mean(axis, keepdims=True)) / np.sqrt(h.var(axis, keepdims=True) + EPSILON[kind])


@pytest.mark.parametrize("kind", KINDS)
def test_formula(kind):
    np.testing.assert_allclose(normed(kind, H), formula(kind, H), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_large_common_offset_is_taken_off_before_squaring(kind):
    """E x² - (E x)² would lose the variance: 1e8 has an ulp of 8 in float32. An offset of 1e4 has one of 0.001."""
    h = (H + 1e4).astype(np.float32).astype(np.float64)
    np.testing.assert_allclose(normed(kind, h), formula(kind, h), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("kind", KINDS)
def test_float16_statistics_are_taken_in_float32(kind):
    """The squares of these numbers are beyond float16."""
    h = (1000 * H).astype(np.float16).astype(np.float64)
    np.testing.assert_allclose(normed(kind, h, "float16"), formula(kind, h), rtol=2e-3, atol=2e-3)


def test_an_unknown_norm_is_refused():
    with pytest.raises(ValueError, match="got whitening"):
        normed("whitening", H)
