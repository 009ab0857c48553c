"""Small networks for tests: how they are made, measured, and compared with the oracle."""

import functools
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from numpy.testing import assert_allclose

from research.config.options import Level
from research.models.architecture import Architecture, ForwardContext
from research.models.hparams import HParams
from research.models.stack import Stack
from research.training.precision import precision_context

from ..builders import make_architecture, make_hparams, select_existing
from ..compiling import quick
from ..oracle import ACTIVATIONS, unrolled
from .taps import root_mean_square

FLOAT64: dict[str, Any] = {"dtype": "float64", "param_dtype": "float64"}
GENERATOR = np.random.default_rng(0)
X = GENERATOR.standard_normal((6, 5))
COTANGENT = GENERATOR.standard_normal((6, 4))  # ∂L/∂logits
NUMBERS = {
    "skip.branch_scale": 0.7,
    "skip.shortcut_scale": 0.9,
    "skip.gate_bias": -0.5,
    "skip.rate": 0.3,
    "skip.mixing_noise": 0.3,
    "init.sigma_b": 0.1,
}


def normal(shape, seed=0):
    """Normal random numbers in float64."""
    return np.random.default_rng(seed).standard_normal(shape)


def make_numbers(arch, numbers=None):
    """The hyperparameters of one run, in float32 or wider.

    Args:
        arch: the architecture.
        numbers: hyperparameters by dotted path; the others have their defaults.
    """
    wide = jnp.promote_types(arch.param_dtype, "float32")
    return make_hparams(arch, numbers, runs=None, dtype=wide.name)


def params_of(module):
    """The parameters of a module as nested dictionaries."""
    return nnx.to_pure_dict(nnx.state(module, nnx.Param))


@dataclass(frozen=True)
class Network:
    """A network with its parameters.

    Attributes:
        arch: its architecture.
        hp: its hyperparameters.
        params: its parameters.
        model_state: its running statistics, in float32 or wider.
    """

    arch: Architecture
    hp: HParams
    params: Any
    model_state: Any

    @property
    def graph(self):
        """Its structure; no parameters are computed."""
        return graph_of(self.arch, self.hp)

    def merge(self, params=None):
        """The network as a module, with other parameters where they are given."""
        params = self.params if params is None else params
        return nnx.merge(self.graph, params, self.model_state, copy=True)


def graph_of(arch, hp):
    """The structure of a network; no parameters are computed."""
    shapes = nnx.eval_shape(lambda: Stack(arch, hp, rngs=nnx.Rngs(0)))
    return nnx.graphdef(shapes)


def initialize(arch, hp, seed=0):
    """A network with its initial parameters."""
    stack = Stack(arch, hp, rngs=nnx.Rngs(seed))
    _, params, model_state = nnx.split(stack, nnx.Param, ...)
    wide = jnp.promote_types(arch.dtype, "float32")
    model_state = jax.tree.map(lambda leaf: leaf.astype(wide), model_state)
    return Network(arch, hp, params, model_state)


def add_noise(tree, size=0.2, seed=1):
    """Moves every leaf at random, so that none has a special initial value such as 0 or 1."""
    generator = np.random.default_rng(seed)

    def move(leaf):
        noise = size * generator.standard_normal(leaf.shape)
        return leaf + jnp.asarray(noise, leaf.dtype)

    return jax.tree.map(move, tree)


def make_network(*, noise=True, **changes):
    """An ``mlp`` from short names of options, with noise added to its parameters.

    Args:
        noise: False keeps the initial parameters.
        **changes: see ``make_architecture``.
    """
    arch = make_architecture(**changes)
    numbers = select_existing(arch, NUMBERS)
    network = initialize(arch, make_numbers(arch, numbers))
    if not noise:
        return network
    model_state = network.model_state
    if arch.is_random:
        model_state = add_noise(model_state)
    params = add_noise(network.params)
    return Network(arch, network.hp, params, model_state)


class FixedEmbedding(nnx.Module):
    """An embedding that ignores the tokens, so that a test can choose the embedded vectors."""

    def __init__(self, embedded):
        self.embedded = nnx.data(embedded)

    def __call__(self, tokens, train):
        return self.embedded


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Pass:
    """What one pass forward and backward computes.

    Attributes:
        logits: the outputs.
        grads: the gradient with respect to every parameter.
        gauges: what each gauge of the network measures, by name.
        model_state: the running statistics after the pass.
    """

    logits: Any
    grads: Any
    gauges: dict[str, Any]
    model_state: Any = None


