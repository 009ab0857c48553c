"""Exact identities of gradients, held by whole programs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from research.models.stack import ForwardContext, Stack
from research.training.precision import scope
from research.training.program import make_program

EXACT = 1e-10  # relative, in float64


@pytest.fixture(scope="module")
def homogeneous(make_spec, make_numbers, make_data, train, weights, loss_of):
    """A rectifier network without biases at initialisation: its loss, weights, and the gradient that a step follows.

    One full-batch step at a learning rate of 1: the change of the parameters is the gradient.
    """
    with scope("float64"):
        spec = make_spec(precision="float64", optimizer="gd", activation="relu", bias=False)
        numbers = make_numbers({"optimizer.learning_rate": 1.0}, dtype="float64")
        data = make_data(8)
        params = weights(make_program(spec).init(numbers).params)
        state, rows = train(spec, numbers, data, (1,))
        gradient = jax.tree.map(np.subtract, params, weights(state.params))
        losses = loss_of(spec, numbers, data)
    return spec, data, params, gradient, lambda params: np.mean(losses(params)), rows


def by_layer(tree):
    """The weights of the embedding, of every layer, and of the head."""
    (stage,) = tree["stages"].values()
    return [
        tree["embed"]["kernel"],
        *stage["branch"]["weights"][0]["kernel"],
        tree["head"]["kernel"],
    ]


def test_every_layer_has_the_same_product_with_its_gradient(homogeneous, unrolled):
    """⟨W_l, ∂L/∂W_l⟩ = ⟨f, ∂L/∂f⟩ for every l, since f is linear in each W_l along itself (Euler)."""
    spec, data, params, gradient, _, _ = homogeneous
    with scope("float64"):
        logits = np.asarray(
            unrolled(spec.architecture, params, np.asarray(data["x"], float), {})[0]
        )
    probabilities = np.exp(logits) / np.sum(np.exp(logits), axis=1, keepdims=True)
    at_output = np.sum(logits * (probabilities - np.eye(4)[np.asarray(data["y"])])) / len(logits)
    products = [np.sum(w * g) for w, g in zip(by_layer(params), by_layer(gradient), strict=True)]
    np.testing.assert_allclose(products, at_output, rtol=EXACT)


def moved(params, direction, length):
    return jax.tree.map(lambda p, d: p + length * d, params, direction)


def slope_along(loss, params, direction, h=1e-5):
    """The central difference along a direction of length 1."""
    with scope("float64"):
        return float(loss(moved(params, direction, h)) - loss(moved(params, direction, -h))) / (
            2 * h
        )


def test_the_gradient_against_finite_differences_along_random_directions(homogeneous):
    _, _, params, gradient, loss, _ = homogeneous
    generator = np.random.default_rng(0)
    for _ in range(5):
        direction = jax.tree.map(lambda p: generator.standard_normal(p.shape), params)
        length = np.sqrt(sum(np.sum(d**2) for d in jax.tree.leaves(direction)))
        direction = jax.tree.map(lambda d, length=length: d / length, direction)
        expected = sum(
            np.sum(g * d) for g, d in zip(by_layer(gradient), by_layer(direction), strict=True)
        )
        np.testing.assert_allclose(slope_along(loss, params, direction), expected, rtol=1e-7)


def test_gradient_norms_are_the_steepest_slopes(homogeneous):
    """‖∂L/∂θ_l‖ is the slope along that gradient, and no other direction of layer l alone is steeper."""
    _, _, params, gradient, loss, rows = homogeneous
    for layer, norm in enumerate(rows["profile"]["grad_norm"][0, 0]):
        direction = jax.tree.map(np.zeros_like, params)
        kernels = [
            tree["stages"][0]["branch"]["weights"][0]["kernel"] for tree in (direction, gradient)
        ]
        kernels[0][layer] = kernels[1][layer] / norm
        np.testing.assert_allclose(slope_along(loss, params, direction), norm, rtol=1e-7)


def test_forward_mode_equals_reverse_mode(make_architecture, make_numbers):
    """⟨u, J v⟩ = ⟨Jᵀ u, v⟩: the one without gauges, the other with every slot in place."""
    with scope("float64"):
        arch = make_architecture(
            skip="scaled", norm="layer", dtype="float64", param_dtype="float64"
        )
        hp = make_numbers({"skip.branch_scale": 0.7}, runs=None, dtype="float64")
        graph, params, rest = nnx.split(Stack(arch, hp, rngs=nnx.Rngs(0)), nnx.Param, ...)
        generator = np.random.default_rng(0)
        x, u = (
            jnp.asarray(generator.standard_normal((6, size)))
            for size in (arch.inputs, arch.classes)
        )
        v = jax.tree.map(lambda leaf: jnp.asarray(generator.standard_normal(leaf.shape)), params)
        slots = {
            "signal_grad": jnp.zeros(4),
            "branch_grad": jnp.zeros(3),
            "skip_grad": jnp.zeros(3),
        }

        def network(params, slots):
            return nnx.merge(graph, params, rest)(x, slots, ForwardContext(hp, train=True))[0]

        @jax.jit
        def both_ways(params):
            forward = jax.jvp(lambda params: network(params, {}), (params,), (v,))[1]
            (backward, _) = jax.vjp(network, params, slots)[1](u)
            return jnp.sum(u * forward), backward

        forward, backward = both_ways(params)
        pairs = zip(jax.tree.leaves(backward), jax.tree.leaves(v), strict=True)
        np.testing.assert_allclose(
            forward, sum(np.sum(np.asarray(g) * np.asarray(d)) for g, d in pairs), rtol=EXACT
        )


def test_scaling_a_rectifier_network_tilts_its_log_profile_exactly(
    pairs, make_numbers, make_data, train
):
    """One draw with σ_w² = 1, 2, 3 has the same gates, so that ln‖∂L/∂h_l‖² differs by ln 2 and ln 3/2 more a layer.

    Two classes and one example, seen twice in each batch: then the gradient at the output has one direction, whatever
    the logits are, and the comparison is exact.
    """
    data = make_data(7, classes=2)
    data |= {name: jnp.repeat(data[name][:1], 7, axis=0) for name in ("x", "y")}
    numbers = make_numbers({"init.sigma_w": [1.0, 2**0.5, 3**0.5]}, runs=3)
    _, rows = train(pairs, numbers, data, (1,))
    slopes = np.diff(2 * np.log(rows["profile"]["signal_grad"][:, 0].astype(float))[:, ::-1])
    np.testing.assert_allclose(slopes[1] - slopes[0], np.log(2), atol=1e-5)
    np.testing.assert_allclose(slopes[2] - slopes[1], np.log(3 / 2), atol=1e-5)
    growth = np.diff(2 * np.log(rows["profile"]["activation_rms"][:, 0].astype(float)))
    np.testing.assert_allclose(growth[1] - growth[0], np.log(2), atol=1e-5)
    np.testing.assert_allclose(growth[2] - growth[1], np.log(3 / 2), atol=1e-5)
