"""The convolutional layer."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float

from research.config.options import Init
from research.models.convolution import convolve
from research.models.init import make_bias_initializer, make_weight_initializer
from research.models.units import align_units, read


class Conv(nnx.Module):
    """A k×k convolution of images, padded by (k−1)/2 pixels on each side.

    The padding is zero, or the pixels of the opposite side. Fans count the kernel's pixels: a unit
    has k²·C inputs (He et al. 2015, §2.2).

    Args:
        inputs: channels of the input.
        outputs: channels of the output.
        size: k, an odd number.
        stride: pixels between two outputs.
        padding: ``zero`` or ``circular``.
        init: how weights and biases are initialised, with arrays for traced numbers.
        bias: whether there are biases.
        factor: a further scale factor on the initial weights.
        dtype: number format of the arithmetic.
        param_dtype: number format of the parameters.
        rngs: random keys.
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
        self.is_circular = padding == "circular"
        self.dtype = dtype
        draw_kernel = make_weight_initializer(init, factor)
        shape = (size, size, inputs, outputs)
        kernel = draw_kernel(rngs.params(), shape, param_dtype)
        self.kernel = nnx.Param(kernel)
        initial_bias = None
        if bias:
            draw_bias = make_bias_initializer(init)
            initial_bias = nnx.Param(draw_bias(rngs.params(), (outputs,), param_dtype))
        self.bias = initial_bias

    def __call__(self, x: Float[Array, "B H W C"]) -> Float[Array, "B H_ W_ F"]:
        """Convolves images; H_ = ⌈H/stride⌉ and W_ = ⌈W/stride⌉."""
        x = x.astype(self.dtype)
        kernel = read(self.kernel, self.dtype)
        out = convolve(x, kernel, stride=self.stride, circular=self.is_circular)
        if self.bias is None:
            return out
        return out + align_units(read(self.bias, self.dtype), out)
