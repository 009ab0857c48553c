"""Networks made ready for measuring: built, shaken off their special initial values, differentiated."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from research.models.stack import Pass, Stack


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
        return jax.tree.map(lambda leaf: leaf + jnp.asarray(0.2 * draw(leaf.shape), leaf.dtype), params)

    return shake


def _pass(arch, train):
    def run(params, rest, x, cotangent, hp):
        graph = nnx.graphdef(nnx.eval_shape(lambda: Stack(arch, hp, rngs=nnx.Rngs(0))))
        wide = jnp.promote_types(arch.dtype, "float32")
        slots = {"signal_grad": jnp.zeros(arch.depth + 1, wide)}
        slots |= {name: jnp.zeros(arch.depth, wide) for name in ("branch_grad", "skip_grad")}

        def objective(params, slots):
            model = nnx.merge(graph, params, rest, copy=True)
            logits, statistics = model(x, slots, Pass(hp, train=train, forward=True, units=True))
            return jnp.sum(logits * cotangent), (logits, statistics, nnx.state(model, nnx.Not(nnx.Param)))

        (grads, backward), (logits, forward, rest_after) = jax.grad(objective, (0, 1), has_aux=True)(params, slots)
        return {"logits": logits, "grads": grads, "gauges": forward | backward, "rest": rest_after}

    return run


# Compiling is most of these tests' time; how well the code is optimised is not what they are about.
QUICK = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
_compiled = functools.lru_cache(lambda arch, train: jax.jit(_pass(arch, train), compiler_options=QUICK))


@pytest.fixture(scope="session")
def measured():
    """One pass forward and backward from a given ∂L/∂logits, with every gauge of the network.

    Operation by operation where ``compiled`` is false: much the faster for a network that is looked at once.
    """

    def measure(arch, *arguments, train=True, compiled=True):
        if compiled:
            return _compiled(dataclasses.replace(arch, init="lecun"), train)(*arguments)  # parameters are arguments
        with jax.disable_jit():
            return _pass(arch, train)(*arguments)

    return measure
