"""The Euclidean norm, against float64 NumPy over the whole range of the number formats."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpy.testing import assert_allclose, assert_array_equal

from research.gauges.norms import (
    accumulator,
    euclidean,
    tree_euclidean_by_branch,
    tree_euclidean_in_double,
)
from research.training.precision import precision_context

ROUNDING = 1e-6  # a float32 sum of tens of squares: a few ulp of 6e-8 each
POWERS_OF_TEN = [10.0**e for e in range(-37, 38)]
# The norm as CPUs compute it, and as GPUs do.
TREE_NORMS = {"branch": tree_euclidean_by_branch, "double": tree_euclidean_in_double}
COMPILED = {name: jax.jit(function) for name, function in TREE_NORMS.items()}


@pytest.fixture(params=TREE_NORMS)
def tree_norm(request):
    """The norm of a tree: (tree, batch_axes) → norms."""
    return TREE_NORMS[request.param]


@pytest.fixture(params=COMPILED)
def norm(request):
    """The compiled norm of an array."""
    return COMPILED[request.param]


def unit_vector(size):
    x = np.random.default_rng(0).standard_normal(size)
    return x / np.linalg.norm(x)


def norm_in_float64(*arrays):
    total = 0.0
    for array in arrays:
        wide = np.asarray(array, np.float64)
        total += np.sum(wide**2)
    return np.sqrt(total)


@pytest.mark.parametrize("size", POWERS_OF_TEN)
def test_float32_norms_are_right_from_1e_minus_37_to_1e37(size, norm):
    x = np.full(9, size / 3, np.float32)  # every element is a normal number
    assert_allclose(norm(x), norm_in_float64(x), rtol=ROUNDING)


def test_a_root_mean_square_overflows_only_where_it_is_beyond_the_format(tree_norm):
    x = jnp.full(100, 3e38, jnp.float32)
    assert np.isinf(tree_norm(x))
    divisor = 10.0
    assert_allclose(tree_norm(x, divisor=divisor), 3e38, rtol=ROUNDING)


@pytest.mark.parametrize("size", [1e-30, 1e-23, 1e-19, 2.0**-35, 1.0, 1e18, 1e19, 1e30])
def test_random_vectors_where_the_squares_leave_the_format(size, norm):
    x = (size * unit_vector(40)).astype(np.float32)
    assert_allclose(norm(x), norm_in_float64(x), rtol=ROUNDING)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("fraction", [0.2, 0.3, 0.99])
def test_norms_are_right_up_to_the_largest_number(dtype, fraction, norm):
    """Above a quarter of it, its reciprocal is a subnormal number, which counts as zero."""
    with precision_context(dtype):
        element = fraction * jnp.finfo(dtype).max
        x = jnp.zeros(4, dtype).at[1].set(element)
        assert_allclose(norm(x), element, rtol=ROUNDING)


@pytest.mark.parametrize("exponent", np.linspace(-40, -30, 41))
def test_both_sides_of_the_switch_to_scaling_agree(exponent, norm):
    """The floor of the squares is 2^-70."""
    x = (2.0**exponent * unit_vector(40)).astype(np.float32)
    assert_allclose(norm(x), norm_in_float64(x), rtol=ROUNDING)


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("size", [3e-7, 1e-3, 1.0, 4e4])
def test_narrow_formats_are_summed_in_float32(dtype, size, norm):
    elements = size * (1 + np.arange(50) % 7 / 16)
    x = jnp.asarray(elements, dtype)
    result = norm(x)
    assert result.dtype == jnp.float32
    assert_allclose(result, norm_in_float64(x), rtol=ROUNDING)


@pytest.mark.parametrize("size", [1e-300, 1e-170, 1e-150, 1.0, 1e150, 1e160, 1e300])
def test_float64_norms_have_the_range_and_precision_of_float64(size, norm):
    with precision_context("float64"):
        x = jnp.asarray(size * unit_vector(40))
        result = norm(x)
        expected = np.linalg.norm(np.asarray(x) / size)
        assert result.dtype == jnp.float64
        assert_allclose(result / size, expected, rtol=1e-14)


@pytest.mark.parametrize("narrow", ["float16", "bfloat16", "float32"])
def test_the_accumulator_of_narrow_formats_is_float32(narrow):
    assert accumulator(jnp.dtype(narrow)) == jnp.dtype("float32")


def test_the_accumulator_of_float64_is_float64():
    with precision_context("float64"):
        assert accumulator(jnp.dtype("float64")) == jnp.dtype("float64")


@pytest.mark.parametrize(
    "elements, expected",
    [
        ([0.0, 0.0], 0.0),
        ([0.0, -0.0], 0.0),
        ([1.0, np.inf], np.inf),
        ([1e-30, -np.inf], np.inf),
        ([np.nan, 1.0], np.nan),
        ([np.nan, 1e-30], np.nan),
        ([np.nan, np.inf], np.nan),
        ([np.nan, 0.0], np.nan),
        ([3e38, 3e38], np.inf),  # 4.2e38 is beyond the format
        ([-3.0, 4.0], 5.0),
        ([3e-30, 4e-30], 5e-30),
        ([-3e30, 4e30], 5e30),
        ([1e-37, 1e-30, 1.0], 1.0),
        ([3e30, 4e30, 1.0, 1e-30], 5e30),
        ([3e-25, 4e-25, 1e-37], 5e-25),
    ],
)
def test_special_values_and_mixed_magnitudes(elements, expected, norm):
    result = norm(np.array(elements, np.float32))
    assert_allclose(result, np.float32(expected), rtol=ROUNDING)


@pytest.mark.parametrize(
    "shape",
    [
        (),
        (0,),
        (1,),
        (2, 3),
        (2, 0, 3),
    ],
)
def test_all_elements_of_any_shape_count(shape, norm):
    result = norm(jnp.full(shape, 1e-30))
    expected = 1e-30 * np.sqrt(np.prod(shape))
    assert_allclose(result, expected, rtol=ROUNDING)


# Each row is a layer: the norms of its two leaves.
LEAF_NORMS = np.array(
    [
        [1e-37, 1e-37],
        [1e-30, 1e-30],
        [0, 0],
        [1, 1],
        [1e30, 1e30],
        [1e-30, 1e30],
        [1, 0],
    ]
)
LAYERS = len(LEAF_NORMS)
LAYER_NORMS = np.hypot(LEAF_NORMS[:, 0], LEAF_NORMS[:, 1])


@pytest.fixture
def tree():
    """Two leaves with a leading layer axis, whose norms are ``LEAF_NORMS``."""
    first = LEAF_NORMS[:, 0, None]
    second = LEAF_NORMS[:, 1, None, None]
    nine_elements = first / 3 * np.ones((LAYERS, 9))
    sixteen_elements = second / 4 * np.ones((LAYERS, 4, 4))
    return {
        "one": jnp.asarray(nine_elements.astype(np.float32)),
        "two": jnp.asarray(sixteen_elements.astype(np.float32)),
    }


def test_layers_of_all_magnitudes_are_separate(tree, tree_norm):
    assert_allclose(tree_norm(tree, batch_axes=1), LAYER_NORMS, rtol=ROUNDING)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_layer_that_is_not_finite_leaves_the_others_right(bad, tree, tree_norm):
    tree["one"] = tree["one"].at[3, 0].set(bad)
    expected = LAYER_NORMS.copy()
    expected[3] = bad
    assert_allclose(tree_norm(tree, batch_axes=1), expected, rtol=ROUNDING)


def test_no_two_and_all_batch_axes(tree_norm):
    elements = np.random.default_rng(0).standard_normal((3, 4, 5))
    x = jnp.asarray(elements, jnp.float32)
    total_norm = tree_norm([x])
    of_last_axis = tree_norm([x], batch_axes=2)
    element_norms = tree_norm([x], batch_axes=3)
    assert_allclose(total_norm, np.linalg.norm(x), rtol=ROUNDING)
    assert_allclose(of_last_axis, np.linalg.norm(x, axis=-1), rtol=ROUNDING)
    assert_array_equal(element_norms, np.abs(x))


TRANSFORMED = {
    "vmap": jax.vmap,
    "jit": lambda tree_norm: jax.jit(functools.partial(tree_norm, batch_axes=1)),
    "jit of vmap": lambda tree_norm: jax.jit(jax.vmap(tree_norm)),
    "map": lambda tree_norm: functools.partial(jax.lax.map, tree_norm),
}


@pytest.mark.parametrize("transform", TRANSFORMED.values(), ids=TRANSFORMED)
def test_transformations_do_not_change_the_norm(transform, tree, tree_norm):
    transformed = transform(tree_norm)
    assert_allclose(transformed(tree), LAYER_NORMS, rtol=ROUNDING)


def test_the_norm_of_a_tree_is_that_of_all_its_elements(tree, tree_norm):
    expected = norm_in_float64(*tree.values())
    assert_allclose(tree_norm(tree), expected, rtol=ROUNDING)


def test_the_norm_of_a_tree_is_the_norm_of_its_layers_norms(tree, tree_norm):
    measured = tree_norm(tree_norm(tree, batch_axes=1))
    assert_allclose(measured, norm_in_float64(LAYER_NORMS), rtol=ROUNDING)


@pytest.mark.parametrize(
    "order",
    [
        ("float32", "float64"),
        ("float64", "float32"),
    ],
)
def test_leaves_of_different_formats_are_summed_in_the_wider_one(order, tree_norm):
    """The square of 1e-30 is too small for float32, but not for float64."""
    sizes = {"float32": 1e-30, "float64": 1e-60}
    with precision_context("float64"):
        leaves = [jnp.full(4, sizes[dtype], dtype) for dtype in order]
        assert_allclose(tree_norm(leaves), 2e-30, rtol=ROUNDING)


@pytest.mark.parametrize(
    "backend, expected", [("cpu", "branch"), ("tpu", "branch"), ("gpu", "double")]
)
def test_gpus_alone_compute_the_norm_in_float64(backend, expected, monkeypatch):
    x = jnp.ones(3)
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    program = str(jax.make_jaxpr(lambda x: euclidean(x))(x))  # traced again for each backend
    assert ("cond[" in program) == (expected == "branch")
    assert ("f64[" in program) == (expected == "double")
