"""Normalisations by their formulas, in every number format and for every shape of a signal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from research.config import schema as config
from research.models.norm import DynamicTanh, apply_norm, make_norm
from research.training.precision import scope

KINDS = [option.name for option in config.NormKind]
GENERATOR = np.random.default_rng(0)
H = GENERATOR.standard_normal((16, 8)) * np.arange(1, 9)
SEQUENCE = GENERATOR.standard_normal((3, 5, 8)) * np.arange(1, 9) + 1
IMAGE = GENERATOR.standard_normal((3, 4, 5, 8)) * np.arange(1, 9) + 1
EPSILON = {"layer": 1e-6, "batch": 1e-5, "group": 1e-6, "rms": 1e-6}
GROUPS = 2  # of four units


def make(kind, dtype="float32"):
    formats = {"dtype": jnp.dtype(dtype), "param_dtype": jnp.promote_types(dtype, "float32")}
    norm = make_norm(kind, 8, groups=GROUPS, **formats, rngs=nnx.Rngs(0))
    if norm is not None:  # running statistics begin in float32
        nnx.update(
            norm, jax.tree.map(lambda leaf: leaf.astype(formats["param_dtype"]), nnx.state(norm))
        )
    return norm


def normed(kind, h, dtype="float32", norm=None):
    return np.asarray(
        apply_norm(norm or make(kind, dtype), jnp.asarray(h, dtype), train=True), np.float64
    )


def formula(kind, h):
    """As at the start: no shift, and a scale of 1."""
    if kind == "none":
        return h
    if kind == "dyt":
        return np.tanh(h / 2)
    if kind == "rms":
        return h / np.sqrt(np.mean(h**2, -1, keepdims=True) + EPSILON[kind])
    if kind == "group":
        pixels = (1, 2) if h.ndim == 4 else ()
        halves = [(half, (*pixels, -1)) for half in np.split(h, GROUPS, -1)]
        return np.concatenate(
            [_standardised(half, axes, EPSILON[kind]) for half, axes in halves], -1
        )
    return _standardised(h, -1 if kind == "layer" else tuple(range(h.ndim - 1)), EPSILON[kind])


def _standardised(h, axes, epsilon):
    return (h - h.mean(axes, keepdims=True)) / np.sqrt(h.var(axes, keepdims=True) + epsilon)


@pytest.mark.parametrize("h", [H, SEQUENCE, IMAGE], ids=["units", "sequence", "image"])
@pytest.mark.parametrize("kind", KINDS)
def test_formula(kind, h):
    with scope("float64"):
        np.testing.assert_allclose(
            normed(kind, h, "float64"), formula(kind, h), rtol=1e-12, atol=1e-13
        )


LEARNED = {
    "layer": {"scale", "bias"},
    "batch": {"scale", "bias"},
    "group": {"scale", "bias"},
    "rms": {"scale"},
}
LEARNED |= {"none": set(), "dyt": {"alpha", "scale", "bias"}}


@pytest.mark.parametrize("h", [H, SEQUENCE, IMAGE], ids=["units", "sequence", "image"])
@pytest.mark.parametrize("kind", KINDS)
def test_scale_and_shift_are_learned(kind, h):
    with scope("float64"):
        norm = make(kind, "float64")
        assert set(nnx.to_pure_dict(nnx.state(norm, nnx.Param)) if norm else {}) == LEARNED[kind]
        scale, bias = GENERATOR.standard_normal((2, 8))
        for name, value in {"scale": scale, "bias": bias}.items() if norm else ():
            if name in LEARNED[kind]:
                getattr(norm, name)[...] = jnp.asarray(value)
        expected = formula(kind, h) * (scale if norm else 1) + (
            bias if "bias" in LEARNED[kind] else 0
        )
        np.testing.assert_allclose(
            normed(kind, h, "float64", norm), expected, rtol=1e-12, atol=1e-13
        )


def test_the_slope_of_dynamic_tanh_is_learned():
    """Zhu et al. 2025, eq. 3: γ tanh(αh) + β, α a scalar."""
    with scope("float64"):
        norm = make("dyt", "float64")
        assert isinstance(norm, DynamicTanh) and norm.alpha[...] == 0.5 and norm.alpha.shape == ()
        norm.alpha[...] = jnp.asarray(1.7)
        np.testing.assert_allclose(normed("dyt", H, "float64", norm), np.tanh(1.7 * H), rtol=1e-14)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "batch"])
def test_positions_of_a_sequence_are_normalised_apart(kind):
    """What a position becomes does not depend on the others, least of all on later ones."""
    other = SEQUENCE.copy()
    other[:, 3] += 5 * np.arange(8)
    one = normed(kind, SEQUENCE)
    two = normed(kind, other)
    np.testing.assert_array_equal(np.delete(one, 3, 1), np.delete(two, 3, 1))
    assert np.all(np.any(one[:, 3] != two[:, 3], axis=-1))


@pytest.mark.parametrize(
    "kind, offset, factor", [("layer", 3, 7), ("group", 3, 7), ("batch", 3, 7), ("rms", 0, 7)]
)
def test_what_a_norm_takes_off_has_no_effect(kind, offset, factor):
    """The inputs are large, so that the constant next to the variance, 1e-5 or less, counts for nothing."""
    with scope("float64"):
        one, other = (normed(kind, 1e6 * h, "float64") for h in (IMAGE, factor * IMAGE + offset))
    np.testing.assert_allclose(one, other, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_a_large_common_offset_is_taken_off_before_squaring(kind):
    """E x² - (E x)² would lose the variance: 1e8 has an ulp of 8 in float32. An offset of 1e4 has one of 0.001."""
    h = (H + 1e4).astype(np.float32).astype(np.float64)
    np.testing.assert_allclose(normed(kind, h), formula(kind, h), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("h", [H, IMAGE], ids=["units", "image"])
@pytest.mark.parametrize("kind", KINDS)
def test_float16_statistics_are_taken_in_float32(kind, h):
    """The squares of these numbers are beyond float16."""
    h = (1000 * h).astype(np.float16).astype(np.float64)
    out = apply_norm(make(kind, "float16"), jnp.asarray(h, "float16"), train=True)
    assert out.dtype == jnp.float16
    np.testing.assert_allclose(np.asarray(out, np.float64), formula(kind, h), rtol=2e-3, atol=2e-3)


def test_batch_norm_alone_evaluates_with_what_it_kept():
    for kind in KINDS:
        norm = make(kind)
        h = jnp.asarray(H, jnp.float32)
        trained, evaluated = (apply_norm(norm, h, train=train) for train in (True, False))
        assert np.array_equal(trained, evaluated) == (kind != "batch"), kind
        assert len(jax.tree.leaves(nnx.state(norm, nnx.BatchStat) if norm else {})) == 2 * (
            kind == "batch"
        )


def test_an_unknown_norm_is_refused():
    with pytest.raises(ValueError, match="got whitening"):
        normed("whitening", H)
