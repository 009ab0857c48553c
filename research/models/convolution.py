"""Two-dimensional convolution that stays fast inside a compiled training loop.

Every step of training is inside a ``while``, where XLA's CPU backend is fast for convolutions of
one form alone, that of a forward pass with stride 1; the gradients that it makes of them take 15 to
40 times as long there. So on CPU both gradients are written in that form, and strides as products
of patches; elsewhere XLA's own are the right ones.
"""

import itertools
from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float


def convolve(
    x: Float[Array, "B H W C"],
    kernel: Float[Array, "k k C F"],
    *,
    stride: int = 1,
    circular: bool = False,
) -> Float[Array, "B H_ W_ F"]:
    """y[b,h,w,f] = Σ_ijc x[b, sh+i-p, sw+j-p, c] · kernel[i,j,c,f] with s = ``stride``, p =
    (k-1)/2.

    Beyond its sides the image is zero or, where ``circular``, itself again. H_ = ⌈H/s⌉ and W_ =
    ⌈W/s⌉: both sides are padded alike, as in PyTorch, and not as in TensorFlow's "SAME". Products
    are summed in float32 or wider and rounded once. Reverse mode only; the backward pass keeps x
    and the kernel and no patches.

    Raises:
        ValueError: The kernel's sides are even or differ, or the formats of x and kernel do.
    """
    if kernel.shape[0] != kernel.shape[1] or kernel.shape[0] % 2 == 0:
        raise ValueError(
            f"kernel must be square with odd sides, got {kernel.shape[0]}×{kernel.shape[1]}"
        )
    if x.dtype != kernel.dtype:
        raise ValueError(f"x and kernel must have one format, got {x.dtype} and {kernel.dtype}")
    return _convolve(x, kernel, stride, circular)


@partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _convolve(
    x: Array,
    kernel: Array,
    stride: int,
    circular: bool,
) -> Array:
    form = {"stride": stride, "circular": circular}
    return _on_platform(partial(_on_cpu, **form), partial(_as_convolution, **form), x, kernel)


def _forward(
    x: Array,
    kernel: Array,
    stride: int,
    circular: bool,
) -> tuple[Array, tuple[Array, Array]]:
    return _convolve(x, kernel, stride, circular), (x, kernel)


def _backward(
    stride: int,
    circular: bool,
    kept: tuple[Array, Array],
    grad: Array,
) -> tuple[Array, Array]:
    def pull(
        x: Array,
        kernel: Array,
        grad: Array,
    ) -> tuple[Array, Array]:
        return jax.vjp(partial(_as_convolution, stride=stride, circular=circular), x, kernel)[1](
            grad
        )

    return _on_platform(
        partial(_gradients_on_cpu, stride=stride, circular=circular), pull, *kept, grad
    )


_convolve.defvjp(_forward, _backward)


def _on_platform(
    cpu: Callable,
    default: Callable,
    *operands: Array,
):
    """The one place that chooses; automatic differentiation never sees the choice."""
    return lax.platform_dependent(*operands, cpu=cpu, default=default)


def _as_convolution(
    x: Array,
    kernel: Array,
    *,
    stride: int,
    circular: bool,
) -> Array:
    """Accelerators sum products of 16-bit formats in float32 unasked.

    Asked by ``preferred_element_type``, JAX would convert both operands of each gradient to
    float32, off the fast path.
    """
    x, sides = _sides(x, kernel.shape[0] // 2, circular)
    return _plain(x, kernel, stride, sides)


def _plain(
    x: Array,
    kernel: Array,
    stride: int,
    sides: list[tuple[int, int]],
) -> Array:
    axes = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (stride, stride), sides, dimension_numbers=axes)


def _on_cpu(
    x: Array,
    kernel: Array,
    *,
    stride: int,
    circular: bool,
) -> Array:
    form = (
        partial(_as_convolution, stride=1) if stride == 1 else partial(_from_patches, stride=stride)
    )
    return form(_wide(x), _wide(kernel), circular=circular).astype(x.dtype)


def _gradients_on_cpu(
    x: Array,
    kernel: Array,
    grad: Array,
    *,
    stride: int,
    circular: bool,
) -> tuple[Array, Array]:
    """Patches are gathered a second time: they are k² times the image, and cost less than their
    memory.
    """
    wide = _wide(x), _wide(kernel), _wide(grad)
    if stride == 1:
        grads = _gradients_in_forward_form(*wide, circular=circular)
    else:
        grads = jax.vjp(partial(_from_patches, stride=stride, circular=circular), *wide[:2])[1](
            wide[2]
        )
    return grads[0].astype(x.dtype), grads[1].astype(kernel.dtype)


def _gradients_in_forward_form(
    x: Array,
    kernel: Array,
    grad: Array,
    *,
    circular: bool,
) -> tuple[Array, Array]:
    """∂L/∂x is ∂L/∂y convolved with the kernel turned round; ∂L/∂kernel is x convolved with ∂L/∂y
    over B.
    """
    turned = kernel[::-1, ::-1].swapaxes(2, 3)
    of_x = _as_convolution(grad, turned, stride=1, circular=circular)
    x, sides = _sides(x, kernel.shape[0] // 2, circular)
    of_kernel = _plain(x.transpose(3, 1, 2, 0), grad.transpose(1, 2, 0, 3), 1, sides)
    return of_x, of_kernel.transpose(1, 2, 0, 3)


def _from_patches(
    x: Array,
    kernel: Array,
    *,
    stride: int,
    circular: bool,
) -> Array:
    size = kernel.shape[0]
    (_, height, width, _) = x.shape
    padded = _padded(x, size // 2, circular)
    taps = itertools.product(range(size), repeat=2)
    patches = [padded[:, i : i + height : stride, j : j + width : stride] for i, j in taps]
    return _product(jnp.concatenate(patches, -1), kernel.reshape(-1, kernel.shape[-1]))


def _wide(x: Array) -> Array:
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def _sides(
    x: Array,
    pad: int,
    circular: bool,
) -> tuple[Array, list[tuple[int, int]]]:
    """The image and what the convolution still has to pad it with."""
    return (_padded(x, pad, True), [(0, 0)] * 2) if circular else (x, [(pad, pad)] * 2)


def _padded(
    x: Array,
    pad: int,
    circular: bool,
) -> Array:
    widths = ((0, 0), (pad, pad), (pad, pad), (0, 0))
    return jnp.pad(x, widths, mode="wrap" if circular else "constant")


def _product(x: Array, matrix: Array) -> Array:
    """Over the last axis, as a product of two matrices: XLA's CPU products are fast in no other
    form.
    """
    return (x.reshape(-1, x.shape[-1]) @ matrix).reshape(*x.shape[:-1], -1)
