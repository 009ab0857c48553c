"""The fully connected branch."""

from collections.abc import Mapping

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from research.models.activation import ACTIVATIONS, unit_statistics
from research.models.init import bias_initializer, weight_initializer


def make_linear(
    inputs: int, outputs: int, *, init: str, bias: bool, hp: Mapping[str, Array], **formats: object
) -> nnx.Linear:
    """A linear map whose weights and bias begin as the scheme ``init`` and the numbers ``hp`` say."""
    return nnx.Linear(
        inputs,
        outputs,
        use_bias=bias,
        kernel_init=weight_initializer(init, hp),
        bias_init=bias_initializer(hp),
        **formats,  # type: ignore[arg-type]
    )


class DenseBranch(nnx.Module):
    """F(z) = W φ(z) + b: nonlinearity first, so that a chain of branches runs from pre-activation to pre-activation.

    This is the order that mean-field theory is written in, and that of pre-activation residual networks.
    """

    def __init__(
        self,
        width: int,
        activation: str,
        *,
        init: str,
        bias: bool,
        hp: Mapping[str, Array],
        dtype: jnp.dtype,
        param_dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        self.activation = activation
        self.linear = make_linear(
            width, width, init=init, bias=bias, hp=hp, dtype=dtype, param_dtype=param_dtype, rngs=rngs
        )

    def __call__(
        self, z: Float[Array, "B D"], *, units: bool
    ) -> tuple[Float[Array, "B D"], dict[str, Float[Array, ""]]]:
        """The branch's output and, where ``units`` asks for them, the statistics of its nonlinearity."""
        statistics = unit_statistics(self.activation, z) if units else {}
        return self.linear(ACTIVATIONS[self.activation](z)), statistics
