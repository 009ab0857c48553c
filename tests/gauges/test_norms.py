"""The Euclidean norm, against float64 NumPy over the whole range of the number formats."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.gauges.norms import accumulator, euclidean, tree_euclidean
from research.training.precision import scope

ROUNDING = 1e-6  # a float32 sum of tens of squares: a few ulp of 6e-8 each
MAGNITUDES = [10.0**e for e in range(-37, 38)]
norm = jax.jit(euclidean)


def directions(shape, seed=0):
    """Random vectors of unit length along the last axis."""
    x = np.random.default_rng(seed).standard_normal(shape)
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def oracle(*arrays):
    return np.sqrt(sum(np.sum(np.asarray(x, np.float64) ** 2) for x in arrays))


def test_float32_norms_are_right_from_1e_minus_37_to_1e37():
    for size in MAGNITUDES:
        x = np.float32(size / 3) * np.ones(
            9, np.float32
        )  # every element a normal number, down to the last one
        np.testing.assert_allclose(norm(x), oracle(x), rtol=ROUNDING, err_msg=f"norm {size:g}")


@pytest.mark.parametrize("size", [1e-30, 1e-23, 1e-19, 2.0**-35, 1.0, 1e18, 1e19, 1e30])
def test_random_vectors_where_the_squares_leave_the_format(size):
    x = (size * directions(40)).astype(np.float32)
    np.testing.assert_allclose(norm(x), oracle(x), rtol=ROUNDING)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("part", [0.2, 0.3, 0.99])
def test_norms_are_right_up_to_the_greatest_number(dtype, part):
    """Above a quarter of it, its reciprocal is a subnormal number, which counts as zero."""
    with scope(dtype):
        greatest = part * jnp.finfo(dtype).max
        np.testing.assert_allclose(
            norm(jnp.zeros(4, dtype).at[1].set(greatest)), greatest, rtol=ROUNDING
        )


def test_both_sides_of_the_switch_to_scaling_agree():
    for exponent in np.linspace(-40, -30, 41):  # the squares' floor lies at 2^-70
        x = (2.0**exponent * directions(40)).astype(np.float32)
        np.testing.assert_allclose(norm(x), oracle(x), rtol=ROUNDING, err_msg=f"2^{exponent}")


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("size", [3e-7, 1e-3, 1.0, 4e4])
def test_narrow_formats_are_summed_in_float32(dtype, size):
    x = jnp.asarray(size * (1 + np.arange(50) % 7 / 16), dtype)
    result = norm(x)
    assert result.dtype == jnp.float32
    np.testing.assert_allclose(result, oracle(x), rtol=ROUNDING)


@pytest.mark.parametrize("size", [1e-300, 1e-170, 1e-150, 1.0, 1e150, 1e160, 1e300])
def test_float64_norms_keep_their_range_and_precision(size):
    with scope("float64"):
        x = jnp.asarray(size * directions(40))
        result = norm(x)
        assert result.dtype == jnp.float64
        np.testing.assert_allclose(result / size, np.linalg.norm(np.asarray(x) / size), rtol=1e-14)


@pytest.mark.parametrize(
    "narrow, wide", [("float16", "float32"), ("bfloat16", "float32"), ("float32", "float32")]
)
def test_accumulator_is_float32_or_wider(narrow, wide):
    assert accumulator(jnp.dtype(narrow)) == jnp.dtype(wide)
    with scope("float64"):
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
def test_special_values_and_mixed_magnitudes(elements, expected):
    np.testing.assert_allclose(
        norm(np.array(elements, np.float32)), np.float32(expected), rtol=ROUNDING
    )


@pytest.mark.parametrize("shape", [(), (0,), (1,), (2, 3), (2, 0, 3)])
def test_any_shape_counts_whole(shape):
    np.testing.assert_allclose(
        norm(jnp.full(shape, 1e-30)), 1e-30 * np.sqrt(np.prod(shape)), rtol=ROUNDING
    )


# Layers of one tree, each of another magnitude, with the two leaves of the last layers far apart.
LAYERS = np.array(
    [[1e-37, 1e-37], [1e-30, 1e-30], [0, 0], [1, 1], [1e30, 1e30], [1e-30, 1e30], [1, 0]]
)


def layered(dtype=np.float32):
    """A tree with a leading layer axis, and its norm a layer."""
    one = (LAYERS[:, :1] / 3 * np.ones((len(LAYERS), 9))).astype(dtype)
    two = (LAYERS[:, 1, None, None] / 4 * np.ones((len(LAYERS), 4, 4))).astype(dtype)
    return {"one": jnp.asarray(one), "two": jnp.asarray(two)}, np.hypot(LAYERS[:, 0], LAYERS[:, 1])


def test_layers_of_all_magnitudes_are_told_apart():
    tree, expected = layered()
    np.testing.assert_allclose(tree_euclidean(tree, batch_axes=1), expected, rtol=ROUNDING)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_one_bad_layer_leaves_the_others_right(bad):
    tree, expected = layered()
    tree["one"], expected[3] = tree["one"].at[3, 0].set(bad), bad
    np.testing.assert_allclose(tree_euclidean(tree, batch_axes=1), expected, rtol=ROUNDING)


def test_no_two_and_all_batch_axes():
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 4, 5)), jnp.float32)
    np.testing.assert_allclose(tree_euclidean([x]), np.linalg.norm(x), rtol=ROUNDING)
    np.testing.assert_allclose(
        tree_euclidean([x], batch_axes=2), np.linalg.norm(x, axis=-1), rtol=ROUNDING
    )
    np.testing.assert_array_equal(tree_euclidean([x], batch_axes=3), np.abs(x))


TRANSFORMED = {
    "vmap": jax.vmap(tree_euclidean),
    "jit": jax.jit(lambda tree: tree_euclidean(tree, batch_axes=1)),
    "jit of vmap": jax.jit(jax.vmap(tree_euclidean)),
    "map": lambda tree: jax.lax.map(tree_euclidean, tree),
}


@pytest.mark.parametrize("by_layer", TRANSFORMED.values(), ids=TRANSFORMED)
def test_transformations_do_not_change_the_norm(by_layer):
    tree, expected = layered()
    np.testing.assert_allclose(by_layer(tree), expected, rtol=ROUNDING)


def test_norm_of_a_tree_is_the_norm_of_its_leaves_norms():
    tree, expected = layered()
    np.testing.assert_allclose(tree_euclidean(tree), oracle(*tree.values()), rtol=ROUNDING)
    np.testing.assert_allclose(
        euclidean(tree_euclidean(tree, batch_axes=1)), oracle(expected), rtol=ROUNDING
    )


@pytest.mark.parametrize("order", [("float32", "float64"), ("float64", "float32")])
def test_leaves_of_different_formats_are_summed_in_the_wider_one(order):
    with scope("float64"):
        sizes = {
            "float32": 1e-30,
            "float64": 1e-60,
        }  # the square of the first is below float32, not below float64
        leaves = [jnp.full(4, sizes[dtype], dtype) for dtype in order]
        np.testing.assert_allclose(tree_euclidean(leaves), 2e-30, rtol=ROUNDING)
