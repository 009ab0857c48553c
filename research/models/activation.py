"""Nonlinearities by name."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from research.parallel.collectives import all_true

Nonlinearity = Callable[[Array], Array]

ACTIVATIONS: dict[str, Nonlinearity] = {
    "relu": jax.nn.relu,
    "tanh": jnp.tanh,
    "sigmoid": jax.nn.sigmoid,
    "gelu": lambda z: jax.nn.gelu(z, approximate=False),
    "silu": jax.nn.silu,
    "elu": jax.nn.elu,
    "selu": jax.nn.selu,
    "softsign": jax.nn.soft_sign,
    "linear": lambda z: z,
}


def slope(activation: str, z: Float[Array, "..."]) -> Float[Array, "..."]:
    """The derivative φ'(z), elementwise."""
    return jax.jvp(ACTIVATIONS[activation], (z,), (jnp.ones_like(z),))[1]


def greatest_slope(activation: str) -> float:
    """The greatest |φ'(z)| on a fine grid: the unit that saturation is measured in."""
    with jax.ensure_compile_time_eval():
        return float(np.max(np.abs(slope(activation, jnp.linspace(-6, 6, 2401)))))


def unit_statistics(
    activation: str,
    z: Float[Array, "... D"],
    flat: float = 0.05,
    counted: Bool[Array, " D"] | None = None,
) -> dict[str, Float[Array, ""]]:
    """How much of a layer's nonlinearity is asleep, from the input ``z`` it receives: of all units or of ``counted``.

    Returns:
        ``saturated``: the fraction of all elements whose slope |φ'(z)| is below ``flat`` times the greatest slope
        of φ. ``dead``: the fraction of units (last axis) with φ(z) = 0 on everything else of the batch.
    """
    z = jax.lax.stop_gradient(z)
    asleep = jnp.abs(slope(activation, z)) < flat * greatest_slope(activation)
    silent = all_true(jnp.all(ACTIVATIONS[activation](z) == 0, axis=tuple(range(z.ndim - 1))))
    units = (
        None
        if counted is None
        else jnp.broadcast_to(counted.reshape((1,) * (z.ndim - 1) + (-1,)), z.shape)
    )
    return {
        "saturated": jnp.mean(asleep, dtype=jnp.float32, where=units),
        "dead": jnp.mean(silent, dtype=jnp.float32, where=counted),
    }
