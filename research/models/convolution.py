"""Two-dimensional convolution that is fast inside a compiled training loop.

Every training step runs inside a ``while`` loop. There, XLA's CPU backend has fast code for one
form of convolution only, that of a forward pass with stride 1. The gradients that JAX derives have
other forms and take 15 to 40 times as long. On CPU, this module therefore computes both gradients
as convolutions of the fast form, and convolutions with a stride as matrix products of patches. On
accelerators it uses XLA's convolutions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


@dataclass(frozen=True)
class Window:
    """How the kernel moves over the image.

    Attributes:
        stride: pixels between two outputs.
        circular: whether the image repeats beyond its sides; otherwise it is zero there.
    """

    stride: int
    circular: bool


def convolve(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "k k C F"],
    *,
    stride: int = 1,
    circular: bool = False,
) -> Float[Array, "B H_ W_ F"]:
    """Convolves images with a square kernel.

    y[b,h,w,f] = Σ_ijc x[b, s·h+i−p, s·w+j−p, c] · kernel[i,j,c,f] with s = ``stride``, p = (k−1)/2,
    H_ = ⌈H/s⌉ and W_ = ⌈W/s⌉. Both sides have the same padding, as in PyTorch and unlike "SAME" in
    TensorFlow.

    Products are summed in float32 or wider and rounded once. Reverse-mode differentiation is
    supported, and forward-mode differentiation of the gradient; the backward pass keeps ``x`` and
    ``kernel``, and no patches.

    Args:
        x: the images.
        kernel: the weights; k is odd.
        stride: pixels between two outputs.
        circular: whether an image repeats beyond its sides; otherwise it is zero there.

    Raises:
        ValueError: The kernel's sides are even or differ, or x and kernel differ in format.
    """
    height, width, _, _ = kernel.shape
    if height != width or height % 2 == 0:
        raise ValueError(f"kernel must be square with odd sides, got {height}×{width}")
    if x.dtype != kernel.dtype:
        raise ValueError(f"x and kernel must have one format, got {x.dtype} and {kernel.dtype}")
    return _convolve(x, kernel, Window(stride, circular))


def _compute(
    x: Array,
    kernel: Array,
    window: Window,
) -> Array:
    on_cpu = partial(_convolve_on_cpu, window=window)
    elsewhere = partial(xla_convolve, window=window)
    return _by_platform(on_cpu, elsewhere, x, kernel)


_convolve = jax.custom_vjp(_compute, nondiff_argnums=(2,))


def _forward(
    x: Array,
    kernel: Array,
    window: Window,
) -> tuple[Array, tuple[Array, Array]]:
    # Not _convolve, so that the derivative of a gradient can be taken in forward mode.
    return _compute(x, kernel, window), (x, kernel)


def _backward(
    window: Window,
    residuals: tuple[Array, Array],
    grad: Array,
) -> tuple[Array, Array]:
    x, kernel = residuals
    on_cpu = partial(_gradients_on_cpu, window=window)
    elsewhere = partial(_derived_gradients, xla_convolve, window=window)
    return _by_platform(on_cpu, elsewhere, x, kernel, grad)


_convolve.defvjp(_forward, _backward)


def _by_platform(
    on_cpu: Callable,
    elsewhere: Callable,
    *operands: Array,
) -> Any:
    """Calls the function for the platform that the program is compiled for.

    It is called outside reverse-mode differentiation only: JAX would differentiate both functions.
    """
    return lax.platform_dependent(*operands, cpu=on_cpu, default=elsewhere)


def xla_convolve(
    x: Array,
    kernel: Array,
    window: Window,
) -> Array:
    """The convolution by XLA, which sums 16-bit products in float32 on accelerators.

    ``preferred_element_type`` is not set: with it, JAX converts the operands of both gradients to
    float32, which is slower.

    Args:
        x: the images [B, H, W, C].
        kernel: the weights [k, k, C, F].
        window: how the kernel moves.
    """
    pad = kernel.shape[0] // 2
    if window.circular:
        x = _pad(x, pad, circular=True)
        pad = 0
    return _conv_general(x, kernel, window.stride, pad)


def _conv_general(
    x: Array,
    kernel: Array,
    stride: int,
    pad: int,
) -> Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        window_strides=(stride, stride),
        padding=[(pad, pad), (pad, pad)],
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def _derived_gradients(
    function: Callable,
    x: Array,
    kernel: Array,
    grad: Array,
    window: Window,
) -> tuple[Array, Array]:
    """The gradients of a convolution as JAX derives them."""
    _, pull_back = jax.vjp(partial(function, window=window), x, kernel)
    return pull_back(grad)


def _convolve_on_cpu(
    x: Array,
    kernel: Array,
    window: Window,
) -> Array:
    function = xla_convolve if window.stride == 1 else _convolve_patches
    return function(_widen(x), _widen(kernel), window).astype(x.dtype)


def _gradients_on_cpu(
    x: Array,
    kernel: Array,
    grad: Array,
    window: Window,
) -> tuple[Array, Array]:
    wide = (_widen(x), _widen(kernel), _widen(grad))
    if window.stride == 1:
        x_grad, kernel_grad = _gradients_in_forward_form(*wide, circular=window.circular)
    else:
        # Gathers the patches again: they need k² times the memory of the image.
        x_grad, kernel_grad = _derived_gradients(_convolve_patches, *wide, window=window)
    return x_grad.astype(x.dtype), kernel_grad.astype(kernel.dtype)


def _gradients_in_forward_form(
    x: Array,
    kernel: Array,
    grad: Array,
    *,
    circular: bool,
) -> tuple[Array, Array]:
    """Both gradients of a convolution with stride 1, as convolutions with stride 1.

    ∂L/∂x is ∂L/∂y convolved with the kernel rotated by 180°. ∂L/∂kernel is x convolved with ∂L/∂y,
    where the batch stands for the channels.
    """
    rotated = kernel[::-1, ::-1].swapaxes(2, 3)
    x_grad = xla_convolve(grad, rotated, Window(1, circular))
    pad = kernel.shape[0] // 2
    if circular:
        x = _pad(x, pad, circular=True)
        pad = 0
    batch_last = x.transpose(3, 1, 2, 0)
    grad_as_kernel = grad.transpose(1, 2, 0, 3)
    kernel_grad = _conv_general(batch_last, grad_as_kernel, 1, pad)
    return x_grad, kernel_grad.transpose(1, 2, 0, 3)


def _convolve_patches(
    x: Array,
    kernel: Array,
    window: Window,
) -> Array:
    """The convolution as a matrix product of patches [B, H_, W_, k²·C]."""
    size = kernel.shape[0]
    stride = window.stride
    _, height, width, _ = x.shape
    padded = _pad(x, size // 2, circular=window.circular)
    pixels = []
    for row in range(size):
        for column in range(size):
            rows = slice(row, row + height, stride)
            columns = slice(column, column + width, stride)
            pixels.append(padded[:, rows, columns])
    patches = jnp.concatenate(pixels, -1)
    matrix = kernel.reshape(-1, kernel.shape[-1])
    # XLA's CPU products are fast for two matrices only.
    flat_patches = patches.reshape(-1, patches.shape[-1])
    return (flat_patches @ matrix).reshape(*patches.shape[:-1], -1)


def _widen(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _pad(
    x: Array,
    pad: int,
    *,
    circular: bool,
) -> Array:
    """The image with ``pad`` more pixels on each side."""
    none = (0, 0)
    both_sides = (pad, pad)
    widths = (none, both_sides, both_sides, none)  # of examples, height, width and channels
    mode = "wrap" if circular else "constant"
    return jnp.pad(x, widths, mode=mode)
