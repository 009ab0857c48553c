"""Networks made ready for measuring, what they measure in one pass, and what they should."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from research.models.architecture import ForwardContext
from research.models.stack import Stack
from research.training.precision import scope

from ..compiling import quick

GENERATOR = np.random.default_rng(0)
X = GENERATOR.standard_normal((6, 5))
COTANGENT = GENERATOR.standard_normal((6, 4))
NUMBERS = {
    "skip.branch_scale": 0.7,
    "skip.shortcut_scale": 0.9,
    "skip.gate_bias": -0.5,
    "skip.rate": 0.3,
}
NUMBERS |= {"init.sigma_b": 0.1}


@pytest.fixture(autouse=True)
def _quickly(quickly_compiled):
    """No test of this room is about how well code is optimised."""


@pytest.fixture(scope="session")
def build():
    """The parameters and the running statistics of a network at initialisation, these in float32 or wider."""

    def split(arch, hp, seed=0):
        _, params, rest = nnx.split(Stack(arch, hp, rngs=nnx.Rngs(seed)), nnx.Param, ...)
        wide = jnp.promote_types(arch.dtype, "float32")
        return params, jax.tree.map(lambda leaf: leaf.astype(wide), rest)

    return split


@pytest.fixture(scope="session")
def shaken():
    """Parameters moved at random, so that no bias and no learned scale stands at its special initial value."""

    def shake(params):
        generator = np.random.default_rng(1)
        draw = generator.standard_normal
        return jax.tree.map(
            lambda leaf: leaf + jnp.asarray(0.2 * draw(leaf.shape), leaf.dtype), params
        )

    return shake


def _pass(arch, train):
    def run(params, rest, x, cotangent, hp):
        graph = nnx.graphdef(nnx.eval_shape(lambda: Stack(arch, hp, rngs=nnx.Rngs(0))))
        wide = jnp.promote_types(arch.dtype, "float32")
        slots = {"signal_grad": jnp.zeros(arch.model.depth + 1, wide)}
        slots |= {name: jnp.zeros(arch.model.depth, wide) for name in ("branch_grad", "skip_grad")}

        def objective(params, slots):
            model = nnx.merge(graph, params, rest, copy=True)
            logits, statistics = model(
                x,
                slots,
                ForwardContext(hp, train=train, level=Level.full),
            )
            return jnp.sum(logits * cotangent), (
                logits,
                statistics,
                nnx.state(model, nnx.Not(nnx.Param)),
            )

        (grads, backward), (logits, forward, rest_after) = jax.grad(
            objective, (0, 1), has_aux=True
        )(params, slots)
        return {"logits": logits, "grads": grads, "gauges": forward | backward, "rest": rest_after}

    return run


_compiled = functools.lru_cache(lambda arch, train: quick(_pass(arch, train)))


@pytest.fixture(scope="session")
def measured():
    """One pass forward and backward from a random ∂L/∂logits, with every gauge of the network.

    Operation by operation where ``compiled`` is false: much the faster for a network that is looked at once.
    """

    def measure(arch, params, rest, hp, *, train=True, compiled=True):
        arguments = (
            params,
            rest,
            jnp.asarray(X, arch.dtype),
            jnp.asarray(COTANGENT, arch.dtype),
            hp,
        )
        if compiled:
            return _compiled(arch, train)(*arguments)
        with jax.disable_jit():
            return _pass(arch, train)(*arguments)

    return measure


@pytest.fixture(scope="session")
def network(make_architecture, make_numbers, build, shaken, measured):
    """What a network measures in one pass, its architecture, numbers and parameters; shaken unless ctx otherwise.

    In training, unless that is random.
    """

    def make(*, move=True, compiled=True, **changes):
        arch = make_architecture(**changes)
        hp = make_numbers(NUMBERS, runs=None, dtype=arch.param_dtype)
        params, rest = build(arch, hp)
        params, rest = (
            (shaken(params), shaken(rest) if arch.is_random else rest) if move else (params, rest)
        )
        return (
            measured(arch, params, rest, hp, train=not arch.is_random, compiled=compiled),
            arch,
            hp,
            params,
        )

    return make


@pytest.fixture(scope="session")
def oracle(unrolled, formulas):
    """The same from the loop over layers, in float64."""

    def measure(arch, params, hp, running=None):
        def objective(params, nudges):
            logits, seen = unrolled(arch, params, X, hp, nudges=nudges, running=running)
            return jnp.sum(logits * COTANGENT), (logits, seen)

        with scope("float64"):
            params, running = (
                in_float64(nnx.to_pure_dict(tree)) if tree else None for tree in (params, running)
            )
            hp = in_float64(dict(hp))
            (grads, backward), (logits, seen) = jax.grad(objective, (0, 1), has_aux=True)(
                params, no_nudges(arch)
            )
            gauges = {name: np.linalg.norm(nudge, axis=(1, 2)) for name, nudge in backward.items()}
            gauges["activation_rms"] = np.array(
                [np.sqrt(np.mean(np.square(h))) for h in seen["signals"]]
            )
            gauges["activation_mean"] = np.array([np.mean(h) for h in seen["signals"]])
            units = [
                asleep(formulas["activation"][arch.activation], np.asarray(z))
                for z in seen["into_branch"]
            ]
            gauges["saturated"], gauges["dead"] = np.array(units).T
            found = {"logits": logits, "grads": grads, "gauges": gauges, "moments": seen["moments"]}
            return jax.tree.map(np.asarray, found)

    return measure


def in_float64(tree):
    return jax.tree.map(lambda leaf: jnp.asarray(np.asarray(leaf), float), tree)


def no_nudges(arch):
    layers = {"signal_grad": arch.model.depth + 1, "branch_grad": arch.model.depth, "skip_grad": arch.model.depth}
    return {name: np.zeros((length, len(X), arch.residual_width)) for name, length in layers.items()}


def asleep(phi, z, h=1e-5):
    """The fractions of saturated elements and of dead units, slopes by central differences."""

    def slope(z):
        return np.abs(np.asarray(phi(z + h)) - np.asarray(phi(z - h))) / (2 * h)

    greatest = np.max(slope(np.linspace(-6, 6, 10**4)))
    return np.mean(slope(z) < 0.05 * greatest), np.mean(np.all(np.asarray(phi(z)) == 0, axis=0))


@pytest.fixture(scope="session")
def assert_same_pass(oracle, distance):
    """That a measured pass equals the loop's: logits, gradient of every parameter, every gauge."""

    def check(out, arch, hp, params, tolerance, running=None):
        expected = oracle(arch, params, hp, out["rest"] if arch.is_random else running)
        assert distance(out["logits"], expected["logits"]) < tolerance
        assert_same_gradients(nnx.to_pure_dict(out["grads"]), expected["grads"], tolerance)
        assert_same_gauges(out["gauges"], expected["gauges"], tolerance)

    return check


def assert_same_gradients(measured, expected, tolerance):
    total = np.sqrt(sum(np.sum(np.square(leaf)) for leaf in jax.tree.leaves(expected)))
    assert jax.tree.structure(measured) == jax.tree.structure(expected)
    for (path, got), wanted in zip(
        jax.tree.leaves_with_path(measured), jax.tree.leaves(expected), strict=True
    ):
        error = np.linalg.norm(np.asarray(got, np.float64) - wanted)
        # Some leaves' gradient is zero but for rounding (a bias in front of batch norm): hence a part of the whole.
        assert error <= tolerance * np.linalg.norm(wanted) + 0.1 * tolerance * total, (
            jax.tree_util.keystr(path)
        )


def assert_same_gauges(measured, expected, tolerance):
    assert set(measured) == set(expected)
    for name, values in expected.items():
        # A mean cancels, so its error is that of the elements; fractions are kept in float32.
        slack = {
            "activation_mean": tolerance * expected["activation_rms"].max(),
            "saturated": 1e-7,
            "dead": 1e-7,
        }
        np.testing.assert_allclose(
            measured[name], values, rtol=tolerance, atol=slack.get(name, 0), err_msg=name
        )
