"""Exact identities of gradients, held by whole programs."""

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from research.models.architecture import ForwardContext
from research.models.stack import Stack
from research.training.precision import scope

from ..builders import make_architecture, make_hparams, make_program_config
from ..oracle import unrolled
from .programs import (
    initial_params,
    make_data,
    make_losses,
    make_pair_config,
    repeat_first_example,
    to_float64,
    train,
)

EXACT = 1e-10  # relative, in float64


@dataclass(frozen=True)
class Homogeneous:
    """A rectifier network without biases at initialisation.

    Attributes:
        arch: its architecture.
        data: eight examples.
        params: its parameters.
        gradient: the gradient that a step follows.
        rows: what that step measures.
        losses: the loss of each example as a function of the parameters.
    """

    arch: Any
    data: Any
    params: Any
    gradient: Any
    rows: Any
    losses: Any

    def mean_loss(self, params):
        with scope("float64"):
            return np.mean(self.losses(params))

    def slope_along(self, direction, length=1e-5):
        """The central difference of the mean loss along a direction of length 1."""
        ahead = jax.tree.map(lambda p, d: p + length * d, self.params, direction)
        back = jax.tree.map(lambda p, d: p - length * d, self.params, direction)
        return float(self.mean_loss(ahead) - self.mean_loss(back)) / (2 * length)


@pytest.fixture(scope="module")
def homogeneous():
    """One step of descent at a learning rate of 1 changes the parameters by the gradient."""
    with scope("float64"):
        spec = make_program_config(
            precision="float64", optimizer="gd", activation="relu", bias=False
        )
        hp = make_hparams(spec, {"optimizer.learning_rate": 1.0})
        data = make_data(8)
        params = initial_params(spec, hp)
        state, rows = train(spec, hp, data, chunks=(1,))
        gradient = jax.tree.map(np.subtract, params, to_float64(state.params))
        losses = make_losses(spec, hp, data)
    return Homogeneous(spec.architecture, data, params, gradient, rows, losses)


def layer_kernels(tree):
    (stage,) = tree["stages"].values()
    return stage["branch"]["weights"][0]["kernel"]


def all_kernels(tree):
    """The weights of the embedding, of every layer, and of the head."""
    return [tree["embed"]["kernel"], *layer_kernels(tree), tree["head"]["kernel"]]


def inner_product(one, other):
    products = [np.sum(a * b) for a, b in zip(one, other, strict=True)]
    return sum(products)


def test_every_layer_has_the_same_product_with_its_gradient(homogeneous):
    """⟨W_l, ∂L/∂W_l⟩ = ⟨f, ∂L/∂f⟩ for every l: f is linear in each W_l along itself (Euler)."""
    x = np.asarray(homogeneous.data["x"], float)
    one_hot = np.eye(4)[np.asarray(homogeneous.data["y"])]
    with scope("float64"):
        logits = np.asarray(unrolled(homogeneous.arch, homogeneous.params, x, None)[0])
    probabilities = np.exp(logits) / np.sum(np.exp(logits), axis=1, keepdims=True)
    at_output = np.sum(logits * (probabilities - one_hot)) / len(logits)
    weights = all_kernels(homogeneous.params)
    gradients = all_kernels(homogeneous.gradient)
    products = [np.sum(w * g) for w, g in zip(weights, gradients, strict=True)]
    np.testing.assert_allclose(products, at_output, rtol=EXACT)


def test_the_gradient_against_finite_differences_along_random_directions(homogeneous):
    generator = np.random.default_rng(0)
    for _ in range(5):
        random = jax.tree.map(lambda p: generator.standard_normal(p.shape), homogeneous.params)
        leaves = jax.tree.leaves(random)
        length = np.sqrt(inner_product(leaves, leaves))
        direction = jax.tree.map(lambda d, length=length: d / length, random)
        expected = inner_product(all_kernels(homogeneous.gradient), all_kernels(direction))
        slope = homogeneous.slope_along(direction)
        np.testing.assert_allclose(slope, expected, rtol=1e-7)


def test_gradient_norms_are_the_slopes_along_each_layer_s_gradient(homogeneous):
    """‖∂L/∂θ_l‖ is the slope of the steepest direction of layer l."""
    for layer, norm in enumerate(homogeneous.rows["profile"]["grad_norm"][0, 0]):
        direction = jax.tree.map(np.zeros_like, homogeneous.params)
        layer_kernels(direction)[layer] = layer_kernels(homogeneous.gradient)[layer] / norm
        np.testing.assert_allclose(homogeneous.slope_along(direction), norm, rtol=1e-7)


def test_forward_mode_equals_reverse_mode():
    """⟨u, J v⟩ = ⟨Jᵀ u, v⟩: the left side without gauges, the right side with every slot."""
    with scope("float64"):
        arch = make_architecture(
            skip="scaled", norm="layer", dtype="float64", param_dtype="float64"
        )
        hp = make_hparams(arch, {"skip.branch_scale": 0.7}, runs=None)
        graph, params, rest = nnx.split(Stack(arch, hp, rngs=nnx.Rngs(0)), nnx.Param, ...)
        generator = np.random.default_rng(0)
        x = jnp.asarray(generator.standard_normal((6, arch.inputs)))
        u = jnp.asarray(generator.standard_normal((6, arch.classes)))
        v = jax.tree.map(lambda leaf: jnp.asarray(generator.standard_normal(leaf.shape)), params)
        slots = {
            "signal_grad": jnp.zeros(4),
            "branch_grad": jnp.zeros(3),
            "skip_grad": jnp.zeros(3),
        }

        def network(params, slots):
            return nnx.merge(graph, params, rest)(x, slots, ForwardContext(hp, train=True))[0]

        @jax.jit
        def forward_mode(params):
            _, tangents = jax.jvp(lambda params: network(params, {}), (params,), (v,))
            return jnp.sum(u * tangents)

        @jax.jit
        def reverse_mode(params):
            _, pull_back = jax.vjp(network, params, slots)
            return pull_back(u)[0]

        gradient = jax.tree.leaves(reverse_mode(params))
        expected = inner_product(map(np.asarray, gradient), map(np.asarray, jax.tree.leaves(v)))
        np.testing.assert_allclose(forward_mode(params), expected, rtol=EXACT)


def log_squares_per_layer(values):
    """How much the logarithm of the squares [M, N] grows from one layer to the next."""
    return np.diff(2 * np.log(values.astype(float)))


def test_scaling_a_rectifier_network_tilts_its_log_profile_exactly():
    """The same weights with σ_w² = 1, 2, 3: ln‖∂L/∂h_l‖² grows by ln 2 and ln 3/2 more a layer.

    The weights of the three runs have the same signs, so their gates are the same. With two classes
    and a single repeated example, the gradient at the output has one direction, whatever the logits
    are.
    """
    spec = make_pair_config()
    data = repeat_first_example(make_data(7, classes=2))
    hp = make_hparams(spec, {"init.sigma_w": [1.0, 2**0.5, 3**0.5]}, runs=3)
    _, rows = train(spec, hp, data, chunks=(1,))
    from_output = rows["profile"]["signal_grad"][:, 0, ::-1]
    for values in (from_output, rows["profile"]["activation_rms"][:, 0]):
        one, two, three = log_squares_per_layer(values)
        np.testing.assert_allclose(two - one, np.log(2), atol=1e-5)
        np.testing.assert_allclose(three - two, np.log(3 / 2), atol=1e-5)
