"""Nonlinearities by name."""

from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Bool, Float

from research.config.options import ActivationKind, Level
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
NAMES = tuple(kind.name for kind in ActivationKind)  # their numbers in a family
FUNCTIONS = [ACTIVATIONS[name] for name in NAMES]


def nonlinearity_of(arch: Architecture, hp: HParams) -> "Nonlinearity | SwitchedNonlinearity":
    """The nonlinearity of a network, elementwise."""
    if hp.variant is not None:
        return SwitchedNonlinearity(hp.variant.activation)
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
        ones = jnp.ones_like(z)
        _, slope = jax.jvp(self.function, (z,), (ones,))
        return slope

    def greatest_slope(self) -> float:
        """The greatest |φ'(z)| on a fine grid: the unit in which saturation is measured."""
        with jax.ensure_compile_time_eval():
            grid = jnp.linspace(-6, 6, 2401)
            slopes = np.abs(self.slope(grid))
            return float(np.max(slopes))


class SwitchedNonlinearity:
    """A nonlinearity φ, elementwise, by its number in ``NAMES``, an argument of the program."""

    def __init__(self, number: Array):
        self.number = number

    def __call__(self, z: Float[Array, "..."]) -> Float[Array, "..."]:
        """φ(z)."""
        return _switch(self.number, z)

    def slope(self, z: Float[Array, "..."]) -> Float[Array, "..."]:
        """The derivative φ'(z)."""
        return lax.switch(self.number, [Nonlinearity(name).slope for name in NAMES], z)

    def greatest_slope(self) -> Float[Array, ""]:
        """The greatest |φ'(z)| on a fine grid, as ``Nonlinearity`` computes it."""
        slopes = [Nonlinearity(name).greatest_slope() for name in NAMES]
        return jnp.asarray(slopes)[self.number]


@jax.custom_vjp
def _switch(number: Array, z: Array) -> Array:
    """φ(z). The backward pass stores z alone, and no other intermediate result of any branch."""
    return lax.switch(number, FUNCTIONS, z)


def _switch_forward(number: Array, z: Array) -> tuple[Array, tuple[Array, Array]]:
    return _switch(number, z), (number, z)


def _switch_backward(saved: tuple[Array, Array], cotangent: Array) -> tuple[None, Array]:
    number, z = saved
    return None, lax.switch(number, PULLBACKS, z, cotangent)


_switch.defvjp(_switch_forward, _switch_backward)


def _pullback_of(function: Callable[[Array], Array]) -> Callable[[Array, Array], Array]:
    def pull_back(z: Array, cotangent: Array) -> Array:
        _, pullback = jax.vjp(function, z)
        (gradient,) = pullback(cotangent)
        return gradient

    return pull_back


PULLBACKS = [_pullback_of(function) for function in FUNCTIONS]


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
    return jax.tree.map(lambda *each: sum(each) / len(each), *statistics)
