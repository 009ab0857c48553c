"""Exact identities of gradients, held by whole programs."""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from numpy.testing import assert_allclose

from research.models.architecture import ForwardContext
from research.models.stack import Stack
from research.training.precision import precision_context

from ..builders import make_architecture, make_hparams, make_program_config
from ..oracle import unrolled
from .formulas import softmax
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

    def mean_loss_at(self, length, direction):
        """The mean loss of parameters that are moved along a direction."""
        moved = jax.tree.map(lambda p, d: p + length * d, self.params, direction)
        with precision_context("float64"):
            return np.mean(self.losses(moved))

    def slope_along(self, direction, length=1e-5):
        """The central difference of the mean loss along a direction of length 1."""
        difference = self.mean_loss_at(length, direction) - self.mean_loss_at(-length, direction)
        return float(difference) / (2 * length)


@pytest.fixture(scope="module")
def homogeneous():
    """One step of descent at a learning rate of 1 changes the parameters by the gradient."""
    with precision_context("float64"):
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


def inner_products(arrays, others):
    """⟨a, b⟩ of each pair of arrays."""
    return [np.vdot(a, b) for a, b in zip(arrays, others, strict=True)]


def test_every_layer_has_the_same_product_with_its_gradient(homogeneous):
    """⟨W_l, ∂L/∂W_l⟩ = ⟨f, ∂L/∂f⟩ for every l: f is linear in each W_l along itself (Euler)."""
    x = np.asarray(homogeneous.data["x"], float)
    one_hot = np.eye(4)[np.asarray(homogeneous.data["y"])]
    with precision_context("float64"):
        logits, _ = unrolled(homogeneous.arch, homogeneous.params, x, hp=None)
    logits = np.asarray(logits)
    gradient = (softmax(logits) - one_hot) / len(logits)
    at_output = np.sum(logits * gradient)
    weights = all_kernels(homogeneous.params)
    gradients = all_kernels(homogeneous.gradient)
    assert_allclose(inner_products(weights, gradients), at_output, rtol=EXACT)


def draw_direction(generator, params):
    """A random direction of length 1."""
    random = jax.tree.map(lambda leaf: generator.standard_normal(leaf.shape), params)
    leaves = jax.tree.leaves(random)
    length = np.sqrt(sum(inner_products(leaves, leaves)))
    return jax.tree.map(lambda leaf: leaf / length, random)


def test_the_gradient_against_finite_differences_along_random_directions(homogeneous):
    generator = np.random.default_rng(0)
    for _ in range(5):
        direction = draw_direction(generator, homogeneous.params)
        products = inner_products(all_kernels(homogeneous.gradient), all_kernels(direction))
        slope = homogeneous.slope_along(direction)
        assert_allclose(slope, sum(products), rtol=1e-7)


def test_gradient_norms_are_the_slopes_along_gradients_of_layers(homogeneous):
    """‖∂L/∂θ_l‖ is the slope of the steepest direction of layer l."""
    for layer, norm in enumerate(homogeneous.rows["profile"]["grad_norm"][0, 0]):
        direction = jax.tree.map(np.zeros_like, homogeneous.params)
        layer_kernels(direction)[layer] = layer_kernels(homogeneous.gradient)[layer] / norm
        assert_allclose(homogeneous.slope_along(direction), norm, rtol=1e-7)


@pytest.mark.slow
def test_forward_mode_equals_reverse_mode():
    """⟨u, J v⟩ = ⟨Jᵀ u, v⟩: the left side without gauges, the right side with every slot."""
    with precision_context("float64"):
        arch = make_architecture(
            skip="scaled", norm="layer", dtype="float64", param_dtype="float64"
        )
        hp = make_hparams(arch, {"skip.branch_scale": 0.7}, runs=None)
        model = Stack(arch, hp, rngs=nnx.Rngs(0))
        graph, params, rest = nnx.split(model, nnx.Param, ...)
        ctx = ForwardContext(hp, train=True)
        generator = np.random.default_rng(0)

        def draw(shape):
            return jnp.asarray(generator.standard_normal(shape))

        x = draw((6, arch.inputs))
        u = draw((6, arch.classes))
        v = jax.tree.map(lambda leaf: draw(leaf.shape), params)
        slots = {
            "signal_grad": jnp.zeros(4),
            "branch_grad": jnp.zeros(3),
            "skip_grad": jnp.zeros(3),
        }

        def network(params, slots):
            logits, _ = nnx.merge(graph, params, rest)(x, slots, ctx)
            return logits

        @jax.jit
        def forward_mode(params):
            without_slots = functools.partial(network, slots={})
            _, tangents = jax.jvp(without_slots, (params,), (v,))
            return jnp.sum(u * tangents)

        @jax.jit
        def reverse_mode(params):
            _, pull_back = jax.vjp(network, params, slots)
            return pull_back(u)[0]

        gradients = jax.tree.leaves(reverse_mode(params))
        products = inner_products(gradients, jax.tree.leaves(v))
        assert_allclose(forward_mode(params), sum(products), rtol=EXACT)


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
    sigmas = np.sqrt([1, 2, 3])
    hp = make_hparams(spec, {"init.sigma_w": sigmas}, runs=3)
    _, rows = train(spec, hp, data, chunks=(1,))
    from_output = rows["profile"]["signal_grad"][:, 0, ::-1]
    for values in (from_output, rows["profile"]["activation_rms"][:, 0]):
        one, two, three = log_squares_per_layer(values)
        assert_allclose(two - one, np.log(2), atol=1e-5)
        assert_allclose(three - two, np.log(3 / 2), atol=1e-5)
