"""The convolution with weights."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from research.config.options import Init
from research.models.convolution import convolve
from research.models.init import bias_initializer, weight_initializer


class Conv(nnx.Module):
    """A k×k convolution over images, each side padded by (k−1)/2, with zeros or with the other
    side's pixels.

    Fans count the kernel's pixels: a unit has k²·C inputs (He et al. 2015, §2.2).
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        *,
        size: int = 3,
        stride: int = 1,
        padding: str = "zero",
        init: Init,
        bias: bool,
        factor: float | Array = 1.0,
        dtype: jnp.dtype,
        param_dtype: jnp.dtype,
        rngs: nnx.Rngs,
    ):
        self.stride = stride
        self.circular = padding == "circular"
        self.dtype = dtype
        shape = (size, size, inputs, outputs)
        self.kernel = nnx.Param(weight_initializer(init, factor)(rngs.params(), shape, param_dtype))
        self.bias = (
            nnx.Param(bias_initializer(init)(rngs.params(), (outputs,), param_dtype))
            if bias
            else None
        )

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H_ W_ F"]:
        """Convolves the images, whose sides the stride divides, rounded up."""
        x = x.astype(self.dtype)
        kernel = self.kernel[...].astype(self.dtype)
        out = convolve(x, kernel, stride=self.stride, circular=self.circular)
        return (
            out
            if self.bias is None
            else out + self.bias[...].astype(self.dtype).reshape(1, 1, 1, -1)
        )
