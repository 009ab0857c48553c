"""Hyper-connections: their laws, and the networks that they contain."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numpy.testing import assert_allclose

from research.config.schema import make_option
from research.models.architecture import ForwardContext
from research.models.stack import Stack
from research.models.streams import StreamMixing, sinkhorn

from ..builders import make_architecture, trace_option
from .networks import FLOAT64, X, make_numbers, normal, params_of

pytestmark = pytest.mark.usefixtures("float64")


def make_mixing(kind, *, streams=4, layer=0, noise=0.0):
    option = trace_option(make_option("skip", kind, streams=streams, mixing_noise=noise), "float64")
    return StreamMixing(
        option, jnp.int32(layer), param_dtype=jnp.dtype("float64"), rngs=nnx.Rngs(0)
    )


@pytest.mark.parametrize("size", [0.0, 1.0, 5.0])
def test_sinkhorns_matrix_is_doubly_stochastic(size):
    matrix = np.asarray(sinkhorn(jnp.asarray(size * normal((4, 4)))))
    assert np.all(matrix > 0)
    assert_allclose(matrix.sum(axis=0), 1, rtol=1e-12)
    assert_allclose(matrix.sum(axis=1), 1, rtol=1e-2)


def test_sinkhorns_matrix_is_in_the_limit_a_rescaling_of_rows_and_columns():
    logits = normal((4, 4))
    ratios = np.log(np.asarray(sinkhorn(jnp.asarray(logits)))) - logits
    # ln of the factor of a row plus that of a column: all mixed differences vanish.
    differences = np.diff(np.diff(ratios, axis=0), axis=1)
    assert_allclose(differences, 0, atol=1e-12)


def test_initially_a_layer_reads_one_stream_in_turn_and_adds_its_branch_to_each():
    streams = jnp.asarray(normal((3, 4 * 2)))
    branch = jnp.asarray(normal((3, 2), seed=1))
    for layer in range(5):
        mixing = make_mixing("hyper", layer=layer)
        stream = layer % 4
        assert_allclose(mixing.read(streams), streams[:, 2 * stream : 2 * stream + 2])
        assert_allclose(mixing.mix(streams, branch), streams + jnp.tile(branch, (1, 4)))


def test_constrained_streams_initially_read_the_mean_and_keep_their_sum():
    streams = jnp.asarray(normal((3, 4 * 2)))
    mixing = make_mixing("mhc", noise=0.5)
    no_branch = jnp.zeros((3, 2))
    mean = streams.reshape(3, 4, 2).mean(1)
    mixed = mixing.mix(streams, no_branch).reshape(3, 4, 2)
    assert_allclose(mixing.read(streams), mean, rtol=1e-12)
    assert_allclose(mixed.mean(1), mean, rtol=1e-12, atol=1e-14)
    assert not np.allclose(mixed, streams.reshape(3, 4, 2))


@pytest.mark.parametrize("kind", ["hyper", "mhc"])
@pytest.mark.parametrize("streams", [1, 4])
def test_without_noise_the_initial_network_is_that_of_the_identity_shortcut(kind, streams):
    """All streams are copies of the residual stream, which every mixing of them leaves as it is."""
    logits = {}
    for skip in ("identity", kind):
        changes = {"streams": streams} if skip == kind else {}
        arch = make_architecture(skip=skip, norm="layer", depth=3, **changes, **FLOAT64)
        hp = make_numbers(arch, {"skip.mixing_noise": 0.0} if changes else {})
        stack = Stack(arch, hp, rngs=nnx.Rngs(0))
        if skip == "identity":
            params = params_of(stack)
        else:
            with_identity_weights = params_of(stack)
            merge(with_identity_weights, params)
            nnx.update(stack, with_identity_weights)
        ctx = ForwardContext(hp, train=True)
        with jax.disable_jit():
            logits[skip], _ = stack(jnp.asarray(X), {}, ctx)
    tolerance = 1e-5 if streams == 1 else 1e-11
    assert_allclose(logits[kind], logits["identity"], rtol=tolerance, atol=tolerance)


def merge(tree, others):
    """Replaces the leaves of a tree by those that another one has."""
    for name, value in others.items():
        if isinstance(value, dict):
            merge(tree[name], value)
        else:
            tree[name] = value
