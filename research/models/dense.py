"""The fully connected map."""

from typing import Any

from flax import nnx
from jaxtyping import Array

from research.config.options import Init
from research.models.init import make_bias_initializer, make_weight_initializer


def make_linear(
    inputs: int,
    outputs: int,
    *,
    init: Init,
    bias: bool,
    factor: float | Array = 1.0,
    **formats: Any,
) -> nnx.Linear:
    """A linear map of the last axis.

    Args:
        inputs: units of its input.
        outputs: units of its output.
        init: how its weights and biases are initialised, with arrays for traced numbers.
        bias: whether it has biases.
        factor: a further scale factor on the initial weights.
        **formats: ``dtype``, ``param_dtype`` and ``rngs`` of ``nnx.Linear``.
    """
    return nnx.Linear(
        inputs,
        outputs,
        use_bias=bias,
        kernel_init=make_weight_initializer(init, factor),
        bias_init=make_bias_initializer(init),
        **formats,
    )
