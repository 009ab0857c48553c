"""Norms of the layers' parameters, whatever their sizes, loops and owners."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from research.watching.layer_norms import SMALL, layer_norms
from research.watching.layers import Layer, LayerTable, OwnedLeaf, Section

RNG = np.random.default_rng(0)
LARGE = (SMALL, 2)


def draw(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def norm(*arrays):
    return np.sqrt(sum(np.sum(np.square(array, dtype=np.float64)) for array in arrays))


def compute(table, tree):
    """The norms of each layer, and of the whole tree."""

    def run(tree):
        norms = layer_norms(table, tree)
        return norms.by_layer, norms.total

    return jax.jit(run)(tree)


def single(*leaves):
    return Section((), tuple(OwnedLeaf(leaf, ()) for leaf in leaves), "")


# Two layers in each of three iterations of a loop, then three layers that own 2, 3 and no arrays.
IN_LOOP = (
    Section((3,), (OwnedLeaf(0, (0,)), OwnedLeaf(1, (2,))), ""),
    Section((3,), (OwnedLeaf(2, (0,)),), ""),
)
ALONE = (single(3, 4), single(5, 6, 7), single())
TREE = [
    draw(3, 4),
    draw(2, 5, 3),
    draw(3, *LARGE),
    draw(7),
    draw(*LARGE),
    draw(7),
    draw(7),
    draw(*LARGE),
    draw(5),
    None,
    draw(*LARGE),
]
NUM_LAYERS = 9


@pytest.fixture
def table():
    layers = tuple(Layer(f"layer/{n}", "Layer", "", 0) for n in range(NUM_LAYERS))
    blocks = (IN_LOOP, *((section,) for section in ALONE))
    return LayerTable(layers, blocks, "")


@pytest.mark.parametrize("size", [1.0, pytest.param(1e-30, marks=pytest.mark.slow)])
def test_each_layer_gets_the_norm_of_its_arrays(table, size):
    tree = [None if array is None else array * size for array in TREE]

    by_layer, total = compute(table, tree)

    expected = []
    for n in range(3):
        expected.append(norm(TREE[0][n], TREE[1][:, :, n]))
        expected.append(norm(TREE[2][n]))
    expected += [norm(*TREE[3:5]), norm(*TREE[5:8]), np.nan]
    np.testing.assert_allclose(by_layer, np.array(expected) * size, rtol=2e-6)
    whole = norm(*(array for array in TREE if array is not None))
    np.testing.assert_allclose(total, whole * size, rtol=2e-6)


@pytest.mark.slow
def test_float64_is_summed_in_passes(table):
    with jax.enable_x64(True):
        tree = [None if array is None else array.astype(jnp.float64) * 1e-200 for array in TREE]
        by_layer, _ = compute(table, tree)
        np.testing.assert_allclose(by_layer[1] * 1e200, norm(TREE[2][0]), rtol=1e-12)
