"""Normalisations against their formulas, in every number format and for every shape of a signal."""

import dataclasses
import enum
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numpy.testing import assert_allclose, assert_array_equal

from research.config.options import Norm, NormKind
from research.config.reference import setting_groups
from research.config.schema import make_option
from research.models.norm import DynamicTanh, apply_norm, make_norm
from research.training.precision import precision_context

from .networks import params_of

KINDS = [kind.name for kind in NormKind]
GENERATOR = np.random.default_rng(0)
UNITS = np.arange(1, 9)
H = GENERATOR.standard_normal((16, 8)) * UNITS
SEQUENCE = GENERATOR.standard_normal((3, 5, 8)) * UNITS + 1
IMAGE = GENERATOR.standard_normal((3, 4, 5, 8)) * UNITS + 1
EPSILON = {
    "layer": 1e-6,
    "batch": 1e-5,
    "group": 1e-6,
    "rms": 1e-6,
}
GROUPS = 2  # of four units each

every_kind = pytest.mark.parametrize("kind", KINDS)
every_shape = pytest.mark.parametrize(
    "h",
    [
        pytest.param(H, id="units"),
        pytest.param(SEQUENCE, id="sequence"),
        pytest.param(IMAGE, id="image"),
    ],
)
float64 = pytest.mark.usefixtures("float64")


def make(kind, dtype="float32", *, affine=True) -> Any:
    """A norm of 8 units with initial parameters; running statistics are in float32 or wider."""
    option = make_option("norm", kind)
    if kind != "none":
        option = dataclasses.replace(option, affine=affine)
    if kind == "group":
        option = dataclasses.replace(option, groups=GROUPS)
    wide = jnp.promote_types(dtype, "float32")
    norm = make_norm(
        option,
        8,
        dtype=jnp.dtype(dtype),
        param_dtype=wide,
        rngs=nnx.Rngs(0),
    )
    if norm is not None:
        state = jax.tree.map(lambda leaf: leaf.astype(wide), nnx.state(norm))
        nnx.update(norm, state)
    return norm


def normalize(norm, h, dtype="float32"):
    out = apply_norm(norm, jnp.asarray(h, dtype), train=True)
    return np.asarray(out, np.float64)


def formula(kind, h):
    """With the initial parameters: a scale of 1 and no shift."""
    last = -1
    match kind:
        case "none":
            return h
        case "dyt":
            return np.tanh(h / 2)
        case "rms":
            mean_square = np.mean(h**2, last, keepdims=True)
            return h / np.sqrt(mean_square + EPSILON[kind])
        case "group":
            axes = (1, 2, last) if h.ndim == 4 else (last,)
            groups = np.split(h, GROUPS, last)
            parts = [standardize(group, axes, EPSILON[kind]) for group in groups]
            return np.concatenate(parts, last)
        case "layer":
            return standardize(h, (last,), EPSILON[kind])
        case "batch":
            all_but_units = tuple(range(h.ndim - 1))
            return standardize(h, all_but_units, EPSILON[kind])
    raise ValueError(f"no formula for {kind}")


def standardize(h, axes, epsilon):
    centered = h - h.mean(axes, keepdims=True)
    return centered / np.sqrt(h.var(axes, keepdims=True) + epsilon)


@float64
@every_shape
@every_kind
def test_formula(kind, h):
    measured = normalize(make(kind, "float64"), h, "float64")
    assert_allclose(measured, formula(kind, h), rtol=1e-12, atol=1e-13)


LEARNED = {
    "none": set(),
    "layer": {"scale", "bias"},
    "batch": {"scale", "bias"},
    "group": {"scale", "bias"},
    "rms": {"scale"},
    "dyt": {"alpha", "scale", "bias"},
}


def learned_names(norm):
    if norm is None:
        return set()
    return set(params_of(norm))


@float64
@every_shape
@every_kind
def test_scale_and_shift_are_learned(kind, h):
    norm = make(kind, "float64")
    scale, bias = GENERATOR.standard_normal((2, 8))
    expected = formula(kind, h)
    assert learned_names(norm) == LEARNED[kind]
    if "scale" in LEARNED[kind]:
        norm.scale[...] = jnp.asarray(scale)
        expected = expected * scale
    if "bias" in LEARNED[kind]:
        norm.bias[...] = jnp.asarray(bias)
        expected = expected + bias
    assert_allclose(normalize(norm, h, "float64"), expected, rtol=1e-12, atol=1e-13)