def make_slots(arch):
    """A zero for each value of the gauges that measure gradients."""
    wide = jnp.promote_types(arch.dtype, "float32")
    layers = arch.layers
    slots = {
        "signal_grad": jnp.zeros(layers + 1, wide),
        "branch_grad": jnp.zeros(layers, wide),
        "skip_grad": jnp.zeros(layers, wide),
    }
    if arch.shares_weights:
        slots["grad_norm"] = jnp.zeros(layers, wide)
    return slots


def _run_pass(
    arch,
    train,
    level,
    params,
    model_state,
    hp,
    x,
    cotangent,
):
    graph = graph_of(arch, hp)

    def objective(params, slots):
        model = nnx.merge(graph, params, model_state, copy=True)
        ctx = ForwardContext(hp, train, level)
        logits, statistics = model(x, slots, ctx)
        new_state = nnx.state(model, nnx.Not(nnx.Param))
        return jnp.sum(logits * cotangent), (logits, statistics, new_state)

    gradient = jax.grad(objective, (0, 1), has_aux=True)
    gradients, outputs = gradient(params, make_slots(arch))
    grads, backward = gradients
    logits, forward, new_state = outputs
    return Pass(logits, grads, forward | backward, new_state)


@functools.lru_cache
def _compile_pass(arch, train, level):
    return quick(functools.partial(_run_pass, arch, train, level))


def measure(
    network,
    x: Any = X,
    cotangent: Any = COTANGENT,
    *,
    train=None,
    level=Level.full,
    compiled=True,
):
    """One pass forward and backward, with every gauge of the network.

    Args:
        network: the network.
        x: its inputs.
        cotangent: ∂L/∂logits.
        train: whether the network trains; None: unless it is random.
        level: which gauges are measured.
        compiled: False runs operation by operation, which is faster for a network that runs once.
    """
    arch = network.arch
    if train is None:
        train = not arch.is_random
    if x.dtype == np.float64:
        x = jnp.asarray(x, arch.dtype)
    cotangent = jnp.asarray(cotangent, arch.dtype)
    arguments = (network.params, network.model_state, network.hp, x, cotangent)
    if compiled:
        return _compile_pass(arch, train, level)(*arguments)
    with jax.disable_jit():
        return _run_pass(arch, train, level, *arguments)


# --- The oracle ---------------------------------------------------------------------------------


def to_float64(tree):
    def convert(leaf):
        return jnp.asarray(np.asarray(leaf), float)

    return jax.tree.map(convert, tree)


def to_numpy(tree):
    """The same as nested dictionaries of arrays in float64."""

    def convert(leaf):
        return np.asarray(leaf, np.float64)

    return jax.tree.map(convert, nnx.to_pure_dict(tree))


def unperturbed(arch):
    """Zeros to add to every signal that a gauge measures."""
    depth = arch.model.depth
    shape = (len(X), arch.residual_width * arch.num_streams)
    return {
        "signal_grad": np.zeros((depth + 1, *shape)),
        "branch_grad": np.zeros((depth, *shape)),
        "skip_grad": np.zeros((depth, *shape)),
    }


def expected_pass(network, running=None):
    """What ``measure`` should find in an ``mlp``, and the oracle's trace, in float64.

    Args:
        network: the network.
        running: running statistics, for batch norm to use instead of those of the batch.
    """
    arch = network.arch
    with precision_context("float64"):
        params = to_float64(nnx.to_pure_dict(network.params))
        hp = to_float64(network.hp)
        if running is not None:
            running = to_float64(nnx.to_pure_dict(running))

        def objective(params, perturbations):
            logits, trace = unrolled(
                arch,
                params,
                X,
                hp,
                perturbations=perturbations,
                running=running,
            )
            return jnp.sum(logits * COTANGENT), (logits, vars(trace))

        gradient = jax.grad(objective, (0, 1), has_aux=True)
        gradients, outputs = gradient(params, unperturbed(arch))
        grads, backward = gradients
        logits, trace = outputs
        trace = jax.tree.map(np.asarray, trace)
        gauges = _forward_gauges(arch, trace)
        for name, array in backward.items():
            gauges[name] = np.linalg.norm(array, axis=(1, 2))
    expected = Pass(logits, grads, gauges)
    return jax.tree.map(np.asarray, expected), trace


