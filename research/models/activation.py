"""Nonlinearities by name."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from research.config.options import Level
from research.gauges.slots import Statistics
from research.gauges.table import Site, measure_at

ACTIVATIONS = {
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


class Nonlinearity:
    """A nonlinearity φ, elementwise, by its name in ``ACTIVATIONS``."""

    def __init__(self, name: str):
        self.name = name
        self.function = ACTIVATIONS[name]

    def __call__(self, z: Float[Array, "..."]) -> Float[Array, "..."]:
        """φ(z)."""
        return self.function(z)

    def slope(self, z: Float[Array, "..."]) -> Float[Array, "..."]:
        """The derivative φ'(z)."""
        ones = jnp.ones_like(z)
        _, slope = jax.jvp(self.function, (z,), (ones,))
        return slope

    def greatest_slope(self) -> float:
        """The greatest |φ'(z)| on a fine grid: the unit in which saturation is measured."""
        with jax.ensure_compile_time_eval():
            grid = jnp.linspace(-6, 6, 2401)
            slopes = np.abs(self.slope(grid))
            return float(np.max(slopes))


def unit_statistics(
    activation: str,
    z: Float[Array, "... D"],
    level: Level = Level.full,
    unit_mask: Bool[Array, " D"] | None = None,
) -> Statistics:
    """What the gauges of a nonlinearity measure, outside differentiation.

    Args:
        activation: name of the nonlinearity.
        z: its input.
        level: which gauges are measured.
        unit_mask: which units count; None for all.
    """
    z = jax.lax.stop_gradient(z)
    return measure_at(Site.NONLINEARITY, level, Nonlinearity(activation), z, unit_mask)


def mean_statistics(statistics: Sequence[Statistics]) -> Statistics:
    """The mean of each statistic over several nonlinearities; nothing where none was measured."""
    if not statistics:
        return {}
    return jax.tree.map(lambda *each: sum(each) / len(each), *statistics)
