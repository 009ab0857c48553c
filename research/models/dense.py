"""The fully connected map."""

from collections.abc import Mapping

from flax import nnx
from jaxtyping import Array

from research.models.init import bias_initializer, weight_initializer


def make_linear(
    inputs: int,
    outputs: int,
    *,
    init: str,
    bias: bool,
    hp: Mapping[str, Array],
    factor: float | Array = 1.0,
    **how,
) -> nnx.Linear:
    """A linear map of the last axis; weights and biases begin as the scheme ``init`` and the numbers ``hp`` say.

    The weights are drawn times ``factor``. ``how`` holds the number formats and the random keys.
    """
    return nnx.Linear(
        inputs,
        outputs,
        use_bias=bias,
        kernel_init=weight_initializer(init, hp, factor),
        bias_init=bias_initializer(hp),
        **how,
    )
