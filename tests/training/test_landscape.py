"""Diagnostics of the loss around the weights, of masks, clipping, layers and tokens.

All against plain loops over the same small network, in float64.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from numpy.testing import assert_allclose, assert_array_equal

from research.models.architecture import ForwardContext
from research.training import inspections
from research.training.inspections import (
    INTERPOLATION_COORDINATES,
    SURFACE_COORDINATES,
    initial_params,
    landscape_loss,
)
from research.training.landscape import filter_normalized
from research.training.precision import precision_context

from ..compiling import quick
from .inspecting import EXAMPLES, inputs_of, inspect_network
from .programs import make_data

pytestmark = pytest.mark.usefixtures("quickly_compiled", "in_float64")


@pytest.fixture
def in_float64():
    with precision_context("float64"):
        yield


@functools.cache
def measured(kind="mlp"):
    """All diagnostics of one linear network with dropout and clipping, and its snapshot."""
    return inspect_network(
        *("loss_surface", "hessian_spectrum", "parameters", "masked_outputs", "clipping"),
        *("probes", "representations", "feature_maps"),
        kind=kind,
        shape=(1, 5, 1),
        width=3,
        depth=2,
        activation="linear",
        dropout=0.5,
        clip="global_norm",
        batch_size=EXAMPLES,
        numbers={"model.dropout": 0.3, "optimizer.clip_threshold": 0.01},
    )


@functools.cache
def measured_texts():
    """The diagnostic ``tokens`` of a transformer, its snapshot, and its texts.

    The texts have one to four tokens and a class each.
    """
    tokens = np.random.default_rng(0).integers(1, 6, size=(EXAMPLES, 4))
    lengths = 1 + np.arange(EXAMPLES) % 4
    padded = np.where(np.arange(4) < lengths[:, None], tokens, 0)
    texts = dict(make_data(EXAMPLES)) | {"x": jnp.asarray(padded)}
    found, snapshot = inspect_network(
        "tokens",
        data=texts,
        kind="transformer",
        shape=(4,),
        vocabulary=6,
        padded=True,
        depth=1,
        width=4,
        heads=2,
        expansion=1,
        skip="identity",
    )
    return found, snapshot, texts


def flat(tree):
    return np.asarray(ravel_pytree(tree)[0])


KINDS = ["mlp", pytest.param("cnn", marks=pytest.mark.slow)]


@pytest.mark.parametrize("kind", KINDS)
def test_each_filter_of_a_direction_has_the_norm_that_it_has_in_the_weights(kind):
    _, snapshot = measured(kind)
    params = snapshot.state.params
    direction = filter_normalized(params, jax.random.key(3))
    layers = params["stages"][0]["branch"]["weights"][0]
    of_layers = direction["stages"][0]["branch"]["weights"][0]
    kernels = np.asarray(layers["kernel"])
    for layer, kernel in enumerate(kernels):
        moved = np.asarray(of_layers["kernel"])[layer]
        for unit in range(kernel.shape[-1]):
            expected = np.linalg.norm(kernel[..., unit])
            assert_allclose(np.linalg.norm(moved[..., unit]), expected, rtol=1e-10)
            assert abs(np.sum(kernel[..., unit] * moved[..., unit])) < 0.9999 * expected**2
    assert_array_equal(np.asarray(of_layers["bias"]), 0)


@pytest.mark.slow
def test_the_vectors_of_tokens_are_filters():
    _, snapshot, _ = measured_texts()
    params = snapshot.state.params
    direction = filter_normalized(params, jax.random.key(3))
    vectors = np.asarray(params["embed"]["table"]["vectors"])
    moved = np.asarray(direction["embed"]["table"]["vectors"])
    assert_allclose(np.linalg.norm(moved, axis=1), np.linalg.norm(vectors, axis=1), rtol=1e-10)


def test_the_surface_is_the_loss_at_every_point_of_the_plane():
    found, snapshot = measured()
    params = snapshot.state.params
    loss = quick(landscape_loss(snapshot))
    key = snapshot.key(inspections.SURFACE)
    directions = []
    for number in range(3):
        directions.append(filter_normalized(params, jax.random.fold_in(key, number)))
    first, second, third = directions
    assert_allclose(found["surface_coordinate"], SURFACE_COORDINATES)

    def loss_at(a, b, other):
        def moved(weights, along, across):
            return weights + a * along + b * across

        return loss(jax.tree.map(moved, params, first, other))

    for row, column in ((0, 0), (3, 14), (8, 8)):
        a = SURFACE_COORDINATES[row]
        b = SURFACE_COORDINATES[column]
        assert_allclose(found["surface_loss"][row, column], loss_at(a, b, second), rtol=1e-8)
    assert_allclose(found["line_loss"][0, 2], loss_at(0, SURFACE_COORDINATES[2], third), rtol=1e-8)
    assert_allclose(found["line_loss"][:, 8], found["surface_loss"][8, 8], rtol=1e-8)


def test_the_interpolation_leads_from_the_initial_weights_to_the_present_ones():
    _, snapshot = measured()
    start = snapshot.state.params
    assert_allclose(flat(initial_params(snapshot)), flat(start), rtol=1e-14)

    moved = jax.tree.map(lambda leaf: leaf + 0.5, start)
    state = dataclasses.replace(snapshot.state, params=moved)
    later = dataclasses.replace(snapshot, state=state)
    inspect = quick(lambda: inspections.inspect_snapshot(later, ("interpolation",)))
    losses = np.asarray(inspect()["interpolation_loss"])

    loss = quick(landscape_loss(snapshot))
    for number in (0, 10, 25):
        share = INTERPOLATION_COORDINATES[number]
        between = jax.tree.map(lambda leaf, share=share: leaf + 0.5 * share, start)
        assert_allclose(losses[number], loss(between), rtol=1e-8)


def test_the_spectrum_is_that_of_the_dense_hessian():
    found, snapshot = measured()
    params, restore = ravel_pytree(snapshot.state.params)
    loss = landscape_loss(snapshot)
    hessian = quick(jax.hessian(lambda params: loss(restore(params))))(params)
    values, vectors = np.linalg.eigh(hessian)
    assert_allclose(found["hessian_eigenvalues"], values, atol=1e-6 * values[-1])
    assert_allclose(np.sum(found["hessian_weights"]), 1, rtol=1e-10)

    saddle = found["saddle_loss"]
    assert_allclose(saddle[8, 8], loss(restore(params)), rtol=1e-8)
    along = []
    for sign in (1, -1):
        along.append(float(loss(restore(params + sign * vectors[:, -1]))))
    assert_allclose(sorted(saddle[8, [0, -1]]), sorted(along), rtol=1e-6)


def test_the_recorded_parameters_are_all_of_them():
    found, snapshot = measured()
    assert_array_equal(found["parameters"], flat(snapshot.state.params))


@pytest.mark.parametrize("kind", KINDS)
def test_features_are_what_the_head_reads_of_each_signal(kind):
    found, snapshot = measured(kind)
    x = inputs_of(snapshot)
    network = snapshot.network()
    ctx = ForwardContext(snapshot.hp, train=False)
    logits, _ = network(x, {}, ctx)
    features = snapshot.features(x)
    assert len(features) == 3
    head = snapshot.state.params["head"]
    expected = np.asarray(features[-1]) @ np.asarray(head["kernel"]) + np.asarray(head["bias"])
    assert_allclose(logits, expected, rtol=1e-9)

    first = np.asarray(network.first_input(x, ctx))
    assert_allclose(found["feature_maps"][0], first[0], rtol=1e-9)
    last, _ = network.run_layers(jnp.asarray(first), {}, ctx)
    assert_allclose(found["feature_maps"][-1], last[0], rtol=1e-9)
    assert found["shown_example"].shape == (1, 5, 1)
    assert found["probe_error"].shape == found["class_spread"].shape == (3,)
    assert np.all(found["probe_error"] < 0.75)
    assert found["representation"].shape == (3, EXAMPLES, 2)
    assert_array_equal(found["representation_class"], snapshot.data["y"])


def test_masks_that_are_scaled_leave_the_mean_of_a_linear_network():
    found, snapshot = measured()
    ctx = ForwardContext(snapshot.hp, train=False)
    logits, _ = snapshot.network()(inputs_of(snapshot), {}, ctx)
    assert_allclose(found["unmasked_output"], logits[0], rtol=1e-9)
    shift = found["masked_output_mean"] - found["unmasked_output"]
    assert np.all(np.abs(shift) < 4 * found["masked_output_error"])
    assert np.all(found["masked_output_error"] > 0)


def test_clipping_is_compared_with_the_gradient_as_it_is():
    found, snapshot = measured()
    loss = snapshot.loss(snapshot.stored_batch)
    gradient = flat(quick(jax.grad(loss))(snapshot.state.params))
    norm = np.linalg.norm(gradient)
    assert_allclose(found["unclipped_norm"], norm, rtol=1e-9)
    assert_allclose(found["clipped_norm"], 0.01, rtol=1e-9)
    assert_allclose(found["clipping_cosine"], 1, rtol=1e-9)


def test_the_gradient_of_each_token_is_a_difference_quotient():
    found, snapshot, texts = measured_texts()
    tokens = texts["x"]
    mask = np.asarray(tokens != 0)
    assert_array_equal(found["token_mask"], mask)
    network = snapshot.network()
    ctx = network.with_padding(ForwardContext(snapshot.hp, train=False), tokens)
    vectors = network.first_input(tokens, ctx)

    @quick
    def losses(h):
        last, _ = snapshot.network().run_layers(h, {}, ctx)
        log_shares = jax.nn.log_softmax(snapshot.network().logits(last, ctx))
        return -log_shares[jnp.arange(EXAMPLES), texts["y"]]

    step = 1e-6
    squares = np.zeros((EXAMPLES, 4))
    for position in range(4):
        for unit in range(4):
            change = np.zeros(vectors.shape)
            change[:, position, unit] = step
            slope = (losses(vectors + change) - losses(vectors - change)) / (2 * step)
            squares[:, position] += np.asarray(slope) ** 2
    assert_allclose(found["token_gradient"], np.sqrt(squares), rtol=1e-6, atol=1e-9)
    assert_array_equal(found["token_gradient"][~mask], 0)
    assert np.all(found["token_gradient"][mask] > 0)
    assert found["padding_effect"] == 0
    assert found["token_spread"].shape == (3,)
