"""Equal blocks share a trace; blocks that only look alike do not."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import research
from research.watching.jaxprs import JIT

from . import networks

STACKED = networks.make_params()
PARAMS = {
    "embed": STACKED.embed,
    "layers": list(zip(STACKED.kernel, STACKED.bias, strict=True)),
    "head": STACKED.head,
}
BATCH = networks.make_batch()


def make_loss(change):
    """The network with ``change(h, index)`` after each layer."""

    def loss(params, batch):
        h = research.tap(batch.x @ params["embed"], "embed")
        for index, weights in enumerate(params["layers"]):
            h = research.tap(change(networks.layer(h, *weights), index), f"layer/{index}")
        return networks.mean_square(h @ params["head"], batch.y)

    return loss


def halve(h, index):
    return h * 0.5


def scale(h, index):
    return h * (0.5 if index % 2 else 0.25)


def add_signed_zero(h, index):
    return h + jnp.copysign(jnp.ones_like(h), -0.0 if index % 2 else 0.0)


def multiply_by_vector(h, index):
    return h * np.linspace(0, index, networks.WIDTH, dtype=np.float32)[None]


def reverse_gradient(h, index):
    """The identity, with a gradient that differs from layer to layer."""

    @jax.custom_vjp
    def identity(h):
        return h

    identity.defvjp(lambda h: (h, None), lambda _, grad: (-(index + 1) * grad,))
    return identity(h)


def call_jitted(h, index):
    function = jnp.sin if index % 2 else jnp.cos
    return jax.jit(lambda h: function(h))(h)


SLOW = [halve, add_signed_zero, multiply_by_vector, call_jitted]
CHANGES = [
    scale,
    reverse_gradient,
    *(pytest.param(change, marks=pytest.mark.slow) for change in SLOW),
]


@pytest.mark.parametrize("change", CHANGES)
def test_the_gradient_is_that_of_jax(change):
    loss = make_loss(change)

    value, grads, _ = jax.jit(research.watch().value_and_grad(loss))(PARAMS, BATCH)

    expected_value, expected = jax.jit(jax.value_and_grad(loss))(PARAMS, BATCH)
    np.testing.assert_allclose(value, expected_value, rtol=1e-6)
    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), grads, expected
    )


def test_equal_layers_call_one_program():
    watch = research.watch()

    traced = jax.make_jaxpr(watch.value_and_grad(make_loss(halve)))(PARAMS, BATCH)

    calls = [equation for equation in traced.eqns if equation.primitive.name in JIT]
    tanh = [equation for equation in calls if "tanh" in str(equation.params["jaxpr"])]
    assert len(tanh) == networks.LAYERS
    assert len({id(equation.params["jaxpr"]) for equation in tanh}) == 1