@float64
@every_shape
@every_kind
def test_a_norm_that_is_not_affine_learns_no_scale_and_no_shift(kind, h):
    norm = make(kind, "float64", affine=False)
    assert learned_names(norm) == LEARNED[kind] - {"scale", "bias"}
    measured = normalize(norm, h, "float64")
    assert_allclose(measured, formula(kind, h), rtol=1e-12, atol=1e-13)


@float64
def test_the_slope_of_dynamic_tanh_is_learned():
    """Zhu et al. 2025, eq. 3: γ tanh(αh) + β with a scalar α."""
    norm = make("dyt", "float64")
    assert isinstance(norm, DynamicTanh)
    assert norm.alpha.shape == ()
    assert norm.alpha[...] == 0.5
    norm.alpha[...] = jnp.asarray(1.7)
    assert_allclose(normalize(norm, H, "float64"), np.tanh(1.7 * H), rtol=1e-14)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "batch"])
def test_positions_of_a_sequence_are_normalised_separately(kind):
    """The output of a position depends on no other position, in particular not on later ones."""
    position = 3
    changed = SEQUENCE.copy()
    changed[:, position] += 5 * np.arange(8)

    before = normalize(make(kind), SEQUENCE)
    after = normalize(make(kind), changed)

    differs = np.any(before != after, axis=-1)
    expected = np.zeros_like(differs)
    expected[:, position] = True
    assert_array_equal(differs, expected)


@pytest.mark.parametrize(
    "kind, offset, factor",
    [
        ("layer", 3, 7),
        ("group", 3, 7),
        ("batch", 3, 7),
        ("rms", 0, 7),
    ],
)
def test_scale_and_offset_of_the_input_have_no_effect(kind, offset, factor):
    """The inputs are large, so that ε, 1e-5 or less, is negligible next to the variance."""
    large = 1e6
    with precision_context("float64"):
        norm = make(kind, "float64")
        usual = normalize(norm, large * IMAGE, "float64")
        changed = normalize(norm, large * (factor * IMAGE + offset), "float64")
    assert_allclose(usual, changed, rtol=1e-11, atol=1e-12)


@every_kind
def test_a_large_common_offset_is_subtracted_before_squaring(kind):
    """E x² − (E x)² would lose the variance: the spacing of float32 is 8 at 1e8, 0.001 at 1e4."""
    h = (H + 1e4).astype(np.float32).astype(np.float64)
    assert_allclose(normalize(make(kind), h), formula(kind, h), rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("h", [H, IMAGE], ids=["units", "image"])
@every_kind
def test_float16_statistics_are_computed_in_float32(kind, h):
    """The squares of these numbers overflow in float16."""
    h = (1000 * h).astype(np.float16)
    out = apply_norm(make(kind, "float16"), jnp.asarray(h), train=True)
    expected = formula(kind, h.astype(np.float64))
    assert out.dtype == jnp.float16
    assert_allclose(np.asarray(out, np.float64), expected, rtol=2e-3, atol=2e-3)


@every_kind
def test_only_batch_norm_evaluates_with_running_statistics(kind):
    norm = make(kind)
    h = jnp.asarray(H, jnp.float32)
    trained = apply_norm(norm, h, train=True)
    evaluated = apply_norm(norm, h, train=False)
    running = jax.tree.leaves(nnx.state(norm, nnx.BatchStat)) if norm else []
    is_batch = kind == "batch"
    assert np.array_equal(trained, evaluated) != is_batch
    assert len(running) == (2 if is_batch else 0)


def test_an_unknown_norm_is_refused():
    unknown = enum.Enum("UnknownKind", ["whitening"])
    option = dataclasses.replace(Norm(), kind=unknown.whitening)
    formats = {"dtype": jnp.dtype("float32"), "param_dtype": jnp.dtype("float32")}
    with pytest.raises(ValueError, match="got whitening"):
        make_norm(option, 8, **formats, rngs=nnx.Rngs(0))


def test_the_reference_says_the_epsilon_of_each_norm():
    (group,) = [group for group in setting_groups() if group.name == "norm"]
    usual, of_batch_norm = re.findall(r"1e-\d", group.meaning)
    for kind, epsilon in EPSILON.items():
        assert epsilon == float(of_batch_norm if kind == "batch" else usual)
