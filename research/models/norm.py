"""Normalisations by name; statistics are taken in float32 or wider."""

import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float


def make_norm(kind: str, width: int, *, dtype: jnp.dtype, param_dtype: jnp.dtype, rngs: nnx.Rngs) -> nnx.Module | None:
    """The normalisation over the last axis (``layer``) or over all others (``batch``); None for ``none``.

    References:
        Ba, Kiros, Hinton, Layer Normalization, 2016. Ioffe & Szegedy, Batch Normalization, 2015.
    """
    formats = {"dtype": dtype, "param_dtype": param_dtype, "use_fast_variance": False, "rngs": rngs}
    match kind:
        case "none":
            return None
        case "layer":
            return nnx.LayerNorm(width, **formats)
        case "batch":
            return nnx.BatchNorm(width, momentum=0.9, **formats)
    raise ValueError(f"norm must be none, layer or batch, got {kind}")


def apply_norm(norm: nnx.Module | None, h: Float[Array, "B D"], *, train: bool) -> Float[Array, "B D"]:
    """Normalises ``h``; batch norm uses the batch's statistics in training and its running ones otherwise."""
    if norm is None:
        return h
    return norm(h, use_running_average=not train) if isinstance(norm, nnx.BatchNorm) else norm(h)