def _forward_gauges(arch, trace):
    rms = []
    mean = []
    variation = []
    correlation = []
    for h in trace["signals"]:
        rms.append(root_mean_square(h))
        mean.append(np.mean(h))
        variation.append(np.mean(np.var(h, axis=0)) / np.mean(h**2))
        directions = h / np.linalg.norm(h, axis=1, keepdims=True)
        cosines = directions @ directions.T
        correlation.append(np.mean(cosines[np.triu_indices(len(h), k=1)]))
    saturated = []
    dead = []
    activation = ACTIVATIONS[arch.activation.kind.name]
    for z in trace["activation_inputs"]:
        saturated.append(saturated_fraction(activation, z))
        dead.append(dead_fraction(activation, z))
    return {
        "activation_rms": np.array(rms),
        "activation_mean": np.array(mean),
        "signal_variation": np.array(variation),
        "signal_correlation": np.array(correlation),
        "saturated": _mean_of_layers(arch, saturated),
        "dead": _mean_of_layers(arch, dead),
    }


def _mean_of_layers(arch, values):
    """The mean over the nonlinearities of each layer."""
    return np.reshape(values, (arch.model.depth, -1)).mean(axis=1)


def central_difference(function, z, step=1e-5):
    ahead = np.asarray(function(z + step))
    back = np.asarray(function(z - step))
    return (ahead - back) / (2 * step)


def saturated_fraction(activation, z):
    """The fraction of elements with less than 5 % of the greatest slope."""
    grid = np.linspace(-6, 6, 10**4)
    greatest = np.max(np.abs(central_difference(activation, grid)))
    slopes = np.abs(central_difference(activation, z))
    return np.mean(slopes < 0.05 * greatest)


def dead_fraction(activation, z):
    """The fraction of units that are zero for every example."""
    is_zero = np.asarray(activation(z)) == 0
    return np.mean(np.all(is_zero, axis=0))


def assert_same_pass(network, measured, tolerance, running=None):
    """Compares logits, the gradient of every parameter, and every gauge, with the oracle's."""
    if network.arch.is_random:
        running = measured.model_state
    expected, _ = expected_pass(network, running)
    assert relative_distance(measured.logits, expected.logits) < tolerance
    grads = nnx.to_pure_dict(measured.grads)
    assert_same_gradients(grads, expected.grads, tolerance)
    assert_same_gauges(measured.gauges, expected.gauges, tolerance)


def assert_same_gradients(measured, expected, tolerance):
    assert jax.tree.structure(measured) == jax.tree.structure(expected)
    expected_leaves = jax.tree.leaves(expected)
    norms = [np.linalg.norm(leaf) for leaf in expected_leaves]
    total = np.linalg.norm(norms)
    pairs = zip(jax.tree.leaves_with_path(measured), expected_leaves, strict=True)
    for (path, leaf), expected_leaf in pairs:
        error = np.linalg.norm(np.asarray(leaf, np.float64) - expected_leaf)
        # Rounding leaves a small gradient where the exact one is zero, as for a bias before batch
        # norm. A part of the whole gradient's norm allows for it.
        allowed = tolerance * np.linalg.norm(expected_leaf) + 0.1 * tolerance * total
        assert error <= allowed, jax.tree_util.keystr(path)


def assert_same_gauges(measured, expected, tolerance):
    assert set(measured) == set(expected)
    absolute = {
        # A mean cancels, so its error is that of the elements.
        "activation_mean": tolerance * expected["activation_rms"].max(),
        # So does a mean of cosines, whose elements are of size 1.
        "signal_correlation": tolerance,
        # Fractions are computed in float32.
        "saturated": 1e-7,
        "dead": 1e-7,
    }
    for name, values in expected.items():
        atol = absolute.get(name, 0)
        assert_allclose(
            measured[name],
            values,
            rtol=tolerance,
            atol=atol,
            err_msg=name,
        )


def relative_distance(a, b):
    """‖a − b‖ / ‖b‖ over all leaves of two trees, in float64."""
    a = _flatten(a)
    b = _flatten(b)
    return np.linalg.norm(a - b) / np.linalg.norm(b)


def _flatten(tree):
    vectors = []
    for leaf in jax.tree.leaves(tree):
        vectors.append(np.asarray(leaf, np.float64).ravel())
    return np.concatenate(vectors)
