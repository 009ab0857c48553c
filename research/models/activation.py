"""Nonlinearities by name."""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from research.config.options import Level
from research.gauges.slots import Statistics
from research.gauges.table import Site, measure_at
from research.models.architecture import Architecture
from research.models.hparams import HParams

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


def nonlinearity_of(arch: Architecture, hp: HParams) -> "Nonlinearity | SwitchedNonlinearity":
    """The nonlinearity of a network, elementwise."""
    if hp.variant is not None:
        names = [kind.name for kind in arch.family]
        return SwitchedNonlinearity(names, hp.variant.activation)
    return Nonlinearity(arch.activation.kind.name)


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
        _, slope = self.with_slope(z)
        return slope

    def with_slope(self, z: Float[Array, "..."]) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """φ(z) and φ'(z)."""
        ones = jnp.ones_like(z)
        return jax.jvp(self.function, (z,), (ones,))

    def greatest_slope(self) -> float:
        """The greatest |φ'(z)| on a fine grid: the unit in which saturation is measured."""
        with jax.ensure_compile_time_eval():
            grid = jnp.linspace(-6, 6, 2401)
            slopes = np.abs(self.slope(grid))
            return float(np.max(slopes))


class SwitchedNonlinearity:
    """One of several nonlinearities, elementwise; which one is an argument of the program.

    Args:
        names: the nonlinearities to choose from, by their names in ``ACTIVATIONS``.
        choice: the place of the chosen one among them.
    """

    def __init__(self, names: Sequence[str], choice: Array):
        self.choices = [Nonlinearity(name) for name in names]
        self.choice = choice

    def __call__(self, z: Float[Array, "..."]) -> Float[Array, "..."]:
        """φ(z)."""

        @jax.custom_jvp
        def apply(choice: Array, z: Array) -> Array:
            return lax.switch(choice, self.choices, z)

        @apply.defjvp
        def derivative(
            primals: tuple[Array, Array],
            tangents: tuple[Array, Array],
        ) -> tuple[Array, Array]:
            choice, z = primals
            _, tangent = tangents
            branches = [each.with_slope for each in self.choices]
            value, slope = lax.switch(choice, branches, z)
            return value, tangent * slope

        return apply(self.choice, z)

    def slope(self, z: Float[Array, "..."]) -> Float[Array, "..."]:
        """The derivative φ'(z)."""
        branches = [each.slope for each in self.choices]
        return lax.switch(self.choice, branches, z)

    def greatest_slope(self) -> Float[Array, ""]:
        """The greatest |φ'(z)|, as ``Nonlinearity`` computes it."""
        slopes = [each.greatest_slope() for each in self.choices]
        return jnp.asarray(slopes)[self.choice]


def unit_statistics(
    nonlinearity: Nonlinearity | SwitchedNonlinearity,
    z: Float[Array, "... D"],
    level: Level = Level.full,
    unit_mask: Bool[Array, " D"] | None = None,
) -> Statistics:
    """What the gauges of a nonlinearity measure, outside differentiation.

    Args:
        nonlinearity: the nonlinearity.
        z: its input.
        level: which gauges are measured.
        unit_mask: which units count; None for all.
    """
    z = jax.lax.stop_gradient(z)
    return measure_at(Site.NONLINEARITY, level, nonlinearity, z, unit_mask)


def mean_statistics(statistics: Sequence[Statistics]) -> Statistics:
    """The mean of each statistic over several nonlinearities; nothing where none was measured."""
    if not statistics:
        return {}
    return jax.tree.map(_mean, *statistics)


def _mean(*values: Any) -> Any:
    return sum(values) / len(values)
