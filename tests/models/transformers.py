"""The transformers of several test files."""

from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from research.models.architecture import ForwardContext
from research.models.stack import Stack
from research.training.precision import scope

TOKENS = 7
LENGTH = 5
WIDTH = 8
HEADS = 2
DRAW = np.random.default_rng(0).standard_normal
FLOAT64: dict[str, Any] = dict(dtype="float64", param_dtype="float64")
USUAL: dict[str, Any] = dict(
    kind="transformer",
    depth=2,
    width=WIDTH,
    heads=HEADS,
    expansion=2,
    groups=2,
    skip="identity",
    **FLOAT64,
)
TEXT: dict[str, Any] = dict(shape=(LENGTH,), vocabulary=TOKENS, classes=TOKENS, language=True)
VECTORS: dict[str, Any] = dict(shape=(LENGTH, 3), classes=4)


@pytest.fixture(scope="session")
def make_network(make_architecture, make_numbers, build):
    """A transformer in float64, its parameters moved off their initial values: the function of embedded positions."""

    def make(**changes):
        arch = make_architecture(**(USUAL | changes))
        hp = make_numbers({"init.sigma_b": 0.1, "skip.gate_bias": -0.5}, runs=None, dtype="float64")
        with jax.disable_jit():
            params, rest = build(arch, hp)
        params = jax.tree.map(lambda leaf: leaf + 0.1 * DRAW(leaf.shape), params)
        return (
            arch,
            hp,
            params,
            nnx.merge(
                nnx.graphdef(nnx.eval_shape(lambda: Stack(arch, hp, rngs=nnx.Rngs(0)))),
                params,
                rest,
            ),
        )

    return make


@pytest.fixture
def float64():
    with scope("float64"):
        yield


def ctx(hp, *, train=False, collect_activations=False):
    return ForwardContext(hp, train=train, collect_activations=collect_activations)
